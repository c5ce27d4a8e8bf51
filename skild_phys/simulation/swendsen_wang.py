"""Swendsen-Wang updates, Phys. Rev. Lett. 58, 86 (1987): Ising and Potts models.

Every bond between equal neighbours is taken with p = 1 - exp(-dE / T), and every cluster of the
bonds gets a value of its own, all values being as likely. The bond pass is a comparison of rows,
which vectorises. Labels come from a union-find in which a parent never stands behind its child:
first each run of sites joined along x points to its first site, then the other bonds are united
row by row (Rem's algorithm with splicing; Patwary, Blair and Manne, SEA 2010). A bond parallel
to its neighbour across two joined pairs closes a loop and is passed over. Indices are unsigned,
because Numba looks at each signed one for a negative value. 32 random bits decide a bond, and a
state of the Potts model: p is exact to 2^-32, and so is the probability of a state. The Ising
model in two dimensions has a kernel of its own, `swendsen_wang_runs`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.models.base import neighbour_rows
from skild_phys.rng import BITS_BLOCK, fill_bits
from skild_phys.simulation.swendsen_wang_runs import swendsen_wang_runs
from skild_phys.simulation.union_find import unite, unite_near_roots
from skild_phys.simulation.wolff import bond_threshold

_SIDEWAYS = np.uint8(1)


@njit(cache=True, nogil=True)
def draw_bonds(rows, before, threshold, words, bonds):  # type: ignore[no-untyped-def]
    """Draw the bonds of every site to the site before it; bit 0: along x, bit i: axis i.

    A bond joins equal neighbours whose 32 bits of `words` are below `threshold`.
    """
    height, width = rows.shape
    axes = before.shape[1]
    bits = words.view(np.uint32)
    for r in range(height):
        row, out = rows[r], bonds[r]
        first = r * (axes + 1) * width
        drawn = bits[first : first + width]
        out[0] = (row[0] == row[width - 1]) & (drawn[0] < threshold)
        for x in range(1, width):
            out[x] = np.uint8((row[x] == row[x - 1]) & (drawn[x] < threshold))
        for axis in range(axes):
            near = rows[before[r, axis]]
            drawn = bits[first + (axis + 1) * width : first + (axis + 2) * width]
            shift = np.uint8(axis + 1)
            for x in range(width):
                out[x] |= np.uint8((row[x] == near[x]) & (drawn[x] < threshold)) << shift


@njit(cache=True, nogil=True)
def label_clusters(bonds, before, parent, todo):  # type: ignore[no-untyped-def]
    """Make `parent` (sites,) a forest whose trees are the clusters, each parent first."""
    height, width = bonds.shape
    for r in range(height):
        own = bonds[r]
        start, run = r * width, r * width
        for x in range(width):
            run = start + x if x == 0 or own[x] & _SIDEWAYS == 0 else run
            parent[start + x] = run
        for axis in range(before.shape[1]):
            # The bond round the edge of the lattice waits until both rows have labels.
            if before[r, axis] < r:
                _unite_rows(own, bonds[before[r, axis]], axis, start, before[r, axis], parent, todo)
    for r in range(height):
        for axis in range(before.shape[1]):
            if before[r, axis] > r:
                start, near = r * width, before[r, axis]
                _unite_rows(bonds[r], bonds[near], axis, start, near, parent, todo)
        if bonds[r, 0] & _SIDEWAYS:
            unite(parent, np.uint64(r * width), np.uint64(r * width + width - 1))


@njit(cache=True, nogil=True)
def _unite_rows(own, near, axis, start, other, parent, todo):  # type: ignore[no-untyped-def]
    """Unite the sites of a row with those of row `other` that an axis has bonds to."""
    width = own.size
    bit = np.uint8(axis + 1)
    count = np.uint64(0)
    last = np.uint8(0)
    for x in range(width):
        bond = (own[x] >> bit) & np.uint8(1)
        loop = last & own[x] & near[x] & np.uint8(x != 0)
        todo[count] = x
        count += np.uint64(bond & (loop ^ np.uint8(1)))
        last = bond
    for k in range(count):
        here = np.uint64(todo[k])
        unite_near_roots(parent, np.uint64(start) + here, np.uint64(other * width) + here)


@njit(cache=True, nogil=True)
def _redraw(flat, parent, q, words, values):  # type: ignore[no-untyped-def]
    """Give every cluster a value of its own: +-1 if q = 0, else a state 0 .. q - 1."""
    bits = words.view(np.uint32)
    for site in range(flat.size):
        if q == 0:
            bit = (words[site >> 6] >> np.uint64(site & 63)) & np.uint64(1)
            new = np.int8(2) * np.int8(bit) - np.int8(1)
        else:
            new = np.int8((np.uint64(bits[site]) * np.uint64(q)) >> np.uint64(32))
        # A parent stands before its child and has its value already; a root keeps its own.
        values[site] = new
        values[site] = values[np.uint64(parent[site])]
    for site in range(flat.size):
        flat[site] = values[site]


@njit(cache=True, nogil=True)
def _sweeps(rows, before, threshold, q, state, sweeps, words, parent, todo):  # type: ignore[no-untyped-def]
    bonds = np.empty(rows.shape, dtype=np.uint8)
    values = np.empty(rows.size, dtype=np.int8)
    needed = rows.size // 64 + 1 if q == 0 else rows.size // 2 + 1
    drawn = words[: -(-needed // BITS_BLOCK) * BITS_BLOCK]
    for _ in range(sweeps):
        fill_bits(state, words)
        draw_bonds(rows, before, threshold, words, bonds)
        label_clusters(bonds, before, parent, todo)
        fill_bits(state, drawn)
        _redraw(rows.reshape(-1), parent, q, drawn, values)


def swendsen_wang(
    spins: NDArray[np.int8],
    temperature: float,
    state: NDArray[np.uint64],
    sweeps: int,
    q: int = 0,
) -> None:
    """Make `sweeps` Swendsen-Wang sweeps on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8, C-contiguous, every side from 2 on: +-1, or 0 .. q - 1.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each draws all bonds and all clusters anew.
    q : states of the Potts model; 0 for the Ising model.
    """
    shape = spins.shape
    threshold = np.uint32(bond_threshold(1.0 if q else 2.0, temperature))
    before = np.ascontiguousarray(neighbour_rows(shape)[:, ::2])
    if q == 0 and len(shape) == 2:
        swendsen_wang_runs(spins, threshold, before[:, 0], state, sweeps)
        return
    numbers = max(math.prod(shape) * len(shape), 2)
    words = np.empty(-(-numbers // (2 * BITS_BLOCK)) * BITS_BLOCK, dtype=np.uint64)
    parent = np.empty(spins.size, dtype=np.uint32)
    todo = np.empty(shape[-1] + 1, dtype=np.uint32)
    rows = spins.reshape(-1, shape[-1])
    _sweeps(rows, before, threshold, q, state, sweeps, words, parent, todo)
