"""From lattices to the numbers that every estimate is made of: one pass, slice by slice.

Each lattice is reduced to the averages that `observables.STATISTICS` lists. A row holds the
average over one lattice or, of more than `rows.MAX_ROWS`, over a few that follow one another in
their chain, so that memory stays bounded whatever the store's size.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.measurement.lattices import check_measurable, physical, slices
from skild_phys.measurement.observables import STATISTICS
from skild_phys.measurement.shells import Array
from skild_phys.measurement.system import Slice, System
from skild_phys.memory import hold_memory
from skild_phys.store import Lattices

Extra = Callable[[NDArray[np.int64], NDArray[Any]], dict[str, Array]]


@dataclass(frozen=True)
class Statistics:
    """What one pass over lattices leaves.

    Attributes
    ----------
    system : what the lattices are of.
    rows : name -> (rows, ...) float64, see `observables.STATISTICS`; NaN in rows without lattices.
    count : (rows,) int64, lattices in each row.
    per_lattice : `magnetization` and, where there is one, `energy`, (lattices used,) float64.
    power, power_error : float64 in the layout of rfftn, mean S(k) mode by mode and its standard
        error over lattices taken as independent; None where no statistic needed S(k).
    """

    system: System
    rows: dict[str, Array]
    count: NDArray[np.int64]
    per_lattice: dict[str, Array]
    power: Array | None
    power_error: Array | None

    def take(self, chosen: NDArray[np.bool_]) -> Statistics:
        """Return the same with only the chosen rows; what is per lattice stays as it is."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return replace(self, rows=rows, count=self.count[chosen])


@dataclass(frozen=True)
class _Part:
    """What one slice gives."""

    rows: NDArray[np.int64]
    found: dict[str, Array]
    total: Array
    squares: Array


def collect(
    lattices: Lattices,
    system: System,
    label: NDArray[np.int64],
    size: int,
    *,
    needed: Collection[str],
    extra: Extra | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Reduce lattices to rows in one pass.

    Parameters
    ----------
    lattices, system : what is measured, and what it is of.
    label, size : row of each lattice (-1: left out) and number of rows.
    needed : names of the statistics.
    extra : further averages of (indices, raw lattices), by name, each (n, ...).
    threads : that work on slices side by side; they change no bit of the result.
    progress : called with the number of lattices just reduced.

    Raises
    ------
    StoreError : from the store, if it is damaged, empty, or holds counts of states.
    """
    check_measurable(lattices)
    hold_memory()
    wanted = [name for name, s in STATISTICS.items() if name in needed and s.applies(system)]

    def reduce(first: int, raw: NDArray[Any]) -> _Part:
        rows = label[first : first + len(raw)]
        used = rows >= 0
        raw, index = raw[used], first + np.flatnonzero(used)
        part = Slice(system, physical(lattices, raw), index)
        found = {}
        if len(raw):
            found = {name: STATISTICS[name].compute(part) for name in wanted}
            if extra is not None:
                found |= extra(index, raw)
        return _Part(rows[used], found, part.total, part.squares)

    sums: dict[str, Array] = {}
    columns: dict[str, list[Array]] = {"magnetization": [], "energy": []}
    total, squares = np.zeros(()), np.zeros(())
    for read, part in _in_order(slices(lattices), reduce, threads):
        if progress is not None:
            progress(read)
        if "moments" in part.found:
            columns["magnetization"].append(part.found["moments"][:, 0])
        if "energy" in part.found:
            columns["energy"].append(part.found["energy"][:, 0])
        for name, values in part.found.items():
            if name not in sums:
                sums[name] = np.zeros((size, *values.shape[1:]))
            np.add.at(sums[name], part.rows, values)
        total, squares = total + part.total, squares + part.squares
    count = np.bincount(label[label >= 0], minlength=size)
    n = max(int(count.sum()), 1)
    power = np.asarray(total / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {name: (a.T / count).T for name, a in sums.items()}
        spread = np.asarray(squares / n - power**2)
        error = np.sqrt(np.maximum(spread, 0) / np.float64(n - 1))
    per_lattice = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    known = (power, error) if power.any() else (None, None)
    return Statistics(system, means, count, per_lattice, *known)


def _in_order(
    work: Iterator[tuple[int, NDArray[Any]]],
    reduce: Callable[[int, NDArray[Any]], _Part],
    threads: int,
) -> Iterator[tuple[int, _Part]]:
    """Yield (lattices, part) for each piece of work, in its order, a few at a time ahead."""
    if threads < 2:
        for first, raw in work:
            yield len(raw), reduce(first, raw)
        return
    waiting: collections.deque[tuple[int, Future[_Part]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for first, raw in work:
            waiting.append((len(raw), pool.submit(reduce, first, raw)))
            if len(waiting) > 2 * threads:
                read, part = waiting.popleft()
                yield read, part.result()
        while waiting:
            read, part = waiting.popleft()
            yield read, part.result()
