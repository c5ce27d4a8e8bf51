"""Blocks side by side: a lattice as one plane for each position inside a block.

Plane p holds the sites at position p of every block, block after block. For a factor of at
least 2 no two sites of a plane are neighbours, and the neighbours of plane p are other planes,
whole ones, moved by one block where the bond crosses the edge of a block. So a move is made in
all blocks at once by loops over contiguous bytes. Sites hold states 0 .. q - 1, of every model.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rules.operators import from_blocks, to_blocks

States = NDArray[np.int8]


class Layout(NamedTuple):
    """What kernels know of the geometry, d axes, P = factor^d positions, n blocks.

    Attributes
    ----------
    bonds : (P, 2 d) int32, the position one site down (column 2 a) and up (2 a + 1) axis a; its
        complement ~ where that bond leads into the next block.
    sides : (d, 2) int64, for an axis: blocks between two that are next to each other, blocks.
    place : (P, d) int64 coordinates of a position.
    colour : (d, n) int8, 0 and 1 in turn along an axis, 2 for the last block of an odd number.
    ahead : (d, n) int32, the next block along an axis.
    factor : side of a block.
    """

    bonds: NDArray[np.int32]
    sides: NDArray[np.int64]
    place: NDArray[np.int64]
    colour: NDArray[np.int8]
    ahead: NDArray[np.int32]
    factor: int


@functools.lru_cache(maxsize=8)
def build_layout(shape: tuple[int, ...], factor: int) -> Layout:
    """Return the layout of `shape` blocks, (ly, lx) or (lz, ly, lx), of side `factor`; shared."""
    d = len(shape)
    place = np.array(list(itertools.product(range(factor), repeat=d)))
    weight = factor ** np.arange(d - 1, -1, -1)
    bonds = np.empty((len(place), 2 * d), dtype=np.int32)
    for column, (axis, step) in enumerate(itertools.product(range(d), (-1, 1))):
        moved = place.copy()
        moved[:, axis] += step
        crosses = (moved[:, axis] < 0) | (moved[:, axis] == factor)
        other = (moved % factor) @ weight
        bonds[:, column] = np.where(crosses, ~other, other)
    blocks = np.indices(shape, dtype=np.int32).reshape(d, -1)
    colour = (blocks % 2).astype(np.int8)
    ahead = np.empty_like(blocks)
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    for axis, side in enumerate(shape):
        if side % 2 == 1:
            colour[axis][blocks[axis] == side - 1] = 2
        ahead[axis] = np.roll(numbers, -1, axis=axis).ravel()
    sides = np.array([(math.prod(shape[axis + 1 :]), shape[axis]) for axis in range(d)])
    return Layout(bonds, sides, place, colour, ahead, factor)


def split(lattices: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return one lattice (L, ..) as planes (factor^d, n), contiguous."""
    return np.ascontiguousarray(to_blocks(lattices, factor, lattices.ndim).T)


def join(planes: NDArray[Any], shape: tuple[int, ...], factor: int) -> NDArray[Any]:
    """Return the lattice, `factor` times `shape`, of planes (factor^d, n): what `split` undoes."""
    fine = tuple(side * factor for side in shape)
    return np.asarray(from_blocks(np.ascontiguousarray(planes.T), fine, factor))


@njit(cache=True, nogil=True, forceinline=True)
def moved(cells, sides, n, positions, plane, column):  # type: ignore[no-untyped-def]
    """Copy a plane, moved one block down or up an axis, to scratch space; return where that is."""
    room = np.uint64(positions + (column & 1)) * n
    axis = column >> 1
    inner, count = np.uint64(sides[axis, 0]), np.uint64(sides[axis, 1])
    period = inner * count
    last = period - inner
    # Up: the next block's value in every block's place, the first's in the last's.
    if column & 1:
        ahead = plane + inner
        for i in range(n - inner):
            cells[room + i] = cells[ahead + i]
        for start in range(np.uint64(0), n, period):
            for j in range(inner):
                cells[room + start + last + j] = cells[plane + start + j]
    else:
        behind = room + inner
        for i in range(n - inner):
            cells[behind + i] = cells[plane + i]
        for start in range(np.uint64(0), n, period):
            for j in range(inner):
                cells[room + start + j] = cells[plane + start + last + j]
    return room


@njit(cache=True, nogil=True, forceinline=True)
def add_lost_bonds(lost, cells, bonds, sides, position, old, new, gain):  # type: ignore[no-untyped-def]
    """Add to `lost` (n,) the bonds to equal neighbours lost as a plane turns old to new.

    `old` and `new` are where in `cells` its states begin. Without `gain` the bonds lost are
    counted alone: with two states what is gained is the rest.
    """
    n = np.uint64(lost.size)
    positions = bonds.shape[0]
    for column in range(0, bonds.shape[1], 2):
        down, up = bonds[position, column], bonds[position, column + 1]
        if down >= 0:
            one = np.uint64(down) * n
        else:
            one = moved(cells, sides, n, positions, np.uint64(~down) * n, column)
        if up >= 0:
            two = np.uint64(up) * n
        else:
            two = moved(cells, sides, n, positions, np.uint64(~up) * n, column + 1)
        if gain:
            for i in range(n):
                a, c = cells[old + i], cells[new + i]
                b, d = cells[one + i], cells[two + i]
                gained = np.int8(b == c) + np.int8(d == c)
                lost[i] += np.int8(b == a) + np.int8(d == a) - gained
        else:
            for i in range(n):
                a = cells[old + i]
                lost[i] += np.int8(cells[one + i] == a) + np.int8(cells[two + i] == a)
