"""Clusters of a lattice: geometric, of equal neighbours, and Fortuin-Kasteleyn's.

A geometric cluster joins neighbours that are equal. An FK cluster joins equal neighbours with
probability 1 - exp(-E / T) only, E the energy between an equal and an unequal pair (2 J of
Ising spins, J of Potts states): C. Fortuin and P. Kasteleyn, Physica 57, 536 (1972). The mean size
sum s^2 / N of FK clusters is the susceptibility, exactly. A model that declares no such bond has
no FK clusters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.measurement.observables.base import (
    Axis,
    Coordinate,
    Observable,
    Statistic,
    mean,
    observable,
)
from skild_phys.measurement.system import Array, Slice, System
from skild_phys.models.base import neighbour_rows
from skild_phys.rng import BITS_BLOCK, LANES, fill_bits, lane_state
from skild_phys.simulation.swendsen_wang import draw_bonds, label_clusters
from skild_phys.simulation.wolff import bond_threshold


@dataclass(frozen=True)
class Clusters:
    """What is known of the clusters of n lattices of N sites.

    Attributes
    ----------
    density : (n, bins) float64, clusters of a size per site and per unit of size, averaged over
        the sizes of a bin (`size_edges`); the largest cluster is among them.
    largest : (n,) float64, share of the sites that the largest cluster holds.
    mean_size : (n,) float64, sum over clusters of s^2 / N: the mean size of a site's cluster.
    """

    density: Array
    largest: Array
    mean_size: Array


@functools.lru_cache(maxsize=8)
def size_edges(sites: int) -> NDArray[np.int64]:
    """Return the edges 1, 2, 3, 4, 6, 8, 12 .. of bins of cluster sizes; the last is sites + 1."""
    edges = [1]
    step = 1
    while edges[-1] <= sites:
        edges.append(2 * step)
        if step > 0 and 3 * step <= sites:
            edges.append(3 * step)
        step *= 2
    kept = np.unique([e for e in edges if e <= sites] + [sites + 1])
    return np.asarray(kept, dtype=np.int64)


def bin_sizes(sites: int) -> Array:
    """Return the geometric mean of the smallest and the largest size in each bin."""
    edges = size_edges(sites)
    return np.sqrt(edges[:-1] * (edges[1:] - 1.0))


def geometric_clusters(lattices: NDArray[np.int8]) -> Clusters:
    """Return the geometric clusters of lattices (n, *shape) of spins or states, on a torus."""
    return _measure(lattices, None, np.zeros((len(lattices), 4, LANES), dtype=np.uint64))


def fk_clusters(
    lattices: NDArray[np.int8],
    temperature: float,
    bond: float,
    *,
    seed: int,
    index: NDArray[np.int64],
) -> Clusters:
    """Return Fortuin-Kasteleyn clusters of lattices, on a torus.

    Parameters
    ----------
    lattices : (n, *shape) int8; spins +-1 or Potts states.
    temperature : in J / k_B.
    bond : energy, in J, that breaking a bond costs (`Model.bond`).
    seed, index : bonds of lattice i from the stream "bonds" index[i] (`rng.KEYS`) of `seed`.
    """
    states = np.stack([lane_state(seed, "bonds", int(i)) for i in index])
    threshold = int(bond_threshold(bond, temperature))
    return _measure(lattices, threshold, states)


def _measure(
    lattices: NDArray[np.int8], threshold: int | None, states: NDArray[np.uint64]
) -> Clusters:
    """Measure clusters; without a threshold all bonds between equal neighbours hold."""
    n, *sides = lattices.shape
    shape, sites = tuple(sides), math.prod(sides)
    edges = size_edges(sites)
    rows = np.ascontiguousarray(lattices).reshape(n, -1, shape[-1])
    before = np.ascontiguousarray(neighbour_rows(shape)[:, ::2])
    place = (np.searchsorted(edges, np.arange(sites + 1), side="right") - 1).astype(np.int32)
    counts = np.zeros((n, len(edges) - 1), dtype=np.int64)
    totals = np.zeros((n, 2))
    numbers = max(sites * len(shape), 2)
    words = np.zeros(-(-numbers // (2 * BITS_BLOCK)) * BITS_BLOCK, dtype=np.uint64)
    limit = np.uint32(1 if threshold is None else threshold)
    drawn = threshold is not None
    _count_clusters(rows, before, limit, drawn, states, words, place, counts, totals)
    density = counts / (np.diff(edges) * float(sites))
    return Clusters(density, totals[:, 0] / sites, totals[:, 1] / sites)


@njit(cache=True, nogil=True)
def _count_clusters(  # type: ignore[no-untyped-def]
    rows, before, threshold, drawn, states, words, place, counts, totals
):
    lattices, height, width = rows.shape
    bonds = np.empty((height, width), dtype=np.uint8)
    parent = np.empty(height * width, dtype=np.uint32)
    size = np.empty(height * width, dtype=np.uint32)
    todo = np.empty(width + 1, dtype=np.uint32)
    for n in range(lattices):
        if drawn:
            fill_bits(states[n], words)
        draw_bonds(rows[n], before, threshold, words, bonds)
        label_clusters(bonds, before, parent, todo)
        size[:] = 0
        # A parent stands before its child: by then it points at its root.
        for site in range(parent.size):
            root = parent[np.uint64(parent[site])]
            parent[site] = root
            size[root] += np.uint32(1)
        largest, squares = 0.0, 0.0
        for site in range(parent.size):
            if size[site] != 0:
                counts[n, place[size[site]]] += 1
                s = np.float64(size[site])
                squares += s * s
                largest = max(largest, s)
        totals[n, 0] = largest
        totals[n, 1] = squares


def _geometric(part: Slice) -> Clusters:
    return geometric_clusters(part.values)


def _fk(part: Slice) -> Clusters:
    of = part.system
    return fk_clusters(part.values, of.temperature, of.bond, seed=of.seed, index=part.index)


def _discrete(system: System) -> bool:
    return system.field != "field"


def _has_bonds(system: System) -> bool:
    return math.isfinite(system.bond) and math.isfinite(system.temperature)


_SIZE = Axis("size", (
    Coordinate(
        "cluster_size", lambda s: bin_sizes(s.sites), "geometric mean of a bin's sizes", "site", "s"
    ),
))  # fmt: skip
_SIZES = ("largest_cluster", "share of sites in the largest", "1"), (
    "cluster_size", "mean size of a site's", "site",
)  # fmt: skip


def _observables(
    kind: str,
    label: str,
    title: str,
    find: Callable[[Slice], Clusters],
    applies: Callable[[System], bool],
) -> tuple[Observable, ...]:
    """Return the share of the largest cluster, the mean size, and the density by size."""
    density = Statistic(kind, lambda part: part.once(find).density, applies)
    sizes = Statistic(
        f"{kind}_sizes",
        lambda part: np.stack([part.once(find).largest, part.once(find).mean_size], axis=-1),
        applies,
    )
    made = [
        observable(f"{kind}_{name}", unit, sizes, about=f"{about} {title} cluster")(
            lambda sizes, system, i=i: sizes[..., i]
        )
        for i, (name, about, unit) in enumerate(_SIZES)
    ]
    of_a_size = observable(
        f"{kind}_cluster_density", "site^-2", density, f"n(s) {label}", axis=_SIZE,
        about=f"{title} clusters of a size, per site",
    )  # fmt: skip
    return (*made, of_a_size(mean))


_both = (
    *_observables("geometric", "geometric", "geometric", _geometric, _discrete),
    *_observables("fk", "FK", "Fortuin-Kasteleyn", _fk, _has_bonds),
)
