"""Wolff's single-cluster update, Phys. Rev. Lett. 62, 361 (1989): Ising and Potts models.

A cluster grows over bonds between equal neighbours, each taken with p = 1 - exp(-dE / T), dE what
it costs to break it; then all of it takes one other value. The loop has no branch that depends on
chance: a neighbour is always written to the queue, and the queue's end moves on if it joined. The
queue is first in, first out, so that the sites ahead are known and the processor can look at them
early. Indices are unsigned, because Numba looks at each signed one for a negative value. 32 random
bits decide a bond: p is exact to 2^-32.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.models import MODELS
from skild_phys.rng import next_words

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
# A place in the queue: coordinates of 16 bits each in two dimensions, of 10 in three.
_10, _16 = np.uint64(10), np.uint64(16)


def bond_threshold(cost: float, temperature: float) -> np.uint64:
    """Return p = 1 - exp(-cost / T) times 2^32; `cost`, in J, is of breaking a bond."""
    return np.uint64(min(int(-math.expm1(-cost / temperature) * 2.0**32), 2**32 - 1))


def _idle_threshold(threshold: np.uint64, q: int) -> np.uint64:
    """Return how often, of 2^32, a cluster is left as it is: once in 64 where bonds are rare.

    With two states and clusters of one site, at high temperature, the number of sites in either
    state is even and odd in turn, and samples an even number of clusters apart would see only one
    of the two. At p = 0.3 clusters differ in size enough to forget it within a few.
    """
    rare = q in (0, 2) and threshold < 0.3 * 2.0**32
    return np.uint64(2**26 if rare else 0)


@njit(cache=True, nogil=True, inline="always")
def _visit(flat, site, place, old, new, joins, queue, tail):  # type: ignore[no-untyped-def]
    """Let a site join if it may; return the end of the queue."""
    value = flat[site]
    joined = (value == old) & joins
    flat[site] = new if joined else value
    queue[tail] = place
    return tail + np.uint64(joined)


@njit(cache=True, nogil=True, inline="always")
def _other(old, q, bits):  # type: ignore[no-untyped-def]
    """Return what a cluster of value `old` turns into; q = 0 means spins of +-1."""
    if q == 0:
        return -old
    shift = np.int8(((bits & _LOW) * np.uint64(q - 1)) >> _HALF) + np.int8(1)
    return np.int8((old + shift) % q)


@njit(cache=True, nogil=True, inline="always")
def _packed(site, sides, bits_each):  # type: ignore[no-untyped-def]
    """Return the place in the queue of a site: its coordinates, the fastest one lowest."""
    place, shift = _ZERO, _ZERO
    for axis in range(len(sides) - 1, -1, -1):
        side = np.uint64(sides[axis])
        rest = site // side
        place |= (site - rest * side) << shift
        site = rest
        shift += bits_each
    return place


@njit(cache=True, nogil=True, inline="always")
def _site(place, sides, bits_each):  # type: ignore[no-untyped-def]
    """Return the site at a place in the queue."""
    low = (_ONE << bits_each) - _ONE
    site, stride, shift = _ZERO, _ONE, _ZERO
    for axis in range(len(sides) - 1, -1, -1):
        site += ((place >> shift) & low) * stride
        stride *= np.uint64(sides[axis])
        shift += bits_each
    return site


@njit(cache=True, nogil=True)
def _wolff(spins, threshold, q, idle, state, clusters, queue):  # type: ignore[no-untyped-def]
    sides = spins.shape
    bits_each = _16 if len(sides) == 2 else _10
    low = (_ONE << bits_each) - _ONE
    flat = spins.reshape(-1)
    flipped = np.int64(0)
    words = (state[0], state[1], state[2], state[3])
    for _ in range(clusters):
        bits, words = next_words(words)
        if (bits & _LOW) < idle:
            continue
        seed = ((bits >> _HALF) * np.uint64(flat.size)) >> _HALF
        old = flat[seed]
        new = _other(old, q, bits)
        flat[seed] = new
        queue[0] = _packed(seed, sides, bits_each)
        head, tail = _ZERO, _ONE
        while head < tail:
            here = np.uint64(queue[head])
            head += _ONE
            site = _site(here, sides, bits_each)
            stride, shift = _ONE, _ZERO
            for axis in range(len(sides) - 1, -1, -1):
                side = np.uint64(sides[axis])
                x = (here >> shift) & low
                ahead = (_ZERO if x + _ONE == side else x + _ONE) - x
                back = (side - _ONE if x == _ZERO else x - _ONE) - x
                drawn, words = next_words(words)
                join = (drawn & _LOW) < threshold
                there, place = site + ahead * stride, here + (ahead << shift)
                tail = _visit(flat, there, place, old, new, join, queue, tail)
                join = (drawn >> _HALF) < threshold
                there, place = site + back * stride, here + (back << shift)
                tail = _visit(flat, there, place, old, new, join, queue, tail)
                stride *= side
                shift += bits_each
        flipped += np.int64(tail)
    state[0], state[1], state[2], state[3] = words
    return flipped


def wolff(
    spins: NDArray[np.int8],
    temperature: float,
    state: NDArray[np.uint64],
    clusters: int,
    q: int = 0,
) -> int:
    """Flip `clusters` Wolff clusters on a torus, in place; return the number of flipped spins.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8, C-contiguous, +-1 or 0 .. q - 1; sides up to
        2^15 in two dimensions, 2^10 in three.
    temperature : in J / k_B.
    state : (4,) uint64 generator state (`rng.kernel_state`); advanced in place.
    clusters : how many. Fixed by the caller: stopping at a number of flipped spins instead would
        bias the ensemble.
    q : states of the Potts model, of which a cluster takes another; 0 for the Ising model.
    """
    threshold = bond_threshold(1.0 if q else 2.0, temperature)
    # The end of the queue is written before it is known whether it is kept.
    queue = np.empty(spins.size + 1, dtype=np.uint32)
    return int(_wolff(spins, threshold, q, _idle_threshold(threshold, q), state, clusters, queue))


def _correlation_length(temperature: float) -> float:
    """Return the correlation length of the infinite 2D Ising lattice along an axis, in sites.

    1 / |ln tanh K + 2 K| above Tc and half of that below (McCoy and Wu, The Two-Dimensional
    Ising Model, 1973); infinite at Tc.
    """
    k = 1.0 / temperature
    inverse = -math.log(math.tanh(k)) - 2.0 * k
    if inverse == 0.0:
        return math.inf
    return 1.0 / inverse if inverse > 0.0 else -0.5 / inverse


def default_every(side: int, temperature: float) -> int:
    """Return how many Wolff clusters of the 2D Ising model make about two autocorrelation times.

    tau is 2.2 (ell / 64)^0.3 times as many flipped spins as sites, ell the smaller of L and the
    correlation length, and a cluster has on average about chi = min(1.09 L^(7/4),
    1 + 2.6 xi^(7/4)) spins above Tc (at Tc 5.8 and 8.4 clusters at L = 64 and 128, in the table
    of exact references).
    """
    xi = _correlation_length(temperature)
    ell = max(1.0, min(float(side), xi))
    size = float(side * side)
    cluster = 1.09 * math.pow(side, 1.75)
    if temperature > MODELS["ising2d"].critical_temperature and math.isfinite(xi):
        cluster = min(cluster, 1.0 + 2.6 * math.pow(xi, 1.75))
    return math.ceil(4.4 * math.pow(ell / 64.0, 0.3) * size / min(cluster, size))
