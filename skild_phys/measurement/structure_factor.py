"""The structure factor S(k): mode by mode, along axes, and averaged over shells of |k|."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from skild_phys.measurement.shells import Array, Shape, folded_shape, mirror_rows


def structure_factor(field: NDArray[Any], dimension: int = 2) -> Array:
    """Return S(k) = |sum_x s(x) exp(-i k x)|^2 / N of each lattice, k = 0 included.

    Parameters
    ----------
    field : (..., Ly, Lx) or (..., Lz, Ly, Lx) real array; transformed in float64.
    dimension : of the lattice.

    Returns
    -------
    (..., Ly, Lx // 2 + 1) float64 in the layout of rfftn: the mean over all modes is the mean
    of s^2, and S(0) is N times the squared magnetization. Dimensionless.
    """
    values = np.asarray(field, dtype=np.float64)
    axes = tuple(range(-dimension, 0))
    modes = scipy.fft.rfftn(values, axes=axes)
    return np.asarray((modes.real**2 + modes.imag**2) / math.prod(values.shape[-dimension:]))


def potts_components(states: NDArray[np.int8], q: int) -> Array:
    """Return the fields whose products correlate Potts states, (..., *shape) -> (q, ..., *shape).

    sqrt(q / (q - 1)) (delta(s, a) - 1 / q), a = 0 .. q - 1: summed over a, s(0) s(x) is
    (q delta(s_0, s_x) - 1) / (q - 1), 1 for equal states and 0 in the mean for independent ones.
    At q = 2 that is Ising's product of spins.
    """
    scale = math.sqrt(q / (q - 1.0))
    return np.stack([scale * ((states == a) - 1.0 / q) for a in range(q)])


def folded_structure_factor(
    field: NDArray[Any], dimension: int, total: Array, squares: Array
) -> Array:
    """Return S(k) of each lattice folded by its reflections (`shells.fold`), in one pass.

    Parameters
    ----------
    field : (n, *shape) real array, or (components, n, *shape) to be added up.
    dimension : of the lattice.
    total, squares : (*rfftn layout) float64, to which sums of S and of S^2 over the lattices
        are added, mode by mode.

    Returns
    -------
    (n, *folded_shape) float64.
    """
    shape = field.shape[-dimension:]
    fields = field if field.ndim == dimension + 2 else field[np.newaxis]
    axes = tuple(range(-dimension, 0))
    n, width = fields.shape[1], shape[-1] // 2 + 1
    rows = math.prod(shape[:-1])
    power = np.zeros((n, rows, width) if len(fields) > 1 else (0, rows, width))
    folded = np.empty((n, *folded_shape(shape)))
    for one in fields:
        modes = scipy.fft.rfftn(np.asarray(one, dtype=np.float64), axes=axes, overwrite_x=True)
        parts = modes.view(np.float64).reshape(n, rows, width, 2)
        if len(fields) == 1:
            _fold_modes(
                parts, 1.0 / math.prod(shape), mirror_rows(shape),
                folded.reshape(n, -1, width),
                total.reshape(rows, width), squares.reshape(rows, width),
            )  # fmt: skip
        else:
            power += (parts[..., 0] ** 2 + parts[..., 1] ** 2) / math.prod(shape)
    if len(fields) > 1:
        total += power.sum(axis=0).reshape(total.shape)
        squares += (power**2).sum(axis=0).reshape(squares.shape)
        folded[:] = power[:, mirror_rows(shape)].mean(axis=2).reshape(folded.shape)
    return folded


@njit(cache=True, nogil=True)
def _fold_modes(modes, scale, mirrors, folded, total, squares):  # type: ignore[no-untyped-def]
    lattices, rows, width, _ = modes.shape
    power = np.empty((rows, width))
    share = 1.0 / mirrors.shape[1]
    for n in range(lattices):
        for row in range(rows):
            for x in range(width):
                p = scale * (modes[n, row, x, 0] ** 2 + modes[n, row, x, 1] ** 2)
                power[row, x] = p
                total[row, x] += p
                squares[row, x] += p * p
        for row in range(mirrors.shape[0]):
            folded[n, row] = 0.0
            for image in range(mirrors.shape[1]):
                source = mirrors[row, image]
                for x in range(width):
                    folded[n, row, x] += share * power[source, x]


def along_longest_axes(field: NDArray[Any], shape: Shape) -> Array:
    """Return S at k = 2 pi j / L along an axis, j = 0 .. L // 2, L the longest side.

    Sums over the other axes first, so that one dimension is left to transform.

    Parameters
    ----------
    field : (n, *shape) real array, or (components, n, *shape) to be added up.
    shape : of a lattice.

    Returns
    -------
    (n, L // 2 + 1) float64, the mean over the axes that are as long; these hold the smallest
    wave number of the lattice.
    """
    dimension = len(shape)
    fields = field if field.ndim == dimension + 2 else field[np.newaxis]
    longest = [axis for axis in range(dimension) if shape[axis] == max(shape)]
    exact = np.issubdtype(fields.dtype, np.integer)
    total = np.zeros((fields.shape[1], max(shape) // 2 + 1))
    for axis in longest:
        others = tuple(a + 2 for a in range(dimension) if a != axis)
        line = fields.sum(axis=others, dtype=np.int64 if exact else np.float64)
        modes = scipy.fft.rfft(line.astype(np.float64), axis=-1)
        total += (modes.real**2 + modes.imag**2).sum(axis=0)
    return total / (math.prod(shape) * len(longest))


def longest_axes_of(folded: Array, shape: Shape) -> Array:
    """Return the same from S(k) that is there already, (n, *folded) -> (n, L // 2 + 1)."""
    longest = [axis for axis in range(len(shape)) if shape[axis] == max(shape)]
    lines = []
    for axis in longest:
        place: list[slice | int] = [0] * len(shape)
        place[axis] = slice(None)
        lines.append(folded[(slice(None), *place)])
    return np.asarray(np.mean(lines, axis=0))
