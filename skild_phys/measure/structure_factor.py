"""The structure factor S(k), mode by mode and averaged over shells of |k|."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray


def structure_factor(field: NDArray[Any]) -> NDArray[np.float64]:
    """Return S(k) = |sum_x s(x) exp(-i k x)|^2 / (Ly Lx) of each lattice, k = 0 included.

    Parameters
    ----------
    field : (..., Ly, Lx) real array; transformed in float64.

    Returns
    -------
    (..., Ly, Lx // 2 + 1) float64 in the layout of rfft2: the mean over all modes is the mean
    of s^2, and S(0) is Ly Lx times the squared magnetization.
    """
    values = np.asarray(field, dtype=np.float64)
    modes = scipy.fft.rfft2(values)
    return np.asarray((modes.real**2 + modes.imag**2) / (values.shape[-2] * values.shape[-1]))


@dataclass(frozen=True)
class Shells:
    """Shells of width 2 pi / min(Ly, Lx) about |k| = 0, 1, 2 .. widths, in rfft2 layout.

    Attributes
    ----------
    k : (shells,) float64, the mean |k| of a shell's modes, in radians per site.
    modes : (shells,) int64, how many modes of the full (not halved) transform it holds.
    weight : (Ly * (Lx // 2 + 1),) float64, 1 or 2: a mode of the half stands for its mirror too.
    order, start : indices that sort the flat half by shell, and where each shell begins.
    """

    k: NDArray[np.float64]
    modes: NDArray[np.int64]
    weight: NDArray[np.float64]
    order: NDArray[np.int64]
    start: NDArray[np.int64]

    def average(self, power: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over each shell's modes, (..., Ly, Lx // 2 + 1) -> (..., shells)."""
        flat = power.reshape(*power.shape[:-2], -1) * self.weight
        return np.asarray(np.add.reduceat(flat[..., self.order], self.start, axis=-1) / self.modes)


def wave_numbers(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return |k| in radians per site for every mode of an rfft2, (Ly, Lx // 2 + 1) float64."""
    height, width = shape
    ky = 2 * np.pi * np.fft.fftfreq(height)
    kx = 2 * np.pi * np.fft.rfftfreq(width)
    return np.asarray(np.hypot(ky[:, None], kx[None, :]))


@lru_cache(maxsize=8)
def shells(shape: tuple[int, int]) -> Shells:
    """Return the shells of a (Ly, Lx) lattice; empty ones are left out."""
    width = shape[1]
    k = wave_numbers(shape)
    weight = np.full(k.shape, 2.0)
    weight[:, 0] = 1.0
    if width % 2 == 0:
        weight[:, -1] = 1.0
    index = np.floor(k.ravel() * min(shape) / (2 * np.pi) + 0.5).astype(np.int64)
    order = np.argsort(index, kind="stable")
    _, start = np.unique(index[order], return_index=True)
    flat = weight.ravel()
    modes = np.add.reduceat(flat[order], start)
    mean_k = np.add.reduceat((k.ravel() * flat)[order], start) / modes
    return Shells(mean_k, np.rint(modes).astype(np.int64), flat, order, start)


def smallest_modes(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of S over the two smallest wave vectors along the axes, (...,)."""
    return np.asarray((power[..., 1, 0] + power[..., 0, 1]) / 2)
