"""Means and samples of spins given a coarse configuration, against enumeration of blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skild_helpers import critical_lattices, sample_blocks, white

from skild_phys.rng import kernel_state
from skild_phys.rules import RULES, TieBreak, coarsen
from skild_phys.rules.conditions import (
    Blocks,
    Constraint,
    Free,
    KeptModes,
    Sites,
    _rounded_sums,
)

Array = NDArray[np.float64]
CPU = torch.device("cpu")


def unsure(n: int, shape: tuple[int, int], size: float = 1.5, seed: int = 1) -> torch.Tensor:
    """Return normal logits (n, Ly, Lx)."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(0, size, (n, *shape)).astype(np.float32))


def sums_of(means: torch.Tensor, factor: int) -> Array:
    n, height, width = means.shape
    blocks = means.double().numpy().reshape(n, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.sum((2, 4)))


@pytest.mark.parametrize(("factor", "shape"), [(2, (8, 6)), (3, (9, 12)), (4, (16, 16))])
@pytest.mark.parametrize("size", [0.5, 2.0, 6.0, 100.0])
def test_means_have_the_block_sums(factor: int, shape: tuple[int, int], size: float) -> None:
    """To rounding, even where logits of +-100 contradict the sum."""
    fine = critical_lattices(3, 16)[:, : shape[0], : shape[1]]
    raw = coarsen(fine, "block_mean", factor)
    means = Blocks(raw, factor).means(unsure(3, shape, size))
    assert means.abs().max() <= 1.0
    assert np.abs(sums_of(means, factor) - raw).max() < 1e-5


def test_a_block_that_is_all_up_is() -> None:
    means = Blocks(np.array([[[16, -16]]]), 4).means(unsure(1, (4, 8)))
    assert torch.equal(means[0, :, :4], torch.ones(4, 4))
    assert torch.equal(means[0, :, 4:], -torch.ones(4, 4))


def exact_means(logits: Array, weight: Array) -> Array:
    """Return exact E[s] of one block of n sites given weights of its sums -n, -n + 2 .. n."""
    n = logits.size
    states = np.array(list(itertools.product((-1, 1), repeat=n)))
    p = np.exp((states * logits.ravel() / 2).sum(1)) * weight[(states.sum(1) + n) // 2]
    return np.asarray((p[:, None] * states).sum(0) / p.sum()).reshape(logits.shape)


def tiled(blocks: Array) -> torch.Tensor:
    """Return blocks (m, b, b) side by side as one lattice (1, b, m b)."""
    return torch.from_numpy(np.concatenate(list(blocks), axis=1)[None].astype(np.float32))


def untiled(lattice: torch.Tensor, b: int) -> Array:
    return np.asarray(lattice[0].double().numpy().reshape(b, -1, b).transpose(1, 0, 2))


@pytest.mark.parametrize("b", [2, 3])
@pytest.mark.parametrize("size", [1.5, 8.0])
def test_means_given_a_sum_against_enumeration(b: int, size: float) -> None:
    """To 1e-6. Planted: the means without the condition are far off."""
    random, n = np.random.default_rng(3), b * b
    blocks = random.normal(0, size, (60, b, b)).astype(np.float32).astype(np.float64)
    ups = random.integers(0, n + 1, 60)
    means = untiled(Blocks((2 * ups - n)[None, None], b).means(tiled(blocks)), b)
    exact = np.array([exact_means(x, np.eye(n + 1)[k]) for x, k in zip(blocks, ups, strict=True)])
    assert np.abs(means - exact).max() < 1e-6
    assert np.abs(np.tanh(blocks / 2) - exact).max() > 0.5


@pytest.mark.parametrize("b", [2, 3])
@pytest.mark.parametrize("coin", [-1, 0, 1])
def test_means_given_a_majority_against_enumeration(b: int, coin: int) -> None:
    """To 1e-6; the tie-break decides ties, with weight 1/2 if it is unknown (0)."""
    random, n = np.random.default_rng(4), b * b
    blocks = random.normal(0, 1.5, (60, b, b)).astype(np.float32).astype(np.float64)
    signs, sums = random.choice([-1, 1], 60), 2 * np.arange(n + 1) - n
    coins = None if coin == 0 else np.full((1, 1, 60), coin, dtype=np.int8)
    means = untiled(Blocks(signs[None, None], b, True, coins).means(tiled(blocks)), b)
    for found, block, sign in zip(means, blocks, signs, strict=True):
        tie = 0.5 if coin == 0 else float(coin == sign)
        exact = exact_means(block, np.where(sums == 0, tie, (sums * sign > 0) * 1.0))
        assert np.abs(found - exact).max() < 1e-6


@pytest.mark.statistical
@pytest.mark.parametrize("majority", [False, True])
@pytest.mark.parametrize("b", [4, 6])
def test_means_in_large_blocks_are_those_of_draws(b: int, majority: bool) -> None:
    """H0: the mean of each site over 4000 draws is that of `Blocks.means`; abs(z) < 5, 2e-5 a case.

    Planted, seen to fail: means for logits 20% larger.
    """
    random = np.random.default_rng(b)
    block = random.normal(0, 1.5, (b, b)).astype(np.float32)
    coarse = np.full((1, 4000), -1 if majority else 2)
    tiles = np.tile(block, (1, 4000))
    drawn = sample_blocks(tiles, coarse, b, majority, None, kernel_state(b))
    found = drawn.reshape(b, 4000, b).transpose(1, 0, 2).mean(0)
    for scale, caught in ((1.0, False), (1.2, True)):
        bound, scaled = Blocks(coarse[None, :, :1], b, majority), torch.from_numpy(scale * block)
        exact = bound.means(scaled[None].float())[0].numpy()
        z = (found - exact) / np.sqrt(np.maximum(1.0 - exact**2, 1e-3) / 4000)
        assert bool(np.abs(z).max() > 5) is caught


def test_gradients_of_means_given_a_sum_keep_the_sum() -> None:
    """What all sites of a block have in common moves nothing."""
    raw = coarsen(critical_lattices(2, 8), "block_mean", 4)
    logits = unsure(2, (8, 8)).requires_grad_()
    means = Blocks(raw, 4).differentiable_means(logits)
    assert torch.equal(means, Blocks(raw, 4).means(logits.detach()))
    (means * white(2, (8, 8), 3)).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert np.abs(sums_of(logits.grad, 4)).max() < 1e-5
    assert logits.grad.abs().max() > 0.05


@pytest.mark.parametrize("majority", [False, True])
def test_gradients_of_means_are_near_the_true_ones(majority: bool) -> None:
    """Cosine with finite differences of the exact means above 0.9."""
    fine = critical_lattices(2, 8)
    raw = coarsen(fine, "majority" if majority else "block_mean", 4)
    bound, weight = Blocks(raw, 4, majority), white(2, (8, 8), 3)
    logits = unsure(2, (8, 8)).requires_grad_()
    (bound.differentiable_means(logits) * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    true, step = torch.zeros(2, 64), 0.01
    for place in range(64):
        change = torch.zeros(2, 64)
        change[:, place] = step
        up, down = (bound.means(logits.detach() + s * change.reshape(2, 8, 8)) for s in (1, -1))
        true[:, place] = ((up - down) * weight).sum((1, 2)) / (2 * step)
    told = logits.grad.reshape(2, 64)
    cosine = (told * true).sum() / (told.norm() * true.norm())
    assert float(cosine) > 0.9


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_majorities_lean_to_their_sign(factor: int) -> None:
    """And change nothing where the logits are sure of it already."""
    side = 4 * factor
    signs = np.random.default_rng(5).choice(np.array([-1, 1], dtype=np.int8), (2, 4, 4))
    constraint = Blocks(signs, factor, True)
    means = constraint.means(unsure(2, (side, side), 8.0))
    assert torch.isfinite(means).all()
    assert (sums_of(means, factor) * signs > -1e-5).all()
    sure = torch.from_numpy(np.kron(signs, np.ones((factor, factor))).astype(np.float32)) * 8
    assert torch.allclose(constraint.means(sure), torch.tanh(sure / 2), atol=1e-3)
    opposed = constraint.means(-sure)
    assert torch.isfinite(opposed).all()
    assert (sums_of(opposed, factor) * signs > -1e-5).all()


@pytest.mark.parametrize("factor", [2, 3])
def test_known_sites_are_kept(factor: int) -> None:
    side = 4 * factor
    known = np.random.default_rng(6).choice(np.array([-1, 1], dtype=np.int8), (2, 4, 4))
    logits = unsure(2, (side, side))
    before = logits.clone()
    means = Sites(known, factor, CPU).means(logits)
    assert np.array_equal(means[:, ::factor, ::factor].numpy(), known)
    others = torch.tanh(0.5 * logits)
    others[:, ::factor, ::factor] = means[:, ::factor, ::factor]
    assert torch.equal(means, others)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(("shape", "factor"), [((16, 16), 2), ((16, 16), 4), ((12, 20), 4)])
@pytest.mark.parametrize("seed", [1, 2])
def test_means_have_the_kept_modes(shape: tuple[int, int], factor: int, seed: int) -> None:
    """To 1% of what they are at the third call, from logits that know nothing of them.

    Coarse sides are even and odd: in even ones two fine modes meet in the Nyquist mode. Planted,
    seen to fail: a filter that keeps half of each of the two.
    """
    kept = RULES["spectral"].operator(shape, factor)
    truth = torch.tanh(unsure(3, shape, 2.0, 7) / 2).double().numpy()
    values = kept.apply(truth)
    logits = unsure(3, shape, 1.5, seed)
    constraint = KeptModes(values, kept, CPU)
    for _ in range(3):
        means = constraint.means(logits)
    assert means.abs().max() <= 1.0

    def misfit(m: torch.Tensor) -> float:
        left = kept.apply(m.double().numpy()) - values
        return float(np.sqrt(np.mean(left**2) / np.mean(values**2)))

    assert misfit(torch.tanh(logits / 2)) > 1.0
    assert misfit(means) < 0.01


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_means_come_near_the_kept_modes_of_spins(factor: int, sign: float) -> None:
    """Only spins themselves have these exactly; to 0.2, even if the logits say the contrary."""
    fine = critical_lattices(3, 16)
    kept = RULES["spectral"].operator((16, 16), factor)
    values = kept.apply(fine.astype(np.float64))
    logits = unsure(3, (16, 16)) + sign * torch.from_numpy(fine.astype(np.float32))
    constraint = KeptModes(values, kept, CPU)
    for _ in range(3):
        means = constraint.means(logits).double().numpy()
    assert np.sqrt(np.mean((kept.apply(means) - values) ** 2) / np.mean(values**2)) < 0.2


def constraints(fine: NDArray[np.int8], factor: int) -> dict[str, Constraint]:
    shape = (fine.shape[1], fine.shape[2])
    ids = np.arange(len(fine))
    coins = TieBreak(9, ids).signs((shape[0] // factor, shape[1] // factor))
    kept = RULES["spectral"].operator(shape, factor)
    raw = {
        rule: coarsen(fine, rule, factor, tie_seed=9)
        for rule in ("block_mean", "majority", "decimate")
    }
    return {
        "block_mean": Blocks(raw["block_mean"], factor),
        "majority": Blocks(raw["majority"], factor, True, coins),
        "decimate": Sites(raw["decimate"], factor, CPU),
        "spectral": KeptModes(kept.apply(fine.astype(np.float64)), kept, CPU),
        "free": Free(),
    }


def drawn_under(constraint: Constraint, logits: torch.Tensor, seed: int) -> NDArray[np.int8]:
    """Return spins drawn as a posterior draws them."""
    states = [kernel_state(seed, i) for i in range(len(logits))]
    settled, bound = constraint.settled(logits, states)
    lattices = zip(settled.numpy(), states, strict=True)
    return np.stack([bound.draw(one, i, state) for i, (one, state) in enumerate(lattices)])


def test_what_constraints_say_alone() -> None:
    """Means without X_t: nothing, the block mean, of a majority by enumeration, the known sites."""
    fine, like = critical_lattices(2, 16), torch.empty(2, 16, 16)
    alone = {rule: bound.alone(like) for rule, bound in constraints(fine, 2).items()}
    for nothing in ("free", "spectral"):
        assert torch.equal(alone[nothing], torch.zeros_like(like))
    blocks = fine.reshape(2, 8, 2, 8, 2).mean(axis=(2, 4)).repeat(2, 1).repeat(2, 2)
    assert np.allclose(alone["block_mean"], blocks, atol=1e-6)
    known = np.zeros(fine.shape, dtype=bool)
    known[:, ::2, ::2] = True
    assert np.array_equal(alone["decimate"], np.where(known, fine, 0))
    # Sums 4, 2, 2, 2, 2, and six times 0 where the coin says the same.
    coins = TieBreak(9, np.arange(2)).signs((8, 8))
    signs = coarsen(fine, "majority", 2, tie_seed=9)
    mean = signs * np.where(coins == signs, (1 + 4 / 2) / (1 + 4 + 6), (1 + 4 / 2) / (1 + 4))
    assert np.allclose(alone["majority"], mean.repeat(2, 1).repeat(2, 2), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_draws_obey_the_integer_rules(factor: int) -> None:
    fine, logits = critical_lattices(2, 16), unsure(2, (16, 16))
    for rule, constraint in constraints(fine, factor).items():
        drawn = drawn_under(constraint, logits, 4)
        assert drawn.dtype == np.int8
        assert (np.abs(drawn) == 1).all()
        if rule in ("block_mean", "majority", "decimate"):
            given = coarsen(fine, rule, factor, tie_seed=9)
            assert np.array_equal(coarsen(drawn, rule, factor, tie_seed=9), given)


def test_a_draw_comes_near_the_kept_modes() -> None:
    """Far nearer than one from the same logits that knows of nothing; exactly is not to be had."""
    fine = critical_lattices(2, 32)
    kept = RULES["spectral"].operator((32, 32), 4)
    values, logits = kept.apply(fine.astype(np.float64)), unsure(2, (32, 32))
    misfit = []
    for constraint in (KeptModes(values, kept, CPU), Free()):
        drawn = drawn_under(constraint, logits, 3)
        misfit.append(np.sqrt(np.mean((kept.apply(drawn.astype(np.float64)) - values) ** 2)))
    assert misfit[0] < 0.3 * misfit[1]


DRAWS = 6000


def rounded_up(mean: float) -> float:
    """Return the probability that a mean number of ups is rounded up."""
    return float(np.clip(0.5 + (mean % 1 - 0.5) / 0.5, 0.0, 1.0))


@pytest.mark.statistical
@pytest.mark.parametrize("b", [2, 3, 4])
def test_rounded_sums_are_the_nearest_or_by_chance_near_the_middle(b: int) -> None:
    """H0: a block's sum is its mean rounded down or up, with the given probability.

    abs(z) < 4.5 for the number of those rounded up, 20 blocks a case: 1.4e-4. Planted, seen to
    fail: rounding to the nearest; rounding that keeps the mean.
    """
    n, random, mixed = b * b, np.random.default_rng(b), 0
    for seed, block in enumerate(random.normal(0, 1.5, (20, b, b))):
        logits = np.tile(block.astype(np.float32), (1, DRAWS))
        ups = (_rounded_sums(logits, b, KeptModes.by_chance, kernel_state(seed))[0] + n) // 2
        mean = float((1.0 / (1.0 + np.exp(-block.astype(np.float32).astype(float)))).sum())
        low, share = int(np.floor(mean)), rounded_up(mean)
        assert set(np.unique(ups)) <= {low, low + 1}
        mixed += 0.0 < share < 1.0
        error = np.sqrt(DRAWS * share * (1.0 - share))
        assert abs((ups == low + 1).sum() - DRAWS * share) <= 4.5 * error
    assert 3 < mixed < 17


@pytest.mark.statistical
def test_rounded_draws_know_which_sites_are_likely() -> None:
    """H0: given its sum a block follows its logits: mean of each site by enumeration.

    abs(z) < 4.5, 9 sites: 6e-5. Planted, seen to fail: sites in any order.
    """
    block = np.random.default_rng(8).normal(0, 1.5, (3, 3)).astype(np.float32)
    logits, state = np.tile(block, (1, DRAWS)), kernel_state(2)
    sums = _rounded_sums(logits, 3, KeptModes.by_chance, state)
    drawn = sample_blocks(logits, sums, 3, False, None, state)
    mean = float((1.0 / (1.0 + np.exp(-block.astype(float)))).sum())
    weight, up = np.zeros(10), rounded_up(mean)
    for ups, share in ((int(mean), 1 - up), (int(mean) + 1, up)):
        states = np.array(list(itertools.product((-1, 1), repeat=9)))
        p = np.exp((states * block.ravel() / 2).sum(1)) * (states.sum(1) == 2 * ups - 9)
        weight[ups] = share / p.sum()
    exact = exact_means(block.astype(np.float64), weight)
    found = drawn.reshape(3, DRAWS, 3).transpose(1, 0, 2).mean(0)
    z = (found - exact) / np.sqrt((1 - exact**2) / DRAWS)
    assert np.abs(z).max() < 4.5
    assert np.abs((found.mean() - exact) / np.sqrt((1 - exact**2) / DRAWS)).max() > 6


def test_no_condition() -> None:
    logits = unsure(1, (6, 6))
    assert torch.equal(Free().means(logits), torch.tanh(logits / 2))
