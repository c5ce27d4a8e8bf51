"""Frequencies of 3x3 spin patterns, and distances between two sets of them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.measurement.observables.base import Axis, Coordinate, mean, observable, statistic
from skild_phys.measurement.system import Array, Slice

_PATTERNS = 512


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


def _pattern_counts(spins: NDArray[np.int8]) -> NDArray[np.int64]:
    """Count the 512 patterns of 3x3 windows (one at every site, periodic), (n, y, x) -> (n, 512).

    The number of a pattern is the window read row by row as binary digits, the top left site
    first, +1 as one: 511 is all up. Each row sums to Ly Lx. Raises BadInput for an edge shorter
    than 3.
    """
    s = np.ascontiguousarray(spins, dtype=np.int8)
    if s.ndim != 3 or min(s.shape[1:]) < 3:
        raise BadInput("lattice", "x".join(map(str, s.shape[1:])), "2D, edges of 3 sites or more")
    counts = np.zeros((len(s), _PATTERNS), dtype=np.int64)
    _count_patterns(s, counts)
    return counts


def fold_patterns(frequencies: Array) -> Array:
    """Return the frequencies of patterns up to a flip of all spins, (..., 512) -> (..., 256).

    Below 511 - p is the flip of pattern p. An ensemble of few configurations has by chance more
    of one sign; where up and down are equivalent that is no property of the patterns.
    """
    half = _PATTERNS // 2
    return np.asarray(frequencies[..., :half] + frequencies[..., : half - 1 : -1])


def total_variation(p: Array, q: Array) -> Array:
    """Return 1/2 sum |p - q| over the last axis: 0 for equal distributions, at most 1."""
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2)


def kl_divergence(p: Array, q: Array, floor: float) -> Array:
    """Return the Kullback-Leibler divergence sum p ln(p / q) over the last axis, in nats.

    `floor`, such as half a count over the number of windows, is added to every frequency of both,
    which are then normalised: a pattern that one side never shows costs a finite amount.
    """
    p, q = ((x + floor) / (x + floor).sum(axis=-1, keepdims=True) for x in (p, q))
    return np.asarray((p * np.log(p / q)).sum(axis=-1))


@statistic("patterns", lambda s: s.field == "spins" and s.dimension == 2 and min(s.shape) >= 3)
def _patterns(part: Slice) -> Array:
    """Return the frequency of each pattern, (n, 512)."""
    return _pattern_counts(part.values) / float(part.system.sites)


OBSERVABLES = (
    observable(
        "pattern_frequency", "1", _patterns, about="frequency of 3x3 spin patterns",
        axis=Axis("pattern", (
            Coordinate(
                "pattern", lambda s: np.arange(_PATTERNS),
                "3x3 pattern read row by row as a binary number, up = 1", "1", "pattern",
            ),
        )),
    )(mean),
)  # fmt: skip
