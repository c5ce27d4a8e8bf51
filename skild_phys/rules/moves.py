"""Monte Carlo moves that keep a coarse lattice, and the random bits they are made with.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the configurations
that coarse-grain to the given one. Each rule has moves that stay inside that set and connect all of
it, and every elementary move leaves the target invariant, so that their sequence does. Moves are
made in all blocks at once, on planes (`planes`).

An event of probability p happens if 32 random bits fall below 2^32 p, rounded to a whole number:
the probability is off by at most 2^-32, and relative to p by at most 2^-32 / p, which at Tc is
less than 1e-6 for every acceptance here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state
from skild_phys.rules.planes import Layout, States, add_lost_bonds

_LEAST_LANES = 1024


class Source(NamedTuple):
    """A stream of 32-bit numbers, made in bulk; `bits` are the halves of `words`.

    Attributes
    ----------
    state : (4, LANES) uint64.
    words : (m,) uint64; bits : (2 m,) uint32, the same memory.
    used : (1,) int64, how many of `bits` are spent.
    """

    state: NDArray[np.uint64]
    words: NDArray[np.uint64]
    bits: NDArray[np.uint32]
    used: NDArray[np.int64]


def build_source(lanes: int, seed: int, *key: int | str) -> Source:
    """Return the stream `key` of `seed`, from which up to `lanes` numbers are taken at a time."""
    blocks = -(-max(lanes, _LEAST_LANES) // (2 * BITS_BLOCK))
    words = np.empty(blocks * BITS_BLOCK, dtype=np.uint64)
    bits = words.view(np.uint32)
    return Source(lane_state(seed, *key), words, bits, np.array([bits.size], dtype=np.int64))


@njit(cache=True, nogil=True, forceinline=True)
def take(source, n):  # type: ignore[no-untyped-def]
    """Return the next `n` of the 32-bit numbers, (n,) uint32."""
    start = source.used[0]
    if start + n > source.bits.size:
        fill_bits(source.state, source.words)
        start = 0
    source.used[0] = start + n
    return source.bits[start : start + n]


@njit(cache=True, nogil=True, forceinline=True)
def below(source, n):  # type: ignore[no-untyped-def]
    """Return an integer uniform on 0 .. n - 1, each probability exact to 2^-32."""
    return np.int64((np.uint64(take(source, 1)[0]) * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True, forceinline=True)
def shuffle(order, source):  # type: ignore[no-untyped-def]
    """Put `order` (m,) into random order (Fisher and Yates), in place; exact to m 2^-32."""
    bits = source.bits
    for k in range(order.size - 1, 0, -1):
        if source.used[0] == bits.size:
            fill_bits(source.state, source.words)
            source.used[0] = 0
        number = np.uint64(bits[source.used[0]])
        source.used[0] += 1
        j = (number * np.uint64(k + 1)) >> np.uint64(32)
        order[k], order[j] = order[j], order[k]


def threshold(probability: float) -> np.uint32:
    """Return `probability` as the number that 32 random bits must be below."""
    return np.uint32(min(round(probability * 2.0**32), 2**32 - 1))


NEVER = np.uint32(2**32 - 1)
"""Below no threshold."""

_CERTAIN = 63 / 64


def metropolis(coupling: float, most: int, even: float) -> tuple[np.uint32, ...]:
    """Return the thresholds of Metropolis moves that lose -1 or fewer, 0, 1 .. `most` bonds.

    The acceptance ratio of a move and its reverse is exp(-coupling x bonds lost), as it must be.
    A move that loses nothing has the probability `even`, which is free to choose. No move is
    certain, so that nothing done to all blocks at once is periodic or stuck.
    """
    worse = [_CERTAIN * math.exp(-coupling * lost) for lost in range(1, most + 1)]
    return tuple(threshold(p) for p in (_CERTAIN, even, *worse))


@njit(cache=True, nogil=True, inline="always")
def threshold_of(thresholds, lost):  # type: ignore[no-untyped-def]
    """Return the entry of `metropolis`' tuple for `lost` bonds; no table look-up, so vectorised."""
    chosen = thresholds[0]
    for k in range(1, len(thresholds)):
        chosen = thresholds[k] if lost >= k - 1 else chosen
    return chosen


@njit(cache=True, nogil=True, inline="always")
def propose(cells, n, old, new, states, source):  # type: ignore[no-untyped-def]
    """Write the proposed states of a plane at `new`.

    With two states it is the other one; with more, m - s mod q of a random m, the same for all
    blocks: for a given m this pairs the states off, so that the move is its own reverse, and all
    pairs are equally likely.
    """
    total = np.int8(1 if states == 2 else below(source, states))
    for i in range(n):
        state = np.int8(total - cells[old + i])
        cells[new + i] = state + (states if state < 0 else np.int8(0))


@njit(cache=True, nogil=True, inline="always")
def lost_by_flip(lost, cells, bonds, sides, p, old, new, gain):  # type: ignore[no-untyped-def]
    """Set `lost` to the bonds lost by the proposal; half of them if not `gain`."""
    first = np.int8(0 if gain else -bonds.shape[1] // 2)
    for i in range(np.uint64(lost.size)):
        lost[i] = first
    add_lost_bonds(lost, cells, bonds, sides, p, old, new, gain)


class Given(NamedTuple):
    """One coarse lattice in states 0 .. q - 1, n blocks in a row.

    Attributes
    ----------
    values : (q, n) int64 counts of states, or (n,) int8 states.
    priority : (q, n) int8, by which ties are decided; all 0 where it is not known.
    """

    values: NDArray[Any]
    priority: NDArray[np.int8]


class Moves(ABC):
    """Moves of one rule for one model at one temperature, on blocks of one layout.

    Parameters
    ----------
    layout : of the blocks.
    values : what a site may hold, in the order of the states 0 .. q - 1.
    coupling : energy of a bond between unequal neighbours over that between equal ones, over T.
    """

    changed = 1
    """Sites that a move changes."""
    even = 3 / 4
    """Probability of a move that loses no bond."""

    def __init__(self, layout: Layout, values: tuple[int, ...], coupling: float) -> None:
        self.layout, self.values, self.coupling = layout, values, coupling
        self.states = len(values)

    @property
    def thresholds(self) -> tuple[np.uint32, ...]:
        """Acceptance of a move; for two states in steps of two bonds lost."""
        step = 2 if self.states == 2 else 1
        most = self.changed * self.layout.bonds.shape[1] // step
        return metropolis(step * self.coupling, most, self.even)

    @property
    def bond(self) -> np.uint32:
        """The threshold of 1 - exp(-coupling), at which clusters are bound."""
        return threshold(-math.expm1(-self.coupling))

    def encode(self, lattices: NDArray[Any]) -> States:
        """Return the states 0 .. q - 1 of what a store holds."""
        lowest, step = self.values[0], self.values[1] - self.values[0]
        return ((lattices.astype(np.int8) - lowest) // step).astype(np.int8)

    def decode(self, states: States) -> States:
        """Return what a store holds of states 0 .. q - 1."""
        lowest, step = self.values[0], self.values[1] - self.values[0]
        return (states * np.int8(step) + np.int8(lowest)).astype(np.int8)

    def read(self, coarse: NDArray[Any]) -> NDArray[Any]:
        """Return stored coarse values (n, ...) as `Given.values`, (n, ..., blocks)."""
        return self.encode(coarse).reshape(len(coarse), -1)

    @abstractmethod
    def fill(self, planes: States, given: Given, state: NDArray[np.uint64]) -> None:
        """Fill `planes` (P, n), uniformly from the consistent ones, by the generator `state`."""

    @abstractmethod
    def holds(self, planes: States, given: Given) -> bool:
        """Return whether `planes` (P, n) coarse-grain to what is given."""

    @abstractmethod
    def start(
        self, given: Given, planes: States, cells: States, source: Source
    ) -> tuple[Callable[[int], None], Callable[[int], None] | None]:
        """Return what makes so many sweeps of `cells`, and so many redraws of clusters, or None.

        `cells` ((P + 3) n,) begins with the `planes`; the rest is scratch space.
        """
