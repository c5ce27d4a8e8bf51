"""The structure factor S(k), and the two-point function G(r) from it (Wiener-Khinchin).

Lattices are periodic, of any dimension; the fields of several components are added up. G is the
average over the lattice of s(0) s(r); the mean of s is not subtracted (`_connected`).

In the mean (y, x), (-y, x), (y, -x) and (-y, -x) are alike, for wave vectors as for separations.
So S and G are kept on one octant, 0 <= y <= Ly / 2, 0 <= x <= Lx / 2 ("folded"), each the mean over
its mirror images: a quarter of the numbers in 2D, an eighth in 3D.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from skild_phys.measurement.observables.base import (
    LENGTH,
    WAVE,
    Axis,
    Coordinate,
    Statistic,
    mean,
    observable,
    statistic,
)
from skild_phys.measurement.system import Array, Shape, Slice, System

_ROUNDING = 1e-9  # so that what lies on an edge goes up, however its distance was rounded


def _fold(values: NDArray[Any], dimension: int) -> Array:
    """Return the mean over the mirror images of each site, (..., *shape) -> (..., *folded)."""
    folded = np.asarray(values, dtype=np.float64)
    for axis in range(folded.ndim - dimension, folded.ndim):
        n = folded.shape[axis]
        step = np.arange(n // 2 + 1)
        folded = (folded.take(step, axis) + folded.take(-step % n, axis)) / 2
    return folded


def _folded_shape(shape: Shape) -> Shape:
    return tuple(n // 2 + 1 for n in shape)


def _images(shape: Shape) -> NDArray[np.int64]:
    """Return of how many sites of the lattice each folded one is the mean, (*folded)."""
    edges = [np.where(2 * np.arange(n // 2 + 1) % n == 0, 1, 2) for n in shape]
    return np.asarray(functools.reduce(np.multiply.outer, edges), dtype=np.int64)


@functools.lru_cache(maxsize=8)
def _mirror_rows(shape: Shape) -> NDArray[np.int64]:
    """Return the rows of rfftn's layout that fold onto each folded row, (rows, 2^(d-1)).

    A row on a mirror is there more than once, so that the mean over a line is right.
    """
    leading = shape[:-1]
    number = np.arange(math.prod(leading)).reshape(leading)
    rows = []
    for step in itertools.product(*(range(n // 2 + 1) for n in leading)):
        signs = itertools.product((1, -1), repeat=len(leading))
        rows.append(
            [number[tuple(s * p % n for s, p, n in zip(one, step, leading))] for one in signs]
        )
    return np.array(rows, dtype=np.int64)


@dataclass(frozen=True)
class _Shells:
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

    @classmethod
    def of(cls, distance: Array, width: float, shape: Shape, last: int) -> _Shells:
        """Return shells -1/2 <= distance / width - j < 1/2, j = 0 .. last, without empty ones."""
        number = np.floor(distance / width + (0.5 + _ROUNDING)).astype(np.int64).ravel()
        number[distance.ravel() > 0] += 1  # the origin is a shell of its own
        number[number > last + 1] = -1
        inside, count = number >= 0, _images(shape).ravel()
        there = np.unique(number[inside])
        label = np.where(inside, np.searchsorted(there, number), -1)
        sites = np.bincount(label[inside], weights=count[inside])
        sums = np.bincount(label[inside], weights=(count * distance.ravel())[inside])
        weight = np.where(inside, count / sites[label], 0.0)
        return cls(sums / sites, np.rint(sites).astype(np.int64), label, weight)

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


def _norm(axes: list[Array]) -> Array:
    return np.asarray(np.sqrt(functools.reduce(np.add.outer, [a**2 for a in axes])))


@functools.lru_cache(maxsize=8)
def _wave_shells(shape: Shape) -> _Shells:
    """Return shells of |k| (rad / lattice constant), 2 pi / min(shape) wide; all modes."""
    k = _norm([2 * np.pi * np.arange(n // 2 + 1) / n for n in shape])
    return _Shells.of(k, 2 * np.pi / min(shape), shape, k.size)


@functools.lru_cache(maxsize=8)
def _distance_shells(shape: Shape) -> _Shells:
    """Return shells of r of width 1 about 0, 1, 2 .. min(shape) // 2 lattice constants."""
    r = _norm([np.arange(n // 2 + 1.0) for n in shape])
    return _Shells.of(r, 1.0, shape, min(shape) // 2)


def _structure_factor(
    fields: Iterable[NDArray[Any]], shape: Shape, total: Array, squares: Array
) -> Array:
    """Return S(k) = |sum_x s(x) exp(-i k x)|^2 / N folded by its reflections.

    Parameters
    ----------
    fields : each component, a real array (n, *shape); transformed in float64, and added up.
    total, squares : (*rfftn layout) float64, to which sums of S and of S^2 over the
        configurations are added, mode by mode.

    Returns
    -------
    (n, *folded) float64: the mean over all modes is the mean of s^2, S(0) is N m^2.
    """
    width, rows = shape[-1] // 2 + 1, math.prod(shape[:-1])
    axes, parts, power = tuple(range(-len(shape), 0)), None, np.zeros((0, rows, width))
    for field in fields:
        if parts is not None:
            power = power if len(power) else np.zeros(parts.shape[:-1])
            _add_power(parts, power)
        modes = scipy.fft.rfftn(np.asarray(field, dtype=np.float64), axes=axes, overwrite_x=True)
        parts = modes.view(np.float64).reshape(len(field), rows, width, 2)
    assert parts is not None
    folded = np.empty((len(parts), *_folded_shape(shape)))
    _fold_modes(
        parts, power, 1.0 / math.prod(shape), _mirror_rows(shape),
        folded.reshape(len(parts), -1, width), total.reshape(rows, width),
        squares.reshape(rows, width),
    )  # fmt: skip
    return folded


@njit(cache=True, nogil=True)
def _add_power(modes, power):  # type: ignore[no-untyped-def]
    for n in range(modes.shape[0]):
        for row in range(modes.shape[1]):
            for x in range(modes.shape[2]):
                power[n, row, x] += modes[n, row, x, 0] ** 2 + modes[n, row, x, 1] ** 2


@njit(cache=True, nogil=True)
def _fold_modes(modes, others, scale, mirrors, folded, total, squares):  # type: ignore[no-untyped-def]
    """Fold |modes|^2, to which `others` (n or 0, rows, width) of other components are added."""
    lattices, rows, width, _ = modes.shape
    power = np.zeros((rows, width))
    share = 1.0 / mirrors.shape[1]
    for n in range(lattices):
        if others.shape[0]:
            power[:] = others[n]
        else:
            power[:] = 0.0
        for row in range(rows):
            for x in range(width):
                p = power[row, x] + (modes[n, row, x, 0] ** 2 + modes[n, row, x, 1] ** 2)
                p *= scale
                power[row, x] = p
                total[row, x] += p
                squares[row, x] += p * p
        for row in range(mirrors.shape[0]):
            folded[n, row] = 0.0
            for image in range(mirrors.shape[1]):
                source = mirrors[row, image]
                for x in range(width):
                    folded[n, row, x] += share * power[source, x]


def _folded(part: Slice) -> Array:
    """Return S(k) of each configuration, folded, (n, *folded)."""
    return _structure_factor(part.each_component(), part.system.shape, part.total, part.squares)


def _along_longest_axes(fields: Iterable[NDArray[Any]], shape: Shape) -> Array:
    """Return S at k = 2 pi j / L along an axis, j = 0 .. L // 2, L the longest side.

    Sums over the other axes first, so that one dimension is left to transform. `fields` as for
    `_structure_factor`; returns (n, L // 2 + 1) float64, the mean over the axes that are as long,
    which hold the smallest wave number of the lattice.
    """
    total, longest = np.zeros(()), _longest(shape)
    for field in fields:
        exact = np.issubdtype(field.dtype, np.integer)
        for axis in longest:
            others = tuple(a + 1 for a in range(len(shape)) if a != axis)
            line = field.sum(axis=others, dtype=np.int64 if exact else np.float64)
            modes = scipy.fft.rfft(line.astype(np.float64), axis=-1)
            total = total + (modes.real**2 + modes.imag**2)
    return np.asarray(total / (math.prod(shape) * len(longest)))


def _longest(shape: Shape) -> list[int]:
    return [axis for axis in range(len(shape)) if shape[axis] == max(shape)]


def _two_point(folded: Array, shape: Shape) -> Array:
    """Return G at the folded separations from S(k), (n, *folded) -> (n, *folded).

    Even sides go by a discrete cosine transform.
    """
    axes = tuple(range(1, len(shape) + 1))
    if all(n % 2 == 0 for n in shape):
        return np.asarray(scipy.fft.dctn(folded, type=1, axes=axes, norm="forward"))
    whole = folded
    for axis, n in zip(axes, shape):
        step = np.arange(n)
        whole = whole.take(np.minimum(step, n - step), axis)
    first = tuple(slice(0, n) for n in _folded_shape(shape))
    return np.asarray(scipy.fft.ifftn(whole, axes=axes).real[(slice(None), *first)])


def _correlation(part: Slice) -> Array:
    return _two_point(part.once(_folded), part.system.shape)


def _lines(values: Array, directions: Iterable[tuple[int, ...]], steps: int | None = None) -> Array:
    """Return the mean over directions of `values` at r steps along each of their axes at once."""
    lines = []
    for direction in directions:
        site: list[Any] = [0] * (values.ndim - 1)
        for axis in direction:
            site[axis] = np.arange(steps or values.shape[axis + 1])
        lines.append(values[(slice(None), *site)])
    return np.asarray(np.mean(lines, axis=0))


def _along_axes(folded: Array) -> Array:
    """Return G at 0, 1, 2 .. min // 2 sites along an axis, the mean over the axes, (n, R)."""
    return _lines(folded, itertools.combinations(range(folded.ndim - 1), 1), min(folded.shape[1:]))


def _along_diagonals(folded: Array) -> Array:
    """Return G at r = 0 .. min // 2 steps along both of two axes, the mean over pairs, (n, R)."""
    return _lines(folded, itertools.combinations(range(folded.ndim - 1), 2), min(folded.shape[1:]))


@statistic("along_k")
def along_k(part: Slice) -> Array:
    """Return S along the longest axes, (n, L // 2 + 1)."""
    longest = _longest(part.system.shape)
    if part.has(_folded):
        return _lines(part.once(_folded), [(axis,) for axis in longest])
    return _along_longest_axes(part.each_component(), part.system.shape)


@statistic("order")
def order(part: Slice) -> Array:
    """Return the mean over sites of each component of the field, (n, components)."""
    values, q = part.values, part.system.q
    if not q:
        m = np.asarray(values.mean(axis=part.axes, dtype=np.float64))
        return m.reshape(len(values), -1)
    shares = [(values == a).mean(axis=part.axes, dtype=np.float64) for a in range(q)]
    return np.stack([math.sqrt(q / (q - 1.0)) * (s - 1.0 / q) for s in shares], axis=-1)


_axis = Statistic("axis", lambda part: _along_axes(part.once(_correlation)))
_diagonal = Statistic(
    "diagonal", lambda part: _along_diagonals(part.once(_correlation)), lambda s: s.dimension > 1
)
_distance = Statistic(
    "distance", lambda part: _distance_shells(part.system.shape).average(part.once(_correlation))
)
_radial = Statistic(
    "radial", lambda part: _wave_shells(part.system.shape).average(part.once(_folded))
)


def exact_statistics(two_point: Array, power: Array) -> dict[str, Array]:
    """Return means of statistics, by their names, from G(r) and S(k) on the whole torus, (*shape).

    Both are symmetric under reflections.
    """
    g, s = (_fold(values, values.ndim)[np.newaxis] for values in (two_point, power))
    shape = two_point.shape
    found = {
        "axis": _along_axes(g),
        "diagonal": _along_diagonals(g),
        "distance": _distance_shells(shape).average(g),
        "radial": _wave_shells(shape).average(s),
        "along_k": _lines(s, [(axis,) for axis in _longest(shape)]),
    }
    return {name: values[0] for name, values in found.items()}


def _connected(two_point: Array, order: Array, system: System | None = None) -> Array:
    """Return G_c(r) = G(r) - <s>^2 from ensemble means, (..., R), (..., components) -> (..., R).

    Where a symmetry makes <s> 0, as for every finite Ising lattice without a field, G itself is
    connected, and has the smaller error: <s>^2 of a sample is never 0.
    """
    return np.asarray(two_point - (order**2).sum(axis=-1, keepdims=True))


_STEPS = Axis("distance", (
    Coordinate(
        "distance", lambda s: np.arange(min(s.shape) // 2 + 1),
        "distance r (r sqrt 2 on the diagonals)", LENGTH,
    ),
), dense=True)  # fmt: skip
_RADIUS = Axis("radius", (
    Coordinate(
        "radius", lambda s: _distance_shells(s.shape).at, "mean distance of a shell", LENGTH
    ),
    Coordinate("pairs", lambda s: _distance_shells(s.shape).count, "separations in a shell", "1"),
), dense=True)  # fmt: skip
_SHELL = Axis("shell", (
    Coordinate("k", lambda s: _wave_shells(s.shape).at, "mean wave number of the shell", WAVE, "k"),
    Coordinate("modes", lambda s: _wave_shells(s.shape).count, "modes in the shell", "1"),
), dense=True)  # fmt: skip
_MODE = Axis("mode", (
    Coordinate(
        "k_axis", lambda s: 2 * np.pi * np.arange(max(s.shape) // 2 + 1) / max(s.shape),
        "wave number along an axis", WAVE, "k",
    ),
), dense=True)  # fmt: skip

_LINES = (
    ("axis", _axis, _STEPS, "G(r, 0)", "along the axes", ""),
    ("diagonal", _diagonal, _STEPS, "G(r, r)", "along the diagonals", ", at (r, r)"),
    ("radial", _distance, _RADIUS, "G(|r|)", "averaged over shells of r", ""),
)
OBSERVABLES = (
    *(
        observable(
            f"two_point_{name}", "1", of, label, axis=over, judged=name != "radial",
            about=f"two-point function {where}{at}",
        )(mean)
        for name, of, over, label, where, at in _LINES
    ),
    *(
        observable(
            f"connected_two_point_{name}", "1", (of, order), axis=over,
            about=f"connected two-point function {where}",
        )(_connected)
        for name, of, over, _, where, _ in _LINES
    ),
    observable(
        "structure_factor", "1", _radial, "S(k)", axis=_SHELL, judged=True,
        about="structure factor averaged over shells",
    )(mean),
    observable(
        "structure_factor_axis", "1", along_k, axis=_MODE, about="structure factor along the axes"
    )(mean),
)  # fmt: skip
