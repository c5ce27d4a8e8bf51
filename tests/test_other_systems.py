"""Systems that no shipped weights know, learned from their configurations by the same commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import exit_code

from skild_phys.skild.measured import measure_shells
from skild_phys.skild.spectrum import make_basis
from skild_phys.skild.weights import load_weights
from skild_phys.store import open_store

SIDE = 32
RECIPE = """
side = 32
steps = {steps}
batch = 16
warmup = 20
learning_rate = 2e-3
ema = 0.97
spectrum_batches = 32
save_every = 1000
{more}
[network]
patch = 2
channels = [24, 32]
blocks = [1, 1]
"""


def done(*words: object) -> None:
    assert exit_code(*words) == 0


def shells(lattices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kappa, S(k) and its error by shell."""
    found = measure_shells([lattices], make_basis("dft", (SIDE, SIDE)))
    return found.kappa, found.mean, found.error


@pytest.mark.statistical
def test_a_warm_ising_model(tmp_path: Path) -> None:
    """2D Ising at 1.05 Tc from a store, refined by a factor of 2 from held-out block means.

    Each shell of S(k) is within 4% of the truth and 3 of its standard errors, and the fitted
    coupling is the true one within 1%. A fill of the blocks without a model is off by 50% and
    more: the planted fault.
    """
    for name, seed, n in (("mine", 1, 512), ("other", 2, 128)):
        done("simulate", "--L", SIDE, "--T", "1.05Tc", "-n", n, "--seed", seed, "-o",
                   tmp_path / name)  # fmt: skip
    more = "lambda_min = 0.1\nnetwork_from = 0.3\n"
    (tmp_path / "recipe.toml").write_text(RECIPE.format(steps=60, more=more))
    weights = tmp_path / "w.safetensors"
    done("train", tmp_path / "mine", "--config", tmp_path / "recipe.toml", "-o", weights)
    done("coarsen", tmp_path / "other", "--factor", 2, "-o", tmp_path / "coarse")
    couplings = load_weights(weights).couplings
    temperature = open_store(tmp_path / "mine").attrs["temperature"]
    assert set(couplings.offsets) == {(0, 1), (1, 0)}
    assert couplings.values[0] == pytest.approx(1 / temperature, rel=0.01)
    truth = shells(open_store(tmp_path / "other").read(0, 128))
    off = {}
    for method in ("skild", "fill"):
        words = ["--checkpoint", weights, "--steps", 12] if method == "skild" else []
        done("refine", tmp_path / "coarse", "--method", method, *words, "-o",
                   tmp_path / method)  # fmt: skip
        found = shells(open_store(tmp_path / method).read(0, 128))
        off[method] = np.abs(found[1] - truth[1]) - 3 * np.hypot(found[2], truth[2])
        off[method] /= truth[1]
    assert off["skild"].max() < 0.04
    assert off["fill"].max() > 0.5


@pytest.mark.statistical
def test_a_free_field_with_a_mass(tmp_path: Path) -> None:
    """A Gaussian free field, S(k) = 1 / (4 - 2 cos kx - 2 cos ky + m^2), from an array.

    Refined by 4 from decimated fields; H0: each shell's mean S(k) / exact is 1, abs(z) < 5 with
    the errors of the refined fields and of the spectrum that was learned. False alarm 2e-5. The
    planted fault, S(k) of a field with another mass, is far outside.
    """
    basis, random = make_basis("dft", (SIDE, SIDE)), np.random.default_rng(4)
    k = 2 * np.pi * np.fft.fftfreq(SIDE)
    laplacian = 4 - 2 * np.cos(k)[:, None] - 2 * np.cos(k)[None, : SIDE // 2 + 1]
    power = 1 / (laplacian + 0.5**2)

    def fields(n: int) -> np.ndarray:
        white = random.standard_normal((n, SIDE, SIDE))
        modes = np.fft.rfft2(white) * np.sqrt(power)
        return np.fft.irfft2(modes, s=(SIDE, SIDE)).astype(np.float32)

    np.save(tmp_path / "mine.npy", fields(2048))
    np.save(tmp_path / "coarse.npy", fields(400)[:, ::4, ::4])
    more = 'output = "v"\nspectrum = "modes"\nlambda_min = 0.01\n'
    recipe = RECIPE.format(steps=60, more=more).replace("spectrum_batches = 32", "")
    recipe = recipe.replace("\n[network]", "spectrum_batches = 128\n[network]")
    (tmp_path / "recipe.toml").write_text(recipe)
    weights = tmp_path / "w.safetensors"
    done("train", tmp_path / "mine.npy", "--config", tmp_path / "recipe.toml", "-o", weights)
    done("refine", tmp_path / "coarse.npy", "--rule", "decimate", "--factor", 4,
               "--checkpoint", weights, "--steps", 8, "-o", tmp_path / "fine")  # fmt: skip
    refined = open_store(tmp_path / "fine").read(0, 400)
    assert np.abs(refined[:, ::4, ::4] - np.load(tmp_path / "coarse.npy")).max() < 1e-3

    def z(found: np.ndarray, exact: np.ndarray) -> float:
        measured = measure_shells([found], basis)
        mean, learned = measured.over_shells(exact), 2048
        error = measured.error * np.sqrt(1.0 + len(found) / learned)
        return float(np.abs((measured.mean - mean) / error).max())

    assert z(refined, power) < 5
    assert z(refined, 1 / (laplacian + 0.8**2)) > 10
