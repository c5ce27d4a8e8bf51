"""Targets of training against the exact conditional laws of small lattices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_mean_field import DIAGONAL, log_density, mean_field

from skild_phys.rules.conditions import Blocks
from skild_phys.skild.spins import Couplings, Likelihood, MeanField

LAMBDAS = (0.2, 1.0, 6.0)


def case(shape: tuple[int, int], lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Return spins (1, Ly, Lx) and X_t."""
    random = np.random.default_rng(2)
    return random.choice([-1.0, 1.0], (1, *shape)), random.normal(size=(1, *shape))


def field_of(model: MeanField, found: Likelihood, x0: torch.Tensor) -> torch.Tensor:
    """Return the field of X_t and of all other spins."""
    return found.field + model.coupled(found, x0)


def log_odds(xt: np.ndarray, a: np.ndarray, b: np.ndarray, lam: float) -> float:
    """Return log p(a | X_t) - log p(b | X_t)."""
    both = log_density(xt, np.concatenate([a, b]), lam, DIAGONAL)
    return float(both[0] - both[1])


@pytest.mark.parametrize("lam", LAMBDAS)
def test_a_spin_given_all_the_others(lam: float) -> None:
    """Every site's mean is tanh of half its log odds. Planted, seen to fail: other couplings."""
    shape = (5, 4)
    spins, xt = case(shape, lam)
    want = np.empty(shape)
    for site in np.ndindex(shape):
        up, down = spins.copy(), spins.copy()
        up[0][site], down[0][site] = 1.0, -1.0
        want[site] = np.tanh(0.5 * log_odds(xt, up, down, lam))
    for couplings, right in ((DIAGONAL, True), (Couplings(), False)):
        model = mean_field(shape, couplings)
        found = model.likelihood(torch.from_numpy(xt).float(), torch.tensor([lam]))
        means = torch.tanh(field_of(model, found, torch.from_numpy(spins).float()))[0].numpy()
        assert bool(np.allclose(means, want, atol=2e-4)) is right


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_a_spin_given_all_the_others_and_the_majorities(factor: int, lam: float) -> None:
    """Bayes: odds of the spin times those of the block's sign, a tie's being even."""
    shape = (6, 6)
    spins, xt = case(shape, lam)
    blocks = np.add.reduceat(np.add.reduceat(spins, range(0, 6, factor), 1), range(0, 6, factor), 2)
    coins = np.random.default_rng(5).choice([-1.0, 1.0], blocks.shape)
    signs = np.where(blocks == 0, coins, np.sign(blocks))
    want, hung = np.empty(shape), 0
    for y, x in np.ndindex(shape):
        up, down = spins.copy(), spins.copy()
        up[0, y, x], down[0, y, x] = 1.0, -1.0
        sign = signs[0, y // factor, x // factor]
        sums = blocks[0, y // factor, x // factor] - spins[0, y, x] + np.array([1.0, -1.0])
        likely = 0.5 + 0.5 * np.sign(sums * sign)
        odds = np.exp(log_odds(xt, up, down, lam)) * likely[0]
        want[y, x] = (odds - likely[1]) / (odds + likely[1])
        hung += bool((likely == 0.0).any())
    model = mean_field(shape, DIAGONAL)
    found = model.likelihood(torch.from_numpy(xt).float(), torch.tensor([lam]))
    x0, held = (torch.from_numpy(a).float() for a in (spins, signs))
    field, random = field_of(model, found, x0), torch.Generator()
    bound = Blocks(held.numpy(), factor, majority=True)
    means = bound.targets(x0, field, torch.zeros(1, *shape), random)[0].numpy()
    assert np.allclose(means, want, atol=2e-4)
    assert 0 < hung < means.size
    assert not np.allclose(means, torch.tanh(field)[0].numpy(), atol=0.05)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_two_spins_of_a_block_that_change_places(factor: int, lam: float) -> None:
    """One pairing against log odds of exchanging each pair; block sums stay as they are."""
    shape = (6, 6)
    spins, xt = case(shape, lam)
    model = mean_field(shape, DIAGONAL)
    found = model.likelihood(torch.from_numpy(xt).float(), torch.tensor([lam]))
    x0, random = torch.from_numpy(spins).float(), torch.Generator().manual_seed(7)
    field, by_site = field_of(model, found, x0), model.couplings_by_site(found)
    means = Blocks(np.zeros(0), factor).targets(x0, field, by_site, random, 1)[0].numpy()
    order = torch.randperm(factor**2, generator=torch.Generator().manual_seed(7)).numpy()
    want = spins[0].copy()
    half = factor**2 // 2
    for by, bx in np.ndindex(shape[0] // factor, shape[1] // factor):
        for pair in zip(order[:half], order[half : 2 * half], strict=True):
            a, b = ((by * factor + k // factor, bx * factor + k % factor) for k in pair)
            if spins[0][a] != spins[0][b]:
                up, down = spins.copy(), spins.copy()
                up[0][a], up[0][b], down[0][a], down[0][b] = 1.0, -1.0, -1.0, 1.0
                want[a] = np.tanh(0.5 * log_odds(xt, up, down, lam))
                want[b] = -want[a]
    assert np.allclose(means, want, atol=2e-4)
    assert not np.allclose(means, spins[0], atol=0.05)


def test_exchanges_keep_every_block_sum() -> None:
    shape = (9, 6)
    spins, xt = (torch.from_numpy(a).float() for a in case(shape, 1.0))
    model = mean_field(shape, DIAGONAL)
    found = model.likelihood(xt, torch.tensor([1.0]))
    field, by_site = field_of(model, found, spins), model.couplings_by_site(found)
    random = torch.Generator().manual_seed(1)
    means = Blocks(np.zeros(0), 3).targets(spins, field, by_site, random)
    sums = [f.reshape(3, 3, 2, 3).sum((1, 3)) for f in (means[0], spins[0])]
    assert torch.allclose(*sums, atol=1e-5)
