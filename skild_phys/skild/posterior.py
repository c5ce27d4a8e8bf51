"""What is known of X_0 at one step of the reverse process, and draws from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.skild.constraint import Constraint, Settled
from skild_phys.skild.denoiser import SpinLogits
from skild_phys.skild.left_open import LeftOpen
from skild_phys.skild.mean_field import MeanField
from skild_phys.skild.process import Process
from skild_phys.skild.samplers import Noise
from skild_phys.skild.streams import Streams

Correct = Callable[[Tensor, NDArray[np.float64]], Tensor]
"""(fields, Sigma of their modes) -> fields moved onto A x = y, by Sigma."""

WAVES_ABOVE = 2.0
"""Lambda above which waves are drawn instead of spins, unless block sums say what the waves are."""
PARTS = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Places in a 2 x 2 cell, in the order in which the spins there are drawn."""


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
    """Spins with the logits of the denoiser, under a constraint: in four parts, or their waves.

    Spins that are drawn one by one from their own means know nothing of each other: on critical
    lattices at lambda = 1 the energy of such a draw is off by +0.10 a site. Here every second site
    of every second row is drawn so; the next quarter given those, and so on, by the couplings of
    the mean field, of which the strongest lie between the parts. Then it is off by -0.003(4), and
    by 0.02 instead of 0.08 where block sums are known.

    Far out spins answer to each other as a mean field does not: at lambda = 12 such a draw has
    0.6 of the power it should have at kappa = 0.3 .. 0.7 (one by one, 0.3). What the next step
    sees of X_0 there are its waves, and they are drawn (`LeftOpen`: within 0.06 of the power).
    Where block sums are known they say the same, and spins are drawn at every lambda.

    Parameters
    ----------
    found : what the denoiser says.
    constraint : of the lattices.
    mean_field, left_open : of the lattices.
    lam : lambda of X_t.
    streams : one a lattice.
    """

    def __init__(
        self,
        process: Process,
        found: SpinLogits,
        constraint: Constraint,
        mean_field: MeanField,
        left_open: LeftOpen,
        lam: float,
        noise: Noise,
        streams: Sequence[Streams],
    ) -> None:
        self.process, self.found, self.mean_field = process, found, mean_field
        self.left_open, self.noise = left_open, noise
        self.constraint, self.lam, self.streams = constraint, lam, streams

    def mean(self) -> Tensor:
        return self.process.modes(self.constraint.means(self.found.logits))

    def spins(self) -> NDArray[np.int8]:
        """Return spins (n, Ly, Lx) drawn under the constraint."""
        states = [stream.state for stream in self.streams]
        logits, bound = self.constraint.settled(self.found.logits, states)
        spins = self._drawn(logits, bound)
        device = logits.device
        y, x = (torch.arange(side, device=device) for side in logits.shape[-2:])
        start = np.array([stream.noise.integers(2, size=2) for stream in self.streams])
        dy, dx = torch.from_numpy(start).to(device).T[:, :, None, None]
        cell_y, cell_x = (y[:, None] + dy) % 2, (x + dx) % 2
        known = torch.zeros(logits.shape, dtype=torch.bool, device=device)
        for part_y, part_x in PARTS[:-1]:
            known = known | ((cell_y == part_y) & (cell_x == part_x))
            held = torch.from_numpy(spins.astype(np.float32)).to(device)
            evidence = self.found.evidence
            left = self.mean_field.given(evidence, logits, known, held, bound.means)
            spins = self._drawn(left, bound)
        return spins

    def _drawn(self, logits: Tensor, bound: Settled) -> NDArray[np.int8]:
        lattices = zip(logits.cpu().numpy(), self.streams, strict=True)
        return np.stack([bound.draw(one, i, to.state) for i, (one, to) in enumerate(lattices)])

    def draw(self) -> Tensor:
        if self.lam > WAVES_ABOVE and not self.constraint.holds_sums:
            means = self.constraint.means(self.found.logits)
            return self.process.modes(self.left_open.draw(means, self.noise()))
        spins = torch.from_numpy(self.spins().astype(np.float32))
        return self.process.modes(spins.to(self.found.logits.device))
