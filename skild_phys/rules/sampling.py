"""Spins as independent sites CONDITIONED on what the coarse lattice says: their means, and draws.

Given the sum of its block the spins are no longer independent. The weight of every way to complete
a block, given how many of its first sites hold the rarer sign (`after`), gives both: the means by
a pass from the other side, and spins drawn site by site from the exact conditional law. Blocks go
through in groups of LANES, side by side, ordered by the number of sites that hold the rarer sign:
the tables are that wide and no wider.

Multiplying all odds of a block by one number does not change the law given the sum. A block whose
logits all but exclude what it must hold is shifted so that they expect it: no weight that matters
is then near the ends of float64's range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from skild_phys.rng import uniform
from skild_phys.vectors import data_of, intrinsic, load, store

LANES = 8


MOST, LARGEST = 300.0, 87.0
"""Logits are cut at +-MOST where those of a block are shifted, at +-LARGEST, beyond which float32
has no probabilities, elsewhere."""


RARE = 1e-30
"""Probability of what a block must hold below which its logits are shifted: what matters in it may
be less than float32 holds."""


BY_CHANCE = 0.25
"""How far from the middle between two whole numbers of ups a block's number is rounded by chance.
At 0.5 a block's sum is right on average, and the noise of rounding makes lattices refined by 4 from
kept modes too disordered, by 0.017 in energy; at 0 it is least, and they are too ordered at short
distance, by 0.006 in G4c at r = 2 (32 tuning lattices)."""


_FLOATS = ir.VectorType(ir.DoubleType(), LANES)


@intrinsic
def _combine(typing, out, o, x, ix, y, iy, z, iz, w, iw):  # type: ignore[no-untyped-def]
    """out = x y + z w, LANES numbers from an element of each array on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = data_of(context, builder, signature, args)
        a, b, c, d = (load(builder, arrays[k], arrays[k + 1], _FLOATS) for k in (2, 4, 6, 8))
        total = builder.fadd(builder.fmul(a, b), builder.fmul(c, d))
        store(builder, total, arrays[0], arrays[1])
        return context.get_dummy_value()

    return types.void(out, o, x, ix, y, iy, z, iz, w, iw), generate


@njit(cache=True, nogil=True)
def _order(coarse, n, majority):  # type: ignore[no-untyped-def]
    """Return the blocks that are not all of one sign, by the sites of the rarer sign they have.

    A majority block has n / 2 of them or fewer.
    """
    rarer = np.full(coarse.size, n // 2)
    starts = np.zeros(n // 2 + 2, dtype=np.int64)
    width = coarse.shape[1]
    for k in range(coarse.size):
        if not majority:
            rarer[k] = (n - abs(coarse[k // width, k % width])) // 2
        starts[rarer[k] + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(coarse.size, dtype=np.int64)
    first = starts[1]
    for k in range(coarse.size):
        order[starts[rarer[k]]] = k
        starts[rarer[k]] += 1
    return order[first:], rarer


@njit(cache=True, nogil=True)
def _shift(logits, b, by, bx, sign, wanted, lane, p, q):  # type: ignore[no-untyped-def]
    """Shift the logits of a lane so that `wanted` sites hold the rarer sign on average.

    Returns the shift, right to 1e-4: any near the exact one does.
    """
    n = b * b
    x = np.empty(n)
    for i in range(n):
        x[i] = -sign * min(max(float(logits[by * b + i // b, bx * b + i % b]), -MOST), MOST)
    low, high = -100.0 - x.max(), 100.0 - x.min()
    for _ in range(24):
        middle = 0.5 * (low + high)
        mean = 0.0
        for i in range(n):
            mean += 1.0 / (1.0 + math.exp(-x[i] - middle))
        if mean < wanted:
            low = middle
        else:
            high = middle
    shift = 0.5 * (low + high)
    for i in range(n):
        p[i, lane] = 1.0 / (1.0 + math.exp(-x[i] - shift))
        q[i, lane] = 1.0 / (1.0 + math.exp(x[i] + shift))
    return shift


@njit(cache=True, nogil=True)
def _end(n, most, majority, coin, sign, shift, lane, after):  # type: ignore[no-untyped-def]
    """after[n, j]: which numbers j of sites with the rarer sign a lane may end in.

    The law of a block whose sum is known does not depend on the shift, that of a majority does.
    """
    for j in range(n // 2 + 2):
        after[n, j, lane] = 0.0
    if not majority:
        after[n, most, lane] = 1.0
        return
    for j in range(most + 1):
        after[n, j, lane] = math.exp(shift * (0.5 * n - j))
    if 2 * most == n:
        after[n, most, lane] = 0.5 if coin == 0 else 1.0 if coin == sign else 0.0


@njit(cache=True, nogil=True)
def _load(ups, downs, coarse, b, blocks, p, q, signs):  # type: ignore[no-untyped-def]
    """Load the probabilities p of the rarer sign, and q of the other, of LANES blocks."""
    width = coarse.shape[1]
    for lane in range(LANES):
        by, bx = blocks[lane] // width, blocks[lane] % width
        sign = 1 if coarse[by, bx] > 0 else -1
        signs[lane] = sign
        rare, common = (downs, ups) if sign > 0 else (ups, downs)
        i = 0
        for y in range(by * b, by * b + b):
            for x in range(bx * b, bx * b + b):
                p[i, lane] = rare[y, x]
                q[i, lane] = common[y, x]
                i += 1


@njit(cache=True, nogil=True)
def _fill_after(p, q, widest, narrowest, after):  # type: ignore[no-untyped-def]
    """after[i, j] = weight of the sites from i on, if j of those before hold the rarer sign.

    No lane ends in more than `widest` of them, nor in fewer than `narrowest`.
    """
    n = p.shape[0]
    for i in range(n - 1, 0, -1):
        low = max(0, narrowest - (n - i))
        for j in range(low, min(i, widest) + 1):
            at = ((i + 1) * after.shape[1] + j) * LANES
            _combine(
                after, at - after.shape[1] * LANES,
                p, i * LANES, after, at + LANES, q, i * LANES, after, at,
            )  # fmt: skip
        # What cannot be reached weighs nothing; the table may hold other blocks' weights there.
        for lane in range(LANES):
            after[i, widest + 1, lane] = 0.0
            if low > 0:
                after[i, low - 1, lane] = 0.0


@njit(cache=True, nogil=True)
def _lane_means(p, q, widest, narrowest, signs, after, before, means):  # type: ignore[no-untyped-def]
    """means[i] = E[s_i] of every lane; before[j] = weight of j rarer signs among the sites < i."""
    n = p.shape[0]
    rare, common, ones = np.empty(LANES), np.empty(LANES), np.ones(LANES)
    before[:] = 0.0
    before[0] = 1.0
    for i in range(n):
        high = min(i, widest)
        rare[:], common[:] = 0.0, 0.0
        for j in range(max(0, narrowest - (n - i)), high + 1):
            at = ((i + 1) * after.shape[1] + j) * LANES
            _combine(rare, 0, before, j * LANES, after, at + LANES, rare, 0, ones, 0)
            _combine(common, 0, before, j * LANES, after, at, common, 0, ones, 0)
        for lane in range(LANES):
            plus, minus = q[i, lane] * common[lane], p[i, lane] * rare[lane]
            total = plus + minus
            if total > 0.0:
                means[i, lane] = signs[lane] * (plus - minus) / total
            else:
                means[i, lane] = signs[lane] if q[i, lane] > p[i, lane] else -signs[lane]
        for j in range(min(i + 1, widest), 0, -1):
            at = j * LANES
            _combine(before, at, q, i * LANES, before, at, p, i * LANES, before, at - LANES)
        for lane in range(LANES):
            before[0, lane] *= q[i, lane]


@njit(cache=True, nogil=True)
def _draw_lane(p, q, lane, most, exact, sign, after, state, spins):  # type: ignore[no-untyped-def]
    """Draw the spins of one lane, site by site."""
    n, j = p.shape[0], 0
    for i in range(n):
        rare = p[i, lane] * after[i + 1, j + 1, lane] if j < most else 0.0
        common = q[i, lane] * after[i + 1, j, lane]
        if rare + common == 0.0:
            # Beyond float64's range: any order of what is left does.
            rare, common = (float(most - j), float(n - i - most + j)) if exact else (0.0, 1.0)
        if uniform(state) * (rare + common) < rare:
            spins[i] = -sign
            j += 1
        else:
            spins[i] = sign


@njit(cache=True, nogil=True)
def _tables(logits, ups, downs, coarse, coins, b, majority, blocks, rarer, p, q, signs, after):  # type: ignore[no-untyped-def]
    """Fill p, q, signs and `after` for LANES blocks; return the range of j they may end in."""
    n, width = b * b, coarse.shape[1]
    _load(ups, downs, coarse, b, blocks, p, q, signs)
    widest, narrowest = 0, n
    for lane in range(LANES):
        most = rarer[blocks[lane]]
        widest, narrowest = max(widest, most), min(narrowest, 0 if majority else most)
        coin = coins[blocks[lane] // width, blocks[lane] % width]
        _end(n, most, majority, coin, signs[lane], 0.0, lane, after)
    _fill_after(p, q, widest, narrowest, after)
    rare = False
    for lane in range(LANES):
        if p[0, lane] * after[1, 1, lane] + q[0, lane] * after[1, 0, lane] < RARE:
            rare = True
            by, bx = blocks[lane] // width, blocks[lane] % width
            most = rarer[blocks[lane]]
            wanted = 0.5 * n if majority else float(most)
            shift = _shift(logits, b, by, bx, signs[lane], wanted, lane, p, q)
            _end(n, most, majority, coins[by, bx], signs[lane], shift, lane, after)
    if rare:
        _fill_after(p, q, widest, narrowest, after)
    return widest, narrowest


@njit(cache=True, nogil=True)
def _blocks(logits, ups, downs, coarse, coins, b, majority, state, means, spins):  # type: ignore[no-untyped-def]
    """Fill `means` (Ly, Lx), or `spins` drawn with `state`; the other is of size 0."""
    n, width, draws = b * b, coarse.shape[1], spins.size > 0
    order, rarer = _order(coarse, n, majority)
    p, q, found = np.empty((n, LANES)), np.empty((n, LANES)), np.empty((n, LANES))
    after, before = np.zeros((n + 1, n // 2 + 2, LANES)), np.empty((n // 2 + 2, LANES))
    signs, blocks = np.empty(LANES, dtype=np.int64), np.empty(LANES, dtype=np.int64)
    drawn = np.empty(n, dtype=np.int8)
    for first in range(0, len(order), LANES):
        used = min(LANES, len(order) - first)
        for lane in range(LANES):
            blocks[lane] = order[first + min(lane, used - 1)]
        widest, narrowest = _tables(
            logits, ups, downs, coarse, coins, b, majority, blocks, rarer, p, q, signs, after
        )
        if not draws:
            _lane_means(p, q, widest, narrowest, signs, after, before, found)
        for lane in range(used):
            by, bx = blocks[lane] // width, blocks[lane] % width
            if draws:
                most = rarer[blocks[lane]]
                _draw_lane(p, q, lane, most, not majority, signs[lane], after, state, drawn)
            i = 0
            for y in range(by * b, by * b + b):
                for x in range(bx * b, bx * b + b):
                    if draws:
                        spins[y, x] = drawn[i]
                    else:
                        means[y, x] = found[i, lane]
                    i += 1


def _sides(logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the probabilities of up and of down of free sites."""
    odds = torch.from_numpy(logits).clamp(-LARGEST, LARGEST)
    return odds.sigmoid().numpy(), odds.neg().sigmoid().numpy()


def _run_blocks(
    logits: NDArray[np.float32],
    sides: tuple[NDArray[np.float32], NDArray[np.float32]],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool,
    coins: NDArray[np.int8] | None,
    state: NDArray[np.uint64] | None,
) -> NDArray[np.generic]:
    sums = coarse.astype(np.int64)
    marks = np.zeros(coarse.shape, np.int8) if coins is None or not majority else coins
    # Blocks of one sign throughout are passed over: they are what they must be already.
    whole = np.sign(sums).astype(np.int8 if state is not None else np.float32)
    out = whole.repeat(factor, axis=0).repeat(factor, axis=1)
    means = np.empty((0, 0), np.float32) if state is not None else out
    spins = np.empty((0, 0), np.int8) if state is None else out
    words = np.zeros(4, np.uint64) if state is None else state
    _blocks(logits, *sides, sums, marks, factor, majority, words, means, spins)
    return out


@njit(cache=True, nogil=True)
def _draw_free(ups, coarse, b, state, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if b > 0 and y % b == 0 and x % b == 0:
                out[y, x] = coarse[y // b, x // b]
            else:
                out[y, x] = 1 if uniform(state) < ups[y, x] else -1


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
    logits : (Ly, Lx) log odds of spin up, finite; cut at +-LARGEST (+-MOST).
    rule : 'block_mean' (`coarse` holds block sums), 'majority' (signs of block sums),
        'decimate' (spins of the sites (0, 0) of the blocks), or None for no condition.
    coarse : (Ly / factor, Lx / factor) raw coarse values; ignored for rule None.
    factor : side of a block.
    coins : (Ly / factor, Lx / factor) int8, the coin that decides a tied block, 0 where it is
        not known; majority only. None: none is known.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    (Ly, Lx) int8 of +-1 that coarse-grain to `coarse` exactly. Probabilities are float32's,
    right to 1e-7 of themselves; their sums and products float64's.
    """
    sides = _sides(logits)
    if rule is None or rule == "decimate":
        out = np.empty(logits.shape, dtype=np.int8)
        _draw_free(sides[0], coarse.astype(np.int8), factor if rule else 0, state, out)
        return out
    drawn = _run_blocks(logits, sides, coarse, factor, rule == "majority", coins, state)
    return drawn.astype(np.int8, copy=False)


def rounded_sums(
    logits: NDArray[np.float32], factor: int, state: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return a sum for each factor x factor block of independent sites that hardly fluctuates.

    It is the mean, rounded to the nearest that spins can have, or, where the mean is within
    BY_CHANCE of the middle between two, to either: with a probability that goes from 0 to 1 there.

    Parameters
    ----------
    logits : (Ly, Lx), Ly and Lx multiples of `factor`.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    (Ly / factor, Lx / factor).
    """
    height, width = logits.shape[0] // factor, logits.shape[1] // factor
    up = _sides(logits)[0].astype(np.float64)
    ups = up.reshape(height, factor, width, factor).sum(axis=(1, 3))
    sums = np.empty((height, width), dtype=np.int64)
    _rounded_sums(ups, factor * factor, state, sums)
    return sums


@njit(cache=True, nogil=True)
def _rounded_sums(ups, n, state, sums):  # type: ignore[no-untyped-def]
    for by in range(sums.shape[0]):
        for bx in range(sums.shape[1]):
            whole = math.floor(ups[by, bx])
            if uniform(state) < 0.5 + 0.5 * (ups[by, bx] - whole - 0.5) / BY_CHANCE:
                whole += 1
            sums[by, bx] = 2 * whole - n


def block_means(
    logits: NDArray[np.float32],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool = False,
    coins: NDArray[np.int8] | None = None,
) -> NDArray[np.float32]:
    """Return E[s] of independent sites with `logits`, conditioned on each block's sum or sign.

    The law that `draw_spins` draws from, with the same arguments.
    """
    means = _run_blocks(logits, _sides(logits), coarse, factor, majority, coins, None)
    return means.astype(np.float32, copy=False)
