from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import TC
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skild_phys.models import MODELS
from skild_phys.models.base import neighbour_rows
from skild_phys.models.exact import kaufman_energy
from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state
from skild_phys.simulation.swendsen_wang import swendsen_wang
from skild_phys.simulation.swendsen_wang_runs import (
    _draw_bonds,
    _label,
    _redraw,
    _spread_changes,
    pack,
    unpack,
)

SHAPES = [
    (2, 2), (2, 3), (3, 2), (2, 17), (17, 2), (16, 16), (2, 64), (3, 64), (5, 63), (4, 65),
    (65, 4), (2, 128), (7, 128), (31, 65), (64, 64), (9, 200),
]  # fmt: skip
DENSITIES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.8, 0.95, 1.0)

Words = NDArray[np.uint64]
Bits = NDArray[np.bool_]


def rows_before(shape: tuple[int, int]) -> NDArray[np.int64]:
    return neighbour_rows(shape)[:, 0].copy()


def bits_of(words: Words, width: int) -> Bits:
    out = np.empty((len(words), width), dtype=np.int8)
    unpack(words, out)
    return out > 0


def words_of(bits: Bits) -> Words:
    return pack(bits.astype(np.int8))


def draw(spins: NDArray[np.int8], p: float, state: Words) -> tuple[Bits, Bits, Words, Words]:
    """Return the bonds of every site to the site before it, along x and y; starts and joined."""
    height, width = spins.shape
    words = pack(spins)
    starts, joined, closed = np.empty_like(words), np.empty_like(words), np.empty(height, np.uint64)
    taken = np.empty(2 * spins.size // 64 + 2, dtype=np.uint64)
    _draw_bonds(
        words, width, rows_before((height, width)), np.uint32(p * 2**32), state, taken,
        starts, joined, closed,
    )  # fmt: skip
    assert bits_of(starts, width)[:, 0].all()
    along_x = ~bits_of(starts, width)
    along_x[:, 0] = closed == 1
    return along_x, bits_of(joined, width), starts, joined


def label(along_x: Bits, along_y: Bits) -> tuple[NDArray[np.uint32], NDArray[np.int64], Words]:
    """Return the parents of all runs, the run of every site, and how many start before a word."""
    height, width = along_x.shape
    begin = ~along_x
    begin[:, 0] = True
    starts = words_of(begin)
    runs, parent = np.empty_like(starts), np.full(along_x.size, 2**32 - 1, dtype=np.uint32)
    todo = np.empty((4, width + 1), dtype=np.uint32)
    closed = along_x[:, 0].astype(np.uint64)
    before = rows_before((height, width))
    count = _label(starts, words_of(along_y), closed, before, runs, parent, todo)
    assert count == begin.sum()
    assert (parent[count:] == 2**32 - 1).all()
    return parent[:count], (np.cumsum(begin) - 1).reshape(height, width), runs


def components(along_x: Bits, along_y: Bits) -> tuple[int, NDArray[np.int32]]:
    number = np.arange(along_x.size).reshape(along_x.shape)
    ends = [
        np.stack([number[taken], np.roll(number, 1, axis)[taken]])
        for axis, taken in ((1, along_x), (0, along_y))
    ]
    a, b = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(number.size, number.size))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels


def roots(parent: NDArray[np.uint32]) -> NDArray[np.uint32]:
    root = parent
    while (root[root] != root).any():
        root = root[root]
    return root


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_are_the_connected_components(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(11)
    for density in DENSITIES:
        for _ in range(20):
            along_x, along_y = rng.random((2, *shape)) < density
            parent, run, runs = label(along_x, along_y)
            assert (parent <= np.arange(len(parent))).all()
            np.testing.assert_array_equal(runs, run[:, ::64] + along_inside(along_x))
            found = roots(parent)[run].ravel()
            count, labels = components(along_x, along_y)
            pairs = np.unique(np.stack([found, labels]), axis=1)
            assert pairs.shape[1] == count == len(np.unique(found))


def along_inside(along_x: Bits) -> NDArray[np.int64]:
    """Return 1 for a word whose first site belongs to a run that began in the word before."""
    inside = along_x[:, ::64].astype(np.int64)
    inside[:, 0] = 0
    return inside


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (4, 33), (3, 64), (5, 65), (2, 130)], ids=str)
def test_bonds_join_equal_neighbours_with_their_probability(shape: tuple[int, int]) -> None:
    """z of the bonds taken along each axis, |z| < 4.5; none between unequal neighbours.

    In a row and a column by themselves too: that is where the torus closes.
    """
    rng, state, p = np.random.default_rng(3), lane_state(12), 0.3
    taken, possible = np.zeros((2, *shape)), np.zeros((2, *shape))
    for _ in range(4000):
        spins = (2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
        along_x, along_y, _, _ = draw(spins, p, state)
        for i, (axis, bond) in enumerate(((1, along_x), (0, along_y))):
            equal = spins == np.roll(spins, 1, axis)
            assert not (bond & ~equal).any()
            taken[i] += bond
            possible[i] += equal
    for axes in ((1, 2), (1,), (2,)):
        n, k = possible.sum(axis=axes), taken.sum(axis=axes)
        assert (np.abs(k - p * n) < 4.5 * np.sqrt(p * (1 - p) * n)).all()


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (2, 65)], ids=str)
def test_each_bond_has_bits_of_its_own(shape: tuple[int, int]) -> None:
    """At p = 1/2 and equal spins, bonds are independent bits: |z| < 5.5 for all their pairs.

    Side 2 has two bonds between the same sites.
    """
    draws, state = 20_000, lane_state(13)
    spins = np.ones(shape, dtype=np.int8)
    out = np.array([np.stack(draw(spins, 0.5, state)[:2]) for _ in range(draws)])
    r = np.corrcoef(out.reshape(draws, -1).T.astype(float))
    assert np.abs(r[np.triu_indices(len(r), 1)]).max() * math.sqrt(draws) < 5.5


@pytest.mark.parametrize("shape", [(3, 5), (4, 64), (5, 65), (3, 150)], ids=str)
def test_every_cluster_gets_a_value_of_its_own(shape: tuple[int, int]) -> None:
    """Clusters are of one value; values of the roots are fair and independent: |z| < 5.5."""
    rng, draws, state = np.random.default_rng(4), 3000, lane_state(14)
    along_x, along_y = rng.random((2, *shape)) < 0.4
    parent, _, runs = label(along_x, along_y)
    begin = ~along_x
    begin[:, 0] = True
    starts = words_of(begin)
    drawn, words = np.empty(BITS_BLOCK, np.uint64), np.empty_like(starts)
    values = np.empty(begin.size + 65, np.uint8)
    out = np.empty((draws, begin.size), dtype=bool)
    for i in range(draws):
        fill_bits(state, drawn)
        _redraw(starts, runs, parent, np.uint64(len(parent)), drawn, values, words)
        out[i] = bits_of(words, shape[1]).ravel()
    count, labels = components(along_x, along_y)
    first = np.array([np.flatnonzero(labels == i)[0] for i in range(count)])
    np.testing.assert_array_equal(out, out[:, first[labels]])
    fair = out[:, first].astype(float)
    assert np.abs(fair.mean(axis=0) - 0.5).max() < 5.5 * 0.5 / math.sqrt(draws)
    r = np.corrcoef(fair.T)[np.triu_indices(count, 1)]
    assert np.abs(r).max() * math.sqrt(draws) < 5.5


@njit
def spread_changes(word, starts):
    return _spread_changes(word, starts)


def test_changes_are_spread_to_the_starts_of_runs() -> None:
    rng = np.random.default_rng(5)
    for density in DENSITIES:
        for _ in range(200):
            bits, begin = rng.random(64) < 0.5, rng.random(64) < density
            expanded = np.zeros(64, dtype=bool)
            expanded[begin] = bits[: begin.sum()]
            wanted = np.cumsum(expanded) % 2 == 1
            word, starts = words_of(bits[None])[0, 0], words_of(begin[None])[0, 0]
            assert spread_changes(word, starts) == words_of(wanted[None])[0, 0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packing_keeps_every_spin(shape: tuple[int, int]) -> None:
    spins = np.random.default_rng(6).choice(np.array([-1, 1], dtype=np.int8), shape)
    back = np.zeros_like(spins)
    words = pack(spins)
    unpack(words, back)
    np.testing.assert_array_equal(back, spins)
    for x in range(shape[1]):
        bit = (words[:, x // 64] >> np.uint64(x % 64)) & np.uint64(1)
        np.testing.assert_array_equal(bit == 1, spins[:, x] == 1)


@pytest.mark.parametrize("shape", [(2, 2), (5, 63), (4, 65), (64, 64), (3, 200)], ids=str)
def test_one_call_or_many(shape: tuple[int, int]) -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = np.ones(shape, dtype=np.int8), lane_state(3)
        for sweeps in calls:
            swendsen_wang(spins, 2.5, state, sweeps)
        results.append((spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.statistical
@pytest.mark.parametrize(("side", "draws"), [(64, 12_000), (100, 6_000), (128, 4_000)])
def test_energy_agrees_with_kaufman(side: int, draws: int) -> None:
    """Null: Kaufman's energy at Tc, from 40 bins of draws 4 sweeps apart; |t| < 4, once in 3,700.

    tau of the energy is 1.2 L^0.35 sweeps, so that a bin is over 50 tau long.
    """
    spins, state = np.ones((side, side), dtype=np.int8), lane_state(15)
    swendsen_wang(spins, TC, state, 300)
    energy = np.empty(draws)
    for i in range(draws):
        swendsen_wang(spins, TC, state, 4)
        energy[i] = MODELS["ising2d"].energy(spins)
    bins = energy.reshape(40, -1).mean(axis=1)
    error = bins.std(ddof=1) / math.sqrt(len(bins))
    assert abs(bins.mean() - kaufman_energy(side, TC)) < 4 * error
