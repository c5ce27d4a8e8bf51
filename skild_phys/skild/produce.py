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
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errors import Interrupted
from skild_phys.memory import hold_memory
from skild_phys.store import COMMIT_SECONDS, create_store

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
    says so, with what was made complete, also within a chunk.

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
            for lattices in _in_time([pool.submit(work, index) for index in groups], stop):
                index = np.arange(writer.committed, writer.committed + len(lattices))
                writer.commit({field: lattices} | extra(lattices, index))
                made += len(lattices)
            if writer.committed < last or (stop() and last < n_samples):
                raise Interrupted(
                    f"interrupted: {writer.committed} of {n_samples} samples are kept in {output};"
                    " the same command, without --overwrite, goes on from there"
                )
    return made


def _in_time(jobs: list[Future[Lattices]], stop: Callable[[], bool]) -> Iterator[Lattices]:
    """Yield the results of `jobs` in order, as many at once as COMMIT_SECONDS bring.

    Once `stop` says so, those that are there by then are the last.
    """
    held: list[Lattices] = []
    since = time.monotonic()
    try:
        for job in jobs:
            while not job.done() and not stop():
                wait([job], timeout=0.1)
            if not job.done():
                break
            held.append(job.result())
            if time.monotonic() - since > COMMIT_SECONDS:
                yield np.concatenate(held)
                held, since = [], time.monotonic()
    except Interrupted:
        pass
    finally:
        for job in jobs:
            job.cancel()
    if held:
        yield np.concatenate(held)
