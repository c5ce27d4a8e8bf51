"""Clusters of a configuration: geometric, of equal neighbours, and Fortuin-Kasteleyn's.

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
from skild_phys.rng import LANES, lane_state
from skild_phys.simulation.swendsen_wang import Runs, label_runs, list_starts, pack_planes
from skild_phys.simulation.wolff import bond_threshold


@dataclass(frozen=True)
class _Clusters:
    """What is known of the clusters of n configurations of N sites.

    Attributes
    ----------
    density : (n, bins) float64, clusters of a size per site and per unit of size, averaged over
        the sizes of a bin (`_size_edges`); the largest cluster is among them.
    largest : (n,) float64, share of the sites that the largest cluster holds.
    mean_size : (n,) float64, sum over clusters of s^2 / N: the mean size of a site's cluster.
    """

    density: Array
    largest: Array
    mean_size: Array


@functools.lru_cache(maxsize=8)
def _size_edges(sites: int) -> NDArray[np.int64]:
    """Return the edges 1, 2, 3, 4, 6, 8, 12 .. of bins of cluster sizes; the last is sites + 1."""
    powers = 2 ** np.arange(sites.bit_length(), dtype=np.int64)
    edges = np.append(powers, 3 * powers)
    return np.unique(np.append(edges[edges <= sites], sites + 1))


def _bin_sizes(sites: int) -> Array:
    """Return the geometric mean of the smallest and the largest size in each bin."""
    edges = _size_edges(sites)
    return np.sqrt(edges[:-1] * (edges[1:] - 1.0))


def _geometric_clusters(lattices: NDArray[np.int8]) -> _Clusters:
    """Return the geometric clusters of spins or states (n, *shape), on a torus."""
    return _measure(lattices, None, np.zeros((len(lattices), 4, LANES), dtype=np.uint64))


def _fk_clusters(
    lattices: NDArray[np.int8],
    temperature: float,
    bond: float,
    *,
    seed: int,
    index: NDArray[np.int64],
) -> _Clusters:
    """Return Fortuin-Kasteleyn clusters of spins +-1 or Potts states (n, *shape), on a torus.

    Breaking a bond costs `bond` J. Bonds of configuration i are from the stream "bonds" index[i]
    (`rng.KEYS`) of `seed`.
    """
    states = np.stack([lane_state(seed, "bonds", int(i)) for i in index])
    return _measure(lattices, int(bond_threshold(bond, temperature)), states)


def _measure(
    lattices: NDArray[np.int8], threshold: int | None, states: NDArray[np.uint64]
) -> _Clusters:
    """Measure clusters; without a threshold all bonds between equal neighbours hold."""
    n, *sides = lattices.shape
    shape, sites = tuple(sides), math.prod(sides)
    edges = _size_edges(sites)
    values = (lattices - lattices.min()).view(np.uint8).reshape(n, -1, shape[-1])
    differ = int(np.bitwise_or.reduce(values, axis=None))
    planes = pack_planes(values, [bit for bit in range(8) if differ >> bit & 1 or not differ])
    runs, draws = Runs.of(shape), -(-sites * len(shape) // 64)
    if threshold is None:
        runs.taken[:], draws = 2**64 - 1, 0
    bin_of = (np.searchsorted(edges, np.arange(sites + 1), side="right") - 1).astype(np.int32)
    counts, totals = np.zeros((n, len(edges) - 1), dtype=np.int64), np.zeros((n, 2))
    limit = np.uint32(threshold or 0)
    _count_clusters(planes, shape[-1], runs, limit, states, draws, bin_of, counts, totals)
    density = counts / (np.diff(edges) * float(sites))
    return _Clusters(density, totals[:, 0] / sites, totals[:, 1] / sites)


@njit(cache=True, nogil=True)
def _count_clusters(  # type: ignore[no-untyped-def]
    planes, width, runs, threshold, states, draws, bin_of, counts, totals
):
    parent, first = runs.parent, runs.first
    size = np.empty(parent.size, dtype=np.uint32)
    for n in range(planes.shape[0]):
        count = label_runs(planes[n], width, runs, threshold, states[n], draws)
        list_starts(runs, width)
        size[:count] = 0
        # A parent stands before its child: by then it points at its root.
        for run in range(count):
            root = parent[np.uint64(parent[run])]
            parent[run] = root
            size[root] += first[run + np.uint64(1)] - first[run]
        largest, squares = 0.0, 0.0
        for run in range(count):
            if size[run] != 0:
                counts[n, bin_of[size[run]]] += 1
                s = np.float64(size[run])
                squares += s * s
                largest = max(largest, s)
        totals[n, 0] = largest
        totals[n, 1] = squares


def _fk(part: Slice) -> _Clusters:
    of = part.system
    return _fk_clusters(part.values, of.temperature, of.bond, seed=of.seed, index=part.index)


_SIZE = Axis("size", (
    Coordinate(
        "cluster_size", lambda s: _bin_sizes(s.sites), "geometric mean of a bin's sizes", "site",
        "s",
    ),
))  # fmt: skip


def _observables(
    kind: str,
    label: str,
    title: str,
    find: Callable[[Slice], _Clusters],
    applies: Callable[[System], bool],
) -> tuple[Observable, ...]:
    """Return the share of the largest cluster, the mean size, and the density by size."""

    density = Statistic(kind, lambda part: part.once(find).density, applies)
    sizes = Statistic(
        f"{kind}_sizes",
        lambda part: np.stack([part.once(find).largest, part.once(find).mean_size], axis=-1),
        applies,
    )
    return (
        observable(
            f"{kind}_largest_cluster", "1", sizes,
            about=f"share of sites in the largest {title} cluster",
        )(lambda sizes, system: sizes[..., 0]),
        observable(
            f"{kind}_cluster_size", "site", sizes, about=f"mean size of a site's {title} cluster"
        )(lambda sizes, system: sizes[..., 1]),
        observable(
            f"{kind}_cluster_density", "site^-2", density, f"n(s) {label}", axis=_SIZE,
            about=f"{title} clusters of a size, per site",
        )(mean),
    )  # fmt: skip


def _has_bonds(system: System) -> bool:
    return math.isfinite(system.bond) and math.isfinite(system.temperature)


OBSERVABLES = (
    *_observables(
        "geometric", "geometric", "geometric", lambda part: _geometric_clusters(part.values),
        lambda system: system.field != "field",
    ),
    *_observables("fk", "FK", "Fortuin-Kasteleyn", _fk, _has_bonds),
)  # fmt: skip
