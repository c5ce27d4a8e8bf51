"""3x3 patterns against counting by hand; distances between frequencies."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from skild_phys.errors import BadInput
from skild_phys.measurement.observables.patterns import (
    _pattern_counts,
    fold_patterns,
    kl_divergence,
    total_variation,
)


def brute_counts(spins: np.ndarray) -> np.ndarray:
    n, height, width = spins.shape
    counts = np.zeros((n, 512), dtype=int)
    for i, y, x in product(range(n), range(height), range(width)):
        window = [
            spins[i, (y + a) % height, (x + b) % width] for a, b in product(range(3), repeat=2)
        ]
        counts[i, int("".join("1" if s > 0 else "0" for s in window), 2)] += 1
    return counts


@pytest.fixture(scope="module")
def spins() -> np.ndarray:
    return np.random.default_rng(5).choice(np.array([-1, 1], dtype=np.int8), size=(3, 6, 8))


@pytest.mark.parametrize("shape", [(6, 8), (3, 3), (3, 7), (5, 4)])
def test_counts_equal_counting_by_hand(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    spins = rng.choice(np.array([-1, 1], dtype=np.int8), size=(3, *shape))
    assert np.array_equal(_pattern_counts(spins), brute_counts(spins))


@pytest.mark.parametrize(
    "fault", [lambda s: s.swapaxes(1, 2), lambda s: s[:, ::-1], lambda s: -s, lambda s: s[:, :-1]]
)
def test_planted_faults_are_seen(spins: np.ndarray, fault: object) -> None:
    assert callable(fault)
    assert not np.array_equal(_pattern_counts(fault(spins)), brute_counts(spins))


def test_views_are_counted_as_they_look(spins: np.ndarray) -> None:
    view = spins[:, ::-1, ::2]
    assert np.array_equal(_pattern_counts(view), brute_counts(view))


def test_narrow_lattices_are_refused() -> None:
    with pytest.raises(BadInput, match="2x8"):
        _pattern_counts(np.ones((1, 2, 8), dtype=np.int8))


def test_folding_joins_a_pattern_and_its_flip(spins: np.ndarray) -> None:
    p, q = _pattern_counts(spins) / 48.0, _pattern_counts(-spins) / 48.0
    assert np.array_equal(fold_patterns(p), fold_patterns(q))
    assert fold_patterns(p).sum(axis=1) == pytest.approx(1.0)
    assert not np.array_equal(p, q)


def test_distances_of_known_distributions() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert total_variation(p, q) == pytest.approx(0.5)
    assert kl_divergence(p, q, 0.0 + 1e-15) == pytest.approx(np.log(2))
    assert np.isfinite(kl_divergence(q, p, 1e-6))
    assert total_variation(p, p) == 0.0
    assert kl_divergence(p, p, 1e-6) == pytest.approx(0.0, abs=1e-15)
