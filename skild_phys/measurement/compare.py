"""Stores against a truth: residuals, with paired errors where samples share their parents."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
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
from skild_phys.measurement.measure import (
    GAMMA,
    MAX_ROWS,
    Rows,
    Statistics,
    add_estimate,
    collect,
    estimate,
    estimates,
    identities,
    needs_of,
    rows_of,
    to_dataset,
)
from skild_phys.measurement.observables import Observable, observables
from skild_phys.measurement.observables.patterns import (
    fold_patterns,
    kl_divergence,
    patterns,
    total_variation,
)
from skild_phys.measurement.pairing import Pairing, agreements, coarse_by, pair, rule_of
from skild_phys.measurement.system import Array, System, check_measurable, read_lattices
from skild_phys.store import Lattices, read_timing

_COST = ("method", "steps", "sweeps", "polish")
RATIOS = ("structure_factor", "two_point_axis", "two_point_diagonal", "two_point_radial")
"""Observables whose ratio to the truth's is given as well, as NAME_ratio."""

_NOISE = "patterns_tv_noise"
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
    notes : what the reader must know about the pairing.
    cost : what the store says of its making (method, steps, seconds per lattice, ...).
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
class Pictures:
    """One sample in physical units, (Ly, Lx), of 3D ones the layer z = 0.

    `coarse` is None where no rule is known, and for shares of Potts states. A store that has no
    refinement of this sample shows its first one instead.
    """

    truth: NDArray[Any]
    stores: tuple[NDArray[Any], ...]
    coarse: NDArray[Any] | None


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
    called = names or numbered([printable(Path(s.path).resolve().stem) for s in stores])
    for store in (truth, *stores):
        _check(store, truth)
    system, rows = System.of(truth, seed=errors.seed), rows_of(truth, max_rows)
    wanted = observables(system, extra)
    read = partial(collect, at_work=at_work, progress=progress)
    found = read(truth, system, rows.label, rows.size, needed=needs_of(wanted))
    variables = estimates(found, rows.chains, wanted, errors, int(rows.members.max()))
    measured = to_dataset(found, variables, wanted, rows.chains, truth.attrs, errors)
    against = _Truth(truth, found, rows, wanted, measured, errors)
    pairings = [pair(truth, store, coarse) for store in stores]
    compared = []
    for store, name, pairing in zip(stores, called, pairings, strict=True):
        own = System.of(store)
        same = own.field == system.field and own.q == system.q
        own = system if same else replace(own, model=None)
        theirs = observables(own, extra)
        if pairing.parent is None:
            its = rows_of(store, max_rows)
            reduced = read(store, own, its.label, its.size, needed=needs_of(theirs))
            sides = _Sides(reduced, its, its.chains, found, rows.chains, errors)
        else:
            label, complete, dropped = against.complete(store, pairing.parent)
            shared = agreements(truth, store, pairing.parent)
            needed = needs_of((*theirs, *shared))
            reduced = read(store, own, label, rows.size, needed=needed).take(complete)
            chains = rows.chains.take(np.flatnonzero(complete)) if rows.chains else None
            truths = found.take(complete)
            sides = _Sides(reduced, rows, chains, truths, chains, errors, shared, dropped)
        compared.append(against.compared(store, name, pairing, sides, theirs))
    return Comparison(
        printable(truth.path.stem),
        measured,
        tuple(compared),
        _floor(found, rows.chains),
        _pictures(truth, stores, [p.parent for p in pairings], coarse),
    )


@dataclass(frozen=True)
class _Sides:
    """A store and the truth, reduced to rows: row by row where they are paired."""

    found: Statistics
    rows: Rows
    chains: Chains | None
    reference: Statistics
    reference_chains: Chains | None
    errors: ErrorMethod
    shared: tuple[Observable, ...] | None = None
    dropped: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether rows belong together; then `shared` compares configurations with parents."""
        return self.shared is not None

    def both(
        self, function: Callable[[Means, Means], Array], of: Observable, influence: bool = False
    ) -> Estimate:
        """Return a function of the means of what `of` needs, the store's and the truth's."""
        own, truth = self.found.needed(of), self.reference.needed(of)
        if self.paired:
            return self.errors(function, own, truth, chains=self.chains, influence=influence)
        sides = (own, self.chains), (truth, self.reference_chains)
        return _independent(self.errors, function, *sides, influence)

    def difference(self, observable: Observable) -> Estimate:
        """Return the store's value less the truth's."""
        system = self.found.system

        def less(own: Means, truth: Means) -> Array:
            return np.asarray(observable(own, system) - observable(truth, system))

        return self.both(less, observable, observable.judged)


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
        rows = self.rows
        label = np.where(parent >= 0, rows.label[parent], -1)
        first = label[np.unique(parent, return_index=True)[1]]
        there = np.bincount(first[first >= 0], minlength=rows.size)
        complete = np.asarray(there == rows.members)
        most = rows.members.max()
        if not complete.any():
            raise StoreError(
                f"{store.path}: variable 'parent': no group of {most} successive lattices of "
                f"{self.store.path} is refined as a whole"
            )
        partial = int(np.count_nonzero((label >= 0) & ~complete[label]))
        dropped = (
            f"{partial} lattices are left out: the truth is averaged in groups of up to {most}, "
            "and theirs are refined in part only",
        )
        kept = np.where((label >= 0) & complete[label], label, -1)
        return kept, complete, dropped if partial else ()

    def compared(
        self,
        store: Lattices,
        name: str,
        pairing: Pairing,
        sides: _Sides,
        theirs: tuple[Observable, ...],
    ) -> Compared:
        """Return a store's own estimates, its residuals, and all that is of both."""
        found, together = sides.found, {}
        data = estimates(found, sides.chains, theirs, self.errors, int(sides.rows.members.max()))
        for one in (o for o in theirs if o in self.wanted):
            residual = sides.difference(one)
            if sides.paired:
                residual = self._settled(one, residual)
            about = f"{one.long_name}, store - truth"
            add_estimate(data, replace(one, name=f"{one.name}_residual", long_name=about), residual)
            if one.judged:
                at = np.arange(residual.value.size)
                if one.axis is not None and one.axis.dense:
                    at = at[1:][(at[1:] & at[:-1]) == 0]  # 1, 2, 4 .. steps
                together[one.name] = agreement_of(residual, at)
        for one in sides.shared or ():
            add_estimate(data, one, estimate(one, found, sides.chains, self.errors))
        for one in _joints(found, sides.reference, self.wanted):
            both = sides.both(one.function, one)
            if one.name == _NOISE:
                # The mean of |x| for a Gaussian x of standard deviation sigma is sigma sqrt(2/pi).
                unknown = np.asarray(np.nan)
                noise = np.asarray(both.error.sum() / np.sqrt(2 * np.pi))
                both = Estimate(noise, unknown, unknown, unknown, unknown)
            add_estimate(data, one, both)
        own, truth = (s.attrs.get("temperature") for s in (store, self.store))
        notes = list(pairing.notes)
        if not (own is None or truth is None or math.isclose(own, truth, rel_tol=1e-9)):
            text = f"its temperature is {own:.7g}, the truth's {truth:.7g}, which theory is of"
            notes.append(text)
        notes += sides.dropped
        share = float(data["coarse_agreement"][1]) if "coarse_agreement" in data else 1.0
        if share != 1.0:
            notes.append(f"keeps {share:.2%} of the coarse values")
        cost = {key: store.attrs[key] for key in _COST if key in store.attrs}
        if (seconds := read_timing(store.path)) is not None:
            cost["seconds_per_lattice"] = seconds
        measured = to_dataset(found, data, theirs, sides.chains, self.store.attrs, self.errors)
        return Compared(
            name, measured, together, sides.paired, found.lattices, sides.reference.lattices,
            tuple(notes), cost,
        )  # fmt: skip

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


def _joints(
    found: Statistics, reference: Statistics, wanted: Sequence[Observable]
) -> list[Observable]:
    """Return functions of the means of a store and the truth that are no differences."""

    def ratio(statistic: str, own: Means, truth: Means) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(own[statistic] / truth[statistic])

    made = [
        replace(
            o, name=f"{o.name}_ratio", long_name=f"{o.long_name}, over the truth's", label="",
            function=partial(ratio, o.needs[0].name),
        )
        for name in RATIOS for o in wanted if o.name == name
    ]  # fmt: skip
    if "patterns" in found.rows and "patterns" in reference.rows:
        windows = min(s.lattices for s in (found, reference)) * float(found.system.sites)
        functions: dict[str, tuple[str, Callable[[Array, Array], Array]]] = {
            "patterns_tv": ("total variation of 3x3 patterns", total_variation),
            _NOISE: ("total variation of 3x3 patterns that noise alone would give", np.subtract),
            "patterns_kl": (
                "Kullback-Leibler divergence of 3x3 patterns, truth from store",
                lambda own, truth: kl_divergence(truth, own, 0.5 / windows),
            ),
        }  # fmt: skip

        def folded(function: Callable[[Array, Array], Array], own: Means, truth: Means) -> Array:
            return function(*(fold_patterns(side["patterns"]) for side in (own, truth)))

        made += [
            Observable(name, "1", about, "", None, (patterns,), partial(folded, function))
            for name, (about, function) in functions.items()
        ]
    return made


def _check(store: Lattices, truth: Lattices) -> None:
    check_measurable(store)
    kinds = [(s.shape, s.q, s.layout.components) for s in (store, truth)]
    if kinds[0] != kinds[1]:
        size, components = "x".join(map(str, truth.shape)), truth.layout.components
        states = f" of {truth.q} states" if truth.q else ""
        states += f" of {components} components" if components > 1 else ""
        raise BadInput("stores", str(store.path), f"lattices of {size}{states} like {truth.path}")


def numbered(names: Sequence[str]) -> list[str]:
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


def _floor(found: Statistics, chains: Chains | None) -> float:
    """Return the total variation of patterns between the first and second half of the truth."""
    n = len(found.count)
    if "patterns" not in found.rows or n < 2:
        return float("nan")
    order = np.arange(n) if chains is None else np.argsort(chains.draw, kind="stable")
    halves = (found.rows["patterns"][half] for half in (order[: n // 2], order[n // 2 :]))
    return float(total_variation(*(fold_patterns(half.mean(axis=0)) for half in halves)))


def _pictures(
    truth: Lattices,
    stores: Sequence[Lattices],
    parents: Sequence[NDArray[np.int64] | None],
    coarse: Lattices | None,
) -> Pictures:
    """Return the first sample of the truth that all paired stores refine.

    Without `coarse`, the truth is coarse-grained by the rule of the first store that has one.
    """
    known = [p[p >= 0] for p in parents if p is not None]
    index = 0
    if known:
        both = set(known[0].tolist()).intersection(*(p.tolist() for p in known))
        index = min(both) if both else int(known[0][0])

    def shown(store: Lattices, names: NDArray[np.int64] | None, name: int) -> NDArray[Any]:
        where = np.flatnonzero(names == name) if names is not None else np.zeros(0)
        at = int(where[0]) if len(where) else 0
        return _layer(read_lattices(store, np.array([at])), store.scale)

    of_stores = tuple(shown(s, p, index) for s, p in zip(stores, parents, strict=True))
    raw, ids = read_lattices(truth, np.array([index])), identities(truth)[[index]]
    small = None
    if coarse is not None and coarse.field != "state_count":
        small = shown(coarse, identities(coarse), int(ids[0]))
    elif truth.field in ("spins", "states"):
        for store in stores:
            rule, factor = rule_of(store)
            if rule and rule.stores.get(truth.field) not in (None, "state_count"):
                scale = rule.scale(truth.field, factor, raw.ndim - 1)
                small = _layer(coarse_by(store, raw, ids), scale)
                break
    return Pictures(_layer(raw, truth.scale), of_stores, small)


def _layer(values: NDArray[Any], scale: float) -> NDArray[Any]:
    return np.asarray(values[(0,) * (values.ndim - 2)] * scale)
