"""95% intervals hold the true value in 93 to 97% of many repetitions.

Null hypothesis: the coverage of `value +- 1.96 error` is 95%. With 1,000 independent
repetitions the share observed has a standard deviation of 0.7%, so that 93-97% is left with
probability 0.4%; seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest

from skild_phys.errorbars import (
    Chains,
    ErrorMethod,
    Estimate,
    integrated_autocorrelation_time,
    jackknife,
)
from skild_phys.measurement.observables import OBSERVABLES, STATISTICS
from skild_phys.measurement.observables.four_point import _connected_four_point, four_point_terms
from skild_phys.measurement.system import Slice, System
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy
from skild_phys.rng import kernel_state
from skild_phys.simulation.wolff import wolff

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


@pytest.fixture(scope="module")
def torus() -> tuple[dict[str, np.ndarray], Chains, dict[str, float]]:
    """1,000 runs of 4x4 at Tc, 2,000 samples each, and exact values by enumeration."""
    model, draws = MODELS["ising2d"], 2000
    temperature = model.critical_temperature
    lattices = np.empty((draws, REPETITIONS, 4, 4), dtype=np.int8)
    for repetition in range(REPETITIONS):
        state, spins = kernel_state(31, repetition), np.ones((4, 4), dtype=np.int8)
        wolff(spins, temperature, state, 40)
        for t in range(draws):
            wolff(spins, temperature, state, 1)
            lattices[t, repetition] = spins
    rows = reduced(lattices.reshape(-1, 4, 4))
    rows = {name: a.reshape(draws, REPETITIONS, *a.shape[1:]) for name, a in rows.items()}
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    every = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    weight = np.exp(-16 * model.energy(every) / temperature)
    weight /= weight.sum()
    means = {name: np.tensordot(weight, a, 1) for name, a in reduced(every).items()}
    exact = {name: float(function(means)) for name, function in DERIVED.items()}
    return rows, chains(1, draws), exact


SYSTEM = System((4, 4), "spins")


def reduced(lattices: np.ndarray) -> dict[str, np.ndarray]:
    part = Slice(SYSTEM, lattices, np.arange(len(lattices)))
    found = {name: STATISTICS[name](part) for name in ("moments", "lowest")}
    return found | {"squares": four_point_terms(lattices, [1])[:, 0]}


DERIVED = {
    "G4c": lambda m: _connected_four_point(m["squares"]),
    "U4": lambda m: OBSERVABLES["binder_cumulant"](m, SYSTEM),
    "U2": lambda m: OBSERVABLES["binder_ratio"](m, SYSTEM),
    "xi": lambda m: OBSERVABLES["correlation_length"](m, SYSTEM),
}
METHODS = {
    "gamma": ErrorMethod(),
    "jackknife": ErrorMethod("jackknife", 40),
    "bootstrap": ErrorMethod("bootstrap", 40, 400),
}


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("method", METHODS)
def test_derived_quantities_of_real_chains(
    name: str,
    method: str,
    torus: tuple[dict[str, np.ndarray], Chains, dict[str, float]],
) -> None:
    """Reference: enumeration of the 4x4 torus. Wolff chains, autocorrelated; ratios of means."""
    rows, layout, exact = torus
    found = METHODS[method](DERIVED[name], rows, chains=layout)
    assert 0.93 < coverage(found, exact[name]) < 0.97


def test_planted_fault_bins_shorter_than_the_autocorrelation() -> None:
    """Bins of two draws of a series with tau = 4.5 make intervals too short."""
    series = ar1(0.8, 2000, 25)
    found = ErrorMethod("bootstrap", 1000, 200)(lambda m: m["x"], {"x": series})
    assert coverage(found, 0.0) < 0.75


@pytest.mark.parametrize("method", ["jackknife", "bootstrap"])
def test_bins_of_an_autoregressive_chain(method: str) -> None:
    """Reference: the mean of the series is 0; bins of 50 draws, tau = 1.5."""
    found = METHODS[method](lambda m: m["x"], {"x": ar1(0.5, 2000, 32)}, chains=chains(1, 2000))
    assert 0.93 < coverage(found, 0.0) < 0.97


def test_gamma_method_beside_pyerrors() -> None:
    """A second opinion on tau and its error, with the same S, on ten series."""
    pyerrors = pytest.importorskip("pyerrors")
    for series in ar1(0.7, 3000, 33).T[:10]:
        found = integrated_autocorrelation_time(series)
        theirs = pyerrors.Obs([series], ["chain"])
        theirs.gamma_method(S=1.5)
        error = jackknife(lambda m: m["x"], {"x": series}, chains=chains(1, 3000)).error
        assert float(found.tau) == pytest.approx(theirs.e_tauint["chain"], rel=0.02)
        assert float(error) == pytest.approx(theirs.dvalue, rel=0.02)
