"""Random streams: a SeedSequence tree outside, xoshiro256++ with explicit state in kernels.

A stream is named by its seed and a spawn key (for instance chain 3, or lattice 17), never by
the order in which threads happen to run: the same key gives the same numbers for any number
of threads and any chunk size. Under one seed the branches are (i, k), stream k of sample i of a
refinement or a conditional draw; (k,) and (k, i), those of a training; (SIMULATION, c), chain c
of a simulation, so that what trains on a seed shares nothing with what is simulated from it.
xoshiro256++ is due to Blackman and Vigna,
ACM Trans. Math. Softw. 47, 36 (2021).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SIMULATION = 2**32 - 1
"""First key of a simulation's chains: no index of a sample is as large."""

_TO_UNIT = 2.0**-53


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """Return the node `key` of the tree of streams that grows from `seed`."""
    return np.random.SeedSequence(seed, spawn_key=key)


def kernel_state(seed: int, *key: int) -> NDArray[np.uint64]:
    """Return a xoshiro256++ state, shape (4,) uint64, for the stream `key` of `seed`."""
    return seed_sequence(seed, *key).generate_state(4, np.uint64).astype(np.uint64)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return a NumPy generator (PCG64) for the stream `key` of `seed`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *key)))


@njit(cache=True, nogil=True, inline="always")
def next_u64(state):  # type: ignore[no-untyped-def]
    """Advance `state` (4 uint64, in place) and return 64 random bits."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    t = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3
    return result


@njit(cache=True, nogil=True, inline="always")
def uniform(state):  # type: ignore[no-untyped-def]
    """Return a float64 uniform on [0, 1) with 53 random bits."""
    return (next_u64(state) >> np.uint64(11)) * _TO_UNIT


@njit(cache=True, nogil=True, inline="always")
def below(state, n):  # type: ignore[no-untyped-def]
    """Return an integer uniform on 0..n-1 (n < 2^32): 32 bits scaled, bias below n / 2^32.

    Exact when n is a power of two; else the probability of a value is off by at most 2^-32.
    """
    return np.int64(((next_u64(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))
