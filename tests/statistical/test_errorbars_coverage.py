"""95% intervals hold the true value in 93 to 97% of many repetitions.

Null hypothesis: the coverage of `value +- 1.96 error` is 95%. With 1,000 independent
repetitions the share observed has a standard deviation of 0.7%, so that 93-97% is left with
probability 0.4%; seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest

from skild_phys.errorbars import Chains, Estimate, jackknife
from skild_phys.lattice.exact import kaufman_energy
from skild_phys.lattice.models import MODELS
from skild_phys.rng import kernel_state
from skild_phys.simulate.wolff import wolff

pytestmark = pytest.mark.statistical
REPETITIONS = 1000


def coverage(found: Estimate, exact: float) -> float:
    return float((np.abs(found.value - exact) < 1.96 * found.error).mean())


def ar1(rho: float, draws: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(draws, REPETITIONS))
    for t in range(1, draws):
        noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return noise


def chains(number: int, draws: int) -> Chains:
    chain, draw = np.meshgrid(np.arange(number), np.arange(draws), indexing="ij")
    return Chains(chain.ravel(), draw.ravel())


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_mean_of_an_autoregressive_chain(rho: float) -> None:
    """Reference: the mean of the series is 0."""
    series = ar1(rho, 2000, 25)
    found = jackknife(lambda m: m["x"], {"x": series}, chains=chains(1, 2000))
    assert 0.93 < coverage(found, 0.0) < 0.97


def test_nonlinear_function_of_an_autoregressive_chain() -> None:
    """Reference: the correlation <x_t x_{t+1}> / <x^2> of the series is rho."""
    x = ar1(0.6, 4001, 26)
    rows = {"product": x[1:] * x[:-1], "square": x[1:] ** 2}
    found = jackknife(lambda m: m["product"] / m["square"], rows, chains=chains(1, 4000))
    assert 0.93 < coverage(found, 0.6) < 0.97


def test_planted_fault_autocorrelation_ignored() -> None:
    """Without chains, rho = 0.8 makes intervals three times too short: coverage near 49%."""
    assert coverage(jackknife(lambda m: m["x"], {"x": ar1(0.8, 2000, 25)}), 0.0) < 0.6


def test_paired_difference_of_correlated_series() -> None:
    """Reference: two series that share most of their fluctuation have the same mean."""
    shared, own = ar1(0.8, 1000, 27), ar1(0.3, 1000, 28)
    found = jackknife(
        lambda m, t: m["x"] - t["x"],
        {"x": shared + 0.1 * own},
        {"x": shared},
        chains=chains(1, 1000),
    )
    assert 0.93 < coverage(found, 0.0) < 0.97


def test_energy_of_real_chains() -> None:
    """Reference: Kaufman's energy at L = 8, Tc, one cluster between draws, 1,000 runs.

    Every run has two chains of 500 draws, stored interleaved.
    """
    model, draws = MODELS["ising2d"], 500
    temperature = model.critical_temperature
    energy = np.empty((draws, 2, REPETITIONS))
    for repetition in range(REPETITIONS):
        for chain in range(2):
            state = kernel_state(29, repetition, chain)
            spins = np.ones((8, 8), dtype=np.int8)
            wolff(spins, temperature, state, 40)
            lattices = np.empty((draws, 8, 8), dtype=np.int8)
            for t in range(draws):
                wolff(spins, temperature, state, 1)
                lattices[t] = spins
            energy[:, chain, repetition] = model.energy(lattices)
    layout = Chains(np.tile([0, 1], draws), np.repeat(np.arange(draws), 2))
    rows = {"e": energy.reshape(2 * draws, REPETITIONS)}
    found = jackknife(lambda m: m["e"], rows, chains=layout)
    assert 0.93 < coverage(found, kaufman_energy(8, temperature)) < 0.97
    naive = jackknife(lambda m: m["e"], rows)
    assert coverage(naive, kaufman_energy(8, temperature)) < 0.85
