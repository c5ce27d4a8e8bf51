"""Swendsen and Wang's clusters given the coarse lattice, Phys. Rev. Lett. 58, 86 (1987).

Equal neighbours are bound with probability 1 - exp(-coupling). Given the bonds every assignment
of states to clusters that the coarse lattice allows has the weight of its ties, and the clusters
are redrawn from that distribution: for decimation all at once, those with a kept site staying; for
majority one after the other, which leaves it invariant too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skild_phys.rules.moves import take


@njit(cache=True, nogil=True, inline="always")
def _root(parent, site):  # type: ignore[no-untyped-def]
    above = parent[site]
    while above != site:
        parent[site] = parent[above]
        site = np.uint64(parent[site])
        above = parent[site]
    return site


@njit(cache=True, nogil=True, inline="always")
def _union(parent, one, two):  # type: ignore[no-untyped-def]
    x, y = _root(parent, one), _root(parent, two)
    if x < y:
        parent[y] = x
    else:
        parent[x] = y


@njit(cache=True, nogil=True)
def _bind_inside(cells, bonds, n, bond, source, parent, both, flag):  # type: ignore[no-untyped-def]
    """Draw the bonds inside blocks; each site joins the cluster of one below, then of others."""
    for p in range(bonds.shape[0]):
        site = np.uint64(p) * n
        for i in range(n):
            parent[site + i] = site + i
        for column in range(0, bonds.shape[1], 2):
            if bonds[p, column] < 0:
                continue
            other = np.uint64(bonds[p, column]) * n
            bits = take(source, n)
            for i in range(n):
                bound = (cells[site + i] == cells[other + i]) & (bits[i] < bond)
                alone = parent[site + i] == site + i
                join = parent[other + i] if alone else parent[site + i]
                parent[site + i] = join if bound else parent[site + i]
                flag[i] = bound & (not alone)
            count = np.uint64(0)
            for i in range(n):
                both[count] = i
                count += np.uint64(flag[i])
            for k in range(count):
                _union(parent, site + both[k], other + both[k])


@njit(cache=True, nogil=True)
def _bind_across(cells, bonds, ahead, n, bond, source, parent):  # type: ignore[no-untyped-def]
    for p in range(bonds.shape[0]):
        site = np.uint64(p) * n
        for axis in range(ahead.shape[0]):
            if bonds[p, 2 * axis + 1] >= 0:
                continue
            other = np.uint64(~bonds[p, 2 * axis + 1]) * n
            bits = take(source, n)
            for i in range(n):
                j = other + np.uint64(ahead[axis, i])
                if cells[site + i] == cells[j] and bits[i] < bond:
                    _union(parent, site + i, j)


@njit(cache=True, nogil=True)
def label_clusters(cells, layout, bond, source, parent, both):  # type: ignore[no-untyped-def]
    """Set `parent` to the smallest number of a site of each site's cluster."""
    n = np.uint64(layout.ahead.shape[1])
    _bind_inside(cells, layout.bonds, n, bond, source, parent, both, np.empty(n, np.int8))
    _bind_across(cells, layout.bonds, layout.ahead, n, bond, source, parent)
    for site in range(parent.size):
        parent[site] = parent[parent[site]]
