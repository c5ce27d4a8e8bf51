"""A small untrained network and coarse inputs in memory, for tests of the SKILD chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from skild_phys.lattice.coarsen import coarsen_spins
from skild_phys.lattice.models import MODELS
from skild_phys.rng import kernel_state
from skild_phys.simulate.wolff import wolff
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.network import NetworkConfig, UNet
from skild_phys.skild.spectrum import Spectrum
from skild_phys.skild.weights import Weights

TC = MODELS["ising2d"].critical_temperature
TINY = NetworkConfig(patch=2, channels=(8, 8), blocks=(1, 1), embedding=16)
POWER_LAW = Spectrum((0.1, 0.5, 1.0, 4.5), (45.0, 3.0, 1.0, 0.15), 0.66)


def tiny_weights(output: str = "logits", seed: int = 1) -> Weights:
    """Return random weights: every guarantee of a refinement must hold for them too."""
    torch.manual_seed(seed)
    network = UNet(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {k: v.detach().to(torch.bfloat16) for k, v in network.state_dict().items()}
    system = {"model": "ising2d", "temperature": TC, "side": 64}
    return Weights(tensors, TINY, POWER_LAW, output, (0.006, 1000.0), system)


def critical_lattices(n: int, side: int, seed: int = 3) -> np.ndarray:
    """Return `n` lattices of one Wolff chain at Tc."""
    spins, state = np.ones((side, side), dtype=np.int8), kernel_state(seed)
    out = np.empty((n, side, side), dtype=np.int8)
    wolff(spins, TC, state, 50)
    for i in range(n):
        wolff(spins, TC, state, 5)
        out[i] = spins
    return out


def coarse_input(fine: np.ndarray, rule: str, factor: int, tie_seed: int = 5) -> CoarseInput:
    """Return the coarse lattices of `fine` as if opened from a store."""
    raw = coarsen_spins(fine, rule, factor, tie_seed=tie_seed)
    ids = np.arange(len(fine))
    attrs = {"model": "ising2d", "temperature": TC}
    shape = (raw.shape[1], raw.shape[2])
    read = lambda start, stop: raw[start:stop]  # noqa: E731
    here = Path("memory")
    return CoarseInput(here, rule, factor, len(raw), shape, ids, tie_seed, read, "0", attrs)
