"""Integrators of the probability flow, dY/d theta = v, each mode in its own angle.

v = E[cos(theta) eps - sin(theta) Y_0 | X_t] = (cos(theta) Y - E[Y_0 | X_t]) / sin(theta) is zero
for a Gaussian field with the process's spectrum: both orders are exact for it at any number of
steps. The step is straight in theta, Y - d v, not the rotation cos(d) Y - sin(d) v of DDIM, which
is exact where X_0 is known and shrinks a Gaussian field by cos(d) each step.
"""

from __future__ import annotations

from torch import Tensor

from skild_phys.skild.process import Process
from skild_phys.skild.samplers.step import Noise, Posterior

MOST = 4.0
"""Largest ratio of successive angles at which a slope is still extrapolated."""


class Angle1:
    """Euler's step: Y' = Y - d v with d = theta - theta'."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return y - process.angle_between(lam, to) * process.velocity(y, posterior.mean(), lam)


class Angle2:
    """Two-step Adams-Bashforth of variable step: Y' = Y - d (v + (v - v_before) d / (2 d_before)).

    The first step of a chain is Euler's. So is a mode's step where its angle moved by far less
    before: theta stays at pi / 2 until the mode's transition.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        d, v = process.angle_between(lam, to), process.velocity(y, posterior.mean(), lam)
        slope = v
        if self._before is not None:
            v_before, d_before = self._before
            ratio = d / d_before.clamp(min=1e-30)
            slope = v + (v - v_before) * (0.5 * ratio * (ratio < MOST))
        self._before = (v, d)
        return y - d * slope
