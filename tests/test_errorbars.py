"""Jackknife against formulas, autocorrelation times of AR(1) series, layouts of chains."""

from __future__ import annotations

import numpy as np
import pytest

from skild_phys.errorbars import (
    Chains,
    integrated_autocorrelation_time,
    jackknife,
)
from skild_phys.errors import BadInput


def ar1(rho: float, draws: int, columns: int, seed: int) -> np.ndarray:
    """Stationary AR(1) series of unit variance: tau_int = (1 + rho) / (2 (1 - rho))."""
    noise = np.random.default_rng(seed).normal(size=(draws, columns))
    series = np.empty_like(noise)
    series[0] = noise[0]
    for t in range(1, draws):
        series[t] = rho * series[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return series


def one_chain(draws: int) -> Chains:
    return Chains(np.zeros(draws, dtype=np.int64), np.arange(draws))


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    x = np.random.default_rng(11).normal(size=(50, 3))
    found = jackknife(lambda m: m["x"], {"x": x})
    assert found.value == pytest.approx(x.mean(axis=0))
    assert found.error == pytest.approx(x.std(axis=0, ddof=1) / np.sqrt(50), rel=1e-12)


def test_jackknife_of_a_ratio_is_linear_error_propagation() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(5.0, 1.0, size=4000)
    y = 2.0 + 0.3 * x + rng.normal(0.0, 0.5, size=4000)
    found = jackknife(lambda m: m["x"] / m["y"], {"x": x, "y": y})
    gradient = np.array([1 / y.mean(), -x.mean() / y.mean() ** 2])
    expected = np.sqrt(gradient @ np.cov(x, y) @ gradient / 4000)
    assert float(found.error) == pytest.approx(expected, rel=1e-2)


def test_paired_rows_cancel_what_they_share() -> None:
    rng = np.random.default_rng(13)
    shared, noise = rng.normal(size=400), 0.01 * rng.normal(size=400)
    paired = jackknife(lambda m, t: m["x"] - t["x"], {"x": shared + noise}, {"x": shared})
    assert float(paired.error) == pytest.approx(noise.std(ddof=1) / 20, rel=1e-9)
    # A planted fault, pairing the wrong rows, loses the cancellation.
    wrong = jackknife(lambda m, t: m["x"] - t["x"], {"x": np.roll(shared, 1)}, {"x": shared})
    assert float(wrong.error) > 50 * float(paired.error)


def test_bins_average_first() -> None:
    x = np.random.default_rng(14).normal(size=120)
    found = jackknife(lambda m: m["x"], {"x": x}, bins=12)
    means = x.reshape(12, 10).mean(axis=1)
    assert float(found.error) == pytest.approx(means.std(ddof=1) / np.sqrt(12))
    shuffled = np.random.default_rng(15).permutation(120)
    again = jackknife(
        lambda m: m["x"], {"x": x[shuffled]}, chains=one_chain(120).take(shuffled), bins=12
    )
    assert float(again.error) == pytest.approx(float(found.error))


@pytest.mark.parametrize("bins", [0, 1, -3, 11])
def test_impossible_bins_are_refused(bins: int) -> None:
    with pytest.raises(BadInput, match="bins"):
        jackknife(lambda m: m["x"], {"x": np.arange(10.0)}, bins=bins)


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(BadInput, match="common length"):
        jackknife(lambda m: m["x"] + m["y"], {"x": np.arange(3.0), "y": np.arange(4.0)})


def test_a_single_row_has_no_error() -> None:
    found = jackknife(lambda m: m["x"], {"x": np.ones((1, 2))})
    assert np.isnan(found.error).all()
    assert (found.value == 1).all()


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_tau_of_autoregressive_series(rho: float) -> None:
    """The mean over 100 series of 4,000 draws lies within 5% of the exact tau."""
    found = integrated_autocorrelation_time(ar1(rho, 4000, 100, 16))
    exact = (1 + rho) / (2 * (1 - rho))
    assert found.tau.mean() == pytest.approx(exact, rel=0.05)
    assert found.error.mean() == pytest.approx(found.tau.std(), rel=0.3)


def test_order_of_storage_does_not_matter() -> None:
    """Interleaved chains, chains one after the other, and shuffled rows give the same tau."""
    series = ar1(0.7, 500, 4, 17)
    chain, draw = np.meshgrid(np.arange(4), np.arange(500))
    interleaved = Chains(chain.ravel(), draw.ravel())
    found = integrated_autocorrelation_time(series.ravel(), interleaved)
    shuffle = np.random.default_rng(18).permutation(2000)
    again = integrated_autocorrelation_time(series.ravel()[shuffle], interleaved.take(shuffle))
    assert float(found.tau) == pytest.approx(float(again.tau), rel=1e-12)
    assert float(found.tau) == pytest.approx(17 / 6, rel=0.25)
    # A planted fault, taking the order of storage for the order in time, sees no correlation.
    assert float(integrated_autocorrelation_time(series.ravel()[shuffle]).tau) < 0.7


def test_spacing_and_gaps_of_draws() -> None:
    series = ar1(0.7, 4000, 1, 19)
    plain = integrated_autocorrelation_time(series)
    spaced = Chains(np.zeros(4000, dtype=np.int64), 40 + 20 * np.arange(4000))
    same = integrated_autocorrelation_time(series, spaced)
    assert same.tau == pytest.approx(plain.tau, rel=1e-12)
    kept = np.sort(np.random.default_rng(20).permutation(4000)[:3000])
    gaps = integrated_autocorrelation_time(series[kept], one_chain(4000).take(kept))
    assert gaps.tau == pytest.approx(17 / 6, rel=0.2)
    ignored = integrated_autocorrelation_time(series[kept])
    assert float(ignored.tau[0]) < float(gaps.tau[0])


def test_times_far_apart_are_numbered_in_order() -> None:
    series = ar1(0.5, 300, 1, 21)
    wild = np.cumsum(np.random.default_rng(22).integers(1, 10**6, size=300))
    found = integrated_autocorrelation_time(series, Chains(np.zeros(300, dtype=np.int64), wild))
    assert found.tau == pytest.approx(integrated_autocorrelation_time(series).tau)


def test_constant_series_and_single_draws() -> None:
    assert float(integrated_autocorrelation_time(np.ones(20)).tau) == 0.5
    alone = Chains(np.arange(20), np.zeros(20, dtype=np.int64))
    x = np.random.default_rng(23).normal(size=20)
    found = integrated_autocorrelation_time(x, alone)
    assert (float(found.tau), int(found.window)) == (0.5, 0)
    error = jackknife(lambda m: m["x"], {"x": x}, chains=alone).error
    assert float(error) == pytest.approx(x.std(ddof=1) / np.sqrt(20))


def test_chains_widen_the_error_by_two_tau() -> None:
    series = ar1(0.8, 5000, 40, 24)
    plain = jackknife(lambda m: m["x"], {"x": series})
    found = jackknife(lambda m: m["x"], {"x": series}, chains=one_chain(5000))
    assert found.error / plain.error == pytest.approx(np.sqrt(2 * found.tau))
    assert found.tau.mean() == pytest.approx(4.5, rel=0.05)


@pytest.mark.parametrize("value", [0.25, 1 / 3, -5 / 3, 1 / 9, 0.0, 1e9 / 3])
def test_constants_are_independent(value: float) -> None:
    """Rounding of the mean is no fluctuation: tau 1/2, window 0."""
    found = integrated_autocorrelation_time(np.full(100, value))
    assert (float(found.tau), int(found.window)) == (0.5, 0)


def test_chains_that_take_turns_have_times_of_their_own() -> None:
    """Chain 0 at even draws, chain 1 at odd ones: rho = 0.8 has tau = 4.5 all the same."""
    series = ar1(0.8, 4000, 2, 34)
    chain, draw = np.repeat([0, 1], 4000), np.concatenate([np.arange(0, 8000, 2)] * 2)
    aligned = integrated_autocorrelation_time(series.T.ravel(), Chains(chain, draw))
    staggered = integrated_autocorrelation_time(series.T.ravel(), Chains(chain, draw + chain))
    assert float(staggered.tau) == float(aligned.tau) == pytest.approx(4.5, rel=0.25)


def test_one_odd_draw_does_not_steer_the_window() -> None:
    series = ar1(0.8, 4001, 1, 35).ravel()
    draw = np.append(np.arange(0, 8000, 2), 8001)
    found = integrated_autocorrelation_time(series, Chains(np.zeros(4001, dtype=np.int64), draw))
    assert float(found.tau) == pytest.approx(4.5, rel=0.25)
