"""Grids for every scale: at lambda a field lives where its finest mode is just being erased.

Level 0 is the lattice itself, level j a grid of spacing s = 2^j (as near as whole sides allow).
Lambda / s^2 runs over the same octave of lengths on each, the window: above its upper end the next
coarser grid says all there is, below the lower end the next finer one is due.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.base import Rule
from skild_phys.skild.equations import Process

_COARSEST = {"dft": 4, "dct": 2}  # sites of the coarsest grid: it has the longest waves alone


def grid_sides(shape: tuple[int, ...], basis: str) -> Iterator[tuple[int, ...]]:
    """Yield the sides of the grids of a lattice, the lattice itself first."""
    sides, spacing = shape, 1
    yield sides
    while max(sides) > _COARSEST[basis]:
        spacing *= 2
        sides = tuple(-(-side // spacing) for side in shape)
        yield sides


def spacings(shape: tuple[int, ...], basis: str) -> list[float]:
    """Return the spacing of each grid (`Process.spacing`), 1 of the lattice first."""
    grids = grid_sides(shape, basis)
    return [max(side / n for side, n in zip(shape, grid, strict=True)) for grid in grids]


def lambdas_on_grids(
    shape: tuple[int, ...], basis: str, window: tuple[float, float], start: float | None,
    end: float, steps: int, octave: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the lambdas of a chain: on each grid equal in log lambda, to the end of its window.

    Parameters
    ----------
    start : None for noise: the upper end of the coarsest grid's window.
    steps : evaluations on the lattice, the last at `end`.
    octave : evaluations on each coarser grid, of the whole window.
    """
    own = spacings(shape, basis)
    most = window[1] * own[-1] ** 2
    at = most if start is None else min(start, most)
    legs = []
    for spacing in own[:0:-1]:
        low = window[0] * spacing**2
        if at > low:
            n = max(1, round(octave * math.log(at / low) / math.log(window[1] / window[0])))
            legs.append(np.geomspace(at, low, n + 1)[:-1])
            at = low
    return np.concatenate([*legs, np.geomspace(at, end, steps)])


def coarse_alone(rule: Rule, raw: NDArray[Any], factor: int, process: Process) -> Tensor:
    """Return what coarse values say of a field by themselves: its mean, were it Gaussian.

    E[x | A x = y] of a Gaussian field with spectrum P, as orthonormal modes (n, *modes) of the
    lattice of `process`; of majorities y are their signs, scaled (`Rule.values`).
    """
    operator, power = rule.proxy(process.shape, factor), process.power.cpu().numpy()
    values = rule.values(raw, operator, power)
    found = operator.correct(np.zeros((len(raw), *process.shape)), values, power)
    fields = torch.from_numpy(found.astype(np.float32)).to(process.kappa2.device)
    return process.lattice_modes(fields)
