"""X_0 drawn from its law given X_t, then the forward process's bridge."""

from __future__ import annotations

from torch import Tensor

from skild_phys.skild.process import Process
from skild_phys.skild.samplers.step import Noise, Posterior


class Stochastic:
    """The ancestral step with the noise that accounts for Var[X_0 | X_t].

    Exact at any number of steps where `Posterior.draw` is: for Gaussian fields, and for spins that
    are independent given X_t.
    """

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return process.bridge_modes(y, posterior.draw(), lam, to, noise)
