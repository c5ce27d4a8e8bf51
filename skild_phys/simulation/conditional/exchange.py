"""Exchange of two sites of a block, the move that keeps the number of each state in it.

A sweep pairs the positions of a block at random, the same way in all blocks, and exchanges each
pair with Metropolis' probability in all blocks at once. Two sites of one pair are neighbours of
those of the next block only if they lie at opposite edges of the same row; such a pair is
exchanged first in every second block along that row, then in the others (and in the last block
by itself where their number is odd), so that what moves together does not interact.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skild_phys.simulation.conditional.blocks import add_lost_bonds
from skild_phys.simulation.conditional.draws import NEVER, shuffle, take, threshold_of


@njit(cache=True, nogil=True, forceinline=True)
def _adjacency(place, sides, factor, p, r):  # type: ignore[no-untyped-def]
    """Return (axis, bonds inside a block, whether next blocks interact) of two positions."""
    axis, apart = -1, 0
    for a in range(place.shape[1]):
        difference = abs(place[p, a] - place[r, a])
        if difference:
            if axis >= 0:
                return 0, 0, False
            axis, apart = a, difference
    shared = 1 if apart == 1 else 0
    across = apart == factor - 1
    alone = sides[axis, 1] == 1
    if across and alone:
        shared += 1  # once around the lattice
    return axis, shared, across and not alone


@njit(cache=True, nogil=True, inline="always")
def _lost_by_swap(lost, cells, bonds, sides, p, r, shared, gain):  # type: ignore[no-untyped-def]
    """Set `lost` to the bonds lost if planes p and r exchange their states; half, if not `gain`.

    The bonds between the two stay; the sums over neighbours miss that, and count them as gained.
    Where the two states are equal the numbers mean nothing.
    """
    n = np.uint64(lost.size)
    one, two = np.uint64(p) * n, np.uint64(r) * n
    first = np.int8(2 * shared if gain else shared - bonds.shape[1])
    for i in range(n):
        lost[i] = first
    add_lost_bonds(lost, cells, bonds, sides, p, one, two, gain)
    add_lost_bonds(lost, cells, bonds, sides, r, two, one, gain)


@njit(cache=True, nogil=True, inline="always")
def _swap(cells, p, r, lost, bits, thresholds):  # type: ignore[no-untyped-def]
    n = np.uint64(lost.size)
    one, two = np.uint64(p) * n, np.uint64(r) * n
    for i in range(n):
        a, c = cells[one + i], cells[two + i]
        moves = bits[i] < threshold_of(thresholds, lost[i])
        cells[one + i] = c if moves else a
        cells[two + i] = a if moves else c


@njit(cache=True, nogil=True)
def exchange(cells, layout, gain, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps of exchanges, in place.

    Parameters
    ----------
    cells : ((P + 2) n,) int8, the P planes and two more of scratch space.
    layout : of the blocks.
    gain : whether there are more than two states.
    thresholds : `metropolis` of the coupling; of twice the coupling for two states.
    source : random numbers.
    """
    bonds, sides, place, factor = layout.bonds, layout.sides, layout.place, layout.factor
    positions, n = place.shape[0], layout.ahead.shape[1]
    order = np.empty(positions, dtype=np.int64)
    lost = np.empty(n, dtype=np.int8)
    for _ in range(sweeps):
        for p in range(positions):
            order[p] = p
        shuffle(order, source)
        for k in range(0, positions - 1, 2):
            p, r = order[k], order[k + 1]
            axis, shared, interact = _adjacency(place, sides, factor, p, r)
            if not interact:
                _lost_by_swap(lost, cells, bonds, sides, p, r, shared, gain)
                _swap(cells, p, r, lost, take(source, n), thresholds)
                continue
            for colour in range(2 + sides[axis, 1] % 2):
                _lost_by_swap(lost, cells, bonds, sides, p, r, shared, gain)
                bits = take(source, n)
                for i in range(n):
                    # No threshold is met by the largest number: the other colours stay.
                    bits[i] |= np.uint32(0) if layout.colour[axis, i] == colour else NEVER
                _swap(cells, p, r, lost, bits, thresholds)
