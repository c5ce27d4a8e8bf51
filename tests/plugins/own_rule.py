"""A rule of one's own: the last site of every block. And one that no refinement knows: maxima."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skild_phys as sp
from skild_phys.errors import BadInput
from skild_phys.rules import RULES, Operator, Rule
from skild_phys.rules.conditions import Sites


class LastSites(Operator):
    """Filter by a shift of b - 1 sites, then keep every b-th site."""

    def filter(self, side: int) -> np.ndarray:
        return np.exp(2j * np.pi * np.fft.fftfreq(side) * (self.factor - 1))


class LastSite(Rule):
    """A linear rule that also binds spins: all that refinement by SKILD needs."""

    name = "last_site"
    stores = {"spins": "spins", "field": "field"}
    linear = LastSites

    def condition(self, raw: Any, shape: Any, factor: int, ties: Any, device: Any) -> Sites:
        return Sites(raw, factor, device, at=factor - 1)


class Maximum(Rule):
    name = "maximum"
    stores = {"field": "field"}

    def reduce(self, fine: Any, factor: int, dimension: int, q: int, ties: Any) -> np.ndarray:
        for axis in range(-dimension, 0):
            fine = np.maximum.reduceat(fine, np.arange(0, fine.shape[axis], factor), axis)
        return fine.astype(np.float32)


def test_a_rule_coarsens_and_refines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in (LastSite(), Maximum()):
        monkeypatch.setitem(RULES, rule.name, rule)
    fine = sp.simulate("ising2d", L=16, T="Tc", samples=4, seed=1)
    coarse = sp.coarsen(fine, 4, rule="last_site", output=tmp_path / "coarse.zarr")
    assert np.array_equal(coarse["spins"], fine["spins"][:, 3::4, 3::4])
    refined = sp.refine(coarse, seed=2, steps=4)
    assert np.array_equal(refined["spins"][:, 3::4, 3::4], coarse["spins"])
    with pytest.raises(BadInput, match="'last_site' is not accepted; expected block_mean"):
        sp.refine(coarse, method="exact")
    field = np.random.default_rng(1).normal(size=(2, 8, 8, 8))
    tops = sp.coarsen(field, 4, rule="maximum")["field"]
    assert np.array_equal(tops, field.reshape(2, 2, 4, 2, 4, 2, 4).max((2, 4, 6)).astype("f4"))
