"""What networks are trained to make small: one class per objective.

A user's own is handed to the `Trainer`: any object of the protocol `Loss`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.rules import RULES, Rule
from skild_phys.rules.conditions import Constraint
from skild_phys.skild.chain import TIMES
from skild_phys.skild.data import Source
from skild_phys.skild.equations import (
    Evaluate,
    Guess,
    Process,
    each,
    evaluate_fields,
    field_loss,
    field_target,
)
from skild_phys.skild.levels import Known, grid_sides
from skild_phys.skild.measured import Measured
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.spins import (
    Likelihood,
    MeanField,
    Means,
    SpinLogits,
    half_tanh,
    spin_logits,
)


@dataclass(frozen=True)
class Batch:
    """What a loss is given of one step.

    Attributes
    ----------
    x0 : (n, [channels,] *sides) float32, samples under a random symmetry.
    lam : (n,) float32, what `Loss.draw` drew for them.
    noise : white, float32, of the shape of `x0`.
    drawn : what else `Loss.draw` returned.
    random : the run's generator, for a loss that is not `divisible`.
    """

    x0: Tensor
    lam: Tensor
    noise: Tensor
    drawn: Any
    random: torch.Generator


class Loss(Protocol):
    """An objective of training."""

    divisible: bool
    """Whether a batch may be cut into parts, on several processes too. Noise is then named by the
    step and the place in the batch, and `draw` and the loss must not depend on the batch's size."""

    def make_network(self) -> nn.Module:
        """Return an untrained network, called as (features (n, c, *sides), lam (n,))."""

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Any]:
        """Return lambda (n,) float32 for a batch of `n`, and whatever else a batch needs."""

    def __call__(self, network: Evaluate, batch: Batch) -> Tensor:
        """Return a scalar: its gradient is followed, its value is logged."""


def stratified(n: int, random: torch.Generator) -> Tensor:
    """Return one random number in each of `n` equal parts of [0, 1], (n,) float32."""
    return (torch.arange(n) + torch.rand(n, generator=random)) / n


def _log_uniform(recipe: Recipe, n: int, random: torch.Generator) -> Tensor:
    """Return lambda, log-uniform from `lambda_min` to the end of the lattice's window."""
    low, high = recipe.lambda_min, recipe.window[1]
    return (math.log(low) + stratified(n, random) * math.log(high / low)).exp()


class _Samples(Protocol):
    """What a loss asks of a source: the sides of its lattices, the channels of its images."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def channels(self) -> int: ...


class _OwnLoss:
    """What the losses of the package share: the process, and the network of the recipe."""

    def __init__(
        self, recipe: Recipe, source: _Samples, measured: Measured, device: torch.device
    ) -> None:
        self.recipe, self.measured, self.channels = recipe, measured, max(1, source.channels)
        self.process = measured.process(recipe, source.shape, device)

    def make_network(self) -> nn.Module:
        c, d = self.recipe, len(self.process.shape)
        return c.network.build(c.output, c.basis, self.channels, c.lambdas, d, c.over_grids)


_Knows = Callable[[Tensor, Tensor], Guess]
"""(Y, lam) -> what a Gaussian field would be, with what is known of coarse configurations."""


def _field_error(
    kind: str, process: Process, x0: Tensor, noise: Tensor, lam: Tensor, network: Evaluate,
    knows: _Knows | None = None,
) -> Tensor:  # fmt: skip
    """Return the network's output for X_t less what it should be, a field."""
    y = process.modes(process.forward(x0, lam, noise))
    if knows is None:
        found = evaluate_fields(network, kind, process, y, lam)
        return found - field_target(kind, process, x0, noise, lam)
    guess = knows(y, lam)
    found = evaluate_fields(network, kind, process, y, lam, guess)
    wrong = guess.moved(found, process, lam) - process.modes(x0)
    return process.basis.fields(-wrong / process.sine(each(lam, y)))


class FieldLoss(_OwnLoss):
    """Mean square error of continuous fields, in what the network's output is trained to be.

    `recipe.weighting` 'flat' is the paper's; by 'scales' modes count as `field_loss` says.
    """

    divisible = True

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, None]:
        """Return lambda along the recipe's schedule, t being a multiple of 1 / TIMES."""
        c = self.recipe
        if c.lambdas is None:
            return _log_uniform(c, n, random), None
        u = stratified(n, random).double()
        t = (torch.floor(TIMES * u) + 1.0).clamp(max=TIMES) / TIMES
        return torch.from_numpy(c.lambdas(t.numpy())).float(), None

    def __call__(self, network: Evaluate, batch: Batch) -> Tensor:
        kind, p, x0, lam = self.recipe.output, self.process, batch.x0, batch.lam
        missing = _field_error(kind, p, x0, batch.noise, lam, network)
        return field_loss(p, missing, lam, self.recipe.weighting)


@dataclass(frozen=True)
class _Task:
    """All but the first `n_free` spin samples of a batch are given their coarse configurations."""

    n_free: int
    rule: Rule | None = None
    factor: int = 1

    def condition(self, spins: Tensor) -> Constraint | None:
        """Return the condition that coarse configurations put on those; None if there are none."""
        if self.rule is None:
            return None
        raw = self.rule.coarsen(spins[self.n_free :].cpu().numpy().astype(np.int8), self.factor)
        return self.rule.condition(raw, tuple(spins.shape[1:]), self.factor, None, spins.device)

    def joined(self, logits: Tensor, means: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Return the means of free spins, and of the others by `means` under their condition."""
        if means is None:
            return half_tanh(logits)
        return torch.cat([half_tanh(logits[: self.n_free]), means(logits[self.n_free :])])


class _SpinLoss(_OwnLoss):
    """Cross-entropy of spins given X_t, a part of them conditioned on coarse configurations.

    The loss that is logged is that of the free samples, nats per site.
    """

    divisible = False

    def __init__(
        self, recipe: Recipe, source: _Samples, measured: Measured, device: torch.device
    ) -> None:
        super().__init__(recipe, source, measured, device)
        self.mean_field = MeanField(self.process, measured.couplings)
        self.factors = [
            b for b in recipe.coarse_factors if not any(side % b for side in source.shape)
        ]

    def _task(self, n: int, random: torch.Generator) -> _Task:
        """Draw how much of a batch is given its coarse configurations, by which rule and factor."""
        c = self.recipe
        # The loss that is logged is that of free samples: one of them there must be.
        known = min(n - 1, round(c.coarse_share * n)) if self.factors else 0
        if not known:
            return _Task(n)
        rules = [rule for rule in RULES.values() if rule.binds for _ in range(rule.shown)]
        rule = rules[int(torch.randint(len(rules), (1,), generator=random))]
        factor = self.factors[int(torch.randint(len(self.factors), (1,), generator=random))]
        return _Task(n - known, rule, factor)

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, _Task]:
        """Return lambda, log-uniform, of free samples and of those that are conditioned."""
        task = self._task(n, random)
        lam = _log_uniform(self.recipe, task.n_free, random)
        if task.rule:
            lam = torch.cat([lam, _log_uniform(self.recipe, n - task.n_free, random)])
        return lam, task

    def targets(
        self, likelihood: Likelihood, x0: Tensor, task: _Task, bound: Constraint | None,
        random: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Return what the means of spins are trained to be, of the shape of `x0`."""
        if not self.measured.conditional:
            return x0
        field = likelihood.field + self.mean_field.coupled(likelihood, x0)
        targets, rest = torch.tanh(field), slice(task.n_free, None)
        if bound is not None:
            by_site = self.mean_field.couplings_by_site(likelihood)
            by_site = by_site[rest] if len(by_site) > 1 else by_site
            targets[rest] = bound.targets(
                x0[rest], field[rest], by_site, random, self.recipe.pairings
            )
        return targets

    def __call__(self, network: Evaluate, batch: Batch) -> Tensor:
        task: _Task = batch.drawn
        x0, lam, p = batch.x0, batch.lam, self.process
        xt, bound = p.forward(x0, lam, batch.noise), task.condition(x0)

        def means(logits: Tensor) -> Tensor:
            return task.joined(logits, None if bound is None else bound.means)

        def differentiable(logits: Tensor) -> Tensor:
            through = None if bound is None else bound.differentiable_means
            return task.joined(logits, through)

        alone = means(torch.zeros_like(x0))
        found = spin_logits(network, self.mean_field, xt, lam, differentiable, alone)
        with torch.no_grad():
            targets = self.targets(found.likelihood, x0, task, bound, batch.random)
        minimized = _spin_surrogate(found, targets, means, self.recipe.draft_weight)
        free = slice(task.n_free)
        logged = F.softplus(-x0[free] * found.logits[free].detach()).mean()
        return logged + (minimized - minimized.detach())


def _spin_surrogate(
    found: SpinLogits, targets: Tensor, means: Means, draft_weight: float = 0.1
) -> Tensor:
    """Return a number whose gradient is that of the cross-entropy with `targets`, nats per site.

    For sites of logits l, conditioned on coarse configurations, the gradient of -ln p(x0) is
    (E[s] - x0) / 2 with the mean under the condition; `targets` are the spins x0, or numbers whose
    mean given X_t is theirs. The draft's cross-entropy has the weight `draft_weight`.
    """
    total = torch.zeros((), device=targets.device)
    for logits, share in ((found.logits, 1.0), (found.draft, draft_weight)):
        with torch.no_grad():
            slope = 0.5 * (means(logits) - targets)
        total = total + share * (slope * logits).mean()
    return total


_OPEN = 0.05  # share of the variance that a coarse lattice has to leave open, to be a task


class GridLoss(_OwnLoss):
    """The sum over the grids of a lattice: spins or fields on the lattice, fields on the others.

    Of each batch a grid takes as many samples as have `recipe.sites` sites on it, at lambdas
    log-uniform over its window.

    Attributes
    ----------
    parts : losses of the last batch by grid.
    """

    divisible = False

    def __init__(
        self, recipe: Recipe, source: Source, measured: Measured, device: torch.device
    ) -> None:
        super().__init__(recipe, source, measured, device)
        self.source, self.device = source, device
        self._kind = "spins" if recipe.output == "logits" else "field"
        self.parts: dict[int, float] = {}

    @functools.cache  # noqa: B019
    def _levels(self, shape: tuple[int, ...]) -> tuple[FieldLoss | _SpinLoss, list[Process]]:
        kind = _SpinLoss if self.recipe.output == "logits" else FieldLoss
        at = _At(shape, self.channels)
        finest = kind(self.recipe, at, self.measured, self.device)
        sides = grid_sides(shape, self.recipe.basis)
        return finest, [
            self.measured.process(self.recipe, shape, self.device, g) for g in [*sides][1:]
        ]

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, None]:
        return torch.ones(n), None

    def terms(self, network: Evaluate, batch: Batch) -> list[Callable[[], Tensor]]:
        """Return the sum's terms, one for each grid, which draw from a generator of their own."""
        x0, random = batch.x0, batch.random
        finest, coarser = self._levels(tuple(x0.shape[-len(self.source.shape) :]))
        seeds = torch.randint(2**62, (1 + len(coarser),), generator=random).tolist()
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        modes = coarser[0].lattice_modes(x0) if coarser else x0
        numbers = [self._share(x0, grid, level) for level, grid in enumerate(coarser, 1)]
        sizes = [n * math.prod(grid.shape) for n, grid in zip(numbers, coarser, strict=True)]
        self.parts = {}

        def lattice() -> Tensor:
            n = self._share(x0, finest.process)
            lam, drawn = finest.draw(n, own[0])
            part = Batch(x0[:n], lam.to(x0.device), batch.noise[:n], drawn, own[0])
            loss = finest(network, part)
            self.parts[0] = float(loss.detach())
            return loss

        def grid(level: int) -> Tensor:
            process, n = coarser[level - 1], numbers[level - 1]
            knows = self.coarse(x0[:n], level, own[level])
            at: Evaluate = functools.partial(network, level=level)  # type: ignore[call-arg]
            lam, missing = self._missing(at, modes[:n], process, own[level], knows)
            loss = field_loss(process, missing, lam, "scales", octave=True)
            self.parts[level] = float(loss.detach())
            # The gradient of few sites is noisy: it counts as the root of their number.
            return self.recipe.field_weight * math.sqrt(sizes[level - 1] / max(sizes)) * loss

        return [lattice, *(functools.partial(grid, level + 1) for level in range(len(coarser)))]

    def __call__(self, network: Evaluate, batch: Batch) -> Tensor:
        return torch.stack([term() for term in self.terms(network, batch)]).sum()

    def _missing(
        self, network: Evaluate, modes: Tensor, process: Process, random: torch.Generator,
        knows: _Knows | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return lambda and the error of v for modes of the lattice, on a coarser grid."""
        fields = process.fields(process.restricted(modes))
        low, high = (math.log(value) for value in self.recipe.window)
        lam = (low + (high - low) * stratified(len(modes), random)).exp() * process.spacing**2
        lam, noise = lam.to(fields.device), torch.randn(fields.shape, generator=random)
        noise = noise.to(fields.device)
        return lam, _field_error("v", process, fields, noise, lam, network, knows)

    def coarse(self, x0: Tensor, level: int, random: torch.Generator) -> _Knows | None:
        """Coarse-grain `coarse_share` of the fields `x0`, each by a task that is drawn for it.

        Returns what Gaussian fields would be on the grid, given X_t and these; None for none.
        """
        shape = tuple(x0.shape[-len(self.source.shape) :])
        share = torch.arange(1, len(x0) + 1, dtype=torch.float64) * self.recipe.coarse_share
        shown = torch.nonzero(share.floor() > (share - self.recipe.coarse_share).floor()).flatten()
        tasks = self.tasks(shape, level)
        if not tasks or not len(shown):
            return None
        drawn = torch.randint(len(tasks), shown.shape, generator=random)
        given = []
        for number in sorted(set(drawn.tolist())):
            own = shown[drawn == number].to(x0.device)
            given.append((own, self._known(x0[own], level, *tasks[number])))

        def known(y: Tensor, lam: Tensor) -> Guess:
            grid = self._levels(shape)[1][level - 1]
            mean, spread = grid.cosine(each(lam, y)) * y, torch.ones_like(y.real)
            for own, one in given:
                if one is not None:
                    mean[own], spread[own] = one(y[own], lam[own])
            return Guess(mean, spread)

        return known

    def _known(self, x0: Tensor, level: int, rule: Rule, factor: int) -> Known | None:
        fine = x0.cpu().numpy()
        raw = rule.coarsen(fine.astype(np.int8) if self._kind == "spins" else fine, factor)
        lattice, grids = self._levels(tuple(x0.shape[-len(self.source.shape) :]))
        responses = self.measured.responses
        return Known.of(rule, raw, factor, lattice.process, grids[level - 1], responses)

    @functools.cache  # noqa: B019
    def tasks(self, shape: tuple[int, ...], level: int) -> list[tuple[Rule, int]]:
        """Return rules and factors that a grid may know coarse lattices by.

        Left out are those that leave next to nothing open there, and those that say nothing.
        """
        c, grid = self.recipe, self._levels(shape)[1][level - 1]
        found: list[tuple[Rule, int]] = []
        if c.basis != "dft":
            return found
        lam = torch.tensor([c.window[1] * grid.spacing**2])
        there = grid.weight * grid.inside
        blank = torch.ones(1, *shape)
        white = grid.modes(torch.zeros(1, *grid.shape))
        for rule in RULES.values():
            for b in c.coarse_factors:
                if self._kind not in rule.stores or not rule.shown or any(n % b for n in shape):
                    continue
                known = self._known(blank, level, rule, b)
                left = 0.0 if known is None else (known(white, lam).spread ** 2 * there).sum()
                if left > _OPEN * there.sum():
                    found.append((rule, b))
        return found

    def _share(self, x0: Tensor, process: Process, level: int = 0) -> int:
        """Return how many samples the grid of `process` takes: as many as a network has room for.

        What counts are the network's own sites, those that its first convolution makes; the room is
        halved from each grid to the next coarser one.
        """
        shape = self.recipe.network
        own = getattr(shape, "patch", 1)
        patch = own if process.shape == process.lattice else getattr(shape, "field_patch", 0) or own
        each = math.prod(process.shape) / patch ** len(process.shape)
        room = self.recipe.sites / 2 ** max(0, level - 1)
        return min(len(x0), max(1, int(room / each)))


class _At(NamedTuple):
    """Samples of one shape, of a source that has several."""

    shape: tuple[int, ...]
    channels: int
