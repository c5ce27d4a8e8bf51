from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from conftest import TC
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skild_phys.models.base import neighbour_rows
from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state
from skild_phys.simulation.swendsen_wang import _redraw, draw_bonds, label_clusters, swendsen_wang
from skild_phys.simulation.wolff import bond_threshold

# shape, T, q: SHA-256 of the lattice and the generator state after 20 sweeps from all 1.
GOLDEN = {
    ((16, 12), TC, 0): "be5b16f86afd59c68c9d166f624dd258b976a4e4093134b747c334fa560ad7b5",
    ((3, 70), TC, 0): "af3bf220f778f084ab84201cdde9e46335613ac05788116d6ac6df42ac2dbdd4",
    ((5, 9), 1.2, 3): "dde60700b199b3d50fc45153971248e00e4774b6bb633f6ffb0139d266e3ba55",
    ((4, 5, 6), 4.5, 0): "901894fda479b8c49b512e37b162d8becbc254be9055eeaa60b269913a105cd7",
}
SHAPES = [
    (2, 2), (2, 3), (3, 2), (2, 17), (17, 2), (16, 16), (31, 65),
    (2, 2, 2), (2, 3, 4), (3, 2, 2), (5, 6, 7), (8, 8, 8),
]  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_bytes_are_pinned(case: tuple[tuple[int, ...], float, int]) -> None:
    shape, temperature, q = case
    spins, state = np.ones(shape, dtype=np.int8), lane_state(1, 2)
    swendsen_wang(spins, temperature, state, 20, q)
    assert hashlib.sha256(spins.tobytes() + state.tobytes()).hexdigest() == GOLDEN[case]


@pytest.mark.parametrize(("shape", "q"), [((9, 9), 0), ((3, 4, 5), 0), ((9, 9), 5)])
def test_one_call_or_many(shape: tuple[int, ...], q: int) -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = np.ones(shape, dtype=np.int8), lane_state(3)
        for sweeps in calls:
            swendsen_wang(spins, 2.5, state, sweeps, q)
        results.append((spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


def before(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.ascontiguousarray(neighbour_rows(shape)[:, ::2])


def axes_of_bits(shape: tuple[int, ...]) -> list[int]:
    """Return the axis of a lattice that each bit of a site's bonds stands for."""
    return [len(shape) - 1, *range(len(shape) - 1)]


def clusters(bonds: NDArray[np.uint8], shape: tuple[int, ...]) -> tuple[int, NDArray[np.int32]]:
    """Return how many clusters bonds (..., bit i: to the site before along an axis) make."""
    number = np.arange(math.prod(shape)).reshape(shape)
    ends = []
    for bit, axis in enumerate(axes_of_bits(shape)):
        taken = (bonds.reshape(shape) >> bit) & 1 == 1
        ends.append(np.stack([number[taken], np.roll(number, 1, axis)[taken]]))
    a, b = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(number.size, number.size))
    count, label = connected_components(graph, directed=False)
    return int(count), label


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_are_the_connected_components(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(11)
    sites, width = math.prod(shape), shape[-1]
    for density in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.8, 0.95, 1.0):
        for _ in range(20):
            taken = rng.random((len(shape), sites)) < density
            bits = taken * (1 << np.arange(len(shape)))[:, None]
            bonds = bits.sum(axis=0).astype(np.uint8)
            parent = np.full(sites, -1, dtype=np.int32)
            todo = np.empty(width + 1, dtype=np.int32)
            label_clusters(bonds.reshape(-1, width), before(shape), parent, todo)
            assert (parent <= np.arange(sites)).all()
            root = parent
            while (root[root] != root).any():
                root = root[root]
            count, label = clusters(bonds, shape)
            pairs = np.unique(np.stack([root, label]), axis=1)
            assert pairs.shape[1] == count == len(np.unique(root))


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (4, 33), (2, 3, 4), (3, 2, 2)])
def test_bonds_join_equal_neighbours_with_their_probability(shape: tuple[int, ...]) -> None:
    """z of the bonds taken along each axis, |z| < 4.5; none between unequal neighbours."""
    rng, state = np.random.default_rng(3), lane_state(12)
    sites, width, p = math.prod(shape), shape[-1], 0.3
    words = np.empty(-(-sites * len(shape) // (2 * BITS_BLOCK)) * BITS_BLOCK, dtype=np.uint64)
    taken, possible = np.zeros(len(shape)), np.zeros(len(shape))
    for _ in range(2000):
        spins = rng.integers(0, 3, shape).astype(np.int8)
        bonds = np.empty((sites // width, width), dtype=np.uint8)
        fill_bits(state, words)
        draw_bonds(spins.reshape(-1, width), before(shape), np.uint32(p * 2**32), words, bonds)
        assert bonds.max() < 2 ** len(shape)
        for bit, axis in enumerate(axes_of_bits(shape)):
            equal = spins == np.roll(spins, 1, axis)
            bond = (bonds.reshape(shape) >> bit) & 1 == 1
            assert not (bond & ~equal).any()
            taken[bit] += bond.sum()
            possible[bit] += equal.sum()
    assert (np.abs(taken - p * possible) < 4.5 * np.sqrt(p * (1 - p) * possible)).all()


def test_each_bond_has_bits_of_its_own() -> None:
    """At p = 1/2 and equal spins, bonds are independent bits: |z| < 5.5 for all their pairs."""
    shape, draws, state = (3, 4, 5), 20_000, lane_state(13)
    words = np.empty(2 * BITS_BLOCK, dtype=np.uint64)
    out = np.empty((draws, 12, 5), dtype=np.uint8)
    spins = np.ones((12, 5), dtype=np.int8)
    for i in range(draws):
        fill_bits(state, words)
        draw_bonds(spins, before(shape), np.uint32(2**31), words, out[i])
    bits = np.stack([(out >> b) & 1 for b in range(3)], axis=-1).reshape(draws, -1).astype(float)
    r = np.corrcoef(bits.T)[np.triu_indices(bits.shape[1], 1)]
    assert np.abs(r).max() * math.sqrt(draws) < 5.5


@pytest.mark.parametrize("q", [0, 3])
def test_every_cluster_gets_a_value_of_its_own(q: int) -> None:
    """Clusters are of one value; values of the roots are uniform and independent: |z| < 5.5."""
    sites, draws, state = 150, 5000, lane_state(14)
    rng = np.random.default_rng(4)
    parent = np.array([rng.integers(0, i + 1) if rng.random() < 0.5 else i for i in range(sites)])
    root = parent.copy()
    while (root[root] != root).any():
        root = root[root]
    words, values = np.empty(2 * BITS_BLOCK, np.uint64), np.empty(sites, np.int8)
    out = np.empty((draws, sites), dtype=np.int8)
    for i in range(draws):
        fill_bits(state, words)
        _redraw(out[i], parent.astype(np.int32), q, words, values)
    np.testing.assert_array_equal(out, out[:, root])
    roots = out[:, np.unique(root)].astype(float)
    kinds = (0, 1, 2) if q else (-1, 1)
    for kind in kinds:
        share, n = (roots == kind).mean(axis=0), draws
        p = 1 / len(kinds)
        assert np.abs(share - p).max() < 5.5 * math.sqrt(p * (1 - p) / n)
    r = np.corrcoef(roots.T)[np.triu_indices(roots.shape[1], 1)]
    assert np.abs(r).max() * math.sqrt(draws) < 5.5


def test_threshold_fits_its_type_at_any_temperature() -> None:
    for temperature in (1e-3, 0.05, 1.0, 1e6, 1e12):
        assert 0 <= int(np.uint32(bond_threshold(2.0, temperature))) < 2**32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("q", [0, 2, 3, 8])
def test_any_torus_keeps_its_values(shape: tuple[int, ...], q: int) -> None:
    spins = np.ones(shape, dtype=np.int8)
    seen: set[int] = set()
    state = lane_state(4)
    for _ in range(100):
        swendsen_wang(spins, 3.0, state, 1, q)
        seen |= set(np.unique(spins).tolist())
    assert seen == (set(range(q)) if q else {-1, 1})


def test_a_cold_lattice_stays_whole_and_takes_either_value() -> None:
    spins, state, signs = np.ones((8, 8), dtype=np.int8), lane_state(5), []
    for _ in range(200):
        swendsen_wang(spins, 0.05, state, 1)
        assert (spins == spins[0, 0]).all()
        signs.append(int(spins[0, 0]))
    assert abs(sum(signs)) < 4 * math.sqrt(200)
