"""Which sample of a truth each sample of a store was made from, what both share, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.measurement.observables import Observable, observable
from skild_phys.measurement.rows import identities, read_samples
from skild_phys.measurement.system import Array, Slice
from skild_phys.rules import Rule, all_rules, coarsen
from skild_phys.store import Lattices, shared

_PROBE = 8  # samples whose coarse values are compared with their parents'
_SAME_RULE, _SAME_FIELD = 0.99, 0.5  # least agreement of integers, of real numbers
_Parents = NDArray[np.int64] | None


@dataclass(frozen=True)
class Pictures:
    """One sample in physical units, (Ly, Lx), of 3D ones the layer z = 0.

    `coarse` is None where no rule is known, and for shares of Potts states. A store that has no
    refinement of this sample shows its first one instead.
    """

    truth: NDArray[Any]
    stores: tuple[NDArray[Any], ...]
    coarse: NDArray[Any] | None


def pair(
    truth: Lattices, store: Lattices, coarse: Lattices | None = None
) -> tuple[_Parents, tuple[str, ...]]:
    """Find out which samples of `store` and `truth` descend from the same one.

    The variable `parent` names the ancestor: an index of the truth, or, where the truth has
    parents of its own (a refined store), a number that both share. It is believed if the
    digests in the attributes say so (the truth's in those of the store or of `coarse`, or the
    same parent store for both), or if the pairs have the same coarse values. Otherwise the two
    are taken as independent ensembles, and the notes say why.

    Returns
    -------
    The truth's index of each sample (-1: none), None if the two are not paired; and the notes.
    """
    if "parent" not in store.variables:
        if store.digest() == truth.digest():
            return np.arange(truth.n_samples), ("this is the truth itself",)
        notes: tuple[str, ...] = ("unpaired errors: the store names no parents of its samples",)
        if n := shared(truth, store):
            notes += (f"{n} of its samples are the truth's own: these errors are too large",)
        return None, notes
    ancestors, first = np.unique(identities(truth), return_index=True)
    wanted = identities(store)
    at = np.minimum(np.searchsorted(ancestors, wanted), len(ancestors) - 1)
    known = ancestors[at] == wanted
    if not known.any():
        return None, ("unpaired errors: no parent is in the truth",)
    parent = np.where(known, first[at], -1)
    if not _same_lineage(truth, store, coarse):
        reason = _doubt(truth, store, parent)
        if reason is not None:
            return None, (f"unpaired errors: {reason}",)
    lost = int((~known).sum())
    return parent, (f"{lost} samples without a parent in the truth are left out",) if lost else ()


def agreements(
    truth: Lattices, store: Lattices, parent: NDArray[np.int64]
) -> tuple[Observable, ...]:
    """Return what compares samples with their parents; none for fields.

    `site_agreement` is the share of equal spins or states; `coarse_agreement` the share of coarse
    values that the rule maps to the same number (of real ones, one minus the relative squared
    misfit).
    """
    if not _alike(truth, store):
        return ()

    def parents(part: Slice) -> NDArray[Any]:
        return read_samples(truth, parent[part.index])

    names = identities(store)

    @observable("site_agreement", about="share of spins equal to the truth's")
    def sites(part: Slice) -> Array:
        return _share(part.raw == part.once(parents))

    @observable("coarse_agreement", about="share of coarse values equal to the truth's")
    def coarse(part: Slice) -> Array:
        both = (part.raw, part.once(parents))
        return _same(*(_coarse_by(store, a, names[part.index]) for a in both))

    return (sites,) if _rule_of(store)[0] is None else (sites, coarse)


def _alike(truth: Lattices, store: Lattices) -> bool:
    """Return whether both hold spins, or the same Potts states, whose sites can be compared."""
    kind = (truth.field, truth.q)
    return kind == (store.field, store.q) and store.field in ("spins", "states")


def _rule_of(store: Lattices) -> tuple[Rule | None, int]:
    """Return the coarse-graining that a store was refined from, (None, 1) if it names none."""
    rule, factor = store.attrs.get("rule"), store.attrs.get("factor")
    fits = isinstance(factor, int) and factor > 1 and all(n % factor == 0 for n in store.shape)
    known = all_rules().get(str(rule)) if fits else None
    return (None, 1) if known is None else (known, int(factor or 1))


def _coarse_by(store: Lattices, raw: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[Any]:
    """Coarse-grain configurations by the rule of `store`; `ids` are of the tie-breaks."""
    (rule, factor), seed = _rule_of(store), int(store.attrs.get("tie_seed") or 0)
    if rule is None:
        raise ValueError("no rule")
    return coarsen(raw, rule, factor, q=store.q, tie_seed=seed, sample_ids=ids)


def _same(a: NDArray[Any], b: NDArray[Any]) -> Array:
    if a.dtype.kind != "f":
        return _share(a == b)
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return np.asarray(1 - ((a - b) ** 2).sum(axis=1) / (b**2).sum(axis=1))


def _share(equal: NDArray[np.bool_]) -> Array:
    return np.asarray(equal.reshape(len(equal), -1).mean(axis=1))


def _doubt(truth: Lattices, store: Lattices, parent: NDArray[np.int64]) -> str | None:
    """Return why the pairs cannot be believed, None if their coarse values agree."""
    if _rule_of(store)[0] is None or not _alike(truth, store):
        return "nothing shows that its parents are configurations of the truth"
    index = np.flatnonzero(parent >= 0)[:_PROBE]
    ids = identities(store)[index]
    both = (read_samples(store, index), read_samples(truth, parent[index]))
    own, of_parents = (_coarse_by(store, raw, ids) for raw in both)
    share = float(_same(own, of_parents).mean())
    if share >= (_SAME_FIELD if own.dtype.kind == "f" else _SAME_RULE):
        return None
    return f"its coarse values are not the truth's (agreement {share:.2f})"


def _same_lineage(truth: Lattices, store: Lattices, coarse: Lattices | None) -> bool:
    digest = store.attrs.get("parent_sha256")
    if digest is None:
        return False
    if digest in (truth.digest(), truth.attrs.get("parent_sha256")):
        return True
    if coarse is None or digest != coarse.digest():
        return False
    return bool(coarse.attrs.get("parent_sha256") == truth.digest())


def pictures_of(
    truth: Lattices,
    stores: Sequence[Lattices],
    parents: Sequence[_Parents],
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

    def shown(store: Lattices, names: _Parents, name: int) -> NDArray[Any]:
        at = np.flatnonzero(names == name)[:1] if names is not None else np.zeros(0, dtype=np.int64)
        return _layer(read_samples(store, at if len(at) else np.array([0])), store.scale)

    of_stores = tuple(shown(s, p, index) for s, p in zip(stores, parents, strict=True))
    raw, ids = read_samples(truth, np.array([index])), identities(truth)[[index]]
    small = None
    if coarse is not None and coarse.field != "state_count":
        small = shown(coarse, identities(coarse), int(ids[0]))
    elif truth.field in ("spins", "states"):
        for store in stores:
            rule, factor = _rule_of(store)
            if rule and rule.stores.get(truth.field) not in (None, "state_count"):
                scale = rule.scale(truth.field, factor, raw.ndim - 1)
                small = _layer(_coarse_by(store, raw, ids), scale)
                break
    return Pictures(_layer(raw, truth.scale), of_stores, small)


def _layer(values: NDArray[Any], scale: float) -> NDArray[Any]:
    return np.asarray(values[(0,) * (values.ndim - 2)] * scale)
