"""The paper's sampler: X_0 set to its mean, then the forward process's bridge."""

from __future__ import annotations

from torch import Tensor

from skild_phys.skild.process import Process
from skild_phys.skild.samplers.step import Noise, Posterior


class Ancestral:
    """DDPM's ancestral step, mode by mode (arXiv 2605.26032).

    Setting X_0 to its mean leaves out Var[X_0 | X_t]: a Gaussian field loses variance at any
    finite number of steps, and by more the fewer there are.
    """

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return process.bridge_modes(y, posterior.mean(), lam, to, noise)
