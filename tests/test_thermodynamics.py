"""Moments and what follows from them, against known values and an enumerated ensemble."""

from __future__ import annotations

import numpy as np
import pytest

from skild_phys.lattice.exact import kaufman_specific_heat
from skild_phys.lattice.models import MODELS
from skild_phys.measure.theory import theory
from skild_phys.measure.thermodynamics import (
    binder_cumulant,
    magnetization_moments,
    moments,
    second_moment_correlation_length,
    specific_heat,
    susceptibility,
)


def test_moments_of_known_lattices() -> None:
    spins = np.ones((2, 4, 4), dtype=np.int8)
    spins[1, :3] = -1
    assert magnetization_moments(spins).tolist() == [[1, 1, 1, 1], [-0.5, 0.5, 0.25, 0.0625]]


def test_moments_of_block_sums_are_those_of_the_spins() -> None:
    spins = np.random.default_rng(10).choice(np.array([-1, 1], dtype=np.int8), size=(3, 8, 8))
    sums = spins.reshape(3, 4, 2, 4, 2).sum(axis=(2, 4)).astype(np.int16)
    assert np.allclose(magnetization_moments(sums, 0.25), magnetization_moments(spins))


def test_many_large_integers_do_not_overflow() -> None:
    field = np.full((1, 64, 64), 2**14, dtype=np.int16)
    assert magnetization_moments(field)[0, 0] == 2**14


def test_binder_cumulant_of_order_and_of_a_gaussian() -> None:
    one = np.array(1.0)
    assert binder_cumulant(one, one) == pytest.approx(2 / 3)
    assert binder_cumulant(one, 3 * one) == pytest.approx(0.0)


def test_specific_heat_of_the_enumerated_4x4_torus() -> None:
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    model = MODELS["ising2d"]
    energy = model.energy((2 * bits - 1).astype(np.int8).reshape(-1, 4, 4))
    for temperature in (1.7, model.critical_temperature, 4.0):
        weight = np.exp(-16 * (energy - energy.min()) / temperature)
        weight /= weight.sum()
        e, e2 = (np.asarray((weight * energy**power).sum()) for power in (1, 2))
        found = float(specific_heat(e, e2, 16, temperature))
        assert found == pytest.approx(kaufman_specific_heat(4, temperature), rel=1e-9)
        # A planted fault, 1/T for 1/T^2, is far outside.
        assert found * temperature != pytest.approx(found, rel=0.1)


def test_theory_of_potts2_is_the_enumerated_energy() -> None:
    bits = ((np.arange(2**9)[:, None] >> np.arange(9)) & 1).astype(np.int8)
    model = MODELS["potts2"]
    energy = model.energy(bits.reshape(-1, 3, 3))
    none = np.zeros(0, dtype=np.int64)
    for temperature in (0.6, model.critical_temperature, 3.0):
        weight = np.exp(-9 * (energy - energy.min()) / temperature)
        exact = float((weight * energy).sum() / weight.sum())
        attrs = {"model": "potts2", "temperature": temperature}
        known = theory(attrs, (3, 3), none)
        assert set(known) == {"energy"}
        assert float(known["energy"].value) == pytest.approx(exact, rel=1e-9)
        assert theory(attrs, (3, 4), none) == {}
        assert theory(attrs | {"model": "potts3"}, (3, 3), none) == {}


def test_moments_over_three_axes_and_of_an_order_parameter() -> None:
    cube = np.ones((2, 2, 4, 4), dtype=np.int8)
    cube[1, 0] = cube[1, 1, :2] = -1
    want = [[1, 1, 1, 1], [-0.5, 0.5, 0.25, 0.0625]]
    assert magnetization_moments(cube, dimension=3).tolist() == want
    assert moments(np.array([1.0, -0.5])).tolist() == want


def test_correlation_length_of_an_ornstein_zernike_spectrum() -> None:
    xi, length = 5.0, 64
    k_hat = 2 * np.sin(np.pi / length)
    s_min = np.asarray(1 / (1 + (k_hat * xi) ** 2))
    assert second_moment_correlation_length(np.array(1.0), s_min, length) == pytest.approx(xi)
    assert np.isnan(second_moment_correlation_length(np.array(1.0), np.array(2.0), length))


def test_susceptibility_is_sites_times_the_second_moment() -> None:
    assert susceptibility(np.array(0.25), 64) == 16.0
