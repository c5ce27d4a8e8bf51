"""The samplers draw from the Gibbs distribution: chi-square on 4 x 4, energy on larger tori.

Null hypothesis of each chi-square: the counts of (E, M) among independent samples are
multinomial with the probabilities of full enumeration. Samples are ten integrated
autocorrelation times apart, those of the slowest of E, M, |M| (Wolff: at most 1.3 clusters;
Metropolis: 54, 10.3, 2.6 sweeps at T = Tc, 3, 4.5). A sound sampler is rejected at p < 1e-4,
so once in 10^4 seeds; seeds are fixed. Each planted fault must be rejected at p < 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numba import njit
from numpy.typing import NDArray

from skild_phys.lattice.models import MODELS
from skild_phys.rng import below, kernel_state, next_u64
from skild_phys.simulate.chain import Ensemble, SimulationSpec
from skild_phys.simulate.metropolis import _metropolis, acceptance_thresholds
from skild_phys.simulate.wolff import _wolff, bond_threshold

pytestmark = pytest.mark.statistical

MODEL = MODELS["ising2d"]
TC = MODEL.critical_temperature
# e(Tc) and C(Tc) per site (Kaufman, Phys. Rev. 76, 1232, 1949).
KAUFMAN = {
    8: (-1.4915891074, 1.1455592),
    16: (-1.4530648528, 1.4987050),
    32: (-1.4336584661, 1.8467676),
    64: (-1.4239383898, 2.1922114),
    128: (-1.4190762721, 2.5363313),
    256: (-1.4166449542, 2.8797863),
}


@njit
def wolff_step(spins, table, state, every):
    _wolff(spins, table[0], state, every, np.empty(spins.size, np.int32))


@njit
def metropolis_step(spins, table, state, every):
    _metropolis(spins, table, state, every)


@njit
def stop_at_flips_step(spins, table, state, every):
    """Planted fault: sample once `every` times N spins have been flipped."""
    flipped = 0
    while flipped < every * spins.size:
        flipped += _wolff(spins, table[0], state, 1, np.empty(spins.size, np.int32))


@njit
def open_wolff_step(spins, table, state, every):
    """Planted fault: clusters do not grow across the boundary."""
    side = spins.shape[0]
    stack = np.empty(spins.size, np.int32)
    for _ in range(every):
        seed = below(state, spins.size)
        old = spins[seed // side, seed % side]
        spins[seed // side, seed % side] = -old
        stack[0] = seed
        top = 1
        while top > 0:
            top -= 1
            y, x = stack[top] // side, stack[top] % side
            for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                inside = 0 <= v < side and 0 <= u < side
                if inside and spins[v, u] == old and next_u64(state) < table[0]:
                    spins[v, u] = -old
                    stack[top] = v * side + u
                    top += 1


@njit
def open_metropolis_step(spins, table, state, every):
    """Planted fault: sites at the boundary have fewer neighbours."""
    side = spins.shape[0]
    for _ in range(every * spins.size):
        site = below(state, spins.size)
        y, x = site // side, site % side
        h = 0
        for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
            if 0 <= v < side and 0 <= u < side:
                h += spins[y, x] * spins[v, u]
        if h <= 0 or next_u64(state) < table[(h + 4) >> 1]:
            spins[y, x] = -spins[y, x]


@njit
def energy_and_magnetization(spins):
    height, width = spins.shape
    bonds, total = 0, 0
    for y in range(height):
        for x in range(width):
            total += spins[y, x]
            bonds += spins[y, x] * (spins[y, (x + 1) % width] + spins[(y + 1) % height, x])
    return -bonds, total


def sample(
    step: Callable[..., None], table: NDArray[Any], side: int, every: int, count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return total energies and magnetizations of `count` samples, `every` updates apart."""

    @njit
    def record(spins, table, state, every, energy, magnetization):
        step(spins, table, state, 20 * every)
        for i in range(len(energy)):
            step(spins, table, state, every)
            energy[i], magnetization[i] = energy_and_magnetization(spins)

    spins = np.ones((side, side), dtype=np.int8)
    energy, magnetization = np.empty(count, np.int64), np.empty(count, np.int64)
    record(spins, table, kernel_state(seed), every, energy, magnetization)
    return energy, magnetization


def enumerate_levels(side: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Return the levels (E, M) of all configurations, and how many have each."""
    number = np.arange(2 ** (side * side), dtype=np.int64)
    bits = (number[:, None] >> np.arange(side * side)) & 1
    spins = (2 * bits - 1).astype(np.int8).reshape(-1, side, side)
    energy = np.rint(MODEL.energy(spins) * side**2).astype(np.int64)
    magnetization = spins.sum(axis=(1, 2), dtype=np.int64)
    levels, counts = np.unique(np.stack([energy, magnetization]), axis=1, return_counts=True)
    return levels[0], levels[1], counts


def p_value(energy: NDArray[Any], magnetization: NDArray[Any], side: int, t: float) -> float:
    """Return the chi-square p value of samples against enumeration; rare levels are pooled."""
    e, m, degeneracy = enumerate_levels(side)
    weight = degeneracy * np.exp(-(e - e.min()) / t)
    expected = len(energy) * weight / weight.sum()
    key = {level: i for i, level in enumerate(zip(e.tolist(), m.tolist(), strict=True))}
    index = [key[level] for level in zip(energy.tolist(), magnetization.tolist(), strict=True)]
    observed = np.bincount(index, minlength=len(e))
    rare = expected < 20
    cells = [(observed[~rare], expected[~rare])]
    if rare.any():
        cells.append((observed[rare].sum(keepdims=True), expected[rare].sum(keepdims=True)))
    o, x = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    return float(scipy.stats.chi2.sf(((o - x) ** 2 / x).sum(), len(o) - 1))


def wolff_table(t: float) -> NDArray[np.uint64]:
    return np.array([bond_threshold(t)])


SOUND = [
    (wolff_step, wolff_table, 4, 2.0, 10, 200_000),
    (wolff_step, wolff_table, 4, TC, 10, 200_000),
    (wolff_step, wolff_table, 4, 3.5, 20, 200_000),
    (wolff_step, wolff_table, 3, TC, 10, 200_000),
    (wolff_step, wolff_table, 2, TC, 10, 200_000),
    (metropolis_step, acceptance_thresholds, 4, TC, 560, 40_000),
    (metropolis_step, acceptance_thresholds, 4, 3.0, 110, 100_000),
    (metropolis_step, acceptance_thresholds, 4, 4.5, 30, 100_000),
    (metropolis_step, acceptance_thresholds, 3, 4.5, 30, 100_000),
    (metropolis_step, acceptance_thresholds, 2, 4.5, 30, 100_000),
]


@pytest.mark.parametrize(("step", "table", "side", "t", "every", "count"), SOUND)
def test_counts_agree_with_enumeration(
    step: Any, table: Any, side: int, t: float, every: int, count: int
) -> None:
    energy, magnetization = sample(step, table(t), side, every, count, seed=2)
    assert p_value(energy, magnetization, side, t) > 1e-4


PLANTED = {
    "wolff at beta + 1%": (wolff_step, wolff_table(TC / 1.01), TC, 10, 200_000),
    "wolff with open boundary": (open_wolff_step, wolff_table(TC), TC, 10, 50_000),
    "wolff with p 2% too small": (
        wolff_step,
        (wolff_table(TC).astype(float) * 0.98).astype(np.uint64),
        TC,
        10,
        200_000,
    ),
    "wolff stopped at 2 N flips": (stop_at_flips_step, wolff_table(TC), TC, 2, 50_000),
    "metropolis at beta + 1%": (
        metropolis_step,
        acceptance_thresholds(3.0 / 1.01),
        3.0,
        110,
        200_000,
    ),
    "metropolis with open boundary": (
        open_metropolis_step,
        acceptance_thresholds(3.0),
        3.0,
        110,
        50_000,
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_fault_is_rejected(fault: str) -> None:
    step, table, t, every, count = PLANTED[fault]
    energy, magnetization = sample(step, table, 4, every, count, seed=3)
    assert p_value(energy, magnetization, 4, t) < 1e-6


def deviation(energy: NDArray[np.float64], exact: float, bins: int = 50) -> float:
    """Return (mean - exact) / error, the error from the scatter of `bins` bins in time order."""
    means = energy[: len(energy) // bins * bins].reshape(bins, -1).mean(axis=1)
    return float((means.mean() - exact) / (means.std(ddof=1) / np.sqrt(bins)))


def specific_heat_deviation(energy: NDArray[np.float64], side: int, bins: int = 50) -> float:
    """Return the same for C = N (<e^2> - <e>^2) / T^2, by jackknife over the bins."""
    e = energy[: len(energy) // bins * bins].reshape(bins, -1)
    first, second = e.mean(axis=1), (e**2).mean(axis=1)
    n = bins - 1
    left_out = (second.sum() - second) / n - ((first.sum() - first) / n) ** 2
    values = np.append(left_out, second.mean() - first.mean() ** 2) * side**2 / TC**2
    error = np.sqrt(n / bins * ((values[:-1] - values[:-1].mean()) ** 2).sum())
    return float((values[-1] - KAUFMAN[side][1]) / error)


@pytest.mark.parametrize(
    ("side", "count"),
    [
        (8, 20_000),
        (16, 20_000),
        (32, 10_000),
        (64, 4_000),
        (128, 1_500),
        pytest.param(256, 4_000, marks=pytest.mark.slow),
    ],
)
def test_energy_and_specific_heat_at_tc_agree_with_kaufman(side: int, count: int) -> None:
    """Null: the exact values; |t| < 4 with 49 degrees of freedom fails once in 4,700 seeds."""
    energy, _ = sample(wolff_step, wolff_table(TC), side, 8, count, seed=4)
    assert abs(deviation(energy / side**2, KAUFMAN[side][0])) < 4
    assert abs(specific_heat_deviation(energy / side**2, side)) < 4


def test_energy_test_sees_a_state_dependent_stopping_time() -> None:
    energy, _ = sample(stop_at_flips_step, wolff_table(TC), 16, 2, 20_000, seed=4)
    assert deviation(energy / 16**2, KAUFMAN[16][0]) < -10


def test_metropolis_energy_agrees_with_kaufman() -> None:
    energy, _ = sample(metropolis_step, acceptance_thresholds(TC), 8, 20, 30_000, seed=5)
    assert abs(deviation(energy / 8**2, KAUFMAN[8][0])) < 4
    assert abs(specific_heat_deviation(energy / 8**2, 8)) < 4


@pytest.mark.parametrize("algorithm", ["wolff", "metropolis"])
def test_hot_and_cold_starts_agree_after_the_default_burn_in(algorithm: str) -> None:
    """Null: the first sample of a chain has Kaufman's energy from either start; |z| < 4."""
    for start in ("hot", "cold"):
        spec = SimulationSpec(8, TC, 1, algorithm=algorithm, chains=400, start=start)
        ensemble = Ensemble(spec)
        updates = int(ensemble.spec.every or 0) + int(ensemble.spec.burn_in or 0)
        for chain in range(spec.chains):
            ensemble.advance(chain, updates, lambda: False)
        assert abs(deviation(MODEL.energy(ensemble.spins), KAUFMAN[8][0])) < 4
