"""Which floating-point type a network runs in: the shorter one only where the machine has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

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
