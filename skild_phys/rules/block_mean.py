"""Block means: of spins the sum of each block, of states their numbers, of fields the mean.

The moves exchange two sites of a block, which keeps the number of each state in it. A sweep pairs
the positions of a block at random, the same way in all blocks, and exchanges each pair with
Metropolis' probability in all blocks at once. Two sites of one pair are neighbours of those of the
next block only if they lie at opposite edges of the same row; such a pair is exchanged first in
every second block along that row, then in the others (and in the last block by itself where their
number is odd), so that what moves together does not interact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.fields import FIELDS, Field
from skild_phys.rng import below, fill_bits
from skild_phys.rules.base import Array, Operator, Raw, Rule, Shape, TieBreak, Ties
from skild_phys.rules.moves import (
    Given,
    Moves,
    Source,
    States,
    add_lost_bonds,
    take,
    threshold_of,
)

_MOST_SITES = 2**15 - 1  # the last block sum that int16 holds
_NEVER = np.uint32(2**32 - 1)  # below no threshold


def _sums(values: NDArray[Any], q: int, sites: int) -> str | None:
    wide = values.astype(np.int32)
    bad = (np.abs(wide) > sites) | ((wide - sites) & 1 != 0)
    return f"a number that is no sum of {sites} spins" if bad.any() else None


def _counts(values: NDArray[Any], q: int, sites: int) -> str | None:
    good = (values >= 0).all() and (values.sum(axis=1, dtype=np.int64) == sites).all()
    return None if good else f"counts that are not those of {sites} sites"


FIELDS |= {
    "block_sum": Field(
        "int16", -(2**15), "mean spin of a block, stored as its sum", _sums, scaled=True
    ),
    "state_count": Field(
        "int16", -1, "share of a block's sites in each state, stored as their number",
        _counts, "state", scaled=True, of_states=True,
    ),
}  # fmt: skip


class _Means(Operator):
    """The mean over each block; A A^T = b^-d."""

    def filter(self, side: int) -> NDArray[np.complex128]:
        angles = 2.0 * np.pi * np.fft.fftfreq(side)
        phases = np.exp(1j * np.outer(angles, np.arange(self.factor)))
        return np.asarray(phases.mean(axis=1))

    def apply(self, x: Array) -> Array:
        d = len(self.shape)
        return np.asarray(_totals(x, self.factor, d) / self.factor**d)


class BlockMean(Rule):
    """Of spins int16 sums, (n, *sides / factor); of states int16 counts (n, q, *sides / factor)."""

    name = "block_mean"
    stores = {"spins": "block_sum", "states": "state_count", "field": "field"}
    linear = _Means
    exact = True
    suffix = "coarse"
    shown = True

    def scale(self, kind: str, factor: int, dimension: int) -> float:
        if kind == "field":
            return 1.0
        if factor**dimension > _MOST_SITES:
            largest = int(_MOST_SITES ** (1.0 / dimension))
            raise BadInput("factor", factor, f"at most {largest} for block means")
        return 1.0 / float(factor**dimension)

    def reduce(self, fine: Raw, factor: int, dimension: int, q: int, ties: TieBreak) -> Raw:
        if fine.dtype.kind == "f":
            return super().reduce(fine, factor, dimension, q, ties)
        return counted(fine, factor, dimension, q)

    def read(self, values: NDArray[Any], factor: int, dimension: int, where: str) -> NDArray[Any]:
        sites = factor**dimension
        sums = values.astype(np.float64) * (sites if values.dtype.kind == "f" else 1)
        whole = np.rint(sums)
        near = np.abs(sums - whole) < 1e-3
        valid = near & (np.abs(whole) <= sites) & ((whole - sites) % 2 == 0)
        if not valid.all():
            bad = values[~valid].flat[0]
            what = "mean (floating point)" if values.dtype.kind == "f" else "sum (integer)"
            raise StoreError(f"{where}: {bad} is no {what} over {sites} spins of -1 and +1")
        return whole.astype(np.int16)

    def values(self, raw: Raw, seen: Operator, power: Array) -> Array:
        sites = seen.factor ** len(seen.shape) if raw.dtype.kind == "i" else 1
        return np.asarray(raw / float(sites))

    def condition(self, raw: Raw, shape: Shape, factor: int, ties: Ties, device: Any) -> Any:
        from skild_phys.rules.conditions import Blocks

        return Blocks(raw, factor)

    def moves(self, shape: Shape, factor: int, values: tuple[int, ...], coupling: float) -> Moves:
        return _Exchanges(shape, factor, values, coupling)


def _totals(values: NDArray[Any], factor: int, dimension: int) -> NDArray[Any]:
    """Return totals over blocks of the last axes: float64 of real numbers, int16 of int8.

    Adding strided slices is many times faster than a sum over several axes.
    """
    real = values.dtype.kind == "f"
    for axis in range(1, dimension + 1):
        dtype = np.float64 if real else np.int8 if factor**axis < 128 else np.int16
        later: Any = [slice(None)] * (dimension - axis)
        first, *rest = (values[(..., slice(i, None, factor), *later)] for i in range(factor))
        values = first.astype(dtype)
        for part in rest:
            values += part
    return values if real else values.astype(np.int16, copy=False)


def counted(fine: NDArray[Any], factor: int, dimension: int, q: int) -> NDArray[np.int16]:
    """Return the sums of spins over blocks; of states how many of a block's sites are in each."""
    if not q:
        return _totals(fine, factor, dimension)
    each = [_totals((fine == k).view(np.int8), factor, dimension) for k in range(q)]
    return np.stack(each, axis=1)


@njit(cache=True, nogil=True, forceinline=True)
def _shuffle(order, source):  # type: ignore[no-untyped-def]
    """Set `order` (m,) to a random order of 0 .. m - 1 (Fisher and Yates); exact to m 2^-32."""
    bits = source.bits
    for k in range(order.size):
        order[k] = k
    for k in range(order.size - 1, 0, -1):
        if source.used[0] == bits.size:
            fill_bits(source.state, source.words)
            source.used[0] = 0
        j = (np.uint64(bits[source.used[0]]) * np.uint64(k + 1)) >> np.uint64(32)
        source.used[0] += 1
        order[k], order[j] = order[j], order[k]


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


@njit(cache=True, nogil=True)
def _exchange(cells, layout, gain, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps of exchanges, in place; `gain` if there are more than two states.

    `cells` ((P + 3) n,) int8 are the planes and scratch space, `thresholds` those of `Moves`.
    """
    bonds, sides, place, factor = layout.bonds, layout.sides, layout.place, layout.factor
    positions, n = place.shape[0], np.uint64(layout.ahead.shape[1])
    order, lost = np.empty(positions, dtype=np.int64), np.empty(n, dtype=np.int8)
    for _ in range(sweeps):
        _shuffle(order, source)
        for k in range(0, positions - 1, 2):
            p, r = order[k], order[k + 1]
            one, two = np.uint64(p) * n, np.uint64(r) * n
            axis, shared, interact = _adjacency(place, sides, factor, p, r)
            # The bonds between the two stay; the sums over neighbours miss that, and count them
            # as gained. Where the two states are equal the numbers mean nothing.
            first = np.int8(2 * shared if gain else shared - bonds.shape[1])
            for colour in range(2 + sides[axis, 1] % 2 if interact else 1):
                for i in range(n):
                    lost[i] = first
                add_lost_bonds(lost, cells, bonds, sides, p, one, two, gain)
                add_lost_bonds(lost, cells, bonds, sides, r, two, one, gain)
                bits = take(source, n)
                for i in range(n if interact else np.uint64(0)):
                    # No threshold is met by the largest number: the other colours stay.
                    bits[i] |= np.uint32(0) if layout.colour[axis, i] == colour else _NEVER
                for i in range(n):
                    a, c = cells[one + i], cells[two + i]
                    moves = bits[i] < threshold_of(thresholds, lost[i])
                    cells[one + i] = c if moves else a
                    cells[two + i] = a if moves else c


@njit(cache=True, nogil=True)
def _fill_counts(cells, counts, state):  # type: ignore[no-untyped-def]
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


class _Exchanges(Moves):
    """Exchanges of two sites inside their blocks."""

    changed = 2
    even = 31 / 32

    def read(self, coarse: NDArray[Any]) -> NDArray[np.int64]:
        n, size = len(coarse), len(self.layout.place)
        raw = coarse.astype(np.int64).reshape(n, -1, self.layout.ahead.shape[1])
        # Of spins sums are given, (n, 1, blocks).
        sums = raw.shape[1] == 1
        counts = np.concatenate([size - raw, size + raw], axis=1) // 2 if sums else raw
        even = (raw - size) % 2 == 0 if sums else counts.sum(axis=1) == size
        if not ((counts >= 0).all() and even.all()):
            what = f"{size} spins have these block {'sums' if sums else 'counts'}"
            raise BadInput("factor", self.layout.factor, f"a factor whose {what}")
        return counts

    def fill(self, planes: States, given: Given, state: NDArray[np.uint64]) -> None:
        _fill_counts(planes, given.values, state)

    def holds(self, planes: States, given: Given) -> bool:
        return bool(np.array_equal(count_states(planes, self.states), given.values))

    def start(
        self, given: Given, planes: States, cells: States, source: Source
    ) -> tuple[Callable[[int], None], None]:
        """Return the sweeps alone. Redraws of the clusters inside a block, at their total, gained
        nothing at factors 8 and 16: the slow modes lie elsewhere."""
        layout, gain, thresholds = self.layout, self.states > 2, self.thresholds
        return lambda k: _exchange(cells, layout, gain, thresholds, source, k), None


def count_states(planes: States, states: int) -> NDArray[np.int64]:
    """Return how often each state is in each block of `planes` (P, n): (states, n)."""
    return np.stack([np.count_nonzero(planes == state, axis=0) for state in range(states)])
