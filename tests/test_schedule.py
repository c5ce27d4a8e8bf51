"""Schedules, their inverses, the paper's presets, and the lambdas of a chain."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from skild_helpers import tiny_weights

from skild_phys.errors import BadInput
from skild_phys.rules import RULES
from skild_phys.skild.chain import SCHEDULES, Chain, Schedule, starting_lambda
from skild_phys.skild.spectrum import make_basis

EVERY: dict[str, Schedule] = {
    "geometric": SCHEDULES["geometric"](0.05, 40.0),
    "cifar10": SCHEDULES["linear"](32, 5.0, 137.7294, 1.57),
    "cifar10 log": SCHEDULES["log-linear"](32, -3.75, -2.0),
    "imagenet256 4x": SCHEDULES["linear"](256, 9.0, 1132.9352, 550.8723),
    "imagenet128 4x": SCHEDULES["linear"](128, 9.0, 564.2461, 275.4361),
    "imagenet128 8x": SCHEDULES["linear"](128, 5.0, 564.2461, 102.6489),
    "white noise": SCHEDULES["variance-preserving"](4.5),
}
every = pytest.mark.parametrize("name", EVERY)


@every
def test_the_inverse_is_the_inverse(name: str) -> None:
    schedule = EVERY[name]
    for t in (1e-6, 1e-3, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0):
        assert schedule.inverse(float(schedule(np.array(t)))) == pytest.approx(t, rel=1e-9)


def test_white_noise_is_ddpms_linear_beta() -> None:
    """abar is the product of 1 - beta of 1000 steps from 1e-4 to 0.02, up to its steps' size."""
    betas = np.linspace(1e-4, 0.02, 1000)
    wanted = np.cumprod(1.0 - betas)
    lam = EVERY["white noise"](np.arange(1, 1001) / 1000.0)
    assert np.exp(-(4.5**2) * lam) == pytest.approx(wanted, rel=0.06, abs=2e-4)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("geometric", (0.0, 1.0)), ("geometric", (2.0, 1.0)), ("linear", (32, 5.0, 1.0, 0.0)),
     ("linear", (0, 5.0, 1.0, 1.0)), ("log-linear", (32, -2.0, -3.0)),
     ("log-linear", (32, float("nan"), -3.0)),
     ("log-linear", (32.5, -4.0, -3.0)), ("variance-preserving", (0.0,)),
     ("variance-preserving", (4.5, 3.0, 2.0))],
)  # fmt: skip
def test_a_schedule_that_does_not_grow_is_refused(kind: str, numbers: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match=r"\[lambdas\]"):
        SCHEDULES[kind](*numbers)


def test_many_lambdas_at_once_and_back_from_a_record() -> None:
    for schedule in EVERY.values():
        t = np.array([0.01, 0.5, 1.0])
        assert schedule.inverse(schedule(t)) == pytest.approx(t, rel=1e-9)
        record = json.loads(json.dumps(dataclasses.asdict(schedule)))  # type: ignore[call-overload]
        assert SCHEDULES[record["kind"]](**record) == schedule


@every
def test_lambda_grows(name: str) -> None:
    lam = EVERY[name](np.linspace(0.0, 1.0, 1001))
    assert (np.diff(lam) > 0).all()
    assert lam[0] == (0.05 if name == "geometric" else 0.0)


@pytest.mark.parametrize(
    ("name", "side", "tau", "resolution", "theta", "lambda_f"),
    [
        ("imagenet256 4x", 256, 0.1, 64.0, 9.0, 550.8723),
        ("imagenet128 4x", 128, 0.1, 32.0, 9.0, 275.4361),
        ("imagenet128 8x", 128, 0.1, 16.0, 5.0, 102.6489),
    ],
)
def test_the_papers_presets_end_at_the_coarse_lattice(
    name: str, side: int, tau: float, resolution: float, theta: float, lambda_f: float
) -> None:
    """lambda(1) = side^2 theta / lambda_f^2 leaves a box of R x R to be seen; R is the input's."""
    end = float(EVERY[name](np.array(1.0)))
    assert end == pytest.approx(side**2 * theta / lambda_f**2, rel=1e-12)
    # abar / (1 - abar) = tau at its corner, kappa = sqrt(2) pi R / side.
    seen = (math.sqrt(2.0) * math.pi * resolution / side) ** 2 * end
    assert 1.0 / math.expm1(seen) == pytest.approx(tau, rel=1e-4)


@pytest.mark.parametrize("name", ["imagenet256 4x", "imagenet128 4x", "imagenet128 8x"])
def test_the_papers_presets_begin_at_the_whole_lattice(name: str) -> None:
    """lambda_i = sqrt(2) pi (side - 1): kappa_ref of the corner of the full box."""
    schedule = EVERY[name]
    corner = math.sqrt(2.0) * math.pi * (schedule.side - 1)
    assert schedule.lambda_i == pytest.approx(corner, rel=1e-5)


def test_the_generating_presets_end_in_noise() -> None:
    """What is left at the end, abar / (1 - abar) = 1e-4 at R = 1: nothing of any wave."""
    linear = float(EVERY["cifar10"](np.array(1.0)))
    assert linear == pytest.approx(32**2 * 5.0 / 1.57**2, rel=1e-12)
    assert 1.0 / math.expm1(2.0 * (math.pi / 32) ** 2 * linear) < 1e-4
    log_linear = float(EVERY["cifar10 log"](np.array(1.0)))
    assert log_linear == pytest.approx(32**2 * 1e-2, rel=1e-12)
    # With the paper's cut-off k_c = 31.2, in radians a box, every mode is erased.
    assert math.log(1e4) < 31.2**2 * 1e-2


def test_lambda_is_in_sites_squared() -> None:
    """kappa^2 lambda is the paper's (pi u)^2 lambda_ref: sites drop out."""
    side, t = 128, np.array(0.3)
    lambda_ref = 9.0 * 0.3 / (564.2461 * 0.7 + 275.4361) ** 2
    kappa = make_basis("dct", (side, side)).kappa[0, 5]
    exponent = kappa**2 * float(EVERY["imagenet128 4x"](t))
    assert exponent == pytest.approx((math.pi * 5) ** 2 * lambda_ref, rel=1e-12)


def test_the_effective_resolution_is_where_the_signal_is_tau_of_the_noise() -> None:
    """abar / (1 - abar) = tau at the corner of the R x R box of a DCT, R a whole number."""
    side, resolution, tau = 64, 24, 0.1
    lam = math.log1p(1.0 / tau) * (side / (math.sqrt(2.0) * math.pi * resolution)) ** 2
    abar = math.exp(-(make_basis("dct", (side, side)).kappa[24, 24] ** 2) * lam)
    assert abar / (1.0 - abar) == pytest.approx(tau, rel=1e-12)


@every
def test_a_chain_has_its_two_ends(name: str) -> None:
    schedule = EVERY[name]
    start, end = float(schedule(np.array(0.8))), float(schedule(np.array(0.05)))
    lambdas = schedule.lambdas(start, end, 9)
    assert (lambdas[0], lambdas[-1], len(lambdas)) == (start, end, 9)
    assert (np.diff(lambdas) < 0).all()
    t = [schedule.inverse(float(lam)) for lam in lambdas]
    assert np.allclose(np.diff(t), -0.75 / 8, rtol=1e-6)
    assert schedule.lambdas(start, end, 2).tolist() == [start, end]
    assert schedule.lambdas(start, end, 1).tolist() == [start]
    with pytest.raises(BadInput, match="steps"):
        schedule.lambdas(start, end, 0)


def test_geometric_chains_are_equal_in_log_lambda_wherever_their_table_ends() -> None:
    one = SCHEDULES["geometric"](0.006, 1000.0).lambdas(4.0, 0.1, 7)
    other = SCHEDULES["geometric"](0.06, 50.0).lambdas(4.0, 0.1, 7)
    assert np.allclose(np.diff(np.log(one)), math.log(0.1 / 4.0) / 6)
    assert np.allclose(one, other)


def test_refinement_starts_past_the_coarse_nyquist_mode() -> None:
    for factor in (2, 3, 4, 8):
        exponent = (math.pi / factor) ** 2 * starting_lambda(factor)
        assert exponent == pytest.approx(math.pi**2 / 4)


def test_weights_with_one_grid_refine_from_where_the_coarse_lattice_ends() -> None:
    """Planted, seen to fail: where weights with grids start, on all weights."""
    rule, chain = RULES["block_mean"], Chain()
    for factor in (2, 4, 16):
        lambdas = chain.refining(tiny_weights("x0"), rule, factor, (64, 64))
        assert lambdas[0] == factor**2 / 4
