"""The driver: samples made from their index, on threads or by dask, into a store or into memory.

What a sample is follows from its index alone, so that no number of threads, workers, chunks or
interruptions changes a byte.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_phys._version import __version__
from skild_phys.errors import BadInput, Interrupted, check_whole
from skild_phys.executors import Executor, Stop, dask, parse_address, threads
from skild_phys.files import AnyPath
from skild_phys.process import hold_memory
from skild_phys.store import Lattices, MemoryWriter, Plan, StoreWriter, create_store

Writer = StoreWriter | MemoryWriter

Arrays = dict[str, NDArray[Any]]
Make = Callable[..., Arrays]
"""(indices, [what the samples are made from,] stop) -> their arrays by name.

The field and scalars of the plan, (n, ...), and whatever else the caller wants. For dask it must be
picklable. Once `stop()` is true it may raise Interrupted.
"""

COMMIT_SECONDS = 8.0
"""A run commits at least this often, as far as single samples allow: what a kill may cost.

A commit takes some 10 ms, most of it in syncing files.
"""

_BATCH, _FEW, _CPU_SITES, _MOST_CPU_SITES = 16, 4, 2**16, 2**18


def lattice_batch(shape: tuple[int, ...]) -> int:
    """Return how many lattices go through a network at once on a CPU.

    An evaluation on a small grid costs the same for one lattice as for several: 64^2 from noise
    took 0.22 s each by fours, 0.07 s by sixteens (one core). So 16 of `_CPU_SITES` sites together,
    or 4 of `_MOST_CPU_SITES`; more of them would leave threads without work.
    """
    sites = math.prod(shape)
    return max(1, min(_BATCH, _CPU_SITES // sites), min(_FEW, _MOST_CPU_SITES // sites))


def padded(index: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Return indices filled up to `batch` with the last: the size of a batch changes roundings."""
    return np.concatenate([index, np.repeat(index[-1:], max(0, batch - len(index)))])


GPU_BATCH = 32
_MOST_THREADS = 4096
_POLL_SECONDS = 0.1
_PIECE_SECONDS = 0.05  # of work that dask sends at once, at least
_MOST_PIECE = 256


def _silent(count: int, note: str = "") -> None: ...


def _never() -> bool:
    return False


def option(default: Any, text: str, *opts: str) -> Any:
    """Return a field of a dataclass that is an option of a command too, with its help.

    `opts` are the option's own names, such as `-n`.
    """
    return field(default=default, metadata={"help": text} | ({"opts": opts} if opts else {}))


@dataclass(frozen=True)
class Run:
    """How work is done; nothing here changes a sample.

    Attributes
    ----------
    threads : of this process; None for one per core.
    device : 'cpu' or 'cuda'.
    chunk : samples in a chunk of the store; None for about half a MiB.
    overwrite : replace what lies at the output.
    progress : called with the number of samples just made (and a note, where there is one).
    stop : asked several times a second; when it is true the run ends at its last commit.
    dask : address of a scheduler, or `local:N` for N processes; None for threads.
    attrs : what else a store says of how it came about (command line, versions).

    Raises
    ------
    BadInput : a value that cannot be used.
    """

    threads: int | None = option(None, "Threads; change no number.  [default: all cores]")
    device: str = option("cpu", "cpu or cuda.")
    chunk: int | None = option(None, "Samples in a chunk of the store.  [default: half a MiB]")
    overwrite: bool = option(False, "Replace what OUTPUT holds.")
    dask: str | None = option(None, "A scheduler's address, or local:4 for four processes.")
    progress: Callable[..., None] = _silent
    stop: Stop = _never
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_whole("threads", self.threads, 1, _MOST_THREADS)
            if self.dask is not None:
                accepted = "nothing with dask=: its workers are at work"
                raise BadInput("threads", self.threads, accepted)
        if self.chunk is not None:
            check_whole("chunk", self.chunk)
        if self.dask is not None:
            parse_address(self.dask)
        if self.device not in ("cpu", "cuda"):
            raise BadInput("device", self.device, "cpu or cuda")
        if self.device == "cuda" and self.dask is None:
            import torch

            if not torch.cuda.is_available():
                raise BadInput("device", self.device, "cpu: this machine has no CUDA device")

    @property
    def cores(self) -> int:
        """Threads of this process: as many as asked for, or one per core."""
        return self.threads or os.cpu_count() or 1

    def open(self, most: int | None = None) -> contextlib.AbstractContextManager[Executor]:
        """Open what does the work: dask's workers, or threads, at most `most` of them."""
        if self.dask is not None:
            return dask(self.dask, self.stop)
        return threads(self.threads or (1 if self.device != "cpu" else None), self.stop, most)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, skild-phys and the named packages."""
    found = {"python": platform.python_version(), "skild-phys": __version__}
    return found | {name: metadata.version(name) for name in packages}


def interrupted(output: AnyPath | None, kept: int, total: int, what: str = "there") -> Interrupted:
    """Return the error that says what an interrupted run kept, and how it resumes."""
    if output is None:
        return Interrupted("interrupted: nothing is kept without output=")
    return Interrupted(
        f"interrupted: {kept} of {total} samples are kept in {output}; started again, without"
        f" overwrite=True, it resumes {what}"
    )


class Filled(NamedTuple):
    """What `fill_store` has done.

    Attributes
    ----------
    lattices : the finished store, or the samples in memory.
    made : samples that this call made; the others were there.
    seconds : wall time of this call.
    besides : what the samples of this call gave besides the arrays of the store, (made, ...).
    """

    lattices: Lattices
    made: int
    seconds: float
    besides: Arrays

    @property
    def each(self) -> float | None:
        """Seconds per sample; None where all were there."""
        return self.seconds / self.made if self.made else None


def open_writer(
    output: AnyPath | None, plan: Plan, overwrite: bool = False
) -> contextlib.AbstractContextManager[Writer]:
    """Open the store `output` for writing, or memory where it is None."""
    if output is None:
        return contextlib.nullcontext(MemoryWriter(plan))
    return create_store(output, plan, overwrite=overwrite)


def fill_store(
    output: AnyPath | None,
    plan: Plan,
    make: Make,
    run: Run,
    *,
    batch: int = 1,
    given: Callable[[int, int], NDArray[Any]] | None = None,
) -> Filled:
    """Make every sample of `plan` into the store `output`, commit by commit.

    A store that the same parameters began is resumed.

    Parameters
    ----------
    output : None to keep the samples in memory.
    make : makes the samples of at most `batch` indices; see `Make`.
    batch : how many samples `make` is asked for at once.
    given : (first, last) -> what samples first .. last - 1 are made from, (last - first, ...). It
        is read here, once, and sent with the work.

    Raises
    ------
    Interrupted : once `run.stop` says so, or by Ctrl-C; what was made is committed. And what
    `make` and `create_store` raise.
    """
    began, n = time.perf_counter(), plan.n_samples
    besides: dict[str, list[NDArray[Any]]] = {}
    hold_memory()
    with contextlib.ExitStack() as opened:
        if torch := sys.modules.get("torch"):
            opened.callback(torch.set_num_threads, torch.get_num_threads())
        # First the workers: an address where nobody answers must leave nothing behind.
        if run.dask is not None or n > batch:
            executor = opened.enter_context(run.open(-(-n // batch)))
        else:
            executor = Executor(run.stop)  # no threads for a single piece
        writer: Any = opened.enter_context(open_writer(output, plan, run.overwrite))
        there = writer.committed
        run.progress(there)
        for arrays in _made(there, plan, make, run, executor, batch, given):
            writer.commit({name: arrays.pop(name) for name in (plan.field, *plan.variables)})
            for name, values in arrays.items():
                besides.setdefault(name, []).append(values)
        if writer.committed < n:
            raise interrupted(output, writer.committed, n)
        lattices = writer.lattices()
    rest = {name: np.concatenate(values) for name, values in besides.items()}
    return Filled(lattices, n - there, time.perf_counter() - began, rest)


def _made(
    first: int,
    plan: Plan,
    make: Make,
    run: Run,
    executor: Executor,
    batch: int,
    given: Callable[[int, int], NDArray[Any]] | None,
) -> Iterator[Arrays]:
    """Yield the arrays of samples from `first` on, in order, as many at once as a commit takes.

    Up to `executor.ahead` pieces are given out at once. Once `run.stop` says so, or Ctrl-C comes,
    the samples that are there by then are the last.
    """
    n, size, piece, stopped = plan.n_samples, plan.chunk, batch, False
    chunk, rows, share = range(first, first), None, executor.share(make)
    ahead: deque[tuple[int, Future[tuple[Arrays, float]]]] = deque()
    held: list[Arrays] = []
    since = time.monotonic()
    try:
        while first < n or ahead:
            while not stopped and first < n and len(ahead) < executor.ahead:
                if first not in chunk:
                    chunk = range(first, min((first // size + 1) * size, n))
                    rows = given and given(first, chunk.stop)
                last = min(first + piece, chunk.stop)
                here = slice(first - chunk.start, last - chunk.start)
                more = () if rows is None else (rows[here],)
                job = executor.submit(_piece, share, batch, np.arange(first, last), *more)
                ahead.append((last, job))
                first = last
            last, job = ahead[0]
            while not job.done() and not stopped:
                wait([job], timeout=_POLL_SECONDS)
                stopped = run.stop()
            stopped = stopped or run.stop()
            if not job.done():
                break
            arrays, seconds = job.result()
            ahead.popleft()
            held.append(arrays)
            run.progress(len(arrays[plan.field]))
            if executor.remote and seconds < _PIECE_SECONDS:
                piece = min(2 * piece, _MOST_PIECE * batch)
            if time.monotonic() - since > COMMIT_SECONDS or last % size == 0:
                # Emptied first: a Ctrl-C that comes as this resumes must not yield it again.
                ready, held, since = _joined(held), [], time.monotonic()
                yield ready
            if stopped and (last % size == 0 or not ahead):
                break
    except (KeyboardInterrupt, Interrupted):
        pass
    finally:
        for _, job in ahead:
            job.cancel()
    if held:
        yield _joined(held)


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _piece(
    make: Make, batch: int, index: NDArray[np.int64], *given: NDArray[Any], stop: Stop = _never
) -> tuple[Arrays, float]:
    """Make samples, `batch` at once; return them, and how long it took."""
    began, parts = time.perf_counter(), []
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the number of threads must not change a rounding
    for first in range(0, len(index), batch):
        here = slice(first, first + batch)
        parts.append(make(index[here], *(rows[here] for rows in given), stop=stop))
    return _joined(parts), time.perf_counter() - began
