"""The coarse lattices a refinement starts from: a coarse store, or a user's own array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.files import check_there
from skild_phys.lattice.coarsen import check_factor, check_rule, tie_coins, tie_priorities
from skild_phys.store import LatticeStore, is_store, open_array, open_store


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
    path: str | Path, factor: int | None, rule: str | None, *, spins: bool = True
) -> CoarseInput:
    """Open a coarse store, or any Zarr array or .npy file of coarse lattices.

    Parameters
    ----------
    path : what `skild-phys coarsen` wrote (which knows its rule and factor), or an array of
        2D spins or fields, (n, ly, lx), for which both must be given.
    factor, rule : checked against the store's own if it has them.
    spins : whether the fine lattices are spins (or Potts states); if not, values may be any.

    Raises
    ------
    BadInput, StoreError : for what cannot be a coarse lattice of this rule and factor.
    """
    path = Path(path)
    if is_store(path):
        return _from_store(open_store(path), factor, rule, spins)
    check_there(path)
    if factor is None:
        raise BadInput("--factor", factor, f"a factor: {path} does not say how it was coarsened")
    if rule is None:
        raise BadInput("--rule", rule, f"a rule: {path} does not say how it was coarsened")
    return _from_array(path, check_factor(factor), check_rule(rule), spins)


def _from_store(
    store: LatticeStore, factor: int | None, rule: str | None, spins: bool
) -> CoarseInput:
    if store.field == "image":
        raise StoreError(f"{store.path}: holds images; 'skild-phys images refine' makes them finer")
    store.model()  # refuses lattices that are not of the model they name
    own_rule, own_factor = store.attrs.get("rule"), store.attrs.get("factor")
    if "method" in store.attrs or own_rule is None or own_factor is None:
        if factor is None or rule is None:
            raise StoreError(
                f"{store.path}: not a coarse store; to refine its lattices as they are,"
                " give --rule and --factor"
            )
        own_rule, own_factor = check_rule(rule), check_factor(factor)
        if own_rule == "block_mean":
            raise StoreError(f"{store.path}: holds {store.field}, not block means")
    if factor is not None and factor != own_factor:
        raise BadInput("--factor", factor, f"{own_factor}, by which {store.path} was coarsened")
    if rule is not None and rule != own_rule:
        raise BadInput("--rule", rule, f"{own_rule}, by which {store.path} was coarsened")
    if spins and own_rule != "spectral" and store.field == "field":
        raise StoreError(f"{store.path}: holds fields: to refine them takes weights of fields")
    has_parent = store.has("parent")
    ids = store.variable("parent") if has_parent else np.arange(store.n_samples)
    return CoarseInput(
        store.path,
        str(own_rule),
        int(own_factor),
        store.n_samples,
        store.shape,
        ids.astype(np.int64),
        store.attrs.get("tie_seed"),
        store.read,
        store.digest(),
        store.attrs,
        {name: store.variable(name) for name in ("chain", "draw") if store.has(name)},
        store.q,
    )


def _from_array(path: Path, factor: int, rule: str, spins: bool) -> CoarseInput:
    array = open_array(path)
    n, ly, lx = (int(i) for i in array.shape)

    def read(start: int, stop: int) -> NDArray[Any]:
        values = np.asarray(array[start:stop])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StoreError(f"{path}: holds NaN or infinity")
        if rule == "spectral" or not spins:
            return values.astype(np.float32)
        return _raw(values, rule, factor, path)

    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    for start in range(0, n, 64):
        digest.update(np.ascontiguousarray(array[start : start + 64]).tobytes())
        read(start, min(start + 64, n))
    ids = np.arange(n, dtype=np.int64)
    return CoarseInput(path, rule, factor, n, (ly, lx), ids, None, read, digest.hexdigest())


def _raw(values: NDArray[Any], rule: str, factor: int, path: Path) -> NDArray[Any]:
    """Return a user's numbers of spins as a coarse store would keep them; raises StoreError."""
    if rule in ("majority", "decimate"):
        if not np.isin(values, (-1, 1)).all():
            hint = " (0 and 1: use 2 s - 1)" if np.isin(values, (0, 1)).all() else ""
            raise StoreError(f"{path}: holds spins other than -1 and +1{hint}")
        return values.astype(np.int8)
    sites = factor * factor
    sums = values.astype(np.float64) * (sites if values.dtype.kind == "f" else 1)
    whole = np.rint(sums)
    valid = (np.abs(sums - whole) < 1e-3) & (np.abs(whole) <= sites) & ((whole - sites) % 2 == 0)
    if not valid.all():
        bad = values[~valid].flat[0]
        kind = "mean (floating point)" if values.dtype.kind == "f" else "sum (integer)"
        raise StoreError(f"{path}: {bad} is no {kind} over {factor} x {factor} spins of -1 and +1")
    return whole.astype(np.int16)
