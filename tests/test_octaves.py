"""Training on all grids at once, and weights with a grid for every scale at work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skild_helpers import (
    POWER_LAW,
    TC,
    TINY,
    critical_lattices,
    tiny_weights,
)

import skild_phys as sp
from skild_phys.errors import BadInput, InputWarning, Interrupted, OutputTaken, WeightsError
from skild_phys.rng import Streams
from skild_phys.rules import TieBreak, coarsen
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.equations import STEPS, Process, each
from skild_phys.skild.levels import coarser_grids, lambdas_on_grids
from skild_phys.skild.losses import Batch, GridLoss, _field_error
from skild_phys.skild.measured import Measured, measure
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import RadialSpectrum, TorusSpectrum, make_basis
from skild_phys.skild.spins import Couplings
from skild_phys.skild.train import Trainer, train
from skild_phys.skild.weights import load_weights, save_weights

GRIDS = replace(TINY, levels=3, field_patch=1)
CONFIG = Recipe(
    side=16, steps=9, batch=8, warmup=4, spectrum_batches=6, ema=0.5, network=GRIDS,
    spectrum="torus", shapes=(8, 8, 8, 32), sites=512,
)  # fmt: skip
FIELDS = replace(CONFIG, output="v")


def source(config: Recipe = CONFIG, threads: int = 1) -> SimulationSource:
    more = list(zip(config.shapes[::2], config.shapes[1::2], strict=True))
    given = (config.side, TC, config.batch, 2, config.seed)
    return SimulationSource(*given, burn_in=20, threads=threads, more=more)


# The running simulation of several shapes.


def test_each_step_has_the_sites_of_a_batch_of_one_shape() -> None:
    """In turn; planted, seen to fail: as many samples as the first shape has."""
    stream = source()
    shapes = [stream.next(8).shape for _ in range(6)]
    assert shapes == [(8, 16, 16), (32, 8, 8), (8, 8, 32)] * 2
    halves = [source().next(8, part) for part in (slice(0, 4), slice(4, 8))]
    assert np.array_equal(np.concatenate(halves), source().next(8))
    one, other = source(), source()
    one.next(8), other.next(8)
    halves = [one.next(8, slice(0, 4)), other.next(8, slice(4, 8))]
    stream = source()
    stream.next(8)
    assert np.array_equal(np.concatenate(halves), stream.next(8))


def test_the_simulation_resumes_in_its_turn_and_on_any_number_of_threads() -> None:
    one, two = source(), source(threads=2)
    for _ in range(4):
        assert np.array_equal(one.next(8), two.next(8))
    again = source()
    again.restore(one.state())
    for _ in range(3):
        assert np.array_equal(one.next(8), again.next(8))
    with pytest.raises(ValueError, match="chains of shape"):
        source(replace(CONFIG, shapes=(8, 8, 32, 8))).restore(one.state())


# The loss.


@pytest.mark.parametrize("config", [CONFIG, FIELDS, replace(
    FIELDS, basis="dct", symmetries=("flip", "sign"), spectrum="radial", shapes=())])  # fmt: skip
def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path, config: Recipe) -> None:
    """Weights and log, and what the network was found to miss of coarser grids."""
    torch.set_num_threads(1)
    whole, part = Trainer(config, source(config)), Trainer(config, source(config))
    train(whole, tmp_path / "whole", log_every=3)
    for last in (2, 7):
        with pytest.raises(Interrupted):
            train(part, tmp_path / "part", stop=lambda: part.step == last, log_every=3)  # noqa: B023
        part = Trainer.resume(tmp_path / "part", config, source(config))
    train(part, tmp_path / "part", log_every=3)
    assert [row[:4] for row in part.log] == [row[:4] for row in whole.log]
    for name, trainer in (("whole.w", whole), ("part.w", part)):
        save_weights(tmp_path / name, trainer.weights({}, last=True))
    assert (tmp_path / "part.w").read_bytes() == (tmp_path / "whole.w").read_bytes()


@pytest.mark.parametrize("config", [CONFIG, FIELDS])
def test_threads_change_no_number(tmp_path: Path, config: Recipe) -> None:
    """Grids have a thread each, and a generator each. Planted, seen to fail: one for all."""
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        trainer = Trainer(config, source(config))
        train(trainer, tmp_path / "run", log_every=3)
        save_weights(tmp_path / f"{threads}.w", trainer.weights({}, last=True))
    torch.set_num_threads(1)
    first, *others = ((tmp_path / f"{threads}.w").read_bytes() for threads in (1, 2, 3))
    assert all(other == first for other in others)


def test_runs_on_other_shapes_or_windows_are_refused(tmp_path: Path) -> None:
    Trainer(CONFIG, source()).save(tmp_path / "a")
    for other, named in (
        (replace(CONFIG, shapes=(8, 8)), "shapes"),
        (replace(CONFIG, window=(0.7, 3.0)), "window"),
    ):
        with pytest.raises(OutputTaken, match=named):
            Trainer.resume(tmp_path / "a", other, source(other))


class Seen:
    """A network that notes what it was asked, and answers nothing."""

    def __init__(self, channels: int) -> None:
        self.channels = max(1, channels)
        self.calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def __call__(self, x: torch.Tensor, lam: torch.Tensor, level: int = 0) -> torch.Tensor:
        self.calls.append((level, x, lam))
        return torch.zeros_like(x[:, : self.channels])


class Gaussian:
    """Gaussian fields of the spectrum POWER_LAW; of `channels` components that are independent."""

    n_samples = None

    def __init__(self, shape: tuple[int, ...], channels: int = 0, basis: str = "dft") -> None:
        self.shape, self.channels = shape, channels
        self.basis, self.random = make_basis(basis, shape), torch.Generator().manual_seed(3)
        self.root = torch.as_tensor(POWER_LAW.variances(self.basis)).sqrt()

    def next(self, n: int, part: slice = slice(None)) -> NDArray[np.float32]:
        components = (self.channels,) if self.channels else ()
        noise = torch.randn((n, *components, *self.shape), generator=self.random)
        fields = self.basis.fields(self.basis.modes(noise.double()) * self.root)
        return fields[part].float().numpy()


def loss_of(
    config: Recipe, stream: Gaussian, scale: float = 1.0
) -> tuple[GridLoss, list[torch.Tensor]]:
    """Return the loss on fields of a spectrum `scale` times theirs, and batches."""
    power = tuple(scale * p for p in POWER_LAW.power)
    spectrum = RadialSpectrum(POWER_LAW.kappa, power, POWER_LAW.zero_scale)
    measured, cpu = Measured(spectrum, Couplings()), torch.device("cpu")
    loss = GridLoss(config, stream.shape, stream.channels, measured, cpu)
    return loss, [torch.from_numpy(stream.next(config.batch)) for _ in range(30)]


CASES: list[tuple[str, tuple[int, ...], int]] = [
    ("dft", (24, 36), 0), ("dft", (31, 17), 0), ("dct", (20, 20), 3), ("dft", (16, 24), 2),
]  # fmt: skip


@pytest.mark.statistical
@pytest.mark.parametrize(("basis", "shape", "channels"), CASES)
def test_without_a_network_every_grid_costs_the_same(
    basis: str, shape: tuple[int, ...], channels: int
) -> None:
    """v of a Gaussian field is white, of variance 1: the loss of v = 0 is 1.02 on coarser grids.

    H0: the mean over 30 batches is, within 4.5 standard errors: 7e-6 a grid. Planted: a spectrum of
    1.3 times the power. What the network is asked is looked at too: lambda over the square of the
    spacing, the number of samples, and their size.
    """
    symmetries = ("flip", "sign")
    config = replace(FIELDS, basis=basis, symmetries=symmetries, sites=4096, batch=64, shapes=())
    config = replace(config, coarse_share=0.0)
    for scale in (1.3, 1.0):
        stream, asked = Gaussian(shape, channels, basis), Seen(channels)
        loss, batches = loss_of(config, stream, scale)
        random, parts = torch.Generator().manual_seed(1), []
        for x0 in batches:
            noise = torch.randn(x0.shape, generator=random)
            lam, drawn = loss.draw(len(x0), random)
            loss(asked, Batch(x0, lam, noise, drawn, random))
            parts.append(list(loss.parts.values())[1:])
        means = np.mean(parts, 0)
        z = (means - 1.02) / (np.std(parts, 0, ddof=1) / math.sqrt(len(parts)))
        assert np.abs(z).max() < 4.5 if scale == 1.0 else np.abs(z).min() > 4.5
    grids = [shape, *(grid for grid, _ in coarser_grids(shape, basis))]
    for level, x, lam in asked.calls:
        n, components = len(x), max(1, channels)
        assert x.shape == (n, 8 * components, *grids[level])
        each = math.prod(grids[level]) / config.network.patch ** len(shape)
        room = config.sites / 2 ** max(0, level - 1) / each
        assert n == min(64, max(1, int(room)))
        low, high = config.window if level else (config.lambda_min, config.window[1])
        assert low <= lam.min() <= lam.max() <= high * (1 + 1e-5)
        assert lam.max() > low * (high / low) ** (1 - 1 / n) * (1 - 1e-5)
    squares = [x.square().mean((0, 2, 3)) for level, x, _ in asked.calls if level == 1]
    inputs = torch.stack(squares).mean(0).reshape(8, -1).mean(1).tolist()
    whole, left, amplified = inputs[:3]
    assert inputs[3:] == [0.0] * 5  # no coarse configuration is known
    assert whole == pytest.approx(1.0, rel=0.15)
    assert amplified == pytest.approx(1.0, rel=0.15)
    assert 0.1 < left < 0.9


@pytest.mark.statistical
def test_samples_on_a_grid_know_coarse_lattices_of_their_own() -> None:
    """Of Gaussian fields |Y_0 - E[Y_0 | X_t, y]|^2 has the mean that `spread` says.

    H0: over 180 samples it has; their standard error is 0.0084, so 0.04: 2e-6. In the loss all
    samples have the same unit, then: over 480 the error of v = 0 is 1 per mode, with a standard
    error of 0.006. Planted, seen to fail: the coarse lattices of other samples; one task for all;
    the unit of samples of which only X_t is known.
    """
    config = replace(FIELDS, coarse_share=0.75, coarse_factors=(2, 3, 4))
    loss, batches = loss_of(config, Gaussian((24, 36)))
    grid = Process(POWER_LAW, (24, 36), grid=(12, 18))
    names = [(rule.name, factor) for rule, factor in loss.tasks((24, 36), 1)]
    assert ("spectral", 2) not in names  # nothing is left open
    assert {("block_mean", 4), ("decimate", 2), ("spectral", 3)} <= {*names}
    random, ratios, spreads, errors = torch.Generator().manual_seed(1), [], set(), []
    for x0 in torch.cat(batches).split(16):
        knows, lam = loss.coarse(x0, 1, random), torch.full((16,), 6.0)
        y0 = grid.restricted(grid.lattice_modes(x0))
        noise = torch.randn(16, 12, 18, generator=random)
        at = each(lam, y0)
        y = grid.cosine(at) * y0 + grid.sine(at) * grid.white(noise)
        assert knows is not None
        guess = knows(y, lam)
        told = (guess.spread < 1).any((1, 2))
        assert told.sum() == 12
        off = (y0 - guess.mean).abs() / grid.sine(at)
        counts = grid.weight * grid.inside * (guess.spread > 0.01)
        wrong = (off**2 * counts / guess.spread.clamp(min=0.01) ** 2).sum((1, 2))
        ratios += (wrong / counts.sum((1, 2)))[told].tolist()
        spreads.add(len({one.sum().item() for one in guess.spread[told]}))
        zero = lambda x, lam: 0.0 * x[:, :1]  # noqa: E731
        off = _field_error("v", grid, grid.fields(y0), noise, lam, zero, knows)
        errors += (off.square().sum((1, 2)) / (grid.weight * grid.inside).sum())[told].tolist()
    assert max(spreads) > 3
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.04)
    assert np.mean(errors) == pytest.approx(1.0, abs=0.03)


def test_spectra_of_other_sources_are_measured() -> None:
    """Three dimensions, and images. Planted, seen to fail: shapes taken for the last two sides."""
    cube = measure(Gaussian((8, 6, 4)), replace(FIELDS, spectrum="radial"))  # type: ignore[arg-type]
    assert isinstance(cube.spectrum, RadialSpectrum)
    images = Gaussian((12, 12), 3, "dct")
    config = replace(FIELDS, basis="dct", symmetries=("flip",), shapes=())
    assert isinstance(measure(images, config).spectrum, TorusSpectrum)  # type: ignore[arg-type]


# Weights.


@pytest.mark.parametrize("config", [CONFIG, FIELDS])
def test_weights_keep_what_grids_need(tmp_path: Path, config: Recipe) -> None:
    trainer = Trainer(config, source(config))
    trainer.train_step()
    made = trainer.weights({"model": "ising2d"}, last=True)
    save_weights(tmp_path / "w", made)
    there = load_weights(tmp_path / "w")
    assert there.window == (0.7, 2.8)
    assert (there.network.levels, there.network.field_patch) == (3, 1)
    for name in {*vars(made)} - {"tensors", "training"}:
        assert getattr(there, name) == getattr(made, name), name
    has_fields = any(name.startswith("field.") for name in there.tensors)
    assert has_fields is (config.output == "logits")
    assert isinstance(there.spectrum, TorusSpectrum)
    small = there.process((8, 8)).power, there.process((8, 32)).power
    assert small[0].shape != small[1].shape
    there.build()


def test_weights_without_grids_or_a_schedule_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", replace(tiny_weights(), window=None))
    with pytest.raises(WeightsError, match="one grid for all scales; train anew"):
        load_weights(tmp_path / "w")


# At work.


def samples(
    skild: Skild, lambdas: NDArray[np.float64], names: Sequence[int]
) -> NDArray[np.generic]:
    streams = [Streams.of(4, name) for name in names]
    return skild.run(skild.from_noise(float(lambdas[0]), streams), lambdas, streams)


@torch.inference_mode()
@pytest.mark.parametrize("output", ["logits", "v"])
@pytest.mark.parametrize("sampler", STEPS)
@pytest.mark.parametrize("shape", [(16, 16), (6, 40), (13, 9)])
def test_samples_from_noise(output: str, sampler: str, shape: tuple[int, int]) -> None:
    """Spins are spins and fields finite, of any size; a sample depends on no other."""
    skild = Skild.of(tiny_weights(output), shape, sampler=sampler)
    assert [scale.process.shape for scale in skild.scales] == [
        shape,
        *(grid for grid, _ in coarser_grids(shape, "dft")),
    ]
    lambdas = lambdas_on_grids(shape, "dft", (0.7, 2.8), None, 0.1, 3, 2)
    together = samples(skild, lambdas, (0, 1, 2))
    if output == "logits":
        assert together.dtype == np.int8
        assert set(np.unique(together)) <= {-1, 1}
    else:
        assert together.dtype == np.float32
        assert np.isfinite(together).all()
        assert np.allclose(together[1], samples(skild, lambdas, (1,))[0], atol=1e-3)
    assert not np.array_equal(together[1], together[2])


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate", "spectral"])
def test_spins_refined_over_grids_obey_their_rule(rule: str) -> None:
    """With random weights too; the chain starts on a coarser grid. By `sp.refine`."""
    truth = critical_lattices(3, 32)
    coarse = sp.coarsen(truth, 8, rule=rule)
    weights = tiny_weights()
    fine = sp.refine(coarse, checkpoint=weights, seed=3, any_system=True, steps=3)
    again = sp.refine(coarse, checkpoint=weights, seed=3, any_system=True, steps=3, chunk=1)
    assert set(np.unique(fine["spins"])) <= {-1, 1}
    assert np.array_equal(fine["spins"], again["spins"])
    assert fine.attrs["lambda_start"] > 2.8
    if rule != "spectral":
        ties = TieBreak(0, np.arange(3)).ids
        name = "block_sum" if rule == "block_mean" else "spins"
        raw = np.rint(coarse[name].values * (64 if rule == "block_mean" else 1))
        own = coarsen(fine["spins"].values, rule, 8, tie_seed=coarse.attrs.get("tie_seed", 0),
                      sample_ids=ties)  # fmt: skip
        assert np.array_equal(own, raw)


def test_generation_over_grids_by_name() -> None:
    """Any size, without warnings on waves that are not erased; the same from every chunk."""
    weights = tiny_weights()
    made = sp.generate(L=(12, 20), samples=4, checkpoint=weights, seed=1, steps=3)
    again = sp.generate(L=(12, 20), samples=4, checkpoint=weights, seed=1, steps=3, chunk=2)
    assert np.array_equal(made["spins"], again["spins"])
    with pytest.raises(BadInput, match="sampler"):
        sp.generate(L=8, samples=1, checkpoint=weights, sampler="magic")


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        ({"lambda_start": 0.05}, "lambda_end: 0.1"),
        ({"lambda_start": 0.001}, "lambda_start: 0.001"),
        ({"lambda_start": -1.0}, "lambda_start: -1"),
        ({"lambda_start": float("nan")}, "lambda_end"),
        ({"lambda_end": 0.0}, "lambda_end: 0"),
        ({"lambda_end": -1.0}, "lambda_end: -1"),
        ({"lambda_end": 0.001}, "lambda_end: 0.001"),
        ({"lambda_end": 3.0, "lambda_start": 4.0}, "lambda_end: 3"),
    ],
)
def test_chains_that_cannot_be(chain: dict[str, Any], named: str) -> None:
    """Planted, seen to fail: no check, with which lambda rose from 0.05 to its end."""
    weights, coarse = tiny_weights(), sp.coarsen(critical_lattices(1, 16), 4)
    with pytest.raises(BadInput, match=named):
        sp.generate(L=8, samples=1, checkpoint=weights, **chain)
    with pytest.raises(BadInput, match=named):
        sp.refine(coarse, checkpoint=weights, any_system=True, **chain)


def test_generation_warns_of_shapes_that_no_training_saw() -> None:
    """Sizes are no reason to warn, aspect ratios beyond those of the spectrum are."""
    one = (1.0,) * 16
    spectrum = TorusSpectrum((0.1, 1.0), (50.0, 1.0), -1.7, (((1.0, 1.0), one), ((1.0, 2.0), one)))
    weights = replace(tiny_weights(), spectrum=spectrum)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sp.generate(L=(16, 32), samples=1, checkpoint=weights, steps=3)
    with pytest.warns(InputWarning, match="aspect ratios up to 2"):
        sp.generate(L=(8, 32), samples=1, checkpoint=weights, steps=3)
    # Squares of one size do not tell what their longest waves are at others.
    spectrum = replace(spectrum, tori=spectrum.tori[:1])
    with pytest.warns(InputWarning, match="trained on 64 x 64 alone"):
        sp.generate(L=(16, 16), samples=1, checkpoint=replace(weights, spectrum=spectrum), steps=3)
