"""SKILD at work on arrays of one shape: from any start of the chain to any end.

Generation starts from noise, refinement from a coarse configuration, the paper's protocol from
the forward marginal of the truth: the same call with another start.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
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
    Noise,
    Posterior,
    Process,
    Sampler,
    Step,
    Stop,
    evaluate_fields,
    make_step,
    run_chain,
    y0_from_output,
)
from skild_phys.skild.networks import (
    OUTPUTS,
    SYMMETRIES,
    arithmetic,
    see_through_symmetries,
)
from skild_phys.skild.spins import (
    Couplings,
    MeanField,
    PosteriorSpectrum,
    SpinPosterior,
    spin_logits,
)
from skild_phys.skild.weights import Weights, weights_sha256

if TYPE_CHECKING:
    from skild_phys.rules import Rule


def white_noise(streams: Sequence[Streams], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal fields (n, *shape) float32, one stream a field."""
    fields = [s.noise.standard_normal(shape, dtype=np.float32) for s in streams]
    return torch.from_numpy(np.stack(fields)).to(device)


class Given(NamedTuple):
    """What a chain of a batch has besides X_t.

    Attributes
    ----------
    streams : one for each configuration.
    noise : samples white whitened modes.
    constraint : of spins; none if it is `Free`.
    correct : of fields, moves them onto A x = y; None for no condition.
    """

    streams: Sequence[Streams]
    noise: Noise
    constraint: Constraint
    correct: Correct | None = None


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
    network : features (n, 5, *shape), lam (n,) -> outputs (n, 4, *shape) (`spin_logits`); None for
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

    @functools.cached_property
    def _spectrum(self) -> PosteriorSpectrum:
        return PosteriorSpectrum(self.process, self.tuning.sharper)

    def __call__(self, y: Tensor, lam: float, given: Given) -> SpinPosterior:
        xt, bound, network, alone = self.process.fields(y), given.constraint, None, None
        at = torch.tensor([lam], dtype=torch.float32, device=xt.device)
        if self.network is not None and lam >= self.network_from:
            alone, odd = bound.alone(xt), OUTPUTS["logits"].odd
            network = functools.partial(
                see_through_symmetries, self.network, given.streams, self.symmetries, odd
            )
        found = spin_logits(network, self.mean_field, xt, at, bound.means, alone)
        return SpinPosterior(
            self.process, found, bound, self.mean_field, lambda: self._spectrum,
            lam, given.noise, given.streams,
        )  # fmt: skip


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
        xt = self.process.fields(y)
        odd = OUTPUTS[self.output].odd * self.channels
        network = functools.partial(
            see_through_symmetries, self.network, given.streams, self.symmetries, odd
        )
        at = torch.full((len(y),), lam, device=xt.device)
        output = evaluate_fields(network, self.output, self.process, xt, at)
        y0 = y0_from_output(output, self.output, self.process, y, at)
        return FieldPosterior(self.process, y0, lam, given.noise, given.correct)


@dataclass(frozen=True, eq=False)
class FieldPosterior:
    """Y_0 ~ N(E[Y_0 | X_t], 1 - abar) under A x0 = y: exact for a Gaussian field with spectrum P.

    Sampling and then correcting by Sigma = (1 - abar) P samples the Gaussian conditioned on
    A x0 = y (Matheron's rule).
    """

    process: Process
    y0: Tensor
    lam: float
    noise: Noise
    correct: Correct | None

    def _corrected(self, y0: Tensor) -> Tensor:
        fields = self.process.fields(y0)
        if self.correct is None:
            return fields
        sigma = self.process.sine(self.lam).double() ** 2 * self.process.power
        return self.correct(fields, sigma.cpu().numpy())

    def _modes(self, y0: Tensor) -> Tensor:
        return y0 if self.correct is None else self.process.modes(self._corrected(y0))

    def mean(self) -> Tensor:
        return self._modes(self.y0)

    def draw(self) -> Tensor:
        return self._modes(self.y0 + self.process.sine(self.lam) * self.noise())

    def last(self, step: Step, y: Tensor) -> NDArray[Any]:
        """Return float32 fields: a step to lambda = 0, on which A x = y holds."""
        y = step(self.process, y, self, self.lam, 0.0, self.noise)
        return np.asarray(self._corrected(y).cpu().numpy())


class Skild:
    """The method for fields of one shape.

    Parameters
    ----------
    process : forward process of the fields.
    denoiser : what is known of X_0 given X_t.
    sampler : a name of `equations.STEPS`, or a step.
    channels : of images; 0 for lattices without.
    """

    def __init__(
        self,
        process: Process,
        denoiser: Denoiser,
        sampler: Sampler = "stochastic",
        channels: int = 0,
    ) -> None:
        self.process, self.denoiser, self.sampler = process, denoiser, sampler
        self.device, self.shape = process.kappa2.device, process.shape
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
        process = weights.process(shape, device)
        denoiser: Denoiser
        network = None if weights.network is None else weights.build(device)
        if network is None or weights.output == "logits":
            denoiser = SpinDenoiser(
                process, weights.couplings, network, weights.network_from, weights.symmetries,
                weights.tuning,
            )  # fmt: skip
        else:
            channels = max(1, weights.channels)
            denoiser = FieldDenoiser(process, network, weights.output, weights.symmetries, channels)
        return cls(process, denoiser, sampler, weights.channels)

    def from_noise(self, streams: Sequence[Streams]) -> Tensor:
        """Return white noise as whitened modes, one stream a configuration: generation's start."""
        shape = (*self._components, *self.shape)
        return self.process.white(white_noise(streams, shape, self.device))

    def from_condition(self, correct: Correct, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return whitened modes at `lam` of Gaussian fields of A x = y: refinement's start."""
        prior = self.process.fields(self.from_noise(streams))
        return self.from_fields(correct(prior, self.process.power.cpu().numpy()), lam, streams)

    def from_fields(self, x0: Tensor, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return whitened modes of the forward marginal of fields `x0` at `lam`."""
        y0 = self.process.modes(x0.to(self.device))
        return self.process.cosine(lam) * y0 + self.process.sine(lam) * self.from_noise(streams)

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

        The chain starts from a Gaussian field with spectrum P under A x = y, noised to lambdas[0].

        Parameters
        ----------
        raw : (n, *coarse shape), the numbers that a coarse store keeps.
        rule, factor : by which they were coarse-grained.
        ties : tie-breaks of tied blocks, 0 where not known; None for a rule without.
        """
        operator = rule.proxy(self.shape, factor)
        values = rule.values(raw, operator, self.process.power.cpu().numpy())

        def correct(fields: Tensor, sigma: NDArray[np.float64]) -> Tensor:
            moved = operator.correct(fields.double().cpu().numpy(), values, sigma)
            return torch.from_numpy(moved.astype(np.float32)).to(fields.device)

        start = self.from_condition(correct, float(lambdas[0]), streams)
        if not self.denoiser.spins:
            return self.run(start, lambdas, streams, correct=correct, stop=stop)
        bound = rule.condition(raw, self.shape, factor, ties, self.device)
        return self.run(start, lambdas, streams, constraint=bound, stop=stop)

    @torch.inference_mode()
    def run(
        self,
        y: Tensor,
        lambdas: NDArray[np.float64],
        streams: Sequence[Streams],
        *,
        constraint: Constraint | None = None,
        correct: Correct | None = None,
        stop: Stop = lambda: False,
    ) -> NDArray[Any]:
        """Run the reverse process from modes `y` at lambdas[0]; one denoiser evaluation a lambda.

        Returns
        -------
        (n, *shape): int8 spins that obey `constraint`, or float32 fields on which `correct` acted,
        of images (n, channels, *shape).
        """
        step = make_step(self.sampler)
        noise = functools.partial(self.from_noise, streams)
        given = Given(streams, noise, constraint or Free(), correct)
        denoise = functools.partial(self.denoiser, given=given)
        y, found = run_chain(self.process, y, lambdas, denoise, step, noise, stop)
        return found.last(step, y)


@functools.lru_cache(maxsize=8)
def built(weights: Weights, shape: tuple[int, ...], device: str, sampler: Sampler) -> Skild:
    """Return `Skild.of` weights; the last few are kept."""
    return Skild.of(weights, shape, device, sampler)


def chain_record(
    weights: Weights, lambdas: NDArray[np.float64], sampler: Sampler, device: str
) -> dict[str, Any]:
    """Return what a store keeps of the chains that made it."""
    name = getattr(sampler, "__name__", type(sampler).__name__)
    return {
        "weights_sha256": weights_sha256(weights),
        "sampler": sampler if isinstance(sampler, str) else name,
        "steps": len(lambdas),
        "restarts": int((np.diff(lambdas) > 0.0).sum()),
        "lambda_start": float(lambdas[0]),
        "lambda_end": float(lambdas[-1]),
        "arithmetic": arithmetic(device),
    }
