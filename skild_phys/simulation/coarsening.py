"""Coarse-graining of a store, or of configurations in memory."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.files import AnyPath, printable
from skild_phys.rules import Rule, TieBreak, all_rules, coarse_shape, get_rule
from skild_phys.runner import Filled, Run, fill_store
from skild_phys.store import Lattices, MemoryLattices, Plan, sides

_CHUNKS_A_COMMIT = 16
_CARRIED = ("model", "temperature", "couplings", "warnings")
_ALONGSIDE = ("chain", "draw")


def coarsen(
    fine: Lattices,
    output: AnyPath | None,
    rule: str | Rule | None,
    factor: int,
    run: Run,
    *,
    tie_seed: int | None = None,
) -> Filled:
    """Coarse-grain every configuration of `fine` into the store `output`, or into memory.

    The new store records rule, factor, the parent's name and digest, and for each sample
    `parent`: its index in `fine`, or what `fine` itself has as `parent` (a refined store). That
    number names the tie-breaks, so that a refined configuration coarse-grains as its ancestor did.
    `chain` and `draw` come along where `fine` has them. In memory spins get no digest.

    Parameters
    ----------
    fine : spins, Potts states or a real field in 2D or 3D.
    rule, factor : see `rules.Rule.coarsen`.
    tie_seed : names the tie-breaks of `majority` together with the sample; by default what `fine`
        was refined with, if by the same rule and factor, else 0.

    Raises
    ------
    BadInput, StoreError, WriteError, Interrupted : as `Rule.coarsen` and `fill_store` do.
    """
    chosen = get_rule(rule)
    plan, ties, scalars = coarse_plan(
        fine, chosen, factor, run, tie_seed, digest=output is not None
    )
    make = functools.partial(_coarse, fine, plan.field, chosen, factor, ties, scalars)
    return fill_store(output, plan, make, run, batch=fine.chunk)


def coarse_plan(
    fine: Lattices, chosen: Rule, factor: int, run: Run, tie_seed: int | None, *, digest: bool
) -> tuple[Plan, TieBreak, dict[str, NDArray[Any]]]:
    """Return what the coarse store will hold, its tie-breaks and its scalars; raises BadInput.

    Without a `digest` spins in memory are not read: their coarse values show whose children
    they are.
    """
    if fine.field not in ("spins", "states", "field"):
        accepted = "only 'spins' or 'states' or 'field' are coarse-grained"
        raise StoreError(f"{fine.path}: variable '{fine.field}': {accepted}")
    fine.model()  # refuses lattices that are not of the model they name
    if fine.n_samples == 0:
        raise StoreError(f"{fine.path}: variable '{fine.field}': no sample is complete")
    shape, d = coarse_shape(fine.shape, factor), len(fine.shape)
    field = chosen.variable(fine.field)
    if tie_seed is None:
        same = (fine.attrs.get("rule"), fine.attrs.get("factor")) == (chosen.name, factor)
        tie_seed = int(fine.attrs.get("tie_seed") or 0) if same else 0
    # What the user chose comes first: a store that differs is refused by its first difference.
    attrs = {"rule": chosen.name, "factor": factor}
    attrs |= {"tie_seed": tie_seed} if chosen.ties else {}
    attrs |= {name: fine.attrs[name] for name in _CARRIED if name in fine.attrs}
    attrs |= {"L": sides(shape), "parent_store": printable(fine.path.name)}
    shown = fine.field != "field" and all_rules().get(chosen.name) is chosen
    if digest or not (shown and isinstance(fine, MemoryLattices)):
        attrs["parent_sha256"] = fine.digest()
    parent = fine.variable("parent") if "parent" in fine.variables else np.arange(fine.n_samples)
    scalars = {"parent": parent}
    scalars |= {name: fine.variable(name) for name in _ALONGSIDE if name in fine.variables}
    plan = Plan(
        field=field,
        n_samples=fine.n_samples,
        shape=shape,
        chunk=run.chunk or fine.chunk * min(factor**d, _CHUNKS_A_COMMIT),
        attrs=attrs | dict(run.attrs),
        variables=tuple(scalars),
        scale=chosen.scale(fine.field, factor, d),
        q=fine.q,
        components=fine.layout.components,
    )
    return plan, TieBreak(tie_seed, parent), scalars


def _coarse(
    fine: Lattices,
    field: str,
    rule: Rule,
    factor: int,
    ties: TieBreak,
    scalars: dict[str, NDArray[Any]],
    index: NDArray[np.int64],
    *,
    stop: object,
) -> dict[str, NDArray[Any]]:
    """Coarse-grain the samples `index`, which are read here."""
    here = slice(int(index[0]), int(index[-1]) + 1)
    values = fine.read(here.start, here.stop)
    kind = np.float64 if fine.field == "field" else np.int8
    coarse = rule.coarsen(
        values.astype(kind, copy=False), factor, q=fine.q,
        ties=replace(ties, ids=ties.ids[here]), dimension=len(fine.shape),
    )  # fmt: skip
    return {field: coarse} | {name: v[here] for name, v in scalars.items()}
