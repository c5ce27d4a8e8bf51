"""The checkerboard: a lattice as its two sublattices, whose sites have no neighbours of their own.

A lattice (..., Lx) of even sides is a stack of rows; row r holds half its sites in each
sublattice, every other site along x. Sublattice 0 has the sites whose coordinates sum to an even
number, sublattice 1 the others. A sublattice is an array (rows, MARGIN + Lx / 2 + MARGIN or more):
beside its sites it holds copies of the first and the last one, so that the neighbours along x of
a whole row are two slices, one of them shifted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from skild_phys.kernels import I64, data_of, intrinsic

MARGIN = 16
"""Entries beside the sites of a row, on either end; no vector of a kernel is longer."""

LAZINESS = 2.0**-6
"""Share of the updates that are refused whatever their energy.

Without it updates that cost nothing are always accepted, and going over a sublattice in order is
then periodic: states in which no flip costs energy (2 x 2 blocks of alternating sign) only turn
into one another, and are never reached from outside.
"""


def sublattices(shape: tuple[int, ...], dtype: type) -> NDArray[np.generic]:
    """Return room for the two sublattices of a lattice, (2, rows, width)."""
    half = shape[-1] // 2
    return np.zeros(
        (2, math.prod(shape[:-1]), -(-half // MARGIN) * MARGIN + 2 * MARGIN), dtype=dtype
    )


@njit(cache=True, nogil=True, inline="always")
def close_row(row, half):  # type: ignore[no-untyped-def]
    """Copy the ends of a sublattice's row beside the other end, in place."""
    row[MARGIN - 1] = row[MARGIN + half - 1]
    row[MARGIN + half] = row[MARGIN]


@njit(cache=True, nogil=True)
def split(rows, parity, parts):  # type: ignore[no-untyped-def]
    """Spread a lattice (rows, Lx) over its sublattices `parts` (`sublattices`), in place."""
    half = rows.shape[1] // 2
    for r in range(rows.shape[0]):
        for part in range(2):
            first = (parity[r] + part) & 1
            target = parts[part, r]
            for j in range(half):
                target[MARGIN + j] = rows[r, 2 * j + first]
            close_row(target, half)


@njit(cache=True, nogil=True)
def merge(parts, parity, rows):  # type: ignore[no-untyped-def]
    """Put a lattice (rows, Lx) together again from its sublattices, in place."""
    half = rows.shape[1] // 2
    for r in range(rows.shape[0]):
        for part in range(2):
            first = (parity[r] + part) & 1
            source = parts[part, r]
            for j in range(half):
                rows[r, 2 * j + first] = source[MARGIN + j]


@intrinsic
def rows_beside(typingctx, beside, row, width, shape):  # type: ignore[no-untyped-def]
    """Return where the rows beside row `row` of a sublattice start: a tuple of 2 (d - 1) places.

    `beside` is `geometry.neighbour_rows`; `shape`, of the lattice, says the dimension.
    """
    count = 2 * (len(shape) - 1)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        table, row, width, _ = data_of(context, builder, signature, args)
        first = builder.mul(row, I64(count))
        places = [builder.add(first, I64(i)) for i in range(count)]
        starts = [builder.mul(builder.load(builder.gep(table, [n])), width) for n in places]
        return context.make_tuple(builder, signature.return_type, starts)

    return types.UniTuple(types.int64, count)(beside, types.int64, types.int64, shape), codegen  # type: ignore[no-untyped-call]


def places_near(builder: Any, site: Any, side: Any, column: Any, starts: Any) -> list[Any]:
    """Emit where the neighbours of a site stand in the other sublattice, those along x first.

    A site at 2 j + first has the other sublattice's j on one side, j +- 1 = j + `side` beyond.
    """
    rows = [builder.extract_value(starts, i) for i in range(starts.type.count)]
    return [site, builder.add(site, side), *(builder.add(row, column) for row in rows)]
