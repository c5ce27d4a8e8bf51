"""Correlations of the critical Ising model on the infinite square lattice.

B. McCoy and T. T. Wu, The Two-Dimensional Ising Model (1973), chapter XI, for the diagonal;
J. H. H. Perk, Phys. Lett. A 79, 3 (1980), for the quadratic identity that gives all others.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skild_phys.models.exact.critical import AMPLITUDE

Array = NDArray[np.float64]

EXACT_UP_TO = 8
"""Larger distance along an axis up to which `critical_correlation` is exact: to 4e-12."""


def diagonal_correlation(n: ArrayLike) -> Array:
    """Return <s_00 s_nn> at Tc on the infinite lattice, for whole numbers n >= 0.

    (2 / pi)^n prod_{l=1}^{n-1} (1 - 1 / (4 l^2))^(l - n): McCoy and Wu, chapter XI.
    """
    n = np.asarray(n, dtype=np.int64)
    factors = np.arange(1, max(int(n.max(initial=0)), 1))
    logs = np.log1p(-0.25 / factors**2)
    zero = np.concatenate([[0.0, 0.0], np.cumsum(logs)])
    first = np.concatenate([[0.0, 0.0], np.cumsum(factors * logs)])
    result: Array = np.exp(n * (math.log(2.0 / math.pi) - zero[n]) + first[n])
    return result


@functools.cache
def _near() -> Array:
    """Return <s_00 s_xy> for x, y = 0 .. EXACT_UP_TO, by Perk's identity from the diagonal out.

    2 C(x, y)^2 = C(x, y-1) C(x, y+1) + C(x-1, y) C(x+1, y) at Tc, everywhere but at the origin.
    Each step loses digits: ten steps out eleven of them are left of sixteen.
    """
    last = EXACT_UP_TO
    c = np.zeros((last + 1, last + 1))
    np.fill_diagonal(c, diagonal_correlation(np.arange(last + 1)))
    c[1, 0] = c[0, 1] = math.sqrt(0.5)
    for n in range(1, last):
        c[n + 1, n] = c[n, n + 1] = c[n, n] ** 2 / c[n, n - 1]
    for away in range(2, last + 1):
        for y in range(last + 1 - away):
            x = y + away - 1
            beside = c[x, abs(y - 1)] * c[x, y + 1]
            c[x + 1, y] = c[y, x + 1] = (2.0 * c[x, y] ** 2 - beside) / c[x - 1, y]
    c.flags.writeable = False
    return c


def critical_correlation(x: ArrayLike, y: ArrayLike) -> Array:
    """Return <s_00 s_xy> at Tc on the infinite lattice.

    Exact up to `EXACT_UP_TO` along either axis; beyond, the asymptotic A r^(-1/4), which is
    within 3e-4 of it there.

    Parameters
    ----------
    x, y : distance in sites, whole numbers that broadcast.

    Examples
    --------
    >>> float(np.round(critical_correlation(1, 1), 6))  # 2 / pi
    0.63662
    """
    x, y = np.broadcast_arrays(np.abs(np.asarray(x)), np.abs(np.asarray(y)))
    r = np.hypot(x, y)
    with np.errstate(divide="ignore"):
        far = AMPLITUDE * r**-0.25
    near = np.maximum(x, y) <= EXACT_UP_TO
    place = (np.where(near, x, 0).astype(int), np.where(near, y, 0).astype(int))
    result: Array = np.where(near, _near()[place], far)
    return result
