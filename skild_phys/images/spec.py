"""Options of the image benchmarks, and what a recipe costs; `--help` does not wait for torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skild_phys.errors import BadInput, check_whole
from skild_phys.runner import option
from skild_phys.skild.chain import Chain
from skild_phys.store import Lattices

if TYPE_CHECKING:
    from torch import Tensor

    from skild_phys.skild.equations import Step
    from skild_phys.skild.recipe import Recipe

_BACKWARD = 2.0  # operations of a backward pass over those of a forward pass
_OPTIMIZER_BYTES = 20  # of each parameter: itself, its average, gradient, two moments in float32


@dataclass(frozen=True, kw_only=True)
class ImageRefineSpec(Chain):
    """How to make images from low-resolution ones.

    Attributes
    ----------
    factor : of the sides; any number above 1. None for the images' own.
    rule : how the low-resolution images came about, area or bicubic; None for their own.
    method : 'skild', or 'bicubic', which only interpolates.
    seed : of all noise.
    """

    steps: int | None = option(None, "Network evaluations per image.  [default: by the weights]")
    sampler: str | Step | None = option(None, "As in generate.  [default: by the weights]")
    lambda_start: float | None = option(None, "Where it starts, in pixels squared.")
    lambda_end: float | None = option(None, "Where its last network evaluation is.")
    factor: float | None = option(None, "By which sides grow.  [default: that of LOW]")
    rule: str | None = option(None, "area or bicubic: how LOW was made.  [default: that of LOW]")
    method: str = option("skild", "skild or bicubic.")
    seed: int = option(0, "Seed of every stream.")

    def __post_init__(self) -> None:
        if self.rule not in (None, "area", "bicubic"):
            raise BadInput("rule", self.rule, "area or bicubic")
        if self.method not in ("skild", "bicubic"):
            raise BadInput("method", self.method, "skild or bicubic")
        check_whole("seed", self.seed, 0)
        if self.method == "bicubic":
            for name in ("steps", "sampler", "lambda_start", "lambda_end"):
                if (value := getattr(self, name)) is not None:
                    raise BadInput(name, str(value), "nothing: method bicubic does not use it")
        super().__post_init__()

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


def cost(recipe: Recipe, shape: tuple[int, int], channels: int) -> dict[str, float]:
    """Return what `recipe` costs on fields of `shape` with `channels`; nothing is computed.

    Returns
    -------
    parameters of the network; floating-point operations of one network evaluation for one field
    (forward_flops), of one training step, its whole batch (step_flops), and of the whole run
    (training_flops); bytes kept of one field between forward and backward pass in float32, under
    bf16 about half of it (activation_bytes), and of weights, average, gradient and optimizer
    (state_bytes).
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from skild_phys.skild.networks import OUTPUTS

    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        network = recipe.network.build(recipe.output, recipe.basis, channels, recipe.lambdas)
        inputs, multiple = channels * OUTPUTS[recipe.output].inputs, recipe.network.multiple
        x = torch.empty(1, inputs, *(-(-side // multiple) * multiple for side in shape))
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, torch.empty(1))
    own = {id(p.untyped_storage()) for p in network.parameters()}
    activations = sum(t.untyped_storage().nbytes() for i, t in kept.items() if i not in own)
    parameters = sum(p.numel() for p in network.parameters())
    forward = float(counter.get_total_flops())
    step = (1.0 + _BACKWARD) * forward * recipe.batch
    return {
        "parameters": parameters, "forward_flops": forward, "step_flops": step,
        "activation_bytes": activations, "state_bytes": _OPTIMIZER_BYTES * parameters,
        "training_flops": step * recipe.steps,
    }  # fmt: skip
