"""p(fine | coarse) of constrained Monte Carlo against enumeration of every consistent lattice.

H0: the chain's lattices follow exp(-H / T) restricted to the lattices that coarse-grain to the
given one. Reference: all 2^N lattices. Two chi-squares a case, over configurations (pooled to an
expectation of at least 10) and over energies; H0 is rejected when either p < 5e-6, hence a false
alarm of 1e-5 a case, 1.5e-4 for the file, and the seeds are fixed. Samples are 20 sweeps apart,
many times the autocorrelation time of these small lattices. Every planted fault must give
p < 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray
from scipy.stats import chi2

from skild_phys.lattice.coarsen import block_sums, coarsen_spins, tie_coins
from skild_phys.lattice.models import MODELS
from skild_phys.rng import below, kernel_state, next_u64
from skild_phys.simulate import conditional
from skild_phys.simulate.conditional import (
    heat_bath_thresholds,
    metropolis_thresholds,
    random_fill,
    sample_conditional,
)
from skild_phys.simulate.wolff import wolff

pytestmark = pytest.mark.statistical

MODEL = MODELS["ising2d"]
TC = MODEL.critical_temperature
TIE_SEED, SAMPLE = 4, 17
Spins = NDArray[np.int8]
Sweeps = Callable[[Spins, NDArray[np.uint64]], None]


class Case:
    """A coarse lattice, and the exact law of the fine lattices behind it."""

    def __init__(
        self, rule: str, shape: tuple[int, int], factor: int, seed: int, known: bool = True
    ) -> None:
        self.rule, self.shape, self.factor = rule, shape, factor
        size = shape[0] * shape[1]
        codes = np.arange(2**size)
        bits = (codes[:, None] >> np.arange(size)) & 1
        every = (2 * bits - 1).astype(np.int8).reshape(-1, *shape)
        ids = np.full(len(every), SAMPLE)
        coarse = coarsen_spins(every, rule, factor, tie_seed=TIE_SEED, sample_ids=ids)
        truth = int(np.random.default_rng(seed).integers(len(every)))
        self.coarse: NDArray[Any] = coarse[truth]
        self.coins = tie_coins(TIE_SEED, np.array([SAMPLE]), coarse.shape[1:])[0]
        fits, share = coarse == self.coarse, np.ones(len(every))
        if not known:
            self.coins = np.zeros_like(self.coins)
            ties = block_sums(every, factor) == 0
            fits |= ties
            share = 0.5 ** ties.sum(axis=(1, 2))  # a fair coin a tie
        self.codes = codes[fits.all(axis=(1, 2))]
        self.levels = np.rint(MODEL.energy(every[self.codes]) * size).astype(int)
        weight = np.exp(-(self.levels - self.levels.min()) / TC)
        weight *= share[self.codes]
        self.law = weight / weight.sum()

    def fill(self, state: NDArray[np.uint64]) -> Spins:
        return random_fill(self.coarse, self.rule, self.factor, state, self.coins)

    def run(self, sweeps: Sweeps, draws: int, seed: int) -> Spins:
        state = kernel_state(seed)
        spins = self.fill(state)
        out = np.empty((draws, *self.shape), dtype=np.int8)
        sweeps(spins, state)
        for k in range(draws):
            sweeps(spins, state)
            out[k] = spins
        return out

    def p_value(self, samples: Spins) -> float:
        """Twice the smaller p; 0 where a lattice turns up that is not consistent."""
        powers = 1 << np.arange(self.shape[0] * self.shape[1])
        codes = (samples.reshape(len(samples), -1) > 0) @ powers
        where = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        if np.any(self.codes[where] != codes):
            return 0.0
        counts = np.bincount(where, minlength=len(self.codes))
        _, level = np.unique(self.levels, return_inverse=True)
        by_energy = chi_square(np.bincount(level, counts), np.bincount(level, self.law))
        return min(1.0, 2 * min(chi_square(counts, self.law), by_energy))


def chi_square(counts: NDArray[Any], law: NDArray[np.float64]) -> float:
    """Pearson's test; cells are merged, rarest first, until each expects at least 10."""
    expected = law * counts.sum()
    order = np.argsort(expected, kind="stable")
    cell, label, held = np.empty(len(order), dtype=int), 0, 0.0
    for k, amount in enumerate(expected[order]):
        cell[k] = label
        held += amount
        if held >= 10:
            label, held = label + 1, 0.0
    cell[cell == label] = max(label - 1, 0)  # what is left over joins the last cell
    seen = np.bincount(cell, counts[order])
    want = np.bincount(cell, expected[order])
    if len(want) == 1:
        return 1.0
    return float(chi2.sf(((seen - want) ** 2 / want).sum(), len(want) - 1))


def moves(case: Case, temperature: float = TC, coins: Spins | None = None) -> Sweeps:
    """Twenty sweeps of the package's kernel."""
    b, coins = case.factor, case.coins if coins is None else coins
    metropolis, bath = metropolis_thresholds(temperature), heat_bath_thresholds(temperature)
    if case.rule == "block_mean":
        return lambda spins, state: conditional._exchange(spins, b, metropolis, state, 20)
    if case.rule == "decimate":
        return lambda spins, state: conditional._heat_bath_free(spins, b, bath, state, 20)
    coarse = case.coarse
    return lambda spins, state: conditional._majority_flip(spins, coarse, coins, b, bath, state, 20)


SHAPES = [((4, 4), 2, 1), ((4, 4), 2, 2), ((4, 4), 4, 3), ((3, 6), 3, 4), ((2, 8), 2, 5)]


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize(("shape", "factor", "seed"), SHAPES)
def test_law_is_the_exact_one(rule: str, shape: tuple[int, int], factor: int, seed: int) -> None:
    case = Case(rule, shape, factor, seed)
    assert case.p_value(case.run(moves(case), 60_000, seed)) > 1e-5


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
def test_independent_chains_of_the_driver(rule: str) -> None:
    """The same, for one lattice from each of 20,000 short chains: a fill and 30 sweeps."""
    case = Case(rule, (4, 4), 2, 1)
    n = 20_000
    coarse, coins = (np.repeat(a[None], n, axis=0) for a in (case.coarse, case.coins))
    samples = sample_conditional(coarse, rule, 2, TC, 8, np.arange(n), 30, coins)
    assert case.p_value(samples) > 1e-5
    few = sample_conditional(coarse, rule, 2, TC, 8, np.arange(n), 0, coins)
    assert case.p_value(few) < 1e-6  # the random fill alone is not the law


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
def test_five_per_cent_in_beta_is_seen(rule: str) -> None:
    case = Case(rule, (4, 4), 2, 1)
    assert case.p_value(case.run(moves(case, TC / 1.05), 60_000, 6)) < 1e-6


@pytest.mark.parametrize("seed", [1, 2])
def test_ties_of_unknown_coins_have_half_their_weight(seed: int) -> None:
    """Sweeps, and independent fills relaxed; ties of full weight, or none, must be seen."""
    case = Case("majority", (4, 4), 2, seed, known=False)
    assert case.p_value(case.run(moves(case), 60_000, seed)) > 1e-5
    n = 20_000
    coarse, coins = (np.repeat(a[None], n, axis=0) for a in (case.coarse, case.coins))
    for given in (coins, None):
        samples = sample_conditional(coarse, "majority", 2, TC, 8, np.arange(n), 30, given)
        assert case.p_value(samples) > 1e-5
    for tie in (+1, -1):
        wrong = Case("majority", (4, 4), 2, seed, known=False)
        wrong.coins = tie * case.coarse
        assert case.p_value(wrong.run(moves(wrong), 20_000, 7)) < 1e-6


def test_fill_of_unknown_coins() -> None:
    """H0: of 2x2 blocks, each tie is half as likely as each majority; false alarm 1e-5."""
    spins = random_fill(np.ones((200, 200), np.int8), "majority", 2, kernel_state(3))
    sums = block_sums(spins[None], 2).ravel()
    seen = np.array([np.count_nonzero(sums == total) for total in (0, 2, 4)])
    assert seen.sum() == sums.size
    full = seen.sum() * np.array([6, 4, 1]) / 11
    half = seen.sum() * np.array([3, 4, 1]) / 8
    assert chi2.sf(((seen - half) ** 2 / half).sum(), 2) > 1e-5
    assert chi2.sf(((seen - full) ** 2 / full).sum(), 2) < 1e-6


@pytest.mark.parametrize("tie", [+1, -1])
def test_ties_treated_wrongly_are_seen(tie: int) -> None:
    """Ties allowed everywhere, or nowhere."""
    case = Case("majority", (4, 4), 2, 1)
    assert len(np.unique(case.coins * case.coarse)) == 2  # both kinds of block occur
    wrong = moves(case, coins=(tie * case.coarse).astype(np.int8))
    assert case.p_value(case.run(wrong, 20_000, 7)) < 1e-6


@njit(nogil=True)
def _exchange_by_formula(spins, factor, temperature, state, sweeps, per_bond):  # type: ignore[no-untyped-def]
    """Plain exchange: dE = 2 s1 h1 + 2 s2 h2 + per_bond * (bonds between 1 and 2); 4 is right."""
    height, width = spins.shape
    for _ in range(sweeps * height * width):
        y0 = below(state, height // factor) * factor
        x0 = below(state, width // factor) * factor
        y1, x1 = y0 + below(state, factor), x0 + below(state, factor)
        y2, x2 = y0 + below(state, factor), x0 + below(state, factor)
        if spins[y1, x1] == spins[y2, x2]:
            continue
        rise = 0.0
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            rise += 2 * spins[y1, x1] * spins[(y1 + dy) % height, (x1 + dx) % width]
            rise += 2 * spins[y2, x2] * spins[(y2 + dy) % height, (x2 + dx) % width]
            if (y1 + dy) % height == y2 and (x1 + dx) % width == x2:
                rise += per_bond
        if (next_u64(state) >> np.uint64(11)) * 2.0**-53 < np.exp(-rise / temperature):
            spins[y1, x1], spins[y2, x2] = spins[y2, x2], spins[y1, x1]


@pytest.mark.parametrize(("per_bond", "passes"), [(4.0, True), (0.0, False), (2.0, False)])
def test_energy_of_a_neighbouring_pair(per_bond: float, passes: bool) -> None:
    case = Case("block_mean", (4, 4), 2, 1)
    samples = case.run(
        lambda spins, state: _exchange_by_formula(spins, 2, TC, state, 20, per_bond), 60_000, 9
    )
    p = case.p_value(samples)
    assert p > 1e-5 if passes else p < 1e-6


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize(("factor", "side"), [(4, 16), (3, 12)])
def test_the_ensemble_stays_where_it_is(rule: str, factor: int, side: int) -> None:
    """Lattices of the Gibbs ensemble, drawn anew given their coarse lattices, are of it again.

    H0: the mean energy does not change; reference: the lattices themselves (Wolff), paired.
    |z| < 4.5 (false alarm 7e-6 each); 10% in beta must give |z| > 6.
    """
    state = kernel_state(11)
    spins = np.ones((side, side), dtype=np.int8)
    fine = np.empty((4000, side, side), dtype=np.int8)
    wolff(spins, TC, state, 200)
    for k in range(len(fine)):
        wolff(spins, TC, state, 12)
        fine[k] = spins
    ids = np.arange(len(fine))
    coarse = coarsen_spins(fine, rule, factor, sample_ids=ids)
    coins = tie_coins(0, ids, coarse.shape[1:])
    for temperature, passes in [(TC, True), (TC / 1.1, False)]:
        again = sample_conditional(coarse, rule, factor, temperature, 3, ids, 60, coins)
        change = MODEL.energy(again) - MODEL.energy(fine)
        z = change.mean() / change.std() * len(change) ** 0.5
        assert abs(z) < 4.5 if passes else abs(z) > 6, (temperature, z)
