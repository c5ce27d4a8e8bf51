"""What every sampler is: one step of the reverse process, from lambda to a smaller one.

Steps work on whitened modes Y = X / sqrt(P), where every mode is a variance-preserving diffusion
with an angle of its own, theta = arccos sqrt(abar): Y_theta = cos(theta) Y_0 + sin(theta) eps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from skild_phys.skild.process import Process

Noise = Callable[[], Tensor]
"""Draws modes of standard normal white noise, (n, *modes)."""


class Posterior(Protocol):
    """What a denoiser says of X_0 given X_t, whitened modes, under whatever is known of X_0."""

    def mean(self) -> Tensor:
        """Return E[Y_0 | X_t]."""

    def draw(self) -> Tensor:
        """Return Y_0 drawn given X_t."""


class Step(Protocol):
    """One step; an instance serves one chain, whose calls are in order of falling lambda."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        """Return Y at lambda = `to` from `y` at `lam` > `to` >= 0."""
