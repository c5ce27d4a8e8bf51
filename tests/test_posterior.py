"""Draws of X_0 given X_t on critical lattices, where the truth itself is one such draw."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from skild_helpers import NEIGHBOURS, critical_lattices, white

from skild_phys.rng import Streams
from skild_phys.rules import RULES, coarsen
from skild_phys.rules.conditions import Blocks, Constraint, Free, KeptModes
from skild_phys.skild import spins
from skild_phys.skild.equations import Process
from skild_phys.skild.spectrum import RadialSpectrum
from skild_phys.skild.spins import (
    MeanField,
    SpinPosterior,
    spin_logits,
)

SPECTRUM = RadialSpectrum((0.1, 0.5, 1.0, 4.5), (45.0, 3.0, 1.0, 0.15), 0.66)
N, SIDE = 100, 48


@functools.cache
def truth() -> np.ndarray:
    return critical_lattices(N, SIDE)


def energy(spins: np.ndarray) -> np.ndarray:
    """Return the energy per site of each configuration."""
    pairs = sum(spins * np.roll(spins, 1, axis) for axis in (1, 2))
    return np.asarray(-pairs.mean(axis=(1, 2), dtype=np.float64))


def drawn(lam: float, constraint: Constraint) -> np.ndarray:
    """Return spins drawn given X_t of the truths, by the mean field alone."""
    process = Process(SPECTRUM, (SIDE, SIDE))
    model = MeanField(process, NEIGHBOURS)
    streams = [Streams.of(4, i) for i in range(N)]
    x0 = torch.from_numpy(truth().astype(np.float32))
    xt = process.forward(x0, torch.full((N,), lam), white(N, (SIDE, SIDE), 2))
    found = spin_logits(None, model, xt, torch.tensor([lam]), constraint.means)
    return SpinPosterior(process, found, constraint, model, lam, streams).spins()


def deviation(spins: np.ndarray) -> float:
    """Return z of the energies of `spins` less those of the truths."""
    difference = energy(spins) - energy(truth())
    return float(difference.mean() / (difference.std(ddof=1) / np.sqrt(N)))


@pytest.mark.statistical
def test_spins_drawn_in_parts_know_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """H0 at lambda = 0.6: the energy is the truth's; abs(z) < 4.5, 7e-6.

    Planted, seen to fail: all spins drawn at once, +0.05 a site.
    """
    assert abs(deviation(drawn(0.6, Free()))) < 4.5
    monkeypatch.setattr(spins, "_sites_of_cell", lambda dimension: ((0,) * dimension,))
    assert abs(deviation(drawn(0.6, Free()))) > 4.5


@pytest.mark.statistical
def test_parts_help_under_a_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block sums tie the spins of a block: no longer exact, and off by less than a third."""
    bound = Blocks(coarsen(truth(), "block_mean", 4), 4)
    in_parts = energy(drawn(0.6, bound)).mean() - energy(truth()).mean()
    monkeypatch.setattr(spins, "_sites_of_cell", lambda dimension: ((0,) * dimension,))
    at_once = energy(drawn(0.6, bound)).mean() - energy(truth()).mean()
    assert abs(in_parts) < at_once / 3


def test_spins_drawn_in_parts_meet_the_coarse_lattice() -> None:
    raw = coarsen(truth(), "block_mean", 4)
    assert np.array_equal(coarsen(drawn(1.0, Blocks(raw, 4)), "block_mean", 4), raw)
    coins = np.ones(raw.shape, dtype=np.int8)
    majority = np.where(raw == 0, 1, np.sign(raw)).astype(np.int8)
    spins = drawn(1.0, Blocks(majority, 4, majority=True, ties=coins))
    sums = spins.reshape(N, SIDE // 4, 4, SIDE // 4, 4).sum(axis=(2, 4))
    assert np.array_equal(np.where(sums == 0, 1, np.sign(sums)), majority)


def test_parts_under_kept_modes_are_drawn_given_one_set_of_sums() -> None:
    """The sums that were rounded first are those of the spins.

    Planted, seen to fail: every part settles anew.
    """
    kept = RULES["spectral"].operator((SIDE, SIDE), 4)
    values, device = kept.apply(truth().astype(np.float64)), torch.device("cpu")
    spins = drawn(1.0, KeptModes(values, kept, device))
    process, again = Process(SPECTRUM, (SIDE, SIDE)), KeptModes(values, kept, device)
    x0 = torch.from_numpy(truth().astype(np.float32))
    xt = process.forward(x0, torch.full((N,), 1.0), white(N, (SIDE, SIDE), 2))
    model = MeanField(process, NEIGHBOURS)
    found = spin_logits(None, model, xt, torch.tensor([1.0]), again.means)
    _, bound = again.settled(found.logits, [Streams.of(4, i).state for i in range(N)])
    assert isinstance(bound, Blocks)
    assert np.array_equal(coarsen(spins, "block_mean", 4), bound.raw)
