"""From a store to the numbers that every estimate is made of: one pass, chunk by chunk.

Each lattice is reduced to its translational averages; in 3D, and of Potts states, to what
energy and magnetization give. A row holds the average over one lattice
or, in a store of more than `MAX_ROWS` lattices, over a few that follow one another in their
chain, so that memory stays bounded whatever the store's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Array, Chains
from skild_phys.errors import StoreError
from skild_phys.lattice.models import get_model
from skild_phys.lattice.models.potts import potts
from skild_phys.measure.correlations import (
    four_point_terms,
    pattern_counts,
    square_sides,
    two_point,
    two_point_map,
)
from skild_phys.measure.structure_factor import shells, smallest_modes, structure_factor
from skild_phys.measure.thermodynamics import magnetization_moments, moments
from skild_phys.store import LatticeStore

MAX_ROWS = 8192
_SLICE_SITES = 2**21
_NO_SIDES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Which row each lattice of a store is averaged into.

    Attributes
    ----------
    label : (lattices,) int64, the row of a lattice.
    size : the number of rows.
    members : (size,) int64, how many different parents (or lattices) a row is made of.
    chains : where the rows stand in their Markov chains; None if the store does not say.
    """

    label: NDArray[np.int64]
    size: int
    members: NDArray[np.int64]
    chains: Chains | None

    def of_parents(self, parent: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of lattices of the store, (n,) indices; -1 for the index -1."""
        return np.where(parent >= 0, self.label[parent], -1)


@dataclass(frozen=True)
class Statistics:
    """What one pass over a store leaves.

    Attributes
    ----------
    rows : name -> (rows, ...) float64, see `lattice_statistics`; NaN in rows without lattices.
    count : (rows,) int64, lattices in each row.
    per_lattice : `magnetization` and, for spins and states, `energy`, (lattices used,) float64.
    power, power_error : (Ly, Lx // 2 + 1) float64, mean S(k) mode by mode and its standard
        error over lattices taken as independent; None unless `has_correlations`.
    shape, sides : edges of the lattice and of the squares of the four-point function.
    """

    rows: dict[str, Array]
    count: NDArray[np.int64]
    per_lattice: dict[str, Array]
    power: Array | None
    power_error: Array | None
    shape: tuple[int, ...]
    sides: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> Statistics:
        """Return the same with only the chosen rows; what is per lattice stays as it is."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return replace(self, rows=rows, count=self.count[chosen])


def is_spins(store: LatticeStore) -> bool:
    """Return whether the store holds +-1."""
    return store.field == "spins"


def has_correlations(store: LatticeStore) -> bool:
    """Return whether G(r), S(k) and patterns are measured: of spins and real fields in 2D."""
    return len(store.shape) == 2 and not store.q


def chains_of(store: LatticeStore) -> Chains | None:
    """Return the chain and draw of every lattice, None if the store does not record them."""
    if not (store.has("chain") and store.has("draw")):
        return None
    chain, draw = (np.asarray(store.variable(name), dtype=np.int64) for name in ("chain", "draw"))
    return Chains(chain[: store.n_samples], draw[: store.n_samples])


def identities(store: LatticeStore) -> NDArray[np.int64]:
    """Return what names the ancestor of each lattice: `parent`, or else its own index."""
    if store.has("parent"):
        return np.asarray(store.variable("parent"), dtype=np.int64)
    return np.arange(store.n_samples)


def rows_of(store: LatticeStore, max_rows: int = MAX_ROWS) -> Rows:
    """Return a row for each lattice; refinements of one parent share theirs.

    Beyond `max_rows`, successive lattices of a chain are put into one row as well.
    """
    parents, first, label = np.unique(identities(store), return_index=True, return_inverse=True)
    n = len(parents)
    chains = chains_of(store)
    if chains is not None:
        chains = chains.take(first)
    group = -(-n // max_rows)
    if group <= 1:
        return Rows(label, n, np.ones(n, dtype=np.int64), chains)
    if chains is None:
        row = np.arange(n) // group
        return Rows(row[label], int(row[-1]) + 1, np.bincount(row), None)
    chain, time = chains.grid()
    kept, row = np.unique(np.stack([chain, time // group]), axis=1, return_inverse=True)
    row = row.ravel()
    return Rows(row[label], kept.shape[1], np.bincount(row), Chains(kept[0], kept[1]))


def slices(store: LatticeStore) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first sample, raw numbers) over the store, at most a few million sites at a time."""
    step = max(_SLICE_SITES // math.prod(store.shape), 1)
    for start, stop in store.batches():
        raw = store.read(start, stop)
        for first in range(0, len(raw), step):
            yield start + first, raw[first : first + step]


def read_lattices(store: LatticeStore, index: NDArray[np.int64]) -> NDArray[Any]:
    """Return the raw lattices of any indices, in their order, reading each chunk once."""
    chunk = index // store.chunk
    none = store.read(0, 0)
    parts = np.empty((len(index), *none.shape[1:]), dtype=none.dtype)
    for number in np.unique(chunk):
        start = int(number) * store.chunk
        block = store.read(start, min(start + store.chunk, store.n_samples))
        here = chunk == number
        parts[here] = block[index[here] - start]
    return parts


def lattice_statistics(
    field: NDArray[Any], sides: NDArray[np.int64], model: str | None
) -> tuple[dict[str, Array], Array]:
    """Reduce lattices to their translational averages.

    Parameters
    ----------
    field : (n, Ly, Lx) int8 spins, or float64 in physical units.
    sides : of the squares of the four-point function.
    model : name of the Hamiltonian that gives an energy to the spins; None for no energy.

    Returns
    -------
    The averages by name, each (n, ...) float64: four_point (sides, 5), axis and diagonal (R,),
    radial (shells,), moments (4,) of m; s_min () unless an edge is 1, where no mode is the
    smallest; for spins also patterns (512,) as frequencies
    and energy (2,) as e and e^2 in J. Then S(k) of each lattice, (n, Ly, Lx // 2 + 1).
    """
    shape = (field.shape[1], field.shape[2])
    power = structure_factor(field)
    axis, diagonal = two_point(two_point_map(power, shape[1]))
    found = {
        "four_point": four_point_terms(field, sides.tolist()),
        "axis": axis,
        "diagonal": diagonal,
        "radial": shells(shape).average(power),
        "moments": magnetization_moments(field),
    }
    if min(shape) >= 2:
        found["s_min"] = smallest_modes(power)
    if field.dtype == np.int8:
        if min(shape) >= 3:
            found["patterns"] = pattern_counts(field) / float(shape[0] * shape[1])
        if model is not None:
            energy = get_model(model).energy(field)
            found["energy"] = np.stack([energy, energy**2], axis=-1)
    return found, power


def global_statistics(
    lattices: NDArray[Any], dimension: int, q: int, model: str | None
) -> dict[str, Array]:
    """Reduce lattices of any kind to the moments of the order parameter, and their energy.

    Parameters
    ----------
    lattices : (n, ...) int8 spins or, if `q` > 0, Potts states; or float64 in physical units.
    dimension : of the lattices.
    model : name of the Hamiltonian that gives an energy; None for no energy.

    Returns
    -------
    moments (n, 4), and energy (n, 2) as e and e^2 in J.
    """
    found = {
        "moments": moments(potts(q).magnetization(lattices))
        if q
        else magnetization_moments(lattices, dimension=dimension)
    }
    if model is not None:
        energy = get_model(model).energy(lattices)
        found["energy"] = np.stack([energy, energy**2], axis=-1)
    return found


def collect(
    store: LatticeStore,
    label: NDArray[np.int64],
    size: int,
    *,
    model: str | None = None,
    extra: Callable[[NDArray[np.int64], NDArray[Any]], dict[str, Array]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Reduce a store to rows in one pass.

    Parameters
    ----------
    store : open store; block means enter as stored integer times scale.
    label, size : row of each lattice (-1: left out) and number of rows.
    model : Hamiltonian that gives spins an energy; None: none.
    extra : further averages of (indices, raw lattices), by name, each (n, ...).
    progress : called with the number of lattices just read.

    Raises
    ------
    StoreError : from the store, if it is damaged or holds counts of states.
    """
    if store.field == "state_count":
        raise StoreError(
            f"{store.path}: variable 'state_count': only spins, states, block sums and fields are"
            " measured"
        )
    correlated = has_correlations(store)
    sides = square_sides((store.shape[0], store.shape[1])) if correlated else _NO_SIDES
    sums: dict[str, Array] = {}
    columns: dict[str, list[Array]] = {"magnetization": [], "energy": []}
    total, total_squares = 0.0, 0.0
    for first, raw in slices(store):
        if progress is not None:
            progress(len(raw))
        rows = label[first : first + len(raw)]
        used = rows >= 0
        if not used.any():
            continue
        raw = raw[used]
        field = raw if is_spins(store) or store.q else raw * np.float64(store.scale)
        if correlated:
            found, power = lattice_statistics(field, sides, model)
            total = total + power.sum(axis=0)
            total_squares = total_squares + (power**2).sum(axis=0)
        else:
            found = global_statistics(field, len(store.shape), store.q, model)
        if extra is not None:
            found |= extra(first + np.flatnonzero(used), raw)
        columns["magnetization"].append(found["moments"][:, 0])
        if "energy" in found:
            columns["energy"].append(found["energy"][:, 0])
        for name, values in found.items():
            if name not in sums:
                sums[name] = np.zeros((size, *values.shape[1:]))
            np.add.at(sums[name], rows[used], values)
    count = np.bincount(label[label >= 0], minlength=size)
    n = max(int(count.sum()), 1)
    power = np.asarray(total / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {name: (a.T / count).T for name, a in sums.items()}
        spread = np.asarray(total_squares / n - power**2)
        error = np.sqrt(np.maximum(spread, 0) / np.float64(n - 1))
    per_lattice = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    known = (power, error) if correlated else (None, None)
    return Statistics(means, count, per_lattice, known[0], known[1], store.shape, sides)
