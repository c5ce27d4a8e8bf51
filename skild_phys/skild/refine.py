"""SKILD for coarse lattices: what refines them with weights, a chain and a seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.rng import Streams
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.equations import Stop
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import Torus
from skild_phys.skild.weights import Weights

Lattices = NDArray[Any]


@functools.lru_cache(maxsize=8)
def built(weights: Weights, shape: tuple[int, ...], device: str, sampler: Any) -> Skild:
    """Return weights at work on fields of one shape; the last few are kept."""
    return Skild.of(weights, shape, device, sampler)


@dataclass(frozen=True)
class SkildRefiner:
    """The method `skild` for one coarse input."""

    weights: Weights
    coarse: CoarseInput
    lambdas: NDArray[np.float64]
    sampler: Any
    seed: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.weights.basis != Torus.name:
            raise BadInput("checkpoint", f"weights in the basis {self.weights.basis}", Torus.name)

    def __call__(
        self, raw: Lattices, index: Sequence[int], ties: Lattices | None, stop: Stop
    ) -> Lattices:
        """Return the fine lattices with these indices of raw coarse ones."""
        coarse, streams = self.coarse, [Streams.of(self.seed, i) for i in index]
        skild = built(self.weights, coarse.fine_shape, self.device, self.sampler)
        return skild.refine(raw, coarse.rule, coarse.factor, self.lambdas, streams, ties, stop)
