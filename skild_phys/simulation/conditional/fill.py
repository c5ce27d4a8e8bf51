"""A random lattice behind a coarse one: where a chain starts, and the method `fill`."""

from __future__ import annotations

import numpy as np
from numba import njit

from skild_phys.rng import below, next_u64


@njit(cache=True, nogil=True)
def fill_counts(cells, counts, state):  # type: ignore[no-untyped-def]
    """Fill the planes `cells` (P, n) uniformly, given the counts (q, n) of states in blocks."""
    positions, n = cells.shape
    left = np.empty(len(counts), dtype=np.int64)
    for block in range(n):
        left[:] = counts[:, block]
        for p in range(positions):
            choice, value = below(state, positions - p), 0
            while choice >= left[value]:
                choice -= left[value]
                value += 1
            left[value] -= 1
            cells[p, block] = value


@njit(cache=True, nogil=True)
def fill_majority(cells, winner, priority, state):  # type: ignore[no-untyped-def]
    """Fill `cells` uniformly, given winners (n,) and priorities (q, n), by rejection.

    Where all priorities are equal a tie of k states is taken with probability 1 / k.
    """
    positions, n = cells.shape
    states = len(priority)
    counts = np.empty(states, dtype=np.int64)
    for block in range(n):
        top = winner[block]
        while True:
            counts[:] = 0
            for p in range(positions):
                value = below(state, states)
                cells[p, block] = value
                counts[value] += 1
            beaten, tied, known = False, 0, False
            for value in range(states):
                known |= priority[value, block] != priority[top, block]
                if counts[value] == counts[top]:
                    tied += 1
                    beaten |= priority[value, block] > priority[top, block]
                beaten |= counts[value] > counts[top]
            if not beaten and (known or tied == 1 or below(state, tied) == 0):
                break


@njit(cache=True, nogil=True)
def fill_free(cells, kept, states, state):  # type: ignore[no-untyped-def]
    """Fill `cells` uniformly, but for plane 0, which becomes `kept` (n,)."""
    positions, n = cells.shape
    cells[0] = kept
    for p in range(1, positions):
        for block in range(n):
            value = (next_u64(state) >> np.uint64(32)) * np.uint64(states) >> np.uint64(32)
            cells[p, block] = value
