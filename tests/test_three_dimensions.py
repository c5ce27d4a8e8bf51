"""SKILD in three dimensions: spins untrained, by the mean field alone; networks of both kinds."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import skild_phys as sp
from skild_phys.errors import BadInput
from skild_phys.models import MODELS
from skild_phys.rng import Streams, kernel_state
from skild_phys.rules import RULES, TieBreak, coarsen
from skild_phys.simulation.wolff import wolff
from skild_phys.skild.chain import Chain
from skild_phys.skild.measured import fit_couplings, untrained
from skild_phys.skild.skild import Skild
from skild_phys.skild.spins import Couplings
from skild_phys.skild.weights import load_weights, save_weights

TC = MODELS["ising3d"].critical_temperature
SHAPE, N = (8, 8, 8), 48
EXACT = Couplings(((0, 0, 1), (0, 1, 0), (1, 0, 0)), (1.0 / TC,) * 3)


@functools.cache
def truth() -> np.ndarray:
    """Return 256 critical Ising configurations of 8^3."""
    spins, state = np.ones(SHAPE, dtype=np.int8), kernel_state(3)
    out = np.empty((256, *SHAPE), dtype=np.int8)
    for i in range(-10, 256):
        wolff(spins, TC, state, 20)
        out[i] = spins
    return out


def energy(spins: np.ndarray) -> np.ndarray:
    """Return the energy per site of each configuration."""
    bonds = sum(spins * np.roll(spins, 1, axis) for axis in (1, 2, 3))
    return np.asarray(-bonds.mean(axis=(1, 2, 3), dtype=np.float64))


def refined(rule: str, couplings: Couplings) -> np.ndarray:
    """Return the first N configurations, coarse-grained by a factor of 2 and refined."""
    raw, one = coarsen(truth()[:N], rule, 2), RULES[rule]
    ties = TieBreak(0, np.arange(N)).signs(raw.shape[1:]) if one.ties else None
    weights, chain = untrained(truth(), couplings), Chain()
    skild = Skild.of(weights, SHAPE, sampler=chain.sampler_for(weights))
    lambdas = chain.refining(weights, one, 2, SHAPE)
    return skild.refine(raw, one, 2, lambdas, [Streams.of(5, i) for i in range(N)], ties)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.statistical
def test_couplings_are_learned() -> None:
    """H0: the nearest-neighbour coupling is 1 / Tc, to 4.5 standard errors of 0.0009: 7e-6."""
    found = fit_couplings([truth()[i::16] for i in range(16)], reach=1)
    assert found.offsets == EXACT.offsets
    assert found.values == pytest.approx(EXACT.values, abs=0.004)


@pytest.mark.statistical
@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
def test_the_mean_field_alone_refines(rule: str) -> None:
    """It binds exactly; H0: the energy is the truth's, paired, abs(z) < 4.5: 7e-6 a rule.

    Planted, seen to fail: no coupling (+0.31 per site with block means).
    """
    spins = refined(rule, EXACT)
    assert spins.dtype == np.int8
    assert np.array_equal(coarsen(spins, rule, 2), coarsen(truth()[:N], rule, 2))

    def z(spins: np.ndarray) -> float:
        difference = energy(spins) - energy(truth()[:N])
        return float(difference.mean() / (difference.std(ddof=1) / np.sqrt(N)))

    assert abs(z(spins)) < 4.5
    if rule == "block_mean":
        assert z(refined(rule, Couplings())) > 4.5


def test_a_low_pass_field_guides_it() -> None:
    operator = RULES["spectral"].operator(SHAPE, 2)
    wanted = operator.apply(truth()[:N].astype(np.float64))
    missing = operator.apply(refined("spectral", EXACT).astype(np.float64)) - wanted
    assert np.square(missing).mean() < 0.1 * np.square(wanted).mean()


def test_refine_takes_weights_without_a_network(tmp_path: Path) -> None:
    """By `sp.refine`, weights in memory or from a file; those of two dimensions are refused."""
    weights = untrained(truth(), system={"model": "ising3d", "temperature": TC})
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert (loaded.spectrum, loaded.couplings) == (weights.spectrum, weights.couplings)
    coarse = sp.coarsen(truth()[:3], 2)
    fine = sp.refine(coarse, checkpoint=weights, seed=3)
    again = sp.refine(coarse, checkpoint=tmp_path / "w.safetensors", seed=3)
    assert np.array_equal(fine["spins"], again["spins"])
    assert np.array_equal(sp.coarsen(fine, 2)["block_sum"], coarse["block_sum"])
    with pytest.raises(BadInput, match="2D spins"):
        sp.refine(coarse)


# -- networks ----------------------------------------------------------------------------------

RECIPE = """
spectrum = "torus"
steps = 6
batch = 8
sites = 64
warmup = 1
ema = 0.5
lambda_min = 0.5
network_from = {network_from}
output = "{output}"
coarse_factors = [2]
quality_every = 3
quality_samples = 8
[network]
patch = 2
field_patch = {field_patch}
channels = [8, 8]
blocks = [1, 1]
levels = 2
"""


@pytest.mark.parametrize(
    ("output", "network_from", "field_patch"), [("logits", 0.5, 1), ("v", 0, 0)]
)
def test_a_network_is_trained_refines_and_generates(
    output: str, network_from: float, field_patch: int, tmp_path: Path
) -> None:
    """On cubes as in training, and on oblong lattices; refinements are those of their coarse ones.

    Planted, seen to fail: weights that do not say their dimension.
    """
    spins = output == "logits"
    text = RECIPE.format(output=output, network_from=network_from, field_patch=field_patch)
    (tmp_path / "run.toml").write_text(text)
    data = truth() if spins else truth().astype(np.float32) * np.float32(0.5)
    how = {"config": tmp_path / "run.toml", "threads": 1, "seed": 4}
    sp.train(data, output=tmp_path / "w.safetensors", **how)
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.dimension == 3
    rows = (tmp_path / "w.quality.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "refined_G4c_1" in rows[0]
    assert "generated_chi" in rows[0]

    for shape in (SHAPE, (6, 6, 10)):
        made = sp.generate(L=shape, samples=2, checkpoint=weights, seed=1)
        assert made["spins" if spins else "field"].shape == (2, *shape)
    rules = ("block_mean", "majority", "decimate") if spins else ("block_mean", "decimate")
    for rule in rules:
        coarse = sp.coarsen(data[:3], 2, rule=rule)
        fine = sp.refine(coarse, checkpoint=weights, seed=3)
        again = sp.coarsen(fine, 2, rule=rule)
        name = RULES[rule].variable("spins" if spins else "field")
        np.testing.assert_allclose(again[name], coarse[name], atol=1e-5)
    with pytest.raises(BadInput, match="3 sides"):
        sp.generate(L=(8, 8), checkpoint=weights)
