"""Random bits and acceptance: what every move of the conditional sampler draws with.

An event of probability p happens if 32 random bits fall below 2^32 p, rounded to a whole number:
the probability is off by at most 2^-32, and relative to p by at most 2^-32 / p, which at Tc is
less than 1e-6 for every acceptance here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import BITS_BLOCK, fill_bits, lane_state

_LEAST_LANES = 1024


class Source(NamedTuple):
    """A stream of 32-bit numbers, made in bulk; `bits` are the halves of `words`.

    Attributes
    ----------
    state : (4, LANES) uint64.
    words : (m,) uint64; bits : (2 m,) uint32, the same memory.
    used : (1,) int64, how many of `bits` are spent.
    """

    state: NDArray[np.uint64]
    words: NDArray[np.uint64]
    bits: NDArray[np.uint32]
    used: NDArray[np.int64]


def build_source(lanes: int, seed: int, *key: int | str) -> Source:
    """Return the stream `key` of `seed`, from which up to `lanes` numbers are taken at a time."""
    blocks = -(-max(lanes, _LEAST_LANES) // (2 * BITS_BLOCK))
    words = np.empty(blocks * BITS_BLOCK, dtype=np.uint64)
    bits = words.view(np.uint32)
    return Source(lane_state(seed, *key), words, bits, np.array([bits.size], dtype=np.int64))


@njit(cache=True, nogil=True, forceinline=True)
def take(source, n):  # type: ignore[no-untyped-def]
    """Return the next `n` of the 32-bit numbers, (n,) uint32."""
    start = source.used[0]
    if start + n > source.bits.size:
        fill_bits(source.state, source.words)
        start = 0
    source.used[0] = start + n
    return source.bits[start : start + n]


@njit(cache=True, nogil=True, forceinline=True)
def below(source, n):  # type: ignore[no-untyped-def]
    """Return an integer uniform on 0 .. n - 1, each probability exact to 2^-32."""
    return np.int64((np.uint64(take(source, 1)[0]) * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True, forceinline=True)
def shuffle(order, source):  # type: ignore[no-untyped-def]
    """Put `order` (m,) into random order (Fisher and Yates), in place; exact to m 2^-32."""
    bits = source.bits
    for k in range(order.size - 1, 0, -1):
        if source.used[0] == bits.size:
            fill_bits(source.state, source.words)
            source.used[0] = 0
        number = np.uint64(bits[source.used[0]])
        source.used[0] += 1
        j = (number * np.uint64(k + 1)) >> np.uint64(32)
        order[k], order[j] = order[j], order[k]


def threshold(probability: float) -> np.uint32:
    """Return `probability` as the number that 32 random bits must be below."""
    return np.uint32(min(round(probability * 2.0**32), 2**32 - 1))


NEVER = np.uint32(2**32 - 1)
"""Below no threshold."""

_CERTAIN = 63 / 64


def metropolis(coupling: float, most: int, even: float) -> tuple[np.uint32, ...]:
    """Return the thresholds of Metropolis moves that lose -1 or fewer, 0, 1 .. `most` bonds.

    The acceptance ratio of a move and its reverse is exp(-coupling x bonds lost), as it must be.
    A move that loses nothing has the probability `even`, which is free to choose. No move is
    certain, so that nothing done to all blocks at once is periodic or stuck.
    """
    worse = [_CERTAIN * math.exp(-coupling * lost) for lost in range(1, most + 1)]
    return tuple(threshold(p) for p in (_CERTAIN, even, *worse))


@njit(cache=True, nogil=True, inline="always")
def threshold_of(thresholds, lost):  # type: ignore[no-untyped-def]
    """Return the entry of `metropolis`' tuple for `lost` bonds; no table look-up, so vectorised."""
    chosen = thresholds[0]
    for k in range(1, len(thresholds)):
        chosen = thresholds[k] if lost >= k - 1 else chosen
    return chosen
