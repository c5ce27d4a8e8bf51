"""Constrained Monte Carlo: what holds for every lattice it returns."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import TC
from numpy.typing import NDArray
from sampler_helpers import EXACT, conditional

from skild_phys.errors import BadInput, Interrupted
from skild_phys.models import MODELS
from skild_phys.models.base import Bond
from skild_phys.rules import RULES, TieBreak, coarsen
from skild_phys.simulation import conditional as chains
from skild_phys.simulation.conditional import (
    Conditional,
    _Chain,
    measure_sweeps,
    sample,
)

GOLDEN = {
    "block_mean": "94ddc31de474e8dc",
    "majority": "5b0738e61a700050",
    "decimate": "5f05e644662bdbcb",
}
CASES = [
    ("ising2d", (8, 8), 2), ("ising2d", (12, 6), 3), ("ising2d", (8, 12), 4),
    ("ising2d", (5, 10), 5), ("ising2d", (4, 4), 4), ("ising2d", (2, 6), 2),
    ("ising2d", (24, 12), 12), ("ising3d", (4, 2, 6), 2), ("ising3d", (3, 6, 3), 3),
    ("potts2", (4, 6), 2), ("potts3", (6, 6), 3), ("potts8", (12, 4), 4),
]  # fmt: skip


def coarse_lattices(
    rule: str, shape: tuple[int, ...], factor: int, n: int = 3, name: str = "ising2d"
) -> tuple[NDArray[Any], NDArray[np.int8], NDArray[np.int64]]:
    model = MODELS[name]
    values = np.array(model.values, dtype=np.int8)
    lattices = values[np.random.default_rng(5).integers(0, len(values), (n, *shape))]
    ids, q = np.arange(10, 10 + n), len(values) if model.field == "states" else 0
    coarse = coarsen(lattices, rule, factor, q=q, tie_seed=2, sample_ids=ids)
    sides = tuple(side // factor for side in shape)
    return (
        coarse,
        TieBreak(2, ids).priorities(sides, q) if q else TieBreak(2, ids).signs(sides),
        ids,
    )


def law_of(rule: str, shape: tuple[int, ...], factor: int, name: str = "ising2d") -> Conditional:
    sides = tuple(side // factor for side in shape)
    return Conditional(MODELS[name], rule, factor, MODELS[name].critical_temperature, sides)


def relax(
    target: Conditional, fine: NDArray[np.int8], *given: Any, **more: Any
) -> NDArray[np.int8]:
    return sample(target, *given, **more, start=fine)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize(("name", "shape", "factor"), CASES)
@pytest.mark.parametrize("sweeps", [0, 7])
def test_samples_keep_the_coarse_lattice(
    rule: str, name: str, shape: tuple[int, ...], factor: int, sweeps: int
) -> None:
    coarse, ties, ids = coarse_lattices(rule, shape, factor, name=name)
    model = MODELS[name]
    tc, q = model.critical_temperature, len(model.values) if model.field == "states" else 0
    fine = sample(conditional(coarse, rule, factor, tc, model), coarse, 1, ids, sweeps, ties)
    assert fine.shape == (3, *shape)
    assert fine.dtype == np.int8
    assert set(np.unique(fine)) <= set(model.values)
    again = coarsen(fine, rule, factor, q=q, tie_seed=2, sample_ids=ids)
    assert np.array_equal(again, coarse)
    moved = relax(conditional(coarse, rule, factor, tc, model), fine, coarse, 1, ids, 5, ties)
    again = coarsen(moved, rule, factor, q=q, tie_seed=2, sample_ids=ids)
    assert np.array_equal(again, coarse)
    assert not np.array_equal(moved, fine)


@pytest.mark.parametrize("shape", [(3, 2), (1, 4), (1, 1), (2, 3, 1)])
@pytest.mark.parametrize("factor", [2, 3])
def test_layout_knows_the_neighbours(shape: tuple[int, ...], factor: int) -> None:
    """The planes of all sites' numbers, moved as `bonds` says, are those of the rolled lattice."""
    numbers = np.arange(np.prod(shape) * factor ** len(shape)) % 100
    numbers = numbers.astype(np.int8).reshape(np.array(shape) * factor)
    moves = RULES["decimate"].moves(shape, factor, (0, 1), 1.0)
    planes, layout, split = moves.planes(numbers), moves.layout, moves.planes
    assert np.array_equal(moves.configuration(planes), numbers)
    for column, (axis, step) in enumerate((a, s) for a in range(len(shape)) for s in (1, -1)):
        rolled = split(np.roll(numbers, step, axis=axis))
        for p, other in enumerate(layout.bonds[:, column]):
            plane = planes[other if other >= 0 else ~other]
            if other < 0:
                plane = np.roll(plane.reshape(shape), step, axis=axis).ravel()
                ahead = planes[~other][layout.ahead[axis]]
                assert step == 1 or np.array_equal(ahead, plane)
            assert np.array_equal(plane, rolled[p])


def test_nothing_as_large_as_the_fine_lattice_is_sent_to_workers() -> None:
    law = Conditional(MODELS["ising2d"], "block_mean", 16, TC, (32, 32))
    assert len(pickle.dumps(law)) < law.sites


def test_thresholds_balance() -> None:
    """The ratio of a move's probability and its reverse's is the Boltzmann factor, to 2^-32."""
    for name, coupling, values, step, even in (
        ("decimate", 0.88, (0, 1, 2), 1, 3 / 4), ("block_mean", 1.34, (-1, 1), 2, 31 / 32),
    ):  # fmt: skip
        p = np.array(RULES[name].moves((2, 2), 2, values, coupling).thresholds) / 2.0**32
        want = np.exp(-step * coupling * np.arange(1, 5))
        assert np.abs(p[2:] / p[0] - want).max() < 2.0**-31
        assert p[1] == even
        assert p.max() < 1
    for coupling, bond in ((math.inf, 2**32 - 1), (0.0, 0)):
        assert RULES["decimate"].moves((2, 2), 2, (-1, 1), coupling).bond == bond


@pytest.mark.parametrize("name", ["ising2d", "potts3"])
@pytest.mark.parametrize("rule", EXACT)
def test_sweeps_do_not_depend_on_the_calls(rule: str, name: str) -> None:
    """Sweeps by ones and by many are the same sweeps, with clusters between them too."""
    coarse, ties, _ = coarse_lattices(rule, (24, 12), 12, n=1, name=name)
    law = law_of(rule, (24, 12), 12, name)
    (given,) = law.read(coarse, ties)
    lattices = []
    for parts in ([11], [1] * 11, [3, 5, 3]):
        chain = law.chain(given, 3, 0)
        for part in parts:
            chain.advance(part)
        lattices.append(chain.configuration())
    assert all(np.array_equal(lattices[0], other) for other in lattices[1:])


@pytest.mark.parametrize("rule", EXACT)
def test_bytes_do_not_depend_on_batches_or_calls(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, coins, ids = coarse_lattices(rule, (8, 8), 2, n=6)
    one = sample(conditional(coarse, rule, 2, TC), coarse, 9, ids, 40, coins)
    part = sample(conditional(coarse[2:4], rule, 2, TC), coarse[2:4], 9, ids[2:4], 40, coins[2:4])
    assert np.array_equal(one[2:4], part)
    monkeypatch.setattr(chains, "_SITES_PER_CALL", 7 * 64)
    split = sample(conditional(coarse, rule, 2, TC), coarse, 9, ids, 40, coins)
    assert np.array_equal(one, split)
    digest = hashlib.sha256(one.tobytes()).hexdigest()[:16]
    assert digest == GOLDEN[rule]


def test_stop_is_asked_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, coins, ids = coarse_lattices("majority", (8, 8), 2)
    monkeypatch.setattr(chains, "_SITES_PER_CALL", 5 * 64)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    with pytest.raises(Interrupted):
        sample(conditional(coarse, "majority", 2, TC), coarse, 9, ids, 20, coins, stop)
    assert len(asked) == 7  # in the second lattice of four slices each
    fine = sample(conditional(coarse, "majority", 2, TC), coarse, 9, ids, 20, coins)
    with pytest.raises(Interrupted):
        relax(
            conditional(coarse, "majority", 2, TC),
            fine,
            coarse,
            9,
            ids,
            5,
            coins,
            stop=lambda: True,
        )


def test_ties_of_unknown_coins_are_consistent() -> None:
    tied = np.tile(np.array([[1, -1], [-1, 1]], dtype=np.int8), (1, 2, 2))
    ids = np.array([0])
    for value in (1, -1):
        coarse = np.full((1, 2, 2), value, dtype=np.int8)
        for coins in (None, np.zeros_like(coarse), coarse):
            relax(conditional(coarse, "majority", 2, TC), tied, coarse, 1, ids, 0, coins)
        with pytest.raises(ValueError, match="coarse-grain"):
            relax(conditional(coarse, "majority", 2, TC), tied, coarse, 1, ids, 0, -coarse)
        with pytest.raises(ValueError, match="coarse-grain"):
            relax(
                conditional(coarse, "majority", 2, TC),
                np.full_like(tied, -value),
                coarse,
                1,
                ids,
                0,
            )


def test_relax_continues_and_leaves_its_input_alone() -> None:
    coarse, coins, ids = coarse_lattices("block_mean", (8, 8), 4)
    fine = sample(conditional(coarse, "block_mean", 4, TC), coarse, 3, ids, 0)
    before = fine.copy()
    moved = relax(conditional(coarse, "block_mean", 4, TC), fine, coarse, 3, ids, 4)
    assert np.array_equal(fine, before)
    alone = relax(
        conditional(coarse[1:2], "block_mean", 4, TC), fine[1:2], coarse[1:2], 3, ids[1:2], 4
    )
    assert np.array_equal(alone[0], moved[1])
    other = relax(
        conditional(coarse[1:2], "block_mean", 4, TC), fine[1:2], coarse[1:2], 3, ids[:1], 4
    )
    assert not np.array_equal(other[0], moved[1])
    with pytest.raises(ValueError, match="coarse-grain"):
        relax(conditional(coarse, "block_mean", 4, TC), -before, coarse, 3, ids, 1, coins)


@pytest.mark.parametrize("rule", EXACT)
def test_at_low_temperature_no_move_costs_energy(rule: str) -> None:
    model = MODELS["ising2d"]
    coarse, ties, _ = coarse_lattices(rule, (6, 6), 3, n=1)
    law = Conditional(model, rule, 3, 0.01, (2, 2))
    (given,) = law.read(coarse, ties)
    chain = law.chain(given, 1, 0)
    energies = []
    for _ in range(30):
        energies.append(float(model.energy(chain.configuration())))
        chain.advance(1)
    assert np.all(np.diff(energies) <= 0)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("name", ["ising2d", "potts3"])
def test_a_pilot_depends_on_nothing_but_its_input(rule: str, name: str) -> None:
    coarse, ties, _ = coarse_lattices(rule, (16, 16), 4, name=name)
    law = law_of(rule, (16, 16), 4, name)
    givens = law.read(coarse, ties)
    tau, sweeps = measure_sweeps(law, givens, 5)
    assert (tau, sweeps) == measure_sweeps(law, givens, 5)
    assert sweeps >= 20 * tau
    assert 0.4 < tau < 100
    with pytest.raises(Interrupted):
        measure_sweeps(law, givens, 5, stop=lambda: True)
    assert law.pilot_chains(100) == 8
    assert law.pilot_chains(2) == 2
    assert law_of(rule, (1024, 1024), 4).pilot_chains(9) == 1


def test_a_pilot_finds_the_autocorrelation_time() -> None:
    """For configurations four times as far apart as the moves give, tau is four times as long."""
    coarse, ties, _ = coarse_lattices("block_mean", (32, 32), 4, n=2)
    law = law_of("block_mean", (32, 32), 4)
    givens = law.read(coarse, ties)

    class Slow(_Chain):
        def advance(self, sweeps: int) -> None:
            self.left = getattr(self, "left", 0) + sweeps
            super().advance(self.left // 4)
            self.left %= 4

    tau, _ = measure_sweeps(law, givens, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "_Chain", Slow)
        slow, _ = measure_sweeps(law, givens, 5)
    assert slow / tau == pytest.approx(4, rel=0.25)


@pytest.mark.statistical
@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("value", [0, 1])  # sums of 0 or 2; coins against or for the majority
def test_fill_is_uniform(rule: str, value: int) -> None:
    """H0: every consistent 2x2 block is equally likely; chi-square, false alarm 1e-5 each."""
    from scipy.stats import chisquare

    coarse = np.full((1, 100, 100), (2 * value) if rule == "block_mean" else 1, dtype=np.int16)
    coins = np.full(coarse.shape, 2 * value - 1, dtype=np.int8)
    fine = sample(conditional(coarse, rule, 2, TC), coarse, 5, np.array([value]), 0, coins)[0]
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
    for name, field in (("block_mean", "counts"), ("majority", "0 .. 2"), ("decimate", "0 .. 2")):
        wrong, _, _ = coarse_lattices(name, (8, 8), 2, name="potts3")
        with pytest.raises(BadInput, match=field):
            sample(conditional(wrong + 1, name, 2, 1.0, MODELS["potts3"]), wrong + 1, 1, ids, 1)
    with pytest.raises(ValueError, match="no coarse lattices of shape"):
        Conditional(MODELS["ising3d"], "block_mean", 4, TC, (2, 2))
    diagonal = replace(MODELS["ising2d"], bonds=(Bond((1, 1)), Bond((1, -1))))
    with pytest.raises(ValueError, match="nearest neighbours"):
        Conditional(diagonal, "block_mean", 4, TC, (2, 2))
    with pytest.raises(BadInput, match="at most 31"):
        Conditional(MODELS["ising3d"], "decimate", 32, 1.0, (1, 1, 1))
    with pytest.raises(BadInput, match="rule: 'spectral'"):
        sample(conditional(coarse, "spectral", 4, TC), coarse, 1, ids, 1)
    for factor in (1, 0, -2, 1.5):
        with pytest.raises(BadInput, match="factor"):
            sample(conditional(coarse, "block_mean", factor, TC), coarse, 1, ids, 1)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="9 spins"):
        sample(conditional(coarse, "block_mean", 3, TC), coarse, 1, ids, 1)
    with pytest.raises(BadInput, match="4 spins"):
        sample(
            conditional(np.full((1, 2, 2), 6), "block_mean", 2, TC),
            np.full((1, 2, 2), 6),
            1,
            ids,
            1,
        )
    with pytest.raises(BadInput, match="rule: 'majority'"):
        sample(conditional(coarse * 2, "majority", 4, TC), coarse * 2, 1, ids, 1, coins)
    with pytest.raises(ValueError, match="ties have shape"):
        sample(conditional(coarse, "block_mean", 4, TC), coarse, 1, ids, 1, coins[:, :1])
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="T"):
            sample(conditional(coarse, "block_mean", 4, temperature), coarse, 1, ids, 1)


@pytest.mark.parametrize(("name", "shape"), [("ising2d", (24, 24)), ("potts3", (12, 8))])
def test_a_pilot_measures_nothing_that_is_held_fixed(name: str, shape: tuple[int, ...]) -> None:
    """Block totals of block means are constant up to rounding, where blocks are no power of two."""
    coarse, *_ = coarse_lattices("block_mean", shape, 2, 4, name)
    sides = tuple(side // 2 for side in shape)
    law = Conditional(MODELS[name], "block_mean", 2, MODELS[name].critical_temperature, sides)
    assert measure_sweeps(law, law.read(coarse, None), 5)[0] < 20
