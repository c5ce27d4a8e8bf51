"""What a coarse lattice says of spins: their means under it, and samples that obey it.

Sites are independent with given logits; means and samples are those of that distribution
conditioned on the coarse lattice, exactly where spins can have its values. Where they cannot
(`KeptModes`), a field is added to the logits, and samples have block sums that are near.

Training (`targets`) has less noise if a spin is replaced by its mean given all the others (Rao and
Blackwell): where the pair couplings say all about the data that is tanh of the field of X_t and
of the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.kernels import data_of, intrinsic, load, store
from skild_phys.rng import uniform
from skild_phys.rules.base import Operator, from_blocks, to_blocks

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


class Constraint(ABC):
    """A condition on a batch of spin lattices, (n, *shape)."""

    holds_sums = False
    """Whether spins are sampled with the sums of their blocks held."""

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Return E[s] (n, *shape) of spins with `logits` under the condition."""

    def alone(self, like: Tensor) -> Tensor:
        """Return E[s] under the condition and nothing else; shape and device of `like`."""
        return self.means(torch.zeros_like(like))

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Return `gradient` times d means / d logits, for training: near it where not exact."""
        return 0.5 * (1.0 - means * means) * gradient

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        """Return E[s] (n, *shape) given all other spins of `x0` and the condition, or `x0`.

        `field` (n, *shape) is that of X_t and the other spins, `by_site` (n or 1, *shape) the
        couplings by the displacement between two sites.
        """
        return x0

    @abstractmethod
    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        """Return what is sampled from: logits (n, *shape) and their condition.

        What is decided by chance before there are spins is decided, by the generator `states`.
        """


class Settled(Constraint):
    """A condition that spins can meet exactly, and are sampled under."""

    @abstractmethod
    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        """Return configuration `i` (*shape) int8 sampled from `logits` under the condition."""

    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        return logits, self


class _Means(torch.autograd.Function):
    """`Constraint.means` with `Constraint.slope` for its gradient."""

    @staticmethod
    def forward(context: Any, logits: Tensor, constraint: Constraint) -> Tensor:
        means = constraint.means(logits)
        context.constraint = constraint
        context.save_for_backward(means)
        return means

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (means,) = context.saved_tensors
        return context.constraint.slope(means, gradients[0]), None


def differentiable_means(constraint: Constraint, logits: Tensor) -> Tensor:
    """Return `constraint.means(logits)`, through which gradients flow."""
    means: Tensor = _Means.apply(logits, constraint)  # type: ignore[no-untyped-call]
    return means


class Free(Settled):
    """No condition."""

    def means(self, logits: Tensor) -> Tensor:
        return torch.tanh(0.5 * logits)

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        return sample_sites(logits, None, state)


class Blocks(Settled):
    """The sum of every block, or its sign: `raw` (n, Ly / b, Lx / b), or of another dimension.

    `ties` decide the sign of a sum of zero (0: not known).
    """

    def __init__(
        self,
        raw: NDArray[Any],
        factor: int,
        majority: bool = False,
        ties: NDArray[np.int8] | None = None,
    ) -> None:
        self.raw, self.factor, self.majority, self.ties = raw, factor, majority, ties
        self.holds_sums = not majority

    def _of(self, i: int) -> tuple[NDArray[Any], int, bool, NDArray[np.int8] | None]:
        return self.raw[i], self.factor, self.majority, None if self.ties is None else self.ties[i]

    def means(self, logits: Tensor) -> Tensor:
        arrays = list(enumerate(logits.detach().cpu().numpy()))

        def of(one: tuple[int, NDArray[np.float32]]) -> NDArray[np.float32]:
            return block_means(one[1], *self._of(one[0]))

        if len(arrays) == 1:
            return torch.from_numpy(of(arrays[0])[None]).to(logits.device)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            means = list(pool.map(of, arrays))
        return torch.from_numpy(np.stack(means)).to(logits.device)

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        if self.majority:
            return super().slope(means, gradient)
        split = [n for side in means.shape[1:] for n in (side // self.factor, self.factor)]
        own = (0.5 * (1.0 - means * means)).reshape(-1, *split)
        pulled = own * gradient.reshape(own.shape)
        inside = tuple(range(2, own.dim(), 2))
        # A block's sum is fixed: what all its sites have in common moves nothing.
        common = pulled.sum(inside, keepdim=True) / (own.sum(inside, keepdim=True) + 1e-6)
        return (pulled - own * common).reshape(means.shape)

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        """Where a block's majority is held, a spin on which it hangs cannot change.

        Where its sum is held, two spins that differ change places: the sites are paired at
        random, alike in every block, and the means are averaged over `pairings`.
        """
        d, b = x0.dim() - 1, self.factor
        spins, field = (to_blocks(one, b, d) for one in (x0, field))
        if self.majority:
            signs = torch.from_numpy(self.raw.astype(np.float32)).to(x0.device)
            found = _held_by_majority(spins, field, signs.flatten(1)[..., None])
        else:
            place = torch.cartesian_prod(*[torch.arange(b)] * d).reshape(-1, d)
            found, half = torch.zeros_like(spins), b**d // 2
            for _ in range(pairings):
                order = torch.randperm(b**d, generator=random)
                i, j = order[:half], order[half : 2 * half]
                apart = (place[i] - place[j]) % torch.tensor(x0.shape[1:])
                pull = by_site[(slice(None), *apart.T)][:, None]
                found += _exchanged(spins, field, pull, i, j) / pairings
        return torch.as_tensor(from_blocks(found, tuple(x0.shape[1:]), b))

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        return sample_blocks(logits, *self._of(i), state)


def _held_by_majority(spins: Tensor, field: Tensor, signs: Tensor) -> Tensor:
    others = (spins.sum(-1, keepdim=True) - spins) * signs
    # How likely the block's sign is with this spin along it and against it: 0, 1/2 or 1.
    along, against = (0.5 * (1.0 + torch.sign(others + own)) for own in (1.0, -1.0))
    odds = (2.0 * field * signs).clamp(-60.0, 60.0)
    along, against = along * torch.sigmoid(odds), against * torch.sigmoid(-odds)
    return (along - against) / (along + against) * signs


def _exchanged(spins: Tensor, field: Tensor, pull: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return E[s] of sites i and j given their sum and all others; `pull` is their coupling."""
    apart, found = spins[..., i] - spins[..., j], spins.clone()
    # The field of the others: what the two do to each other is no part of it.
    change = 0.5 * (apart - apart.abs() * torch.tanh(field[..., i] - field[..., j] + pull * apart))
    found[..., i] -= change
    found[..., j] += change
    return found


class Sites(Settled):
    """The spins of one site of every block, `raw`: the one at (at, at, ..) of it."""

    def __init__(self, raw: NDArray[Any], factor: int, device: torch.device, at: int = 0) -> None:
        self.raw = raw
        self.every: Any = (..., *[slice(at, None, factor)] * (raw.ndim - 1))
        self.known = torch.from_numpy(raw.astype(np.float32)).to(device)

    def means(self, logits: Tensor) -> Tensor:
        m = torch.tanh(0.5 * logits)
        m[self.every] = self.known
        return m

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        known = np.zeros(logits.shape, dtype=np.int8)
        known[self.every] = self.raw[i]
        return sample_sites(logits, known, state)

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        means = torch.tanh(field)
        means[self.every] = x0[self.every]
        return means


class KeptModes(Constraint):
    """The modes inside the coarse box, as the operator's coarse field `values`.

    Spins cannot hold real numbers exactly. The mean does; a sample rounds each block's share of it
    to a sum that spins can have, up or down by chance, and is made given these sums, in all its
    parts: a sum rounded anew at each part, and a mean held to the coarse field against what other
    parts have become, cost an energy of +0.02 (lambda = 0.2) to +0.08.
    """

    holds_sums, by_chance = True, BY_CHANCE
    _STEPS, _STEPS_OF_SAMPLE, _RATE = 3, 8, 1.8
    """Of the ascent to the tilt, which goes on from one mean to the next; _RATE is below
    2 / (1/2), where it must converge."""

    def __init__(self, values: NDArray[np.float64], kept: Operator, device: torch.device) -> None:
        self.factor, self.shape = kept.factor, kept.shape
        self.transfer = torch.from_numpy(kept.transfer.real.copy()).float().to(device)
        wanted = kept.adjoint(values) * kept.factor ** len(kept.shape)
        self.wanted = torch.from_numpy(wanted.astype(np.float32)).to(device)
        # Where the last means were found the next ones are near.
        self.tilt = torch.zeros_like(self.wanted)

    def _kept(self, fields: Tensor) -> Tensor:
        """Return b^d A^T A of fields, the projection onto what the coarse field says.

        Not a filter: for an even coarse side the modes +-side/2 are seen by their sum alone.
        """
        every: Any = (..., *[slice(None, None, self.factor)] * len(self.shape))
        sparse = torch.zeros_like(fields)
        sparse[every] = self._filtered(fields)[every]
        sites = float(self.factor ** len(self.shape))
        return sites * self._filtered(sparse)

    def _filtered(self, fields: Tensor) -> Tensor:
        axes = tuple(range(-len(self.shape), 0))
        modes = torch.fft.rfftn(fields, dim=axes) * self.transfer
        kept: Tensor = torch.fft.irfftn(modes, s=self.shape, dim=axes)
        return kept

    def means(self, logits: Tensor) -> Tensor:
        self.tilt = self._better(logits, self._STEPS)
        return torch.tanh(0.5 * (logits + self.tilt))

    def alone(self, like: Tensor) -> Tensor:
        # The shipped network has not seen this rule.
        return torch.zeros_like(like)

    def _better(self, logits: Tensor, steps: int) -> Tensor:
        """Return the tilt after `steps` of accelerated ascent (Nesterov)."""
        before = tilt = self.tilt
        for step in range(steps):
            ahead = tilt + step / (step + 3.0) * (tilt - before)
            missing = self.wanted - self._kept(torch.tanh(0.5 * (logits + ahead)))
            before, tilt = tilt, ahead + self._RATE * missing
        return tilt

    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        tilted = logits + self._better(logits, self._STEPS_OF_SAMPLE)
        lattices = zip(tilted.cpu().numpy(), states, strict=True)
        sums = np.stack(
            [rounded_sums(one, self.factor, self.by_chance, state) for one, state in lattices]
        )
        return tilted, Blocks(sums, self.factor)
