"""The random numbers of one lattice, whatever is computed beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rng import generator, kernel_state


@dataclass
class Streams:
    """The random streams of one lattice: Gaussian noise, and the state of the drawing kernel."""

    noise: np.random.Generator
    state: NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, sample: int) -> Streams:
        """Return the streams of a sample under `seed`."""
        return cls(generator(seed, "noise", sample), kernel_state(seed, "spins", sample))


def white_noise(streams: Sequence[Streams], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal fields (n, *shape) float32, one stream a field."""
    fields = [s.noise.standard_normal(shape, dtype=np.float32) for s in streams]
    return torch.from_numpy(np.stack(fields)).to(device)
