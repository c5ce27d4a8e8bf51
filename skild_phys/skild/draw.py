"""Spins drawn from independent Bernoulli laws CONDITIONED on what the coarse lattice says.

A site is up with odds exp(logit). Given the sum of its block the spins are no longer
independent; they are drawn site by site from the exact conditional law, by way of the
distribution of the sum of the sites still to come (elementary symmetric polynomials of the
odds, here as probabilities). Multiplying all odds of a block by one number does not change
the law, and each row of the table is used only up to a factor, so rows are rescaled as they
are built.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import uniform

Kernel = NDArray[np.generic]

LOGIT_RANGE = 600.0
"""Logits of a block of n sites are cut at +-600/n: beyond, float64 would underflow.

For n = 64 that is 9.4, one spin in 12,000 uncertain where the network is surer than that.
"""


@njit(cache=True, nogil=True)
def _sum_table(p, table):  # type: ignore[no-untyped-def]
    """Fill table[i, j] ~ P(j of the sites i.. are up), each row scaled to a maximum of 1."""
    n = p.size
    table[n, 0] = 1.0
    for i in range(n - 1, -1, -1):
        up, down = p[i], 1.0 - p[i]
        left = n - i
        row_max = 0.0
        for j in range(left + 1):
            value = 0.0
            if j > 0:
                value = up * table[i + 1, j - 1]
            if j < left:
                value += down * table[i + 1, j]
            table[i, j] = value
            row_max = max(row_max, value)
        for j in range(left + 1):
            table[i, j] /= row_max


@njit(cache=True, nogil=True)
def _spins_given_sum(p, table, ups, state, spins):  # type: ignore[no-untyped-def]
    """Draw the block's spins with `ups` of them up, site by site."""
    n = p.size
    left = ups
    for i in range(n):
        up = p[i] * table[i + 1, left - 1] if left > 0 else 0.0
        down = (1.0 - p[i]) * table[i + 1, left] if left < n - i else 0.0
        if uniform(state) * (up + down) < up:
            spins[i] = 1
            left -= 1
        else:
            spins[i] = -1


@njit(cache=True, nogil=True)
def _ups_given_sign(row, n, positive, tie_allowed, state):  # type: ignore[no-untyped-def]
    """Draw the number of up spins of a block from `row` given the sign of the block sum."""
    total = 0.0
    for ups in range(n + 1):
        total += row[ups] * _agrees(ups, n, positive, tie_allowed)
    target = uniform(state) * total
    last = 0
    for ups in range(n + 1):
        weight = row[ups] * _agrees(ups, n, positive, tie_allowed)
        if weight > 0.0:
            last = ups
            target -= weight
            if target < 0.0:
                break
    return last


@njit(cache=True, nogil=True, inline="always")
def _agrees(ups, n, positive, tie_allowed):  # type: ignore[no-untyped-def]
    twice = 2 * ups
    if twice == n:
        return 1.0 if tie_allowed else 0.0
    return 1.0 if (twice > n) == positive else 0.0


@njit(cache=True, nogil=True)
def _draw_blocks(logits, coarse, coins, b, majority, state, out):  # type: ignore[no-untyped-def]
    n = b * b
    limit = LOGIT_RANGE / n
    p = np.empty(n)
    spins = np.empty(n, dtype=np.int8)
    table = np.zeros((n + 1, n + 1))
    for by in range(coarse.shape[0]):
        for bx in range(coarse.shape[1]):
            for i in range(n):
                logit = float(logits[by * b + i // b, bx * b + i % b])
                p[i] = 1.0 / (1.0 + math.exp(-min(max(logit, -limit), limit)))
            _sum_table(p, table)
            if majority:
                value = coarse[by, bx]
                tie = coins[by, bx] == value
                ups = _ups_given_sign(table[0], n, value > 0, tie, state)
            else:
                ups = (n + coarse[by, bx]) // 2
            _spins_given_sum(p, table, ups, state, spins)
            for i in range(n):
                out[by * b + i // b, bx * b + i % b] = spins[i]


@njit(cache=True, nogil=True)
def _draw_free(logits, coarse, b, state, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if b > 0 and y % b == 0 and x % b == 0:
                out[y, x] = coarse[y // b, x // b]
            else:
                p = 1.0 / (1.0 + math.exp(-float(logits[y, x])))
                out[y, x] = 1 if uniform(state) < p else -1


def draw_spins(
    logits: NDArray[np.float32],
    rule: str | None,
    coarse: NDArray[np.generic],
    factor: int,
    coins: NDArray[np.int8] | None,
    state: NDArray[np.uint64],
) -> NDArray[np.int8]:
    """Draw one lattice from independent sites with `logits`, conditioned on its coarse lattice.

    Parameters
    ----------
    logits : (Ly, Lx) log odds of spin up, finite.
    rule : 'block_mean' (`coarse` holds block sums), 'majority' (signs of block sums),
        'decimate' (spins of the sites (0, 0) of the blocks), or None for no condition.
    coarse : (Ly / factor, Lx / factor) raw coarse values; ignored for rule None.
    factor : side of a block.
    coins : (Ly / factor, Lx / factor) int8, the coin that decides a tied block; majority only.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    (Ly, Lx) int8 of +-1 that coarse-grain to `coarse` exactly.
    """
    out = np.empty(logits.shape, dtype=np.int8)
    if rule is None or rule == "decimate":
        _draw_free(logits, coarse.astype(np.int8), factor if rule else 0, state, out)
        return out
    majority = rule == "majority"
    sides = coarse.astype(np.int64)
    marks = coins if majority and coins is not None else np.zeros(coarse.shape, dtype=np.int8)
    _draw_blocks(logits, sides, marks, factor, majority, state, out)
    return out
