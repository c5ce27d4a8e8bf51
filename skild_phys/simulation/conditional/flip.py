"""Change of single sites: for decimation of the free ones, for majority of what leaves it.

A sweep goes through the positions of a block in order; at each, a new state is proposed in all
blocks at once and taken with Metropolis' probability. With two states it is the other one; with
more, m - s mod q of a random m, the same for all blocks: for a given m this pairs the states off,
so that the move is its own reverse, and all pairs are equally likely.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skild_phys.simulation.conditional.blocks import add_lost_bonds
from skild_phys.simulation.conditional.draws import below, take, threshold_of


@njit(cache=True, nogil=True, inline="always")
def _propose(cells, lost, old, new, states, source):  # type: ignore[no-untyped-def]
    """Write the proposed states of a plane at `new`; set `lost` to what to count bonds from."""
    total = np.int8(1 if states == 2 else below(source, states))
    for i in range(np.uint64(lost.size)):
        state = np.int8(total - cells[old + i])
        cells[new + i] = state + (states if state < 0 else np.int8(0))


@njit(cache=True, nogil=True, inline="always")
def _lost_by_flip(lost, cells, bonds, sides, p, old, new, gain):  # type: ignore[no-untyped-def]
    """Set `lost` to the bonds lost by the proposal; half of them if not `gain`."""
    first = np.int8(0 if gain else -bonds.shape[1] // 2)
    for i in range(np.uint64(lost.size)):
        lost[i] = first
    add_lost_bonds(lost, cells, bonds, sides, p, old, new, gain)


@njit(cache=True, nogil=True)
def flip_free(cells, layout, states, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps over every position but the first, which decimation keeps, in place.

    Parameters
    ----------
    cells : ((P + 3) n,) int8, the P planes and three more of scratch space.
    layout : of the blocks.
    states : their number q.
    thresholds : `metropolis` of the coupling; of twice the coupling for two states.
    source : random numbers.
    """
    bonds, sides = layout.bonds, layout.sides
    positions, n = bonds.shape[0], np.uint64(layout.ahead.shape[1])
    new = np.uint64(positions + 2) * n
    lost = np.empty(n, dtype=np.int8)
    gain = states > 2
    for _ in range(sweeps):
        for p in range(1, positions):
            old = np.uint64(p) * n
            _propose(cells, lost, old, new, np.int8(states), source)
            _lost_by_flip(lost, cells, bonds, sides, p, old, new, gain)
            bits = take(source, n)
            for i in range(n):
                a, c = cells[old + i], cells[new + i]
                cells[old + i] = c if bits[i] < threshold_of(thresholds, lost[i]) else a


@njit(cache=True, nogil=True, inline="always")
def _refuse_broken(moves, lead, cells, old, new, winner, gap, states):  # type: ignore[no-untyped-def]
    """Clear `moves` where they would break a majority; `lead` becomes what the winner gains."""
    n = np.uint64(moves.size)
    for i in range(n):
        a, c, w = cells[old + i], cells[new + i], winner[i]
        lead[i] = np.int8(c == w) - np.int8(a == w)
    for number in range(states):
        state, row = np.int8(number), np.uint64(number) * n
        for i in range(n):
            change = lead[i] + np.int8(cells[old + i] == state) - np.int8(cells[new + i] == state)
            moves[i] &= np.int8(gap[row + i] + change >= 0)


@njit(cache=True, nogil=True, inline="always")
def _weigh_ties(  # type: ignore[no-untyped-def]
    moves, lead, before, after, cells, old, new, gap, unknown, states, bits
):
    """Clear `moves` in proportion where a tie of more states than before is the outcome.

    `before` and `after` (n,) int8 are scratch space.
    """
    n = np.uint64(moves.size)
    for i in range(n):
        before[i] = after[i] = np.int8(1)
    for number in range(states):
        state, row = np.int8(number), np.uint64(number) * n
        for i in range(n):
            change = lead[i] + np.int8(cells[old + i] == state) - np.int8(cells[new + i] == state)
            before[i] += np.int8(gap[row + i] == 0)
            after[i] += np.int8(gap[row + i] + change == 0)
    for i in range(n):
        share = np.uint64(bits[i]) * np.uint64(after[i])
        fair = share < np.uint64(before[i]) << np.uint64(32)
        moves[i] &= np.int8(fair) | np.int8(unknown[i] == 0)


@njit(cache=True, nogil=True, inline="always")
def _commit(moves, lead, cells, old, new, gap, states):  # type: ignore[no-untyped-def]
    n = np.uint64(moves.size)
    for number in range(states):
        state, row = np.int8(number), np.uint64(number) * n
        for i in range(n):
            change = lead[i] + np.int8(cells[old + i] == state) - np.int8(cells[new + i] == state)
            gap[row + i] += np.int16(moves[i] * change)
    for i in range(n):
        a, c = cells[old + i], cells[new + i]
        cells[old + i] = c if moves[i] else a


@njit(cache=True, nogil=True)
def flip_majority(cells, layout, votes, states, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps over all positions; arguments as in `flip_free`, and `votes`."""
    bonds, sides = layout.bonds, layout.sides
    winner, gap, unknown = votes.winner, votes.gap, votes.unknown
    positions, n = bonds.shape[0], np.uint64(layout.ahead.shape[1])
    new = np.uint64(positions + 2) * n
    lost, moves, lead = np.empty(n, np.int8), np.empty(n, np.int8), np.empty(n, np.int8)
    before, after = np.empty(n, np.int8), np.empty(n, np.int8)
    gain = states > 2
    for _ in range(sweeps):
        for p in range(positions):
            old = np.uint64(p) * n
            _propose(cells, lost, old, new, np.int8(states), source)
            _lost_by_flip(lost, cells, bonds, sides, p, old, new, gain)
            bits = take(source, n)
            for i in range(n):
                moves[i] = bits[i] < threshold_of(thresholds, lost[i])
            _refuse_broken(moves, lead, cells, old, new, winner, gap, states)
            if votes.open_ties:
                bits = take(source, n)
                _weigh_ties(moves, lead, before, after, cells, old, new, gap, unknown, states, bits)
            _commit(moves, lead, cells, old, new, gap, states)
