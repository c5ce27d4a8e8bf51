"""A step of one's own: DDIM's rotation Y' = cos(d) Y - sin(d) v, handed in or named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skild_phys.skild.equations import STEPS, Noise, Posterior, Process
from skild_phys.skild.skild import Skild, SpinDenoiser
from skild_phys.skild.spectrum import PowerLaw
from skild_phys.skild.spins import Couplings
from skild_phys.skild.streams import Streams


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


def spins(sampler: object) -> np.ndarray:
    """Return spins from noise by the mean field alone, with this step."""
    process = Process(PowerLaw(1.0, 1.0, 0.3), (8, 12))
    neighbours = Couplings(((0, 1), (1, 0)), (0.4, 0.4))
    skild = Skild(process, SpinDenoiser(process, neighbours), sampler)  # type: ignore[arg-type]
    streams = [Streams.of(1, i) for i in range(4)]
    return skild.run(skild.from_noise(streams), np.geomspace(20.0, 0.1, 6), streams)


def test_a_step_is_handed_in_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "rotation", Rotation)
    handed, named = spins(Rotation()), spins("rotation")
    assert np.array_equal(handed, named)
    assert np.isin(handed, (-1, 1)).all()
    assert not np.array_equal(handed, spins("ancestral"))


def test_the_rotation_is_exact_where_x0_is_known() -> None:
    process, noise = Process(PowerLaw(1.0, 1.0, 0.3), (8, 12)), torch.randn(2, 8, 12)
    y0, eps = process.modes(torch.sign(noise)), process.white(noise)
    at = [process.cosine(lam) * y0 + process.sine(lam) * eps for lam in (4.0, 0.5)]

    class Known:
        def mean(self) -> torch.Tensor:
            return y0

    moved = Rotation()(process, at[0], Known(), 4.0, 0.5, lambda: eps)  # type: ignore[arg-type]
    assert torch.allclose(moved, at[1], atol=1e-5)
