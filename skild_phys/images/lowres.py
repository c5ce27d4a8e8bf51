"""Low-resolution images A x = R x C^T, and what an image must be given one.

R and C act along the two axes: averages over the area of each coarse pixel, or the bicubic kernel
stretched over it (antialiasing), both for any two sizes. They are matrices in the DCT-II too, so a
fine image is moved onto A x = y in the metric Sigma of its modes by a few conjugate gradients:
x + Sigma A^T (A Sigma A^T)^-1 (y - A x), the correction that lattices get.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.skild.spectrum import cosines

Array = NDArray[np.float64]

TOLERANCE, MOST = 1e-9, 60
"""Of conjugate gradients: the residual's norm over that of y, in the metric of the preconditioner,
and how many steps at most."""


def _area(distance: Array, scale: float) -> Array:
    """Return the share of each fine pixel that lies in a coarse one, by centres' distance."""
    return ((0.5 * (scale + 1.0) - np.abs(distance)).clip(0.0, 1.0)).clip(max=min(scale, 1.0))


def _bicubic(distance: Array, scale: float) -> Array:
    """Return Keys' cubic with a = -1/2, stretched by `scale`."""
    x = np.abs(distance) / scale
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


RULES: dict[str, Callable[[Array, float], Array]] = {"area": _area, "bicubic": _bicubic}


def resampling(rule: str, fine: int, coarse: int) -> Array:
    """Return the matrix (coarse, fine) float64 of `rule` along one axis; its rows sum to 1.

    Beyond the edges there is nothing: weights there are left out, as Pillow does.
    """
    scale = fine / coarse
    centres = (np.arange(coarse) + 0.5) * scale - 0.5
    distance = np.asarray(centres[:, None] - np.arange(fine), dtype=np.float64)
    weights = RULES[rule](distance, max(scale, 1.0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def enlarged(rule: str, images: Array, shape: tuple[int, int]) -> Array:
    """Return images (..., ly, lx) resampled to the larger `shape` by the kernel of `rule`."""
    rows, columns = (
        resampling(rule, coarse, fine)
        for coarse, fine in zip(images.shape[-2:], shape, strict=True)
    )
    return np.asarray(rows @ images @ columns.T)


def _check_factor(factor: float) -> None:
    if not 1.0 < factor <= 64.0:
        raise BadInput("factor", factor, "a number above 1, up to 64")


def fine_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return the sides that are `factor` times those of `shape`, to the nearest whole number."""
    _check_factor(factor)
    return round(shape[0] * factor), round(shape[1] * factor)


def coarse_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return the sides that are `factor` times smaller than those of `shape`; raises BadInput."""
    _check_factor(factor)
    sides = round(shape[0] / factor), round(shape[1] / factor)
    if min(sides) < 2:
        raise BadInput("factor", factor, f"one that leaves sides of 2 or more of {shape}")
    return sides


class LowResolution:
    """The operator A from images of `fine` sides to `coarse` ones, and the correction by it.

    Parameters
    ----------
    rule : of RULES.
    fine, coarse : (Ly, Lx) and (ly, lx).
    """

    def __init__(self, rule: str, fine: tuple[int, int], coarse: tuple[int, int]) -> None:
        if rule not in RULES:
            raise BadInput("rule", rule, " or ".join(RULES))
        self.rule, self.fine, self.coarse = rule, fine, coarse
        self._rows, self._columns = (resampling(rule, *sides) for sides in zip(fine, coarse))
        self._fine = [cosines(side).numpy() for side in fine]
        self._coarse = [cosines(side).numpy() for side in coarse]
        self._y, self._x = self._rows @ self._fine[0].T, self._columns @ self._fine[1].T
        self._y2, self._x2 = (self._coarse[0] @ self._y) ** 2, (self._coarse[1] @ self._x) ** 2

    def apply(self, images: Array) -> Array:
        """Return A x for images (..., Ly, Lx)."""
        return np.asarray(self._rows @ images @ self._columns.T)

    def correct(self, images: Array, low: Array, sigma: Array) -> Array:
        """Return images (..., Ly, Lx) moved onto A x = `low` (..., ly, lx).

        Parameters
        ----------
        sigma : (Ly, Lx), how uncertain each mode of the DCT-II is, or of each channel
            (channels, Ly, Lx).

        A x is `low` to TOLERANCE.
        """

        def seen(z: Array) -> Array:
            return np.asarray(self._y @ (sigma * (self._y.T @ z @ self._x)) @ self._x.T)

        diagonal = self._y2 @ sigma @ self._x2.T
        # What nothing uncertain is seen by stays: the mean, where it is never erased (cutoff 0).
        open_ = diagonal > 1e-12 * diagonal.max((-2, -1), keepdims=True)
        inverse = np.where(open_, 1.0 / np.where(open_, diagonal, 1.0), 0.0)
        gy, gx = self._coarse

        def preconditioned(r: Array) -> Array:
            return np.asarray(gy.T @ (inverse * (gy @ r @ gx.T)) @ gx)

        def dot(a: Array, b: Array) -> Array:
            return np.asarray((a * b).sum((-2, -1), keepdims=True))

        missing = low - self.apply(images)
        z, direction = np.zeros_like(missing), preconditioned(missing)
        gain = dot(missing, direction)
        least = TOLERANCE**2 * dot(low, preconditioned(low))
        for _ in range(MOST):
            going = gain > least
            if not going.any():
                break
            image = seen(direction)
            # An image that is there stays: what would move it is rounding.
            step = np.where(going, gain / np.where(going, dot(direction, image), 1.0), 0.0)
            z, missing = z + step * direction, missing - step * image
            towards = preconditioned(missing)
            before, gain = gain, np.where(going, dot(missing, towards), 0.0)
            direction = towards + gain / np.where(going, before, 1.0) * direction
        modes = sigma * (self._y.T @ z @ self._x)
        return np.asarray(images + self._fine[0].T @ modes @ self._fine[1])
