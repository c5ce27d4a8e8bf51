"""The four-point function against sums written out, and against an enumerated ensemble."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest

from skild_phys.errors import BadInput
from skild_phys.measurement.measure import measure
from skild_phys.measurement.observables.four_point import (
    _OFFSET_TERMS,
    TERMS,
    _connected_at_offsets,
    _connected_four_point,
    _offset_terms,
    four_point_terms,
    square_sides,
)
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy

SHAPES = [(6, 8), (5, 7), (4, 64), (4, 65), (5, 130), (4, 6, 5), (3, 4, 70)]
SPINS = np.array([-1, 1], dtype=np.int8)


def fields(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"spins": rng.choice(SPINS, size=(2, *shape)), "field": rng.normal(size=(2, *shape))}


def brute_terms(field: np.ndarray, r: int) -> np.ndarray:
    """Sum over every square, site by site; (lattices, planes, terms)."""
    n, *shape = field.shape
    planes = list(combinations(range(len(shape)), 2))
    found = np.zeros((n, len(planes), len(TERMS)))
    for (p, (a, b)), origin in product(enumerate(planes), product(*map(range, shape))):
        corners = []
        for along_a, along_b in ((0, 0), (0, r), (r, r), (r, 0)):
            site = list(origin)
            site[a] += along_a
            site[b] += along_b
            place = tuple(x % side for x, side in zip(site, shape, strict=True))
            corners.append(field[(slice(None), *place)].astype(float))
        for j, term in enumerate(TERMS):
            found[:, p, j] += np.prod([corners[int(d) - 1] for d in term[1::2]], axis=0)
    return found / np.prod(shape)


def agrees_with_sums(function: Callable[..., np.ndarray], field: np.ndarray) -> bool:
    dimension = field.ndim - 1
    sides = list(range(1, min(4, *field.shape[1:])))
    found = function(field, sides, dimension)
    return all(np.allclose(found[:, i], brute_terms(field, r)) for i, r in enumerate(sides))


@pytest.mark.parametrize("shape", SHAPES)
def test_terms_equal_the_sums_over_all_squares(shape: tuple[int, ...]) -> None:
    for field in fields(shape).values():
        assert agrees_with_sums(lambda f, sides, _: four_point_terms(f, sides), field)


def test_spins_are_counted_as_the_field_of_the_same_numbers() -> None:
    for shape in SHAPES:
        spins, sides = fields(shape)["spins"], range(1, min(shape))
        counted = four_point_terms(spins, list(sides))
        summed = four_point_terms(spins.astype(float), list(sides))
        assert np.allclose(counted, summed, atol=1e-14, rtol=0)


def _open_boundary(field: np.ndarray, sides: list[int], dimension: int) -> np.ndarray:
    padded = np.pad(field.astype(float), ((0, 0), *[(0, 3)] * dimension))
    return four_point_terms(padded, sides) * padded[0].size / field[0].size


def _swapped_diagonals(field: np.ndarray, sides: list[int], dimension: int) -> np.ndarray:
    return four_point_terms(field, sides)[..., [0, 1, 2, 4, 3]]


def _swapped_edges(field: np.ndarray, sides: list[int], dimension: int) -> np.ndarray:
    return four_point_terms(field, sides)[..., [0, 2, 1, 3, 4]]


def _rectangle(field: np.ndarray, sides: list[int], dimension: int) -> np.ndarray:
    turned = [four_point_terms(field, [r % 3 + 1])[:, 0] for r in sides]
    return np.stack(turned, axis=1)


@pytest.mark.parametrize("fault", [_open_boundary, _swapped_diagonals, _swapped_edges, _rectangle])
@pytest.mark.parametrize("kind", ["spins", "field"])
def test_planted_faults_are_seen(fault: Callable[..., np.ndarray], kind: str) -> None:
    assert not agrees_with_sums(fault, fields((6, 8))[kind])


def test_opposite_edges_have_the_same_average() -> None:
    s = fields((6, 8))["spins"].astype(float)
    upper, lower = s * np.roll(s, -2, 2), np.roll(s, -2, 1) * np.roll(s, (-2, -2), (1, 2))
    assert np.allclose(upper.mean((1, 2)), lower.mean((1, 2)))


def test_connected_function_subtracts_all_three_pairings() -> None:
    terms = np.array([[[0.5, 0.3, 0.2, 0.1, 0.4]]])  # one side, one plane
    assert _connected_four_point(terms)[0] == pytest.approx(0.5 - 0.09 - 0.04 - 0.04)
    rng = np.random.default_rng(3)
    gaussian = four_point_terms(rng.normal(size=(4000, 6, 6)), [1]).mean(axis=0)
    assert abs(float(_connected_four_point(gaussian)[0])) < 0.02


def test_sides_are_powers_of_two_up_to_half() -> None:
    assert square_sides((128, 128)).tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert square_sides((24, 40)).tolist() == [1, 2, 4, 8]
    with pytest.raises(BadInput, match="sides"):
        four_point_terms(np.ones((1, 4, 4), dtype=np.int8), [4])
    with pytest.raises(BadInput, match="field"):
        four_point_terms(np.ones((4, 4), dtype=np.int8), [1])


def test_block_sums_do_not_overflow() -> None:
    field = np.full((1, 4, 4), 200, dtype=np.int16)
    assert four_point_terms(field, [1])[0, 0, 0, 0] == 200.0**4


@pytest.mark.parametrize("shape", [(6, 8), (5, 4, 6)])
def test_offsets_equal_the_sums_over_all_places(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    offsets = np.array(
        [
            [0] * len(shape),
            [1] * len(shape),
            [2] + [-1] * (len(shape) - 1),
            [-3, 2, 1][: len(shape)],
        ]
    )
    for field in fields(shape).values():
        found = _offset_terms(field, offsets)
        moved = _offset_terms(field, offsets + rng.integers(-5, 5, len(shape)))
        assert np.allclose(found, moved, atol=1e-14)
        brute = np.zeros_like(found)
        for origin in product(*map(range, shape)):
            s = [
                field[(slice(None), *((np.array(origin) + o) % shape))].astype(float)
                for o in offsets
            ]
            for i, term in enumerate(_OFFSET_TERMS):
                brute[:, i] += np.prod([s[int(digit) - 1] for digit in term], axis=0)
        assert np.allclose(found, brute / np.prod(shape))
        # A planted fault, the offsets in the order (x, y), is seen.
        assert not np.allclose(_offset_terms(field, offsets[:, ::-1]), found)


def test_a_square_given_by_offsets_is_the_square() -> None:
    spins = fields((6, 8))["spins"]
    square = np.array([[0, 0], [0, 2], [2, 2], [2, 0]])
    by_offsets = _connected_at_offsets(_offset_terms(spins, square))
    assert np.allclose(by_offsets, _connected_four_point(four_point_terms(spins, [2]))[:, 0])


def test_each_pair_goes_with_the_other_one() -> None:
    terms = np.array([[0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])  # 1234, 12, 34, 13, 24, 14, 23
    assert _connected_at_offsets(terms)[0] == pytest.approx(0.9 - 0.02 - 0.12 - 0.30)


@pytest.mark.parametrize(
    "offsets", [[[0, 0], [0, 1], [1, 0]], [[0, 0], [0, 1], [1, 0], [0, 8]], [[0], [1], [2], [3]]]
)
def test_offsets_that_are_no_four_sites_are_refused(offsets: list[list[int]]) -> None:
    with pytest.raises(BadInput, match="offsets"):
        measure(np.ones((1, 6, 8), dtype=np.int8), offsets=[offsets])


def test_nearest_neighbours_give_the_exact_energy() -> None:
    """All 2^16 lattices of 4x4, with their Gibbs weights at Tc."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    lattices = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    model = MODELS["ising2d"]
    weight = np.exp(-16 * model.energy(lattices) / model.critical_temperature)
    terms = np.einsum(
        "n,nij->ij", weight / weight.sum(), four_point_terms(lattices, [1, 2])[:, :, 0]
    )
    exact = kaufman_energy(4, model.critical_temperature)
    assert -terms[0, 1] - terms[0, 2] == pytest.approx(exact, abs=1e-12)
