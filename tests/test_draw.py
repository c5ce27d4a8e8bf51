"""Conditioned draws against enumeration (b = 2, 3) and against moments (larger blocks)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sampler_helpers import chi_square
from scipy import stats
from skild_helpers import critical_lattices, sample_blocks

from skild_phys.rng import kernel_state
from skild_phys.rules import TieBreak, coarsen
from skild_phys.rules.conditions import Free, Sites

DRAWS = 4000


def block_law(logits: np.ndarray, weight: Callable[[int], float]) -> tuple[np.ndarray, np.ndarray]:
    """Return every configuration of a block and its probability under `weight`(sum)."""
    configurations = np.array(list(itertools.product((-1, 1), repeat=logits.size)))
    odds = np.exp((configurations * logits.ravel() / 2).sum(axis=1))
    p = odds * np.array([weight(s) for s in configurations.sum(axis=1)])
    return configurations, p / p.sum()


def p_value(drawn: np.ndarray, configurations: np.ndarray, p: np.ndarray) -> float:
    """Return the p-value of counts of drawn blocks."""
    n = configurations.shape[1]
    code = ((drawn > 0) * 2 ** np.arange(n)[::-1]).sum(axis=1)
    counts = np.bincount(code, minlength=2**n)
    assert counts[p == 0].sum() == 0
    return chi_square(counts[p > 0], p[p > 0] * len(drawn), least=5)


def draw_many(
    logits: np.ndarray, rule: str, value: int, coin: int, b: int, seed: int
) -> np.ndarray:
    """Draw DRAWS copies of one block, laid out as one row of a lattice; returns (DRAWS, b*b)."""
    tiled = np.tile(logits.astype(np.float32), (1, DRAWS))
    coarse = np.full((1, DRAWS), value)
    coins = np.full((1, DRAWS), coin, dtype=np.int8)
    out = sample_blocks(tiled, coarse, b, rule == "majority", coins, kernel_state(seed))
    return out.reshape(b, DRAWS, b).transpose(1, 0, 2).reshape(DRAWS, b * b)


@pytest.mark.statistical
@pytest.mark.parametrize(("b", "value"), [(2, 0), (2, 2), (2, -2), (3, 1), (3, -5)])
def test_spins_given_the_block_sum(b: int, value: int) -> None:
    """H0: counts of configurations follow the enumerated distribution; p > 1e-4, five cases."""
    logits = np.random.default_rng(b).normal(0, 2, (b, b))
    drawn = draw_many(logits, "block_mean", value, 0, b, seed=11)
    assert (drawn.sum(axis=1) == value).all()
    configurations, p = block_law(logits, lambda s: float(s == value))
    assert p_value(drawn, configurations, p) > 1e-4


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("b", "sign", "coin"), [(2, 1, 1), (2, 1, -1), (2, -1, -1), (3, -1, 1), (2, 1, 0), (2, -1, 0)]
)
def test_spins_given_the_majority(b: int, sign: int, coin: int) -> None:
    """H0 as above, six cases; the tie-break decides ties, with weight 1/2 if it is unknown (0)."""
    logits = np.random.default_rng(b).normal(0, 1.5, (b, b))
    drawn = draw_many(logits, "majority", sign, coin, b, seed=12)
    tie = 0.5 if coin == 0 else float(coin == sign)
    configurations, p = block_law(logits, lambda s: tie if s == 0 else float(s * sign > 0))
    assert p_value(drawn, configurations, p) > 1e-4


@pytest.mark.statistical
def test_faults_are_rejected() -> None:
    """Planted: logits off by a factor, a tie that is always allowed. Each at p < 1e-6."""
    logits = np.random.default_rng(2).normal(0, 2, (2, 2))
    drawn = draw_many(1.3 * logits, "block_mean", 0, 0, 2, seed=13)
    assert p_value(drawn, *block_law(logits, lambda s: float(s == 0))) < 1e-6
    drawn = draw_many(logits, "majority", 1, 1, 2, seed=14)
    _, p = block_law(logits, lambda s: float(s > 0))
    code = ((drawn > 0) * 2 ** np.arange(4)[::-1]).sum(axis=1)
    assert np.bincount(code, minlength=16)[p == 0].sum() > 0


@pytest.mark.statistical
@pytest.mark.parametrize("b", [4, 5, 6, 7, 8])
def test_means_in_large_blocks(b: int) -> None:
    """H0: two classes of sites with odds w and 1: the number up in the first is Fisher's
    noncentral hypergeometric. abs(z) < 4.5 for its mean, five cases, false alarm 3e-5."""
    n, first = b * b, b * (b // 2)
    logits = np.zeros((b, b))
    logits[: b // 2] = 0.8
    ups = n // 2 + 1
    drawn = draw_many(logits, "block_mean", 2 * ups - n, 0, b, seed=b)
    assert (drawn.sum(axis=1) == 2 * ups - n).all()
    law = stats.nchypergeom_fisher(n, first, ups, np.exp(0.8))
    count = (drawn[:, :first] > 0).sum(axis=1)
    assert abs(count.mean() - law.mean()) / (law.std() / np.sqrt(DRAWS)) < 4.5


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize("b", [2, 3, 4, 8])
def test_extreme_logits_never_break_the_constraint(rule: str, b: int) -> None:
    random = np.random.default_rng(4)
    fine = random.choice(np.array([-1, 1], dtype=np.int8), (1, 6 * b, 6 * b))
    coarse = coarsen(fine, rule, b, tie_seed=9)
    coins = TieBreak(9, np.arange(1)).signs((6, 6))[0]
    for size in (0.0, 5.0, 1e4):
        logits = (size * random.choice([-1.0, 1.0], fine.shape[1:])).astype(np.float32)
        if rule == "decimate":
            out = Sites(coarse, b, torch.device("cpu")).draw(logits, 0, kernel_state(1))
        else:
            out = sample_blocks(logits, coarse[0], b, rule == "majority", coins, kernel_state(1))
        assert np.array_equal(coarsen(out[None], rule, b, tie_seed=9), coarse)


def test_without_a_condition_sites_are_independent() -> None:
    logits = np.full((64, 64), np.log(3.0), dtype=np.float32)
    out = Free().draw(logits, 0, kernel_state(3))
    assert abs((out > 0).mean() - 0.75) < 4.5 * np.sqrt(0.75 * 0.25 / 64**2)


@pytest.mark.statistical
@pytest.mark.parametrize("flip", [1, -1])
def test_the_law_holds_where_the_odds_are_beyond_float64(flip: int) -> None:
    """H0 as above with logits near +-40, where 1 - p rounds to 0; p > 1e-4, six cases."""
    logits = flip * np.array([[40.0, 42.0], [41.0, 40.5]])
    drawn = draw_many(logits, "block_mean", 0, 0, 2, seed=21)
    assert p_value(drawn, *block_law(logits, lambda s: float(s == 0))) > 1e-4
    drawn = draw_many(logits, "majority", -flip, flip, 2, seed=22)
    assert p_value(drawn, *block_law(logits, lambda s: float(s * flip < 0))) > 1e-4
    huge = flip * np.array([[250.0, 252.0], [251.0, 250.5]])
    drawn = draw_many(huge, "block_mean", 0, 0, 2, seed=23)
    same_law = block_law(huge - 250.0 * flip, lambda s: float(s == 0))
    assert p_value(drawn, *same_law) > 1e-4


@pytest.mark.parametrize("b", [8, 12, 16, 24])
def test_sure_logits_give_back_the_lattice_they_know(b: int) -> None:
    fine = critical_lattices(1, 2 * b)[0]
    coarse = coarsen(fine[None], "block_mean", b)[0]
    for size in (20.0, 60.0, 250.0):
        logits = (size * fine).astype(np.float32)
        out = sample_blocks(logits, coarse, b, False, None, kernel_state(5))
        assert np.array_equal(out, fine)
