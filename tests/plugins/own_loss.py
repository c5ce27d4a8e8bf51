"""A loss of one's own: SR3 (arXiv 2104.07636), conditional diffusion with white noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from skild_phys.errors import Interrupted
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.losses import stratified
from skild_phys.skild.networks import NetworkConfig, UNet
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.train import Trainer, train


class Sr3:
    """The network is given x_t and the block means by 4, and predicts the noise."""

    divisible = True
    shape = NetworkConfig(patch=2, channels=(8, 8), blocks=(1, 1), embedding=16)

    def make_network(self):
        return UNet(self.shape, inputs=2)

    def draw(self, n, random):
        """Uniform in t, with sqrt(abar) = cos(t) from 0.9999 to 0.01."""
        t = 0.01 + (math.acos(0.01) - 0.01) * stratified(n, random)
        return -2.0 * torch.log(torch.cos(t)), None  # lambda = -log abar

    def __call__(self, network, batch):
        abar = torch.exp(-batch.lam)[:, None, None]
        xt = abar.sqrt() * batch.x0 + (1.0 - abar).sqrt() * batch.noise
        means = interpolate(avg_pool2d(batch.x0[:, None], 4), scale_factor=4)
        eps = network(torch.cat([xt[:, None], means], 1), batch.lam)[:, 0]
        return (eps - batch.noise).square().mean()


RECIPE = Recipe(side=16, steps=12, batch=8, warmup=2, learning_rate=3e-3, symmetries=("sign",))


def stream() -> SimulationSource:
    return SimulationSource(16, 2.269, 8, 2, RECIPE.seed, burn_in=20)


def test_it_is_trained_stopped_and_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    whole, part = (Trainer(RECIPE, stream(), Sr3()) for _ in range(2))
    assert whole.train_step() == pytest.approx(1.0, abs=0.1)  # an untrained network says 0
    train(whole, tmp_path / "whole", log_every=4)
    with pytest.raises(Interrupted):
        train(part, tmp_path / "part", stop=lambda: part.step == 5)
    part = Trainer.resume(tmp_path / "part", RECIPE, stream(), Sr3())
    train(part, tmp_path / "part")
    both = [run.ema.module.state_dict() for run in (whole, part)]
    assert all(np.array_equal(both[0][name], both[1][name]) for name in both[0])
    assert whole.log[-1][1] < whole.log[0][1]
