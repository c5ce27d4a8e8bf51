"""A lattice folded onto one octant by its reflections, and its shells of equal distance.

What is measured of a lattice is the same at (y, x), (-y, x), (y, -x) and (-y, -x) in the mean,
for wave vectors as for separations. So powers and correlations are kept for 0 <= y <= Ly / 2,
0 <= x <= Lx / 2 only, each the mean over its mirror images: a quarter of the numbers in 2D, an
eighth in 3D.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.measurement.system import Array, Shape

_ROUNDING = 1e-9  # so that what lies on an edge goes up, however its distance was rounded


def folded_shape(shape: Shape) -> Shape:
    """Return the shape of what a lattice folds onto."""
    return tuple(n // 2 + 1 for n in shape)


def images(shape: Shape) -> NDArray[np.int64]:
    """Return of how many sites of the lattice each folded one is the mean, `folded_shape`."""
    edges = []
    for n in shape:
        count = np.full(n // 2 + 1, 2)
        count[0] = 1
        if n % 2 == 0:
            count[-1] = 1
        edges.append(count)
    return np.asarray(functools.reduce(np.multiply.outer, edges), dtype=np.int64)


def fold(values: NDArray[Any], dimension: int) -> Array:
    """Return the mean over the mirror images of each site, (..., *shape) -> (..., *folded)."""
    folded = np.asarray(values, dtype=np.float64)
    for axis in range(folded.ndim - dimension, folded.ndim):
        n = folded.shape[axis]
        place = np.arange(n // 2 + 1)
        folded = (folded.take(place, axis) + folded.take(-place % n, axis)) / 2
    return folded


@dataclass(frozen=True)
class Shells:
    """Shells about the origin.

    Attributes
    ----------
    at : (shells,) float64, mean distance (or wave number) of the sites in a shell.
    count : (shells,) int64, how many sites of the whole, not folded, lattice a shell holds.
    """

    at: Array
    count: NDArray[np.int64]
    _label: NDArray[np.int64]
    _weight: Array

    def average(self, folded: Array) -> Array:
        """Return the mean over each shell, (n, *folded) -> (n, shells)."""
        flat = np.ascontiguousarray(folded).reshape(len(folded), -1)
        sums = np.zeros((len(flat), len(self.count)))
        _add_by_label(flat, self._label, self._weight, sums)
        return sums


@njit(cache=True, nogil=True)
def _add_by_label(values, label, weight, sums):  # type: ignore[no-untyped-def]
    for n in range(values.shape[0]):
        for i in range(label.size):
            if label[i] >= 0:
                sums[n, label[i]] += weight[i] * values[n, i]


def _make(distance: Array, width: float, count: NDArray[np.int64], last: int) -> Shells:
    """Return shells -1/2 <= distance / width - j < 1/2, j = 0 .. last, leaving empty ones out.

    The origin is a shell of its own.
    """
    number = np.floor(distance / width + (0.5 + _ROUNDING)).astype(np.int64).ravel()
    number[distance.ravel() > 0] += 1  # the origin is a shell of its own
    last += 1
    number[number > last] = -1
    there = np.unique(number[number >= 0])
    label = np.where(number >= 0, np.searchsorted(there, number), -1)
    inside, flat = label >= 0, count.ravel()
    sites = np.bincount(label[inside], weights=flat[inside])
    sums = np.bincount(label[inside], weights=(flat * distance.ravel())[inside])
    weight = np.where(inside, flat / sites[label], 0.0)
    return Shells(sums / sites, np.rint(sites).astype(np.int64), label, weight)


def _norm(axes: list[Array]) -> Array:
    return np.asarray(np.sqrt(functools.reduce(np.add.outer, [a**2 for a in axes])))


def wave_numbers(shape: Shape) -> Array:
    """Return |k| in radians per site of every folded wave vector, `folded_shape`."""
    return _norm([2 * np.pi * np.arange(n // 2 + 1) / n for n in shape])


@functools.lru_cache(maxsize=8)
def wave_shells(shape: Shape) -> Shells:
    """Return shells of |k| of width 2 pi / min(shape), about 0, 1, 2 .. widths; all modes."""
    k = wave_numbers(shape)
    return _make(k, 2 * np.pi / min(shape), images(shape), k.size)


@functools.lru_cache(maxsize=8)
def distance_shells(shape: Shape) -> Shells:
    """Return shells of r of width 1 about 0, 1, 2 .. min(shape) // 2 lattice constants."""
    r = _norm([np.arange(n // 2 + 1.0) for n in shape])
    return _make(r, 1.0, images(shape), min(shape) // 2)


@functools.lru_cache(maxsize=8)
def mirror_rows(shape: Shape) -> NDArray[np.int64]:
    """Return the rows of rfftn's layout that fold onto each folded row, (rows, 2^(d-1)).

    A row on a mirror is there more than once, so that the mean over a line is right.
    """
    leading = shape[:-1]
    number = np.arange(math.prod(leading)).reshape(leading)
    rows = []
    for place in itertools.product(*(range(n // 2 + 1) for n in leading)):
        signs = itertools.product((1, -1), repeat=len(leading))
        rows.append(
            [number[tuple(s * p % n for s, p, n in zip(one, place, leading))] for one in signs]
        )
    return np.array(rows, dtype=np.int64)
