"""Block means: of spins the sum of each block, of states their numbers, of fields the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.fields import FIELDS, Field
from skild_phys.rules.base import Rule, TieBreak
from skild_phys.rules.operators import Array, Operator, block_totals

_MOST_SITES = 2**15 - 1  # the last block sum that int16 holds

if TYPE_CHECKING:
    import torch

    from skild_phys.rules.conditions import Constraint


def _sums(values: NDArray[Any], q: int, sites: int) -> str | None:
    wide = values.astype(np.int32)
    bad = (np.abs(wide) > sites) | ((wide - sites) & 1 != 0)
    return f"a number that is no sum of {sites} spins" if bad.any() else None


def _counts(values: NDArray[Any], q: int, sites: int) -> str | None:
    good = (values >= 0).all() and (values.sum(axis=1, dtype=np.int64) == sites).all()
    return None if good else f"counts that are not those of {sites} sites"


FIELDS |= {
    "block_sum": Field(
        "int16", -(2**15), "mean spin of a block, stored as its sum", _sums, scaled=True
    ),
    "state_count": Field(
        "int16", -1, "share of a block's sites in each state, stored as their number",
        _counts, "state", scaled=True, of_states=True,
    ),
}  # fmt: skip


class Means(Operator):
    """The mean over each block; A A^T = b^-d."""

    def filter(self, side: int) -> NDArray[np.complex128]:
        angles = 2.0 * np.pi * np.fft.fftfreq(side)
        phases = np.exp(1j * np.outer(angles, np.arange(self.factor)))
        return np.asarray(phases.mean(axis=1))

    def apply(self, x: Array) -> Array:
        d = len(self.shape)
        return np.asarray(block_totals(x, self.factor, d) / self.factor**d)

    def adjoint(self, y: Array) -> Array:
        x: Array = y / self.factor ** len(self.shape)
        for axis in range(-len(self.shape), 0):
            x = np.repeat(x, self.factor, axis=axis)
        return x


class BlockMean(Rule):
    """Of spins int16 sums, (n, *sides / factor); of states int16 counts (n, q, *sides / factor)."""

    name = "block_mean"
    stores = {"spins": "block_sum", "states": "state_count", "field": "field"}  # noqa: RUF012
    exact = True
    suffix = "coarse"
    shown = 1  # what block means say is the easiest to learn

    def scale(self, kind: str, factor: int, dimension: int) -> float:
        if kind == "field":
            return 1.0
        if factor**dimension > _MOST_SITES:
            largest = int(_MOST_SITES ** (1.0 / dimension))
            raise BadInput("factor", factor, f"at most {largest} for block means")
        return 1.0 / float(factor**dimension)

    def reduce(
        self, fine: NDArray[Any], factor: int, dimension: int, q: int, ties: TieBreak
    ) -> NDArray[Any]:
        if fine.dtype.kind == "f":
            return super().reduce(fine, factor, dimension, q, ties)
        return counted(fine, factor, dimension, q)

    def read(self, values: NDArray[Any], factor: int, dimension: int, where: str) -> NDArray[Any]:
        sites = factor**dimension
        sums = values.astype(np.float64) * (sites if values.dtype.kind == "f" else 1)
        whole = np.rint(sums)
        near = np.abs(sums - whole) < 1e-3
        valid = near & (np.abs(whole) <= sites) & ((whole - sites) % 2 == 0)
        if not valid.all():
            bad = values[~valid].flat[0]
            what = "mean (floating point)" if values.dtype.kind == "f" else "sum (integer)"
            raise StoreError(f"{where}: {bad} is no {what} over {sites} spins of -1 and +1")
        return whole.astype(np.int16)

    def operator(self, shape: tuple[int, ...], factor: int) -> Operator:
        return Means(shape, factor)

    def values(self, raw: NDArray[Any], seen: Operator, power: Array) -> Array:
        sites = seen.factor ** len(seen.shape) if raw.dtype.kind == "i" else 1
        return np.asarray(raw / float(sites))

    def condition(
        self,
        raw: NDArray[Any],
        shape: tuple[int, ...],
        factor: int,
        ties: NDArray[np.int8] | None,
        device: torch.device,
    ) -> Constraint:
        from skild_phys.rules.conditions import Blocks

        return Blocks(raw, factor)


def counted(fine: NDArray[Any], factor: int, dimension: int, q: int) -> NDArray[np.int16]:
    """Return the sums of spins over blocks; of states how many of a block's sites are in each."""
    if not q:
        return block_totals(fine, factor, dimension)
    each = [block_totals((fine == k).view(np.int8), factor, dimension) for k in range(q)]
    return np.stack(each, axis=1)
