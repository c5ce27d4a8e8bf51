"""_Clusters against a flood fill, and FK clusters against exact identities of the ensemble."""

from __future__ import annotations

from collections import deque
from itertools import product

import numpy as np
import pytest
from measurement_helpers import statistic

from skild_phys.measurement.observables.clusters import (
    _bin_sizes,
    _Clusters,
    _fk_clusters,
    _geometric_clusters,
    _size_edges,
)
from skild_phys.models import MODELS

SPINS = np.array([-1, 1], dtype=np.int8)


def flood(lattice: np.ndarray) -> list[int]:
    """Return the sizes of all geometric clusters of a periodic lattice."""
    shape, seen, sizes = lattice.shape, set(), []
    for start in product(*map(range, shape)):
        if start in seen:
            continue
        seen.add(start)
        todo, size = deque([start]), 0
        while todo:
            site = todo.popleft()
            size += 1
            for axis, step in product(range(len(shape)), (1, -1)):
                near = tuple((x + step * (a == axis)) % shape[a] for a, x in enumerate(site))
                if near not in seen and lattice[near] == lattice[site]:
                    seen.add(near)
                    todo.append(near)
        sizes.append(size)
    return sizes


def agrees(found: _Clusters, lattices: np.ndarray) -> bool:
    sites = lattices[0].size
    edges = _size_edges(sites)
    for i, lattice in enumerate(lattices):
        sizes = np.array(flood(lattice))
        counts = np.histogram(sizes, edges - 0.5)[0]
        if not (
            found.largest[i] == sizes.max() / sites
            and found.mean_size[i] == pytest.approx((sizes**2.0).sum() / sites)
            and np.allclose(found.density[i] * np.diff(edges) * sites, counts)
        ):
            return False
    return True


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (2, 6), (1, 5), (4, 5, 6)])
@pytest.mark.parametrize("q", [0, 3])
def test_geometric_clusters_equal_a_flood_fill(shape: tuple[int, ...], q: int) -> None:
    rng = np.random.default_rng(1)
    values = np.arange(q, dtype=np.int8) if q else SPINS
    lattices = rng.choice(values, size=(6, *shape))
    lattices[0] = values[0]
    assert agrees(_geometric_clusters(lattices), lattices)


def test_planted_fault_open_boundary() -> None:
    """A frame of a state of its own cuts the torus open; its cluster is taken off again."""

    def cut_open(lattices: np.ndarray) -> _Clusters:
        framed = np.full((len(lattices), 9, 9), 5, dtype=np.int8)
        framed[:, :8, :8] = lattices
        found = _geometric_clusters(framed)
        counts = found.density * np.diff(_size_edges(81)) * 81
        counts[:, np.searchsorted(_size_edges(81), 17, side="right") - 1] -= 1
        counts = counts[:, : len(_size_edges(64)) - 1]
        density = counts / (np.diff(_size_edges(64)) * 64)
        mean_size = (found.mean_size * 81 - 17**2) / 64
        return _Clusters(density, found.largest * 81 / 64, mean_size)

    stripes = np.ones((1, 8, 8), dtype=np.int8)
    stripes[:, 1::4] = stripes[:, 2::4] = -1
    whole = stripes.copy()
    whole[:, -1] = whole[:, 0] = -whole[:, 1]
    inside = np.ones((1, 8, 8), dtype=np.int8)
    inside[:, 2:5, 2:5] = -1
    assert agrees(cut_open(inside), inside)
    lattices = np.random.default_rng(2).choice(SPINS, size=(6, 8, 8))
    assert not agrees(cut_open(lattices), lattices)


def test_fk_clusters_of_extreme_temperatures() -> None:
    lattices = np.random.default_rng(3).choice(SPINS, size=(4, 8, 8))
    index = np.arange(4)
    cold = _fk_clusters(lattices, 0.05, 2.0, seed=1, index=index)
    assert np.allclose(cold.density, _geometric_clusters(lattices).density)
    hot = _fk_clusters(lattices, 1e12, 2.0, seed=1, index=index)
    assert np.allclose(hot.largest, 1 / 64)


def enumerated(q: int) -> tuple[np.ndarray, np.ndarray, float]:
    """All 3x3 lattices with their Gibbs weights at Tc."""
    model = MODELS[f"potts{q}" if q else "ising2d"]
    states = np.array(list(product(model.values, repeat=9)), dtype=np.int8).reshape(-1, 3, 3)
    weight = np.exp(-9 * model.energy(states) / model.critical_temperature)
    return states, weight / weight.sum(), model.critical_temperature


def mean_size_off(q: int, temperature_of_bonds: float) -> float:
    """Return z of the FK clusters' mean size minus N <order^2>, of 100,000 draws at Tc."""
    states, weight, _ = enumerated(q)
    drawn = states[np.random.default_rng(7).choice(len(states), 100_000, p=weight)]
    found = _fk_clusters(
        drawn, temperature_of_bonds, 1.0 if q else 2.0, seed=8, index=np.arange(len(drawn))
    ).mean_size
    if q:
        shares = np.stack([(drawn == a).mean((1, 2)) for a in range(q)])
        order = (q * (shares**2).sum(axis=0) - 1) / (q - 1)
    else:
        order = drawn.mean((1, 2)) ** 2
    off = found - 9 * order
    return float(off.mean() / (off.std(ddof=1) / np.sqrt(len(off))))


@pytest.mark.statistical
@pytest.mark.parametrize("q", [0, 3])
def test_mean_size_of_fk_clusters_is_the_susceptibility(q: int) -> None:
    """H0: <sum s^2 / N> = N <order^2> over the enumerated 3x3 ensemble at Tc, exactly.

    |z| < 4 fails by chance in 6e-5. Planted: bonds at a temperature 10% off.
    """
    temperature = enumerated(q)[2]
    assert abs(mean_size_off(q, temperature)) < 4
    assert abs(mean_size_off(q, 1.1 * temperature)) > 8


def test_bonds_depend_on_seed_and_index_alone() -> None:
    lattices = np.random.default_rng(4).choice(SPINS, size=(6, 16, 16))
    whole = _fk_clusters(lattices, 2.27, 2.0, seed=5, index=np.arange(6))
    part = _fk_clusters(lattices[4:], 2.27, 2.0, seed=5, index=np.array([4, 5]))
    assert np.array_equal(part.density, whole.density[4:])
    other = _fk_clusters(lattices, 2.27, 2.0, seed=6, index=np.arange(6))
    assert not np.array_equal(other.density, whole.density)


@pytest.mark.parametrize("sites", [1, 2, 3, 5, 9, 64, 100])
def test_bins_hold_every_size_once(sites: int) -> None:
    edges = _size_edges(sites)
    assert edges[0] == 1
    assert edges[-1] == sites + 1
    assert (np.diff(edges) > 0).all()
    inside = _bin_sizes(sites)
    assert ((inside >= edges[:-1]) & (inside < edges[1:])).all()


def test_domain_walls_are_unequal_bonds() -> None:
    stripes = np.ones((1, 4, 6), dtype=np.int8)
    stripes[:, :2] = -1
    assert statistic("walls", stripes)[0] == pytest.approx(12 / 24)
    spins = np.random.default_rng(6).choice(SPINS, size=(3, 6, 8))
    energy = MODELS["ising2d"].energy(spins)
    assert statistic("walls", spins) == pytest.approx((energy + 2) / 2)
    cube = np.random.default_rng(6).choice(SPINS, size=(3, 4, 4, 6))
    assert statistic("walls", cube) == pytest.approx((MODELS["ising3d"].energy(cube) + 3) / 2)
