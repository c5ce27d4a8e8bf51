"""Networks by name, what each kind of output is given and says, and the type of numbers.

A network sees each configuration through a symmetry of its own (`see_through_symmetries`): whatever
it does that the physics does not is averaged out along the chain instead of adding up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from skild_phys.rng import Streams
from skild_phys.skild.chain import Schedule
from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig
from skild_phys.skild.unet import NetworkConfig, UNet

Network: TypeAlias = UNet | Ncsnpp
AnyNetworkConfig: TypeAlias = NetworkConfig | NcsnppConfig

NETWORKS: dict[str, type[AnyNetworkConfig]] = {"unet": NetworkConfig, "ncsnpp": NcsnppConfig}
"""The dataclass of a network's shape, which builds it, by `kind`."""


class Output(NamedTuple):
    """Numbers per site, for each component of a field, that a network is given, and says."""

    inputs: int
    odd: tuple[bool, ...] = (True,)
    """Which outputs change sign with the field."""


OUTPUTS = {
    # of spins: draft, trust in the first iteration, field, trust in the second (`spin_logits`)
    "logits": Output(5, (True, False, True, False)),
    "v": Output(2),
    "eps": Output(1),
    "white_eps": Output(1),
    "x0": Output(1),
}


def odd_outputs(output: str, channels: int = 1) -> tuple[bool, ...]:
    """Return, for each output of the network, whether it changes sign with the field."""
    return OUTPUTS[output].odd * channels


def make_network(
    config: AnyNetworkConfig,
    output: str,
    basis: str,
    channels: int = 1,
    schedule: Schedule | None = None,
    dimension: int = 2,
) -> Network:
    """Return an untrained network for fields of `channels` components in `basis`.

    Parameters
    ----------
    config : shape of the network, of NETWORKS.
    output : of OUTPUTS.
    schedule : along which a network counts time that does so in steps.
    dimension : of the lattice.
    """
    inputs, odd = OUTPUTS[output].inputs * channels, odd_outputs(output, channels)
    filtered = [i for i, one in enumerate(OUTPUTS[output].odd) if one]
    return config.build(inputs, len(odd), basis, filtered, channels, dimension, schedule)


_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def network_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where `device` multiplies it in hardware, float32 elsewhere.

    A CPU without such instructions emulates bfloat16, at a fifth of float32's speed (the shipped
    network on an AMD EPYC with AVX2). The two types round differently: what one kind of machine
    refines is another sample of the same distribution than what the other does.
    """
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    # PyTorch before 2.12 may not say what the CPU has.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = any(known.get(name, False) for name in _CPU_INSTRUCTIONS)
    return torch.bfloat16 if fast else torch.float32


def arithmetic(device: torch.device | str) -> str:
    """Return what decides how a chain rounds: kind of device and type of numbers."""
    return f"{torch.device(device).type} {str(network_dtype(device)).removeprefix('torch.')}"


SYMMETRIES = ("shift", "flip", "turn", "sign")
"""What configurations are taken to be symmetric under: translations, reflections of an axis,
exchange of axes with equal sides (with reflections, quarter turns), change of sign of the field."""
MIRROR = "mirror"
"""What a photograph may be taken to be symmetric under: left for right."""


class _Symmetry(NamedTuple):
    """A symmetry of lattice and field, and its inverse; fields are (channels, *shape)."""

    shift: tuple[int, ...]
    flips: list[int]
    swaps: list[tuple[int, int]]
    sign: float

    def there(self, field: Tensor) -> Tensor:
        field = torch.roll(field, self.shift, tuple(range(1, field.dim()))).flip(self.flips)
        field = field * self.sign
        for swap in self.swaps:
            field = field.transpose(*swap)
        return field

    def back(self, field: Tensor, odd: Tensor) -> Tensor:
        for swap in reversed(self.swaps):
            field = field.transpose(*swap)
        field = field.flip(self.flips)
        if self.sign < 0:
            field = field * (1.0 - 2.0 * odd).reshape(-1, *[1] * len(self.shift))
        return torch.roll(field, tuple(-step for step in self.shift), tuple(range(1, field.dim())))


def _random_symmetry(
    stream: Streams, shape: tuple[int, ...], symmetries: Sequence[str]
) -> _Symmetry:
    # Always the same numbers are drawn, whatever they are used for.
    shift = tuple(int(stream.noise.integers(side)) for side in shape)
    axes = range(1, 1 + len(shape))
    pairs = list(itertools.combinations(axes, 2))
    bits = [bool(i) for i in stream.noise.integers(2, size=len(axes) + len(pairs) + 1)]
    flips = [axis for axis in axes if bits[axis - 1] and "flip" in symmetries]
    if MIRROR in symmetries and "flip" not in symmetries and bits[len(axes) - 1]:
        flips = [len(axes)]
    swaps = [
        (i, j)
        for (i, j), swap in zip(pairs, bits[len(axes) : -1], strict=True)
        if swap and shape[i - 1] == shape[j - 1] and "turn" in symmetries
    ]
    sign = -1.0 if bits[-1] and "sign" in symmetries else 1.0
    return _Symmetry(shift if "shift" in symmetries else (0,) * len(shape), flips, swaps, sign)


def see_through_symmetries(
    network: Callable[[Tensor, Tensor], Tensor],
    streams: Sequence[Streams],
    symmetries: Sequence[str],
    odd: Sequence[bool],
    features: Tensor,
    lam: Tensor,
) -> Tensor:
    """Return the network's outputs, each configuration seen through a symmetry of its own.

    `features` are (n, inputs, *shape); `odd` marks the outputs that change sign with the field, as
    every feature does.
    """
    shape = tuple(features.shape[2:])
    own = [_random_symmetry(stream, shape, symmetries) for stream in streams]
    signs = torch.tensor(odd, dtype=torch.float32, device=features.device)
    views = torch.stack([one.there(field) for one, field in zip(own, features, strict=True)])
    outputs = network(views, lam)
    return torch.stack([one.back(field, signs) for one, field in zip(own, outputs, strict=True)])
