"""Pair couplings from configurations alone, against the couplings that made these."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from skild_helpers import TC

from skild_phys.errors import BadInput
from skild_phys.models import MODELS
from skild_phys.rng import kernel_state
from skild_phys.rules import coarsen
from skild_phys.simulation.wolff import wolff
from skild_phys.skild import measured
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.measured import SIGNIFICANT, beyond_pairs, fit_couplings
from skild_phys.skild.spins import Couplings

Spins = NDArray[np.int8]


def ising(temperature: float, batches: int, chains: int = 48, side: int = 32) -> list[Spins]:
    """Return batches of lattices of independent Wolff chains."""
    return [
        np.array(SimulationSource(side, temperature, chains, 6, 100 + seed).next(chains))
        for seed in range(batches)
    ]


def nearest_error(batches: list[Spins]) -> float:
    """Return the standard error of the nearest-neighbour coupling, from a fit to each batch."""
    alone = [fit_couplings([batch]) for batch in batches]
    values = [dict(zip(one.offsets, one.values, strict=True))[0, 1] for one in alone]
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [TC, 3.2, 2.0])
def test_the_couplings_of_the_ising_model(temperature: float) -> None:
    """H0: J = 1 / T between nearest neighbours, within 5 errors, and no other pair has any.

    False alarm: 2e-5 for the value (10 degrees of freedom are taken for normal), 1e-5 for each
    other orbit of 4 (a coupling is kept from 5 errors on). Planted, seen to fail: lattices at a
    temperature 20% off.
    """
    batches = ising(temperature, 10)
    fitted = fit_couplings(batches)
    assert fitted.offsets == ((0, 1), (1, 0))
    error = nearest_error(batches)
    assert error < 0.01
    assert fitted.values[0] == fitted.values[1]
    assert abs(fitted.values[0] - 1.0 / temperature) < 5 * error
    warmer = fit_couplings(ising(1.2 * temperature, 10))
    assert abs(warmer.values[0] - 1.0 / temperature) > 6 * error


ANISOTROPIC = Couplings(((0, 1), (1, 0), (1, 1)), (0.35, 0.12, 0.10))


def heat_bath(couplings: Couplings, n: int, side: int, sweeps: int, seed: int) -> Spins:
    """Return `n` lattices after `sweeps` of exact heat bath; pairs within reach 1, side even.

    Sites of one parity of y and of x have no couplings among each other.
    """
    random = np.random.default_rng(seed)
    spins = random.choice(np.array([-1, 1], dtype=np.int8), (n, side, side))
    for _ in range(sweeps):
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            field = np.zeros(spins.shape)
            for (dy, dx), value in zip(couplings.offsets, couplings.values, strict=True):
                field += value * np.roll(spins, (dy, dx), (1, 2))
                field += value * np.roll(spins, (-dy, -dx), (1, 2))
            up = random.random(field.shape) < 1.0 / (1.0 + np.exp(-2.0 * field))
            spins[:, y::2, x::2] = np.where(up, 1, -1)[:, y::2, x::2]
    return spins


@pytest.mark.statistical
def test_couplings_without_symmetry() -> None:
    """H0: each of three unlike couplings within 5 errors, and no other pair has any.

    False alarm: 1e-4 (errors have 9 degrees of freedom), and 6e-7 for each of 9 others. Planted,
    seen to fail: taking the lattice for symmetric.
    """
    batches = [heat_bath(ANISOTROPIC, 60, 16, 80, seed) for seed in range(10)]
    fitted = fit_couplings(batches, symmetric=False)
    found = dict(zip(fitted.offsets, fitted.values, strict=True))
    want = dict(zip(ANISOTROPIC.offsets, ANISOTROPIC.values, strict=True))
    assert set(found) == set(want)
    alone = [fit_couplings([batch], symmetric=False) for batch in batches]
    for offset, value in want.items():
        values = [dict(zip(a.offsets, a.values, strict=True))[offset] for a in alone]
        assert abs(found[offset] - value) < 5 * np.std(values, ddof=1) / np.sqrt(len(values))
        assert abs(found[offset] - value) < 0.02
    alike = fit_couplings(batches)
    assert dict(zip(alike.offsets, alike.values, strict=True))[0, 1] < 0.3


@pytest.mark.statistical
def test_free_spins_have_no_couplings() -> None:
    """H0: none of 5 orbits is kept: 3e-6 were errors of 8 groups normal; seed 1."""
    random = np.random.default_rng(1)
    batches = [random.choice(np.array([-1, 1], dtype=np.int8), (20, 12, 12)) for _ in range(8)]
    assert fit_couplings(batches) == Couplings()


@pytest.mark.parametrize(
    ("shape", "reach"), [((4, 16), 2), ((16, 4), 2), ((2, 2), 1), ((16, 16), 0)]
)
def test_lattices_too_small_have_none(shape: tuple[int, int], reach: int) -> None:
    """A separation must not be its own opposite, nor another's, around the torus."""
    spins = np.random.default_rng(2).choice(np.array([-1, 1], dtype=np.int8), (50, *shape))
    spins[:, :, 1:] = spins[:, :, :-1]
    assert fit_couplings([spins] * 3, reach) == Couplings()


def test_the_smallest_lattices_that_have_some() -> None:
    batches = ising(TC, 8, side=5)
    assert (0, 1) in fit_couplings(batches).offsets
    assert fit_couplings([]) == Couplings()


@pytest.mark.parametrize("value", [1, -1])
def test_constant_lattices_stay_finite(value: int) -> None:
    """Couplings would be infinite but for the ridge."""
    spins = np.full((5, 8, 8), value, dtype=np.int8)
    for batches in ([spins], [spins] * 9):
        fitted = fit_couplings(batches)
        assert np.isfinite(fitted.values).all()
        assert np.isfinite(fitted.transfer((8, 8))).all()


def test_staggered_lattices_stay_finite() -> None:
    spins = (1 - 2 * (np.indices((8, 8)).sum(0) % 2)).astype(np.int8)
    fitted = fit_couplings([spins[None]] * 9)
    assert np.isfinite(fitted.values).all()
    assert dict(zip(fitted.offsets, fitted.values, strict=True))[0, 1] < -0.1


@pytest.mark.parametrize("shape", [(6, 8), (5, 7)])
def test_the_transfer_is_the_transform_of_the_couplings(shape: tuple[int, int]) -> None:
    by_site = np.zeros(shape)
    for (dy, dx), value in zip(ANISOTROPIC.offsets, ANISOTROPIC.values, strict=True):
        by_site[dy % shape[0], dx % shape[1]] += value
        by_site[-dy % shape[0], -dx % shape[1]] += value
    assert np.allclose(ANISOTROPIC.transfer(shape), np.fft.rfft2(by_site), atol=1e-12)
    assert not Couplings().transfer(shape).any()


def test_the_record_goes_through_json() -> None:
    record = json.loads(json.dumps(dataclasses.asdict(ANISOTROPIC)))
    assert Couplings.from_record(record) == ANISOTROPIC
    with pytest.raises(KeyError):
        Couplings.from_record({})


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [TC, 3.2])
def test_pairs_say_all_about_the_ising_model(temperature: float) -> None:
    """H0: none of four deviations is beyond 5 errors; 1e-3 (Student's t, 11 degrees of freedom).

    Planted, seen to be found: couplings of another temperature.
    """
    batches = ising(temperature, 12)
    couplings = fit_couplings(batches)
    assert np.abs(beyond_pairs(batches, couplings)).max() < SIGNIFICANT
    other = Couplings(couplings.offsets, tuple(1.1 * j for j in couplings.values))
    assert np.abs(beyond_pairs(batches, other)).max() > SIGNIFICANT


@pytest.mark.statistical
def test_more_than_pairs_is_found() -> None:
    """Majorities of blocks at Tc have couplings of four spins (Swendsen, PRL 42, 859)."""
    blocked = [coarsen(batch, "majority", 2) for batch in ising(TC, 12, side=64)]
    deviations = beyond_pairs(blocked, fit_couplings(blocked))
    assert np.abs(deviations).max() > SIGNIFICANT


def test_one_batch_has_no_error() -> None:
    assert np.isnan(beyond_pairs(ising(TC, 1), Couplings())).all()


@pytest.mark.statistical
def test_many_couplings_in_three_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine kinds of pairs within reach 2, of which next to no two sites have the same: some sites
    are enough. H0: J = 1 / Tc, to 5 standard errors of 0.009: 6e-7 a pair."""
    monkeypatch.setattr(measured, "_SITES", 2**11)
    temperature, spins = MODELS["ising3d"].critical_temperature, np.ones((6, 6, 6), dtype=np.int8)
    state, drawn = kernel_state(7), []
    for _ in range(16 * 24):
        wolff(spins, temperature, state, 15)
        drawn.append(spins.copy())
    fitted = fit_couplings([np.stack(drawn[i::16]) for i in range(16)])
    assert {(0, 0, 1), (0, 1, 0), (1, 0, 0)} <= {*fitted.offsets}
    found = dict(zip(fitted.offsets, fitted.values, strict=True))
    assert found[0, 0, 1] == pytest.approx(1.0 / temperature, abs=0.045)
    with pytest.raises(BadInput, match=r"couplings_reach: 2.*a smaller one, or symmetries with"):
        fit_couplings([np.stack(drawn[:4])], symmetric=False)
