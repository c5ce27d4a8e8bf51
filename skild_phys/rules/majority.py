"""Majorities: the sign of each block's sum, or its commonest state; ties by a fair tie-break.

The moves change single sites and refuse what breaks a block's majority. Of states that tie for the
commonest of a block the one of largest priority is the coarse value. If priorities are not known
(all 0), a tie of k states has the weight 1 / k, the probability that a fair choice shows the coarse
value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import below
from skild_phys.rules.base import Array, Operator, Raw, Rule, Shape, TieBreak, Ties
from skild_phys.rules.block_mean import BlockMean, count_states, counted
from skild_phys.rules.moves import (
    Given,
    Moves,
    Source,
    States,
    label_clusters,
    propose_flips,
    take,
    take_below,
    threshold_of,
)


class Majority(Rule):
    """int8 signs of the blocks' sums; of states the commonest, of several that of top priority."""

    name = "majority"
    stores = {"spins": "spins", "states": "states"}
    ties = True
    exact = True
    shown = True

    def reduce(self, fine: Raw, factor: int, dimension: int, q: int, ties: TieBreak) -> Raw:
        counts = counted(fine, factor, dimension, q)
        if q:
            order = counts.astype(np.int32) * q + ties.priorities(counts.shape[2:], q)
            return np.asarray(order.argmax(axis=1).astype(np.int8))
        signs = np.sign(counts).astype(np.int8)
        if factor % 2 == 0:
            signs = np.where(signs == 0, ties.signs(signs.shape[1:]), signs)
        return signs

    def agrees(
        self, fine: Raw, raw: Raw, factor: int, q: int, ties: TieBreak | None
    ) -> NDArray[np.bool_]:
        if ties is not None:
            return super().agrees(fine, raw, factor, q, ties)
        counts = counted(fine, factor, fine.ndim - 1, q)
        if not q:
            return np.asarray((counts == 0) | (np.sign(counts) == raw))
        of_raw = np.take_along_axis(counts, raw[:, None].astype(np.int64), axis=1)
        return np.asarray(of_raw[:, 0] == counts.max(axis=1))

    def proxy(self, shape: Shape, factor: int) -> Operator:
        return BlockMean().operator(shape, factor)

    def values(self, raw: Raw, seen: Operator, power: Array) -> Array:
        """Return the signs times the root mean square of a block's mean."""
        modes = np.abs(seen.transfer) ** 2 * power
        twice = np.full(modes.shape[-1], 2.0)
        twice[0] = 1.0
        if seen.shape[-1] % 2 == 0:
            twice[-1] = 1.0
        mean_square = float((modes * twice).sum()) / math.prod(seen.shape)
        return np.asarray(raw * math.sqrt(mean_square))

    def condition(self, raw: Raw, shape: Shape, factor: int, ties: Ties, device: Any) -> Any:
        from skild_phys.rules.conditions import Blocks

        return Blocks(raw, factor, True, ties)

    def moves(self, shape: Shape, factor: int, values: tuple[int, ...], coupling: float) -> Moves:
        return _MajorityFlips(shape, factor, values, coupling)


_WINNER = np.int16(2**15 - 1)  # above every gap: the winner is not behind itself


class _Votes(NamedTuple):
    """The winners of n blocks and the gaps of all q states to them."""

    winner: States  # (n,)
    gap: NDArray[np.int16]
    """(q n,), for state c the votes by which it could gain on the winner: the winner's minus its
    own, minus 1 if it has the larger priority; the constraint is gap >= 0."""
    unknown: NDArray[np.int8]  # (n,), 1 where priorities are not known: ties of k weigh 1 / k
    open_ties: bool  # whether any is unknown


def _build_votes(planes: States, winner: States, priority: NDArray[np.int8]) -> _Votes:
    """Return the votes of `planes` (P, n), for winners (n,) and priorities (q, n)."""
    states, blocks = len(priority), np.arange(len(winner))
    counts = count_states(planes, states)
    ahead = priority > priority[winner, blocks]
    gap = (counts[winner, blocks] - counts - ahead).astype(np.int16)
    gap[winner, blocks] = _WINNER
    unknown = np.all(priority == priority[0], axis=0).astype(np.int8)
    return _Votes(winner, gap.ravel(), unknown, bool(unknown.any()))


@njit(cache=True, nogil=True)
def _fill_majority(cells, winner, priority, state):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True, inline="always")
def _refuse_broken(moves, change, cells, old, new, winner, gap, states):  # type: ignore[no-untyped-def]
    """Clear `moves` where they would break a majority; `change` (q n,) is what they do to gaps."""
    n = np.uint64(moves.size)
    for number in range(states):
        state, row = np.int8(number), np.uint64(number) * n
        for i in range(n):
            a, c, w = cells[old + i], cells[new + i], winner[i]
            lead = np.int8(c == w) - np.int8(a == w)
            change[row + i] = lead + np.int8(a == state) - np.int8(c == state)
            moves[i] &= np.int8(gap[row + i] + change[row + i] >= 0)


@njit(cache=True, nogil=True, inline="always")
def _weigh_ties(moves, change, tied, gap, unknown, states, bits):  # type: ignore[no-untyped-def]
    """Clear `moves` in proportion where a tie of more states than before is the outcome.

    `tied` (2, n) int8 is scratch space: of how many states there is a tie before and after.
    """
    n = np.uint64(moves.size)
    before, after = tied
    for i in range(n):
        before[i] = after[i] = np.int8(1)
    for number in range(states):
        row = np.uint64(number) * n
        for i in range(n):
            before[i] += np.int8(gap[row + i] == 0)
            after[i] += np.int8(gap[row + i] + change[row + i] == 0)
    for i in range(n):
        share = np.uint64(bits[i]) * np.uint64(after[i])
        fair = share < np.uint64(before[i]) << np.uint64(32)
        moves[i] &= np.int8(fair) | np.int8(unknown[i] == 0)


@njit(cache=True, nogil=True)
def _flip_majority(cells, layout, votes, states, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps over all positions; arguments as in `_flip_free`, and `votes`."""
    bonds, sides = layout.bonds, layout.sides
    winner, gap, unknown = votes.winner, votes.gap, votes.unknown
    positions, n = bonds.shape[0], np.uint64(layout.ahead.shape[1])
    lost, moves, tied = np.empty(n, np.int8), np.empty(n, np.int8), np.empty((2, n), np.int8)
    change = np.empty(states * n, np.int8)
    for _ in range(sweeps):
        for p in range(positions):
            old = np.uint64(p) * n
            new = propose_flips(lost, cells, bonds, sides, p, states, source)
            bits = take(source, n)
            for i in range(n):
                moves[i] = bits[i] < threshold_of(thresholds, lost[i])
            _refuse_broken(moves, change, cells, old, new, winner, gap, states)
            if votes.open_ties:
                _weigh_ties(moves, change, tied, gap, unknown, states, take(source, n))
            for number in range(states):
                row = np.uint64(number) * n
                for i in range(n):
                    gap[row + i] += np.int16(moves[i] * change[row + i])
            for i in range(n):
                a, c = cells[old + i], cells[new + i]
                cells[old + i] = c if moves[i] else a


@njit(cache=True, nogil=True, inline="always")
def _turn(gap, block, n, old, new, winner, states):  # type: ignore[no-untyped-def]
    """Turn a site of a block; return how many states share the top before and after, and whether
    the majority breaks: if it does, it also does when more sites of the cluster turn."""
    lead = np.int16(new == winner) - np.int16(old == winner)
    before, after, broken = 1, 1, False
    for state in range(states):
        place = state * n + block
        before += gap[place] == 0
        gap[place] += lead + np.int16(old == state) - np.int16(new == state)
        after += gap[place] == 0
        broken |= gap[place] < 0
    return before, after, broken


@njit(cache=True, nogil=True)
def _redraw(cells, root, new, follow, home, votes, states, source):  # type: ignore[no-untyped-def]
    """Turn a cluster unless that breaks a majority; more ties of unknown outcome in proportion."""
    gap, n, old = votes.gap, votes.winner.size, cells[root]
    site, share, refused = np.int64(root), 1.0, False
    while site < follow.size and not refused:
        block = np.int64(home[site])
        before, after, refused = _turn(gap, block, n, old, new, votes.winner[block], states)
        if votes.unknown[block]:
            share *= before / after
        site = np.int64(follow[site])
    end, site = site, np.int64(root)
    if not refused and share < 1.0 - 1e-9:  # what multiplies to 1 but for rounding is 1
        refused = take(source, 1)[0] >= share * 2.0**32
    while site != end:
        if refused:
            block = np.int64(home[site])
            _turn(gap, block, n, new, old, votes.winner[block], states)
        else:
            cells[site] = new
        site = np.int64(follow[site])


@njit(cache=True, nogil=True)
def _cluster_majority(cells, layout, votes, states, bond, source, sweeps):  # type: ignore[no-untyped-def]
    """Redraw the clusters one after the other `sweeps` times; see `label_clusters`, `_Votes`."""
    n = layout.ahead.shape[1]
    end = layout.bonds.shape[0] * n
    parent, follow = np.empty(end, dtype=np.uint32), np.empty(end, dtype=np.uint32)
    home = np.arange(end).astype(np.uint32) % np.uint32(n)
    for _ in range(sweeps):
        label_clusters(cells, layout, bond, source, parent)
        # The sites of a cluster: its root, follow[root], follow of that, .. to the end.
        follow[:] = end
        for site in range(end - 1, -1, -1):
            root = parent[site]
            if root != site:
                follow[site] = follow[root]
                follow[root] = site
        for root in range(end):
            if parent[root] == root:
                new = np.int8(take_below(source, states))
                if new != cells[root]:
                    _redraw(cells, root, new, follow, home, votes, states, source)


class _MajorityFlips(Moves):
    """Changes of single sites that break no block's majority."""

    def fill(self, planes: States, given: Given, state: NDArray[np.uint64]) -> None:
        _fill_majority(planes, given.values, given.priority, state)

    def holds(self, planes: States, given: Given) -> bool:
        return bool((_build_votes(planes, given.values, given.priority).gap >= 0).all())

    def start(
        self, given: Given, planes: States, cells: States, source: Source
    ) -> tuple[Callable[[int], None], Callable[[int], None]]:
        votes = _build_votes(planes, given.values, given.priority)
        layout, q, thresholds, bond = self.layout, self.states, self.thresholds, self.bond
        return (
            lambda k: _flip_majority(cells, layout, votes, q, thresholds, source, k),
            lambda k: _cluster_majority(cells, layout, votes, q, bond, source, k),
        )
