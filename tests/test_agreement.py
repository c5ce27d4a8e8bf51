"""chi^2 of many residuals with their covariance: under the null, and with an effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from store_helpers import simulate

from skild_phys.errorbars import Chains, ErrorMethod, Estimate, Means, jackknife
from skild_phys.measurement.agreement import Agreement, agreement_of
from skild_phys.measurement.compare import _independent
from skild_phys.measurement.observables import STATISTICS
from skild_phys.measurement.rows import collect
from skild_phys.measurement.system import System
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store

PLACES = np.arange(5)


def apart_of(*sides: tuple[Means, Chains]) -> Estimate:
    """Return the difference of two independent ensembles."""
    return _independent(ErrorMethod(), lambda a, b: a["x"] - b["x"], *sides, influence=True)


def residuals(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Rows of five strongly correlated numbers of mean `shift`."""
    rng = np.random.default_rng(seed)
    return shift + rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 5))


def judged(rows: np.ndarray, chains: Chains | None = None) -> Agreement:
    found = jackknife(lambda m: m["x"], {"x": rows}, chains=chains, influence=True)
    return agreement_of(found, np.arange(rows.shape[1]))


def one_chain(draws: int) -> Chains:
    return Chains(np.zeros(draws, dtype=np.int64), np.arange(draws))


@pytest.mark.statistical
def test_probabilities_are_uniform_under_the_null() -> None:
    """H0: p by Hotelling is uniform even for 20 rows; 1,000 sets, 5 bins of 200(13)."""
    p = [judged(residuals(20, seed)).p for seed in range(1000)]
    counts = np.histogram(p, 5, (0, 1))[0]
    assert (np.abs(counts - 200) < 4.5 * np.sqrt(200 * 0.8)).all()
    # A planted fault, the diagonal in place of the covariance, is far off.
    naive = []
    for seed in range(200):
        rows = residuals(20, seed)
        z = rows.mean(axis=0) / (rows.std(axis=0, ddof=1) / np.sqrt(20))
        naive.append((z**2).sum() > 11.07)
    assert np.mean(naive) > 0.1


def test_a_difference_that_no_single_place_shows() -> None:
    """0.05 at one of five places: half an error there, but it does not fluctuate like that."""
    rows = residuals(400, 1)
    rows[:, 2] += 0.05
    found = judged(rows)
    assert found.dof == 5
    assert found.p < 1e-6
    z = rows.mean(axis=0) / (rows.std(axis=0, ddof=1) / 20)
    assert np.abs(z).max() < 3


def test_places_without_fluctuation_are_left_out() -> None:
    rows = residuals(100, 2)
    rows[:, 1] = 0.0
    rows[:, 3] = 2 * rows[:, 4]
    assert judged(rows).dof == 3


def test_too_few_lattices_say_nothing() -> None:
    assert np.isnan(judged(residuals(9, 3)).chi2)
    assert np.isfinite(judged(residuals(10, 3)).chi2)
    few = jackknife(lambda m: m["x"], {"x": residuals(100, 3)}, bins=9, influence=True)
    assert np.isnan(agreement_of(few, PLACES).chi2)
    single = jackknife(lambda m: m["x"], {"x": residuals(1, 3)}, influence=True)
    assert np.isnan(agreement_of(single, PLACES).chi2)


def test_covariance_has_the_errors_on_its_diagonal() -> None:
    rows = residuals(200, 4)
    for bins in (None, 20):
        found = jackknife(lambda m: m["x"], {"x": rows}, bins=bins, influence=True)
        moved = found.influence[0].rows
        assert np.sqrt((moved**2).sum(axis=0)) == pytest.approx(found.error, rel=1e-12)
    drawn = ErrorMethod("bootstrap", 20, 4000)(lambda m: m["x"], {"x": rows}, influence=True)
    assert drawn.influence[0].rows == pytest.approx(moved)
    assert drawn.error == pytest.approx(found.error, rel=0.06)


def autoregressive(kind: str, draws: int, sets: int, seed: int) -> np.ndarray:
    """Stationary AR(1) vectors (sets, draws, 7): every combination has a time of its own.

    `common`: a slow mode that all share, rho = 0.5, and fast ones of a tenth. `mixed`: seven
    modes, rho = 0 .. 0.7, of which each component is another combination.
    """
    rng = np.random.default_rng(seed)
    rho = np.array([0.5, 0, 0, 0, 0, 0, 0, 0]) if kind == "common" else np.linspace(0, 0.7, 7)
    modes = rng.normal(size=(sets, draws, len(rho)))
    for t in range(1, draws):
        modes[:, t] = rho * modes[:, t - 1] + np.sqrt(1 - rho**2) * modes[:, t]
    if kind == "common":
        return modes[..., :1] + 0.1 * modes[..., 1:]
    return modes @ np.random.default_rng(0).normal(size=(7, 7))


def one_time_a_place(found: Estimate, size: int) -> float:
    """Return p as a planted fault makes it: the covariance of rows, with a tau for each place."""
    (moved,) = found.influence
    rows = moved.rows * np.sqrt(np.maximum(2 * found.tau, 1))
    n = float(np.median(found.n_eff))
    chi2 = found.value @ np.linalg.solve(rows.T @ rows, found.value)
    return float(stats.f.sf((n - size) / (size * (n - 1)) * chi2, size, n - size))


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["common", "mixed"])
def test_probabilities_are_uniform_on_correlated_chains(kind: str) -> None:
    """H0: p is uniform, of 400 draws that are worth about 130; KS > 1e-3 of 200 sets.

    Also of the difference of two chains, one half as long. Planted, seen to fail: a tau for each
    place (KS < 1e-4), and rows taken as independent.
    """
    sets = autoregressive(kind, 400, 200, 8)
    n_eff, p, planted = [], [], []
    for rows in sets:
        found = jackknife(lambda m: m["x"], {"x": rows}, chains=one_chain(400), influence=True)
        p.append(agreement_of(found, np.arange(7)).p)
        planted.append(one_time_a_place(found, 7))
        n_eff.append(np.median(found.n_eff))
    assert 100 < np.mean(n_eff) < 250
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    if kind == "common":
        assert stats.kstest(planted, "uniform").pvalue < 1e-4
    naive = [judged(rows).p for rows in sets]
    assert stats.kstest(naive, "uniform").pvalue < 1e-6
    apart = []
    for one, two in zip(sets, autoregressive(kind, 200, 200, 9)):
        sides = (({"x": a}, one_chain(len(a))) for a in (one, two))
        apart.append(agreement_of(apart_of(*sides), np.arange(7)).p)
    assert stats.kstest(apart, "uniform").pvalue > 1e-3


@pytest.mark.statistical
def test_probabilities_are_uniform_on_metropolis_chains(tmp_path: Path) -> None:
    """H0: G(r, 0) of one Metropolis chain is that of another; 100 pairs of 16x16 at T = 2.6.

    400 draws two sweeps apart, worth about 130; p uniform by KS > 1e-3. And where the other is
    at T = 2.7, p < 0.05 in more than half of the pairs: a bar that is not too long.
    """
    draws, rows, chains = 400, {}, 100
    for temperature, seed in ((2.6, 1), (2.6, 2), (2.7, 3)):
        path = tmp_path / f"{seed}.zarr"
        simulate(
            SimulationSpec(
                16, temperature, chains * draws, algorithm="metropolis", chains=chains,
                every=2, burn_in=300, seed=seed,
            ),
            path,
        )  # fmt: skip
        store = open_store(path)
        found = collect(store, System.of(store), [STATISTICS["axis"]]).rows["axis"]
        order = np.lexsort((store.variable("draw"), store.variable("chain")))
        rows[seed] = found[order].reshape(chains, draws, -1)[..., [1, 2, 4, 8]]

    def differences(one: int, two: int) -> list[float]:
        found = []
        for sides in zip(rows[one], rows[two]):
            estimates = (({"x": a}, one_chain(draws)) for a in sides)
            found.append(agreement_of(apart_of(*estimates), np.arange(4)).p)
        return found

    assert stats.kstest(differences(1, 2), "uniform").pvalue > 1e-3
    assert np.mean(np.array(differences(1, 3)) < 0.05) > 0.5


def test_rows_whose_bins_do_not_fluctuate_have_no_covariance() -> None:
    """Planted, seen to fail: a division by the rank, 0."""
    found = judged(np.tile([[1.0], [-1.0]], (4, 1)), one_chain(8))
    assert (found.dof, np.isnan(found.chi2), np.isnan(found.p)) == (0, True, True)
