"""Linear coarse-graining operators A of real fields on a torus of any dimension.

"Filter, then keep every b-th site": in the orthonormal DFT y(K) = b^(-d/2) sum over k = K mod
(sides / b) of h(k) x(k), a sum over the alias set of K with a transfer function h, a product over
the axes. Hence A Sigma A^T is diagonal in K for every Sigma that is diagonal in k, and no solver is
needed.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, check_whole

Array = NDArray[np.float64]


class Operator(ABC):
    """A linear coarse-graining A; float64 in, float64 out.

    Fields have any leading dimensions (samples, components). A constant field keeps its value.

    Parameters
    ----------
    shape : sides of the fine fields, (Ly, Lx) or (Lz, Ly, Lx), each a multiple of `factor`.
    factor : side b of a block.

    Attributes
    ----------
    coarse : sides of the coarse fields.
    transfer : (.., Ly, Lx // 2 + 1) complex, h(k) of the module's docstring (rfftn layout).
    """

    def __init__(self, shape: tuple[int, ...], factor: int) -> None:
        self.coarse = coarse_shape(shape, factor)
        self.shape, self.factor = shape, int(factor)
        self._axes = tuple(range(-len(shape), 0))
        each = [self.filter(side) for side in shape]
        each[-1] = each[-1][: shape[-1] // 2 + 1]
        self.transfer = functools.reduce(np.multiply.outer, each)

    @abstractmethod
    def filter(self, side: int) -> NDArray[np.complex128]:
        """Return h along one axis, in FFT order."""

    def _filtered(self, fields: Array, transfer: NDArray[np.complex128]) -> Array:
        modes = np.fft.rfftn(fields, axes=self._axes) * transfer
        return np.fft.irfftn(modes, s=self.shape, axes=self._axes)

    def apply(self, x: Array) -> Array:
        """Return A x, (..., *coarse), of `x` (..., *shape)."""
        return corners(self._filtered(x, self.transfer), self.factor, len(self.shape))

    def adjoint(self, y: Array) -> Array:
        """Return A^T y, (..., *shape), of `y` (..., *coarse)."""
        return self._filtered(self.spread(y), self.transfer.conj())

    def spread(self, y: Array) -> Array:
        """Return `y` at the site (0, 0) of each block, and 0 elsewhere."""
        x = np.zeros((*y.shape[: -len(self.shape)], *self.shape))
        index: Any = (..., *[slice(None, None, self.factor)] * len(self.shape))
        x[index] = y
        return x

    def _tiled(self, modes: NDArray[Any]) -> NDArray[Any]:
        """Return modes (..., *coarse) at every fine mode of their alias sets, in rfftn layout."""
        columns = np.arange(self.transfer.shape[-1]) % self.coarse[-1]
        copies = [1] * (modes.ndim - len(self.shape)) + [self.factor] * (len(self.shape) - 1)
        return np.tile(modes[..., columns], [*copies, 1])

    def correction_weights(self, sigma: Array) -> NDArray[np.complex128]:
        """Return W(k) = Sigma(k) conj(h(k)) b^(d/2) / sum over the alias set of |h|^2 Sigma.

        `correct` adds W(k) times the orthonormal DFT of y - A x at k modulo the coarse sides. Zero
        where an alias set has no variance: there nothing may move.
        """
        b, d = self.factor, len(self.shape)
        scaled = np.asarray(sigma, dtype=np.float64) / max(float(np.max(sigma)), 1e-300)
        seen = np.abs(self.transfer) ** 2 * scaled
        mirror = np.arange(1, (self.shape[-1] + 1) // 2)[::-1]
        opposite = [-np.arange(side) % side for side in self.shape[:-1]]
        whole = np.concatenate([seen, seen[np.ix_(*opposite, mirror)]], axis=-1)
        split = [part for side in self.coarse for part in (b, side)]
        total = whole.reshape(split).sum(axis=tuple(range(0, 2 * d, 2)))
        unit = math.sqrt(float(b**d))
        inverse = np.divide(unit, total, out=np.zeros_like(total), where=total > 1e-200)
        weights: NDArray[np.complex128] = scaled * self.transfer.conj() * self._tiled(inverse)
        return weights

    def correct(self, x: Array, y: Array, sigma: Array) -> Array:
        """Return x + Sigma A^T (A Sigma A^T)^-1 (y - A x): the mean of N(x, Sigma) given A x = y.

        Parameters
        ----------
        x : (..., *shape) fields; y : (..., *coarse) their coarse values.
        sigma : (.., Ly, Lx // 2 + 1) variances >= 0 of the rfftn modes, equal for k and -k.

        Returns
        -------
        (..., *shape), with A of it equal to `y` to rounding wherever `sigma` lets it be.
        """
        missing = np.fft.fftn(y - self.apply(x), axes=self._axes, norm="ortho")
        modes = self.correction_weights(sigma) * self._tiled(missing)
        return x + np.fft.irfftn(modes, s=self.shape, axes=self._axes, norm="ortho")


def to_blocks(values: Any, factor: int, dimension: int) -> Any:
    """Return (..., *shape) as (..., blocks, sites of a block), of an array or a tensor."""
    front, sides = values.shape[: -dimension or None], values.shape[-dimension:]
    split = [n for side in sides for n in (side // factor, factor)]
    k, d = len(front), dimension
    order = [*range(k), *range(k, k + 2 * d, 2), *range(k + 1, k + 2 * d, 2)]
    return _axes(values.reshape([*front, *split]), order).reshape([*front, -1, factor**d])


def from_blocks(rows: Any, shape: tuple[int, ...], factor: int) -> Any:
    """Return (..., blocks, sites) as (..., *shape): what `to_blocks` undoes."""
    front, k, d = rows.shape[:-2], rows.ndim - 2, len(shape)
    whole = rows.reshape([*front, *(side // factor for side in shape), *[factor] * d])
    order = [*range(k), *(axis for i in range(k, k + d) for axis in (i, i + d))]
    return _axes(whole, order).reshape([*front, *shape])


def _axes(values: Any, order: list[int]) -> Any:
    return values.permute(order) if hasattr(values, "permute") else values.transpose(order)


def corners(lattices: NDArray[Any], factor: int, dimension: int) -> NDArray[Any]:
    """Return the site (0, 0) of every block, a copy."""
    index: Any = (..., *[slice(None, None, factor)] * dimension)
    return np.ascontiguousarray(lattices[index])


def block_totals(values: NDArray[Any], factor: int, dimension: int) -> NDArray[Any]:
    """Return totals over blocks of the last axes: float64 of real numbers, int16 of int8.

    Adding strided slices is many times faster than a sum over several axes.
    """
    totals, sites = values, 1
    for axis in range(-dimension, 0):
        sites *= factor
        dtype = np.float64 if values.dtype.kind == "f" else np.int8 if sites < 128 else np.int16
        first, *rest = (_every(totals, axis, i, factor) for i in range(factor))
        totals = first.astype(dtype)
        for part in rest:
            totals += part
    return totals if values.dtype.kind == "f" else totals.astype(np.int16, copy=False)


def _every(values: NDArray[Any], axis: int, start: int, step: int) -> NDArray[Any]:
    index: Any = (..., slice(start, None, step), *[slice(None)] * (-1 - axis))
    part: NDArray[Any] = values[index]
    return part


def check_factor(factor: Any) -> int:
    """Return `factor` as an int; raises BadInput unless it is a whole number from 2 on."""
    return check_whole("factor", factor, 2)


def coarse_shape(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the sides / factor; raises BadInput unless `factor` >= 2 divides each of them."""
    factor = check_factor(factor)
    if any(side == 0 or side % factor for side in shape):
        sides = "both sides" if len(shape) == 2 else "all sides"
        raise BadInput("factor", factor, f"a divisor of {sides} of {' x '.join(map(str, shape))}")
    return tuple(side // factor for side in shape)
