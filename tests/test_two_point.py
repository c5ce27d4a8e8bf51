"""G(r) at every separation against sums over all pairs; connected; Potts states."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from measurement_helpers import slice_of

from skild_phys.measurement.observables.two_point import (
    _along_axes,
    _along_diagonals,
    _connected,
    _distance_shells,
    _fold,
    _folded_shape,
    _structure_factor,
    _two_point,
)
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy

SHAPES = [(6, 8), (7, 5), (2, 4), (3, 8), (4, 6, 8), (3, 5, 4), (1, 6)]


def brute_map(field: np.ndarray) -> np.ndarray:
    """Average s(0) s(r) over all sites, for every separation of the torus."""
    shape = field.shape[1:]
    axes = tuple(range(1, field.ndim))
    found = np.empty_like(field)
    for r in product(*map(range, shape)):
        moved = np.roll(field, tuple(-x for x in r), axes)
        found[(slice(None), *r)] = (field * moved).mean(axis=axes)
    return found


def folded_power(field: np.ndarray) -> np.ndarray:
    shape = field.shape[1:]
    layout = (*shape[:-1], shape[-1] // 2 + 1)
    return _structure_factor([field], shape, np.zeros(layout), np.zeros(layout))


def folds(transform: Callable[..., np.ndarray], shape: tuple[int, ...]) -> bool:
    field = np.random.default_rng(5).normal(size=(3, *shape))
    return np.allclose(
        transform(folded_power(field), shape), _fold(brute_map(field), len(shape)), atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_folded_function_is_the_mean_over_mirror_images(shape: tuple[int, ...]) -> None:
    """Even sides go by a cosine transform, odd ones by the whole Fourier transform."""
    assert folds(_two_point, shape)


def test_planted_fault_an_edge_mode_counted_twice() -> None:
    def wrong(folded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        folded = folded.copy()
        folded[:, -1] *= 2
        return _two_point(folded, shape)

    assert not folds(wrong, (6, 8))


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (4, 6, 8)])
def test_axes_diagonals_and_shells_are_picked_from_the_map(shape: tuple[int, ...]) -> None:
    field = np.random.default_rng(6).normal(size=(2, *shape))
    whole, folded = brute_map(field), _two_point(folded_power(field), shape)
    d, steps = len(shape), min(shape) // 2 + 1
    unit = np.eye(d, dtype=int)
    for r in range(steps):
        axis = np.mean([whole[(slice(None), *(r * unit[a]))] for a in range(d)], axis=0)
        assert np.allclose(_along_axes(folded)[:, r], axis)
        pairs = [(a, b) for a in range(d) for b in range(a)]
        values = [
            whole[(slice(None), *((r * (unit[a] + sign * unit[b])) % shape))]
            for a, b in pairs
            for sign in (1, -1)
        ]
        assert np.allclose(_along_diagonals(folded)[:, r], np.mean(values, axis=0))
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    place = np.minimum(place, np.array(shape).reshape(-1, *[1] * d) - place)
    distance = np.sqrt((place**2).sum(axis=0))
    shells = _distance_shells(shape)
    found = shells.average(folded)
    number = np.floor(distance + 0.5).astype(int)
    for i, j in enumerate(np.unique(number[number <= min(shape) // 2])):
        inside = number == j
        assert shells.count[i] == inside.sum()
        assert shells.at[i] == pytest.approx(distance[inside].mean())
        assert np.allclose(found[:, i], whole[:, inside].mean(axis=1))


def test_energy_of_the_enumerated_torus() -> None:
    """Reference: Kaufman's energy at 4x4 and Tc; e = -2 G(1, 0)."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    lattices = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    model = MODELS["ising2d"]
    weight = np.exp(-16 * model.energy(lattices) / model.critical_temperature)
    power = np.einsum("n,nij->ij", weight / weight.sum(), folded_power(lattices))
    axis = _along_axes(_two_point(power[np.newaxis], (4, 4)))[0]
    assert axis[0] == pytest.approx(1.0, abs=1e-12)
    exact = kaufman_energy(4, model.critical_temperature)
    assert -2 * axis[1] == pytest.approx(exact, abs=1e-12)


def test_potts_states_are_equal_or_not() -> None:
    """G = (q <delta> - 1) / (q - 1), and with two states Ising's product of spins."""
    states = np.random.default_rng(7).integers(0, 3, (2, 6, 8)).astype(np.int8)
    layout = (6, 5)
    components = slice_of(states, q=3).components
    assert components.shape == (3, *states.shape)
    assert np.allclose(components.sum(axis=0), 0.0)
    folded = _structure_factor(components, (6, 8), np.zeros(layout), np.zeros(layout))
    found = _along_axes(_two_point(folded, (6, 8)))
    for r in range(4):
        equal = np.mean([(states == np.roll(states, r, a)).mean((1, 2)) for a in (1, 2)], axis=0)
        assert np.allclose(found[:, r], (3 * equal - 1) / 2)
    two = states % 2
    total, squares = np.zeros(layout), np.zeros(layout)
    power = _structure_factor(slice_of(two, q=2).components, (6, 8), total, squares)
    spins = (2 * two - 1).astype(np.int8)
    assert np.allclose(power, folded_power(spins))
    each = np.abs(np.fft.rfft2(spins)) ** 2 / 48
    assert np.allclose(total, each.sum(axis=0))
    assert np.allclose(squares, (each**2).sum(axis=0))


def test_connected_function_subtracts_the_squared_mean() -> None:
    two, order = np.array([[1.0, 0.5, 0.4]]), np.array([[0.5]])
    assert np.allclose(_connected(two, order), [[0.75, 0.25, 0.15]])
    components = np.array([[0.3, -0.4]])
    assert np.allclose(_connected(two, components), [[0.75, 0.25, 0.15]])


def test_folding_halves_each_side() -> None:
    assert _folded_shape((6, 7, 1)) == (4, 4, 1)
