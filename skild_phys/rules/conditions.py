"""What coarse values say of spins: their means given them, and samples that obey them.

Sites are independent with given logits; means and samples are those of that distribution
conditioned on the coarse values, exactly where spins can have them. Where they cannot
(`KeptModes`), a field is added to the logits, and samples have block sums that are near.

Training (`targets`) has less noise if a spin is replaced by its mean given all the others (Rao and
Blackwell): where the pair couplings say all about the data that is tanh of the field of X_t and
of the others.

Blocks of known sum (or sign) have b^d sites. The weight of every way to complete a block,
given how many of its first sites hold the rarer sign (`after`), gives the means, by a pass from the
other side, and samples, site by site. Blocks go through in groups of _LANES, side by side, in the
order of their numbers of sites of the rarer sign: tables are that wide and no wider.

Multiplying all odds of a block by one number does not change the distribution given the sum. A
block whose logits all but exclude what it must hold is shifted so that they expect it: no weight
that matters is then near the ends of float64's range.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.kernels import I64, data_of, intrinsic, load, store
from skild_phys.rng import uniform
from skild_phys.rules.base import Operator, corners, to_blocks

_Logits = NDArray[np.float32]
_State = NDArray[np.uint64]

_LANES = 8
MOST = 300.0
"""Logits of a block that is shifted are cut at +-MOST."""
_LARGEST = 87.0  # others are cut here: beyond it float32 has no probabilities
_RARE = 1e-30  # probability of what a block must hold below which its logits are shifted

_FLOATS = ir.VectorType(ir.DoubleType(), _LANES)

# -- blocks of known sum or sign ----------------------------------------------------------------


class _Rows(NamedTuple):
    """Blocks of a configuration, and what they must hold."""

    logits: _Logits  # (sites,), log odds of up
    ups: _Logits  # their probabilities of up
    downs: _Logits  # and of down
    first: NDArray[np.int64]  # (blocks,), the number of a block's first site
    inside: NDArray[np.int64]  # (b^d,), the numbers of its sites less that
    signs: NDArray[np.int64]  # (blocks,), the commoner sign
    rarer: NDArray[np.int64]  # (blocks,), how many sites hold the other; for majorities at most
    ties: NDArray[np.int8]  # (blocks,), tie-breaks of majorities; 0 where not known
    majority: bool  # whether the sign of the sum is known, not the sum


@intrinsic
def _step(typing, out, o, p, q, i, weights, at, shift):  # type: ignore[no-untyped-def]
    """out = p weights(at + shift) + q weights(at): _LANES numbers from an element of each on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, o, p, q, i, weights, at, shift = data_of(context, builder, signature, args)
        there = builder.add(at, shift)
        places = ((p, i), (weights, there), (q, i), (weights, at))
        a, b, c, d = (load(builder, *place, _FLOATS) for place in places)
        store(builder, builder.fadd(builder.fmul(a, b), builder.fmul(c, d)), out, o)
        return context.get_dummy_value()

    return types.void(out, o, p, q, i, weights, at, shift), generate


@intrinsic
def _add_product(typing, total, x, i, y, j):  # type: ignore[no-untyped-def]
    """total += x y: _LANES numbers from elements i and j on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, x, i, y, j = data_of(context, builder, signature, args)
        a, b, c = (load(builder, *place, _FLOATS) for place in ((x, i), (y, j), (total, I64(0))))
        store(builder, builder.fadd(builder.fmul(a, b), c), total, I64(0))
        return context.get_dummy_value()

    return types.void(total, x, i, y, j), generate


@njit(cache=True, nogil=True)
def _shift(rows, k, lane, p, q):  # type: ignore[no-untyped-def]
    """Shift the logits of block k until it is expected to hold what it must, to 1e-4; return by
    how much."""
    n, sign = rows.inside.size, rows.signs[k]
    wanted = 0.5 * n if rows.majority else float(rows.rarer[k])
    x = np.empty(n)
    for i in range(n):
        x[i] = -sign * min(max(float(rows.logits[rows.first[k] + rows.inside[i]]), -MOST), MOST)
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
def _end(rows, k, lane, shift, after):  # type: ignore[no-untyped-def]
    """after[n, j]: which numbers j of sites with the rarer sign block k may end in.

    What a block of known sum may hold does not depend on the shift, a majority does.
    """
    n, most, tie = after.shape[0] - 1, rows.rarer[k], rows.ties[k]
    for j in range(n // 2 + 2):
        after[n, j, lane] = 0.0
    if not rows.majority:
        after[n, most, lane] = 1.0
        return
    for j in range(most + 1):
        after[n, j, lane] = math.exp(shift * (0.5 * n - j))
    if 2 * most == n:
        after[n, most, lane] = 0.5 if tie == 0 else 1.0 if tie == rows.signs[k] else 0.0


@njit(cache=True, nogil=True)
def _fill_after(p, q, widest, narrowest, after):  # type: ignore[no-untyped-def]
    """after[i, j] = weight of the sites from i on, if j of those before hold the rarer sign.

    No lane ends in more than `widest` of them, nor in fewer than `narrowest`.
    """
    n, row = p.shape[0], after.shape[1] * _LANES
    for i in range(n - 1, 0, -1):
        low = max(0, narrowest - (n - i))
        for j in range(low, min(i, widest) + 1):
            at = (i + 1) * row + j * _LANES
            _step(after, at - row, p, q, i * _LANES, after, at, _LANES)
        # What cannot be reached weighs nothing; the table may hold other blocks' weights there.
        for lane in range(_LANES):
            after[i, widest + 1, lane] = 0.0
            if low > 0:
                after[i, low - 1, lane] = 0.0


@njit(cache=True, nogil=True)
def _tables(rows, blocks, p, q, after):  # type: ignore[no-untyped-def]
    """Fill p and q (odds of the rarer and the other sign) and `after`; return the range of j."""
    ups, downs, inside = rows.ups, rows.downs, rows.inside
    n = inside.size
    widest, narrowest = 0, n
    for lane in range(_LANES):
        k = blocks[lane]
        rare, common = (downs, ups) if rows.signs[k] > 0 else (ups, downs)
        for i in range(n):
            site = rows.first[k] + inside[i]
            p[i, lane], q[i, lane] = rare[site], common[site]
        widest = max(widest, rows.rarer[k])
        narrowest = min(narrowest, 0 if rows.majority else rows.rarer[k])
        _end(rows, k, lane, 0.0, after)
    _fill_after(p, q, widest, narrowest, after)
    shifted = False
    for lane in range(_LANES):
        if p[0, lane] * after[1, 1, lane] + q[0, lane] * after[1, 0, lane] < _RARE:
            shifted, k = True, blocks[lane]
            _end(rows, k, lane, _shift(rows, k, lane, p, q), after)
    if shifted:
        _fill_after(p, q, widest, narrowest, after)
    return widest, narrowest


@njit(cache=True, nogil=True)
def _lane_means(p, q, widest, narrowest, after, before, means):  # type: ignore[no-untyped-def]
    """means[i] = E[s_i] times the commoner sign; before[j] = weight of j rarer signs so far."""
    n, row = p.shape[0], after.shape[1] * _LANES
    rare, common = np.empty(_LANES), np.empty(_LANES)
    before[:] = 0.0
    before[0] = 1.0
    for i in range(n):
        rare[:], common[:] = 0.0, 0.0
        for j in range(max(0, narrowest - (n - i)), min(i, widest) + 1):
            at = (i + 1) * row + j * _LANES
            _add_product(rare, before, j * _LANES, after, at + _LANES)
            _add_product(common, before, j * _LANES, after, at)
        for lane in range(_LANES):
            plus, minus = q[i, lane] * common[lane], p[i, lane] * rare[lane]
            total = plus + minus
            if total > 0.0:
                means[i, lane] = (plus - minus) / total
            else:
                means[i, lane] = 1.0 if q[i, lane] > p[i, lane] else -1.0
        for j in range(min(i + 1, widest), 0, -1):
            _step(before, j * _LANES, p, q, i * _LANES, before, j * _LANES, -_LANES)
        for lane in range(_LANES):
            before[0, lane] *= q[i, lane]


@njit(cache=True, nogil=True)
def _sample_lane(p, q, lane, most, exact, after, state, spins):  # type: ignore[no-untyped-def]
    """Sample the spins of one lane, site by site, times its commoner sign."""
    n, j = p.shape[0], 0
    for i in range(n):
        rare = p[i, lane] * after[i + 1, j + 1, lane] if j < most else 0.0
        common = q[i, lane] * after[i + 1, j, lane]
        if rare + common == 0.0:
            # Beyond float64's range: any order of what is left does.
            rare, common = (float(most - j), float(n - i - most + j)) if exact else (0.0, 1.0)
        if uniform(state) * (rare + common) < rare:
            spins[i, lane] = -1.0
            j += 1
        else:
            spins[i, lane] = 1.0


@njit(cache=True, nogil=True)
def _blocks(rows, order, state, out):  # type: ignore[no-untyped-def]
    """Fill `out` (sites,) with means, or with spins sampled by the generator `state`, of the
    blocks in `order`."""
    signs, rarer = rows.signs, rows.rarer
    n = rows.inside.size
    p, q, found = np.empty((n, _LANES)), np.empty((n, _LANES)), np.empty((n, _LANES))
    after, before = np.zeros((n + 1, n // 2 + 2, _LANES)), np.empty((n // 2 + 2, _LANES))
    blocks = np.empty(_LANES, dtype=np.int64)
    for first in range(0, len(order), _LANES):
        used = min(_LANES, len(order) - first)
        for lane in range(_LANES):
            blocks[lane] = order[first + min(lane, used - 1)]
        widest, narrowest = _tables(rows, blocks, p, q, after)
        if state is None:
            _lane_means(p, q, widest, narrowest, after, before, found)
        for lane in range(used):
            k = blocks[lane]
            if state is not None:
                _sample_lane(p, q, lane, rarer[k], not rows.majority, after, state, found)
            for i in range(n):
                out[rows.first[k] + rows.inside[i]] = signs[k] * found[i, lane]


# -- independent sites --------------------------------------------------------------------------


def _probabilities(logits: _Logits) -> tuple[_Logits, _Logits]:
    """Return the probabilities of up and of down of free sites: float32's, right to 1e-7."""
    odds = torch.from_numpy(logits).clamp(-_LARGEST, _LARGEST)
    return odds.sigmoid().numpy(), odds.neg().sigmoid().numpy()


@njit(cache=True, nogil=True)
def _uniforms(n, state):  # type: ignore[no-untyped-def]
    out = np.empty(n)
    for i in range(n):
        out[i] = uniform(state)
    return out


def _sample_sites(logits: _Logits, known: NDArray[np.int8], state: _State) -> NDArray[np.int8]:
    """Sample independent sites where `known`, of the same shape, is 0; the others stay."""
    out, free = known.copy(), known == 0
    ups = _probabilities(logits)[0][free]
    out[free] = np.where(_uniforms(ups.size, state) < ups, 1, -1)
    return out


def _rounded_sums(
    logits: _Logits, factor: int, by_chance: float, state: _State
) -> NDArray[np.int64]:
    """Return a sum for each block of independent sites that hardly fluctuates: its mean, rounded.

    To the nearest that spins can have, or, where the mean number of ups is within `by_chance` of
    the middle between two whole numbers, to either, with a probability that goes from 0 to 1 there.
    """
    split = [n for side in logits.shape for n in (side // factor, factor)]
    up = _probabilities(logits)[0].astype(np.float64).reshape(split)
    ups = up.sum(axis=tuple(range(1, len(split), 2)))
    whole = np.floor(ups)
    chance = 0.5 + 0.5 * (ups - whole - 0.5) / by_chance
    whole += _uniforms(ups.size, state).reshape(ups.shape) < chance
    return np.asarray(2 * whole.astype(np.int64) - factor**logits.ndim)


# -- conditions ---------------------------------------------------------------------------------


class Constraint(ABC):
    """A condition on a batch of spin configurations, (n, *shape)."""

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Return E[s] (n, *shape) of spins with `logits` under the condition."""

    def alone(self, like: Tensor) -> Tensor:
        """Return E[s] under the condition and nothing else; shape and device of `like`."""
        return self.means(torch.zeros_like(like))

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Return `gradient` times d means / d logits, for training: near it where not exact."""
        return 0.5 * (1.0 - means * means) * gradient

    def differentiable_means(self, logits: Tensor) -> Tensor:
        """Return `means(logits)`, through which gradients flow by `slope`."""
        means, through = self.means(logits.detach()), 1.0 * logits
        if not through.requires_grad:
            return means
        slope = functools.partial(self.slope, means)
        through.register_hook(slope)  # type: ignore[no-untyped-call]
        return means + (through - through.detach())

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        """Return E[s] (n, *shape) given all other spins of `x0` and the condition, or `x0`.

        `field` (n, *shape) is that of X_t and the other spins, `by_site` (n or 1, *shape) the
        couplings by the displacement between two sites.
        """
        return x0

    def settled(self, logits: Tensor, states: Sequence[_State]) -> tuple[Tensor, Constraint]:
        """Return what is sampled from: logits (n, *shape), and a condition that spins can meet.

        What is decided by chance before there are spins is decided, by the generator `states`.
        """
        return logits, self

    def draw(self, logits: _Logits, i: int, state: _State) -> NDArray[np.int8]:
        """Return configuration `i` (*shape), sampled from `logits` under a settled condition.

        `state` (4,) advances in place. Probabilities are float32's, right to 1e-7 of themselves;
        their sums and products float64's.
        """
        raise NotImplementedError("spins are sampled under a condition that is settled")


class Free(Constraint):
    """No condition."""

    def means(self, logits: Tensor) -> Tensor:
        return torch.tanh(0.5 * logits)

    def draw(self, logits: _Logits, i: int, state: _State) -> NDArray[np.int8]:
        return _sample_sites(logits, np.zeros(logits.shape, dtype=np.int8), state)

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        return torch.tanh(field)


class Sites(Constraint):
    """The spins of one site of every block, `raw` (n, Ly / b, Lx / b): the one at (at, at, ..)."""

    def __init__(self, raw: NDArray[Any], factor: int, device: torch.device, at: int = 0) -> None:
        self.raw, self.every = raw, corners(factor, raw.ndim - 1, at)
        self.known = torch.from_numpy(raw.astype(np.float32)).to(device)

    def means(self, logits: Tensor) -> Tensor:
        m = torch.tanh(0.5 * logits)
        m[self.every] = self.known
        return m

    def draw(self, logits: _Logits, i: int, state: _State) -> NDArray[np.int8]:
        known = np.zeros(logits.shape, dtype=np.int8)
        known[self.every] = self.raw[i]
        return _sample_sites(logits, known, state)

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        means = torch.tanh(field)
        means[self.every] = x0[self.every]
        return means


class Blocks(Constraint):
    """The sum of every block, or its sign: `raw` (n, Ly / b, Lx / b), or of another dimension.

    `ties` (n, ..) int8 decide the sign of a sum of zero (0: not known). Logits are cut at +-87.
    """

    def __init__(
        self,
        raw: NDArray[Any],
        factor: int,
        majority: bool = False,
        ties: NDArray[np.int8] | None = None,
    ) -> None:
        self.raw, self.factor, self.majority, self.ties = raw, factor, majority, ties
        self._conditions: dict[int, tuple[NDArray[Any], ...]] = {}
        shape = [side * factor for side in raw.shape[1:]]
        sites = np.arange(math.prod(shape)).reshape(shape)
        inside = sites[(slice(factor),) * len(shape)].ravel()
        self._sites = sites[(slice(None, None, factor),) * len(shape)].ravel(), inside

    def _condition(self, i: int) -> tuple[NDArray[Any], ...]:
        """Return (`_Rows`) signs, rarer, ties of configuration i, spins without the rarer sign,
        and the blocks that may have it, in an order that puts like beside like."""
        if i not in self._conditions:
            sums, d = self.raw[i].astype(np.int64), self.raw[i].ndim
            n, signs = self.factor**d, np.where(sums > 0, 1, -1)
            rarer = np.full(sums.size, n // 2) if self.majority else (n - np.abs(sums.ravel())) // 2
            known = self.majority and self.ties is not None
            ties = self.ties[i].ravel() if known else np.zeros(sums.size, np.int8)  # type: ignore[index]
            block = np.ones([self.factor] * d, np.int8)
            spins = np.kron(signs.astype(np.int8), block).ravel()
            order = np.argsort(rarer, kind="stable")[np.count_nonzero(rarer == 0) :]
            self._conditions[i] = signs.ravel(), rarer, ties, spins, order
        return self._conditions[i]

    def _found(self, logits: _Logits, i: int, state: _State | None) -> NDArray[Any]:
        """Return the means of configuration i, or spins sampled with `state`."""
        signs, rarer, ties, spins, order = self._condition(i)
        flat, out = logits.ravel(), spins.astype(np.float32 if state is None else np.int8)
        given = _Rows(flat, *_probabilities(flat), *self._sites, signs, rarer, ties, self.majority)
        _blocks(given, order, state, out)
        return out.reshape(logits.shape)

    def means(self, logits: Tensor) -> Tensor:
        arrays, threads = logits.detach().cpu().numpy(), torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            every = map if threads == 1 or len(arrays) == 1 else pool.map
            found = np.stack(
                [*every(lambda i: self._found(arrays[i], i, None), range(len(arrays)))]
            )
        return torch.from_numpy(found).to(logits.device)

    def draw(self, logits: _Logits, i: int, state: _State) -> NDArray[np.int8]:
        return self._found(logits, i, state)

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
        shape, b = tuple(x0.shape[1:]), self.factor
        sites = torch.from_numpy(to_blocks(np.arange(math.prod(shape)).reshape(shape), b))
        spins, field = (one.flatten(1)[:, sites] for one in (x0, field))
        if self.majority:
            signs = torch.from_numpy(self.raw.astype(np.float32)).to(x0.device)
            found = _held_by_majority(spins, field, signs.flatten(1)[..., None])
        else:
            place = torch.cartesian_prod(*[torch.arange(b)] * len(shape)).reshape(-1, len(shape))
            found, half = torch.zeros_like(spins), len(place) // 2
            for _ in range(pairings):
                order = torch.randperm(len(place), generator=random)
                i, j = order[:half], order[half : 2 * half]
                apart = (place[i] - place[j]) % torch.tensor(shape)
                pull = by_site[(slice(None), *apart.T)][:, None]
                found += _exchanged(spins, field, pull, i, j) / pairings
        out = torch.empty_like(found).reshape(len(found), -1)
        out[:, sites] = found
        return out.reshape(x0.shape)


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


class KeptModes(Constraint):
    """The modes inside the coarse box, as the operator's coarse field `values`.

    Spins cannot hold real numbers exactly. The mean does; a sample rounds each block's share of it
    to a sum that spins can have, up or down by chance, and is made given these sums, in all its
    parts: a sum rounded anew at each part, and a mean held to the coarse field against what other
    parts have become, cost an energy of +0.02 (lambda = 0.2) to +0.08.
    """

    by_chance = 0.25
    """Of `_rounded_sums`. With 0.5 critical Ising configurations, refined by a factor of 4, are too
    disordered, by 0.017 in energy; with 0 too ordered at short distance, by 0.006 in G4c at r = 2
    (32 tuning configurations)."""
    _STEPS, _STEPS_OF_SAMPLE, _RATE = 3, 8, 1.8
    """Of the ascent to the tilt, which resumes from one mean to the next; _RATE is below
    2 / (1/2), where it must converge."""

    def __init__(self, values: NDArray[np.float64], kept: Operator, device: torch.device) -> None:
        self.factor, self.shape = kept.factor, kept.shape
        self.sites = float(kept.factor ** len(kept.shape))
        self.transfer = torch.from_numpy(kept.transfer.real.copy()).float().to(device)
        wanted = kept.adjoint(values) * self.sites
        self.wanted = torch.from_numpy(wanted.astype(np.float32)).to(device)
        # Where the last means were found the next ones are near.
        self.tilt = torch.zeros_like(self.wanted)

    def _kept(self, fields: Tensor) -> Tensor:
        """Return b^d A^T A of fields, the projection onto what the coarse field says.

        Not a filter: for an even coarse side the modes +-side/2 are seen by their sum alone.
        """
        every, sparse = corners(self.factor, len(self.shape)), torch.zeros_like(fields)
        sparse[every] = self._filtered(fields)[every]
        return self.sites * self._filtered(sparse)

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

    def settled(self, logits: Tensor, states: Sequence[_State]) -> tuple[Tensor, Constraint]:
        tilted = logits + self._better(logits, self._STEPS_OF_SAMPLE)
        given = zip(tilted.cpu().numpy(), states, strict=True)
        sums = [_rounded_sums(one, self.factor, self.by_chance, state) for one, state in given]
        return tilted, Blocks(np.stack(sums), self.factor)


def compile_sampling() -> None:
    """Compile the kernels of this module, on one block; quick once they are cached."""
    logits, bound = np.zeros((2, 2), np.float32), Blocks(np.zeros((1, 1, 1), np.int64), 2)
    bound.means(torch.zeros(1, 2, 2))
    bound.draw(logits, 0, np.ones(4, np.uint64))
    Free().draw(logits, 0, np.ones(4, np.uint64))
