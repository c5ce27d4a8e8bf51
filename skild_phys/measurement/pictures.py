"""One lattice of a truth beside its coarse version and its refinements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.measurement.lattices import read_lattices
from skild_phys.measurement.pairing import rule_of
from skild_phys.measurement.rows import identities
from skild_phys.rules import coarsen
from skild_phys.store import Lattices


@dataclass(frozen=True)
class Pictures:
    """Lattices in physical units, (Ly, Lx), of 3D ones the layer z = 0.

    `coarse` is None where no rule is known, and for shares of Potts states.

    A model that has no refinement of this lattice shows its first one instead.
    """

    truth: NDArray[Any]
    models: tuple[NDArray[Any], ...]
    coarse: NDArray[Any] | None


def pictures(
    truth: Lattices,
    models: Sequence[Lattices],
    parents: Sequence[NDArray[np.int64] | None],
    coarse: Lattices | None = None,
) -> Pictures:
    """Return the pictures of the first lattice of the truth that all paired models refine.

    Without `coarse`, the truth is coarse-grained by the rule of the first model that has one.
    """
    index = _shared(parents)
    shown = _lattice(truth, index)
    children = tuple(
        _lattice(model, _position(parent, index))
        for model, parent in zip(models, parents, strict=True)
    )
    if coarse is not None and coarse.field != "state_count":
        place = _position(identities(coarse), int(identities(truth)[index]))
        return Pictures(shown, children, _lattice(coarse, place))
    for model in models:
        rule, factor = rule_of(model)
        if rule is None or truth.field not in ("spins", "states"):
            continue
        if rule.stores.get(truth.field) in (None, "state_count"):
            continue
        raw = coarsen(
            read_lattices(truth, np.array([index])),
            rule,
            factor,
            q=truth.q,
            tie_seed=int(model.attrs.get("tie_seed") or 0),
            sample_ids=identities(truth)[[index]],
        )
        return Pictures(
            shown, children, _layer(raw[0] * rule.scale(truth.field, factor, raw.ndim - 1))
        )
    return Pictures(shown, children, None)


def _shared(parents: Sequence[NDArray[np.int64] | None]) -> int:
    known = [p[p >= 0] for p in parents if p is not None]
    if not known:
        return 0
    shared = set(known[0].tolist()).intersection(*(p.tolist() for p in known))
    return min(shared) if shared else int(known[0][0])


def _position(parent: NDArray[Any] | None, index: int) -> int:
    if parent is None:
        return 0
    where = np.flatnonzero(parent == index)
    return int(where[0]) if len(where) else 0


def _lattice(store: Lattices, index: int) -> NDArray[Any]:
    return _layer(read_lattices(store, np.array([index]))[0] * store.scale)


def _layer(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values if values.ndim == 2 else values[0])
