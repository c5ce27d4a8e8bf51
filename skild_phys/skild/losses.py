"""What networks are trained to make small: one class per objective.

A user's own is handed to the `Trainer`: any object of the protocol `Loss`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from skild_phys.rules import RULES, Rule
from skild_phys.rules.conditions import Constraint, Free
from skild_phys.skild.chain import TIMES
from skild_phys.skild.equations import (
    Evaluate,
    Guess,
    Process,
    each,
    evaluate_fields,
    field_loss,
    field_target,
)
from skild_phys.skild.levels import OPEN, Known, coarser_grids
from skild_phys.skild.measured import Measured
from skild_phys.skild.networks import NetworkConfig
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.spins import (
    Likelihood,
    MeanField,
    SpinLogits,
    spin_logits,
)


@dataclass(frozen=True)
class Batch:
    """What a loss is given of one step.

    Attributes
    ----------
    x0 : (n, [channels,] *sides) float32, samples under a random symmetry.
    lam : (n,) float32, what `Loss.draw` drew for them; over grids each draws its own.
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


class _OwnLoss:
    """What the losses of the package share: the process, and the network of the recipe.

    Samples are of `shape`, with `channels` of images; 0 for lattices.
    """

    def __init__(
        self, recipe: Recipe, shape: tuple[int, ...], channels: int, measured: Measured,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.recipe, self.measured, self.channels = recipe, measured, max(1, channels)
        self.process = measured.process(recipe, shape, device)

    def make_network(self) -> nn.Module:
        c, d = self.recipe, len(self.process.shape)
        return c.network.build(c.output, c.basis, self.channels, c.lambdas, d, c.over_grids)


_Knows = Callable[[Tensor, Tensor], Guess]
"""(Y, lam) -> what a Gaussian field would be, with what is known of coarse configurations."""


def _field_error(
    kind: str, process: Process, x0: Tensor, noise: Tensor, lam: Tensor, network: Evaluate,
    knows: _Knows | None = None,
) -> Tensor:  # fmt: skip
    """Return the network's output for X_t less what it should be, a field.

    Of samples of which more is known than X_t in units of the rms of what that leaves open.
    """
    y = process.modes(process.forward(x0, lam, noise))
    if knows is None:
        found = evaluate_fields(network, kind, process, y, lam)
        return found - field_target(kind, process, x0, noise, lam)
    guess = knows(y, lam)
    found = evaluate_fields(network, kind, process, y, lam, guess)
    wrong = process.modes(x0) - guess.moved(found, process, lam)
    unit = each(guess.left(process).clamp(min=OPEN).sqrt(), y) * process.sine(each(lam, y))
    return process.basis.fields(wrong / unit.float())


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


class _Group(NamedTuple):
    """Samples of a batch that are given their coarse configurations, by one rule and factor.

    Attributes
    ----------
    at : (m,) int64, their places in the batch.
    """

    at: Tensor
    rule: Rule
    factor: int


class _Grouped(Constraint):
    """Groups of a batch, each under a condition of its own, for training.

    `parts` : places in the batch, (m,) int64, and the condition of those m; all places, once each.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Constraint]]) -> None:
        self.parts = parts
        self._order = torch.cat([at for at, _ in parts]).argsort()

    def _joined(self, of: Callable[[Constraint, Tensor], Tensor]) -> Tensor:
        return torch.cat([of(bound, at) for at, bound in self.parts])[self._order]

    def means(self, logits: Tensor) -> Tensor:
        return self._joined(lambda bound, at: bound.means(logits[at]))

    def differentiable_means(self, logits: Tensor) -> Tensor:
        return self._joined(lambda bound, at: bound.differentiable_means(logits[at]))

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        pull = by_site.expand(len(x0), *by_site.shape[1:])
        return self._joined(
            lambda bound, at: bound.targets(x0[at], field[at], pull[at], random, pairings)
        )


_Tasks = Sequence[tuple[Rule, int]]
"""Rules and factors by which samples may be coarse-grained."""


def _drawn_groups(n: int, share: float, tasks: _Tasks, random: torch.Generator) -> list[_Group]:
    """Draw one of `tasks` for each of a `share` of `n` samples; those of one task are a group.

    Their places are evenly spaced from a random one on: each sample has the same chance.
    """
    number = share * torch.arange(n + 1, dtype=torch.float64)
    number = (number + torch.rand((), generator=random, dtype=torch.float64)).floor()
    at = number.diff().nonzero().flatten()
    if not tasks or not len(at):
        return []
    task = torch.randint(len(tasks), at.shape, generator=random)
    return [_Group(at[task == k], *tasks[k]) for k in sorted({*task.tolist()})]


class _SpinLoss(_OwnLoss):
    """Cross-entropy of spins given X_t, a part of them conditioned on coarse configurations.

    The loss that is logged is that of the free samples, nats per site.
    """

    divisible = False

    def __init__(
        self, recipe: Recipe, shape: tuple[int, ...], channels: int, measured: Measured,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(recipe, shape, channels, measured, device)
        self.mean_field = MeanField(self.process, measured.couplings, recipe.tuning)
        self.tasks = [task for task in _tasks(recipe, "spins", shape) if task[0].binds]

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, list[_Group]]:
        """Return lambda, log-uniform, and which samples are given coarse configurations."""
        groups = _drawn_groups(n, self.recipe.coarse_share, self.tasks, random)
        return _log_uniform(self.recipe, n, random), groups

    def condition(self, x0: Tensor, groups: Sequence[_Group]) -> _Grouped:
        """Return the condition of a batch of spins (n, *shape), of which some are in `groups`."""
        free, parts = torch.ones(len(x0), dtype=torch.bool), list[tuple[Tensor, Constraint]]()
        for at, rule, factor in groups:
            free[at] = False
            raw = rule.coarsen(x0[at].cpu().numpy().astype(np.int8), factor)
            bound = rule.condition(raw, self.process.shape, factor, None, x0.device)
            parts.append((at.to(x0.device), bound))
        rest = free.nonzero().flatten()
        return _Grouped([(rest.to(x0.device), Free())] * bool(len(rest)) + parts)

    def targets(
        self, likelihood: Likelihood, x0: Tensor, bound: Constraint, random: torch.Generator
    ) -> Tensor:
        """Return what the means of spins are trained to be, of the shape of `x0`."""
        if not self.measured.conditional:
            return x0
        field = likelihood.field + self.mean_field.coupled(likelihood, x0)
        by_site = self.mean_field.couplings_by_site(likelihood)
        return bound.targets(x0, field, by_site, random, self.recipe.pairings)

    def __call__(self, network: Evaluate, batch: Batch) -> Tensor:
        x0, lam, p = batch.x0, batch.lam, self.process
        xt, bound = p.forward(x0, lam, batch.noise), self.condition(x0, batch.drawn)
        alone = bound.alone(x0)
        found = spin_logits(network, self.mean_field, xt, lam, bound.differentiable_means, alone)
        with torch.no_grad():
            targets = self.targets(found.likelihood, x0, bound, batch.random)
        minimized = _spin_surrogate(found, targets, bound.means, self.recipe.draft_weight)
        at, first = bound.parts[0]  # the free ones, if there are any
        right = 0.5 * (1.0 + x0[at] * first.means(found.logits[at].detach()))
        return -right.clamp(min=_LEAST).log().mean() + (minimized - minimized.detach())


def _spin_surrogate(
    found: SpinLogits, targets: Tensor, means: Callable[[Tensor], Tensor], draft_weight: float = 0.1
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


_LEAST = 1e-30  # probability whose logarithm is still a number


def _tasks(recipe: Recipe, kind: str, shape: tuple[int, ...]) -> list[tuple[Rule, int]]:
    """Return rules and factors by which `kind` on lattices of `shape` may be coarse-grained."""
    rules = [rule for rule in RULES.values() if rule.shown and kind in rule.stores]
    factors = [b for b in recipe.coarse_factors if not any(side % b for side in shape)]
    return [(rule, b) for rule in rules for b in factors]


class GridLoss(_OwnLoss):
    """The sum over the grids of a lattice: spins or fields on the lattice, fields on the others.

    Of each batch a grid takes as many samples as the network has room for, `recipe.sites` of its
    own sites on the lattice and on the next grid, half as many on each coarser one, at lambdas
    log-uniform over its window, on the lattice from `recipe.lambda_min` on.

    Attributes
    ----------
    parts : losses of the last batch by grid.
    """

    divisible = False

    def __init__(
        self, recipe: Recipe, shape: tuple[int, ...], channels: int, measured: Measured,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(recipe, shape, channels, measured, device)
        self.device, self._dimension = device, len(shape)
        self._kind = "spins" if recipe.output == "logits" else "field"
        self.parts: dict[int, float] = {}
        self._by_shape: dict[tuple[int, ...], tuple[FieldLoss | _SpinLoss, list[Process]]] = {}
        self._tasks: dict[tuple[tuple[int, ...], int], _Tasks] = {}

    def _levels(self, shape: tuple[int, ...]) -> tuple[FieldLoss | _SpinLoss, list[Process]]:
        if shape not in self._by_shape:
            kind = _SpinLoss if self._kind == "spins" else FieldLoss
            finest = kind(self.recipe, shape, self.channels, self.measured, self.device)
            grids = coarser_grids(shape, self.recipe.basis)
            self._by_shape[shape] = (
                finest,
                [self.measured.process(self.recipe, shape, self.device, g) for g, _ in grids],
            )
        return self._by_shape[shape]

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, None]:
        return torch.ones(n), None

    def terms(self, network: Evaluate, batch: Batch) -> list[Callable[[], Tensor]]:
        """Return the sum's terms, one for each grid, which draw from a generator of their own."""
        x0, random = batch.x0, batch.random
        finest, coarser = self._levels(tuple(x0.shape[-self._dimension :]))
        seeds = torch.randint(2**62, (1 + len(coarser),), generator=random).tolist()
        weight = self.recipe.field_weight or (0.05 if self._kind == "spins" else 1.0)
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
            return weight * math.sqrt(sizes[level - 1] / max(sizes)) * loss

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
        """Coarse-grain `coarse_share` of the fields `x0` (n, *shape), each by a task of its own.

        Returns what Gaussian fields would be on the grid, given X_t and these; None for none.
        """
        shape = tuple(x0.shape[-self._dimension :])
        groups = _drawn_groups(len(x0), self.recipe.coarse_share, self.tasks(shape, level), random)
        if not groups:
            return None
        own = [group.at.to(x0.device) for group in groups]
        given = [
            (at, self._known(x0[at], level, rule, factor))
            for at, (_, rule, factor) in zip(own, groups, strict=True)
        ]

        def known(y: Tensor, lam: Tensor) -> Guess:
            grid = self._levels(shape)[1][level - 1]
            mean, spread = grid.cosine(each(lam, y)) * y, torch.ones_like(y.real)
            for at, one in given:
                mean[at], spread[at] = one(y[at], lam[at])
            return Guess(mean, spread)

        return known

    def _known(self, x0: Tensor, level: int, rule: Rule, factor: int) -> Known:
        fine, d = x0.cpu().numpy(), self._dimension
        fine = fine.astype(np.int8) if self._kind == "spins" else fine
        lattice, grids = self._levels(tuple(x0.shape[-d:]))
        raw, responses = rule.coarsen(fine, factor, dimension=d), self.measured.responses
        return Known(rule, raw, factor, lattice.process, grids[level - 1], responses)

    def tasks(self, shape: tuple[int, ...], level: int) -> _Tasks:
        """Return rules and factors that a grid of lattices of `shape` may know them by.

        Left out are those that leave next to nothing open there, and those that say nothing.
        """
        if (shape, level) not in self._tasks:
            lattice, grids = self._levels(shape)
            process, responses, grid = lattice.process, self.measured.responses, grids[level - 1]
            far = self.recipe.window[1] * grid.spacing**2
            able = _tasks(self.recipe, self._kind, shape) if self.recipe.basis == "dft" else []
            self._tasks[shape, level] = [
                (rule, b) for rule, b in able
                if (rule.linear or rule.name in responses)
                and Known.left_open(rule, b, process, grid, responses, far) > OPEN
            ]  # fmt: skip
        return self._tasks[shape, level]

    def _share(self, x0: Tensor, process: Process, level: int = 0) -> int:
        """Return how many samples the grid of `process` takes: as many as a network has room for.

        What counts are the network's own sites, those that its first convolution makes; the room is
        halved from each grid to the next coarser one.
        """
        shape = self.recipe.network
        assert isinstance(shape, NetworkConfig)  # as over grids
        fields = self._kind == "spins" and process.shape != process.lattice
        patch = (fields and shape.field_patch) or shape.patch
        each = math.prod(process.shape) / patch ** len(process.shape)
        room = self.recipe.sites / 2 ** max(0, level - 1)
        return min(len(x0), max(1, int(room / each)))
