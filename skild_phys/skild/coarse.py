"""The coarse lattices a refinement starts from, with the rule and factor they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.files import AnyPath
from skild_phys.rules.coarsen import (
    check_factor,
    check_rule,
    stored_scale,
    tie_coins,
    tie_priorities,
)
from skild_phys.store import Lattices, open_lattices
from skild_phys.store.schema import SCALED_FIELDS


@dataclass(frozen=True)
class CoarseInput:
    """Coarse lattices with what is known of where they came from.

    Attributes
    ----------
    path, rule, factor : of the coarse-graining; a fine lattice has `factor` times the sides.
    n, shape : number of lattices and their (ly, lx) or (lz, ly, lx).
    ids : (n,) identity of each in the ensemble it was coarsened from (its own index if unknown).
    tie_seed : names the coins of tied majority blocks; None if the input does not say.
    series : chain and draw of each lattice, as far as the input knows them, each (n,).
    attrs : model, temperature and so on, as far as the input says.
    read : (start, stop) -> raw coarse numbers (stop - start, *shape): int16 block sums, int8
        spins or states, float32 fields; or int16 counts of states (stop - start, q, *shape).
    digest : SHA-256 of the lattices.
    q : number of Potts states; 0 for spins and fields.
    """

    path: Path
    rule: str
    factor: int
    n: int
    shape: tuple[int, ...]
    ids: NDArray[np.int64]
    tie_seed: int | None
    read: Callable[[int, int], NDArray[Any]]
    digest: str
    attrs: dict[str, Any] = field(default_factory=dict)
    series: dict[str, NDArray[Any]] = field(default_factory=dict)
    q: int = 0

    @property
    def fine_shape(self) -> tuple[int, ...]:
        """(Ly, Lx) or (Lz, Ly, Lx) of the lattices to come."""
        return tuple(side * self.factor for side in self.shape)

    def coins(self, ids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return what decides ties of the lattices `ids`; 0 throughout where it is not known.

        (n, *shape) int8 coins of +-1, or for Potts states their priorities, (n, q, *shape).
        """
        if self.tie_seed is None:
            states = (self.q,) if self.q else ()
            return np.zeros((len(ids), *states, *self.shape), dtype=np.int8)
        if self.q:
            return tie_priorities(self.tie_seed, ids, self.shape, self.q)
        return tie_coins(self.tie_seed, ids, self.shape)


def open_coarse(
    path: AnyPath, factor: int | None, rule: str | None, *, spins: bool = True
) -> CoarseInput:
    """Open coarse lattices: what `coarsen` wrote, or any that `open_lattices` takes.

    Parameters
    ----------
    path : lattices with attributes rule and factor, or others, for which both must be given.
    factor, rule : checked against the lattices' own if they have them.
    spins : whether the fine lattices are spins (or Potts states); if not, values may be any.

    Raises
    ------
    BadInput, StoreError : for what cannot be a coarse lattice of this rule and factor.
    """
    kind = "field" if rule in ("block_mean", "spectral") or not spins else "spins"
    source = open_lattices(path, None if rule is None else kind, repeats=True)
    if source.field == "image":
        raise StoreError(f"{path}: holds images; 'skild-phys images refine' makes them finer")
    source.model()  # refuses lattices that are not of the model they name
    own_rule, own_factor = source.attrs.get("rule"), source.attrs.get("factor")
    read: Callable[[int, int], NDArray[Any]] = source.read
    if "method" in source.attrs or own_rule is None or own_factor is None:
        if factor is None or rule is None:
            raise StoreError(
                f"{path}: not a coarse store; to refine its lattices as they are,"
                " give --rule and --factor"
            )
        own_rule, own_factor = check_rule(rule), check_factor(factor)
        read = _as_they_are(source, own_rule, own_factor, spins)
    elif spins and own_rule != "spectral" and source.field == "field":
        raise StoreError(f"{path}: holds fields: to refine them takes weights of fields")
    if factor is not None and factor != own_factor:
        raise BadInput("--factor", factor, f"{own_factor}, by which {path} was coarsened")
    if rule is not None and rule != own_rule:
        raise BadInput("--rule", rule, f"{own_rule}, by which {path} was coarsened")
    ids = source.variable("parent") if source.has("parent") else np.arange(source.n_samples)
    return CoarseInput(
        source.path,
        check_rule(str(own_rule)),
        check_factor(own_factor),
        source.n_samples,
        source.shape,
        ids.astype(np.int64),
        source.attrs.get("tie_seed"),
        read,
        source.digest(),
        source.attrs,
        {name: source.variable(name) for name in ("chain", "draw") if source.has(name)},
        source.q,
    )


def _as_they_are(
    source: Lattices, rule: str, factor: int, spins: bool
) -> Callable[[int, int], NDArray[Any]]:
    """Return what reads lattices as coarse ones of a rule that they do not name themselves."""
    if rule == "block_mean" and source.field in ("spins", "states"):
        raise StoreError(f"{source.path}: holds {source.field}, not block means")
    if source.field in SCALED_FIELDS:
        if (rule, source.scale) != ("block_mean", stored_scale(rule, factor, len(source.shape))):
            sites = round(1 / source.scale)
            raise BadInput("--rule, --factor", f"{rule}, {factor}", f"block means of {sites} sites")
        return source.read

    def read(start: int, stop: int) -> NDArray[Any]:
        values = source.read(start, stop)
        if rule == "spectral" or not spins:
            return values.astype(np.float32)
        return values if source.field != "field" else _raw(values, rule, factor, source.path)

    for span in source.batches() if source.field == "field" else ():
        read(*span)  # before anything is written
    return read


def _raw(values: NDArray[Any], rule: str, factor: int, path: Path) -> NDArray[Any]:
    """Return a user's numbers of spins as a coarse store would keep them; raises StoreError."""
    if rule in ("majority", "decimate"):
        if not np.isin(values, (-1, 1)).all():
            raise StoreError(
                f"{path}: holds fields, not spins of -1 and +1 (from 0 and 1: 2*s.astype('i1')-1);"
                " to refine fields takes weights of fields"
            )
        return values.astype(np.int8)
    sites = factor ** (values.ndim - 1)
    sums = values.astype(np.float64) * (sites if values.dtype.kind == "f" else 1)
    whole = np.rint(sums)
    valid = (np.abs(sums - whole) < 1e-3) & (np.abs(whole) <= sites) & ((whole - sites) % 2 == 0)
    if not valid.all():
        bad = values[~valid].flat[0]
        kind = "mean (floating point)" if values.dtype.kind == "f" else "sum (integer)"
        raise StoreError(f"{path}: {bad} is no {kind} over {sites} spins of -1 and +1")
    return whole.astype(np.int16)
