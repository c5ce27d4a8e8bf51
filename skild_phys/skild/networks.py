"""Networks by name, what each kind of output is given and says, and the type of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch

from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig
from skild_phys.skild.schedule import Schedule
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
