"""Wolff's single-cluster update, Phys. Rev. Lett. 62, 361 (1989): Ising and Potts models.

A cluster grows over bonds between equal neighbours, each taken with p = 1 - exp(-dE / T), dE what
it costs to break it; then all of it takes one other value. The loop has no branch that depends on
chance: a neighbour is always written to the queue, and the queue's end moves on if it joined. The
queue is first in, first out, so that the sites ahead are known and the processor can look at them
early. 32 random bits decide a bond: p is exact to 2^-32.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import next_words

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def bond_threshold(cost: float, temperature: float) -> np.uint64:
    """Return p = 1 - exp(-cost / T) as a threshold for 32 random bits.

    `cost` is the energy, in J, that breaking a bond takes: 2 for Ising, 1 for Potts. A bond is
    taken when the bits fall below the threshold; p is exact to 2^-32.
    """
    return np.uint64(min(int(-math.expm1(-cost / temperature) * 2.0**32), 2**32 - 1))


@njit(cache=True, nogil=True, inline="always")
def _visit(flat, site, place, old, new, joins, queue, tail):  # type: ignore[no-untyped-def]
    """Let a site join if it may; return the end of the queue."""
    value = flat[site]
    joined = (value == old) & joins
    flat[site] = new if joined else value
    queue[tail] = place
    return tail + joined


@njit(cache=True, nogil=True, inline="always")
def _other(old, q, bits):  # type: ignore[no-untyped-def]
    """Return what a cluster of value `old` turns into; q = 0 means spins of +-1."""
    if q == 0:
        return -old
    shift = np.int8(((bits & _LOW) * np.uint64(q - 1)) >> _HALF) + np.int8(1)
    return np.int8((old + shift) % q)


@njit(cache=True, nogil=True)
def _wolff_2d(spins, threshold, q, state, clusters, queue):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    flat = spins.reshape(-1)
    flipped = np.int64(0)
    words = (state[0], state[1], state[2], state[3])
    for _ in range(clusters):
        bits, words = next_words(words)
        seed = np.int64(((bits >> _HALF) * np.uint64(flat.size)) >> _HALF)
        old = flat[seed]
        new = _other(old, q, bits)
        flat[seed] = new
        y = seed // width
        queue[0] = (y << 16) | (seed - y * width)
        head, tail = 0, 1
        while head < tail:
            here = np.int64(queue[head])
            head += 1
            y, x = here >> 16, here & 0xFFFF
            right = 0 if x + 1 == width else x + 1
            left = width - 1 if x == 0 else x - 1
            down = 0 if y + 1 == height else y + 1
            up = height - 1 if y == 0 else y - 1
            row, lower, upper = y * width, down * width, up * width
            a, words = next_words(words)
            b, words = next_words(words)
            join = (a & _LOW) < threshold
            tail = _visit(flat, row + right, (y << 16) | right, old, new, join, queue, tail)
            join = (a >> _HALF) < threshold
            tail = _visit(flat, row + left, (y << 16) | left, old, new, join, queue, tail)
            join = (b & _LOW) < threshold
            tail = _visit(flat, lower + x, (down << 16) | x, old, new, join, queue, tail)
            join = (b >> _HALF) < threshold
            tail = _visit(flat, upper + x, (up << 16) | x, old, new, join, queue, tail)
        flipped += tail
    state[0], state[1], state[2], state[3] = words
    return flipped


@njit(cache=True, nogil=True)
def _wolff_3d(spins, threshold, q, state, clusters, queue):  # type: ignore[no-untyped-def]
    depth, height, width = spins.shape
    flat = spins.reshape(-1)
    layer = height * width
    flipped = np.int64(0)
    words = (state[0], state[1], state[2], state[3])
    for _ in range(clusters):
        bits, words = next_words(words)
        seed = np.int64(((bits >> _HALF) * np.uint64(flat.size)) >> _HALF)
        old = flat[seed]
        new = _other(old, q, bits)
        flat[seed] = new
        z = seed // layer
        y = (seed - z * layer) // width
        queue[0] = (z << 20) | (y << 10) | (seed - z * layer - y * width)
        head, tail = 0, 1
        while head < tail:
            here = np.int64(queue[head])
            head += 1
            z, y, x = here >> 20, (here >> 10) & 0x3FF, here & 0x3FF
            right = 0 if x + 1 == width else x + 1
            left = width - 1 if x == 0 else x - 1
            down = 0 if y + 1 == height else y + 1
            up = height - 1 if y == 0 else y - 1
            back = 0 if z + 1 == depth else z + 1
            front = depth - 1 if z == 0 else z - 1
            row, column = z * layer + y * width, y * width + x
            beside, at = z * layer + x, here - x
            a, words = next_words(words)
            b, words = next_words(words)
            c, words = next_words(words)
            join = (a & _LOW) < threshold
            tail = _visit(flat, row + right, at | right, old, new, join, queue, tail)
            join = (a >> _HALF) < threshold
            tail = _visit(flat, row + left, at | left, old, new, join, queue, tail)
            at = (z << 20) | x
            join = (b & _LOW) < threshold
            tail = _visit(
                flat, beside + down * width, at | (down << 10), old, new, join, queue, tail
            )
            join = (b >> _HALF) < threshold
            tail = _visit(flat, beside + up * width, at | (up << 10), old, new, join, queue, tail)
            at = (y << 10) | x
            join = (c & _LOW) < threshold
            tail = _visit(
                flat, column + back * layer, at | (back << 20), old, new, join, queue, tail
            )
            join = (c >> _HALF) < threshold
            tail = _visit(
                flat, column + front * layer, at | (front << 20), old, new, join, queue, tail
            )
        flipped += tail
    state[0], state[1], state[2], state[3] = words
    return flipped


def wolff(
    spins: NDArray[np.int8],
    temperature: float,
    state: NDArray[np.uint64],
    clusters: int,
    q: int = 0,
) -> int:
    """Flip `clusters` Wolff clusters on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8, C-contiguous, +-1 or 0 .. q - 1; sides up to
        2^15 in two dimensions, 2^10 in three.
    temperature : in J / k_B.
    state : (4,) uint64 generator state (`rng.kernel_state`); advanced in place.
    clusters : how many clusters. Fixed by the caller: stopping at a number of flipped
        spins instead would bias the ensemble.
    q : states of the Potts model; 0 for the Ising model. A Potts cluster takes one of the other
        q - 1 states.

    Returns
    -------
    The number of flipped spins.
    """
    threshold = bond_threshold(1.0 if q else 2.0, temperature)
    # The end of the queue is written before it is known whether it is kept.
    queue = np.empty(spins.size + 1, dtype=np.int32)
    kernel = _wolff_2d if spins.ndim == 2 else _wolff_3d
    return int(kernel(spins, threshold, q, state, clusters, queue))
