from __future__ import annotations

import numpy as np
import pytest

from skild_phys.errors import BadInput
from skild_phys.models import MODELS, exact, get_model, parse_temperature

TC = 2.269185314213022


def test_critical_temperature_is_onsagers() -> None:
    assert MODELS["ising2d"].critical_temperature == pytest.approx(TC, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Tc", TC),
        ("T_c", TC),
        ("2.5", 2.5),
        (2.5, 2.5),
        ("1.05Tc", 1.05 * TC),
        ("1.05*Tc", 1.05 * TC),
        (" 1.05 * Tc ", 1.05 * TC),
        ("1e-3", 1e-3),
        ("5e-1Tc", 0.5 * TC),
    ],
)
def test_temperatures(text: str | float, value: float) -> None:
    assert parse_temperature(text, MODELS["ising2d"]) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["banana", "", "0", "-1", "-1Tc", "nan", "inf", "1e999", "Tc2", "1.2.3", "--", "0Tc"]
)
def test_temperatures_that_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"T: .* is not accepted; expected a positive number"):
        parse_temperature(text, MODELS["ising2d"])


def test_unknown_model() -> None:
    with pytest.raises(BadInput, match="expected ising2d"):
        get_model("potts")


def test_energies_of_known_lattices() -> None:
    model = MODELS["ising2d"]
    up = np.ones((4, 6), dtype=np.int8)
    stripes = up.copy()
    stripes[::2] = -1
    checkers = stripes.copy()
    checkers[:, ::2] *= -1
    lattices = np.stack([up, -up, stripes, checkers])
    assert model.energy(lattices).tolist() == [-2.0, -2.0, 0.0, 2.0]
    assert model.order_parameter(lattices).tolist() == [1.0, -1.0, 0.0, 0.0]
    assert model.energy(np.ones((2, 2), np.int8)) == -2.0


@pytest.mark.parametrize("name", ["ising2d", "potts3"])
def test_one_configuration_has_numbers_not_arrays(name: str) -> None:
    model, ones = MODELS[name], np.ones((4, 4), np.int8)
    assert all(isinstance(x, float) for x in (model.energy(ones), model.order_parameter(ones)))
    assert isinstance(exact.torus_two_point(1, 2, 8), float)
    assert isinstance(exact.torus_connected_four_point(2, 8), float)


def test_energy_is_the_sum_over_bonds() -> None:
    spins = (2 * np.random.default_rng(0).integers(0, 2, (3, 5)) - 1).astype(np.int8)
    bonds = sum(
        int(spins[y, x]) * int(spins[y, (x + 1) % 5] + spins[(y + 1) % 3, x])
        for y in range(3)
        for x in range(5)
    )
    assert MODELS["ising2d"].energy(spins) == -bonds / 15
