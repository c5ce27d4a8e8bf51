"""Stores against a truth: residuals, with paired errors where samples share their parents."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import Chains, ErrorMethod, Estimate, Means
from skild_phys.errors import BadInput, StoreError
from skild_phys.executors import Executor
from skild_phys.files import printable
from skild_phys.measurement.agreement import Agreement, agreement_of
from skild_phys.measurement.measure import GAMMA, add_estimate, estimates, to_dataset
from skild_phys.measurement.observables import OBSERVABLES, Observable, chosen
from skild_phys.measurement.observables.patterns import (
    fold_patterns,
    kl_divergence,
    total_variation,
)
from skild_phys.measurement.pairing import Pictures, agreements, pair, pictures_of
from skild_phys.measurement.rows import MAX_ROWS, Rows, Statistics, check_measurable, collect
from skild_phys.measurement.system import Array, System
from skild_phys.store import Lattices, read_timing

RATIOS = ("structure_factor", "two_point_axis", "two_point_diagonal", "two_point_radial")
"""Observables whose ratio to the truth's is given as well, as NAME_ratio."""

_COST = ("method", "steps", "evaluations", "sweeps", "polish")
_FLOAT32, _FLOAT64 = 2.0**-20, 2.0**-40
"""Relative size of rounding: some units in the last place of fields, and of sums of spins."""


@dataclass(frozen=True)
class Compared:
    """One store beside the truth.

    Attributes
    ----------
    name : of the store without its suffix, unless it was named.
    data : its own estimates, as from `measure`; and NAME_residual (its own less the truth's) with
        NAME_residual_err, NAME_ratio of `RATIOS`, patterns_tv, patterns_tv_noise (what equal
        ensembles would show), patterns_kl, site_agreement, coarse_agreement, each with _err.
    together : observable -> chi^2 of its residuals at all distances or wave numbers.
    paired : whether residuals carry paired errors.
    lattices, parents : samples used, and samples of the truth they are compared with.
    notes : how the pairing was found, and what it leaves out.
    cost : how the store was made (method, steps, seconds per lattice, ...).
    """

    name: str
    data: xr.Dataset
    together: dict[str, Agreement]
    paired: bool
    lattices: int
    parents: int
    notes: tuple[str, ...]
    cost: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Truth, stores and pictures; `patterns_floor` is the TV between two halves of the truth."""

    name: str
    truth: xr.Dataset
    stores: tuple[Compared, ...]
    patterns_floor: float
    pictures: Pictures


def compare(
    truth: Lattices,
    stores: Sequence[Lattices],
    *,
    names: Sequence[str] | None = None,
    coarse: Lattices | None = None,
    extra: Sequence[Observable] = (),
    errors: ErrorMethod = GAMMA,
    max_rows: int = MAX_ROWS,
    at_work: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Measure every store once and take the differences to the truth.

    A store that descends from samples of the truth (`pairing.pair`) is compared with just those,
    one by one: several refinements of a sample are averaged first, and the errors come from the
    truth's samples, each with its refinements. Otherwise it is compared with the whole truth,
    with the errors of two independent ensembles.

    Parameters
    ----------
    truth, stores, coarse : open lattices; `coarse` is what the others were refined from.
    names : of the stores; those of their files, numbered where they are alike, by default.
    extra, errors : as in `measure`.
    max_rows : more samples than this are averaged in groups before errors are made.
    at_work, progress : as in `collect`.

    Raises
    ------
    BadInput : a store whose lattices do not fit the truth's; names that are not one a store.
    StoreError : a store without lattices, of counts of states, or a damaged one.
    """
    if names is not None:
        check_names(names, len(stores))
    names = names or _numbered([printable(Path(s.path).resolve().stem) for s in stores])
    for store in (truth, *stores):
        _check(store, truth)
    system, rows = System.of(truth, seed=errors.seed), Rows.of(truth, max_rows)
    wanted = chosen(system, extra=extra)
    read = partial(collect, at_work=at_work, progress=progress)
    found = read(truth, system, wanted, rows)
    measured = to_dataset(found, estimates(found, wanted, errors), wanted, errors, truth.attrs)
    against = _Truth(truth, found, rows, wanted, measured, errors)
    pairings = [pair(truth, store, coarse) for store in stores]
    compared = []
    for store, name, (parent, notes) in zip(stores, names, pairings, strict=True):
        own = System.of(store)
        same = own.field == system.field and own.q == system.q
        own = system if same else replace(own, model=None)
        theirs, truths = chosen(own, extra=extra), found
        shared: tuple[Observable, ...] = ()
        if parent is None:
            reduced = read(store, own, theirs, Rows.of(store, max_rows))
        else:
            label, complete, dropped = against.complete(store, parent)
            shared, notes = agreements(truth, store, parent), notes + dropped
            reduced = read(store, own, (*theirs, *shared), replace(rows, label=label))
            reduced, truths = reduced.take(complete), found.take(complete)
        both = Both(reduced, truths, errors, parent is not None)
        compared.append(against.compared(store, name, both, notes, theirs, shared))
    pictures = pictures_of(truth, stores, [parent for parent, _ in pairings], coarse)
    stem = printable(truth.path.stem)
    return Comparison(stem, measured, tuple(compared), _floor(found), pictures)


@dataclass(frozen=True)
class Both:
    """A store and the truth, reduced to rows, which belong together where they are `paired`.

    Attributes
    ----------
    own, truth : their rows; where they are paired, row i of one belongs to row i of the other.
    errors : how errors are made.
    """

    own: Statistics
    truth: Statistics
    errors: ErrorMethod
    paired: bool

    def estimate(
        self, operation: Callable[[Array, Array], Array], of: Observable, influence: bool = False
    ) -> Estimate:
        """Return what an operation makes of an observable of the store and that of the truth."""
        system = self.own.system

        def function(own: Means, truth: Means) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(operation(of(own, system), of(truth, system)))

        own, truth = self.own.needed(of), self.truth.needed(of)
        if self.paired:
            return self.errors(function, own, truth, chains=self.own.chains, influence=influence)
        sides = (own, self.own.chains), (truth, self.truth.chains)
        return _independent(self.errors, function, *sides, influence)

    def patterns(self) -> Iterator[tuple[str, str, Estimate]]:
        """Yield name, long name and value of the distances between frequencies of patterns."""
        windows = min(s.samples for s in (self.own, self.truth)) * float(self.own.system.sites)
        tv = "total variation of 3x3 patterns"
        for name, about, distance in (
            ("patterns_tv", tv, total_variation),
            ("patterns_tv_noise", f"{tv} that noise alone would give", np.subtract),
            (
                "patterns_kl", "Kullback-Leibler divergence of 3x3 patterns, truth from store",
                lambda own, truth: kl_divergence(truth, own, 0.5 / windows),
            ),
        ):  # fmt: skip

            def folded(own: Array, truth: Array, distance: Any = distance) -> Array:
                return np.asarray(distance(fold_patterns(own), fold_patterns(truth)))

            value = self.estimate(folded, OBSERVABLES["pattern_frequency"])
            if distance is np.subtract:
                # The mean of |x| for a Gaussian x of standard deviation sigma is sigma sqrt(2/pi).
                unknown = np.asarray(np.nan)
                noise = np.asarray(value.error.sum() / np.sqrt(2 * np.pi))
                value = Estimate(noise, unknown, unknown, unknown, unknown)
            yield name, about, value


@dataclass(frozen=True)
class _Truth:
    """The truth's side of a comparison."""

    store: Lattices
    found: Statistics
    rows: Rows
    wanted: tuple[Observable, ...]
    measured: xr.Dataset
    errors: ErrorMethod

    def complete(
        self, store: Lattices, parent: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], tuple[str, ...]]:
        """Return the row of each sample of a store (-1: left out), and which rows can be paired.

        These are the rows all of whose members have a child.
        """
        members, size = self.rows.members, len(self.rows.members)
        label = np.where(parent >= 0, self.rows.label[parent], -1)
        first = label[np.unique(parent, return_index=True)[1]]
        there = np.bincount(first[first >= 0], minlength=size)
        complete, most = np.asarray(there == members), members.max()
        if not complete.any():
            raise StoreError(
                f"{store.path}: variable 'parent': no group of {most} successive samples of "
                f"{self.store.path} is refined as a whole"
            )
        kept = np.where((label >= 0) & complete[label], label, -1)
        left_out = int(np.count_nonzero(kept != label))
        dropped = (
            f"{left_out} samples are left out: the truth is averaged in groups of up to {most}, "
            "and theirs are refined in part only",
        )
        return kept, complete, dropped if left_out else ()

    def compared(
        self,
        store: Lattices,
        name: str,
        both: Both,
        notes: tuple[str, ...],
        theirs: Sequence[Observable],
        shared: Sequence[Observable],
    ) -> Compared:
        """Return a store's own estimates, its residuals, and all that is of both.

        `theirs` are its observables, `shared` compare its samples with their parents.
        """
        found, together = both.own, {}
        data = estimates(found, theirs, self.errors)
        for one in (o for o in theirs if o in self.wanted):
            residual = both.estimate(np.subtract, one, one.judged)
            residual = self._settled(one, residual) if both.paired else residual
            title = f"{one.long_name}, store - truth"
            add_estimate(data, replace(one, name=f"{one.name}_residual", long_name=title), residual)
            if one.judged:
                at = np.arange(residual.value.size)
                if one.axis is not None and one.axis.dense:
                    at = at[1:][(at[1:] & at[:-1]) == 0]  # 1, 2, 4 .. steps
                together[one.name] = agreement_of(residual, at)
            if one.name in RATIOS:
                title = f"{one.long_name}, over the truth's"
                ratio = replace(one, name=f"{one.name}_ratio", long_name=title, label="")
                add_estimate(data, ratio, both.estimate(np.divide, one))
            if one.name == "pattern_frequency":
                for distance, about, value in both.patterns():
                    scalar = replace(one, name=distance, long_name=about, axis=None)
                    add_estimate(data, scalar, value)
        for one in shared:
            add_estimate(data, one, found.estimate(one, self.errors))
        own, truth = (s.attrs.get("temperature") for s in (store, self.store))
        if not (own is None or truth is None or math.isclose(own, truth, rel_tol=1e-9)):
            notes += (f"its temperature is {own:.7g}, the truth's {truth:.7g}, which theory is of",)
        share = float(data["coarse_agreement"][1]) if "coarse_agreement" in data else 1.0
        if share != 1.0:
            notes += (f"keeps {share:.2%} of the coarse values",)
        cost = {key: store.attrs[key] for key in _COST if key in store.attrs}
        if (seconds := read_timing(store.path)) is not None:
            cost["seconds_per_lattice"] = seconds
        measured = to_dataset(found, data, theirs, self.errors, self.store.attrs)
        samples = (found.samples, both.truth.samples)
        return Compared(name, measured, together, both.paired, *samples, notes, cost)

    def _settled(self, observable: Observable, residual: Estimate) -> Estimate:
        """Return a paired residual with 0 where value and error are no more than rounding.

        That is of the numbers that are stored, relative to the truth's value and to its spread
        over configurations.
        """
        value, error, n_eff = (
            self.measured[f"{observable.name}{end}"].values for end in ("", "_err", "_n_eff")
        )
        unit = _FLOAT32 if self.store.field == "field" else _FLOAT64
        rounding = unit * (np.abs(value) + np.nan_to_num(error * np.sqrt(n_eff)))
        none = (np.abs(residual.value) <= rounding) & (residual.error <= rounding)
        moved = tuple(
            replace(part, rows=np.where(none.ravel(), 0.0, part.rows))
            for part in residual.influence
        )
        value, error = (np.where(none, 0.0, a) for a in (residual.value, residual.error))
        return replace(residual, value=value, error=error, influence=moved)


def _independent(
    errors: ErrorMethod,
    function: Callable[[Means, Means], Array],
    own: tuple[Means, Chains | None],
    truth: tuple[Means, Chains | None],
    influence: bool = False,
) -> Estimate:
    """Return a function of two independent ensembles: errors add in quadrature."""
    means = [{name: a.mean(axis=0) for name, a in rows.items()} for rows, _ in (own, truth)]
    first, second = (
        errors(of, rows, chains=chains, influence=influence)
        for of, (rows, chains) in (
            (lambda m: function(m, means[1]), own),
            (lambda m: function(means[0], m), truth),
        )
    )
    both = first.influence + second.influence
    return replace(
        first,
        error=np.hypot(first.error, second.error),
        tau=np.maximum(first.tau, second.tau),
        tau_error=np.full_like(first.tau_error, np.nan),
        n_eff=np.minimum(first.n_eff, second.n_eff),
        influence=both if len(both) == 2 else (),
    )


def _check(store: Lattices, truth: Lattices) -> None:
    check_measurable(store)
    kinds = [(s.shape, s.q, s.layout.components) for s in (store, truth)]
    if kinds[0] != kinds[1]:
        size, components = "x".join(map(str, truth.shape)), truth.layout.components
        states = f" of {truth.q} states" if truth.q else ""
        states += f" of {components} components" if components > 1 else ""
        raise BadInput("stores", str(store.path), f"lattices of {size}{states} like {truth.path}")


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that were there before: skild, skild 2."""
    found: list[str] = []
    for name in names:
        tries = (name, *(f"{name} {i}" for i in range(2, len(names) + 1)))
        found.append(next(n for n in tries if n not in found))
    return found


def check_names(names: Sequence[str], stores: int) -> None:
    """Raise BadInput unless there is a good name for each of so many stores."""
    good = all(re.fullmatch(r"[^\W_][\w .+-]*", name) for name in names)
    if not good or len({*names}) != stores or len(names) != stores:
        accepted = f"{stores} different names, one per store, of letters and digits"
        raise BadInput("names", ", ".join(names), accepted)


def _floor(found: Statistics) -> float:
    """Return the total variation of patterns between the first and second half of the truth."""
    n, chains = len(found.count), found.chains
    if "patterns" not in found.rows or n < 2:
        return float("nan")
    order = np.arange(n) if chains is None else np.argsort(chains.draw, kind="stable")
    halves = (found.rows["patterns"][half] for half in (order[: n // 2], order[n // 2 :]))
    return float(total_variation(*(fold_patterns(half.mean(axis=0)) for half in halves)))
