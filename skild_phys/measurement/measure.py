"""`measure`: from lattices to estimates, in one pass, slice by slice, as an xarray Dataset.

Each configuration is reduced to the averages that the observables need (`observables.STATISTICS`).
A row holds the average over one configuration or, of more than `MAX_ROWS`, over a few that follow
one another in their chain, so that memory stays bounded whatever the store's size.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import Chains, ErrorMethod, Estimate, Means
from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.executors import Executor
from skild_phys.executors import dask as dask_workers
from skild_phys.executors import threads as thread_pool
from skild_phys.measurement.observables import Observable, Statistic, chosen
from skild_phys.measurement.system import (
    Array,
    Offsets,
    Slice,
    System,
    check_measurable,
    physical,
    slice_length,
    slices,
)
from skild_phys.measurement.theory import theory
from skild_phys.process import hold_memory
from skild_phys.store import Lattices, LatticeStore, Source, open_lattices, open_store

GAMMA = ErrorMethod()
MAX_ROWS = 8192
_PIECE = 8
"""Slices that a worker of dask reduces at once."""

Variables = dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]]
"""Name -> (dimensions, values, attributes): what a Dataset is made of, all of it at once."""

_PER_LATTICE = {"magnetization": ("moments", "1"), "energy": ("energy", "J")}
"""What is kept of each configuration -> the statistic whose first component it is, and its unit."""


def measure(
    lattices: Source,
    *,
    only: str | Sequence[str] | None = None,
    extra: Sequence[Observable] = (),
    offsets: Sequence[Offsets] = (),
    errors: ErrorMethod = GAMMA,
    threads: int = 1,
    dask: str | None = None,
    progress: Callable[[int], None] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """Measure lattices in one pass, with bounded memory; see `skild_phys.measure`.

    Parameters
    ----------
    errors : its seed is that of the bonds of Fortuin-Kasteleyn clusters too.
    progress : called with the number of samples just reduced.

    Returns
    -------
    Dataset in float64: every observable NAME with its standard error NAME_err, the integrated
    autocorrelation time NAME_tau_int (with NAME_tau_int_err) and the number of independent
    samples NAME_n_eff that it is worth, and, where known, NAME_theory; all with units and
    long_name. Attributes say how the errors were made.

    Raises
    ------
    StoreError : a store without lattices, of counts of states, or a damaged one.
    BadInput : an observable that is not known, or not for these lattices; bins that do not suit
        the number of samples; four sites that are not.
    """
    opened = open_lattices(lattices, **attrs)
    system = System.of(opened, offsets=tuple(offsets), seed=errors.seed)
    wanted = chosen(system, only, extra)
    rows = rows_of(opened)
    with workers(threads, dask) as at_work:
        found = collect(
            opened, system, rows.label, rows.size, needed=needs_of(wanted), at_work=at_work,
            progress=progress,
        )  # fmt: skip
    group = int(rows.members.max())
    variables = estimates(found, rows.chains, wanted, errors, group)
    return to_dataset(found, variables, wanted, rows.chains, opened.attrs, errors)


def needs_of(wanted: Iterable[Observable]) -> list[Statistic]:
    """Return the statistics that observables need; raises BadInput for two of one name."""
    found: dict[str, Statistic] = {}
    for statistic in (s for o in wanted for s in o.needs):
        if found.setdefault(statistic.name, statistic) != statistic:
            raise BadInput("needs", statistic.name, "a name that no other statistic has")
    return list(found.values())


@dataclass(frozen=True)
class Rows:
    """Which row each configuration is averaged into.

    Attributes
    ----------
    label : (samples,) int64, the row of a configuration.
    size : the number of rows.
    members : (size,) int64, how many different parents (or configurations) a row is made of.
    chains : where the rows stand in their Markov chains; None if that is not known.
    """

    label: NDArray[np.int64]
    size: int
    members: NDArray[np.int64]
    chains: Chains | None


def _chains_of(lattices: Lattices, first: NDArray[np.int64]) -> Chains | None:
    """Return the chain and draw of the samples `first`, None if they are not recorded.

    Runs that were joined get chains of their own: draws that begin again are another's. Raises
    StoreError where draws of equal numbers are in no order that tells them apart.
    """
    if not (lattices.has("chain") and lattices.has("draw")):
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


def identities(lattices: Lattices) -> NDArray[np.int64]:
    """Return what names the ancestor of each sample: `parent`, or else its own index."""
    if lattices.has("parent"):
        return np.asarray(lattices.variable("parent"), dtype=np.int64)
    return np.arange(lattices.n_samples)


def rows_of(lattices: Lattices, max_rows: int = MAX_ROWS) -> Rows:
    """Return a row for each sample; refinements of one parent share theirs.

    Beyond `max_rows`, successive samples of a chain are put into one row as well.
    """
    parents, first, label = np.unique(identities(lattices), return_index=True, return_inverse=True)
    n = len(parents)
    chains = _chains_of(lattices, first)
    group = -(-n // max_rows)
    if group <= 1:
        return Rows(label, n, np.ones(n, dtype=np.int64), chains)
    row, kept = np.arange(n) // group, None
    if chains is not None:
        chain, time = chains.grid()
        cells, of_cell = np.unique(np.stack([chain, time // group]), axis=1, return_inverse=True)
        if cells.shape[1] > 2 * max_rows:
            # Chains shorter than a group: they are independent, and go together by their number.
            row = np.argsort(np.lexsort((time, chain))) // group
        else:
            row, kept = of_cell.ravel(), Chains(*cells)
    return Rows(row[label], int(row.max()) + 1, np.bincount(row), kept)


@dataclass(frozen=True)
class Statistics:
    """What one pass over lattices leaves.

    Attributes
    ----------
    system : what the lattices are of.
    rows : name of a statistic -> (rows, ...) float64; NaN in rows without configurations.
    count : (rows,) int64, configurations in each row.
    per_lattice : `magnetization` and, where there is one, `energy`, (samples used,) float64.
    power, power_error : float64 in the layout of rfftn, mean S(k) mode by mode and its standard
        error over configurations taken as independent; None where no statistic needed S(k).
    """

    system: System
    rows: dict[str, Array]
    count: NDArray[np.int64]
    per_lattice: dict[str, Array]
    power: Array | None
    power_error: Array | None

    @property
    def lattices(self) -> int:
        """Number of configurations."""
        return int(self.count.sum())

    def needed(self, observable: Observable) -> Means:
        """Return the rows of the statistics that an observable needs."""
        return {s.name: self.rows[s.name] for s in observable.needs}

    def take(self, chosen: NDArray[np.bool_]) -> Statistics:
        """Return the same with only the chosen rows; what is per configuration stays as it is."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return replace(self, rows=rows, count=self.count[chosen])


_Part = tuple[int, NDArray[np.int64], dict[str, Array], Array, Array]
"""What a slice gives: samples, rows of those used, their averages, sums of S(k) and of S(k)^2."""


@contextlib.contextmanager
def workers(threads: int = 1, dask: str | None = None) -> Iterator[Executor | None]:
    """Open what `collect` works on: dask's workers, threads, or for one thread nothing."""
    if dask is not None:
        with dask_workers(dask, bool) as remote:
            yield remote
    elif check_whole("threads", threads) > 1:
        with thread_pool(threads, bool) as local:
            yield local
    else:
        yield None


def _reduced(
    lattices: Lattices,
    system: System,
    wanted: Sequence[Statistic],
    first: int,
    rows: NDArray[np.int64],
    raw: NDArray[Any],
    stop: object = None,
) -> list[_Part]:
    used = rows >= 0
    kept, index = raw[used], first + np.flatnonzero(used)
    part = Slice(system, physical(lattices, kept), index, kept)
    found = {s.name: s(part) for s in wanted} if len(kept) else {}
    return [(len(raw), rows[used], found, part.total, part.squares)]


def _reduced_there(
    path: Path,
    system: System,
    wanted: Sequence[Statistic],
    first: int,
    rows: NDArray[np.int64],
) -> list[_Part]:
    """Reduce samples that a worker reads itself, slice by slice."""
    store = open_store(path)
    return [
        part
        for start, raw in slices(store, first, first + len(rows))
        for part in _reduced(store, system, wanted, start, rows[start - first :][: len(raw)], raw)
    ]


def _parts(
    lattices: Lattices,
    system: System,
    wanted: Sequence[Statistic],
    label: NDArray[np.int64],
    at_work: Executor | None,
) -> Iterator[_Part]:
    """Yield what each slice gives, in their order, some of them worked at ahead."""
    if at_work is None:
        for first, raw in slices(lattices):
            rows = label[first : first + len(raw)]
            yield from _reduced(lattices, system, wanted, first, rows, raw)
        return
    if at_work.remote:
        if not isinstance(lattices, LatticeStore):
            raise BadInput("dask", str(lattices.path), "a store: the workers read it")
        step, path = _PIECE * slice_length(system.shape), lattices.path.resolve()
        jobs = (
            at_work.submit(_reduced_there, path, system, wanted, i, label[i : i + step])
            for i in range(0, lattices.n_samples, step)
        )
    else:
        jobs = (
            at_work.submit(_reduced, lattices, system, wanted, i, label[i : i + len(raw)], raw)
            for i, raw in slices(lattices)
        )
    ahead: deque[Any] = deque()
    for job in jobs:
        ahead.append(job)
        if len(ahead) > 2 * at_work.at_once:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def collect(
    lattices: Lattices,
    system: System,
    label: NDArray[np.int64],
    size: int,
    *,
    needed: Iterable[Statistic],
    at_work: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Reduce lattices to rows in one pass.

    Parameters
    ----------
    lattices, system : what is measured, and what it is of.
    label, size : row of each sample (-1: left out) and number of rows.
    needed : the statistics; those that do not apply are left out.
    at_work : of `workers`; changes no bit of the result.
    progress : called with the number of samples just reduced.

    Raises
    ------
    StoreError : from the store, if it is damaged, empty, or holds counts of states.
    """
    check_measurable(lattices)
    hold_memory()
    wanted = [statistic for statistic in needed if statistic.applies(system)]

    sums: dict[str, Array] = {}
    columns: dict[str, list[Array]] = {name: [] for name in _PER_LATTICE}
    total, squares = np.zeros(()), np.zeros(())
    for read, rows, found, power, square in _parts(lattices, system, wanted, label, at_work):
        if progress is not None:
            progress(read)
        for name, (of, _) in _PER_LATTICE.items():
            if of in found:
                columns[name].append(found[of][:, 0])
        for name, values in found.items():
            if name not in sums:
                sums[name] = np.zeros((size, *values.shape[1:]))
            np.add.at(sums[name], rows, values)
        total, squares = total + power, squares + square
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


def to_dataset(
    found: Statistics,
    variables: Variables,
    wanted: Sequence[Observable],
    chains: Chains | None,
    attrs: dict[str, Any],
    errors: ErrorMethod,
) -> xr.Dataset:
    """Return the variables of observables as a Dataset with coordinates and attributes.

    `attrs` are those of the store whose model and temperature it is.
    """
    known = ("model", "temperature") if found.system.model is not None else ()
    about = {
        "shape": list(found.system.shape),
        "lattices": found.lattices,
        "errors": _error_method(chains, errors, found),
        **{k: attrs[k] for k in known if k in attrs},
    }
    coordinates: Variables = {}
    for axis in {o.axis.dim: o.axis for o in wanted if o.axis is not None}.values():
        for c in axis.coordinates:
            _add(coordinates, c.name, (axis.dim,), c.values(found.system), c.long_name, c.units)
            coordinates[c.name][2].update(symbol=c.symbol, dense=int(axis.dense))
    return xr.Dataset(variables, coords=coordinates, attrs=about)


def _error_method(chains: Chains | None, errors: ErrorMethod, found: Statistics) -> str:
    lattices, rows = found.lattices, len(found.count)
    text = f"{'jackknife' if errors.kind == 'gamma' else errors.kind} over {lattices} lattices"
    if rows < lattices:
        text += f" in {rows} groups of up to {found.count.max()}"
    if errors.kind != "gamma":
        bins = errors.number_of_bins(rows)
        text += f", averaged in {bins} bins that are taken as independent"
        return text + (f", {errors.resamples} times" if errors.kind == "bootstrap" else "")
    if chains is None:
        return f"{text}, taken as independent: chain and draw are not known"
    return f"{text}, autocorrelation by the Gamma method (hep-lat/0306017)"


def estimates(
    found: Statistics,
    chains: Chains | None,
    wanted: Sequence[Observable],
    errors: ErrorMethod,
    group: int = 1,
) -> Variables:
    """Return the estimates that `found` gives, as `measure` has them, with theory.

    `group` is how many configurations (of different parents) a row is made of, at most.
    """
    system = found.system
    result: Variables = {}
    for one in wanted:
        add_estimate(result, one, estimate(one, found, chains, errors), group)
    for name, known in theory(system).items():
        if name not in result:
            continue
        dims, _, described = result[name]
        about = {
            "long_name": f"{described['long_name']}, theory",
            "comment": known.source,
            "exact": int(known.exact),
        }
        result[f"{name}_theory"] = (dims, known.value, described | about)
    if found.power is not None and found.power_error is not None and "structure_factor" in result:
        axes = ("kz", "ky", "kx")[-system.dimension :]
        full = "structure factor mode by mode"
        _add(result, "structure_factor_full", axes, found.power, full)
        about_error = f"standard error of the {full}, lattices taken as independent"
        _add(result, "structure_factor_full_err", axes, found.power_error, about_error)
        for axis, n in zip(axes, system.shape):
            steps = np.fft.rfftfreq(n) if axis == "kx" else np.fft.fftfreq(n)
            along = f"wave number along {axis[1]}"
            _add(result, axis, (axis,), 2 * np.pi * steps, along, "rad / lattice constant")
    for name, values in found.per_lattice.items():
        units = _PER_LATTICE[name][1]
        _add(result, f"{name}_per_lattice", ("sample",), values, f"{name} of a lattice", units)
    return result


def estimate(
    observable: Observable,
    found: Statistics,
    chains: Chains | None,
    errors: ErrorMethod,
    influence: bool = False,
) -> Estimate:
    """Return the estimate of an observable from the rows of one store."""
    return errors(
        lambda means: observable(means, found.system),
        found.needed(observable),
        chains=chains,
        influence=influence,
    )


def add_estimate(
    result: Variables, observable: Observable, found: Estimate, group: int = 1
) -> None:
    """Put value, error, tau_int and n_eff of an observable among the variables.

    `group` configurations are averaged in a row, at most: tau_int and n_eff count such rows.
    """
    spacing = "spacing of draws" if group == 1 else f"{group} spacings of draws"
    rows = "independent lattices" if group == 1 else f"independent groups of {group} lattices"
    name, dims, units, about = (
        observable.name, observable.dims, observable.units, observable.long_name,
    )  # fmt: skip
    time = f"integrated autocorrelation time of the {about}"
    for end, values, text, unit in (
        ("", found.value, about, units),
        ("_err", found.error, f"standard error of the {about}", units),
        ("_tau_int", found.tau, time, spacing),
        ("_tau_int_err", found.tau_error, f"standard error of the {time}", spacing),
        ("_n_eff", found.n_eff, f"{rows} that the {about} is worth", "1"),
    ):
        _add(result, f"{name}{end}", dims, values, text, unit)
    if observable.label:
        result[name][2]["symbol"] = observable.label


def _add(
    result: Variables,
    name: str,
    dims: tuple[str, ...],
    values: NDArray[Any],
    long_name: str,
    units: str = "1",
) -> None:
    result[name] = (dims, values, {"long_name": long_name, "units": units})
