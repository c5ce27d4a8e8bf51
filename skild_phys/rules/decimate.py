"""Decimation: the site (0, 0) of each block is kept, whatever it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.rules.base import Rule, TieBreak
from skild_phys.rules.operators import Array, Operator, corners

if TYPE_CHECKING:
    import torch

    from skild_phys.rules.conditions import Constraint


class Corners(Operator):
    """The value at site (0, 0) of each block; A A^T = 1."""

    def filter(self, side: int) -> NDArray[np.complex128]:
        return np.ones(side, dtype=np.complex128)

    def apply(self, x: Array) -> Array:
        return corners(x, self.factor, len(self.shape))

    def adjoint(self, y: Array) -> Array:
        return self.spread(y)


class Decimate(Rule):
    """int8 spins or states of the sites (0, 0) of the blocks; of fields their values."""

    name = "decimate"
    stores = {"spins": "spins", "states": "states", "field": "field"}  # noqa: RUF012
    exact = True
    start_scale = 8.0  # single spins say still less of the long-wavelength modes than signs
    shown = 2

    def reduce(
        self, fine: NDArray[Any], factor: int, dimension: int, q: int, ties: TieBreak
    ) -> NDArray[Any]:
        kept = corners(fine, factor, dimension)
        return kept.astype(np.float32) if fine.dtype.kind == "f" else kept

    def operator(self, shape: tuple[int, ...], factor: int) -> Operator:
        return Corners(shape, factor)

    def condition(
        self,
        raw: NDArray[Any],
        shape: tuple[int, ...],
        factor: int,
        ties: NDArray[np.int8] | None,
        device: torch.device,
    ) -> Constraint:
        from skild_phys.rules.conditions import Sites

        return Sites(raw, factor, device)
