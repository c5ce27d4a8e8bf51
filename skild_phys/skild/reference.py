"""The units of arXiv 2605.26032 and its code, beside those used here.

There a field lies in a box of side 1: kappa_ref = pi u, u = 0, 1, ... counts half waves of the
DCT-II, and lambda_ref goes with it. Its transform is 2/L of the sum of cosines along each axis.
Here kappa is in radians per site, lambda in sites squared, and transforms are orthonormal. Modes
that are constant along an axis differ by another sqrt 2 per axis. Noise of variance S_0 in every
mode of the reference therefore has half its power there, a quarter in the zero mode.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def kappa_from_reference(kappa_ref: float, side: int) -> float:
    """Return kappa in radians per site of kappa_ref = pi u on lattices of `side`^2."""
    return kappa_ref / side


def lambda_from_reference(lambda_ref: float, side: int) -> float:
    """Return lambda in sites squared: kappa^2 lambda is the same in both units."""
    return lambda_ref * side**2


def eps_norms(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the orthonormal DCT modes of `shape` over side / 2 times those of the reference."""
    y, x = (np.where(np.arange(side) == 0, math.sqrt(0.5), 1.0) for side in shape)
    return np.asarray(y[:, None] * x)
