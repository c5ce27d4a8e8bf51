"""What a recipe costs before it is run: parameters, operations, memory, hours of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from skild_phys.skild.networks import OUTPUTS
from skild_phys.skild.recipe import Recipe

_BACKWARD = 2.0  # operations of a backward pass over those of a forward pass
_OPTIMIZER_BYTES = 20  # of each parameter: itself, its average, gradient, two moments in float32


@dataclass(frozen=True)
class Cost:
    """What one recipe costs.

    Attributes
    ----------
    parameters : of the network.
    forward : floating-point operations of one call for one field.
    step : the same of one training step, its whole batch.
    activations : bytes kept of one field between forward and backward pass, in float32; under
        bf16 about half of it.
    state : bytes of weights, average, gradient and optimizer.
    training : operations of the whole run.
    """

    parameters: int
    forward: float
    step: float
    activations: int
    state: int
    training: float


def cost(config: Recipe, shape: tuple[int, int], channels: int) -> Cost:
    """Return what `config` costs on fields of `shape` with `channels`; nothing is computed."""
    with torch.device("meta"):
        network = config.network.build(config.output, config.basis, channels, config.lambdas)
        inputs = channels * OUTPUTS[config.output].inputs
        multiple = network.config.multiple
        x = torch.empty(1, inputs, *(-(-side // multiple) * multiple for side in shape))
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[id(tensor.untyped_storage())] = tensor
            return tensor

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, torch.empty(1))
    own = {id(p.untyped_storage()) for p in network.parameters()}
    activations = sum(t.untyped_storage().nbytes() for i, t in kept.items() if i not in own)
    parameters = sum(p.numel() for p in network.parameters())
    forward = float(counter.get_total_flops())
    step = (1.0 + _BACKWARD) * forward * config.batch
    return Cost(
        parameters, forward, step, activations, _OPTIMIZER_BYTES * parameters, step * config.steps
    )
