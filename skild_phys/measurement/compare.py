"""Models against a truth: residuals with paired errors where parents are shared."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import Chains, ErrorMethod, Estimate, Means
from skild_phys.errors import BadInput, StoreError
from skild_phys.files import printable
from skild_phys.measurement.agreement import Agreement, agreement_of
from skild_phys.measurement.dataset import (
    GAMMA,
    Variables,
    add_estimate,
    attributes,
    estimate,
    estimates,
    to_dataset,
)
from skild_phys.measurement.joint import Joint, add_joint, joint_functions
from skild_phys.measurement.lattices import check_measurable
from skild_phys.measurement.observables import Observable, all_of, observables
from skild_phys.measurement.pairing import Pairing, agreement, pair
from skild_phys.measurement.patterns import fold_patterns, total_variation
from skild_phys.measurement.pictures import Pictures, pictures
from skild_phys.measurement.rows import MAX_ROWS, Rows, rows_of
from skild_phys.measurement.shells import Array
from skild_phys.measurement.statistics import Statistics, collect
from skild_phys.measurement.system import System
from skild_phys.store import Lattices, read_timing

_COST = ("method", "steps", "sweeps", "polish")
JUDGED = (
    "connected_four_point",
    "two_point_axis",
    "two_point_diagonal",
    "structure_factor",
)
"""Observables whose residuals are judged together, with their full covariance."""

_FLOAT32, _FLOAT64 = 2.0**-20, 2.0**-40
"""Relative size of rounding: some units in the last place of fields, and of sums of spins."""


@dataclass(frozen=True)
class Model:
    """One store beside the truth.

    Attributes
    ----------
    name : of the store without its suffix, unless it was named.
    data : its own estimates, as from `dataset.measure`; and NAME_residual = model - truth with
        NAME_residual_err, the ratios of `joint.RATIOS`, patterns_tv, patterns_tv_noise (what equal
        ensembles would show), patterns_kl, site_agreement, coarse_agreement, each with _err.
    together : observable -> chi^2 of its residuals at all places.
    paired : whether residuals carry paired errors.
    lattices, parents : lattices used, and truth lattices they are compared with.
    notes : what the reader must know about the pairing.
    cost : what the store says of its making (method, steps, seconds a lattice, ...).
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
    """Truth, models and pictures; `patterns_floor` is the TV between two halves of the truth."""

    name: str
    truth: xr.Dataset
    models: tuple[Model, ...]
    patterns_floor: float
    pictures: Pictures


def compare(
    truth: Lattices,
    models: Sequence[Lattices],
    *,
    names: Sequence[str] | None = None,
    coarse: Lattices | None = None,
    errors: ErrorMethod = GAMMA,
    seed: int = 0,
    threads: int = 1,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Measure every store once and take the differences to the truth.

    A model that descends from lattices of the truth (`pairing.pair`) is compared with just
    those, lattice by lattice: several refinements of one lattice are averaged first, and the
    errors come from the truth's lattices, each with its refinements. Otherwise it is compared
    with the whole truth, with the errors of two independent ensembles.

    Parameters
    ----------
    truth, models, coarse : open stores; `coarse` is what the models were refined from.
    names : of the models; those of their stores, numbered where they are alike, by default.
    errors, seed, threads, max_rows, progress : as in `dataset.measure`.

    Raises
    ------
    BadInput : a model whose lattices do not fit the truth's; names that are not one a model.
    StoreError : a store without lattices, of counts of states, or a damaged one.
    """
    called = _names(models, names)
    for store in (truth, *models):
        _check(store, truth)
    system = System.of(truth, seed=seed)
    rows = rows_of(truth, max_rows)
    wanted = observables(system)
    needed = {name for o in wanted for name in o.needs}
    found = collect(
        truth, system, rows.label, rows.size, needed=needed, threads=threads, progress=progress
    )
    measured = to_dataset(
        system,
        estimates(found, rows.chains, wanted, errors=errors, group=int(rows.members.max())),
        attributes(found, rows.chains, truth.attrs, errors),
    )
    pairings = [pair(truth, store, coarse) for store in models]
    against = _Against(truth, found, rows, measured, errors, threads, progress)
    compared = [
        against.unpaired(store, name, pairing, max_rows)
        if pairing.parent is None
        else against.paired(store, name, pairing)
        for store, name, pairing in zip(models, called, pairings, strict=True)
    ]
    return Comparison(
        printable(truth.path.stem),
        measured,
        tuple(compared),
        _floor(found, rows.chains),
        pictures(truth, models, [p.parent for p in pairings], coarse),
    )


@dataclass(frozen=True)
class _Against:
    """The truth's side of a comparison."""

    truth: Lattices
    found: Statistics
    rows: Rows
    measured: xr.Dataset
    errors: ErrorMethod
    threads: int
    progress: Callable[[int], None] | None

    def paired(self, store: Lattices, name: str, pairing: Pairing) -> Model:
        parent = pairing.parent
        if parent is None:
            raise ValueError("no pairs")
        label = self.rows.of_parents(parent)
        complete = _complete_rows(parent, label, self.rows.members)
        partial = int(np.count_nonzero((label >= 0) & ~complete[label]))
        if not complete.any():
            raise StoreError(
                f"{store.path}: variable 'parent': no group of {self.rows.members.max()} "
                f"successive lattices of {self.truth.path} is refined as a whole"
            )
        kept = np.where((label >= 0) & complete[label], label, -1)
        found = self._collect(store, kept, self.rows.size, parent).take(complete)
        reference = self.found.take(complete)
        chains = self.rows.chains.take(np.flatnonzero(complete)) if self.rows.chains else None
        data = self._own(found, self.rows, chains)
        together = {}
        for observable in _common(found, reference):
            needs = observable.needs
            judged = observable.name in JUDGED
            residual = self.errors(
                _difference(observable, found.system),
                *({n: side.rows[n] for n in needs} for side in (found, reference)),
                chains=chains,
                influence=judged,
            )
            residual = self._settled(observable, residual)
            _add_residual(data, observable, residual)
            if judged:
                together[observable.name] = _judge(observable, residual)
        for extra in _AGREEMENTS:
            if extra.name in found.rows:
                add_estimate(data, extra, estimate(extra, found, chains, self.errors))
        for joint in joint_functions(found, reference):
            sides = ({n: s.rows[n] for n in joint.needs} for s in (found, reference))
            add_joint(data, joint, self.errors(joint.function, *sides, chains=chains))
        lattices, parents = int(found.count.sum()), int(reference.count.sum())
        notes = (
            *pairing.notes,
            *self._another_temperature(store),
            *_dropped(partial, self.rows),
            *_doubts(data),
        )
        own = self._as_dataset(found, chains, data)
        return Model(name, own, together, True, lattices, parents, notes, _cost(store))

    def unpaired(
        self,
        store: Lattices,
        name: str,
        pairing: Pairing,
        max_rows: int,
    ) -> Model:
        rows = rows_of(store, max_rows)
        found = self._collect(store, rows.label, rows.size, None)
        data = self._own(found, rows, rows.chains)
        together = {}
        for observable in _common(found, self.found):
            sides = [
                self.errors(
                    lambda m, side=side, o=observable: o.function(m, side.system),
                    {n: side.rows[n] for n in observable.needs},
                    chains=chains,
                    influence=observable.name in JUDGED,
                )
                for side, chains in ((found, rows.chains), (self.found, self.rows.chains))
            ]
            residual = _independent(*sides)
            _add_residual(data, observable, residual)
            if observable.name in JUDGED:
                together[observable.name] = _judge(observable, residual)
        for joint in joint_functions(found, self.found):
            add_joint(data, joint, self._apart(joint, found, rows.chains))
        lattices, parents = int(found.count.sum()), int(self.found.count.sum())
        own = self._as_dataset(found, rows.chains, data)
        notes = (*pairing.notes, *self._another_temperature(store))
        return Model(name, own, together, False, lattices, parents, notes, _cost(store))

    def _another_temperature(self, store: Lattices) -> list[str]:
        own, truth = (s.attrs.get("temperature") for s in (store, self.truth))
        if own is None or truth is None or math.isclose(own, truth, rel_tol=1e-9):
            return []
        return [f"its temperature is {own:.7g}, the truth's {truth:.7g}, which theory is of"]

    def _collect(
        self,
        store: Lattices,
        label: NDArray[np.int64],
        size: int,
        parent: NDArray[np.int64] | None,
    ) -> Statistics:
        """Reduce a model as one of the truth's system, with the truth's Hamiltonian."""
        own, system = System.of(store), self.found.system
        if own.field == system.field and own.q == system.q:
            own = system
        else:
            own = replace(own, model=None)
        needed = {name for o in observables(own) for name in o.needs}
        extra = None if parent is None else agreement(self.truth, store, parent)
        return collect(
            store, own, label, size, needed=needed, extra=extra,
            threads=self.threads, progress=self.progress,
        )  # fmt: skip

    def _settled(self, observable: Observable, residual: Estimate) -> Estimate:
        """Return a paired residual with 0 where value and error are no more than rounding.

        That is of the numbers that are stored, relative to the truth's value and to its spread
        over configurations.
        """
        value, error, n_eff = (
            self.measured[f"{observable.name}{end}"].values for end in ("", "_err", "_n_eff")
        )
        unit = _FLOAT32 if self.truth.field == "field" else _FLOAT64
        rounding = unit * (np.abs(value) + np.nan_to_num(error * np.sqrt(n_eff)))
        none = (np.abs(residual.value) <= rounding) & (residual.error <= rounding)
        moved = tuple(
            replace(part, rows=np.where(none.ravel(), 0.0, part.rows))
            for part in residual.influence
        )
        settled = (np.where(none, 0.0, a) for a in (residual.value, residual.error))
        return replace(residual, **dict(zip(("value", "error"), settled)), influence=moved)

    def _own(self, found: Statistics, rows: Rows, chains: Chains | None) -> Variables:
        wanted, group = observables(found.system), int(rows.members.max())
        return estimates(found, chains, wanted, errors=self.errors, group=group)

    def _as_dataset(self, found: Statistics, chains: Chains | None, data: Variables) -> xr.Dataset:
        about = attributes(found, chains, self.truth.attrs, self.errors)
        return to_dataset(found.system, data, about)

    def _apart(self, joint: Joint, found: Statistics, chains: Chains | None) -> Estimate:
        """Return a function of two ensembles; their errors add in quadrature."""
        model, truth = ({n: s.rows[n] for n in joint.needs} for s in (found, self.found))
        fixed_model = {n: a.mean(axis=0) for n, a in model.items()}
        fixed_truth = {n: a.mean(axis=0) for n, a in truth.items()}
        of_model = self.errors(lambda m: joint.function(m, fixed_truth), model, chains=chains)
        of_truth = self.errors(
            lambda t: joint.function(fixed_model, t), truth, chains=self.rows.chains
        )
        return replace(
            of_model,
            error=np.hypot(of_model.error, of_truth.error),
            tau=np.maximum(of_model.tau, of_truth.tau),
            tau_error=np.full_like(of_model.tau_error, np.nan),
            n_eff=np.minimum(of_model.n_eff, of_truth.n_eff),
        )


def _judge(observable: Observable, residual: Estimate) -> Agreement:
    """Judge squares of every side, and other residuals at 1, 2, 4 .. steps."""
    places = np.arange(residual.value.size)
    if observable.dim != "side":
        places = places[1:][(places[1:] & places[:-1]) == 0]
    return agreement_of(residual, places)


def _difference(observable: Observable, system: System) -> Callable[[Means, Means], Array]:
    return lambda m, t: np.asarray(observable.function(m, system) - observable.function(t, system))


def _independent(model: Estimate, truth: Estimate) -> Estimate:
    """Return model - truth of two independent ensembles."""
    with np.errstate(invalid="ignore"):
        value = np.asarray(model.value - truth.value)
    return Estimate(
        value,
        np.hypot(model.error, truth.error),
        np.maximum(model.tau, truth.tau),
        np.full_like(model.tau_error, np.nan),
        np.minimum(model.n_eff, truth.n_eff),
        model.influence + truth.influence if model.influence and truth.influence else (),
    )


_AGREEMENTS = tuple(
    Observable(name, long_name, "1", "", (name,), all_of(name))
    for name, long_name in (
        ("site_agreement", "share of spins equal to the truth's"),
        ("coarse_agreement", "share of coarse values equal to the truth's"),
    )
)


def _check(store: Lattices, truth: Lattices) -> None:
    check_measurable(store)
    if (store.shape, store.q) != (truth.shape, truth.q):
        size = "x".join(map(str, truth.shape))
        states = f" of {truth.q} states" if truth.q else ""
        raise BadInput("MODEL", str(store.path), f"lattices of {size}{states} like {truth.path}")


def numbered(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that were there before: skild, skild 2."""
    found: list[str] = []
    for name in names:
        tries = (name, *(f"{name} {i}" for i in range(2, len(names) + 1)))
        found.append(next(n for n in tries if n not in found))
    return found


def _names(models: Sequence[Lattices], names: Sequence[str] | None) -> list[str]:
    """Return the names of the models, those of their stores by default; raises BadInput."""
    if names is None:
        return numbered([printable(Path(store.path).resolve().stem) for store in models])
    check_names(names, len(models))
    return list(names)


def check_names(names: Sequence[str], models: int) -> None:
    """Raise BadInput unless there is a good name for each of so many models."""
    good = all(re.fullmatch(r"[^\W_][\w .+-]*", name) for name in names)
    if not good or len({*names}) != models or len(names) != models:
        accepted = f"{models} different names, one a model, of letters and digits"
        raise BadInput("--names", ", ".join(names), accepted)


def _complete_rows(
    parent: NDArray[np.int64], label: NDArray[np.int64], members: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the rows all of whose members have a child: only these can be paired."""
    _, first = np.unique(parent, return_index=True)
    of_parents = label[first]
    there = np.bincount(of_parents[of_parents >= 0], minlength=len(members))
    return np.asarray(there == members)


def _common(found: Statistics, reference: Statistics) -> list[Observable]:
    theirs = observables(reference.system)
    return [observable for observable in observables(found.system) if observable in theirs]


def _add_residual(data: Variables, observable: Observable, found: Estimate) -> None:
    add_estimate(
        data,
        replace(
            observable,
            name=f"{observable.name}_residual",
            long_name=f"{observable.long_name}, model - truth",
        ),
        found,
    )


def _dropped(partial: int, rows: Rows) -> list[str]:
    if not partial:
        return []
    return [
        f"{partial} lattices are left out: the truth is averaged in groups of up to "
        f"{rows.members.max()}, and theirs are refined in part only"
    ]


def _doubts(data: Variables) -> list[str]:
    share = float(data["coarse_agreement"][1]) if "coarse_agreement" in data else 1.0
    return [] if share == 1.0 else [f"keeps {share:.2%} of the coarse values"]


def _floor(found: Statistics, chains: Chains | None) -> float:
    """Return the total variation of patterns between the first and second half of the truth."""
    n = len(found.count)
    if "patterns" not in found.rows or n < 2:
        return float("nan")
    order = np.arange(n) if chains is None else np.argsort(chains.draw, kind="stable")
    p, q = (
        fold_patterns(found.rows["patterns"][half].mean(axis=0))
        for half in (order[: n // 2], order[n // 2 :])
    )
    return float(total_variation(p, q))


def _cost(store: Lattices) -> dict[str, Any]:
    cost = {key: store.attrs[key] for key in _COST if key in store.attrs}
    seconds = read_timing(store.path)
    return cost if seconds is None else cost | {"seconds_per_lattice": seconds}
