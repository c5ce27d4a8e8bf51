"""The options of the image benchmarks; light, so that `--help` need not wait for torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from skild_phys.errors import BadInput, check_whole
from skild_phys.runner import option
from skild_phys.store import Lattices


@dataclass(frozen=True)
class ImageRefineSpec:
    """How to make images from low-resolution ones.

    Attributes
    ----------
    factor : of the sides; any number above 1. None for what the images say.
    rule : how the low-resolution images came about, of `lowres.RULES`; None for what they say.
    method : 'skild', or 'bicubic', which only interpolates.
    steps : network evaluations per image; None for as many as the weights' schedule has, or the
        start asks for.
    sampler : of `equations.STEPS`; None for the usual one of the weights.
    lambda_start, lambda_end : ends of the chain; None for `starting_lambda` of the factor, and the
        smallest lambda that the weights have seen.
    seed : of all noise.
    """

    factor: float | None = option(None, "Of the sides.  [default: what LOW was coarsened by]")
    rule: str | None = option(None, "area or bicubic: how LOW came about.  [default: what it says]")
    method: str = option("skild", "skild or bicubic.")
    steps: int | None = option(None, "Network evaluations per image.  [default: by the weights]")
    sampler: str | None = option(None, "As in generate.  [default: by the weights]")
    lambda_start: float | None = option(None, "Where it starts, in pixels squared.")
    lambda_end: float | None = option(None, "Where its last network evaluation is.")
    seed: int = option(0, "Of every stream.")

    def __post_init__(self) -> None:
        if self.rule not in (None, "area", "bicubic"):
            raise BadInput("rule", self.rule, "area or bicubic")
        if self.method not in ("skild", "bicubic"):
            raise BadInput("method", self.method, "skild or bicubic")
        for name, least in (("steps", 1), ("seed", 0)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        if self.method == "bicubic":
            for name in ("steps", "sampler", "lambda_start", "lambda_end"):
                if (value := getattr(self, name)) is not None:
                    raise BadInput(name, str(value), "nothing: method bicubic does not use it")

    def settled(self, low: Lattices) -> ImageRefineSpec:
        """Return the same with the factor and rule that `low` was made by; raises BadInput."""
        known: dict[str, Any] = {}
        for name in ("factor", "rule"):
            # Of images that were refined, these say how, not how they were made coarse.
            own = None if "method" in low.attrs else low.attrs.get(name)
            given = getattr(self, name)
            if given is None and own is None:
                raise BadInput(name, None, f"a {name}: {low.path} does not say its own")
            if given is not None and own is not None and given != own:
                raise BadInput(name, given, f"{own}, by which {low.path} was coarsened")
            known[name] = own if given is None else given
        return replace(self, factor=float(known["factor"]), rule=str(known["rule"]))


@dataclass(frozen=True)
class GPU:
    """What computes: dense bf16 operations, and the share that such networks usually reach."""

    gpu_tflops: float = option(989.0, "Of one GPU, dense bf16; 989 is an H100.")
    utilization: float = option(0.35, "Share of it that is reached.")

    def __post_init__(self) -> None:
        if not 0 < self.gpu_tflops < math.inf:
            raise BadInput("gpu_tflops", self.gpu_tflops, "a number above 0")
        if not 0 < self.utilization <= 1:
            raise BadInput("utilization", self.utilization, "a number above 0, up to 1")

    def seconds(self, operations: float) -> float:
        """Return how long floating-point operations take."""
        return operations / (self.gpu_tflops * 1e12 * self.utilization)
