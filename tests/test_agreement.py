"""chi^2 of many residuals with their covariance: its law under the null, and what it sees."""

from __future__ import annotations

import numpy as np
import pytest

from skild_phys.errorbars import jackknife
from skild_phys.measurement.agreement import agreement_of

PLACES = np.arange(5)


def residuals(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Rows of five strongly correlated numbers of mean `shift`."""
    rng = np.random.default_rng(seed)
    return shift + rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 5))


def judged(rows: np.ndarray, **options: object):  # type: ignore[no-untyped-def]
    found = jackknife(lambda m: m["x"], {"x": rows}, covariance=True)
    return agreement_of(found, PLACES, **options)


@pytest.mark.statistical
def test_probabilities_are_uniform_under_the_null() -> None:
    """H0: with Hotelling's law, p is uniform even of 20 rows; 1,000 sets, 5 bins of 200(13)."""
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
    assert np.isnan(judged(residuals(100, 3), at_most=9).chi2)
    single = jackknife(lambda m: m["x"], {"x": residuals(1, 3)}, covariance=True)
    assert np.isnan(agreement_of(single, PLACES).chi2)


def test_covariance_has_the_errors_on_its_diagonal() -> None:
    rows = residuals(200, 4)
    for bins in (None, 20):
        found = jackknife(lambda m: m["x"], {"x": rows}, bins=bins, covariance=True)
        assert found.covariance is not None
        assert np.sqrt(np.diag(found.covariance)) == pytest.approx(found.error, rel=1e-12)
