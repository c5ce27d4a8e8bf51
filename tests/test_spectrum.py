from __future__ import annotations

import numpy as np
import pytest
from skild_helpers import POWER_LAW, critical_lattices

from skild_phys.skild.spectrum import Spectrum, fit_spectrum, mode_power, wave_numbers


def test_wave_numbers_are_those_of_the_dft() -> None:
    kappa = wave_numbers((6, 4))
    assert kappa.shape == (6, 3)
    assert kappa[1, 0] == pytest.approx(2 * np.pi / 6)
    assert kappa[5, 0] == pytest.approx(2 * np.pi / 6)
    assert kappa[3, 2] == pytest.approx(np.pi * np.sqrt(2))


def test_power_of_spins_sums_to_one_a_site() -> None:
    spins = critical_lattices(4, 16)
    power = mode_power(spins)
    weight = np.full(power.shape, 2.0)
    weight[:, 0] = weight[:, -1] = 1.0
    assert (power * weight).sum() == pytest.approx(16 * 16, rel=1e-12)


@pytest.mark.parametrize("shape", [(32, 32), (48, 32)])
def test_fit_returns_a_power_law_that_was_put_in(shape: tuple[int, int]) -> None:
    kappa = wave_numbers(shape)
    power = np.where(kappa > 0, np.maximum(kappa, 1e-9) ** -1.75, 0.0)
    power[0, 0] = 0.02**-1.75
    fitted = fit_spectrum(power, shape)
    inside = kappa > 0
    ratio = np.sort(np.abs(fitted(kappa[inside]) / power[inside] - 1.0))
    assert ratio[int(0.99 * ratio.size)] < 0.002
    # The corner of the zone is one mode in a bin of its own, at the edge of the smoothing.
    assert ratio[-1] < 0.08
    assert fitted.variances(shape)[0, 0] == pytest.approx(power[0, 0], rel=0.01)
    # Below the lowest knot the power law goes on; the zero mode moves with L as it does.
    assert fitted(np.array([0.01]))[0] == pytest.approx(0.01**-1.75, rel=0.05)
    double = (2 * shape[0], 2 * shape[1])
    growth = fitted.variances(double)[0, 0] / fitted.variances(shape)[0, 0]
    assert growth == pytest.approx(2**1.75, rel=0.05)


def test_floor_keeps_empty_modes_positive() -> None:
    power = np.full((8, 5), 1.0)
    power[4, 4] = 0.0
    assert (fit_spectrum(power, (8, 8)).variances((8, 8)) > 0).all()


def test_interpolation_is_exact_at_the_knots() -> None:
    assert np.allclose(POWER_LAW(np.array(POWER_LAW.kappa)), POWER_LAW.power)
    assert isinstance(POWER_LAW, Spectrum)
