"""Constrained Monte Carlo: what holds for every lattice it returns."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted
from skild_phys.lattice.coarsen import coarsen_spins, tie_coins
from skild_phys.lattice.models import MODELS
from skild_phys.rng import kernel_state
from skild_phys.simulate import conditional
from skild_phys.simulate.conditional import (
    CONDITIONAL_RULES,
    metropolis_thresholds,
    random_fill,
    relax,
    sample_conditional,
)

TC = MODELS["ising2d"].critical_temperature
GOLDEN = {
    "block_mean": "4734e20de43e1419",
    "majority": "51368060df343761",
    "decimate": "2ab46ec3d1c7622e",
}
CASES = [((8, 8), 2), ((12, 6), 3), ((8, 12), 4), ((5, 10), 5), ((4, 4), 4), ((2, 6), 2)]


def coarse_lattices(
    rule: str, shape: tuple[int, int], factor: int, n: int = 3
) -> tuple[NDArray[Any], NDArray[np.int8], NDArray[np.int64]]:
    bits = np.random.default_rng(5).integers(0, 2, (n, *shape))
    ids = np.arange(10, 10 + n)
    spins = (2 * bits - 1).astype(np.int8)
    coarse = coarsen_spins(spins, rule, factor, tie_seed=2, sample_ids=ids)
    return coarse, tie_coins(2, ids, (coarse.shape[1], coarse.shape[2])), ids


@pytest.mark.parametrize("rule", CONDITIONAL_RULES)
@pytest.mark.parametrize(("shape", "factor"), CASES)
@pytest.mark.parametrize("sweeps", [0, 7])
def test_samples_keep_the_coarse_lattice(
    rule: str, shape: tuple[int, int], factor: int, sweeps: int
) -> None:
    coarse, coins, ids = coarse_lattices(rule, shape, factor)
    fine = sample_conditional(coarse, rule, factor, TC, 1, ids, sweeps, coins)
    assert fine.shape == (3, *shape)
    assert fine.dtype == np.int8
    assert set(np.unique(fine)) == {-1, 1}
    again = coarsen_spins(fine, rule, factor, tie_seed=2, sample_ids=ids)
    assert np.array_equal(again, coarse)
    moved = relax(fine, coarse, rule, factor, TC, 1, ids, 5, coins)
    again = coarsen_spins(moved, rule, factor, tie_seed=2, sample_ids=ids)
    assert np.array_equal(again, coarse)
    assert not np.array_equal(moved, fine)


@pytest.mark.parametrize("rule", CONDITIONAL_RULES)
def test_bytes_do_not_depend_on_batches_or_calls(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, coins, ids = coarse_lattices(rule, (8, 8), 2, n=6)
    one = sample_conditional(coarse, rule, 2, TC, 9, ids, 40, coins)
    part = sample_conditional(coarse[2:4], rule, 2, TC, 9, ids[2:4], 40, coins[2:4])
    assert np.array_equal(one[2:4], part)
    monkeypatch.setattr(conditional, "_MOVES_PER_CALL", 7 * 64)
    split = sample_conditional(coarse, rule, 2, TC, 9, ids, 40, coins)
    assert np.array_equal(one, split)
    digest = hashlib.sha256(one.tobytes()).hexdigest()[:16]
    assert digest == GOLDEN[rule]


def test_stop_is_heard_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, coins, ids = coarse_lattices("majority", (8, 8), 2)
    monkeypatch.setattr(conditional, "_MOVES_PER_CALL", 5 * 64)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    with pytest.raises(Interrupted):
        sample_conditional(coarse, "majority", 2, TC, 9, ids, 20, coins, stop)
    assert len(asked) == 7  # in the second lattice of four slices each
    fine = sample_conditional(coarse, "majority", 2, TC, 9, ids, 20, coins)
    with pytest.raises(Interrupted):
        relax(fine, coarse, "majority", 2, TC, 9, ids, 5, coins, stop=lambda: True)


def test_ties_of_unknown_coins_are_consistent() -> None:
    tied = np.tile(np.array([[1, -1], [-1, 1]], dtype=np.int8), (1, 2, 2))
    ids = np.array([0])
    for value in (1, -1):
        coarse = np.full((1, 2, 2), value, dtype=np.int8)
        for coins in (None, np.zeros_like(coarse), coarse):
            relax(tied, coarse, "majority", 2, TC, 1, ids, 0, coins)
        with pytest.raises(ValueError, match="coarse-grain"):
            relax(tied, coarse, "majority", 2, TC, 1, ids, 0, -coarse)
        with pytest.raises(ValueError, match="coarse-grain"):
            relax(np.full_like(tied, -value), coarse, "majority", 2, TC, 1, ids, 0)


def test_relax_continues_and_leaves_its_input_alone() -> None:
    coarse, coins, ids = coarse_lattices("block_mean", (8, 8), 4)
    fine = sample_conditional(coarse, "block_mean", 4, TC, 3, ids, 0)
    before = fine.copy()
    moved = relax(fine, coarse, "block_mean", 4, TC, 3, ids, 4)
    state = kernel_state(3, int(ids[1]), 1)
    conditional._exchange(fine[1], 4, metropolis_thresholds(TC), state, 4)
    assert np.array_equal(fine[1], moved[1])
    assert np.array_equal(fine[0], before[0])
    with pytest.raises(ValueError, match="coarse-grain"):
        relax(-before, coarse, "block_mean", 4, TC, 3, ids, 1, coins)


def test_at_low_temperature_no_move_costs_energy() -> None:
    model = MODELS["ising2d"]
    coarse, _, _ = coarse_lattices("block_mean", (6, 6), 3, n=1)
    state = kernel_state(1)
    spins = random_fill(coarse[0], "block_mean", 3, state)
    energies = []
    for _ in range(30):
        energies.append(float(model.energy(spins)))
        conditional._exchange(spins, 3, metropolis_thresholds(0.01), state, 1)
    assert np.all(np.diff(energies) <= 0)


@pytest.mark.statistical
@pytest.mark.parametrize("rule", CONDITIONAL_RULES)
@pytest.mark.parametrize("value", [0, 1])  # sums of 0 or 2; coins against or for the majority
def test_fill_is_uniform(rule: str, value: int) -> None:
    """H0: every consistent 2x2 block is equally likely; chi-square, false alarm 1e-5 each."""
    from scipy.stats import chisquare

    coarse = np.full((1, 100, 100), (2 * value) if rule == "block_mean" else 1, dtype=np.int16)
    coins = np.full(coarse.shape, 2 * value - 1, dtype=np.int8)
    fine = sample_conditional(coarse, rule, 2, TC, 5, np.array([value]), 0, coins)[0]
    up = fine > 0
    code = 8 * up[::2, ::2] + 4 * up[::2, 1::2] + 2 * up[1::2, ::2] + up[1::2, 1::2]
    counts = np.bincount(code.ravel(), minlength=16)
    total = np.array([2 * bin(c).count("1") - 4 for c in range(16)])
    if rule == "block_mean":
        allowed = total == 2 * value
    elif rule == "majority":
        allowed = (total > 0) | ((total == 0) & (value == 1))
    else:
        allowed = np.arange(16) >= 8
    assert counts[~allowed].sum() == 0
    assert chisquare(counts[allowed]).pvalue > 1e-5


def test_bad_input() -> None:
    coarse, coins, ids = coarse_lattices("block_mean", (8, 8), 4)
    with pytest.raises(BadInput, match="--rule: 'spectral'"):
        sample_conditional(coarse, "spectral", 4, TC, 1, ids, 1)
    for factor in (1, 0, -2, 1.5):
        with pytest.raises(BadInput, match="--factor"):
            sample_conditional(coarse, "block_mean", factor, TC, 1, ids, 1)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="9 spins"):
        sample_conditional(coarse, "block_mean", 3, TC, 1, ids, 1)
    with pytest.raises(BadInput, match="4 spins"):
        sample_conditional(np.full((1, 2, 2), 6), "block_mean", 2, TC, 1, ids, 1)
    with pytest.raises(BadInput, match="--rule: 'majority'"):
        sample_conditional(coarse * 2, "majority", 4, TC, 1, ids, 1, coins)
    with pytest.raises(ValueError, match="coins have shape"):
        sample_conditional(coarse, "block_mean", 4, TC, 1, ids, 1, coins[:, :1])
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="--T"):
            sample_conditional(coarse, "block_mean", 4, temperature, 1, ids, 1)
