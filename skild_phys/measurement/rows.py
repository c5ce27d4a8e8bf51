"""From configurations to rows of averages, in one pass, slice by slice.

Each configuration is reduced to the averages that the observables need (`Statistic`). A row holds
the average over one configuration or, of more than `MAX_ROWS`, over a few that follow one another
in their chain, so that memory stays bounded whatever the store's size.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Chains, ErrorMethod, Estimate, Means
from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.executors import Executor
from skild_phys.executors import dask as dask_workers
from skild_phys.executors import threads as thread_pool
from skild_phys.measurement.observables import Observable, Statistic
from skild_phys.measurement.system import Array, Shape, Slice, System
from skild_phys.process import hold_memory
from skild_phys.store import Lattices, LatticeStore, open_store

MAX_ROWS = 8192
_SLICE_SITES = 2**20  # their transforms take 30 MiB, and Python next to no time
_PIECE = 8  # slices that a worker of dask reduces at once

PER_SAMPLE = {"magnetization": ("moments", "1"), "energy": ("energy", "J")}
"""What is kept of each configuration -> the statistic whose first component it is, and its unit."""


def check_measurable(lattices: Lattices) -> None:
    """Raise StoreError for no samples at all, for counts of states, and for images."""
    if lattices.n_samples == 0:
        raise StoreError(f"{lattices.path}: holds no complete configuration")
    if lattices.field in ("state_count", "image"):
        raise StoreError(
            f"{lattices.path}: variable '{lattices.field}': only spins, states, block sums and"
            " fields are measured"
        )


def read_samples(lattices: Lattices, index: NDArray[np.int64]) -> NDArray[Any]:
    """Return the raw configurations of any indices, in their order, reading each chunk once."""
    chunk = index // lattices.chunk
    none = lattices.read(0, 0)
    parts = np.empty((len(index), *none.shape[1:]), dtype=none.dtype)
    for number in np.unique(chunk):
        start = int(number) * lattices.chunk
        block = lattices.read(start, min(start + lattices.chunk, lattices.n_samples))
        here = chunk == number
        parts[here] = block[index[here] - start]
    return parts


def _slice_length(shape: Shape) -> int:
    return max(_SLICE_SITES // math.prod(shape), 1)


def _slices(lattices: Lattices, first: int, last: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first sample, raw numbers) over samples first .. last - 1, slice by slice.

    Where slices end does not depend on the chunks, nor then do sums over slices. `first` is
    where one begins.
    """
    step, waiting = _slice_length(lattices.shape), lattices.read(0, 0)
    for start in range(first - first % lattices.chunk, last, lattices.chunk):
        raw = lattices.read(max(start, first), min(start + lattices.chunk, last))
        waiting = np.concatenate([waiting, raw]) if len(waiting) else raw
        whole = len(waiting) // step * step
        for begin in range(0, whole, step):
            yield first + begin, waiting[begin : begin + step]
        first, waiting = first + whole, waiting[whole:]
    if len(waiting):
        yield first, waiting


def identities(lattices: Lattices) -> NDArray[np.int64]:
    """Return what names the ancestor of each sample: `parent`, or else its own index."""
    if "parent" in lattices.variables:
        return np.asarray(lattices.variable("parent"), dtype=np.int64)
    return np.arange(lattices.n_samples)


@dataclass(frozen=True)
class Rows:
    """Which row each configuration is averaged into.

    Attributes
    ----------
    label : (samples,) int64, the row of a configuration; -1 leaves it out.
    members : (rows,) int64, how many different parents (or configurations) a row is made of.
    chains : where the rows stand in their Markov chains; None if that is not known.
    """

    label: NDArray[np.int64]
    members: NDArray[np.int64]
    chains: Chains | None = None

    @classmethod
    def of(cls, lattices: Lattices, max_rows: int = MAX_ROWS) -> Rows:
        """Return a row for each sample; refinements of one parent share theirs.

        Beyond `max_rows`, successive samples of a chain are put into one row as well. Raises
        StoreError where their order in the chains cannot be told.
        """
        ids = identities(lattices)
        parents, first, label = np.unique(ids, return_index=True, return_inverse=True)
        n, group = len(parents), -(-len(parents) // max_rows)
        chains = _chains_of(lattices, first)
        if group <= 1:
            return cls(label, np.ones(n, dtype=np.int64), chains)
        row, kept = np.arange(n) // group, None
        if chains is not None:
            chain, time = chains.grid()
            at = np.stack([chain, time // group])
            cells, of_cell = np.unique(at, axis=1, return_inverse=True)
            if cells.shape[1] > 2 * max_rows:
                # Chains shorter than a group: independent, they go together by their number.
                row = np.argsort(np.lexsort((time, chain))) // group
            else:
                row, kept = of_cell.ravel(), Chains(*cells)
        return cls(row[label], np.bincount(row), kept)


def _chains_of(lattices: Lattices, first: NDArray[np.int64]) -> Chains | None:
    """Return the chain and draw of the samples `first`, None if they are not recorded.

    Runs that were joined get chains of their own: draws that begin again are another's.
    """
    if not ("chain" in lattices.variables and "draw" in lattices.variables):
        return None
    chain, draw = (
        np.asarray(lattices.variable(name), dtype=np.int64)[first] for name in ("chain", "draw")
    )
    _, count = np.unique(np.stack([chain, draw]), axis=1, return_counts=True)
    if count.max(initial=1) == 1:
        return Chains(chain, draw)
    order = np.argsort(chain, kind="stable")
    begins = (np.diff(chain[order]) != 0) | (np.diff(draw[order]) <= 0)
    label = np.empty_like(chain)
    label[order] = np.concatenate([[0], np.cumsum(begins)])
    if label.max() >= 2 * count.max() * len(np.unique(chain)):
        raise StoreError(
            f"{lattices.path}: variable 'draw': up to {count.max()} samples have the same chain and"
            " draw, and no order tells their runs apart; expected one run behind the other"
        )
    return Chains(label, draw)


@dataclass(frozen=True)
class Statistics:
    """What one pass over configurations leaves.

    Attributes
    ----------
    system : of what they are.
    rows : name of a statistic -> (rows, ...) float64; NaN in rows without configurations.
    count : (rows,) int64, configurations in each row.
    group : how many configurations (of different parents) a row is made of, at most.
    chains : as in `Rows`.
    per_sample : `magnetization` and, where there is one, `energy`, (samples used,) float64.
    power, power_error : float64 in the layout of rfftn, mean S(k) mode by mode and its standard
        error over configurations taken as independent; None where no statistic needed S(k).
    """

    system: System
    rows: dict[str, Array]
    count: NDArray[np.int64]
    group: int
    chains: Chains | None
    per_sample: dict[str, Array]
    power: Array | None
    power_error: Array | None

    @property
    def samples(self) -> int:
        """Number of configurations."""
        return int(self.count.sum())

    def needed(self, observable: Observable) -> Means:
        """Return the rows of the statistics that an observable needs."""
        return {s.name: self.rows[s.name] for s in observable.needs}

    def estimate(self, observable: Observable, errors: ErrorMethod) -> Estimate:
        """Return an observable with its error."""
        rows = self.needed(observable)
        return errors(lambda means: observable(means, self.system), rows, chains=self.chains)

    def take(self, chosen: NDArray[np.bool_]) -> Statistics:
        """Return the same with only the chosen rows; what is per sample stays as it is."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        chains = self.chains and self.chains.take(np.flatnonzero(chosen))
        return replace(self, rows=rows, count=self.count[chosen], chains=chains)


@contextlib.contextmanager
def workers(threads: int = 1, dask: str | None = None) -> Iterator[Executor | None]:
    """Open what `collect` works on: dask's workers, threads, or for one thread nothing."""
    if dask is None and check_whole("threads", threads) == 1:
        yield None
        return
    with thread_pool(threads, bool) if dask is None else dask_workers(dask, bool) as at_work:
        yield at_work


def collect(
    lattices: Lattices,
    system: System,
    needed: Iterable[Observable | Statistic],
    rows: Rows | None = None,
    *,
    at_work: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Reduce configurations to rows in one pass.

    Parameters
    ----------
    needed : what needs statistics; those that do not apply to the system are left out.
    rows : by default each sample is a row.
    at_work : of `workers`; changes no bit of the result.
    progress : called with the number of samples just reduced.

    Raises
    ------
    StoreError : from the store, if it is damaged, empty, or holds counts of states.
    BadInput : two statistics of one name.
    """
    check_measurable(lattices)
    hold_memory()
    n = lattices.n_samples
    rows = rows or Rows(np.arange(n), np.ones(n, dtype=np.int64))
    wanted: dict[str, Statistic] = {}
    for statistic in (s for one in needed for s in one.needs if s.applies(system)):
        if wanted.setdefault(statistic.name, statistic) != statistic:
            raise BadInput("needs", statistic.name, "a name that no other statistic has")

    sums: dict[str, Array] = {}
    columns: dict[str, list[Array]] = {name: [] for name in PER_SAMPLE}
    total, squares = np.zeros(()), np.zeros(())
    parts = _parts(lattices, system, [*wanted.values()], rows.label, at_work)
    for read, row, found, power, square in parts:
        if progress is not None:
            progress(read)
        for name, (of, _) in PER_SAMPLE.items():
            if of in found:
                columns[name].append(found[of][:, 0])
        for name, values in found.items():
            if name not in sums:
                sums[name] = np.zeros((len(rows.members), *values.shape[1:]))
            np.add.at(sums[name], row, values)
        total, squares = total + power, squares + square
    count = np.bincount(rows.label[rows.label >= 0], minlength=len(rows.members))
    used = max(int(count.sum()), 1)
    power = np.asarray(total / used)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {name: (a.T / count).T for name, a in sums.items()}
        spread = np.asarray(squares / used - power**2)
        error = np.sqrt(np.maximum(spread, 0) / np.float64(used - 1))
    per_sample = {name: np.concatenate(of) for name, of in columns.items() if of}
    known = (power, error) if power.any() else (None, None)
    group = int(rows.members.max(initial=1))
    return Statistics(system, means, count, group, rows.chains, per_sample, *known)


_Part = tuple[int, NDArray[np.int64], dict[str, Array], Array, Array]
"""What a slice gives: samples, rows of those used, their averages, sums of S(k) and of S(k)^2."""


def _parts(
    lattices: Lattices,
    system: System,
    wanted: Sequence[Statistic],
    label: NDArray[np.int64],
    at_work: Executor | None,
) -> Iterator[_Part]:
    """Yield what each slice gives, in their order, some of them worked at ahead."""
    source: Lattices | Path = lattices
    pieces: Iterator[tuple[int, NDArray[Any] | None]] = _slices(lattices, 0, lattices.n_samples)
    step = _slice_length(system.shape)
    if at_work is not None and at_work.remote:
        if not isinstance(lattices, LatticeStore):
            raise BadInput("dask", str(lattices.path), "a store: the workers read it")
        source, step = lattices.path.resolve(), _PIECE * step
        pieces = ((first, None) for first in range(0, lattices.n_samples, step))
    ahead: deque[Any] = deque()
    for first, raw in pieces:
        work = (source, system, wanted, first, label[first : first + step], raw)
        if at_work is None:
            yield from _reduced(*work)
            continue
        ahead.append(at_work.submit(_reduced, *work))
        if len(ahead) > 2 * at_work.at_once:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _reduced(
    source: Lattices | Path,
    system: System,
    wanted: Sequence[Statistic],
    first: int,
    rows: NDArray[np.int64],
    raw: NDArray[Any] | None,
    stop: object = None,
) -> list[_Part]:
    """Reduce a slice, or slices that a worker reads itself from the store at `source`."""
    lattices = open_store(source) if isinstance(source, Path) else source
    whole = lattices.field == "spins" or lattices.q
    pieces = [(first, raw)] if raw is not None else _slices(lattices, first, first + len(rows))
    parts = []
    for start, numbers in pieces:
        label = rows[start - first :][: len(numbers)]
        kept, index = numbers[label >= 0], start + np.flatnonzero(label >= 0)
        physical = kept if whole else kept * np.float64(lattices.scale)
        part = Slice(system, physical, index, kept)
        found = {s.name: s(part) for s in wanted} if len(kept) else {}
        parts.append((len(numbers), label[label >= 0], found, part.total, part.squares))
    return parts
