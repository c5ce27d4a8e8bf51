"""The forward process, its bridge, and the whole reverse chain with an exact denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skild_helpers import POWER_LAW

from skild_phys.lattice.coarsen import Decimate
from skild_phys.skild.process import Process
from skild_phys.skild.sampler import Streams, sample_fields, white_noise
from skild_phys.skild.schedule import geometric_steps, starting_lambda
from skild_phys.skild.spectrum import wave_numbers

SHAPE = (16, 16)


def gaussian(n: int, seed: int) -> torch.Tensor:
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


def shell_deviations(fields: torch.Tensor, power: np.ndarray) -> np.ndarray:
    """Return z of the mean |X|^2 / P in radial shells; modes are independent exponentials."""
    n = len(fields)
    modes = torch.fft.fft2(fields.double(), norm="ortho").abs().square().mean(0).numpy()
    full = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16))) * 2 * np.pi
    expected = np.zeros((16, 16))
    expected[:, :9] = power
    expected[:, 9:] = power[-np.arange(16) % 16][:, 7:0:-1]
    shell = np.rint(full / (2 * np.pi / 16)).astype(int)
    z = []
    for k in range(shell.max() + 1):
        here = shell == k
        ratio = (modes / expected)[here].mean()
        # Conjugate pairs carry one complex number: the variance of |X|^2 / P is 1 for a pair's
        # mean too, 2 for the real modes; 2 / (modes in the shell) bounds and mostly equals it.
        z.append((ratio - 1.0) / np.sqrt(2.0 / (here.sum() * n)))
    return np.array(z)


def test_forward_keeps_the_spectrum_of_a_gaussian_field() -> None:
    process = Process(POWER_LAW, SHAPE)
    x0 = process.gaussian(gaussian(2000, 1))
    xt = process.forward(x0, torch.full((2000,), 0.7), gaussian(2000, 2))
    assert np.abs(shell_deviations(xt, POWER_LAW.variances(SHAPE))).max() < 4


def test_forward_without_noise_scales_each_mode_by_sqrt_abar() -> None:
    process = Process(POWER_LAW, SHAPE)
    x0 = gaussian(2, 3)
    lam = torch.tensor([0.3, 2.0])
    xt = process.forward(x0, lam, torch.zeros_like(x0))
    kappa = np.maximum(wave_numbers(SHAPE), 2 * np.pi / 16)
    for i in range(2):
        expected = np.exp(-(kappa**2) * float(lam[i]) / 2) * np.fft.rfft2(x0[i].numpy())
        assert np.allclose(np.fft.rfft2(xt[i].numpy()), expected, atol=1e-4)


def test_velocity_and_x0_are_inverse() -> None:
    process = Process(POWER_LAW, SHAPE)
    x0, noise, lam = gaussian(3, 4), gaussian(3, 5), torch.tensor([0.05, 0.5, 3.0])
    xt = process.forward(x0, lam, noise)
    back = process.x0_from_velocity(xt, process.velocity(x0, noise, lam), lam)
    assert torch.allclose(back, x0, atol=2e-4)


@pytest.mark.statistical
@pytest.mark.parametrize("steps", [4, 16, 64])
def test_exact_denoiser_returns_the_spectrum_in_every_shell(steps: int) -> None:
    """H0: mean |X|^2 = P in each of 12 shells; abs(z) < 4 fails by chance in 8e-4 of runs."""
    z = np.abs(reverse_chain(steps, spread=1.0))
    assert z.max() < 4


@pytest.mark.statistical
def test_a_denoiser_without_its_spread_is_caught() -> None:
    """Planted fault: x0 set to its mean instead of drawn loses variance."""
    assert np.abs(reverse_chain(16, spread=0.0)).max() > 6


def reverse_chain(steps: int, spread: float, n: int = 1500) -> np.ndarray:
    process = Process(POWER_LAW, SHAPE)
    lambdas = geometric_steps(20.0, 0.02, steps)
    xt = process.gaussian(gaussian(n, 6))
    for i, lam in enumerate(lambdas):
        # E[X0 | Xt] = sqrt(abar) Xt and Var = (1 - abar) P for a Gaussian field of spectrum P:
        # `forward` itself applied to Xt.
        white = spread * gaussian(n, 100 + i)
        x0 = process.forward(xt, torch.full((n,), float(lam)), white)
        if i + 1 < steps:
            xt = process.bridge(xt, x0, float(lam), float(lambdas[i + 1]), gaussian(n, 1000 + i))
    return shell_deviations(x0, POWER_LAW.variances(SHAPE))


class ExactForGaussians(torch.nn.Module):
    """v = 0: the exact denoiser of a Gaussian field."""

    def forward(self, x: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.statistical
@pytest.mark.parametrize("steps", [3, 12])
def test_refined_gaussian_fields_have_the_spectrum_and_the_coarse_field(steps: int) -> None:
    """H0: as above, for `sample_fields` from decimated fields; false alarm 8e-4 a case."""
    n = 400
    process, sites = Process(POWER_LAW, SHAPE), Decimate(SHAPE, 4)
    variances = POWER_LAW.variances(SHAPE)
    values = sites.apply(process.gaussian(gaussian(n, 31)).double().numpy())
    streams = [Streams.of(3, i) for i in range(n)]
    guess = process.gaussian(white_noise(streams, SHAPE, torch.device("cpu")))
    x0 = torch.from_numpy(sites.correct(guess.double().numpy(), values, variances)).float()
    lambdas = geometric_steps(4.0, 0.03, steps)
    noise = white_noise(streams, SHAPE, torch.device("cpu"))
    start = process.forward(x0, torch.full((n,), 4.0), noise)
    fields = sample_fields(
        ExactForGaussians(), process, start, lambdas, sites, values, variances, streams
    )  # type: ignore[arg-type]
    assert np.abs(sites.apply(fields.astype(np.float64)) - values).max() < 1e-4
    assert np.abs(shell_deviations(torch.from_numpy(fields), variances)).max() < 4


def test_steps_are_equal_in_log_lambda() -> None:
    lam = geometric_steps(4.0, 0.01, 7)
    assert lam[0] == pytest.approx(4.0)
    assert lam[-1] == pytest.approx(0.01)
    assert np.allclose(np.diff(np.log(lam)), np.log(0.01 / 4.0) / 6)
    assert starting_lambda(4) == pytest.approx(4.0)
