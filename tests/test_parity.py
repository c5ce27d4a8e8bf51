"""The process against the paper's equations, evaluated on their own in float64 and its units.

kappa_ref = pi u; modes are 2/L of a sum of cosines along each axis, the zero modes too;
x_t = sqrt(abar) x_0 + sqrt(1 - abar) sqrt(S_0) eps_k with eps_k standard normal in each of these
modes, S_0 = C (k^2 + k02)^-alpha, abar = exp(-max(k, k_c)^2 lambda(t)); the network predicts eps_k,
x_0 = (x_t - sqrt(S_0) sqrt(1 - abar) eps_k) / max(sqrt(abar), 1e-6) (arXiv 2605.26032).

Planted, seen to fail: eps_k divided by sqrt(S_0) once more; one P(kappa) for modes constant along
an axis; a floor of 1e-3; published weights whose last layer is not divided by side / 2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skild_phys.errors import BadInput, WeightsError
from skild_phys.rng import Streams
from skild_phys.skild.equations import Process, field_target, make_step, y0_from_output
from skild_phys.skild.ncsnpp import from_published
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import PaperSpectrum, spectrum_from_record
from skild_phys.skild.weights import load_weights, published_weights, save_weights

N = 1000
PUBLISHED = Path(__file__).parent / "data" / "ncsnpp_reference.safetensors"


class Table(NamedTuple):
    """A row of the paper's tables."""

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


def process_of(config: Recipe) -> Process:
    side = config.lambdas.side  # type: ignore[union-attr]
    assert config.paper_spectrum is not None
    return Process(config.paper_spectrum, (side, side), basis=config.basis, cutoff=config.cutoff)


class Reference:
    """The paper's equations for one row of its table, in its units and its modes."""

    def __init__(self, name: str) -> None:
        self.row = PAPER[name]
        self.log_linear = name.endswith("loglinear")
        sites = np.arange(self.row.side)
        self.k = np.hypot(np.pi * sites[:, None], np.pi * sites)
        self.s0 = self.row.c * (self.k**2 + self.row.k02) ** -self.row.alpha
        angle = np.pi * sites[:, None] * (sites + 0.5) / self.row.side
        self.forward = 2.0 / self.row.side * np.cos(angle)
        self.backward = np.linalg.inv(self.forward)

    def lam(self, n: int) -> float:
        t, row = n / N, self.row
        if self.log_linear:
            return t * 10.0 ** (row.lambda_i + (row.lambda_f - row.lambda_i) * t)
        return row.theta * t / (row.lambda_i * (1 - t) + row.lambda_f) ** 2

    def abar(self, n: int) -> np.ndarray:
        return np.exp(-(np.maximum(self.k, self.row.k_c) ** 2) * self.lam(n))

    def modes(self, x: np.ndarray) -> np.ndarray:
        return self.forward @ x @ self.forward.T

    def fields(self, modes: np.ndarray) -> np.ndarray:
        return self.backward @ modes @ self.backward.T

    def x0(self, xt: np.ndarray, eps: np.ndarray, n: int) -> np.ndarray:
        erased = np.sqrt(self.s0) * np.sqrt(1 - self.abar(n)) * eps
        return (xt - erased) / np.maximum(np.sqrt(self.abar(n)), 1e-6)


def white(name: str, seed: int) -> np.ndarray:
    side = PAPER[name].side
    return np.random.default_rng(seed).standard_normal((2, side, side))


def float32(fields: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(fields).float()


def at(config: Recipe, n: int) -> torch.Tensor:
    return torch.full((2,), float(config.lambdas(np.array(n / N)))).double()  # type: ignore[misc]


@every
def test_presets_are_the_papers_table(name: str) -> None:
    config, row = read_recipe(name), PAPER[name]
    lam, cifar = config.lambdas, "cifar" in name
    assert lam is not None
    assert (config.output, config.basis) == ("white_eps", "dct")
    assert config.cutoff == pytest.approx(row.k_c / row.side, rel=1e-12)
    assert config.paper_spectrum == PaperSpectrum(row.side, row.alpha, row.c, row.k02)
    assert config.ema == (0.999 if cifar else 0.9999)
    assert config.learning_rate == (2e-4 if cifar else 1e-4)
    assert (config.batch, config.clip) == (128 if cifar else 256, 1.0)
    if not cifar:
        dropout = config.network.dropout  # type: ignore[union-attr]
        assert (config.warmup, config.weight_decay, dropout) == (1000, 1e-5, 0.1)
    assert config.steps == {"ising128-4x": 100_000}.get(name, config.steps)
    reference = Reference(name)
    for n in (1, 400, 1000):
        expected = reference.lam(n) * row.side**2
        assert float(lam(np.array(n / N))) == pytest.approx(expected, rel=1e-12)


@every
def test_numbers_of_the_equations(name: str) -> None:
    """What the equations give at one mode, pinned, and the process's amplitude there."""
    reference, config = Reference(name), read_recipe(name)
    a, b = reference.abar(399)[1, 2], reference.abar(400)[1, 2]
    weight = np.sqrt(b / a) * (1 - a) / (1 - b)
    found = (np.sqrt(b), weight, reference.s0[1, 2])
    assert found == pytest.approx(PINNED[name], rel=1e-6)
    cosine = process_of(config).cosine(float(at(config, 400)[0]))
    assert float(cosine[1, 2]) == pytest.approx(np.sqrt(b), rel=1e-6)


@every
def test_the_forward_marginal(name: str) -> None:
    """Of X_0 and of noise that is standard normal in every mode of the reference."""
    reference, config = Reference(name), read_recipe(name)
    process, x0 = process_of(config), white(name, 1)
    noise = process.basis.fields(torch.from_numpy(white(name, 2)))
    for n in (1, 250, 1000):
        abar = reference.abar(n)
        wanted = np.sqrt(abar) * reference.modes(x0)
        wanted = wanted + np.sqrt(1 - abar) * np.sqrt(reference.s0) * white(name, 2)
        found = process.forward(torch.from_numpy(x0), at(config, n), noise)
        got = reference.modes(found.double().numpy())
        assert np.abs(got - wanted).max() < 2e-6 * np.abs(wanted).max()


@every
@pytest.mark.parametrize("n", [1, 500, 1000])
def test_x0_from_the_papers_output(name: str, n: int) -> None:
    """Mode by mode, over what the division by sqrt(abar) magnifies; trained to be the same."""
    reference, config = Reference(name), read_recipe(name)
    process, eps = process_of(config), white(name, 4)
    x0 = np.sqrt(reference.s0) * white(name, 3)
    abar = reference.abar(n)
    xt = np.sqrt(abar) * x0 + np.sqrt(reference.s0) * np.sqrt(1 - abar) * eps
    output = float32(reference.fields(eps) * 2.0 / PAPER[name].side)
    y = process.modes(float32(reference.fields(xt)))
    found = y0_from_output(output, "white_eps", process, y, at(config, n)).double().numpy()
    wanted = reference.x0(xt, eps, n) / np.sqrt(reference.s0)
    assert np.abs((found - wanted) * np.maximum(np.sqrt(abar), 1e-6)).max() < 1e-4
    noise = process.basis.fields(torch.from_numpy(eps))
    target = field_target("white_eps", process, float32(x0), noise.float(), at(config, n))
    assert np.abs((target - output).numpy()).max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 300])
def test_published_weights_give_the_papers_x0(tmp_path: Path, n: int) -> None:
    """Those of the small random network of `tests/data`, converted, saved and read again."""
    reference = Reference("cifar10")
    (tmp_path / "recipe.toml").write_text(
        'preset = "cifar10"\n[network]\nwidth = 8\nmultipliers = [1, 2]\nblocks = 1\n'
    )
    config, theirs = read_recipe(tmp_path / "recipe.toml"), load_file(PUBLISHED)
    save_weights(tmp_path / "w", published_weights(PUBLISHED, config, "recipe.toml"))
    weights = replace(load_weights(tmp_path / "w"), symmetries=())
    xt = np.random.default_rng(5).standard_normal((1, 3, 32, 32))
    network = weights._untrained()
    network.load_state_dict(from_published(network, theirs))  # type: ignore[arg-type]
    output = network.eval().at_time(float32(xt), torch.tensor([float(n)]))  # type: ignore[operator, union-attr]
    eps = reference.modes(output.double().numpy())
    wanted = reference.fields(reference.x0(reference.modes(xt), eps, n))
    skild = Skild.of(weights, (32, 32), sampler="ancestral")
    y, lam = skild.process.modes(float32(xt)), at(config, n)[:1].numpy()
    found = skild.run(y, lam, [Streams.of(0, 0)])
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_weights_that_were_converted_otherwise_are_refused(tmp_path: Path) -> None:
    """Version 0.1 took the output of published networks for noise with the spectrum S_0."""
    with pytest.raises(BadInput, match="the paper's spectrum and output"):
        published_weights(PUBLISHED, read_recipe("cifar10", output="eps"), "cifar10")
    (tmp_path / "recipe.toml").write_text(
        'preset = "cifar10"\n[network]\nwidth = 8\nmultipliers = [1, 2]\nblocks = 1\n'
    )
    made = published_weights(PUBLISHED, read_recipe(tmp_path / "recipe.toml"), "recipe.toml")
    assert spectrum_from_record(made.spectrum.record()) == made.spectrum
    save_weights(tmp_path / "old", replace(made, output="eps"))
    with pytest.raises(WeightsError, match="convert them again"):
        load_weights(tmp_path / "old")


@every
@pytest.mark.parametrize("n", [1000, 2])
def test_one_ancestral_step(name: str, n: int) -> None:
    """x_{n-1} from x_n and a predicted eps_k: DDPM's posterior, mode by mode."""
    reference, config, row = Reference(name), read_recipe(name), PAPER[name]
    process, eps = process_of(config), white(name, 4)
    x = np.sqrt(reference.s0) * white(name, 3)
    a, b = (reference.abar(k) for k in (n - 1, n))
    # b / a from the exponents: of the finest modes both are below the smallest float64.
    k = np.maximum(reference.k, row.k_c)
    alpha = np.exp(-(k**2) * (reference.lam(n) - reference.lam(n - 1)))
    beta, one_b = 1 - alpha, np.maximum(1 - b, 1e-300)
    erased = b < 1.0  # a cutoff of 0 keeps the zero mode as it is
    wanted = (
        np.sqrt(a) * beta / one_b * reference.x0(x, eps, n) + np.sqrt(alpha) * (1 - a) / one_b * x
    )
    noise = white(name, 5) * np.sqrt(reference.s0)
    wanted = np.where(erased, wanted + np.sqrt((1 - a) / one_b * beta) * noise, x)

    class Mean:
        def mean(self) -> torch.Tensor:
            output = float32(reference.fields(eps) * 2.0 / row.side)
            return y0_from_output(output, "white_eps", process, y, at(config, n))

        def draw(self) -> torch.Tensor:
            raise AssertionError

    lam, to = (float(at(config, k)[0]) for k in (n, n - 1))
    y = process.modes(float32(reference.fields(x)))
    after = make_step("ancestral")(process, y, Mean(), lam, to, lambda: float32(white(name, 5)))
    got = reference.modes(process.fields(after).double().numpy())
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
