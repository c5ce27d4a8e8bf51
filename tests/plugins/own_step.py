"""A step of one's own: DDIM's rotation Y' = cos(d) Y - sin(d) v, handed in or named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import skild_phys as sp
from skild_phys.skild.equations import STEPS, Noise, Posterior, Process
from skild_phys.skild.spectrum import PowerLaw


class Rotation:
    """Exact where X_0 is known; it shrinks a Gaussian field by cos(d) each step."""

    def __call__(
        self,
        process: Process,
        y: torch.Tensor,
        posterior: Posterior,
        lam: float,
        to: float,
        noise: Noise,
    ) -> torch.Tensor:
        d, v = process.angle_between(lam, to), process.velocity(y, posterior.mean(), lam)
        return d.cos() * y - d.sin() * v


def test_a_step_is_handed_in_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "rotation", Rotation)
    spins = 2 * np.random.default_rng(1).integers(0, 2, (2, 16, 16)).astype(np.int8) - 1
    coarse = sp.coarsen(spins, 4)
    handed, named, other = (
        sp.refine(coarse, 4, steps=4, seed=1, sampler=sampler)
        for sampler in (Rotation(), "rotation", "ancestral")
    )
    assert np.array_equal(handed["spins"], named["spins"])
    assert not np.array_equal(handed["spins"], other["spins"])
    assert handed.attrs["sampler"] == "Rotation"
    assert np.array_equal(sp.coarsen(handed, 4)["block_sum"], coarse["block_sum"])


def test_the_rotation_is_exact_where_x0_is_known() -> None:
    process, noise = Process(PowerLaw(1.0, 1.0, 0.3), (8, 12)), torch.randn(2, 8, 12)
    y0, eps = process.modes(torch.sign(noise)), process.white(noise)
    at = [process.cosine(lam) * y0 + process.sine(lam) * eps for lam in (4.0, 0.5)]

    class Known:
        def mean(self) -> torch.Tensor:
            return y0

    moved = Rotation()(process, at[0], Known(), 4.0, 0.5, lambda: eps)  # type: ignore[arg-type]
    assert torch.allclose(moved, at[1], atol=1e-5)
