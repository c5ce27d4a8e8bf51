"""Four-point function and G(r) against sums written out, and against an enumerated ensemble."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from skild_phys.errors import BadInput
from skild_phys.lattice.exact import kaufman_energy
from skild_phys.lattice.models import MODELS
from skild_phys.measure.correlations import (
    FOUR_POINT_TERMS,
    connected_four_point,
    four_point_terms,
    square_sides,
    two_point,
    two_point_map,
)
from skild_phys.measure.structure_factor import structure_factor

SIDES = [1, 2, 3]


@pytest.fixture(scope="module")
def spins() -> np.ndarray:
    return np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), size=(4, 6, 8))


def corners(y: int, x: int, r: int) -> list[tuple[int, int]]:
    return [(y, x), (y, x + r), (y + r, x + r), (y + r, x)]


def brute_terms(field: np.ndarray, r: int) -> np.ndarray:
    n, height, width = field.shape
    found = np.zeros((n, len(FOUR_POINT_TERMS)))
    for y, x in product(range(height), range(width)):
        s = [field[:, b % height, a % width].astype(float) for b, a in corners(y, x, r)]
        for j, term in enumerate(FOUR_POINT_TERMS):
            chosen = [s[int(digit) - 1] for digit in term[1::2]]
            found[:, j] += np.prod(chosen, axis=0)
    return found / (height * width)


def agrees_with_sums(function: Callable[..., np.ndarray], field: np.ndarray) -> bool:
    found = function(field, SIDES)
    return all(np.allclose(found[:, i], brute_terms(field, r)) for i, r in enumerate(SIDES))


def test_terms_equal_the_sums_over_all_squares(spins: np.ndarray) -> None:
    assert agrees_with_sums(four_point_terms, spins)
    field = np.random.default_rng(2).normal(size=(3, 6, 8))
    assert agrees_with_sums(four_point_terms, field)


def _open_boundary(field: np.ndarray, sides: list[int]) -> np.ndarray:
    padded = np.pad(field, ((0, 0), (0, 3), (0, 3)))
    return four_point_terms(padded, sides) * padded[0].size / field[0].size


def _swapped_diagonals(field: np.ndarray, sides: list[int]) -> np.ndarray:
    return four_point_terms(field, sides)[..., [0, 1, 2, 4, 3]]


def _rectangle(field: np.ndarray, sides: list[int]) -> np.ndarray:
    return np.stack([four_point_terms(field, [r % 3 + 1])[:, 0] for r in sides], axis=1)


@pytest.mark.parametrize("fault", [_open_boundary, _swapped_diagonals, _rectangle])
def test_planted_faults_are_seen(spins: np.ndarray, fault: Callable[..., np.ndarray]) -> None:
    assert not agrees_with_sums(fault, spins)


def test_opposite_edges_have_the_same_average(spins: np.ndarray) -> None:
    s = spins.astype(float)
    upper, lower = s * np.roll(s, -2, 2), np.roll(s, -2, 1) * np.roll(s, (-2, -2), (1, 2))
    assert np.allclose(upper.mean((1, 2)), lower.mean((1, 2)))


def test_connected_function_subtracts_all_three_pairings() -> None:
    terms = np.array([[[0.5, 0.3, 0.2, 0.1, 0.4]]])
    assert connected_four_point(terms)[0, 0] == pytest.approx(0.5 - 0.09 - 0.04 - 0.04)
    rng = np.random.default_rng(3)
    gaussian = four_point_terms(rng.normal(size=(4000, 6, 6)), [1]).mean(axis=0)
    assert abs(float(connected_four_point(gaussian)[0])) < 0.02


def test_sides_are_powers_of_two_up_to_half() -> None:
    assert square_sides((128, 128)).tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert square_sides((24, 40)).tolist() == [1, 2, 4, 8]
    with pytest.raises(BadInput, match="sides"):
        four_point_terms(np.ones((1, 4, 4), dtype=np.int8), [4])


def test_block_sums_do_not_overflow() -> None:
    field = np.full((1, 4, 4), 200, dtype=np.int16)
    assert four_point_terms(field, [1])[0, 0, 0] == 200.0**4


@pytest.fixture(scope="module")
def ensemble() -> tuple[np.ndarray, np.ndarray]:
    """All 2^16 lattices of 4x4 and their Gibbs weights at Tc."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    lattices = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    model = MODELS["ising2d"]
    weight = np.exp(-16 * model.energy(lattices) / model.critical_temperature)
    return lattices, weight / weight.sum()


def test_nearest_neighbours_give_the_exact_energy(ensemble: tuple[np.ndarray, np.ndarray]) -> None:
    lattices, weight = ensemble
    terms = np.einsum("n,nij->ij", weight, four_point_terms(lattices, [1, 2]))
    exact = kaufman_energy(4, MODELS["ising2d"].critical_temperature)
    assert -terms[0, 1] - terms[0, 2] == pytest.approx(exact, abs=1e-12)


def test_map_of_the_ensemble_agrees_with_the_terms(
    ensemble: tuple[np.ndarray, np.ndarray],
) -> None:
    lattices, weight = ensemble
    terms = np.einsum("n,nij->ij", weight, four_point_terms(lattices, [1, 2]))
    correlation = two_point_map(np.einsum("n,nij->ij", weight, structure_factor(lattices)), 4)
    axis, diagonal = two_point(correlation)
    assert axis[0] == pytest.approx(1.0, abs=1e-12)
    assert axis[1:] == pytest.approx(terms[:, 1:3].mean(axis=1), abs=1e-12)
    assert diagonal[1:] == pytest.approx(terms[:, 3:].mean(axis=1), abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5)])
def test_map_equals_the_sums_over_all_pairs(shape: tuple[int, int]) -> None:
    field = np.random.default_rng(4).normal(size=(2, *shape))
    found = two_point_map(structure_factor(field), shape[1])
    for y, x in product(range(shape[0]), range(shape[1])):
        expected = (field * np.roll(field, (-y, -x), (1, 2))).mean(axis=(1, 2))
        assert np.allclose(found[:, y, x], expected, atol=1e-13)
