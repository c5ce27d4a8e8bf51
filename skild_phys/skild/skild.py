"""SKILD at work on lattices of one shape: from any start of the chain to any end.

Generation starts from noise, refinement from what a coarse lattice says, the paper's protocol from
the forward marginal of the truth: the same call with another start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.conditions import Constraint, Free
from skild_phys.skild.equations import (
    Correct,
    FieldPosterior,
    Noise,
    Process,
    Stop,
    make_step,
    run_chain,
    see_fields,
    y0_from_output,
)
from skild_phys.skild.networks import odd_outputs
from skild_phys.skild.spins import LeftOpen, MeanField, SpinPosterior, spin_logits
from skild_phys.skild.streams import Streams, white_noise
from skild_phys.skild.symmetries import see_through_symmetries
from skild_phys.skild.weights import Weights


class Skild:
    """Weights, built for fields of one shape.

    Parameters
    ----------
    weights : spectrum, network and couplings.
    shape : (Ly, Lx); any sides. Fields of images have their channels before them.
    sampler : of `equations.STEPS`.
    """

    def __init__(
        self,
        weights: Weights,
        shape: tuple[int, int],
        device: torch.device | str = "cpu",
        sampler: str = "stochastic",
    ) -> None:
        self.weights, self.shape, self.device = weights, shape, torch.device(device)
        self.network = weights.build(self.device)
        self.process: Process = weights.process(shape, self.device)
        self.spins = weights.output == "logits"
        self.mean_field = MeanField(self.process, weights.couplings) if self.spins else None
        self.left_open = LeftOpen(self.process) if self.spins else None
        self.sampler = sampler
        make_step(sampler)

    def white(self, streams: Sequence[Streams]) -> Tensor:
        """Return white noise as whitened modes, one stream a lattice."""
        channels = (self.weights.channels,) if self.weights.channels else ()
        return self.process.white(white_noise(streams, (*channels, *self.shape), self.device))

    def from_noise(self, streams: Sequence[Streams]) -> Tensor:
        """Return the whitened modes of pure noise: where generation starts."""
        return self.white(streams)

    def from_fields(self, x0: Tensor, lam: float, streams: Sequence[Streams]) -> Tensor:
        """Return whitened modes of the forward marginal of fields `x0` at `lam`."""
        process = self.process
        y0 = process.modes(x0.to(self.device))
        return process.cosine(lam) * y0 + process.sine(lam) * self.white(streams)

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
    ) -> NDArray[np.generic]:
        """Run the reverse process from modes `y` at lambdas[0]; one denoiser call a lambda.

        Returns
        -------
        (n, Ly, Lx): int8 spins that obey `constraint`, or float32 fields on which `correct` acted,
        of images (n, channels, Ly, Lx).
        """
        noise: Noise = lambda: self.white(streams)  # noqa: E731
        step = make_step(self.sampler)
        if self.spins:
            bound = constraint or Free()
            _, last = run_chain(
                self.process, y, lambdas, self._spins(streams, noise, bound), step, noise, stop
            )
            return last.spins()
        denoise = self._fields(streams, noise, correct)
        y, found = run_chain(self.process, y, lambdas, denoise, step, noise, stop)
        end = float(lambdas[-1])
        fields = self.process.fields(step(self.process, y, found, end, 0.0, noise))
        if correct is not None:
            sigma = self.process.sine(end).double() ** 2 * self.process.power
            fields = correct(fields, sigma.cpu().numpy())
        return np.asarray(fields.cpu().numpy())

    def _sight(self, streams: Sequence[Streams]) -> Callable[[Tensor, Tensor], Tensor]:
        channels, symmetries = max(1, self.weights.channels), self.weights.symmetries
        odd = odd_outputs(self.weights.output, channels)

        def sight(features: Tensor, lam: Tensor) -> Tensor:
            return see_through_symmetries(self.network, features, lam, streams, symmetries, odd)

        return sight

    def _spins(
        self, streams: Sequence[Streams], noise: Noise, constraint: Constraint
    ) -> Callable[[Tensor, float], SpinPosterior]:
        assert self.mean_field is not None
        assert self.left_open is not None
        mean_field, left_open, sight = self.mean_field, self.left_open, self._sight(streams)

        def denoise(y: Tensor, lam: float) -> SpinPosterior:
            at = torch.tensor([lam], dtype=torch.float32, device=self.device)
            looks = sight if lam >= self.weights.network_from else None
            xt = self.process.fields(y)
            alone = constraint.alone(xt) if looks else None
            found = spin_logits(looks, mean_field, xt, at, constraint.means, alone)
            return SpinPosterior(
                self.process, found, constraint, mean_field, left_open, lam, noise, streams
            )

        return denoise

    def _fields(
        self, streams: Sequence[Streams], noise: Noise, correct: Correct | None
    ) -> Callable[[Tensor, float], FieldPosterior]:
        sight = self._sight(streams)

        def denoise(y: Tensor, lam: float) -> FieldPosterior:
            at = torch.full((len(y),), lam, device=self.device)
            kind, xt = self.weights.output, self.process.fields(y)
            output = see_fields(sight, kind, self.process, xt, at)
            y0 = y0_from_output(output, kind, self.process, y, at)
            return FieldPosterior(self.process, y0, lam, noise, correct)

        return denoise
