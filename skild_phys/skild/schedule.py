"""Where lambda goes: sqrt(lambda) is the length, in sites, below which detail has been erased."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput

LAMBDA_END = 0.03
"""Where the last network call is: all but a few spins in 100,000 can be read off there."""


def geometric_steps(start: float, end: float, steps: int) -> NDArray[np.float64]:
    """Return `steps` values of lambda from `start` down to `end`, equal in log lambda.

    abar depends on kappa^2 lambda alone, so every mode crosses its transition at the same pace.
    """
    if steps < 1:
        raise BadInput("--steps", steps, "a whole number of at least 1")
    return np.geomspace(start, end, steps)


def starting_lambda(factor: float, scale: float = 1.0) -> float:
    """Return the lambda at which a chain that refines by `factor` starts.

    The coarse lattice's Nyquist mode, kappa = pi / factor, has abar = exp(-pi^2 scale / 4)
    there: past its transition, so that the start need not know anything finer.
    """
    return scale * factor**2 / 4.0
