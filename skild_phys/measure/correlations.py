"""Correlations in real space: the four-point function on squares, G(r), 3x3 patterns.

Every function returns averages over all translations of each lattice separately. Means of
these over lattices are all that the estimators need, so that a jackknife over lattices works
on them. Lattices are periodic; distances are in lattice constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from skild_phys.errors import BadInput

FOUR_POINT_TERMS = ("s1s2s3s4", "s1s2", "s1s4", "s1s3", "s2s4")
"""Last axis of `four_point_terms`; corners in the order (y, x), (y, x+r), (y+r, x+r), (y+r, x)."""

N_PATTERNS = 512


def square_sides(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the sides r = 1, 2, 4 .. of the squares, up to half the shorter edge of `shape`."""
    half = min(shape) // 2
    return np.array([2**i for i in range(half.bit_length())], dtype=np.int64)


def four_point_terms(field: NDArray[Any], sides: Sequence[int]) -> NDArray[np.float64]:
    """Return what the connected four-point function is made of, averaged over each lattice.

    The corners of an r x r square are s1 = (y, x), s2 = (y, x+r), s3 = (y+r, x+r),
    s4 = (y+r, x). On a torus s3 s4 and s2 s3 are s1 s2 and s1 s4 moved by r, so their averages
    over translations are the same numbers and five terms are enough.

    Parameters
    ----------
    field : (n, Ly, Lx) array; int8 is taken as spins +-1 and summed exactly, all else as float64.
    sides : the sides r, in lattice constants, 1 <= r < min(Ly, Lx).

    Returns
    -------
    (n, len(sides), 5) float64, the last axis as in `FOUR_POINT_TERMS`, dimensionless.

    Raises
    ------
    BadInput : a side that does not fit on the lattice.
    """
    s = _lattices(field)
    total = np.int64 if s.dtype == np.int8 else np.float64
    terms = np.empty((len(s), len(sides), len(FOUR_POINT_TERMS)))
    for i, r in enumerate(sides):
        if not 1 <= r < min(s.shape[1:]):
            raise BadInput("sides", int(r), f"1 to {min(s.shape[1:]) - 1}")
        s2 = np.roll(s, -r, axis=2)
        s4 = np.roll(s, -r, axis=1)
        s3 = np.roll(s2, -r, axis=1)
        along = s * s2
        products = (along * (s3 * s4), along, s * s4, s * s3, s2 * s4)
        for j, product in enumerate(products):
            terms[:, i, j] = product.sum(axis=(1, 2), dtype=total)
    return np.asarray(terms / (s.shape[1] * s.shape[2]))


def connected_four_point(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return G4c(r) from terms averaged over an ensemble, (..., sides, 5) -> (..., sides).

    G4c = <s1 s2 s3 s4> - <s1 s2><s3 s4> - <s1 s3><s2 s4> - <s1 s4><s2 s3>, the observable of
    arXiv 2605.26032, with `four_point_terms` for the terms.
    """
    four, along_x, along_y, diagonal, antidiagonal = np.moveaxis(terms, -1, 0)
    return np.asarray(four - along_x**2 - along_y**2 - diagonal * antidiagonal)


def two_point_map(power: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return G at every separation, (..., Ly, Lx), from a power spectrum in rfft2 layout.

    `power` is |F(k)|^2 / (Ly Lx) as `structure_factor.structure_factor` gives it, `width` is
    Lx. G(y, x) is the average over the lattice of s(0) s(y, x), not connected (Wiener-Khinchin).
    """
    height = power.shape[-2]
    return np.asarray(scipy.fft.irfft2(power, s=(height, width)))


def two_point(correlation: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return G(r) along the axes and along the diagonals, r = 0 .. min(Ly, Lx) // 2.

    Parameters
    ----------
    correlation : (..., Ly, Lx) float64, from `two_point_map`.

    Returns
    -------
    Two (..., R) arrays: the mean of (0, r) and (r, 0), and the mean of (r, r) and (r, -r);
    the distance on the diagonal is r sqrt 2.
    """
    r = np.arange(min(correlation.shape[-2:]) // 2 + 1)
    axis = (correlation[..., 0, r] + correlation[..., r, 0]) / 2
    diagonal = (correlation[..., r, r] + correlation[..., r, -r]) / 2
    return axis, diagonal


@njit(cache=True, nogil=True)
def _count_patterns(spins, counts):  # type: ignore[no-untyped-def]
    lattices, height, width = spins.shape
    columns = np.empty(width, dtype=np.int64)
    for n in range(lattices):
        for y in range(height):
            below = y + 1 if y + 1 < height else 0
            far = below + 1 if below + 1 < height else 0
            for x in range(width):
                columns[x] = (
                    ((spins[n, y, x] > 0) << 6)
                    | ((spins[n, below, x] > 0) << 3)
                    | (spins[n, far, x] > 0)
                )
            left, middle = columns[0] << 2, columns[1] << 1
            for x in range(width):
                right = columns[(x + 2) % width]
                counts[n, left | middle | right] += 1
                left, middle = middle << 1, right << 1


def pattern_counts(spins: NDArray[np.int8]) -> NDArray[np.int64]:
    """Count the 512 patterns of 3x3 windows (one at every site, periodic) on each lattice.

    Parameters
    ----------
    spins : (n, Ly, Lx) int8 array of +-1, both edges at least 3.

    Returns
    -------
    (n, 512) int64. The number of a pattern is the window read row by row as binary digits, the
    top left site first, +1 as one: 511 is all up. Each row sums to Ly Lx.

    Raises
    ------
    BadInput : an edge shorter than 3.
    """
    s = np.ascontiguousarray(_lattices(spins), dtype=np.int8)
    if min(s.shape[1:]) < 3:
        raise BadInput("lattice", "x".join(map(str, s.shape[1:])), "edges of 3 sites or more")
    counts = np.zeros((len(s), N_PATTERNS), dtype=np.int64)
    _count_patterns(s, counts)
    return counts


def fold_patterns(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frequencies of patterns up to a flip of all spins, (..., 512) -> (..., 256).

    Below 511 - p is the flip of pattern p. An ensemble of few lattices has by chance more of
    one sign; where up and down are equivalent that says nothing about the patterns.
    """
    half = N_PATTERNS // 2
    return np.asarray(frequencies[..., :half] + frequencies[..., : half - 1 : -1])


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1/2 sum |p - q| over the last axis: 0 for equal distributions, at most 1."""
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2)


def kl_divergence(
    p: NDArray[np.float64], q: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence sum p ln(p / q) over the last axis, in nats.

    `floor` (half a count over the number of windows, say) is added to every frequency of both,
    which are then normalised: a pattern that one side never shows costs a finite amount.
    """
    p = (p + floor) / (p + floor).sum(axis=-1, keepdims=True)
    q = (q + floor) / (q + floor).sum(axis=-1, keepdims=True)
    return np.asarray((p * np.log(p / q)).sum(axis=-1))


def _lattices(field: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(field)
    if array.ndim != 3:
        raise BadInput("field", str(array.shape), "an array (lattices, Ly, Lx)")
    return array if array.dtype == np.int8 else array.astype(np.float64, copy=False)
