"""Monte Carlo moves that keep a coarse configuration, in all blocks at once.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the configurations
that coarse-grain to the given one. Each rule has moves that stay inside that set and connect all of
it, and every elementary move leaves the target invariant, so that their sequence does.

A configuration is one plane for each position inside a block: plane p holds the sites at position p
of every block, block after block, as states 0 .. q - 1. For a factor of at least 2 no two sites of
a plane are neighbours, and the neighbours of plane p are other planes, whole ones, moved by one
block where the bond crosses the edge of a block. So moves are loops over contiguous bytes.

An event of probability p happens if 32 random bits fall below 2^32 p, rounded to a whole number:
the probability is off by at most 2^-32, and relative to p by at most 2^-32 / p, which at Tc is
less than 1e-6 for every acceptance here.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state

States = NDArray[np.int8]

_LEAST_LANES = 1024

# -- random bits --------------------------------------------------------------------------------


class Source(NamedTuple):
    """A stream of 32-bit numbers, made in bulk."""

    state: NDArray[np.uint64]  # (4, LANES)
    words: NDArray[np.uint64]  # (m,)
    bits: NDArray[np.uint32]  # (2 m,), the same memory
    used: NDArray[np.int64]  # (1,), how many of `bits` are spent

    @classmethod
    def of(cls, most: int, seed: int, *key: int | str) -> Source:
        """Return the stream `key` of `seed`, to take up to `most` numbers at a time from."""
        blocks = -(-max(most, _LEAST_LANES) // (2 * BITS_BLOCK))
        words = np.empty(blocks * BITS_BLOCK, dtype=np.uint64)
        bits = words.view(np.uint32)
        return cls(lane_state(seed, *key), words, bits, np.array([bits.size], dtype=np.int64))


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
def take_below(source, n):  # type: ignore[no-untyped-def]
    """Return an integer uniform on 0 .. n - 1, each probability exact to 2^-32."""
    return np.int64((np.uint64(take(source, 1)[0]) * np.uint64(n)) >> np.uint64(32))


def _threshold(probability: float) -> np.uint32:
    """Return `probability` as the number that 32 random bits must be below."""
    return np.uint32(min(round(probability * 2.0**32), 2**32 - 1))


@njit(cache=True, nogil=True, inline="always")
def threshold_of(thresholds, lost):  # type: ignore[no-untyped-def]
    """Return the entry of `Moves.thresholds` for `lost` bonds; no look-up, so vectorised."""
    chosen = thresholds[0]
    for k in range(1, len(thresholds)):
        chosen = thresholds[k] if lost >= k - 1 else chosen
    return chosen


# -- geometry -----------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """What kernels know of the geometry, d axes, P = factor^d positions, n blocks."""

    bonds: NDArray[np.int32]
    """(P, 2 d), the position one site down (column 2 a) and up (2 a + 1) axis a; its complement ~
    where that bond leads into the next block."""
    sides: NDArray[np.int64]  # (d, 2), of an axis: blocks between next ones, blocks along it
    place: NDArray[np.int64]  # (P, d), coordinates of a position
    colour: NDArray[np.int8]  # (d, n), 0 and 1 in turn along an axis; the last of an odd number 2
    ahead: NDArray[np.int32]  # (d, n), the next block along an axis
    factor: int


@functools.lru_cache(maxsize=8)
def _build_layout(shape: tuple[int, ...], factor: int) -> _Layout:
    d = len(shape)
    place = np.array(list(itertools.product(range(factor), repeat=d)))
    bonds = np.empty((len(place), 2 * d), dtype=np.int32)
    for column, (axis, step) in enumerate(itertools.product(range(d), (-1, 1))):
        moved = place.copy()
        moved[:, axis] += step
        crosses = (moved[:, axis] < 0) | (moved[:, axis] == factor)
        other = np.ravel_multi_index((moved % factor).T, (factor,) * d)
        bonds[:, column] = np.where(crosses, ~other, other)
    blocks = np.indices(shape, dtype=np.int32).reshape(d, -1)
    colour = (blocks % 2).astype(np.int8)
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    ahead = np.stack([np.roll(numbers, -1, axis).ravel() for axis in range(d)])
    for axis, side in enumerate(shape):
        if side % 2 == 1:
            colour[axis][blocks[axis] == side - 1] = 2
    sides = np.array([(math.prod(shape[axis + 1 :]), shape[axis]) for axis in range(d)])
    return _Layout(bonds, sides, place, colour, ahead, factor)


@njit(cache=True, nogil=True, forceinline=True)
def _moved(cells, bonds, sides, n, plane, column):  # type: ignore[no-untyped-def]
    """Copy a plane, moved one block down or up an axis, to scratch space; return where that is."""
    room = np.uint64(bonds.shape[0] + (column & 1)) * n
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
    for column in range(0, bonds.shape[1], 2):
        down, up = bonds[position, column], bonds[position, column + 1]
        one, two = np.uint64(down) * n, np.uint64(up) * n
        if down < 0:
            one = _moved(cells, bonds, sides, n, np.uint64(~down) * n, column)
        if up < 0:
            two = _moved(cells, bonds, sides, n, np.uint64(~up) * n, column + 1)
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


# -- single sites -------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def propose_flips(lost, cells, bonds, sides, position, states, source):  # type: ignore[no-untyped-def]
    """Propose states for a plane; return where in `cells` they are, and set `lost` (n,).

    With two states it is the other one; with more, m - s mod q of a random m, the same for all
    blocks: for a given m this pairs the states off, so that the move is its own reverse, and all
    pairs are equally likely. `lost` are the bonds lost; half of them for two states.
    """
    n = np.uint64(lost.size)
    old, new = np.uint64(position) * n, np.uint64(bonds.shape[0] + 2) * n
    total, q = np.int8(1 if states == 2 else take_below(source, states)), np.int8(states)
    for i in range(n):
        state = np.int8(total - cells[old + i])
        cells[new + i] = state + (q if state < 0 else np.int8(0))
    gain = states > 2
    first = np.int8(0 if gain else -bonds.shape[1] // 2)
    for i in range(n):
        lost[i] = first
    add_lost_bonds(lost, cells, bonds, sides, position, old, new, gain)
    return new


# -- clusters -----------------------------------------------------------------------------------


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
def _bind_inside(cells, layout, bond, source, parent):  # type: ignore[no-untyped-def]
    """Draw the bonds inside blocks; each site joins the cluster of one below, then of others."""
    bonds, n = layout.bonds, np.uint64(layout.ahead.shape[1])
    both, flag = np.empty(n, np.uint32), np.empty(n, np.int8)
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
def label_clusters(cells, layout, bond, source, parent):  # type: ignore[no-untyped-def]
    """Bind equal neighbours with the threshold `bond`, of probability 1 - exp(-coupling).

    Swendsen and Wang, Phys. Rev. Lett. 58, 86 (1987). Sets `parent` (P n,) uint32 to the smallest
    number of a site of each site's cluster. Given the bonds every assignment of states to clusters
    that the coarse values allow has the weight of its ties, and clusters are redrawn from that
    distribution.
    """
    bonds, n = layout.bonds, np.uint64(layout.ahead.shape[1])
    _bind_inside(cells, layout, bond, source, parent)
    for p in range(bonds.shape[0]):
        site = np.uint64(p) * n
        for axis in range(layout.ahead.shape[0]):
            if bonds[p, 2 * axis + 1] >= 0:
                continue
            other = np.uint64(~bonds[p, 2 * axis + 1]) * n
            bits = take(source, n)
            for i in range(n):
                j = other + np.uint64(layout.ahead[axis, i])
                if cells[site + i] == cells[j] and bits[i] < bond:
                    _union(parent, site + i, j)
    for k in range(parent.size):
        parent[k] = parent[parent[k]]


# -- what a rule gives --------------------------------------------------------------------------


class Given(NamedTuple):
    """One coarse configuration in states 0 .. q - 1, n blocks in a row."""

    values: NDArray[Any]  # (q, n) int64 counts of states, or (n,) int8 states
    priority: NDArray[np.int8]  # (q, n), decides ties; all 0 where it is not known


class Moves(ABC):
    """Moves of one rule for one model at one temperature.

    Parameters
    ----------
    shape : sides of the coarse configurations, (ly, lx) or (lz, ly, lx).
    factor : side of a block.
    values : what a site may hold, in the order of the states 0 .. q - 1.
    coupling : energy of a bond between unequal neighbours over that between equal ones, over T.

    Attributes
    ----------
    thresholds : of Metropolis moves that lose -1 or fewer, 0, 1 .. bonds; for two states in steps
        of two bonds. The acceptance ratio of a move and its reverse is exp(-coupling x bonds
        lost), as it must be. No move is certain, so that nothing done to all blocks at once is
        periodic or stuck.
    bond : the threshold of 1 - exp(-coupling), at which clusters are bound.
    """

    changed = 1
    """Sites that a move changes."""
    even = 3 / 4
    """Probability of a move that loses no bond, which is free to choose."""
    _CERTAIN = 63 / 64

    def __init__(
        self, shape: tuple[int, ...], factor: int, values: tuple[int, ...], coupling: float
    ) -> None:
        self.layout = _build_layout(shape, factor)
        self.values, self.states = values, len(values)
        self._split = [n for side in shape for n in (side, factor)]
        step = 2 if self.states == 2 else 1
        most = self.changed * self.layout.bonds.shape[1] // step
        worse = [self._CERTAIN * math.exp(-step * coupling * k) for k in range(1, most + 1)]
        self.thresholds = tuple(map(_threshold, (self._CERTAIN, self.even, *worse)))
        self.bond = _threshold(-math.expm1(-coupling))

    def _encoded(self, values: NDArray[Any]) -> States:
        lowest, step = self.values[0], self.values[1] - self.values[0]
        return ((values.astype(np.int8) - lowest) // step).astype(np.int8)

    def planes(self, configuration: NDArray[Any]) -> States:
        """Return the planes (P, n) of a configuration (*sides) of the model's values."""
        b, d = self.layout.factor, len(self._split) // 2
        states = self._encoded(configuration).reshape(self._split)
        planes = states.transpose(*range(1, 2 * d, 2), *range(0, 2 * d, 2))
        return np.ascontiguousarray(planes.reshape(b**d, -1))

    def configuration(self, planes: States) -> States:
        """Return the configuration of planes (P, n): what `planes` undoes."""
        lowest, step = self.values[0], self.values[1] - self.values[0]
        b, d = self.layout.factor, len(self._split) // 2
        states = planes.reshape(*[b] * d, *self._split[::2])
        states = states.transpose([axis for a in range(d) for axis in (d + a, a)])
        fine = np.empty(self._split, dtype=np.int8)
        for x in range(b):  # long rows at a time, where a copy of all would go b sites at a time
            fine[..., x] = states[..., x]
        fine = fine.reshape([side * b for side in self._split[::2]])
        return fine * np.int8(step) + np.int8(lowest)

    def read(self, coarse: NDArray[Any]) -> NDArray[Any]:
        """Return stored coarse values (n, ...) as `Given.values`, (n, ..., blocks)."""
        return self._encoded(coarse).reshape(len(coarse), -1)

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
