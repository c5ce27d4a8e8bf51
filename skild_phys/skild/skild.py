"""SKILD at work on arrays of one shape: from any start of the chain to any end.

Generation starts from noise, refinement from a coarse configuration, the paper's protocol from
the forward marginal of the truth: the same call with another start.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rng import Streams
from skild_phys.rules.conditions import Constraint, Free
from skild_phys.skild.chain import USUAL, Tuning
from skild_phys.skild.equations import (
    Correct,
    Evaluate,
    Level,
    Noise,
    Posterior,
    Process,
    Sampler,
    Step,
    Stop,
    evaluate_fields,
    level_at,
    make_step,
    run_chain,
    y0_from_output,
)
from skild_phys.skild.levels import Known
from skild_phys.skild.networks import (
    OUTPUTS,
    SYMMETRIES,
    arithmetic,
    see_through_symmetries,
)
from skild_phys.skild.response import Response
from skild_phys.skild.spins import (
    Couplings,
    MeanField,
    SpinPosterior,
    spin_logits,
)
from skild_phys.skild.weights import FAR, Weights, weights_sha256

if TYPE_CHECKING:
    from skild_phys.rules import Rule


class Given(NamedTuple):
    """What a chain of a batch has besides X_t.

    Attributes
    ----------
    streams : one for each configuration.
    noise : samples white whitened modes.
    constraint : of spins; none if it is `Free`.
    correct : of fields on the lattice, moves them onto A x = y; None for no condition.
    known : of fields on a coarser grid, what they would be were they Gaussian; None for nothing.
    period : of blocks along each axis, in sites of the grid: shifts by it take blocks into blocks;
        None without blocks.
    """

    streams: Sequence[Streams]
    noise: Noise
    constraint: Constraint
    correct: Correct | None = None
    known: Known | None = None
    period: tuple[int, ...] | None = None


class Denoiser(Protocol):
    """What is known of X_0 given X_t; a rival is one more of these.

    Attributes
    ----------
    spins : whether X_0 are spins, which a coarse configuration binds by `Given.constraint`, or
        fields, which it binds by `Given.correct`.
    """

    @property
    def spins(self) -> bool: ...

    def __call__(self, y: Tensor, lam: float, given: Given) -> Posterior:
        """Return what is known of X_0 given whitened modes `y` (n, *modes) at `lam`."""


@dataclass(eq=False)
class SpinDenoiser:
    """Spins by a mean field, with a network or, untrained, alone.

    Parameters
    ----------
    process : in the DFT basis; the field's mean square is the spins', 1.
    couplings : pair couplings of the data, exact or learned (`measured.fit_couplings`).
    network : features (n, 7, *shape), lam (n,) -> outputs (n, 4, *shape) (`spin_logits`); None for
        the mean field alone, which it is in any case below lambda = `network_from`.
    symmetries : that the network sees each configuration through.
    """

    process: Process
    couplings: Couplings
    network: Evaluate | None = None
    network_from: float = 0.0
    symmetries: Sequence[str] = SYMMETRIES
    tuning: Tuning = USUAL
    spins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.mean_field = MeanField(self.process, self.couplings, self.tuning)

    def __call__(self, y: Tensor, lam: float, given: Given) -> SpinPosterior:
        xt, bound, network, alone = self.process.fields(y), given.constraint, None, None
        at = torch.tensor([lam], dtype=torch.float32, device=xt.device)
        if self.network is not None and lam >= self.network_from:
            alone, of = bound.alone(xt), OUTPUTS["logits"]
            network = functools.partial(
                see_through_symmetries, self.network, given.streams, self.symmetries, of.odd,
                even=of.even, period=given.period,
            )  # fmt: skip
        found = spin_logits(network, self.mean_field, xt, at, bound.means, alone)
        return SpinPosterior(self.process, found, bound, self.mean_field, lam, given.streams)


@dataclass(frozen=True, eq=False)
class FieldDenoiser:
    """Continuous fields by a network whose output is of kind `output` (`y0_from_output`)."""

    process: Process
    network: Evaluate
    output: str
    symmetries: Sequence[str] = SYMMETRIES
    channels: int = 1
    spins: ClassVar[bool] = False

    def __call__(self, y: Tensor, lam: float, given: Given) -> FieldPosterior:
        of, channels = OUTPUTS[self.output], self.channels
        network = functools.partial(
            see_through_symmetries, self.network, given.streams, self.symmetries,
            of.odd * channels, even=of.even * channels, period=given.period,
        )  # fmt: skip
        at = torch.full((len(y),), lam, device=y.device)
        if given.known is None:
            output = evaluate_fields(network, self.output, self.process, y, at)
            y0, spread = y0_from_output(output, self.output, self.process, y, at), None
        else:
            guess = given.known(y, at)
            output = evaluate_fields(network, self.output, self.process, y, at, guess)
            y0, spread = guess.moved(output, self.process, at), guess.spread
        return FieldPosterior(self.process, y0, lam, given.noise, given.correct, spread)


@dataclass(frozen=True, eq=False)
class FieldPosterior:
    """Y_0 ~ N(E[Y_0 | X_t], 1 - abar) under A x0 = y: exact for a Gaussian field with spectrum P.

    Sampling and then correcting by Sigma = (1 - abar) P samples the Gaussian conditioned on
    A x0 = y (Matheron's rule). On a coarser grid modes are taken for independent given y, with
    `spread` (n, *modes) in units of sin(theta); None for 1.
    """

    process: Process
    y0: Tensor
    lam: float
    noise: Noise
    correct: Correct | None = None
    spread: Tensor | None = None

    def _corrected(self, y0: Tensor) -> Tensor:
        """Return fields on which A x0 = y."""
        fields = self.process.fields(y0)
        if self.correct is None:
            return fields
        sigma = self.process.sine(self.lam).double() ** 2 * self.process.power
        return self.correct(fields, sigma.cpu().numpy())

    def mean(self) -> Tensor:
        return self.y0 if self.correct is None else self.process.modes(self._corrected(self.y0))

    def draw(self) -> Tensor:
        noise = self.noise() if self.spread is None else self.spread * self.noise()
        y0 = self.y0 + self.process.sine(self.lam) * noise
        return replace(self, y0=y0).mean()

    def last(self, step: Step, y: Tensor) -> NDArray[Any]:
        """Return float32 fields: a step to lambda = 0, on which A x = y holds."""
        y = step(self.process, y, self, self.lam, 0.0, self.noise)
        return np.asarray(self._corrected(y).cpu().numpy())


def _gaussian(features: Tensor, lam: Tensor) -> Tensor:
    """Return v = 0, what there is to say of Gaussian fields beyond their spectrum."""
    return torch.zeros_like(features[:, :1])


class Scale(NamedTuple):
    """A grid: its process, its denoiser, and the lambda down to which a chain stays on it."""

    process: Process
    denoiser: Denoiser
    low: float = 0.0


_Coarser = Callable[[Process], Known]
"""What is known of fields on a grid."""


class Skild:
    """The method for fields of one shape.

    Parameters
    ----------
    scales : the grids, the lattice itself first; one of them is the paper's chain.
    sampler : a name of `equations.STEPS`, or a step.
    channels : of images; 0 for lattices without.
    responses : of rules that are not linear, by name.
    """

    def __init__(
        self,
        scales: Sequence[Scale],
        sampler: Sampler = "stochastic",
        channels: int = 0,
        responses: Mapping[str, Response] = MappingProxyType({}),
    ) -> None:
        self.scales, self.sampler, self.responses = tuple(scales), sampler, responses
        self.process, self.denoiser, _ = self.scales[0]
        self.device, self.shape = self.process.kappa2.device, self.process.shape
        self._components = (channels,) if channels else ()
        make_step(sampler)

    @classmethod
    def of(
        cls,
        weights: Weights,
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        sampler: Sampler = "stochastic",
    ) -> Skild:
        """Return the method with `weights`, built for fields of `shape`."""
        network = None if weights.network is None else weights.build(device)
        scales: list[Scale] = []
        for number, (process, low) in enumerate(weights.grids(shape, device)):
            at: Evaluate | None = network
            if network is not None and weights.window is not None:
                at = functools.partial(network, level=number)
            denoiser: Denoiser
            if weights.output == "logits" and number == 0:
                denoiser = SpinDenoiser(
                    process, weights.couplings, at, weights.network_from, weights.symmetries,
                    weights.tuning,
                )  # fmt: skip
            else:
                output = "v" if weights.output == "logits" else weights.output
                channels = max(1, weights.channels)
                denoiser = FieldDenoiser(
                    process, at or _gaussian, output, weights.symmetries, channels
                )
            scales.append(Scale(process, denoiser, low))
        return cls(scales, sampler, weights.channels, weights.responses)

    def white(self, streams: Sequence[Streams], process: Process | None = None) -> Tensor:
        """Return whitened modes of white noise, one stream a field; on the lattice by default."""
        process = process or self.process
        shape = (*self._components, *process.shape)
        fields = [s.noise.standard_normal(shape, dtype=np.float32) for s in streams]
        return process.white(torch.from_numpy(np.stack(fields)).to(self.device))

    def from_noise(self, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return noise on the grid of `lam`, as whitened modes: generation's start."""
        return self.white(streams, level_at(self.scales, lam).process)

    def from_condition(self, correct: Correct, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return whitened modes at `lam` of Gaussian fields of A x = y: refinement's start."""
        prior = self.process.fields(self.white(streams))
        return self.from_fields(correct(prior, self.process.power.cpu().numpy()), lam, streams)

    def from_fields(self, x0: Tensor, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return whitened modes of the forward marginal of fields `x0` at `lam`, on its grid."""
        process = level_at(self.scales, lam).process
        y0 = process.restricted(process.lattice_modes(x0.to(self.device)))
        return process.cosine(lam) * y0 + process.sine(lam) * self.white(streams, process)

    @torch.inference_mode()
    def refine(
        self,
        raw: NDArray[Any],
        rule: Rule,
        factor: int,
        lambdas: NDArray[np.float64],
        streams: Sequence[Streams],
        ties: NDArray[np.int8] | None = None,
        stop: Stop = lambda: False,
    ) -> NDArray[Any]:
        """Return fine configurations for coarse ones, as `run` does.

        The chain starts from a Gaussian field with spectrum P given y, noised to lambdas[0]; on a
        grid its modes are taken for independent given y, as those that are left there are.

        Parameters
        ----------
        raw : (n, *coarse shape), the numbers that a coarse store keeps.
        rule, factor : by which they were coarse-grained.
        ties : tie-breaks of tied blocks, 0 where not known; None for a rule without.
        """
        operator, power = rule.proxy(self.shape, factor), self.process.power.cpu().numpy()
        values = rule.values(raw, operator, power)

        def correct(fields: Tensor, sigma: NDArray[np.float64]) -> Tensor:
            moved = operator.correct(fields.double().cpu().numpy(), values, sigma)
            return torch.from_numpy(moved.astype(np.float32)).to(fields.device)

        on: _Coarser | None = None
        if rule.linear is not None or rule.name in self.responses:
            on = functools.partial(Known, rule, raw, factor, self.process, responses=self.responses)
        lam = float(lambdas[0])
        process = level_at(self.scales, lam).process
        if on is None or process is self.process:
            start = self.from_condition(correct, lam, streams)
        else:
            nothing = torch.zeros(len(raw), *process.kappa2.shape, dtype=torch.complex64)
            far = torch.full((len(raw),), FAR, dtype=torch.float64)
            guess = on(process)(nothing.to(self.device), far.to(self.device))
            y0 = guess.mean + guess.spread * self.white(streams, process)
            start = process.cosine(lam) * y0 + process.sine(lam) * self.white(streams, process)
        how: dict[str, Any] = {"coarser": on, "factor": factor, "stop": stop}
        if not self.denoiser.spins:
            return self.run(start, lambdas, streams, correct=correct, **how)
        bound = rule.condition(raw, self.shape, factor, ties, self.device)
        return self.run(start, lambdas, streams, constraint=bound, **how)

    @torch.inference_mode()
    def run(
        self,
        y: Tensor,
        lambdas: NDArray[np.float64],
        streams: Sequence[Streams],
        *,
        constraint: Constraint | None = None,
        correct: Correct | None = None,
        coarser: _Coarser | None = None,
        factor: int = 1,
        stop: Stop = lambda: False,
    ) -> NDArray[Any]:
        """Run the reverse process from modes `y` at lambdas[0]; one denoiser evaluation a lambda.

        `constraint` or `correct` are of the lattice, `coarser` makes what is known on other grids,
        `factor` is the side of their blocks.

        Returns
        -------
        (n, *shape): int8 spins that obey `constraint`, or float32 fields on which `correct` acted,
        of images (n, channels, *shape).
        """
        step = make_step(self.sampler)
        levels: list[Level] = []
        for process, denoiser, low in self.scales:
            if low < lambdas[0]:
                noise = functools.partial(self.white, streams, process)
                known = coarser(process) if levels and coarser else None
                bound, moved = constraint or Free(), None if levels else correct
                sites = [n * factor for n in process.shape]
                period = tuple(n // math.gcd(side, n) for side, n in zip(self.shape, sites))
                blocks = None if factor == 1 else period
                given = Given(streams, noise, bound, moved, known, blocks)
                denoise = functools.partial(denoiser, given=given)
                levels.append(Level(process, denoise, noise, low))
        y, found = run_chain(levels, y, lambdas, step, stop)
        return found.last(step, y)


@functools.lru_cache(maxsize=8)
def built(weights: Weights, shape: tuple[int, ...], device: str, sampler: Sampler) -> Skild:
    """Return `Skild.of` weights; the last few are kept."""
    return Skild.of(weights, shape, device, sampler)


def chain_record(
    weights: Weights, shape: tuple[int, ...], lambdas: NDArray[np.float64], sampler: Sampler,
    device: str,
) -> dict[str, Any]:  # fmt: skip
    """Return what a store keeps of the chains that made it."""
    steps, evaluations = weights.evaluations(shape, lambdas)
    name = getattr(sampler, "__name__", type(sampler).__name__)
    return {
        "weights_sha256": weights_sha256(weights),
        "sampler": sampler if isinstance(sampler, str) else name,
        "steps": steps,
        "evaluations": evaluations,
        "lambda_start": float(lambdas[0]),
        "lambda_end": float(lambdas[-1]),
        "arithmetic": arithmetic(device),
    }
