"""The random numbers of one lattice, whatever is computed beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rng import generator, kernel_state, system_seed

_HASHED = 2**26
"""Bytes of lattices that are read at once to tell an input."""


@dataclass
class Streams:
    """The random streams of one lattice: Gaussian noise, and the state of the drawing kernel."""

    noise: np.random.Generator
    state: NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, sample: int) -> Streams:
        """Return the streams of a sample under `seed`."""
        return cls(generator(seed, "noise", sample), kernel_state(seed, "spins", sample))


def input_seed(
    streams: str | None, seed: int, n: int, read: Callable[[int, int], NDArray[Any]]
) -> int:
    """Return the seed (`rng.system_seed`) that an input of `n` lattices is refined with.

    The input is told by its first 64 lattices, whatever file they lie in: methods are compared on
    the same noise, and one seed refines two inputs independently.
    """
    digest, end = hashlib.sha256(), min(n, 64)
    step = max(1, _HASHED // read(0, 1).nbytes)
    for start in range(0, end, step):
        digest.update(np.ascontiguousarray(read(start, min(start + step, end))).ravel().data)
    return system_seed(streams, seed, digest.hexdigest())


def white_noise(streams: Sequence[Streams], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal fields (n, *shape) float32, one stream a field."""
    fields = [s.noise.standard_normal(shape, dtype=np.float32) for s in streams]
    return torch.from_numpy(np.stack(fields)).to(device)
