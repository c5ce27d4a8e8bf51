"""Majorities: the sign of each block's sum, or its commonest state; ties by a fair tie-break."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.rules.base import Rule, TieBreak
from skild_phys.rules.block_mean import Means, counted
from skild_phys.rules.operators import Array, Operator

if TYPE_CHECKING:
    import torch

    from skild_phys.rules.conditions import Constraint


class Majority(Rule):
    """int8 signs of the blocks' sums; of states the commonest, of several that of top priority."""

    name = "majority"
    stores = {"spins": "spins", "states": "states"}  # noqa: RUF012
    ties = True
    exact = True
    start_scale = 3.0  # signs say less of the long-wavelength modes than block means do
    shown = 2

    def reduce(
        self, fine: NDArray[Any], factor: int, dimension: int, q: int, ties: TieBreak
    ) -> NDArray[Any]:
        counts = counted(fine, factor, dimension, q)
        if q:
            order = counts.astype(np.int32) * q + ties.priorities(counts.shape[2:], q)
            return np.asarray(order.argmax(axis=1).astype(np.int8))
        signs = np.sign(counts).astype(np.int8)
        if factor % 2 == 0:
            signs = np.where(signs == 0, ties.signs(signs.shape[1:]), signs)
        return signs

    def agrees(
        self, fine: NDArray[Any], raw: NDArray[Any], factor: int, q: int, ties: TieBreak | None
    ) -> NDArray[np.bool_]:
        if ties is not None:
            return super().agrees(fine, raw, factor, q, ties)
        counts = counted(fine, factor, fine.ndim - 1, q)
        if not q:
            return np.asarray((counts == 0) | (np.sign(counts) == raw))
        of_raw = np.take_along_axis(counts, raw[:, None].astype(np.int64), axis=1)
        return np.asarray(of_raw[:, 0] == counts.max(axis=1))

    def proxy(self, shape: tuple[int, ...], factor: int) -> Operator:
        return Means(shape, factor)

    def values(self, raw: NDArray[Any], seen: Operator, power: Array) -> Array:
        """Return the signs times the root mean square of a block's mean."""
        modes = np.abs(seen.transfer) ** 2 * power
        twice = np.full(modes.shape[-1], 2.0)
        twice[0] = 1.0
        if seen.shape[-1] % 2 == 0:
            twice[-1] = 1.0
        mean_square = float((modes * twice).sum()) / math.prod(seen.shape)
        return np.asarray(raw * math.sqrt(mean_square))

    def condition(
        self,
        raw: NDArray[Any],
        shape: tuple[int, ...],
        factor: int,
        ties: NDArray[np.int8] | None,
        device: torch.device,
    ) -> Constraint:
        from skild_phys.rules.conditions import Blocks

        return Blocks(raw, factor, True, ties)
