"""The structure factor S(k), and the two-point function G(r) from it (Wiener-Khinchin).

Lattices are periodic, of any dimension; the fields of several components are added up. G is the
average over the lattice of s(0) s(r); the mean of s is not subtracted (`connected`).
"""

from __future__ import annotations

import itertools
import math
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
from skild_phys.measurement.shells import distance_shells, folded_shape, mirror_rows, wave_shells
from skild_phys.measurement.system import Array, Shape, Slice, System


def folded_structure_factor(fields: NDArray[Any], total: Array, squares: Array) -> Array:
    """Return S(k) = |sum_x s(x) exp(-i k x)|^2 / N folded by its reflections (`shells.fold`).

    Parameters
    ----------
    fields : (components, n, *shape) real array; transformed in float64, components added up.
    total, squares : (*rfftn layout) float64, to which sums of S and of S^2 over the
        configurations are added, mode by mode.

    Returns
    -------
    (n, *folded_shape) float64: the mean over all modes is the mean of s^2, S(0) is N m^2.
    """
    components, n, *sides = fields.shape
    shape, width = tuple(sides), sides[-1] // 2 + 1
    rows = math.prod(shape[:-1])
    axes = tuple(range(-len(shape), 0))
    modes = scipy.fft.rfftn(np.asarray(fields, dtype=np.float64), axes=axes, overwrite_x=True)
    folded = np.empty((n, *folded_shape(shape)))
    _fold_modes(
        modes.view(np.float64).reshape(components, n, rows, width, 2), 1.0 / math.prod(shape),
        mirror_rows(shape), folded.reshape(n, -1, width), total.reshape(rows, width),
        squares.reshape(rows, width),
    )  # fmt: skip
    return folded


@njit(cache=True, nogil=True)
def _fold_modes(modes, scale, mirrors, folded, total, squares):  # type: ignore[no-untyped-def]
    components, lattices, rows, width, _ = modes.shape
    power = np.empty((rows, width))
    share = 1.0 / mirrors.shape[1]
    for n in range(lattices):
        for row in range(rows):
            power[row] = 0.0
            for c in range(components):
                for x in range(width):
                    power[row, x] += modes[c, n, row, x, 0] ** 2 + modes[c, n, row, x, 1] ** 2
            for x in range(width):
                p = scale * power[row, x]
                power[row, x] = p
                total[row, x] += p
                squares[row, x] += p * p
        for row in range(mirrors.shape[0]):
            folded[n, row] = 0.0
            for image in range(mirrors.shape[1]):
                source = mirrors[row, image]
                for x in range(width):
                    folded[n, row, x] += share * power[source, x]


def folded(part: Slice) -> Array:
    """Return S(k) of each configuration, folded, (n, *folded)."""
    return folded_structure_factor(part.components, part.total, part.squares)


def along_longest_axes(fields: NDArray[Any]) -> Array:
    """Return S at k = 2 pi j / L along an axis, j = 0 .. L // 2, L the longest side.

    Sums over the other axes first, so that one dimension is left to transform. `fields` are
    (components, n, *shape); returns (n, L // 2 + 1) float64, the mean over the axes that are as
    long, which hold the smallest wave number of the lattice.
    """
    shape = fields.shape[2:]
    longest = _longest(shape)
    exact = np.issubdtype(fields.dtype, np.integer)
    total = np.zeros((fields.shape[1], max(shape) // 2 + 1))
    for axis in longest:
        others = tuple(a + 2 for a in range(len(shape)) if a != axis)
        line = fields.sum(axis=others, dtype=np.int64 if exact else np.float64)
        modes = scipy.fft.rfft(line.astype(np.float64), axis=-1)
        total += (modes.real**2 + modes.imag**2).sum(axis=0)
    return total / (math.prod(shape) * len(longest))


def _longest(shape: Shape) -> list[int]:
    return [axis for axis in range(len(shape)) if shape[axis] == max(shape)]


@statistic()
def along_k(part: Slice) -> Array:
    """Return S along the longest axes, (n, L // 2 + 1)."""
    if not part.has(folded):
        return along_longest_axes(part.components)
    return _lines(part.once(folded), [(axis,) for axis in _longest(part.system.shape)], None)


def folded_two_point(folded: Array, shape: Shape) -> Array:
    """Return G at the folded separations from S(k), (n, *folded) -> (n, *folded).

    Even sides go by a discrete cosine transform.
    """
    axes = tuple(range(1, len(shape) + 1))
    if all(n % 2 == 0 for n in shape):
        return np.asarray(scipy.fft.dctn(folded, type=1, axes=axes, norm="forward"))
    whole = folded
    for axis, n in zip(axes, shape):
        place = np.arange(n)
        whole = whole.take(np.minimum(place, n - place), axis)
    first = tuple(slice(0, n) for n in folded_shape(shape))
    return np.asarray(scipy.fft.ifftn(whole, axes=axes).real[(slice(None), *first)])


def _correlation(part: Slice) -> Array:
    return folded_two_point(part.once(folded), part.system.shape)


def _lines(values: Array, directions: list[tuple[int, ...]], steps: int | None) -> Array:
    """Return the mean over directions of `values` at r steps along each of their axes at once."""
    lines = []
    for direction in directions:
        place: list[Any] = [0] * (values.ndim - 1)
        for axis in direction:
            place[axis] = np.arange(steps or values.shape[axis + 1])
        lines.append(values[(slice(None), *place)])
    return np.asarray(np.mean(lines, axis=0))


def along_axes(folded: Array) -> Array:
    """Return G at 0, 1, 2 .. min // 2 sites along an axis, the mean over the axes, (n, R)."""
    return _lines(folded, [(a,) for a in range(folded.ndim - 1)], min(folded.shape[1:]))


def along_diagonals(folded: Array) -> Array:
    """Return G at r steps along both of two axes, the mean over such pairs, (n, R).

    r = 0 .. min // 2; the distance is r sqrt 2.
    """
    pairs: list[tuple[int, ...]] = list(itertools.combinations(range(folded.ndim - 1), 2))
    return _lines(folded, pairs, min(folded.shape[1:]))


axis = Statistic("axis", lambda part: along_axes(part.once(_correlation)))
_diagonal = Statistic(
    "diagonal",
    lambda part: along_diagonals(part.once(_correlation)),
    lambda system: system.dimension > 1,
)
_distance = Statistic(
    "distance",
    lambda part: distance_shells(part.system.shape).average(part.once(_correlation)),
)
_radial = Statistic(
    "radial", lambda part: wave_shells(part.system.shape).average(part.once(folded))
)


@statistic()
def order(part: Slice) -> Array:
    """Return the mean over sites of each component of the field, (n, components)."""
    values, q = part.values, part.system.q
    if not q:
        m = np.asarray(values.mean(axis=part.axes, dtype=np.float64))
        return m.reshape(len(values), -1)
    shares = [(values == a).mean(axis=part.axes, dtype=np.float64) for a in range(q)]
    return np.stack([math.sqrt(q / (q - 1.0)) * (s - 1.0 / q) for s in shares], axis=-1)


def connected(two_point: Array, order: Array, system: System | None = None) -> Array:
    """Return G_c(r) = G(r) - <s>^2 from ensemble means, (..., R), (..., components) -> (..., R).

    Where a symmetry makes <s> 0, as for every finite Ising lattice without a field, G itself is
    connected, and has the smaller error: <s>^2 of a sample is never 0.
    """
    return np.asarray(two_point - (order**2).sum(axis=-1, keepdims=True))


def _axis_wave_numbers(system: System) -> Array:
    longest = max(system.shape)
    return np.asarray(2 * np.pi * np.arange(longest // 2 + 1) / longest)


_DISTANCE = Axis("distance", (
    Coordinate(
        "distance", lambda s: np.arange(min(s.shape) // 2 + 1),
        "distance r (r sqrt 2 on the diagonals)", LENGTH,
    ),
), dense=True)  # fmt: skip
_RADIUS = Axis("radius", (
    Coordinate(
        "radius", lambda s: distance_shells(s.shape).at, "mean distance of a shell", LENGTH
    ),
    Coordinate(
        "pairs", lambda s: distance_shells(s.shape).count, "separations in a shell", "1"
    ),
), dense=True)  # fmt: skip
_SHELL = Axis("shell", (
    Coordinate("k", lambda s: wave_shells(s.shape).at, "mean wave number of the shell", WAVE, "k"),
    Coordinate("modes", lambda s: wave_shells(s.shape).count, "modes in the shell", "1"),
), dense=True)  # fmt: skip
_MODE = Axis("mode", (
    Coordinate("k_axis", _axis_wave_numbers, "wave number along an axis", WAVE, "k"),
), dense=True)  # fmt: skip


_LINES = (
    ("axis", axis, _DISTANCE, "G(r, 0)", "along the axes", ""),
    ("diagonal", _diagonal, _DISTANCE, "G(r, r)", "along the diagonals", ", at (r, r)"),
    ("radial", _distance, _RADIUS, "G(|r|)", "averaged over shells of r", ""),
)
_two_point = tuple(
    observable(
        f"two_point_{name}",
        "1",
        of,
        label,
        axis=over,
        judged=name != "radial",
        about=f"two-point function {where}{at}",
    )(mean)
    for name, of, over, label, where, at in _LINES
)
_connected_two_point = tuple(
    observable(
        f"connected_two_point_{name}", "1", (of, order), axis=over,
        about=f"connected two-point function {where}",
    )(connected)
    for name, of, over, _, where, _ in _LINES
)  # fmt: skip
_structure_factor = observable(
    "structure_factor", "1", _radial, "S(k)", axis=_SHELL, judged=True,
    about="structure factor averaged over shells",
)(mean)  # fmt: skip
_structure_factor_axis = observable(
    "structure_factor_axis", "1", along_k, axis=_MODE, about="structure factor along the axes"
)(mean)
