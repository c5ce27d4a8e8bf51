"""Exact conditional Monte Carlo: the 2D Ising model given its coarse lattice.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the lattices
whose coarse-graining (`lattice.coarsen`) is the given one. Each rule has a move that stays inside
that set and connects all of it: exchange within a block (the sum stays), heat bath of the sites
that decimation leaves free, heat bath of single spins that refuses to break a block's majority.
Every elementary move leaves the target invariant, so that their sequence over the lattice in
fixed order does. Acceptances are compared with 64 random bits, exact to 2^-53.

A block of even side may sum to 0; its majority is then a coin. Where the coin is known, a tied
block is allowed only if the coin shows the coarse value. Where it is not (a coin of 0), a tied
block has the weight 1/2, the probability that a fair coin shows that value.

A sweep is, for block_mean, factor^2 attempts in every block: an up and a down spin of it drawn
uniformly and exchanged with Metropolis' probability (block sums being conserved, the draw is as
likely as the reverse one; blocks of one sign have nothing to exchange). For decimate it draws
every free site once from its law given its neighbours, for majority every site, where what would
break the block's majority is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted
from skild_phys.lattice.coarsen import block_sums, check_factor
from skild_phys.rng import below, kernel_state, next_u64

CONDITIONAL_RULES = ("block_mean", "majority", "decimate")

_MOVES_PER_CALL = 1 << 25  # a fraction of a second, so that Ctrl-C is heard between calls
_FILL_STREAM, _RELAX_STREAM = 0, 1
_TOP_BIT = np.uint64(63)

Spins = NDArray[np.int8]


def _threshold(p: float) -> int:
    return min(int(p * 2.0**64), 2**64 - 1)


def metropolis_thresholds(temperature: float) -> NDArray[np.uint64]:
    """Return exp(-4 i / T), i = 0 .. 4, as thresholds for 64 random bits."""
    p = [_threshold(math.exp(-4.0 * i / temperature)) for i in range(5)]
    return np.array(p, dtype=np.uint64)


def heat_bath_thresholds(temperature: float) -> NDArray[np.uint64]:
    """Return P(spin up | h) = 1 / (1 + exp(-2 h / T)), h = -4, -2 .. 4, as 64-bit thresholds."""
    p = [_threshold(0.5 * (1.0 + math.tanh(h / temperature))) for h in range(-4, 5, 2)]
    return np.array(p, dtype=np.uint64)


@njit(cache=True, nogil=True, inline="always")
def _neighbours(spins, y, x):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    up = y - 1 if y > 0 else height - 1
    down = y + 1 if y + 1 < height else 0
    left = x - 1 if x > 0 else width - 1
    right = x + 1 if x + 1 < width else 0
    return (
        np.int64(spins[up, x])
        + np.int64(spins[down, x])
        + np.int64(spins[y, left])
        + np.int64(spins[y, right])
    )


@njit(cache=True, nogil=True)
def _exchange(spins, factor, thresholds, state, sweeps):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    size = factor * factor
    ys = np.empty((2, size), dtype=np.int64)
    xs = np.empty((2, size), dtype=np.int64)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for _ in range(sweeps):
        for y0 in range(0, height, factor):
            for x0 in range(0, width, factor):
                ups = 0
                downs = 0
                for y in range(y0, y0 + factor):
                    for x in range(x0, x0 + factor):
                        if spins[y, x] > 0:
                            ys[0, ups] = y
                            xs[0, ups] = x
                            ups += 1
                        else:
                            ys[1, downs] = y
                            xs[1, downs] = x
                            downs += 1
                if ups == 0 or downs == 0:
                    continue
                for _ in range(size):
                    bits = next_u64(state)
                    i = np.int64(((bits >> half) * np.uint64(ups)) >> half)
                    j = np.int64(((bits & low) * np.uint64(downs)) >> half)
                    yu, xu, yd, xd = ys[0, i], xs[0, i], ys[1, j], xs[1, j]
                    rise = _neighbours(spins, yu, xu)
                    # Flipped before the other site's field is read: a shared bond counts right.
                    spins[yu, xu] = -1
                    rise -= _neighbours(spins, yd, xd)
                    if rise <= 0 or next_u64(state) < thresholds[rise >> 1]:
                        spins[yd, xd] = 1
                        ys[0, i], xs[0, i], ys[1, j], xs[1, j] = yd, xd, yu, xu
                    else:
                        spins[yu, xu] = 1


@njit(cache=True, nogil=True)
def _heat_bath_free(spins, factor, thresholds, state, sweeps):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    for _ in range(sweeps):
        for y in range(height):
            known = 0 if y % factor == 0 else width
            for x in range(width):
                if x == known:
                    known += factor
                    continue
                field = _neighbours(spins, y, x)
                spins[y, x] = 1 if next_u64(state) < thresholds[(field + 4) >> 1] else -1


@njit(cache=True, nogil=True)
def _majority_flip(  # type: ignore[no-untyped-def]
    spins, coarse, coins, factor, thresholds, state, sweeps
):
    rows, columns = coarse.shape
    for _ in range(sweeps):
        for row in range(rows):
            for column in range(columns):
                y0, x0 = row * factor, column * factor
                sign = np.int64(coarse[row, column])
                least = 1 if coins[row, column] == -sign else 0
                unknown = coins[row, column] == 0
                total = np.int64(0)
                for y in range(y0, y0 + factor):
                    for x in range(x0, x0 + factor):
                        total += spins[y, x]
                for y in range(y0, y0 + factor):
                    for x in range(x0, x0 + factor):
                        old = np.int64(spins[y, x])
                        if (total - 2 * old) * sign < least:
                            continue
                        field = _neighbours(spins, y, x)
                        new = 1 if next_u64(state) < thresholds[(field + 4) >> 1] else -1
                        tied = unknown and new != old and total == 2 * old
                        # The heat bath proposes a tie, of weight 1/2 against 1.
                        if tied and next_u64(state) >> _TOP_BIT:
                            continue
                        spins[y, x] = new
                        total += new - old


@njit(cache=True, nogil=True)
def _fill_sums(spins, sums, factor, state):  # type: ignore[no-untyped-def]
    for row in range(sums.shape[0]):
        for column in range(sums.shape[1]):
            left = factor * factor
            ups = (left + np.int64(sums[row, column])) // 2
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    if below(state, left) < ups:
                        spins[y, x] = 1
                        ups -= 1
                    else:
                        spins[y, x] = -1
                    left -= 1


@njit(cache=True, nogil=True)
def _fill_majority(spins, coarse, coins, factor, state):  # type: ignore[no-untyped-def]
    for row in range(coarse.shape[0]):
        for column in range(coarse.shape[1]):
            sign = np.int64(coarse[row, column])
            least = 1 if coins[row, column] == -sign else 0
            unknown = coins[row, column] == 0
            total = np.int64(-1)
            while total < least:  # rejection: uniform over what is consistent, but for ties
                total = np.int64(0)
                for y in range(row * factor, (row + 1) * factor):
                    for x in range(column * factor, (column + 1) * factor):
                        spin = 1 if next_u64(state) >> _TOP_BIT else -1
                        spins[y, x] = spin
                        total += spin * sign
                if unknown and total == 0 and next_u64(state) >> _TOP_BIT:
                    total = np.int64(-1)


@njit(cache=True, nogil=True)
def _fill_free(spins, kept, factor, state):  # type: ignore[no-untyped-def]
    for y in range(spins.shape[0]):
        for x in range(spins.shape[1]):
            if y % factor == 0 and x % factor == 0:
                spins[y, x] = kept[y // factor, x // factor]
            else:
                spins[y, x] = 1 if next_u64(state) >> _TOP_BIT else -1


def _check(rule: str, factor: int, coarse: NDArray[Any], coins: Spins | None) -> Spins:
    """Return the coins to use; raises unless some fine lattice has these coarse values."""
    if rule not in CONDITIONAL_RULES:
        raise BadInput("--rule", rule, ", ".join(CONDITIONAL_RULES) + " (rules that bind spins)")
    size = check_factor(factor) ** 2
    if rule == "block_mean":
        if np.any((np.abs(coarse.astype(np.int64)) > size) | ((coarse - size) % 2 != 0)):
            raise BadInput("--factor", factor, f"a factor whose {size} spins have these block sums")
    elif not np.all(np.abs(coarse) == 1):
        raise BadInput("--rule", rule, "a rule whose coarse values are these; they are not +-1")
    if coins is not None:
        if coins.shape != coarse.shape:
            raise ValueError(f"coins have shape {coins.shape}, the coarse lattices {coarse.shape}")
        return coins
    return np.zeros(coarse.shape, dtype=np.int8)


def _fill(
    spins: Spins, coarse: NDArray[Any], coins: Spins, rule: str, factor: int, state: Any
) -> None:
    if rule == "block_mean":
        _fill_sums(spins, coarse, factor, state)
    elif rule == "majority":
        _fill_majority(spins, coarse, coins, factor, state)
    else:
        _fill_free(spins, coarse, factor, state)


def random_fill(
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    state: NDArray[np.uint64],
    coins: Spins | None = None,
) -> Spins:
    """Return one lattice drawn uniformly from those consistent with one coarse lattice.

    Blocks tied by a coin that is not known count half.

    Parameters
    ----------
    coarse_raw : (ly, lx) stored coarse numbers: block sums, or signs +-1.
    rule : block_mean, majority or decimate.
    factor : side of a block.
    state : (4,) uint64 generator state; advanced in place.
    coins : (ly, lx) int8 tie coins of `majority`, 0 where not known (default: everywhere).

    Returns
    -------
    (ly factor, lx factor) int8 of +-1.

    Raises
    ------
    BadInput : for the rule `spectral`, a bad factor, or values that no block of spins has.
    """
    coins = _check(rule, factor, coarse_raw, coins)
    spins = np.empty((coarse_raw.shape[0] * factor, coarse_raw.shape[1] * factor), dtype=np.int8)
    _fill(spins, coarse_raw, coins, rule, factor, state)
    return spins


class _Mover:
    """Sweeps of one rule at one temperature; `stop` is asked before every slice of them."""

    def __init__(
        self, rule: str, factor: int, temperature: float, stop: Callable[[], bool]
    ) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise BadInput("--T", temperature, "a positive number")
        self.rule, self.factor, self.stop = rule, factor, stop
        metropolis = rule == "block_mean"
        table = metropolis_thresholds if metropolis else heat_bath_thresholds
        self.thresholds = table(temperature)

    def __call__(
        self, spins: Spins, coarse: NDArray[Any], coins: Spins, state: Any, sweeps: int
    ) -> None:
        at_once = max(1, _MOVES_PER_CALL // spins.size)
        for start in range(0, sweeps, at_once):
            if self.stop():
                raise Interrupted("stopped")
            count = min(at_once, sweeps - start)
            if self.rule == "block_mean":
                _exchange(spins, self.factor, self.thresholds, state, count)
            elif self.rule == "majority":
                _majority_flip(spins, coarse, coins, self.factor, self.thresholds, state, count)
            else:
                _heat_bath_free(spins, self.factor, self.thresholds, state, count)


def sample_conditional(
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    temperature: float,
    seed: int,
    sample_ids: NDArray[np.integer[Any]],
    sweeps: int,
    coins: Spins | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Spins:
    """Draw one fine lattice for every coarse lattice: a random fill, then constrained sweeps.

    The law is p(fine | coarse) of the 2D Ising model as `sweeps` grows; each lattice has its own
    chain and stream, so that the result does not depend on the batch.

    Parameters
    ----------
    coarse_raw : (n, ly, lx) stored coarse numbers: int16 block sums, or int8 signs.
    rule : block_mean, majority or decimate.
    factor : side of a block, at least 2.
    temperature : in J / k_B.
    seed, sample_ids : lattice i uses the stream (seed; sample_ids[i], 0); `sample_ids` (n,).
    sweeps : sweeps a lattice, as this module's head defines them for each rule.
    coins : (n, ly, lx) int8 tie coins of `majority` (`coarsen.tie_coins`), 0 where the coin is
        not known; by default none is.
    stop : asked every fraction of a second.

    Returns
    -------
    (n, ly factor, lx factor) int8 of +-1.

    Raises
    ------
    BadInput : for `spectral`, a bad factor or temperature, or values that no block has.
    Interrupted : once `stop` says so.
    """
    coins = _check(rule, factor, coarse_raw, coins)
    move = _Mover(rule, factor, temperature, stop)
    n, ly, lx = coarse_raw.shape
    spins = np.empty((n, ly * factor, lx * factor), dtype=np.int8)
    for k in range(n):
        state = kernel_state(seed, int(sample_ids[k]), _FILL_STREAM)
        _fill(spins[k], coarse_raw[k], coins[k], rule, factor, state)
        move(spins[k], coarse_raw[k], coins[k], state, sweeps)
    return spins


def relax(
    spins: Spins,
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    temperature: float,
    seed: int,
    sample_ids: NDArray[np.integer[Any]],
    sweeps: int,
    coins: Spins | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Spins:
    """Return `spins` (n, Ly, Lx) after constrained sweeps from where they stand.

    Arguments as in `sample_conditional`; the streams are (seed; sample_ids[i], 1). Raises
    ValueError if a lattice is not consistent with its coarse one.
    """
    coins = _check(rule, factor, coarse_raw, coins)
    move = _Mover(rule, factor, temperature, stop)
    if not _consistent(spins, coarse_raw, coins, rule, factor):
        raise ValueError("spins do not coarse-grain to the given lattices")
    moved = np.array(spins, dtype=np.int8, order="C")
    for k in range(len(moved)):
        state = kernel_state(seed, int(sample_ids[k]), _RELAX_STREAM)
        move(moved[k], coarse_raw[k], coins[k], state, sweeps)
    return moved


def _consistent(spins: Spins, coarse: NDArray[Any], coins: Spins, rule: str, factor: int) -> bool:
    if rule == "decimate":
        return bool(np.array_equal(spins[:, ::factor, ::factor], coarse))
    sums = block_sums(spins, factor)
    if rule == "majority":
        ties = np.where(coins == 0, coarse, coins)
        sums = np.where(sums == 0, ties, np.sign(sums))
    return bool(np.array_equal(sums, coarse))
