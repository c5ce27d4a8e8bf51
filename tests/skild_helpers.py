"""A small untrained network and coarse inputs in memory, for tests of the SKILD chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import TC
from numpy.typing import NDArray

from skild_phys.rng import kernel_state
from skild_phys.rules import coarsen, get_rule
from skild_phys.rules.conditions import Blocks
from skild_phys.simulation.wolff import wolff
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.networks import NetworkConfig
from skild_phys.skild.spectrum import Basis, RadialSpectrum
from skild_phys.skild.spins import Couplings
from skild_phys.skild.weights import Weights

TINY = NetworkConfig(patch=2, channels=(8, 8), blocks=(1, 1), embedding=16)
POWER_LAW = RadialSpectrum((0.1, 0.5, 1.0, 4.5), (45.0, 3.0, 1.0, 0.15), 0.66)
NEIGHBOURS = Couplings(((0, 1), (1, 0)), (0.4407, 0.4407))


def tiny_weights(output: str = "logits", seed: int = 1) -> Weights:
    """Return random weights: every guarantee of a refinement must hold for them too.

    They serve a grid for every scale, but those of eps and x0 one grid along a schedule.
    """
    torch.manual_seed(seed)
    grids = output in ("logits", "v")
    shape = replace(TINY, levels=3, field_patch=1) if grids else TINY
    network = shape.build(output, "dft", grids=grids)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {k: v.detach().to(torch.bfloat16) for k, v in network.state_dict().items()}
    system = {"model": "ising2d", "temperature": TC, "side": 64}
    pairs = NEIGHBOURS if output == "logits" else Couplings()
    made = Weights(tensors, shape, POWER_LAW, output, (0.006, 1e12), system, couplings=pairs)
    if grids:
        return replace(made, window=(0.7, 2.8))
    return replace(made, schedule=SCHEDULES["geometric"](0.006, 1000.0))


def critical_lattices(n: int, side: int, seed: int = 3) -> np.ndarray:
    """Return `n` lattices of one Wolff chain at Tc."""
    spins, state = np.ones((side, side), dtype=np.int8), kernel_state(seed)
    out = np.empty((n, side, side), dtype=np.int8)
    wolff(spins, TC, state, 50)
    for i in range(n):
        wolff(spins, TC, state, 5)
        out[i] = spins
    return out


def coarse_input(
    fine: np.ndarray, rule: str, factor: int, tie_seed: int = 5, real: bool = False
) -> CoarseInput:
    """Return the coarse lattices of `fine` as if opened from a store."""
    raw = coarsen(fine, rule, factor, tie_seed=tie_seed)
    ids = np.arange(len(fine))
    attrs = {"model": "ising2d", "temperature": TC}
    shape = (raw.shape[1], raw.shape[2])
    read = lambda start, stop: raw[start:stop]  # noqa: E731
    here = Path("memory")
    return CoarseInput(
        here, get_rule(rule), factor, len(raw), shape, ids, tie_seed, read, "0", attrs, real=real
    )


def white(n: int, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Return `n` standard normal fields, float32."""
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))


def shell_deviations(
    fields: torch.Tensor, basis: Basis, power: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return z of the weighted mean |X|^2 / P in radial shells as wide as the lowest kappa.

    A mode of weight 2 is complex, one of weight 1 real or one of a pair of conjugates: in each
    case the mean over a shell of weight W and n fields has the variance 2 / (n W).
    """
    modes = basis.modes(fields.double()).abs().square().mean(0).numpy()
    shell = np.rint(basis.kappa / basis.lowest).astype(int).ravel()
    weight = np.bincount(shell, basis.weight.ravel())
    mean = np.bincount(shell, (basis.weight * modes / power).ravel())[weight > 0]
    weight = weight[weight > 0]
    return np.asarray((mean / weight - 1.0) / np.sqrt(2.0 / (weight * len(fields))))


def sample_blocks(
    logits: np.ndarray, coarse: np.ndarray, b: int, majority: bool, ties: Any, state: np.ndarray
) -> np.ndarray:
    """Return one configuration sampled given each block's sum or sign."""
    known = None if ties is None else ties[None]
    return Blocks(coarse[None], b, majority, known).draw(logits, 0, state)
