"""What is known of X_0 at one step of the reverse process, and draws from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.skild.process import Process
from skild_phys.skild.samplers import Noise

Correct = Callable[[Tensor, NDArray[np.float64]], Tensor]
"""(fields, Sigma of their modes) -> fields moved onto A x = y, by Sigma."""
Draw = Callable[[NDArray[np.float32], int], NDArray[np.int8]]
"""(logits of one lattice, its place in the batch) -> spins."""


class FieldPosterior:
    """A Gaussian about the denoiser's mean with the variance still open, under A x0 = y.

    Var[Y_0 | X_t] = 1 - abar, exact for a Gaussian field with spectrum P. Drawing and then
    correcting by Sigma = (1 - abar) P is drawing from the Gaussian conditioned on A x0 = y
    (Matheron's rule).
    """

    def __init__(
        self, process: Process, y0: Tensor, lam: float, noise: Noise, correct: Correct | None
    ) -> None:
        self.process, self.y0, self.noise, self.correct = process, y0, noise, correct
        self.spread = process.sine(lam)

    def _corrected(self, y0: Tensor) -> Tensor:
        if self.correct is None:
            return y0
        sigma = (self.spread.double() ** 2 * self.process.power).cpu().numpy()
        return self.process.modes(self.correct(self.process.fields(y0), sigma))

    def mean(self) -> Tensor:
        return self._corrected(self.y0)

    def draw(self) -> Tensor:
        return self._corrected(self.y0 + self.spread * self.noise())


class SpinPosterior:
    """Independent spins with the logits of the denoiser, conditioned on the coarse lattice.

    Parameters
    ----------
    logits : (n, Ly, Lx).
    draw : draws one lattice from its logits under the constraint.
    means : logits to means under the constraint.
    """

    def __init__(
        self,
        process: Process,
        logits: Tensor,
        draw: Draw,
        means: Callable[[Tensor], Tensor],
    ) -> None:
        self.process, self.logits, self._draw, self._means = process, logits, draw, means

    def mean(self) -> Tensor:
        return self.process.modes(self._means(self.logits))

    def spins(self) -> NDArray[np.int8]:
        """Return spins (n, Ly, Lx) drawn under the constraint."""
        return np.stack([self._draw(one, i) for i, one in enumerate(self.logits.cpu().numpy())])

    def draw(self) -> Tensor:
        spins = torch.from_numpy(self.spins().astype(np.float32))
        return self.process.modes(spins.to(self.logits.device))
