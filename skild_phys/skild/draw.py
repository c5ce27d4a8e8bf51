"""Spins drawn from independent Bernoulli laws CONDITIONED on what the coarse lattice says.

A site is up with odds exp(logit). Given the sum of its block the spins are no longer
independent; they are drawn site by site from the exact conditional law, by way of the
distribution of the sum of the sites still to come (elementary symmetric polynomials of the
odds). Multiplying all odds of a block by one number does not change the law given the sum, and
each row of the table is used only up to a factor, so rows are rescaled as they are built, and a
sum that float64 cannot reach from the odds as they are is reached from shifted ones.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import uniform

SMALLEST = 1e-250
RARE = 1e-200
"""Relative weight of a block's sum below which its table is built anew around that sum."""


@njit(cache=True, nogil=True)
def _odds(logits, shift, up, down):  # type: ignore[no-untyped-def]
    """Set up[i] : down[i] to the odds exp(logits[i] + shift), the larger of the two being 1."""
    for i in range(logits.size):
        x = logits[i] + shift
        small = math.exp(-min(abs(x), 700.0))
        up[i], down[i] = (1.0, small) if x >= 0.0 else (small, 1.0)


@njit(cache=True, nogil=True)
def _shift_towards(logits, ups):  # type: ignore[no-untyped-def]
    """Return the shift of all logits for which `ups` sites are up on average, by bisection."""
    low, high = -100.0 - np.max(logits), 100.0 - np.min(logits)
    for _ in range(60):
        middle = 0.5 * (low + high)
        mean = 0.0
        for i in range(logits.size):
            mean += 1.0 / (1.0 + math.exp(-min(max(logits[i] + middle, -700.0), 700.0)))
        if mean < ups:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@njit(cache=True, nogil=True)
def _sum_table(up, down, table):  # type: ignore[no-untyped-def]
    """Fill table[i, j] ~ P(j of the sites i.. are up), each row scaled to a maximum of 1."""
    n = up.size
    table[n, 0] = 1.0
    for i in range(n - 1, -1, -1):
        left = n - i
        row_max = 0.0
        for j in range(left + 1):
            value = 0.0
            if j > 0:
                value = up[i] * table[i + 1, j - 1]
            if j < left:
                value += down[i] * table[i + 1, j]
            table[i, j] = value
            row_max = max(row_max, value)
        scale = 1.0 / row_max
        for j in range(left + 1):
            value = table[i, j] * scale
            # Denormal numbers would cost a hundred times as much as others.
            table[i, j] = value if value > SMALLEST else 0.0


@njit(cache=True, nogil=True)
def _spins_given_sum(up, down, table, ups, state, spins):  # type: ignore[no-untyped-def]
    """Draw the block's spins with `ups` of them up, site by site."""
    n = up.size
    left = ups
    for i in range(n):
        w_up = up[i] * table[i + 1, left - 1] if left > 0 else 0.0
        w_down = down[i] * table[i + 1, left] if left < n - i else 0.0
        if w_up + w_down == 0.0:
            # Both beyond float64's range: any order of what is left keeps the sum.
            w_up, w_down = float(left), float(n - i - left)
        if uniform(state) * (w_up + w_down) < w_up:
            spins[i] = 1
            left -= 1
        else:
            spins[i] = -1


@njit(cache=True, nogil=True, inline="always")
def _agrees(ups, n, value, coin):  # type: ignore[no-untyped-def]
    """Return p(majority = value | ups): a tie goes to the coin, which is fair if unknown (0)."""
    twice = 2 * ups
    if twice == n:
        if coin == 0:
            return 0.5
        return 1.0 if coin == value else 0.0
    return 1.0 if (twice > n) == (value > 0) else 0.0


@njit(cache=True, nogil=True)
def _ups_given_sign(row, n, value, coin, shift, state):  # type: ignore[no-untyped-def]
    """Draw the number of up spins from `row`, built with `shift`, given the majority."""
    weights = np.zeros(n + 1)
    for ups in range(n + 1):
        agrees = _agrees(ups, n, value, coin)
        if agrees > 0.0:
            # The shift points away from the other side, so that this never overflows.
            weights[ups] = row[ups] * math.exp(-shift * (ups - 0.5 * n)) * agrees
    target = uniform(state) * weights.sum()
    last = n if value > 0 else 0
    for ups in range(n + 1):
        if weights[ups] > 0.0:
            last = ups
            target -= weights[ups]
            if target < 0.0:
                break
    return last


@njit(cache=True, nogil=True)
def _largest_allowed(row, n, value, coin):  # type: ignore[no-untyped-def]
    largest = 0.0
    for ups in range(n + 1):
        largest = max(largest, row[ups] * _agrees(ups, n, value, coin))
    return largest


@njit(cache=True, nogil=True)
def _draw_blocks(logits, coarse, coins, b, majority, state, out):  # type: ignore[no-untyped-def]
    n = b * b
    block, up, down = np.empty(n), np.empty(n), np.empty(n)
    spins = np.empty(n, dtype=np.int8)
    table = np.zeros((n + 1, n + 1))
    for by in range(coarse.shape[0]):
        for bx in range(coarse.shape[1]):
            for i in range(n):
                block[i] = min(max(float(logits[by * b + i // b, bx * b + i % b]), -300.0), 300.0)
            value, coin, shift = coarse[by, bx], coins[by, bx], 0.0
            _odds(block, shift, up, down)
            _sum_table(up, down, table)
            ups = (n + value) // 2
            if majority:
                rare = _largest_allowed(table[0], n, value, coin) < RARE
                middle = 0.5 * n + (0.5 if value > 0 else -0.5)
            else:
                rare, middle = table[0, ups] < RARE, float(ups)
            if rare and 0.0 < middle < n:
                shift = _shift_towards(block, middle)
                _odds(block, shift, up, down)
                _sum_table(up, down, table)
            if majority:
                ups = _ups_given_sign(table[0], n, value, coin, shift, state)
            _spins_given_sum(up, down, table, ups, state, spins)
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
    logits : (Ly, Lx) log odds of spin up, finite; cut at +-300.
    rule : 'block_mean' (`coarse` holds block sums), 'majority' (signs of block sums),
        'decimate' (spins of the sites (0, 0) of the blocks), or None for no condition.
    coarse : (Ly / factor, Lx / factor) raw coarse values; ignored for rule None.
    factor : side of a block.
    coins : (Ly / factor, Lx / factor) int8, the coin that decides a tied block, 0 where it is
        not known; majority only. None: none is known.
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


@njit(cache=True, nogil=True)
def _rounded_sums(logits, b, state, sums):  # type: ignore[no-untyped-def]
    for by in range(sums.shape[0]):
        for bx in range(sums.shape[1]):
            ups = 0.0
            for y in range(by * b, by * b + b):
                for x in range(bx * b, bx * b + b):
                    ups += 1.0 / (1.0 + math.exp(-min(max(float(logits[y, x]), -300.0), 300.0)))
            whole = math.floor(ups)
            if uniform(state) < ups - whole:
                whole += 1
            sums[by, bx] = 2 * whole - b * b


def draw_rounded(
    logits: NDArray[np.float32], factor: int, state: NDArray[np.uint64]
) -> NDArray[np.int8]:
    """Draw one lattice from independent sites with `logits` whose block sums hardly fluctuate.

    The sum of each factor x factor block is its mean, rounded up or down by chance to one that
    spins can have, and the block is drawn given it: the mean of every block is as without, the
    variance of its sum the least there can be.

    Parameters
    ----------
    logits : (Ly, Lx), Ly and Lx multiples of `factor`.
    state : (4,) uint64 generator state, advanced in place.
    """
    sums = np.empty((logits.shape[0] // factor, logits.shape[1] // factor), dtype=np.int64)
    _rounded_sums(logits, factor, state, sums)
    return draw_spins(logits, "block_mean", sums, factor, None, state)


@njit(cache=True, nogil=True)
def _block_means(logits, coarse, coins, b, majority, out):  # type: ignore[no-untyped-def]
    n = b * b
    most = min(600.0 / n, 30.0)
    up, down = np.empty(n), np.empty(n)
    before, after = np.zeros((n + 2, n + 2)), np.zeros((n + 2, n + 2))
    for by in range(coarse.shape[0]):
        for bx in range(coarse.shape[1]):
            value = coarse[by, bx]
            # Before site i, j sites are up: least[i] <= j <= greatest[i] where the sum is known.
            ups, spare = (n, n) if majority else ((n + value) // 2, (n - value) // 2)
            if ups == 0 or spare == 0:
                for i in range(n):
                    out[by * b + i // b, bx * b + i % b] = 1.0 if spare == 0 else -1.0
                continue
            i = 0
            for y in range(by * b, by * b + b):
                for x in range(bx * b, bx * b + b):
                    odds = min(max(float(logits[y, x]), -most), most)
                    small = math.exp(-abs(odds))
                    up[i], down[i] = (1.0, small) if odds >= 0.0 else (small, 1.0)
                    i += 1
            # after[i, j]: what weight the block's condition has, if j of the sites ..i-1 are up.
            for j in range(n + 1):
                if majority:
                    after[n, j] = _agrees(j, n, value, coins[by, bx])
                else:
                    after[n, j] = 1.0 if j == ups else 0.0
            for i in range(n - 1, 0, -1):
                low, high = max(0, i - spare), min(i, ups)
                total = 0.0
                for j in range(low, high + 1):
                    weight = up[i] * after[i + 1, j + 1] + down[i] * after[i + 1, j]
                    after[i, j] = weight
                    total += weight
                scale = 1.0 / total
                for j in range(low, high + 1):
                    after[i, j] *= scale
                # What cannot be reached weighs nothing; the table still holds another block's.
                if low > 0:
                    after[i, low - 1] = 0.0
                after[i, high + 1] = 0.0
            before[0, 0] = 1.0
            i = 0
            for y in range(by * b, by * b + b):
                for x in range(bx * b, bx * b + b):
                    low, high = max(0, i - spare), min(i, ups)
                    plus, minus = 0.0, 0.0
                    for j in range(low, high + 1):
                        plus += before[i, j] * after[i + 1, j + 1]
                        minus += before[i, j] * after[i + 1, j]
                    plus *= up[i]
                    minus *= down[i]
                    if plus + minus > 0.0:
                        out[y, x] = (plus - minus) / (plus + minus)
                    else:
                        out[y, x] = 1.0 if up[i] > down[i] else -1.0
                    if low > 0:
                        before[i, low - 1] = 0.0
                    before[i, high + 1] = 0.0
                    low, high = max(0, i + 1 - spare), min(i + 1, ups)
                    total = 0.0
                    for j in range(low, high + 1):
                        weight = down[i] * before[i, j]
                        if j > 0:
                            weight += up[i] * before[i, j - 1]
                        before[i + 1, j] = weight
                        total += weight
                    scale = 1.0 / total
                    for j in range(low, high + 1):
                        weight = before[i + 1, j] * scale
                        before[i + 1, j] = weight if weight > SMALLEST else 0.0
                    i += 1


def block_means(
    logits: NDArray[np.float32],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool = False,
    coins: NDArray[np.int8] | None = None,
) -> NDArray[np.float32]:
    """Return E[s] of independent sites with `logits`, conditioned on each block's sum or sign.

    The law that `draw_spins` draws from, with the same arguments; a forward and a backward pass
    over the sites of a block, exact up to the cut of the logits at +-600 / factor^2 (30 at most).
    """
    out = np.empty(logits.shape, dtype=np.float32)
    marks = np.zeros(coarse.shape, dtype=np.int8) if coins is None else coins
    _block_means(logits, coarse.astype(np.int64), marks, factor, majority, out)
    return out
