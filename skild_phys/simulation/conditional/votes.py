"""The constraint of majority: how far every other state is behind the winner of a block."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_phys.simulation.conditional.blocks import States

_WINNER = np.int16(2**15 - 1)  # above every gap: the winner is not behind itself


class Votes(NamedTuple):
    """The winners of n blocks and the gaps of all q states to them.

    Attributes
    ----------
    winner : (n,) int8.
    gap : (q n,) int16, for state c the votes by which it could gain on the winner: the winner's
        minus its own, minus 1 if it has the larger priority; the constraint is gap >= 0.
    unknown : (n,) int8, 1 where the priorities are not known: a tie of k states has weight 1 / k.
    open_ties : whether any is unknown.
    """

    winner: States
    gap: NDArray[np.int16]
    unknown: NDArray[np.int8]
    open_ties: bool


def count_states(planes: States, states: int) -> NDArray[np.int64]:
    """Return how often each state is in each block of `planes` (P, n): (states, n)."""
    return np.stack([np.count_nonzero(planes == state, axis=0) for state in range(states)])


def build_votes(planes: States, winner: States, priority: NDArray[np.int8]) -> Votes:
    """Return the votes of `planes` (P, n), for winners (n,) and priorities (q, n)."""
    states, blocks = len(priority), np.arange(len(winner))
    counts = count_states(planes, states)
    ahead = priority > priority[winner, blocks]
    gap = (counts[winner, blocks] - counts - ahead).astype(np.int16)
    gap[winner, blocks] = _WINNER
    unknown = np.all(priority == priority[0], axis=0).astype(np.int8)
    return Votes(winner, gap.ravel(), unknown, bool(unknown.any()))


def majority_holds(votes: Votes) -> bool:
    """Return whether no block's winner is beaten."""
    return bool((votes.gap >= 0).all())
