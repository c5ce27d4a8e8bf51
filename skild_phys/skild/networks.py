"""Networks by name, and which floating-point type they run in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from skild_phys.errors import BadInput
from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig
from skild_phys.skild.schedule import Schedule
from skild_phys.skild.unet import NetworkConfig, UNet

CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def network_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where `device` multiplies it in hardware, float32 elsewhere.

    A CPU without such instructions emulates bfloat16, at a fifth of float32's speed (the shipped
    network on an AMD EPYC with AVX2). The two types round differently: what one kind of machine
    refines is another sample of the same law than what the other does.
    """
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    # PyTorch before 2.12 may not say what the CPU has.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = any(known.get(name, False) for name in CPU_INSTRUCTIONS)
    return torch.bfloat16 if fast else torch.float32


def arithmetic(device: torch.device | str) -> str:
    """Return what decides how a chain rounds: kind of device and type of numbers."""
    return f"{torch.device(device).type} {str(network_dtype(device)).removeprefix('torch.')}"


Network: TypeAlias = UNet | Ncsnpp


AnyNetworkConfig: TypeAlias = NetworkConfig | NcsnppConfig


NETWORKS: dict[str, type[AnyNetworkConfig]] = {"unet": NetworkConfig, "ncsnpp": NcsnppConfig}


ODD_OUTPUTS = {"logits": (True, False, True, False)}
"""Which outputs change sign with the spins: draft, trust in the first iteration, field, trust in
the second. A continuous field's one output does."""


def make_network(
    config: AnyNetworkConfig,
    output: str,
    basis: str,
    channels: int = 1,
    schedule: Schedule | None = None,
) -> Network:
    """Return an untrained network for the output kind `output` of fields in `basis`.

    A network that counts time in steps does so along `schedule`.
    """
    inputs, outputs = {"logits": (5, 4), "v": (2 * channels, channels)}.get(
        output, (channels, channels)
    )
    if isinstance(config, NcsnppConfig):
        if schedule is None:
            raise BadInput("network", config.kind, "unet where [lambdas] name no schedule")
        return Ncsnpp(config, inputs, outputs, basis, schedule)
    waved = [i for i, odd in enumerate(odd_outputs(output)) if odd]
    return UNet(config, inputs, outputs, basis, waved, channels)


def odd_outputs(output: str, channels: int = 1) -> tuple[bool, ...]:
    """Return, for each output of the network, whether it changes sign with the field."""
    return ODD_OUTPUTS.get(output, (True,) * channels)
