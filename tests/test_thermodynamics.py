"""Moments and what follows from them, against known values and an enumerated ensemble."""

from __future__ import annotations

import numpy as np
import pytest
from measurement_helpers import statistic

from skild_phys.measurement.observables import OBSERVABLES, STATISTICS
from skild_phys.measurement.system import Slice, System
from skild_phys.measurement.theory import theory
from skild_phys.models import MODELS
from skild_phys.models.exact import (
    SUSCEPTIBILITY,
    XI_OVER_L,
    kaufman_specific_heat,
    torus_two_point_map,
)


def value(name: str, side: int = 8, temperature: float = 1.0, **means: np.ndarray) -> float:
    """An observable of given means."""
    system = System((side, side), "spins", temperature=temperature)
    return float(OBSERVABLES[name](means, system))


def test_moments_of_known_lattices() -> None:
    spins = np.ones((2, 4, 4), dtype=np.int8)
    spins[1, :3] = -1
    assert statistic("moments", spins).tolist() == [[1, 1, 1, 1], [-0.5, 0.5, 0.25, 0.0625]]


def test_moments_of_block_sums_are_those_of_the_spins() -> None:
    spins = np.random.default_rng(10).choice(np.array([-1, 1], dtype=np.int8), size=(3, 8, 8))
    sums = spins.reshape(3, 4, 2, 4, 2).sum(axis=(2, 4)).astype(np.int16)
    assert np.allclose(statistic("moments", sums / 4.0), statistic("moments", spins))


def test_many_large_integers_do_not_overflow() -> None:
    field = np.full((1, 64, 64), 2**14, dtype=np.int16)
    assert statistic("moments", field)[0, 0] == 2**14


def test_binder_cumulant_of_order_and_of_a_gaussian() -> None:
    order = np.array([0.0, 1.0, 1.0, 1.0])
    gaussian = np.array([0.0, np.sqrt(2 / np.pi), 1.0, 3.0])
    for name, of_order, of_gaussian in (
        ("binder_cumulant", 2 / 3, 0.0), ("binder_ratio", 2 / 3, 1 - np.pi / 6),
    ):  # fmt: skip
        assert value(name, moments=order) == pytest.approx(of_order)
        assert value(name, moments=gaussian) == pytest.approx(of_gaussian)


def test_specific_heat_of_the_enumerated_4x4_torus() -> None:
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    model = MODELS["ising2d"]
    energy = model.energy((2 * bits - 1).astype(np.int8).reshape(-1, 4, 4))
    for temperature in (1.7, model.critical_temperature, 4.0):
        weight = np.exp(-16 * (energy - energy.min()) / temperature)
        weight /= weight.sum()
        means = np.array([(weight * energy**power).sum() for power in (1, 2)])
        found = value("specific_heat", 4, temperature, energy=means)
        assert found == pytest.approx(kaufman_specific_heat(4, temperature), rel=1e-9)
        # A planted fault, 1/T for 1/T^2, is far outside.
        assert found * temperature != pytest.approx(found, rel=0.1)


def test_theory_of_potts2_is_the_enumerated_energy() -> None:
    """On squares and rectangles; other numbers of states have no theory."""
    model = MODELS["potts2"]
    for shape in ((3, 3), (3, 4)):
        sites = shape[0] * shape[1]
        bits = ((np.arange(2**sites)[:, None] >> np.arange(sites)) & 1).astype(np.int8)
        energy = model.energy(bits.reshape(-1, *shape))
        for temperature in (0.6, model.critical_temperature, 3.0):
            weight = np.exp(-sites * (energy - energy.min()) / temperature)
            weight /= weight.sum()
            exact = float(weight @ energy)
            heat = sites * float(weight @ (energy - exact) ** 2) / temperature**2
            known = theory(System(shape, "states", 2, model, temperature))
            assert set(known) == {"energy", "specific_heat", "domain_wall_density"}
            assert float(known["energy"].value) == pytest.approx(exact, rel=1e-9)
            assert float(known["specific_heat"].value) == pytest.approx(heat, rel=1e-7)
            assert float(known["domain_wall_density"].value) == pytest.approx(exact + 2)
    assert theory(System((3, 3), "states", 3, MODELS["potts3"], 1.0)) == {}
    assert theory(System((3, 3), "states", 2, model)) == {}


def test_theory_of_the_critical_torus_is_consistent() -> None:
    """chi and xi come out of S(k) as in cond-mat/9904038; G(1) is Kaufman's to 0.035 / L."""
    tc = MODELS["ising2d"].critical_temperature
    known = theory(System((64, 64), "spins", 0, MODELS["ising2d"], tc))
    assert float(known["susceptibility"].value) == pytest.approx(SUSCEPTIBILITY * 64**1.75, 1e-4)
    assert float(known["correlation_length_ratio"].value) == pytest.approx(XI_OVER_L, 1e-3)
    axis, energy = known["two_point_axis"].value, float(known["energy"].value)
    assert axis[1] == -energy / 2
    assert torus_two_point_map((64, 64))[0, 1] - axis[1] == pytest.approx(0.0345 / 64, rel=0.02)
    assert np.isnan(known["connected_four_point"].value).sum() == 2
    assert known["structure_factor"].value[0] == pytest.approx(float(known["susceptibility"].value))
    wide = theory(System((32, 64), "spins", 0, MODELS["ising2d"], tc))
    assert "binder_cumulant" not in wide
    turned = theory(System((64, 32), "spins", 0, MODELS["ising2d"], tc))
    for name in ("two_point_radial", "connected_four_point", "structure_factor_axis"):
        assert np.allclose(wide[name].value, turned[name].value, rtol=1e-12, equal_nan=True)
    square, near = ((0, 0), (0, 8), (8, 8), (8, 0)), ((0, 0), (0, 3), (9, 9), (20, 20))
    given = theory(System((64, 64), "spins", 0, MODELS["ising2d"], tc, offsets=(square, near)))[
        "connected_four_point_offsets"
    ].value
    assert given[0] == pytest.approx(known["connected_four_point"].value[3], rel=1e-10)
    assert np.isnan(given[1])


def test_moments_over_three_axes_and_of_an_order_parameter() -> None:
    cube = np.ones((2, 2, 4, 4), dtype=np.int8)
    cube[1, 0] = cube[1, 1, :2] = -1
    want = [[1, 1, 1, 1], [-0.5, 0.5, 0.25, 0.0625]]
    assert statistic("moments", cube).tolist() == want


def test_moments_of_a_field_with_components_are_of_the_length_of_the_mean() -> None:
    field = np.random.default_rng(11).normal(size=(3, 2, 4, 4))
    part = Slice(System((4, 4), "field", components=2), field, np.arange(3))
    length = np.hypot(*field.mean(axis=(2, 3)).T)
    assert np.allclose(STATISTICS["moments"](part)[:, 2], length**2)
    assert np.allclose(STATISTICS["along_k"](part)[:, 0], 16 * length**2)
    power = (np.abs(np.fft.fft2(field)) ** 2).sum(axis=1) / 16
    assert np.allclose(STATISTICS["along_k"](part)[:, 1], (power[:, 0, 1] + power[:, 1, 0]) / 2)


def test_correlation_length_of_an_ornstein_zernike_spectrum() -> None:
    xi, length = 5.0, 64
    k_hat = 2 * np.sin(np.pi / length)
    power = np.array([1.0, 1 / (1 + (k_hat * xi) ** 2)])
    assert value("correlation_length", length, lowest=power) == pytest.approx(xi)
    assert value("correlation_length_ratio", length, lowest=power) == pytest.approx(xi / length)
    assert np.isnan(value("correlation_length", length, lowest=np.array([1.0, 2.0])))


def test_susceptibility_is_sites_times_the_second_moment() -> None:
    moments = np.array([0.0, 0.3, 0.25, 0.1])
    assert value("connected_susceptibility", moments=moments) == pytest.approx(64 * (0.25 - 0.09))
