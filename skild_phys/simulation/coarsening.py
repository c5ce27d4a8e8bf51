"""Coarse-graining from store to store, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import Interrupted, StoreError
from skild_phys.files import AnyPath, printable
from skild_phys.rules import Rule, TieBreak, coarse_shape, get_rule
from skild_phys.store import COMMIT_SECONDS, Lattices, LatticeStore, create_store, open_store, sides

_CHUNKS_A_COMMIT = 16
_CARRIED = ("model", "temperature", "couplings", "warnings")
_ALONGSIDE = ("chain", "draw")


def coarsen_store(
    fine: Lattices,
    path: AnyPath,
    rule: str | Rule,
    factor: int,
    *,
    tie_seed: int | None = None,
    overwrite: bool = False,
    attrs: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda count: None,
) -> LatticeStore:
    """Coarse-grain every lattice of a store into another, or go on with one begun so.

    The new store records rule, factor, the parent's name and digest, and for each sample
    `parent`: its index in `fine`, or what `fine` itself has as `parent` (a refined store). That
    number names the tie-breaks, so that a refined lattice coarse-grains as its ancestor did.
    `chain` and `draw` come along where `fine` has them.

    Parameters
    ----------
    fine : spins or a real field in 2D or 3D, Potts states; for the rule `spectral` 2D.
    path : of the new store.
    rule, factor : see `rules.Rule.coarsen`.
    tie_seed : names the tie-breaks together with the sample; by default what `fine`
        was refined with, if by the same rule and factor, else 0.
    overwrite : start afresh even if a store lies at `path`.
    attrs : more attributes for the store (command line, versions).
    stop : asked once a chunk; when it says so the run ends at its last commit.
    progress : called with the number of samples just done.

    Returns
    -------
    The finished store, open for reading.

    Raises
    ------
    BadInput, StoreError, WriteError : as `coarsen_lattices` and `create_store` do.
    Interrupted : once `stop` says so.
    """
    rule = get_rule(rule)
    _check_input(fine)
    field = rule.variable(fine.field)
    shape = coarse_shape(fine.shape, factor)
    if tie_seed is None:
        same = (fine.attrs.get("rule"), fine.attrs.get("factor")) == (rule.name, factor)
        tie_seed = int(fine.attrs.get("tie_seed") or 0) if same else 0
    n = fine.n_samples
    parent = fine.variable("parent") if fine.has("parent") else np.arange(n)
    TieBreak(tie_seed, parent)  # refuses a bad seed before any write
    exact = np.float64 if fine.field == "field" else np.int8
    scalars = {"parent": parent}
    scalars |= {name: fine.variable(name) for name in _ALONGSIDE if fine.has(name)}
    chunk = fine.chunk * min(factor ** len(shape), _CHUNKS_A_COMMIT)
    with create_store(
        path,
        field=field,
        n_samples=n,
        shape=shape,
        chunk=chunk,
        attrs={**_attributes(fine, rule, factor, tie_seed), **(attrs or {})},
        variables=tuple(scalars),
        scale=rule.scale(fine.field, factor, len(shape)),
        q=fine.q,
        overwrite=overwrite,
    ) as writer:
        progress(writer.committed)
        stopped = False
        while writer.committed < n:
            first, last = writer.committed, min((writer.committed // chunk + 1) * chunk, n)
            parts: list[NDArray[Any]] = []
            end, since = first, time.monotonic()
            while end < last and time.monotonic() - since < COMMIT_SECONDS:
                if stopped := stop():
                    break
                start, end = end, min((end // fine.chunk + 1) * fine.chunk, last)
                parts.append(
                    rule.coarsen(
                        fine.read(start, end).astype(exact, copy=False),
                        factor,
                        q=fine.q,
                        ties=TieBreak(tie_seed, parent[start:end]),
                    )
                )
                progress(end - start)
            if parts:
                rows = {name: values[first:end] for name, values in scalars.items()}
                writer.commit({field: np.concatenate(parts), **rows})
            if stopped:
                raise Interrupted(
                    f"interrupted: {end} of {n} samples are kept in {writer.path}; "
                    f"the same command, without --overwrite, goes on from there"
                )
    return open_store(path)


def _check_input(fine: Lattices) -> None:
    usable = ("spins", "states", "field")
    if fine.field not in usable:
        names = " or ".join(f"'{name}'" for name in usable)
        raise StoreError(f"{fine.path}: variable '{fine.field}': only {names} are coarse-grained")
    fine.model()  # refuses lattices that are not of the model they name
    if fine.n_samples == 0:
        raise StoreError(f"{fine.path}: variable '{fine.field}': no sample is complete")


def _attributes(fine: Lattices, rule: Rule, factor: int, tie_seed: int) -> dict[str, Any]:
    # What the user chose comes first: a store that differs is refused by its first difference.
    return {
        "rule": rule.name,
        "factor": factor,
        **({"tie_seed": tie_seed} if rule.ties else {}),
        **{name: fine.attrs[name] for name in _CARRIED if name in fine.attrs},
        "L": sides([side // factor for side in fine.shape]),
        "parent_store": printable(fine.path.name),
        "parent_sha256": fine.digest(),
    }
