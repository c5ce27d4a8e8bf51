"""The process against the paper's equations, evaluated on their own in float64 and its units.

kappa_ref = pi u, modes are 2/L of a sum of cosines along each axis, S_0 = C (k^2 + k02)^-alpha is
the variance of the noise, abar = exp(-max(k, k_c)^2 lambda(t)) (arXiv 2605.26032). Modes constant
along an axis are left out: there the reference's norm is another one (`reference`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from skild_phys.skild.config import TrainConfig, read_config
from skild_phys.skild.denoiser import y0_from_output
from skild_phys.skild.process import Process
from skild_phys.skild.reference import (
    PaperSpectrum,
    kappa_from_reference,
    lambda_from_reference,
    mode_from_reference,
)
from skild_phys.skild.samplers import make_step

N = 1000


class Table(NamedTuple):
    """A row of the paper's table."""

    side: int
    theta: float
    lambda_i: float
    lambda_f: float
    k_c: float
    alpha: float
    c: float
    k02: float


PAPER = {
    "cifar10": Table(32, 5.0, 137.7294, 1.57, 3.0, 1.051304, 0.91001, 1.940556),
    "cifar10-loglinear": Table(32, 0.0, -3.75, -2.0, 31.2, 1.051304, 0.91001, 1.940556),
    "imagenet256-4x": Table(256, 9.0, 1132.9352, 550.8723, 0.0, 1.05975, 0.93221, 1.570796),
    "imagenet128-4x": Table(128, 9.0, 564.2461, 275.4361, 0.0, 1.061318, 0.90617, 1.570796),
    "imagenet128-8x": Table(128, 5.0, 564.2461, 102.6489, 0.0, 1.061318, 0.90617, 1.570796),
    "ising128-4x": Table(128, 9.0, 564.2461, 275.4361, 0.0, 0.811056, 0.26641, 3.0),
}
PINNED = {
    # sqrt(abar) and the mean's weight of x_t, at u = (1, 2), n = 400 -> 399, and S_0 there; with
    # 40 digits of mpmath from the table above.
    "cifar10": (0.993064841, 0.994244888, 0.0144975497),
    "cifar10-loglinear": (0.840703815, 0.993424057, 0.0144975497),
    "imagenet256-4x": (0.999941349, 0.995665913, 0.0144760297),
    "imagenet128-4x": (0.999764399, 0.995669135, 0.0139852103),
    "imagenet128-8x": (0.999746516, 0.994953481, 0.0139852103),
    "ising128-4x": (0.999764399, 0.995669135, 0.0107504375),
}
every = pytest.mark.parametrize("name", PAPER)


def process_of(config: TrainConfig) -> Process:
    side = config.lambdas.side  # type: ignore[union-attr]
    assert config.paper_spectrum is not None
    law = config.paper_spectrum.power_law()
    return Process(law, (side, side), basis=config.basis, cutoff=config.cutoff)


class Reference:
    """The paper's equations for one row of its table, in its units."""

    def __init__(self, name: str) -> None:
        self.row = PAPER[name]
        self.log_linear = name.endswith("loglinear")
        u = np.pi * np.arange(self.row.side)
        self.k = np.hypot(u[:, None], u)
        self.s0 = self.row.c * (self.k**2 + self.row.k02) ** -self.row.alpha

    def lam(self, n: int) -> float:
        t, row = n / N, self.row
        if self.log_linear:
            return t * 10.0 ** (row.lambda_i + (row.lambda_f - row.lambda_i) * t)
        return row.theta * t / (row.lambda_i * (1 - t) + row.lambda_f) ** 2

    def abar(self, n: int) -> np.ndarray:
        return np.exp(-(np.maximum(self.k, self.row.k_c) ** 2) * self.lam(n))

    def modes(self, x: np.ndarray) -> np.ndarray:
        """Return 2/L of a sum of cosines along each axis."""
        return dctn(x, type=2) * (1.0 / self.row.side) ** 2

    def fields(self, modes: np.ndarray) -> np.ndarray:
        return idctn(modes * self.row.side**2, type=2)


def fields(name: str, seed: int) -> np.ndarray:
    side = PAPER[name].side
    return np.random.default_rng(seed).standard_normal((2, side, side))


def inside(modes: np.ndarray) -> np.ndarray:
    return modes[..., 1:, 1:]


@every
def test_presets_are_the_papers_table(name: str) -> None:
    config, row = read_config(name), PAPER[name]
    lam = config.lambdas
    assert lam is not None
    assert (config.output, config.basis) == ("eps", "dct")
    assert config.cutoff == pytest.approx(kappa_from_reference(row.k_c, row.side), rel=1e-12)
    assert config.paper_spectrum == PaperSpectrum(row.side, row.alpha, row.c, row.k02)
    assert config.ema == (0.999 if "cifar" in name else 0.9999)
    assert config.learning_rate == (2e-4 if "cifar" in name else 1e-4)
    assert (config.batch, config.clip) == (128 if "cifar" in name else 256, 1.0)
    reference = Reference(name)
    for n in (1, 400, 1000):
        expected = lambda_from_reference(reference.lam(n), row.side)
        assert float(lam(np.array(n / N))) == pytest.approx(expected, rel=1e-12)


@every
def test_numbers_of_the_equations(name: str) -> None:
    """What the equations give at one mode, pinned, and what the process has there."""
    reference, config = Reference(name), read_config(name)
    a, b = reference.abar(399)[1, 2], reference.abar(400)[1, 2]
    weight = np.sqrt(b / a) * (1 - a) / (1 - b)
    found = (np.sqrt(b), weight, reference.s0[1, 2])
    assert found == pytest.approx(PINNED[name], rel=1e-6)
    process = process_of(config)
    lam = float(config.lambdas(np.array(0.4)))  # type: ignore[misc]
    assert float(process.cosine(lam)[1, 2]) == pytest.approx(np.sqrt(b), rel=1e-6)
    power = mode_from_reference(np.sqrt(reference.s0[1, 2]), PAPER[name].side) ** 2
    assert float(process.power[1, 2]) == pytest.approx(power, rel=1e-12)


@every
def test_the_forward_marginal(name: str) -> None:
    reference, config = Reference(name), read_config(name)
    process, x0, white = process_of(config), fields(name, 1), fields(name, 2)
    eps = inside(reference.modes(white) * PAPER[name].side / 2.0)
    for n in (1, 250, 1000):
        abar = inside(reference.abar(n))
        wanted = np.sqrt(abar) * inside(reference.modes(x0))
        wanted = wanted + np.sqrt(1 - abar) * np.sqrt(inside(reference.s0)) * eps
        lam = torch.full((2,), float(config.lambdas(np.array(n / N))))  # type: ignore[misc]
        found = process.forward(torch.from_numpy(x0), lam.double(), torch.from_numpy(white))
        got = inside(reference.modes(found.double().numpy()))
        assert np.abs(got - wanted).max() < 2e-6 * np.abs(wanted).max()


@every
@pytest.mark.parametrize("n", [1000, 500, 2, 1])
def test_one_ancestral_step(name: str, n: int) -> None:
    """x_{n-1} from x_n and a predicted eps: DDPM's posterior, mode by mode."""
    reference, config, row = Reference(name), read_config(name), PAPER[name]
    process, xt, predicted, white = process_of(config), *(fields(name, s) for s in (3, 4, 5))
    xt = np.asarray(process.gaussian(torch.from_numpy(xt).float()).double())
    eps_field = np.asarray(process.gaussian(torch.from_numpy(predicted).float()).double())
    a, b = (inside(reference.abar(k)) for k in (n - 1, n))
    x, eps = inside(reference.modes(xt)), inside(reference.modes(eps_field))
    x0 = (x - np.sqrt(1 - b) * eps) / np.maximum(np.sqrt(b), 1e-3)
    # b / a from the exponents: of the finest modes both are below the smallest float64.
    k = np.maximum(inside(reference.k), row.k_c)
    alpha = np.exp(-(k**2) * (reference.lam(n) - reference.lam(n - 1)))
    beta = 1 - alpha
    wanted = np.sqrt(a) * beta / (1 - b) * x0 + np.sqrt(alpha) * (1 - a) / (1 - b) * x
    noise = inside(reference.modes(white) * row.side / 2.0) * np.sqrt(inside(reference.s0))
    wanted = wanted + np.sqrt((1 - a) / (1 - b) * beta) * noise

    class Mean:
        def mean(self) -> torch.Tensor:
            at = torch.full((2,), lam)
            field = torch.from_numpy(eps_field).float()
            return y0_from_output(field, "eps", process, y, at.double())

        def draw(self) -> torch.Tensor:
            raise AssertionError

    lam, to = (float(config.lambdas(np.array(k / N))) for k in (n, n - 1))  # type: ignore[misc]
    y = process.modes(torch.from_numpy(xt).float())
    after = make_step("ancestral")(
        process, y, Mean(), lam, to, lambda: process.white(torch.from_numpy(white).float())
    )
    got = inside(reference.modes(process.fields(after).double().numpy()))
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_units() -> None:
    """kappa^2 lambda is a pure number; a mode of the reference has 2/L of a sum along each axis."""
    assert kappa_from_reference(np.pi * 5, 32) == pytest.approx(np.pi * 5 / 32)
    assert lambda_from_reference(0.02, 32) == pytest.approx(20.48)
    x = np.random.default_rng(0).standard_normal((32, 32))
    one = np.cos(np.pi * 3 * (np.arange(32) + 0.5) / 32)
    theirs = (2.0 / 32) ** 2 * float(one @ x @ one)
    ours = float(dctn(x, type=2, norm="ortho")[3, 3])
    assert mode_from_reference(theirs, 32) == pytest.approx(ours)
