"""Models against a truth: residuals with paired errors where parents are shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import Array, Chains, Estimate, Means, jackknife
from skild_phys.errors import BadInput, StoreError
from skild_phys.measure.correlations import fold_patterns, kl_divergence, total_variation
from skild_phys.measure.observables import (
    Observable,
    System,
    add_estimate,
    all_of,
    available,
    physical_attrs,
    system_of,
    to_dataset,
)
from skild_phys.measure.pairing import Pairing, agreement, pair
from skild_phys.measure.pictures import Pictures, pictures
from skild_phys.measure.statistics import (
    MAX_ROWS,
    Rows,
    Statistics,
    collect,
    has_correlations,
    rows_of,
)
from skild_phys.store import LatticeStore, read_timing

_NOISE = "patterns_tv_noise"
_COST = ("method", "steps", "sweeps", "polish")


@dataclass(frozen=True)
class Model:
    """One store beside the truth.

    Attributes
    ----------
    name : name of the store without its suffix.
    data : its own estimates, as from `measure_store`; and NAME_residual = model - truth with
        NAME_residual_err, structure_factor_ratio, patterns_tv, patterns_tv_noise (what equal
        ensembles would show), patterns_kl, site_agreement, coarse_agreement, each with _err.
    paired : whether residuals carry paired errors.
    lattices, parents : lattices used, and truth lattices they are compared with.
    notes : what the reader must know about the pairing.
    cost : what the store says of its making (method, steps, seconds a lattice, ...).
    """

    name: str
    data: xr.Dataset
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
    truth: LatticeStore,
    models: Sequence[LatticeStore],
    *,
    coarse: LatticeStore | None = None,
    bins: int | None = None,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Measure every store once and take the differences to the truth.

    A model that descends from lattices of the truth (`pairing.pair`) is compared with just
    those, lattice by lattice: several refinements of one lattice are averaged first, and the
    errors come from a jackknife over the truth's lattices. Otherwise it is compared with the
    whole truth, with the errors of two independent ensembles.

    Parameters
    ----------
    truth, models, coarse : open stores; `coarse` is what the models were refined from.
    bins, max_rows, progress : as in `measure_store`.

    Raises
    ------
    BadInput : a model whose lattices do not fit the truth's; any store of other lattices than
        2D spins, block sums and fields.
    StoreError : a store without lattices, or a damaged one.
    """
    for store in (truth, *models):
        _check(store, truth)
    if coarse is not None:
        _check_kind(coarse)
    rows = rows_of(truth, max_rows)
    attrs = physical_attrs(truth)
    hamiltonian = attrs.get("model")
    found = collect(truth, rows.label, rows.size, model=hamiltonian, progress=progress)
    measured = to_dataset(found, rows.chains, attrs, bins=bins)
    pairings = [pair(truth, store, coarse) for store in models]
    compared = []
    for store, name, pairing in zip(models, _names(models), pairings, strict=True):
        against = _Against(found, rows, attrs, bins, progress)
        compared.append(
            against.unpaired(store, name, pairing, measured, max_rows)
            if pairing.parent is None
            else against.paired(truth, store, name, pairing)
        )
    return Comparison(
        truth.path.stem,
        measured,
        tuple(compared),
        _floor(found, rows.chains),
        pictures(truth, models, [p.parent for p in pairings], coarse),
    )


@dataclass(frozen=True)
class _Against:
    """The truth's side of a comparison."""

    found: Statistics
    rows: Rows
    attrs: dict[str, Any]
    bins: int | None
    progress: Callable[[int], None] | None

    def paired(
        self, truth: LatticeStore, store: LatticeStore, name: str, pairing: Pairing
    ) -> Model:
        parent = pairing.parent
        if parent is None:
            raise ValueError("no pairs")
        label = self.rows.of_parents(parent)
        complete = _complete_rows(parent, label, self.rows.members)
        partial = int(np.count_nonzero((label >= 0) & ~complete[label]))
        if not complete.any():
            raise StoreError(
                f"{store.path}: variable 'parent': no group of {self.rows.members.max()} "
                f"successive lattices of {truth.path} is refined as a whole"
            )
        found = collect(
            store,
            np.where((label >= 0) & complete[label], label, -1),
            self.rows.size,
            model=self.attrs.get("model"),
            extra=agreement(truth, store, parent),
            progress=self.progress,
        ).take(complete)
        reference = self.found.take(complete)
        chains = self.rows.chains.take(np.flatnonzero(complete)) if self.rows.chains else None
        data = self._own(found, chains)

        def residual(observable: Observable, system: System) -> Estimate:
            mine, theirs = (
                {n: side.rows[n] for n in observable.needs} for side in (found, reference)
            )
            return jackknife(
                lambda m, t: observable.function(m, system) - observable.function(t, system),
                mine,
                theirs,
                chains=chains,
                bins=self.bins,
            )

        system = system_of(found.shape, self.attrs)
        for observable in _common(found, reference, system):
            _add_residual(data, observable, residual(observable, system))
        for extra in _AGREEMENTS:
            if extra.name in found.rows:
                add_estimate(data, extra, extra.estimate(found.rows, system, chains, self.bins))
        for joint in _joint(found, reference):
            needed = ({n: s.rows[n] for n in joint.needs} for s in (found, reference))
            estimate = jackknife(joint.function, *needed, chains=chains, bins=self.bins)
            _add_joint(data, joint, estimate)
        lattices, parents = int(found.count.sum()), int(reference.count.sum())
        notes = (*pairing.notes, *_dropped(partial, self.rows), *_doubts(data))
        return Model(name, data, True, lattices, parents, notes, _cost(store))

    def unpaired(
        self,
        store: LatticeStore,
        name: str,
        pairing: Pairing,
        measured: xr.Dataset,
        max_rows: int,
    ) -> Model:
        rows = rows_of(store, max_rows)
        found = collect(
            store,
            rows.label,
            rows.size,
            model=self.attrs.get("model"),
            progress=self.progress,
        )
        data = self._own(found, rows.chains)
        system = system_of(found.shape, self.attrs)
        for observable in _common(found, self.found, system):
            key = observable.name
            with np.errstate(invalid="ignore"):
                value = data[key].values - measured[key].values
            error = np.hypot(data[f"{key}_err"].values, measured[f"{key}_err"].values)
            _add_residual(data, observable, Estimate(value, error, np.full_like(value, 0.5)))
        for joint in _joint(found, self.found):
            _add_joint(data, joint, self._independent(joint, found, rows.chains))
        lattices = int(found.count.sum())
        parents = int(self.found.count.sum())
        return Model(name, data, False, lattices, parents, pairing.notes, _cost(store))

    def _own(self, found: Statistics, chains: Chains | None) -> xr.Dataset:
        known = {k: v for k, v in self.attrs.items() if k == "temperature"}
        return to_dataset(found, chains, known, bins=self.bins)

    def _independent(self, joint: _Joint, found: Statistics, chains: Chains | None) -> Estimate:
        """Return a function of two ensembles; their jackknife errors add in quadrature."""
        model, truth = ({n: s.rows[n] for n in joint.needs} for s in (found, self.found))
        fixed_model = {n: a.mean(axis=0) for n, a in model.items()}
        fixed_truth = {n: a.mean(axis=0) for n, a in truth.items()}
        of_model = jackknife(
            lambda m: joint.function(m, fixed_truth), model, chains=chains, bins=self.bins
        )
        of_truth = jackknife(
            lambda t: joint.function(fixed_model, t), truth, chains=self.rows.chains, bins=self.bins
        )
        return Estimate(of_model.value, np.hypot(of_model.error, of_truth.error), of_model.tau)


_AGREEMENTS = tuple(
    Observable(name, long_name, "1", "", (name,), all_of(name))
    for name, long_name in (
        ("site_agreement", "share of spins equal to the truth's"),
        ("coarse_agreement", "share of coarse values equal to the truth's"),
    )
)


@dataclass(frozen=True)
class _Joint:
    """A function of the means of model and truth together that is not a difference."""

    name: str
    long_name: str
    dim: str
    needs: tuple[str, ...]
    function: Callable[[Means, Means], Array]

    @property
    def labelled(self) -> Observable:
        return Observable(
            self.name, self.long_name, "1", self.dim, self.needs, lambda means, system: np.zeros(0)
        )


def _joint(found: Statistics, reference: Statistics) -> list[_Joint]:
    windows = min(int(s.count.sum()) for s in (found, reference)) * np.prod(found.shape)

    def variation(model: Means, truth: Means) -> Array:
        return total_variation(fold_patterns(model["patterns"]), fold_patterns(truth["patterns"]))

    def difference(model: Means, truth: Means) -> Array:
        return fold_patterns(model["patterns"]) - fold_patterns(truth["patterns"])

    def divergence(model: Means, truth: Means) -> Array:
        p, q = fold_patterns(truth["patterns"]), fold_patterns(model["patterns"])
        return kl_divergence(p, q, 0.5 / float(windows))

    def ratio(model: Means, truth: Means) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(model["radial"] / truth["radial"])

    functions = [
        _Joint("structure_factor_ratio", "S(k) over the truth's", "shell", ("radial",), ratio)
    ]
    if "patterns" in found.rows and "patterns" in reference.rows:
        functions += [
            _Joint("patterns_tv", "total variation of 3x3 patterns", "", ("patterns",), variation),
            _Joint(
                _NOISE,
                "total variation of 3x3 patterns that noise alone would give",
                "",
                ("patterns",),
                difference,
            ),
            _Joint(
                "patterns_kl",
                "Kullback-Leibler divergence of 3x3 patterns, truth from model",
                "",
                ("patterns",),
                divergence,
            ),
        ]
    return functions


def _add_joint(data: xr.Dataset, joint: _Joint, estimate: Estimate) -> None:
    if joint.name == _NOISE:
        # The mean of |x| for a Gaussian x of standard deviation sigma is sigma sqrt(2 / pi).
        noise = np.asarray(estimate.error.sum() / np.sqrt(2 * np.pi))
        estimate = Estimate(noise, np.asarray(np.nan), np.asarray(0.5))
    add_estimate(data, joint.labelled, estimate)


def _check_kind(store: LatticeStore) -> None:
    if not has_correlations(store):
        kind = f"'{store.field}'" if store.q else f"{len(store.shape)}D"
        accepted = f"2D lattices of spins, block sums or a field, not {kind}; see measure"
        raise BadInput("STORE", str(store.path), accepted)


def _check(store: LatticeStore, truth: LatticeStore) -> None:
    _check_kind(store)
    if store.n_samples == 0:
        raise StoreError(f"{store.path}: holds no complete lattice")
    if store.shape != truth.shape:
        size = "x".join(map(str, truth.shape))
        raise BadInput("MODEL", str(store.path), f"lattices of {size} like {truth.path}")


def _names(models: Sequence[LatticeStore]) -> list[str]:
    names: list[str] = []
    for store in models:
        stem = Path(store.path).resolve().stem
        name, i = stem, 1
        while name in names:
            i += 1
            name = f"{stem}-{i}"
        names.append(name)
    return names


def _complete_rows(
    parent: NDArray[np.int64], label: NDArray[np.int64], members: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the rows all of whose members have a child: only these can be paired."""
    _, first = np.unique(parent, return_index=True)
    of_parents = label[first]
    there = np.bincount(of_parents[of_parents >= 0], minlength=len(members))
    return np.asarray(there == members)


def _common(found: Statistics, reference: Statistics, system: System) -> list[Observable]:
    theirs = available(reference, system)
    return [observable for observable in available(found, system) if observable in theirs]


def _add_residual(data: xr.Dataset, observable: Observable, estimate: Estimate) -> None:
    name, long_name = f"{observable.name}_residual", f"{observable.long_name}, model - truth"
    add_estimate(
        data,
        Observable(name, long_name, observable.units, observable.dim, (), observable.function),
        estimate,
    )


def _dropped(partial: int, rows: Rows) -> list[str]:
    if not partial:
        return []
    return [
        f"{partial} lattices are left out: the truth is averaged in groups of up to "
        f"{rows.members.max()}, and theirs are refined in part only"
    ]


def _doubts(data: xr.Dataset) -> list[str]:
    if "coarse_agreement" not in data or float(data["coarse_agreement"]) == 1.0:
        return []
    return [f"keeps {float(data['coarse_agreement']):.2%} of the coarse values"]


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


def _cost(store: LatticeStore) -> dict[str, Any]:
    cost = {key: store.attrs[key] for key in _COST if key in store.attrs}
    seconds = read_timing(store.path)
    return cost if seconds is None else cost | {"seconds_per_lattice": seconds}
