"""Swendsen and Wang's clusters given the coarse lattice, Phys. Rev. Lett. 58, 86 (1987).

Equal neighbours are bound with probability 1 - exp(-coupling). Given the bonds every assignment
of states to clusters that the coarse lattice allows has the weight of its ties, and the clusters
are redrawn from that law: for decimation all at once, those with a kept site staying; for
majority one after the other, which leaves it invariant too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skild_phys.simulation.conditional.draws import take


@njit(cache=True, nogil=True, inline="always")
def _root(parent, site):  # type: ignore[no-untyped-def]
    above = parent[site]
    while above != site:
        parent[site] = parent[above]
        site = np.uint64(parent[site])
        above = parent[site]
    return site


@njit(cache=True, nogil=True, inline="always")
def _union(parent, one, two):  # type: ignore[no-untyped-def]
    x, y = _root(parent, one), _root(parent, two)
    if x < y:
        parent[y] = x
    else:
        parent[x] = y


@njit(cache=True, nogil=True)
def _bind_inside(cells, bonds, n, bond, source, parent, both, flag):  # type: ignore[no-untyped-def]
    """Draw the bonds inside blocks; each site joins the cluster of one below, then of others."""
    for p in range(bonds.shape[0]):
        site = np.uint64(p) * n
        for i in range(n):
            parent[site + i] = site + i
        for column in range(0, bonds.shape[1], 2):
            if bonds[p, column] < 0:
                continue
            other = np.uint64(bonds[p, column]) * n
            bits = take(source, n)
            for i in range(n):
                bound = (cells[site + i] == cells[other + i]) & (bits[i] < bond)
                alone = parent[site + i] == site + i
                join = parent[other + i] if alone else parent[site + i]
                parent[site + i] = join if bound else parent[site + i]
                flag[i] = bound & (not alone)
            count = np.uint64(0)
            for i in range(n):
                both[count] = i
                count += np.uint64(flag[i])
            for k in range(count):
                _union(parent, site + both[k], other + both[k])


@njit(cache=True, nogil=True)
def _bind_across(cells, bonds, ahead, n, bond, source, parent):  # type: ignore[no-untyped-def]
    for p in range(bonds.shape[0]):
        site = np.uint64(p) * n
        for axis in range(ahead.shape[0]):
            if bonds[p, 2 * axis + 1] >= 0:
                continue
            other = np.uint64(~bonds[p, 2 * axis + 1]) * n
            bits = take(source, n)
            for i in range(n):
                j = other + np.uint64(ahead[axis, i])
                if cells[site + i] == cells[j] and bits[i] < bond:
                    _union(parent, site + i, j)


@njit(cache=True, nogil=True)
def _label(cells, layout, bond, source, parent, both):  # type: ignore[no-untyped-def]
    """Set `parent` to the smallest number of a site of each site's cluster."""
    n = np.uint64(layout.ahead.shape[1])
    _bind_inside(cells, layout.bonds, n, bond, source, parent, both, np.empty(n, np.int8))
    _bind_across(cells, layout.bonds, layout.ahead, n, bond, source, parent)
    for site in range(parent.size):
        parent[site] = parent[parent[site]]


@njit(cache=True, nogil=True)
def cluster_free(cells, layout, states, bond, source, sweeps):  # type: ignore[no-untyped-def]
    """Redraw the clusters `sweeps` times; those with a site of plane 0 keep their state.

    Arguments as in `flip.flip_free`; `bond` is the threshold of 1 - exp(-coupling).
    """
    positions, n = layout.bonds.shape[0], layout.ahead.shape[1]
    parent = np.empty(positions * n, dtype=np.uint32)
    both = np.empty(n, dtype=np.uint32)
    fresh = np.empty(positions * n, dtype=np.int8)
    for _ in range(sweeps):
        _label(cells, layout, bond, source, parent, both)
        fresh[:n] = cells[:n]
        for p in range(1, positions):
            bits = take(source, n)
            for i in range(n):
                fresh[p * n + i] = (np.uint64(bits[i]) * np.uint64(states)) >> np.uint64(32)
        for site in range(parent.size):
            cells[site] = fresh[parent[site]]


@njit(cache=True, nogil=True)
def _chain(parent, follow):  # type: ignore[no-untyped-def]
    """Link the sites of every cluster: its root, follow[root], follow of that, .. to the end N."""
    end = parent.size
    follow[:] = end
    for k in range(end):
        site = end - 1 - k
        root = parent[site]
        if root != site:
            follow[site] = follow[root]
            follow[root] = site


@njit(cache=True, nogil=True, inline="always")
def _breaks(gap, block, n, old, new, winner, amount, states):  # type: ignore[no-untyped-def]
    """Return whether `amount` sites of a block, turning from old to new, break its majority.

    If they do, more of them do too.
    """
    broken = False
    if old == winner:
        for state in range(states):
            if gap[state * n + block] < (2 * amount if state == new else amount):
                broken = True
    elif new != winner:
        broken = gap[new * n + block] < amount
    return broken


@njit(cache=True, nogil=True, inline="always")
def _shift_gaps(gap, block, n, old, new, winner, amount, states):  # type: ignore[no-untyped-def]
    """Turn `amount` sites of a block; return how many states share the top before and after."""
    lead = amount * (np.int64(new == winner) - np.int64(old == winner))
    before, after = np.int64(1), np.int64(1)
    for state in range(states):
        place = state * n + block
        change = lead + amount * (np.int64(old == state) - np.int64(new == state))
        before += np.int64(gap[place] == 0)
        gap[place] += change
        after += np.int64(gap[place] == 0)
    return before, after


@njit(cache=True, nogil=True)
def _count_blocks(cells, root, new, follow, home, votes, n, states, amount, touched):  # type: ignore[no-untyped-def]
    """Count a cluster's sites in each block it touches; return (blocks, whether one breaks)."""
    winner, gap = votes.winner, votes.gap
    old, site, count = cells[root], np.int64(root), 0
    while site < follow.size:
        block = np.int64(home[site])
        if amount[block] == 0:
            touched[count] = block
            count += 1
        amount[block] += 1
        if _breaks(gap, block, n, old, new, winner[block], amount[block], states):
            return count, True
        site = np.int64(follow[site])
    return count, False


@njit(cache=True, nogil=True)
def _turn(cells, root, new, follow, votes, n, states, amount, touched, count, source):  # type: ignore[no-untyped-def]
    """Turn a cluster that breaks nothing; more ties of unknown outcome are taken in proportion."""
    winner, gap = votes.winner, votes.gap
    old, share = cells[root], 1.0
    for k in range(count):
        block = touched[k]
        before, after = _shift_gaps(gap, block, n, old, new, winner[block], amount[block], states)
        if votes.unknown[block]:
            share *= before / after
    if share < 1.0 and take(source, 1)[0] >= share * 2.0**32:
        for k in range(count):
            block = touched[k]
            _shift_gaps(gap, block, n, new, old, winner[block], amount[block], states)
        return
    site = np.int64(root)
    while site < follow.size:
        cells[site] = new
        site = np.int64(follow[site])


@njit(cache=True, nogil=True)
def cluster_majority(cells, layout, votes, states, bond, source, sweeps):  # type: ignore[no-untyped-def]
    """Redraw the clusters one after the other `sweeps` times; see `cluster_free`, `Votes`."""
    positions, n = layout.bonds.shape[0], layout.ahead.shape[1]
    parent = np.empty(positions * n, dtype=np.uint32)
    follow = np.empty(positions * n, dtype=np.uint32)
    home = np.arange(positions * n).astype(np.uint32) % np.uint32(n)
    both = np.empty(n, dtype=np.uint32)
    amount, touched = np.zeros(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for _ in range(sweeps):
        _label(cells, layout, bond, source, parent, both)
        _chain(parent, follow)
        for root in range(parent.size):
            if parent[root] != root:
                continue
            new = np.int8((np.uint64(take(source, 1)[0]) * np.uint64(states)) >> np.uint64(32))
            if new == cells[root]:
                continue
            count, broken = _count_blocks(
                cells, root, new, follow, home, votes, n, states, amount, touched
            )
            if not broken:
                _turn(cells, root, new, follow, votes, n, states, amount, touched, count, source)
            for k in range(count):
                amount[touched[k]] = 0
