"""Lattices made one by one from their index, on all cores, into a store, commit by commit.

Each sample's random streams follow from its index and the seed alone. On a CPU lattices are
worked on one at a time, each by one thread, so that neither the number of threads nor the size of
a batch can change a rounding; on a GPU in batches. Small images go in batches on a CPU as well, all
of one size: a part of one is filled up with its last image.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errors import Interrupted
from skild_phys.memory import hold_memory
from skild_phys.store import create_store

Lattices = NDArray[Any]
Make = Callable[[Sequence[int]], Lattices]
"""Indices in the store -> their lattices (n, *shape)."""
GPU_BATCH = 32
CPU_NUMBERS = 2**16
"""Of images that make a batch on a CPU: of 32 x 32 pixels of 3 channels there are 21."""


def image_batch(shape: Sequence[int]) -> int:
    """Return how many images (channels, Ly, Lx) make a batch on a CPU."""
    return max(1, CPU_NUMBERS // math.prod(shape))


def produce(
    output: str | Path,
    make: Make,
    *,
    field: str,
    n_samples: int,
    shape: tuple[int, ...],
    chunk: int,
    attrs: dict[str, Any],
    extra: Callable[[Lattices, NDArray[np.int64]], dict[str, Lattices]],
    variables: Sequence[str],
    q: int = 0,
    channels: int = 0,
    batch: int = 1,
    overwrite: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Make lattices until the store `output` has `n_samples`; return how many were made.

    An unfinished store of the same parameters is gone on with. Raises Interrupted once `stop`
    says so, with what was committed complete.

    Parameters
    ----------
    extra : (lattices, their indices) -> the values of `variables` for them; may raise where
        the lattices are not what they must be.
    batch : how many indices `make` is called with on a CPU, always.
    field, shape, chunk, attrs, q, channels, overwrite : of `store.create_store`.
    """
    on_gpu = torch.device(device).type != "cpu"
    group = GPU_BATCH if on_gpu else batch
    threads_before = torch.get_num_threads()
    hold_memory()

    def work(index: Sequence[int]) -> Lattices:
        missing = group - len(index) if batch > 1 else 0
        lattices = make([*index, *[index[-1]] * missing])
        progress(len(index))
        return lattices[: len(index)]

    made = 0
    with (
        contextlib.ExitStack() as cleanup,
        create_store(
            output,
            field=field,
            n_samples=n_samples,
            shape=shape,
            chunk=chunk,
            attrs=attrs,
            variables=tuple(variables),
            q=q,
            channels=channels,
            overwrite=overwrite,
        ) as writer,
        ThreadPoolExecutor(
            threads or (1 if on_gpu else os.cpu_count() or 1),
            initializer=torch.set_num_threads,
            initargs=(1,),
        ) as pool,
    ):
        cleanup.callback(torch.set_num_threads, threads_before)
        progress(writer.committed)
        while writer.committed < n_samples:
            first = writer.committed
            last = min((first // chunk + 1) * chunk, n_samples)
            groups = [list(range(i, min(i + group, last))) for i in range(first, last, group)]
            parts = _until_stopped([pool.submit(work, index) for index in groups], stop)
            if parts is None:
                raise Interrupted(
                    f"interrupted: {first} of {n_samples} samples are kept in {output};"
                    " the same command, without --overwrite, goes on from there"
                )
            lattices = np.concatenate(parts)
            index = np.arange(first, last)
            writer.commit({field: lattices} | extra(lattices, index))
            made += last - first
    return made


def _until_stopped(jobs: list[Future[Lattices]], stop: Callable[[], bool]) -> list[Lattices] | None:
    """Return the results of `jobs`, or None as soon as `stop` says so."""
    try:
        while wait(jobs, timeout=0.1, return_when=FIRST_EXCEPTION).not_done:
            if stop():
                return None
            if any(job.done() and job.exception() for job in jobs):
                break
        return [job.result() for job in jobs]
    except Interrupted:
        return None
    finally:
        for job in jobs:
            job.cancel()
