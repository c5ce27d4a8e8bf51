"""One training run on several processes, each with a part of every batch (torchrun, DDP).

All processes draw the same stream of data and the same times, and noise is named by the step and
the place in the batch: a run on several processes is the run on one, up to rounding, and to the
masks of dropout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from skild_phys.errors import BadInput

_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun says in the environment."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return this process's part of a batch of `n`."""
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def check(self, batch: int, accumulate: int) -> None:
        """Raise BadInput unless a batch can be cut into equal parts."""
        if batch % (self.world * accumulate):
            accepted = f"a multiple of {self.world} processes x accumulate {accumulate}"
            raise BadInput("batch", batch, accepted)

    def mean(self, numbers: list[float], device: torch.device) -> list[float]:
        """Return the means of `numbers` over all processes."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return [value / self.world for value in total.tolist()]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if any; yield which this is.

    A process of several on 'cuda' has the GPU of its local rank. They speak by nccl there, by gloo
    on CPUs.
    """
    told = all(name in os.environ for name in _TOLD)
    if not told or os.environ["WORLD_SIZE"] == "1":
        yield Ranks(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
