"""A periodic lattice as a stack of rows: which row lies beside which, and sums over all bonds."""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

import skild_phys.kernel_cache  # noqa: F401

LARGEST_SIDE = {2: 2**15, 3: 2**10}
"""By dimension; what memory and int32 counts of sites hold."""


def row_parity(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the parity of y (2D) or y + z (3D) of every row of a lattice (..., Lx)."""
    sums = np.indices(shape[:-1]).sum(axis=0)
    parity: NDArray[np.int64] = (sums % 2).ravel().astype(np.int64)
    return parity


@functools.lru_cache(maxsize=16)
def neighbour_rows(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the rows beside each row, (rows, 2 (d - 1)) int64: before and after, by axis."""
    number = np.arange(math.prod(shape[:-1])).reshape(shape[:-1])
    turned = [np.roll(number, step, axis) for axis in range(len(shape) - 1) for step in (1, -1)]
    rows = np.stack([turn.ravel() for turn in turned], axis=1).astype(np.int64)
    rows.flags.writeable = False
    return rows


@njit(cache=True, nogil=True)
def _equal_bonds(rows, before, out):  # type: ignore[no-untyped-def]
    count, height, width = rows.shape
    for n in range(count):
        total = np.int64(0)
        for r in range(height):
            row = rows[n, r]
            same = np.int64(row[0] == row[width - 1])
            for x in range(1, width):
                same += np.int64(row[x] == row[x - 1])
            for axis in range(before.shape[1]):
                near = rows[n, before[r, axis]]
                for x in range(width):
                    same += np.int64(row[x] == near[x])
            total += same
        out[n] = total


def equal_bonds(lattices: NDArray[np.int8], dimension: int) -> NDArray[np.int64]:
    """Return how many of the bonds of each lattice join two equal values.

    Parameters
    ----------
    lattices : (..., Ly, Lx) or (..., Lz, Ly, Lx) int8; a lattice has `dimension` bonds a site.
    dimension : of a lattice.

    Returns
    -------
    (...) int64.
    """
    shape = lattices.shape[-dimension:]
    rows = np.ascontiguousarray(lattices).reshape(-1, math.prod(shape[:-1]), shape[-1])
    before = np.ascontiguousarray(neighbour_rows(shape)[:, ::2])
    out = np.empty(len(rows), dtype=np.int64)
    _equal_bonds(rows, before, out)
    return out.reshape(lattices.shape[:-dimension])


@functools.lru_cache(maxsize=16)
def neighbour_sites(
    shape: tuple[int, ...], offsets: tuple[tuple[int, ...], ...] | None = None
) -> NDArray[np.int64]:
    """Return the sites beside each site, numbered in C order, (sites, 2 n) int64.

    By offset (default: the nearest neighbours, the fastest axis first): there, and as far back.
    """
    number = np.arange(math.prod(shape)).reshape(shape)
    axes = tuple(range(len(shape)))
    known = offsets or tuple(map(tuple, np.eye(len(shape), dtype=int)[::-1].tolist()))
    beside = [
        np.roll(number, [-sign * step for step in offset], axes).ravel()
        for offset in known
        for sign in (1, -1)
    ]
    table = np.stack(beside, axis=1).astype(np.int64)
    table.flags.writeable = False
    return table
