"""Swendsen-Wang sweeps, and the clusters of runs that they are made of."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from conftest import TC
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy
from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state
from skild_phys.simulation.swendsen_wang import (
    Runs,
    _label,
    _redraw,
    _spread_changes,
    _unpacked,
    label_runs,
    list_starts,
    pack_planes,
    swendsen_wang,
)
from skild_phys.simulation.wolff import bond_threshold

# shape, T, q: SHA-256 of the lattice and the generator state after 20 sweeps from all 1.
GOLDEN = {
    ((16, 12), TC, 0): "be5b16f86afd59c68c9d166f624dd258b976a4e4093134b747c334fa560ad7b5",
    ((3, 70), TC, 0): "af3bf220f778f084ab84201cdde9e46335613ac05788116d6ac6df42ac2dbdd4",
    ((5, 9), 1.2, 3): "dde60700b199b3d50fc45153971248e00e4774b6bb633f6ffb0139d266e3ba55",
    ((4, 5, 6), 4.5, 0): "901894fda479b8c49b512e37b162d8becbc254be9055eeaa60b269913a105cd7",
}
SHAPES = [
    (2, 2), (2, 3), (3, 2), (2, 17), (17, 2), (16, 16), (2, 64), (5, 63), (4, 65), (65, 4),
    (2, 128), (31, 65), (9, 200), (2, 2, 2), (2, 3, 4), (3, 2, 2), (5, 6, 7), (2, 4, 70),
]  # fmt: skip
DENSITIES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.8, 0.95, 1.0)

Words = NDArray[np.uint64]
Bits = NDArray[np.bool_]


def words_of(bits: Bits) -> Words:
    """Return bits (..., rows, width) as words (..., rows, words)."""
    return pack_planes(bits)[..., 0, :, :]


def bits_of(words: Words, width: int) -> Bits:
    return np.stack([_unpacked(row[None, None], width)[0] for row in words]) > 0


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


def draw(shape: tuple[int, ...], planes: Words, p: float, state: Words) -> Bits:
    """Return the bonds of every site to the site before it, along x and then every other axis."""
    runs, width = Runs.of(shape), shape[-1]
    label_runs(planes, width, runs, np.uint32(p * 2**32), state, len(runs.taken) - 1)
    begin = bits_of(runs.starts, width)
    assert begin[:, 0].all()
    begin[:, 0] = runs.closed == 0
    joined = [bits_of(words, width) for words in runs.joined]
    return np.stack([~begin, *joined]).reshape(-1, *shape)


def label(bonds: Bits) -> tuple[Runs, int]:
    """Return the labelled runs of bonds as `draw` returns them, and how many there are."""
    shape = bonds.shape[1:]
    runs, rows = Runs.of(shape), bonds.reshape(len(bonds), -1, shape[-1])
    begin = ~rows[0]
    begin[:, 0] = True
    runs.starts[:], runs.closed[:] = words_of(begin), rows[0, :, 0]
    runs.joined[:] = words_of(rows[1:])
    runs.parent[:] = 2**32 - 1
    count = int(_label(runs))
    list_starts(runs, shape[-1])
    assert count == begin.sum()
    assert (runs.parent[count:] == 2**32 - 1).all()
    np.testing.assert_array_equal(runs.first[:count], np.flatnonzero(begin))
    assert runs.first[count] == begin.size
    return runs, count


def components(bonds: Bits) -> tuple[int, NDArray[np.int32]]:
    number = np.arange(bonds[0].size).reshape(bonds.shape[1:])
    axes = (number.ndim - 1, *range(number.ndim - 1))
    ends = [np.stack([number[b], np.roll(number, 1, a)[b]]) for a, b in zip(axes, bonds)]
    a, b = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(number.size, number.size))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_are_the_connected_components(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(11)
    for density in DENSITIES:
        for _ in range(20):
            bonds = rng.random((len(shape), *shape)) < density
            runs, count = label(bonds)
            root = runs.parent[:count]
            assert (root <= np.arange(count)).all()
            while (root[root] != root).any():
                root = root[root]
            found = np.repeat(root, np.diff(runs.first[: count + 1].astype(int)))
            clusters, labels = components(bonds)
            pairs = np.unique(np.stack([found, labels]), axis=1)
            assert pairs.shape[1] == clusters == len(np.unique(found))


@pytest.mark.parametrize("q", [2, 5])
@pytest.mark.parametrize(
    "shape", [(2, 2), (3, 5), (4, 33), (3, 64), (5, 65), (2, 130), (2, 3, 4), (3, 2, 2)], ids=str
)
def test_bonds_join_equal_neighbours_with_their_probability(shape: tuple[int, ...], q: int) -> None:
    """z of the bonds taken along each axis, |z| < 4.5; none between unequal neighbours.

    In a row and a column by themselves too: that is where the torus closes.
    """
    rng, state, p, d = np.random.default_rng(3), lane_state(12), 0.3, len(shape)
    taken, possible = np.zeros((2, d, *shape))
    for _ in range(4000):
        values = rng.integers(0, q, shape).astype(np.int8)
        planes = pack_planes(values.reshape(-1, shape[-1]), range((q - 1).bit_length()))
        bonds = draw(shape, planes, p, state)
        equal = np.stack([values == np.roll(values, 1, axis) for axis in (d - 1, *range(d - 1))])
        assert not (bonds & ~equal).any()
        taken += bonds
        possible += equal
    axes = tuple(range(1, d + 1))
    for over in (axes, *((*axes[:i], *axes[i + 1 :]) for i in range(d))):
        n, k = possible.sum(axis=over), taken.sum(axis=over)
        assert (np.abs(k - p * n) < 4.5 * np.sqrt(p * (1 - p) * n)).all()


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (2, 65), (3, 4, 5)], ids=str)
def test_each_bond_has_bits_of_its_own(shape: tuple[int, ...]) -> None:
    """At p = 1/2 and equal spins, bonds are independent bits: |z| < 5.5 for all their pairs.

    Side 2 has two bonds between the same sites.
    """
    draws, state = 20_000, lane_state(13)
    planes = pack_planes(np.ones(shape, dtype=bool).reshape(-1, shape[-1]))
    out = np.array([draw(shape, planes, 0.5, state).ravel() for _ in range(draws)])
    r = np.corrcoef(out.T.astype(float))
    assert np.abs(r[np.triu_indices(len(r), 1)]).max() * math.sqrt(draws) < 5.5


@pytest.mark.parametrize("q", [0, 3, 8])
@pytest.mark.parametrize("shape", [(3, 5), (4, 64), (5, 65), (3, 70), (3, 4, 5)], ids=str)
def test_every_cluster_gets_a_value_of_its_own(shape: tuple[int, ...], q: int) -> None:
    """Clusters are of one value; values of the roots are uniform and independent: |z| < 5.5."""
    rng, draws, state = np.random.default_rng(4), 3000, lane_state(14)
    bonds = rng.random((len(shape), *shape)) < 0.4
    runs, count = label(bonds)
    drawn = np.empty(-(-bonds[0].size // (2 * BITS_BLOCK)) * BITS_BLOCK, np.uint64)
    planes = np.empty((max(1, (q - 1).bit_length()) if q else 1, *runs.starts.shape), np.uint64)
    values = np.empty(bonds[0].size + 65, np.uint8)
    out = np.empty((draws, bonds[0].size), dtype=np.uint8)
    for i in range(draws):
        fill_bits(state, drawn)
        _redraw(planes, runs, np.uint64(count), q, drawn, values)
        out[i] = _unpacked(planes, shape[-1]).ravel()
    clusters, labels = components(bonds)
    first = np.array([np.flatnonzero(labels == i)[0] for i in range(clusters)])
    np.testing.assert_array_equal(out, out[:, first[labels]])
    roots, p = out[:, first], 1 / (q or 2)
    for kind in range(q or 2):
        share = (roots == kind).mean(axis=0)
        assert np.abs(share - p).max() < 5.5 * math.sqrt(p * (1 - p) / draws)
    r = np.corrcoef(roots.T.astype(float))[np.triu_indices(clusters, 1)]
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
def test_packing_keeps_every_value(shape: tuple[int, ...]) -> None:
    states = np.random.default_rng(6).integers(0, 8, shape).astype(np.int8).reshape(-1, shape[-1])
    words = pack_planes(states, range(3))
    np.testing.assert_array_equal(_unpacked(words, shape[-1]), states)
    for x in range(shape[-1]):
        bits = (words[:, :, x // 64] >> np.uint64(x % 64)) & np.uint64(1)
        np.testing.assert_array_equal(bits[0] + 2 * bits[1] + 4 * bits[2], states[:, x])


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
