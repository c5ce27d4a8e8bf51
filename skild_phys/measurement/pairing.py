"""Which lattice of a truth each lattice of a model was made from, and how that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Array
from skild_phys.measurement.lattices import is_spins, read_lattices
from skild_phys.measurement.rows import identities
from skild_phys.rules import Rule, all_rules, coarsen
from skild_phys.store import Lattices, shared

_PROBE = 8
_SAME_RULE = 0.99
_SAME_FIELD = 0.5


@dataclass(frozen=True)
class Pairing:
    """`parent` is the truth's index for each model lattice (-1: none), None if unpaired."""

    parent: NDArray[np.int64] | None
    notes: tuple[str, ...]


def pair(truth: Lattices, model: Lattices, coarse: Lattices | None = None) -> Pairing:
    """Find out which lattices of `model` and `truth` descend from the same lattice.

    The variable `parent` names the ancestor: an index of the truth, or, where the truth has
    parents of its own (a refined store), a number that both share. It is believed if the
    digests in the attributes say so (the truth's in those of the model or of `coarse`, or the
    same parent store for both), or if the pairs have the same coarse values. Otherwise the two
    are taken as independent ensembles, and the notes say why.
    """
    if not model.has("parent"):
        if model.digest() == truth.digest():
            return Pairing(np.arange(truth.n_samples), ("this is the truth itself",))
        notes: tuple[str, ...] = ("unpaired errors: the store names no parents of its lattices",)
        if n := shared(truth, model):
            notes += (f"{n} of its lattices are the truth's own: these errors are too large",)
        return Pairing(None, notes)
    ancestors, first = np.unique(identities(truth), return_index=True)
    wanted = identities(model)
    place = np.minimum(np.searchsorted(ancestors, wanted), len(ancestors) - 1)
    known = ancestors[place] == wanted
    if not known.any():
        return Pairing(None, ("unpaired errors: no parent is in the truth",))
    parent = np.where(known, first[place], -1)
    if not _same_lineage(truth, model, coarse):
        reason = _evidence(truth, model, parent)
        if reason is not None:
            return Pairing(None, (f"unpaired errors: {reason}",))
    lost = int((~known).sum())
    notes = (f"{lost} lattices without a parent in the truth are left out",) if lost else ()
    return Pairing(parent, notes)


def agreement(
    truth: Lattices, model: Lattices, parent: NDArray[np.int64]
) -> Callable[[NDArray[np.int64], NDArray[Any]], dict[str, Array]]:
    """Return a function (indices, raw lattices) -> averages that compare with the parents.

    `site_agreement` (n,) is the share of equal spins; `coarse_agreement` (n,) the share of
    coarse values that the rule maps to the same number (of a low-pass field, one minus the relative
    squared misfit). Spins and states only: empty for fields.
    """
    rule, factor = rule_of(model)
    names = identities(model)

    def compare(index: NDArray[np.int64], raw: NDArray[Any]) -> dict[str, Array]:
        if not _alike(truth, model):
            return {}
        other = read_lattices(truth, parent[index])
        found = {"site_agreement": _mean(raw == other)}
        if rule is not None:
            seed = int(model.attrs.get("tie_seed") or 0)
            a, b = (
                coarsen(s, rule, factor, q=model.q, tie_seed=seed, sample_ids=names[index])
                for s in (raw, other)
            )
            found["coarse_agreement"] = _same(a, b)
        return found

    return compare


def rule_of(store: Lattices) -> tuple[Rule | None, int]:
    """Return the coarse-graining that a store was refined from, (None, 1) if it names none."""
    rule, factor = store.attrs.get("rule"), store.attrs.get("factor")
    fits = isinstance(factor, int) and factor > 1 and all(n % factor == 0 for n in store.shape)
    known = all_rules().get(str(rule)) if fits else None
    return (None, 1) if known is None else (known, int(factor or 1))


def _same(a: NDArray[Any], b: NDArray[Any]) -> Array:
    if a.dtype.kind != "f":
        return _mean(a == b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray(1 - ((a - b) ** 2).sum(axis=(1, 2)) / (b**2).sum(axis=(1, 2)))


def _mean(values: NDArray[Any]) -> Array:
    return np.asarray(values.reshape(len(values), -1).mean(axis=1))


def _alike(truth: Lattices, model: Lattices) -> bool:
    """Return whether both hold spins, or the same Potts states, whose sites can be compared."""
    return truth.field == model.field and (is_spins(truth) or model.q == truth.q > 0)


def _evidence(truth: Lattices, model: Lattices, parent: NDArray[np.int64]) -> str | None:
    """Return why the pairs cannot be believed, None if their coarse values agree."""
    rule, _ = rule_of(model)
    if rule is None or not _alike(truth, model):
        return "nothing shows that its parents are lattices of the truth"
    index = np.flatnonzero(parent >= 0)[:_PROBE]
    same = agreement(truth, model, parent)(index, read_lattices(model, index))
    share = float(same["coarse_agreement"].mean())
    if share >= (_SAME_FIELD if rule.stores[truth.field] == "field" else _SAME_RULE):
        return None
    return f"its coarse values are not the truth's (agreement {share:.2f})"


def _same_lineage(truth: Lattices, model: Lattices, coarse: Lattices | None) -> bool:
    digest = model.attrs.get("parent_sha256")
    if digest is None:
        return False
    if digest in (truth.digest(), truth.attrs.get("parent_sha256")):
        return True
    if coarse is None or digest != coarse.digest():
        return False
    return bool(coarse.attrs.get("parent_sha256") == truth.digest())
