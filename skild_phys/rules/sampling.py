"""Conditional sampling of spins: independent sites, given what a coarse lattice holds.

Given the sum of its block (or its sign) the spins are no longer independent. The weight of every
way to complete a block, given how many of its first sites hold the rarer sign (`after`), gives both
their means, by a pass from the other side, and samples, site by site, of the exact conditional
distribution. Blocks of any dimension are rows of b^d sites. They go through in groups of _LANES,
side by side, ordered by the number of sites that hold the rarer sign: the tables are that wide and
no wider.

Multiplying all odds of a block by one number does not change the distribution given the sum. A
block whose logits all but exclude what it must hold is shifted so that they expect it: no weight
that matters is then near the ends of float64's range.
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
from skild_phys.rules.operators import from_blocks, to_blocks
from skild_phys.vectors import data_of, intrinsic, load, store

_LANES = 8
MOST = 300.0
"""Logits of a block that is shifted are cut at +-MOST."""
BY_CHANCE = 0.25
"""Usual `by_chance` of `rounded_sums`. With 0.5 critical Ising configurations, refined by a factor
of 4 from low-pass fields, are too disordered, by 0.017 in energy; with 0 too ordered at short
distance, by 0.006 in G4c at r = 2 (32 tuning configurations)."""
_LARGEST = 87.0  # others are cut here: beyond it float32 has no probabilities
_RARE = 1e-30  # probability of what a block must hold below which its logits are shifted

_FLOATS = ir.VectorType(ir.DoubleType(), _LANES)


@intrinsic
def _combine(typing, out, o, x, ix, y, iy, z, iz, w, iw):  # type: ignore[no-untyped-def]
    """out = x y + z w, _LANES numbers from an element of each array on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = data_of(context, builder, signature, args)
        a, b, c, d = (load(builder, arrays[k], arrays[k + 1], _FLOATS) for k in (2, 4, 6, 8))
        total = builder.fadd(builder.fmul(a, b), builder.fmul(c, d))
        store(builder, total, arrays[0], arrays[1])
        return context.get_dummy_value()

    return types.void(out, o, x, ix, y, iy, z, iz, w, iw), generate


@njit(cache=True, nogil=True)
def _shift(logits, sign, wanted, lane, p, q):  # type: ignore[no-untyped-def]
    """Shift the logits of a lane so that `wanted` sites hold the rarer sign on average.

    Returns the shift, right to 1e-4: any near the exact one does.
    """
    n = logits.size
    x = np.empty(n)
    for i in range(n):
        x[i] = -sign * min(max(float(logits[i]), -MOST), MOST)
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
def _end(n, most, majority, tie, sign, shift, lane, after):  # type: ignore[no-untyped-def]
    """after[n, j]: which numbers j of sites with the rarer sign a lane may end in.

    What a block of known sum may hold does not depend on the shift, a majority does.
    """
    for j in range(n // 2 + 2):
        after[n, j, lane] = 0.0
    if not majority:
        after[n, most, lane] = 1.0
        return
    for j in range(most + 1):
        after[n, j, lane] = math.exp(shift * (0.5 * n - j))
    if 2 * most == n:
        after[n, most, lane] = 0.5 if tie == 0 else 1.0 if tie == sign else 0.0


@njit(cache=True, nogil=True)
def _fill_after(p, q, widest, narrowest, after):  # type: ignore[no-untyped-def]
    """after[i, j] = weight of the sites from i on, if j of those before hold the rarer sign.

    No lane ends in more than `widest` of them, nor in fewer than `narrowest`.
    """
    n = p.shape[0]
    for i in range(n - 1, 0, -1):
        low = max(0, narrowest - (n - i))
        for j in range(low, min(i, widest) + 1):
            at = ((i + 1) * after.shape[1] + j) * _LANES
            _combine(
                after, at - after.shape[1] * _LANES,
                p, i * _LANES, after, at + _LANES, q, i * _LANES, after, at,
            )  # fmt: skip
        # What cannot be reached weighs nothing; the table may hold other blocks' weights there.
        for lane in range(_LANES):
            after[i, widest + 1, lane] = 0.0
            if low > 0:
                after[i, low - 1, lane] = 0.0


@njit(cache=True, nogil=True)
def _lane_means(p, q, widest, narrowest, signs, after, before, means):  # type: ignore[no-untyped-def]
    """means[i] = E[s_i] of every lane; before[j] = weight of j rarer signs among the sites < i."""
    n = p.shape[0]
    rare, common, ones = np.empty(_LANES), np.empty(_LANES), np.ones(_LANES)
    before[:] = 0.0
    before[0] = 1.0
    for i in range(n):
        high = min(i, widest)
        rare[:], common[:] = 0.0, 0.0
        for j in range(max(0, narrowest - (n - i)), high + 1):
            at = ((i + 1) * after.shape[1] + j) * _LANES
            _combine(rare, 0, before, j * _LANES, after, at + _LANES, rare, 0, ones, 0)
            _combine(common, 0, before, j * _LANES, after, at, common, 0, ones, 0)
        for lane in range(_LANES):
            plus, minus = q[i, lane] * common[lane], p[i, lane] * rare[lane]
            total = plus + minus
            if total > 0.0:
                means[i, lane] = signs[lane] * (plus - minus) / total
            else:
                means[i, lane] = signs[lane] if q[i, lane] > p[i, lane] else -signs[lane]
        for j in range(min(i + 1, widest), 0, -1):
            at = j * _LANES
            _combine(before, at, q, i * _LANES, before, at, p, i * _LANES, before, at - _LANES)
        for lane in range(_LANES):
            before[0, lane] *= q[i, lane]


@njit(cache=True, nogil=True)
def _sample_lane(p, q, lane, most, exact, sign, after, state, spins):  # type: ignore[no-untyped-def]
    """Sample the spins of one lane, site by site."""
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
def _tables(logits, ups, downs, coarse, ties, majority, blocks, rarer, p, q, signs, after):  # type: ignore[no-untyped-def]
    """Fill p and q (the odds of the rarer and the other sign), signs and `after` for _LANES blocks.

    Returns the range of j they may end in.
    """
    n = logits.shape[1]
    widest, narrowest = 0, n
    for lane in range(_LANES):
        k = blocks[lane]
        signs[lane] = 1 if coarse[k] > 0 else -1
        rare, common = (downs, ups) if signs[lane] > 0 else (ups, downs)
        for i in range(n):
            p[i, lane], q[i, lane] = rare[k, i], common[k, i]
        widest = max(widest, rarer[k])
        narrowest = min(narrowest, 0 if majority else rarer[k])
        _end(n, rarer[k], majority, ties[k], signs[lane], 0.0, lane, after)
    _fill_after(p, q, widest, narrowest, after)
    shifted = False
    for lane in range(_LANES):
        if p[0, lane] * after[1, 1, lane] + q[0, lane] * after[1, 0, lane] < _RARE:
            shifted, k = True, blocks[lane]
            wanted = 0.5 * n if majority else float(rarer[k])
            shift = _shift(logits[k], signs[lane], wanted, lane, p, q)
            _end(n, rarer[k], majority, ties[k], signs[lane], shift, lane, after)
    if shifted:
        _fill_after(p, q, widest, narrowest, after)
    return widest, narrowest


@njit(cache=True, nogil=True)
def _blocks(logits, ups, downs, coarse, ties, majority, rarer, order, state, means, spins):  # type: ignore[no-untyped-def]
    """Fill `means` (blocks, sites), or `spins` sampled with `state`; the other is of size 0.

    Of the blocks in `order`, whose numbers of sites of the `rarer` sign (at most) rise.
    """
    n, samples = logits.shape[1], spins.size > 0
    p, q, found = np.empty((n, _LANES)), np.empty((n, _LANES)), np.empty((n, _LANES))
    after, before = np.zeros((n + 1, n // 2 + 2, _LANES)), np.empty((n // 2 + 2, _LANES))
    signs, blocks = np.empty(_LANES, dtype=np.int64), np.empty(_LANES, dtype=np.int64)
    for first in range(0, len(order), _LANES):
        used = min(_LANES, len(order) - first)
        for lane in range(_LANES):
            blocks[lane] = order[first + min(lane, used - 1)]
        widest, narrowest = _tables(
            logits, ups, downs, coarse, ties, majority, blocks, rarer, p, q, signs, after
        )
        if not samples:
            _lane_means(p, q, widest, narrowest, signs, after, before, found)
        for lane in range(used):
            k = blocks[lane]
            if samples:
                _sample_lane(
                    p, q, lane, rarer[k], not majority, signs[lane], after, state, spins[k]
                )
            else:
                means[k] = found[:, lane]


@njit(cache=True, nogil=True)
def _uniforms(n, state):  # type: ignore[no-untyped-def]
    out = np.empty(n)
    for i in range(n):
        out[i] = uniform(state)
    return out


def _probabilities(
    logits: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the probabilities of up and of down of free sites."""
    odds = torch.from_numpy(logits).clamp(-_LARGEST, _LARGEST)
    return odds.sigmoid().numpy(), odds.neg().sigmoid().numpy()


def _run_blocks(
    logits: NDArray[np.float32],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool,
    ties: NDArray[np.int8] | None,
    state: NDArray[np.uint64] | None,
) -> NDArray[Any]:
    rows, sums = to_blocks(logits, factor, logits.ndim), coarse.astype(np.int64).ravel()
    n = rows.shape[1]
    rarer = np.full(sums.size, n // 2) if majority else (n - np.abs(sums)) // 2
    order = np.argsort(rarer, kind="stable")
    marks = np.zeros(sums.size, np.int8) if ties is None or not majority else ties.ravel()
    # Blocks of one sign throughout are passed over: they are what they must be already.
    out = np.sign(sums)[:, None].repeat(n, axis=1)
    means = np.empty((0, 0), np.float32) if state is not None else out.astype(np.float32)
    spins = np.empty((0, 0), np.int8) if state is None else out.astype(np.int8)
    words = np.zeros(4, np.uint64) if state is None else state
    up, down = _probabilities(rows)
    order = order[rarer[order] > 0]
    _blocks(rows, up, down, sums, marks, majority, rarer, order, words, means, spins)
    out = means if state is None else spins
    return np.asarray(from_blocks(out, logits.shape, factor))


def sample_sites(
    logits: NDArray[np.float32], known: NDArray[np.int8] | None, state: NDArray[np.uint64]
) -> NDArray[np.int8]:
    """Sample one configuration of independent sites with `logits`, some of which may be known.

    Parameters
    ----------
    logits : (Ly, Lx), or of another dimension: log odds of spin up, finite; cut at +-87.
    known : of the same shape, the spins that are known, 0 for all others; None for none.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    int8 of +-1. Probabilities are float32's, right to 1e-7 of themselves.
    """
    out = np.zeros(logits.shape, dtype=np.int8) if known is None else known.copy()
    free = out == 0
    ups = _probabilities(logits)[0][free]
    out[free] = np.where(_uniforms(ups.size, state) < ups, 1, -1)
    return out


def sample_blocks(
    logits: NDArray[np.float32],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool,
    ties: NDArray[np.int8] | None,
    state: NDArray[np.uint64],
) -> NDArray[np.int8]:
    """Sample one configuration of independent sites with `logits`, given each block's sum or sign.

    Parameters
    ----------
    logits : (Ly, Lx), or of another dimension: log odds of spin up, finite; cut at +-87 (+-MOST).
    coarse : (Ly / factor, Lx / factor) block sums, or their signs if `majority`.
    factor : side of a block.
    ties : of the shape of `coarse`, int8, the tie-break of a block, 0 where it is not known;
        majority only. None: none is known.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    int8 of +-1 that coarse-grain to `coarse` exactly. Probabilities are float32's, right to 1e-7 of
    themselves; their sums and products float64's.
    """
    return _run_blocks(logits, coarse, factor, majority, ties, state)


def block_means(
    logits: NDArray[np.float32],
    coarse: NDArray[np.generic],
    factor: int,
    majority: bool = False,
    ties: NDArray[np.int8] | None = None,
) -> NDArray[np.float32]:
    """Return E[s] of what `sample_blocks` samples, with the same arguments."""
    return _run_blocks(logits, coarse, factor, majority, ties, None)


def rounded_sums(
    logits: NDArray[np.float32], factor: int, by_chance: float, state: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return a sum for each block of independent sites that hardly fluctuates.

    It is the mean, rounded to the nearest that spins can have, or, where the mean number of ups is
    within `by_chance` of the middle between two whole numbers, to either: with a
    probability that goes from 0 to 1 there.

    Parameters
    ----------
    logits : sides that are multiples of `factor`.
    state : (4,) uint64 generator state, advanced in place.

    Returns
    -------
    (Ly / factor, Lx / factor) in 2D.
    """
    split = [n for side in logits.shape for n in (side // factor, factor)]
    up = _probabilities(logits)[0].astype(np.float64).reshape(split)
    ups = up.sum(axis=tuple(range(1, len(split), 2)))
    whole = np.floor(ups)
    chance = 0.5 + 0.5 * (ups - whole - 0.5) / by_chance
    whole += _uniforms(ups.size, state).reshape(ups.shape) < chance
    return np.asarray(2 * whole.astype(np.int64) - factor**logits.ndim)


def compile_sampling() -> None:
    """Compile the kernels of this module, on one block; quick once they are cached."""
    logits, state = np.zeros((2, 2), np.float32), np.ones(4, np.uint64)
    sums = np.zeros((1, 1), np.int64)
    sample_sites(logits, None, state)
    sample_blocks(logits, sums, 2, False, None, state)
    block_means(logits, sums, 2)
    rounded_sums(logits, 2, BY_CHANCE, state)
