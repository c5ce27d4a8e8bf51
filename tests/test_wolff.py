from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from conftest import TC

from skild_phys.rng import kernel_state
from skild_phys.simulation.wolff import _idle_threshold, bond_threshold, wolff

# shape, T, q: spins flipped by 50 clusters, SHA-256 of the lattice and the generator state.
GOLDEN = {
    ((16, 12), TC, 0): (6062, "6530df72ca6fcda1cc4370686ed32224e937f39612c4093945eb05607dd000f3"),
    ((5, 9), 1.2, 3): (536, "99d235cfc00bcf57714a8e07f2f74053a9ee1565edf303c166737c23e40c465e"),
    ((4, 5, 6), 4.5, 0): (1644, "3411707eed131233b83cef0941611e48bd00e7efe570ed2488af4b7271816da4"),
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_bytes_are_pinned(case: tuple[tuple[int, ...], float, int]) -> None:
    shape, temperature, q = case
    spins, state = np.ones(shape, dtype=np.int8), kernel_state(1, 2)
    flipped = wolff(spins, temperature, state, 50, q)
    digest = hashlib.sha256(spins.tobytes() + state.tobytes()).hexdigest()
    assert (flipped, digest) == GOLDEN[case]


@pytest.mark.parametrize(("shape", "q"), [((9, 9), 0), ((3, 4, 5), 0), ((9, 9), 5)])
def test_one_call_or_many(shape: tuple[int, ...], q: int) -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = np.ones(shape, dtype=np.int8), kernel_state(3)
        flipped = sum(wolff(spins, 2.5, state, clusters, q) for clusters in calls)
        results.append((flipped, spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("cost", [1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, TC, 10.0, 1e6])
def test_bond_probability(temperature: float, cost: float) -> None:
    p = -math.expm1(-cost / temperature)
    assert int(bond_threshold(cost, temperature)) / 2.0**32 == pytest.approx(p, abs=2.0**-32)


def test_bond_probability_stays_below_one() -> None:
    assert int(bond_threshold(2.0, 1e-3)) == 2**32 - 1


@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 4)])
def test_cold_lattices_flip_as_one_and_hot_ones_site_by_site(shape: tuple[int, ...]) -> None:
    spins, state = np.ones(shape, dtype=np.int8), kernel_state(0)
    assert wolff(spins, 0.05, state, 1) == 64
    assert (spins == -1).all()
    assert wolff(spins, 1e9, state, 10) == 10


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (2, 9), (300, 2), (2, 2, 2), (3, 2, 5)])
@pytest.mark.parametrize("q", [0, 2, 3, 8])
def test_any_torus_keeps_its_values(shape: tuple[int, ...], q: int) -> None:
    spins, state = np.ones(shape, dtype=np.int8), kernel_state(4)
    seen: set[int] = set()
    for _ in range(200):
        wolff(spins, 2.0, state, 1, q)
        seen |= set(np.unique(spins).tolist())
    assert seen == (set(range(q)) if q else {-1, 1})


@pytest.mark.parametrize("shape", [(2, 5), (4, 3), (2, 3, 4), (3, 4, 2)])
def test_a_cluster_is_what_is_bound_to_its_seed(shape: tuple[int, ...]) -> None:
    """At T -> 0 a cluster is the whole domain of its seed on the torus."""
    rng, state = np.random.default_rng(5), kernel_state(6)
    for _ in range(100):
        spins = (2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
        before = spins.copy()
        flipped = wolff(spins, 0.01, state, 1)
        changed = spins != before
        assert changed.sum() == flipped
        assert len(np.unique(before[changed])) == 1
        grown = np.zeros(shape, dtype=bool)
        grown.flat[np.flatnonzero(changed)[0]] = True
        while True:
            wider = grown.copy()
            for axis in range(len(shape)):
                wider |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
            wider &= before == before[changed][0]
            if (wider == grown).all():
                break
            grown = wider
        np.testing.assert_array_equal(grown, changed)


def test_a_potts_cluster_takes_each_other_state_as_often() -> None:
    spins, state = np.zeros((2, 2), dtype=np.int8), kernel_state(7)
    steps = np.zeros(5, dtype=int)
    for _ in range(20_000):
        before = int(spins[0, 0])
        wolff(spins, 0.01, state, 1, 5)
        steps[(int(spins[0, 0]) - before) % 5] += 1
    assert steps[0] == 0
    assert np.abs(steps[1:] - 5000).max() < 4 * math.sqrt(20_000 * 3 / 16)


@pytest.mark.parametrize(
    "shape", [(2**15, 2), (2, 2**15), (2**10, 2, 2), (2, 2**10, 2), (2, 2, 2**10)]
)
def test_the_longest_sides(shape: tuple[int, ...]) -> None:
    """A place in the queue holds every coordinate, up to the longest side there may be."""
    spins = np.ones(shape, dtype=np.int8)
    assert wolff(spins, 0.05, kernel_state(0), 1) == spins.size
    assert (spins == -1).all()


@pytest.mark.parametrize("q", [0, 2])
def test_single_sites_at_high_temperature_do_not_take_turns(q: int) -> None:
    """H0: as many lattices have an odd number of sites up as an even one.

    Samples are an even number of clusters apart, and nearly every cluster is one site; a cluster in
    64 is none. The parity is remembered for about 3 samples: sigma is 0.014, and 5 sigma are a
    false alarm of 6e-7. Without idle clusters all samples have the same parity.
    """
    state, spins = kernel_state(3), np.ones((4, 4), dtype=np.int8)
    odd = np.empty(8000)
    for i in range(len(odd)):
        wolff(spins, 1e6, state, 10, q)
        odd[i] = (spins == 1).sum() % 2
    assert abs(odd.mean() - 0.5) < 0.07
    assert _idle_threshold(bond_threshold(2.0, 1e6), q) > 0
    assert _idle_threshold(bond_threshold(2.0, 2.27), q) == 0
