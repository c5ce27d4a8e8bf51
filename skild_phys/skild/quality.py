"""Quality while training: the averaged network beside held-out samples that training never sees.

Its loss on them, always with the same lambdas and noise: what changes is the network. And, of
lattices with a grid for every scale, samples that it makes: refinements of block means, each beside
the configuration that these came from, and configurations from noise, with the usual chains.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errorbars import ErrorMethod
from skild_phys.errors import BadInput, Interrupted
from skild_phys.measurement.compare import Both
from skild_phys.measurement.observables import OBSERVABLES, Observable, observable
from skild_phys.measurement.rows import Rows, Statistics, collect
from skild_phys.measurement.system import Array, Slice, System
from skild_phys.rng import Streams, seed_sequence
from skild_phys.rules import RULES
from skild_phys.runner import Run, fill_store
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import Held, Source
from skild_phys.skild.levels import coarser_grids
from skild_phys.skild.losses import Batch
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.skild import Skild
from skild_phys.skild.train import Row, Trainer
from skild_phys.skild.weights import Weights
from skild_phys.store import Lattices, MemoryLattices, Plan
from skild_phys.store.layout import Layout

_HELD = 256  # configurations that a running simulation holds out; stores at most as many
_BATCHES = 4  # of the held-out loss, always the same: few show a change of the network
_RULE, _FACTOR = RULES["block_mean"], 4  # by what the recipe has nearest to it
_COST = 125  # training samples that pay for a refinement and a configuration from noise: 5%
_FEWEST, _MOST = 8, 256  # of these
_PIECE = 2**16  # sites of configurations that are made at once
_APART = 2**31  # between the streams of refinements and of configurations from noise
_Stop = Callable[[], bool]


class _Figure(NamedTuple):
    """What is said of made samples beside true ones: 0 where they agree.

    Attributes
    ----------
    names : of its numbers.
    of : the observable.
    deviation : (made, true) -> its numbers, a last axis if there are several names.
    """

    names: tuple[str, ...]
    of: Observable
    deviation: Callable[[Array, Array], Array]


def _ratio(made: Array, true: Array) -> Array:
    return made / true - 1.0


@observable("field_squared")
def _squared(part: Slice) -> Array:
    return np.asarray((part.values**2).mean(axis=part.axes))


@observable("field_fourth")
def _fourth(part: Slice) -> Array:
    return np.asarray((part.values**4).mean(axis=part.axes))


def _of_octaves(system: System) -> _Figure:
    """Return S(k) over the truth's, less 1, of |k| from j to 2 j (2 pi / L), j = 1, 2, 4 .."""
    of = OBSERVABLES["structure_factor"]
    assert of.axis is not None
    modes = of.axis.coordinates[1].values(system)
    octave = np.log2(np.arange(1, len(modes))).astype(int)
    weight = (octave[:, None] == np.arange(octave[-1] + 1)) * modes[1:, None]

    def deviation(made: Array, true: Array) -> Array:
        return _ratio(made[..., 1:] @ weight, true[..., 1:] @ weight)

    return _Figure(tuple(f"S_{2**i}" for i in range(octave[-1] + 1)), of, deviation)


def _figures_of(system: System, noise: bool) -> Iterator[_Figure]:
    """Yield the figures of a system; with `noise` also those that a refinement is given."""
    if system.field == "field":
        yield _Figure(("phi2",), _squared, _ratio)
        yield _Figure(("phi4",), _fourth, _ratio)
    elif OBSERVABLES["energy"].applies(system):
        yield _Figure(("energy",), OBSERVABLES["energy"], np.subtract)
    else:
        yield _Figure(("walls",), OBSERVABLES["domain_wall_density"], np.subtract)
    if (four := OBSERVABLES["connected_four_point"]).applies(system):
        sides = min(3, (min(system.shape) // 2).bit_length())
        names = tuple(f"G4c_{2**i}" for i in range(sides))
        yield _Figure(names, four, lambda made, true: (made - true)[..., :sides])
    yield _of_octaves(system)
    if noise:
        yield _Figure(("U4",), OBSERVABLES["binder_cumulant"], np.subtract)
        yield _Figure(("chi",), OBSERVABLES["susceptibility"], _ratio)


class Quality:
    """What measures the averaged network of a run (`Trainer.quality`).

    Made before the first step, and again where a run resumes: the same from the same seed. Of
    held-out samples it keeps a few batches for the loss, coarse configurations, and what was
    measured.

    Parameters
    ----------
    recipe, system : of the run.
    held : samples that training never sees.
    shape : of a lattice.
    channels : of images; 0 for lattices.

    Attributes
    ----------
    columns : names of what a row holds beside the step.

    Raises BadInput for a figure of `recipe.until` that there is not.
    """

    def __init__(
        self, recipe: Recipe, system: Mapping[str, Any], held: Held, shape: tuple[int, ...],
        channels: int = 0,
    ) -> None:  # fmt: skip
        self.recipe, self._attrs, self.shape = recipe, dict(system), shape
        size = min(recipe.batch, len(held.samples))
        self.batches = [
            held.samples[first : first + size]
            for first in range(0, min(_BATCHES * size, len(held.samples) - size + 1), size)
        ]
        state = seed_sequence(recipe.seed, "quality").generate_state(1, np.uint64)[0]
        self.seed = int(state >> np.uint64(1))
        grids = 1 + len([*coarser_grids(shape, recipe.basis)]) if recipe.over_grids else 0
        self.columns = ["loss", *(f"loss_{level}" for level in range(grids))]
        self.makes = recipe.over_grids and recipe.basis == "dft" and not channels
        if self.makes:
            self._measure_truth(_lattices(held, recipe, system))
        for name in recipe.limits:
            if name not in self.columns:
                shown = ", ".join(one for one in self.columns if not one.endswith("_err"))
                raise BadInput("until", name, f"one of {shown}")

    @classmethod
    def of(cls, recipe: Recipe, source: Source, system: Mapping[str, Any]) -> Quality | None:
        """Return what measures a run on `source`; None for nothing.

        Raises BadInput where its end depends on quality and nothing is held out.
        """
        found = None
        if recipe.measured_every:
            found = source.held_out(max(_HELD, recipe.quality_samples))
        if found is None:
            for name in ("until", "plateau"):
                if value := getattr(recipe, name):
                    accepted = "none for fewer than 64 samples, of which none are held out"
                    raise BadInput(name, value, accepted)
            return None
        return cls(recipe, system, found, source.shape, source.channels)

    def _measure_truth(self, held: MemoryLattices) -> None:
        recipe, shape = self.recipe, self.shape
        system = self.system = System.of(held)
        self.figures = {
            kind: [*_figures_of(system, kind == "generated")] for kind in ("refined", "generated")
        }
        self._needed = [one.of for one in self.figures["generated"]]
        if (patterns := OBSERVABLES["pattern_frequency"]).applies(system):
            self._needed.append(patterns)
        self.truth = collect(held, system, self._needed, Rows.of(held))
        each = math.prod(shape) / getattr(recipe.network, "patch", 1) ** len(shape)
        paid = recipe.measured_every * min(recipe.batch, recipe.sites / each) / _COST
        self.number = recipe.quality_samples or max(_FEWEST, min(_MOST, int(paid)))
        self._paired = np.arange(held.n_samples) < self.number
        able = [b for b in recipe.coarse_factors if not any(side % b for side in shape)]
        self._factor = min(able, key=lambda b: abs(math.log(b / _FACTOR)), default=0)
        if self._factor:
            self._coarse = _RULE.coarsen(held.read(0, self.number), self._factor)
        else:
            del self.figures["refined"]
        for kind, figures in self.figures.items():
            names = [name for one in figures for name in one.names]
            for name in names + ["patterns"] * (patterns in self._needed):
                self.columns += [f"{kind}_{name}", f"{kind}_{name}_err"]
            if patterns in self._needed:
                self.columns.append(f"{kind}_patterns_noise")

    def __call__(self, trainer: Trainer, stop: _Stop) -> Row:
        """Return the row of the step that `trainer` is at; raises Interrupted by `stop`."""
        row = {"step": trainer.step} | self._losses(trainer, stop)
        if not self.makes:
            return row
        weights = trainer.weights(self._attrs)
        run = Run(threads=torch.get_num_threads(), device=trainer.device.type, stop=stop)
        for kind, figures in self.figures.items():
            if kind == "refined":
                truth, made = (
                    self.truth.take(self._paired),
                    self._refined(weights, str(trainer.device), run),
                )
                found = replace(collect(made, self.system, self._needed), chains=truth.chains)
            else:
                truth, made = self.truth, self._generated(weights, str(trainer.device), run)
                found = collect(made, self.system, self._needed)
            row |= self._deviations(kind, figures, found, truth)
        return row

    def _losses(self, trainer: Trainer, stop: _Stop) -> Row:
        """Return the mean loss, and by grid where there are several."""
        random, loss = torch.Generator().manual_seed(self.seed), trainer.loss
        network = functools.partial(trainer.evaluate, trainer.ema.module.eval())
        total = dict.fromkeys((name for name in self.columns if name.startswith("loss")), 0.0)
        with torch.no_grad():
            for samples in self.batches:
                if stop():
                    raise Interrupted("interrupted")
                x0 = torch.from_numpy(samples.astype(np.float32))
                lam, drawn = loss.draw(len(x0), random)
                noise = torch.randn(x0.shape, generator=random)
                own = [one.to(trainer.device) for one in (x0, lam, noise)]
                value = loss(network, Batch(own[0], own[1], own[2], drawn, random))
                total["loss"] += float(value) / len(self.batches)
                for level, part in getattr(loss, "parts", {}).items():
                    total[f"loss_{level}"] += part / len(self.batches)
        return total

    def _refined(self, weights: Weights, device: str, run: Run) -> Lattices:
        raw, factor = self._coarse, self._factor
        lambdas = Chain().refining(weights, _RULE, factor, self.shape)
        skild = Skild.of(weights, self.shape, device, Chain().sampler_for(weights))

        def make(index: list[int], stop: _Stop) -> NDArray[Any]:
            streams = [Streams.of(self.seed, i) for i in index]
            return skild.refine(raw[index], _RULE, factor, lambdas, streams, stop=stop)

        return self._filled(len(raw), make, run)

    def _generated(self, weights: Weights, device: str, run: Run) -> Lattices:
        lambdas = Chain().generating(weights, self.shape, None)
        skild = Skild.of(weights, self.shape, device, Chain().sampler_for(weights))

        def make(index: list[int], stop: _Stop) -> NDArray[Any]:
            streams = [Streams.of(self.seed, _APART + i) for i in index]
            with torch.inference_mode():
                y = skild.from_noise(float(lambdas[0]), streams)
                return skild.run(y, lambdas, streams, stop=stop)

        return self._filled(self.number, make, run)

    def _filled(
        self, n: int, make: Callable[[list[int], _Stop], NDArray[Any]], run: Run
    ) -> Lattices:
        """Return `n` configurations, made a few at once on threads; raises Interrupted."""
        field, sites = self.system.field, math.prod(self.shape)
        plan = Plan(field=field, shape=self.shape, chunk=n, n_samples=n, attrs={}, variables=())

        def piece(index: NDArray[np.int64], *, stop: _Stop) -> dict[str, NDArray[Any]]:
            return {field: make(index.tolist(), stop)}

        return fill_store(None, plan, piece, run, batch=max(1, _PIECE // sites)).lattices

    def _deviations(
        self, kind: str, figures: list[_Figure], made: Statistics, truth: Statistics
    ) -> Row:
        both = Both(made, truth, ErrorMethod(), kind == "refined")
        row: Row = {}
        for names, of, deviation in figures:
            found = both.estimate(deviation, of)
            for name, *values in zip(names, found.value.flat, found.error.flat, strict=True):
                row |= dict(zip((f"{kind}_{name}", f"{kind}_{name}_err"), map(float, values)))
        if "patterns" in made.rows:
            distance, noise, _ = (value for *_, value in both.patterns())
            numbers = map(float, (distance.value, distance.error, noise.value))
            row |= dict(zip((f"{kind}_patterns{end}" for end in ("", "_err", "_noise")), numbers))
        return row


def _lattices(held: Held, recipe: Recipe, system: Mapping[str, Any]) -> MemoryLattices:
    """Return held-out lattices as what the networks of a recipe make: spins or fields."""
    field, kind = ("spins", np.int8) if recipe.output == "logits" else ("field", np.float32)
    known = {key: value for key, value in system.items() if value is not None}
    samples = held.samples.astype(kind)
    layout = Layout.of(field, samples.shape[1:], chunk=len(samples), variables=tuple(held.series))
    return MemoryLattices(layout, {field: samples} | held.series, known, Path("held-out"))
