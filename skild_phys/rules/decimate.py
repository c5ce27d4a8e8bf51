"""Decimation: the site (0, 0) of each block is kept, whatever it holds.

The moves change the free sites: a sweep goes through their positions in order, and at each a new
state is proposed in all blocks at once (`moves.propose_flips`). Clusters are redrawn all at once;
those with a kept site stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import next_u64
from skild_phys.rules.base import Array, Operator, Raw, Rule, Shape, TieBreak, Ties, corners
from skild_phys.rules.moves import (
    Given,
    Moves,
    Source,
    States,
    label_clusters,
    propose_flips,
    take,
    threshold_of,
)


class _Corners(Operator):
    """The value at site (0, 0) of each block; A A^T = 1."""

    def filter(self, side: int) -> NDArray[np.complex128]:
        return np.ones(side, dtype=np.complex128)

    def apply(self, x: Array) -> Array:
        return np.ascontiguousarray(x[corners(self.factor, len(self.shape))])


class Decimate(Rule):
    """int8 spins or states of the sites (0, 0) of the blocks; of fields their values."""

    name = "decimate"
    stores = {"spins": "spins", "states": "states", "field": "field"}
    linear = _Corners
    exact = True
    shown = True

    def reduce(self, fine: Raw, factor: int, dimension: int, q: int, ties: TieBreak) -> Raw:
        kept = np.ascontiguousarray(fine[corners(factor, dimension)])
        return kept.astype(np.float32) if fine.dtype.kind == "f" else kept

    def condition(self, raw: Raw, shape: Shape, factor: int, ties: Ties, device: Any) -> Any:
        from skild_phys.rules.conditions import Sites

        return Sites(raw, factor, device)

    def moves(self, shape: Shape, factor: int, values: tuple[int, ...], coupling: float) -> Moves:
        return _FreeFlips(shape, factor, values, coupling)


@njit(cache=True, nogil=True)
def _flip_free(cells, layout, states, thresholds, source, sweeps):  # type: ignore[no-untyped-def]
    """Make `sweeps` sweeps over every position but the first, which decimation keeps, in place.

    Parameters
    ----------
    cells : ((P + 3) n,) int8, the P planes and three more of scratch space.
    layout : of the blocks.
    states : their number q.
    thresholds : of `Moves`.
    source : random numbers.
    """
    bonds, sides = layout.bonds, layout.sides
    positions, n = bonds.shape[0], np.uint64(layout.ahead.shape[1])
    lost = np.empty(n, dtype=np.int8)
    for _ in range(sweeps):
        for p in range(1, positions):
            old = np.uint64(p) * n
            new = propose_flips(lost, cells, bonds, sides, p, states, source)
            bits = take(source, n)
            for i in range(n):
                a, c = cells[old + i], cells[new + i]
                cells[old + i] = c if bits[i] < threshold_of(thresholds, lost[i]) else a


@njit(cache=True, nogil=True)
def _cluster_free(cells, layout, states, bond, source, sweeps):  # type: ignore[no-untyped-def]
    """Redraw the clusters `sweeps` times; those with a site of plane 0 keep their state.

    Arguments as in `_flip_free`; `bond` is the threshold of 1 - exp(-coupling).
    """
    positions, n = layout.bonds.shape[0], layout.ahead.shape[1]
    parent = np.empty(positions * n, dtype=np.uint32)
    fresh = np.empty(positions * n, dtype=np.int8)
    for _ in range(sweeps):
        label_clusters(cells, layout, bond, source, parent)
        fresh[:n] = cells[:n]
        for p in range(1, positions):
            bits = take(source, n)
            for i in range(n):
                fresh[p * n + i] = (np.uint64(bits[i]) * np.uint64(states)) >> np.uint64(32)
        for site in range(parent.size):
            cells[site] = fresh[parent[site]]


@njit(cache=True, nogil=True)
def _fill_free(cells, kept, states, state):  # type: ignore[no-untyped-def]
    """Fill `cells` uniformly, but for plane 0, which becomes `kept` (n,)."""
    positions, n = cells.shape
    cells[0] = kept
    for p in range(1, positions):
        for block in range(n):
            value = (next_u64(state) >> np.uint64(32)) * np.uint64(states) >> np.uint64(32)
            cells[p, block] = value


class _FreeFlips(Moves):
    """Changes of the sites that are not kept."""

    def fill(self, planes: States, given: Given, state: NDArray[np.uint64]) -> None:
        _fill_free(planes, given.values, self.states, state)

    def holds(self, planes: States, given: Given) -> bool:
        return bool(np.array_equal(planes[0], given.values))

    def start(
        self, given: Given, planes: States, cells: States, source: Source
    ) -> tuple[Callable[[int], None], Callable[[int], None]]:
        layout, q, thresholds, bond = self.layout, self.states, self.thresholds, self.bond
        return (
            lambda k: _flip_free(cells, layout, q, thresholds, source, k),
            lambda k: _cluster_free(cells, layout, q, bond, source, k),
        )
