"""The driver: lattices made from their index, on threads or by dask, into a store or into memory.

What a sample is follows from its index alone, so that no number of threads, workers, chunks or
interruptions changes a byte.
"""

from __future__ import annotations

import contextlib
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
from skild_phys.memory import hold_memory
from skild_phys.options import option
from skild_phys.store import Lattices, MemoryWriter, Plan, StoreWriter, create_store, open_store

Arrays = dict[str, NDArray[Any]]
Make = Callable[..., Arrays]
"""(indices, [what the samples are made from,] stop) -> their arrays by name.

The lattices and scalars of the plan, (n, ...), and whatever else the caller is to have of them. For
dask it must be picklable. Once `stop()` is true it may raise Interrupted.
"""

COMMIT_SECONDS = 8.0
"""A run commits at least this often, as far as single lattices allow: what a kill may cost."""

GPU_BATCH = 32
MOST_THREADS = 4096
_POLL_SECONDS = 0.1
_PIECE_SECONDS = 0.05  # of work that dask sends at once, at least
_MOST_PIECE = 256


def _silent(count: int, note: str = "") -> None: ...


def _never() -> bool:
    return False


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
            check_whole("threads", self.threads, 1, MOST_THREADS)
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
    lattices : the finished store, or the lattices in memory.
    made : samples that this call made, the others were there.
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
) -> StoreWriter | MemoryWriter:
    """Open the store `output` for writing, or memory where it is None."""
    return MemoryWriter(plan) if output is None else create_store(output, plan, overwrite=overwrite)


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
    began, n, made = time.perf_counter(), plan.n_samples, 0
    besides: dict[str, list[NDArray[Any]]] = {}
    hold_memory()
    at_once = run.dask is None and n <= batch  # no threads for a single piece
    # First the workers: an address where nobody answers must leave nothing behind.
    with (
        _torch_as_it_was(),
        contextlib.nullcontext() if at_once else run.open(-(-n // batch)) as executor,
        open_writer(output, plan, run.overwrite) as writer,
    ):
        run.progress(writer.committed)
        if writer.committed < n:
            work = _Work(writer.committed, plan, executor, make, batch, given)
            for arrays in work.results(run):
                own = {name: arrays.pop(name) for name in (plan.field, *plan.variables)}
                writer.commit(own)
                made += len(own[plan.field])
                for name, values in arrays.items():
                    besides.setdefault(name, []).append(values)
            if writer.committed < n:
                raise interrupted(output, writer.committed, n)
        lattices = writer.lattices() if isinstance(writer, MemoryWriter) else None
    rest = {name: np.concatenate(values) for name, values in besides.items()}
    found = lattices if output is None else open_store(output)
    assert found is not None
    return Filled(found, made, time.perf_counter() - began, rest)


class _Work:
    """The pieces of a run from sample `first` on, in order, some ahead of those that are needed."""

    def __init__(
        self,
        first: int,
        plan: Plan,
        executor: Executor | None,
        make: Make,
        batch: int,
        given: Callable[[int, int], NDArray[Any]] | None,
    ) -> None:
        self.next, self.plan, self.executor = first, plan, executor
        self.make = make if executor is None else executor.share(make)
        self.batch, self.piece, self.given = batch, batch, given
        self.chunk = range(first, first)
        self.rows: NDArray[Any] | None = None
        self.ahead: deque[tuple[int, Future[tuple[Arrays, float]]]] = deque()

    def feed(self, stop: Stop) -> None:
        """Give out work for about three pieces per worker."""
        n, size = self.plan.n_samples, self.plan.chunk
        most = 3 * self.executor.at_once if self.executor else 1
        while self.next < n and len(self.ahead) < most:
            first = self.next
            if first not in self.chunk:
                self.chunk = range(first, min((first // size + 1) * size, n))
                self.rows = self.given and self.given(first, self.chunk.stop)
            last = min(first + self.piece, self.chunk.stop)
            here = slice(first - self.chunk.start, last - self.chunk.start)
            rows = () if self.rows is None else (self.rows[here],)
            index = np.arange(first, last)
            if self.executor:
                job = self.executor.submit(_made, self.make, self.batch, index, *rows)
            else:
                job = Future()
                job.set_result(_made(self.make, self.batch, index, *rows, stop=stop))
            self.ahead.append((last, job))
            self.next = last

    def results(self, run: Run) -> Iterator[Arrays]:
        """Yield the arrays of samples in a row, as many at once as a commit takes.

        Once `run.stop` says so, or Ctrl-C comes, those that are there by then are the last.
        """
        held: list[Arrays] = []
        since, size, stopped = time.monotonic(), self.plan.chunk, False
        try:
            while self.next < self.plan.n_samples or self.ahead:
                try:
                    if not stopped:
                        self.feed(run.stop)
                    last, job = self.ahead[0]
                    while not job.done() and not stopped:
                        wait([job], timeout=_POLL_SECONDS)
                        stopped = run.stop()
                    stopped = stopped or run.stop()
                    if not job.done():
                        break
                    arrays, seconds = job.result()
                except (KeyboardInterrupt, Interrupted):
                    break
                self.ahead.popleft()
                held.append(arrays)
                run.progress(len(next(iter(arrays.values()))))
                if self.executor and self.executor.remote and seconds < _PIECE_SECONDS:
                    self.piece = min(2 * self.piece, _MOST_PIECE * self.batch)
                if time.monotonic() - since > COMMIT_SECONDS or last % size == 0:
                    yield _joined(held)
                    held, since = [], time.monotonic()
                if stopped and (last % size == 0 or not self.ahead):
                    break
        finally:
            for _, job in self.ahead:
                job.cancel()
        if held:
            yield _joined(held)


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _made(
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


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Leave PyTorch with the number of threads that it had."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
