"""The two-point function G(r) at every separation, from S(k) (Wiener-Khinchin).

Lattices are periodic; distances are in lattice constants. G is the average over the lattice of
s(0) s(r); the mean of s is not subtracted (`connected`).
"""

from __future__ import annotations

import itertools

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from skild_phys.measurement.shells import Array, Shape, folded_shape


def two_point_map(power: Array, shape: Shape) -> Array:
    """Return G at every separation, (..., *shape), from S(k) in the layout of rfftn."""
    axes = tuple(range(-len(shape), 0))
    return np.asarray(scipy.fft.irfftn(power, s=shape, axes=axes))


def folded_two_point(folded: Array, shape: Shape) -> Array:
    """Return G of each lattice at the folded separations, (n, *folded) -> (n, *folded).

    Parameters
    ----------
    folded : S(k) as `structure_factor.folded_structure_factor` gives it.
    shape : of the lattice. Even sides go by a discrete cosine transform.
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


def along_axes(folded: Array) -> Array:
    """Return G at 0, 1, 2 .. min // 2 sites along an axis, the mean over the axes.

    (n, *folded) -> (n, R).
    """
    dimension, steps = folded.ndim - 1, min(folded.shape[1:])
    lines = []
    for axis in range(dimension):
        place: list[slice | int] = [0] * dimension
        place[axis] = slice(0, steps)
        lines.append(folded[(slice(None), *place)])
    return np.asarray(np.mean(lines, axis=0))


def along_diagonals(folded: Array) -> Array:
    """Return G at r steps along both of two axes, r = 0 .. min // 2, the mean over such pairs.

    (n, *folded) -> (n, R); the distance is r sqrt 2.
    """
    dimension, steps = folded.ndim - 1, np.arange(min(folded.shape[1:]))
    lines = []
    for pair in itertools.combinations(range(dimension), 2):
        place: list[slice | int | NDArray[np.int64]] = [0] * dimension
        for axis in pair:
            place[axis] = steps
        lines.append(folded[(slice(None), *place)])
    return np.asarray(np.mean(lines, axis=0))


def connected(two_point: Array, order: Array) -> Array:
    """Return G_c(r) = G(r) - <s>^2 from ensemble means, (..., R), (..., components) -> (..., R).

    `order` is the mean of the field, or of each of its components (of Potts states). Where a
    symmetry makes <s> 0, as for every finite Ising lattice without a field, G itself is
    connected, and has the smaller error: <s>^2 of a sample is never 0.
    """
    return np.asarray(two_point - (order**2).sum(axis=-1, keepdims=True))
