"""The forward process, its angles and its bridge, in both bases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skild_helpers import POWER_LAW, shell_deviations, white

from skild_phys.skild.equations import Process
from skild_phys.skild.spectrum import BASES, PowerLaw

SHAPE = (16, 16)
bases = pytest.mark.parametrize("name", BASES)
shapes = pytest.mark.parametrize("shape", [(16, 16), (12, 9)])


def at(*lam: float) -> torch.Tensor:
    return torch.tensor(lam, dtype=torch.float64)[:, None, None]


@pytest.mark.statistical
@bases
@shapes
def test_gaussian_fields_have_the_spectrum(name: str, shape: tuple[int, int]) -> None:
    """H0: mean |X|^2 = P in each of about 12 shells; abs(z) < 4 fails by chance in 8e-4.

    Planted, seen to fail: a spectrum 15% off.
    """
    process = Process(POWER_LAW, shape, basis=name)
    fields = process.gaussian(white(2000, shape, 1))
    power = process.power.numpy()
    assert np.abs(shell_deviations(fields, process.basis, power)).max() < 4
    assert np.abs(shell_deviations(fields, process.basis, 1.15 * power)).max() > 6


@pytest.mark.statistical
@bases
def test_forward_keeps_the_spectrum_of_a_gaussian_field(name: str) -> None:
    """H0 as above, after the forward process. Planted, seen to fail: noise of unit spectrum."""
    process = Process(POWER_LAW, SHAPE, basis=name)
    power, lam = process.power.numpy(), torch.full((2000,), 0.7)
    x0 = process.gaussian(white(2000, SHAPE, 1))
    xt = process.forward(x0, lam, white(2000, SHAPE, 2))
    assert np.abs(shell_deviations(xt, process.basis, power)).max() < 4
    wrong = process.forward(x0, lam, torch.zeros_like(x0)) + white(2000, SHAPE, 2)
    assert np.abs(shell_deviations(wrong, process.basis, power)).max() > 6


@bases
@shapes
def test_forward_without_noise_scales_each_mode_by_sqrt_abar(
    name: str, shape: tuple[int, int]
) -> None:
    process = Process(POWER_LAW, shape, basis=name)
    basis, x0, lam = process.basis, white(2, shape, 3), torch.tensor([0.3, 2.0])
    xt = process.forward(x0, lam, torch.zeros_like(x0))
    kappa = np.maximum(basis.kappa, basis.lowest)
    for i in range(2):
        expected = np.exp(-(kappa**2) * float(lam[i]) / 2) * basis.modes(x0[i]).numpy()
        assert np.allclose(basis.modes(xt[i]).numpy(), expected, atol=1e-5)


def test_the_cutoff_is_where_it_is_put() -> None:
    """kappa_c: the longest wavelengths are erased as fast as the one at kappa_c."""
    process = Process(POWER_LAW, SHAPE, cutoff=1.0)
    assert process.kappa2[0, 0] == process.kappa2[0, 1] == 1.0
    assert process.kappa2[0, 4] == pytest.approx((np.pi / 2) ** 2)
    none = Process(POWER_LAW, SHAPE, cutoff=0.0)
    assert none.kappa2[0, 0] == 0.0
    assert none.sine(5.0)[0, 0] == 0.0


@bases
def test_modes_and_fields_are_inverse(name: str) -> None:
    process = Process(POWER_LAW, (12, 9), basis=name)
    x = white(3, (12, 9), 8)
    assert torch.allclose(process.fields(process.modes(x)), x, atol=1e-5)


@pytest.mark.parametrize("lam", [1e-6, 0.02, 1.0, 30.0, 1000.0])
def test_angles(lam: float) -> None:
    """cos^2 = abar, sin^2 + cos^2 = 1 and the angle between two lambdas, for large and small."""
    process = Process(POWER_LAW, SHAPE)
    abar = np.exp(-process.kappa2.numpy() * lam)
    assert np.allclose(process.cosine(lam).numpy() ** 2, abar, rtol=1e-5, atol=1e-30)
    assert np.allclose(process.sine(lam).numpy() ** 2, 1 - abar, rtol=1e-5)
    angle = process.angle_between(lam, 0.0).numpy()
    assert np.allclose(np.cos(angle), process.cosine(lam).numpy(), atol=1e-6)
    part = process.angle_between(lam, 0.4 * lam) + process.angle_between(0.4 * lam, 0.0)
    assert np.allclose(part.numpy(), angle, rtol=1e-5)


@bases
def test_velocity_and_y0_are_inverse(name: str) -> None:
    process, lam = Process(POWER_LAW, SHAPE, basis=name), at(0.05, 0.5, 3.0)
    y0, eps = process.modes(white(3, SHAPE, 4)), process.white(white(3, SHAPE, 5))
    y = process.cosine(lam) * y0 + process.sine(lam) * eps
    v = process.velocity(y, y0, lam)
    direct = process.cosine(lam) * eps - process.sine(lam) * y0
    assert (v - direct).abs().max() < 2e-4
    assert (process.y0_from_velocity(y, v, lam) - y0).abs().max() < 2e-4


def noiseless() -> torch.Tensor:
    return torch.zeros(())


@bases
@pytest.mark.parametrize(("lam", "to"), [(2.0, 0.3), (0.02, 0.015), (500.0, 0.01)])
def test_the_bridge_is_bayes_rule(name: str, lam: float, to: float) -> None:
    """Mean and variance of Y_to given Y_0 and Y_lam, by conditioning the 2 x 2 covariance."""
    process = Process(POWER_LAW, (5, 4), basis=name)
    y0, y = (process.white(white(1, (5, 4), seed)) for seed in (1, 2))
    ones = torch.ones_like(y)
    mean = process.bridge_modes(y, y0, lam, to, noiseless)
    spread = process.bridge_modes(0 * y, 0 * y0, lam, to, lambda: ones)
    kappa2 = process.kappa2.numpy()
    a, b = np.exp(-kappa2 * to), np.exp(-kappa2 * lam)
    # Given Y_0: Var Y_to = 1 - a, Var Y_lam = 1 - b, Cov = sqrt(b / a) (1 - a).
    gain = np.sqrt(b / a) * (1 - a) / (1 - b)
    expected = np.sqrt(a) * y0.numpy() + gain * (y.numpy() - np.sqrt(b) * y0.numpy())
    assert np.allclose(mean.numpy(), expected, atol=1e-5)
    variance = (1 - a) - gain * np.sqrt(b / a) * (1 - a)
    assert np.allclose(spread.numpy().real ** 2, variance, rtol=1e-4, atol=1e-7)


@bases
def test_the_bridge_to_zero_is_y0(name: str) -> None:
    process = Process(POWER_LAW, (12, 9), basis=name)
    y0, y = (process.white(white(2, (12, 9), seed)) for seed in (1, 2))
    end = process.bridge_modes(y, y0, 0.7, 0.0, lambda: 1e6 * torch.ones_like(y))
    assert torch.allclose(end, y0, rtol=1e-6)


@pytest.mark.statistical
@bases
def test_two_bridges_are_one(name: str) -> None:
    """H0: for Y_0 of any distribution (here +-1), Y_to has mean cos(theta) Y_0 and variance sin^2.

    From lambda = 3 by way of 1 to 0.2, on 4000 fields: abs(z) < 5 for the mean and the variance
    of each of 20 modes' real parts, twice: 2e-5. Planted, seen to fail: the noise of the last step
    scaled by 1.15.
    """
    n, shape, process = 4000, (5, 4), Process(POWER_LAW, (5, 4), basis=name)
    y0 = torch.ones_like(process.white(white(n, shape, 0)))

    def through(scale: float) -> np.ndarray:
        seeds = iter(range(1, 9))
        noise = lambda: process.white(white(n, shape, next(seeds)))  # noqa: E731
        y = process.cosine(3.0) * y0 + process.sine(3.0) * noise()
        y = process.bridge_modes(y, y0, 3.0, 1.0, noise)
        y = process.bridge_modes(y, y0, 1.0, 0.2, lambda: scale * noise())
        return np.asarray(((y - process.cosine(0.2) * y0) / process.sine(0.2)).real.numpy())

    variance = process.white(white(20000, shape, 99)).real.double().var(0).numpy().round(1)
    for scale, caught in ((1.0, False), (1.15, True)):
        left = through(scale)
        z_mean = left.mean(0) / np.sqrt(variance / n)
        z_variance = (left.var(0) / variance - 1.0) / np.sqrt(2.0 / n)
        assert np.abs(z_mean).max() < 5
        assert bool(np.abs(z_variance).max() > 5) is caught


def test_a_mode_that_is_never_erased_is_what_it_is() -> None:
    """Cutoff 0: whatever is said of Y_0 there, the bridge and its end leave the mode as it was."""
    process = Process(PowerLaw(1.0, 1.0, 0.1), (6, 6), basis="dct", cutoff=0.0)
    y, y0 = white(2, (6, 6), 1), white(2, (6, 6), 2)
    for to in (0.5, 0.0):
        after = process.bridge_modes(y, y0, 2.0, to, lambda: white(2, (6, 6), 3))
        assert torch.equal(after[:, 0, 0], y[:, 0, 0])
        assert torch.isfinite(after).all()
    assert torch.isfinite(process.velocity(y, y, 1.0)).all()
