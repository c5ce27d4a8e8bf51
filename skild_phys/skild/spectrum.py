"""The power spectrum P(kappa) = E|X - E X|^2 of a mode, as a function of the wave number alone.

Modes are those of the orthonormal DFT, kappa = |k| in radians per site. As a function of kappa
one table serves every lattice size: below its first knot P goes on as the power law of the
lowest knots, and the zero mode of a lattice of side L takes the value at kappa = zero_scale / L
(at a critical point both chi and P(2 pi / L) grow with the same power of L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float64]


def wave_numbers(shape: tuple[int, int]) -> Array:
    """Return kappa = |k| of every rfft2 mode of a (Ly, Lx) torus, shape (Ly, Lx // 2 + 1)."""
    ky = 2.0 * np.pi * np.fft.fftfreq(shape[0])
    kx = 2.0 * np.pi * np.fft.rfftfreq(shape[1])
    kappa: Array = np.hypot(ky[:, None], kx[None, :])
    return kappa


@dataclass(frozen=True)
class Spectrum:
    """P(kappa) by linear interpolation of log P in log kappa.

    Attributes
    ----------
    kappa : (m,) knots in radians per site, increasing.
    power : (m,) P at the knots, in units of the field squared.
    zero_scale : the zero mode of side L has the power of kappa = zero_scale / L.
    """

    kappa: tuple[float, ...]
    power: tuple[float, ...]
    zero_scale: float

    def __call__(self, kappa: Array) -> Array:
        """Return P at `kappa` > 0, in float64; constant above the last knot."""
        log_kappa, log_power = np.log(self.kappa), np.log(self.power)
        tail = min(6, len(self.kappa) - 1)
        slope = (log_power[tail] - log_power[0]) / (log_kappa[tail] - log_kappa[0])
        x = np.log(np.asarray(kappa, dtype=np.float64))
        below = log_power[0] + slope * (x - log_kappa[0])
        log_p = np.where(x < log_kappa[0], below, np.interp(x, log_kappa, log_power))
        return np.asarray(np.exp(log_p), dtype=np.float64)

    def variances(self, shape: tuple[int, int]) -> Array:
        """Return P of every rfft2 mode of a (Ly, Lx) torus, shape (Ly, Lx // 2 + 1)."""
        kappa = wave_numbers(shape)
        kappa[0, 0] = self.zero_scale / math.sqrt(shape[0] * shape[1])
        return self(kappa)


def mode_power(fields: NDArray[np.generic]) -> Array:
    """Return the mean |X|^2 of every rfft2 mode of fields (n, Ly, Lx); E X = 0 by symmetry."""
    modes = np.fft.rfft2(np.asarray(fields, dtype=np.float64), norm="ortho")
    return np.asarray(np.mean(np.abs(modes) ** 2, axis=0))


def fit_spectrum(
    power: Array, shape: tuple[int, int], knots: int = 48, smooth: float = 0.7, floor: float = 1e-4
) -> Spectrum:
    """Smooth measured mode powers into a `Spectrum`.

    Parameters
    ----------
    power : (Ly, Lx // 2 + 1) measured E|X|^2 (`mode_power`).
    shape : (Ly, Lx) of the lattices measured.
    knots : number of bins, uniform in log kappa; bins without a mode are dropped.
    smooth : width, in bins, of the Gaussian that smooths log P against its power-law trend.
    floor : lowest P kept, as a fraction of the mean over all modes.
    """
    kappa = wave_numbers(shape).ravel()
    values = np.maximum(power.ravel(), floor * power.mean())
    inside = kappa > 0
    edges = np.geomspace(kappa[inside].min() * 0.999, kappa.max() * 1.001, knots + 1)
    which = np.digitize(kappa[inside], edges) - 1
    count = np.bincount(which, minlength=knots)
    filled = count > 0
    log_kappa = np.bincount(which, np.log(kappa[inside]), knots)[filled] / count[filled]
    log_power = np.log(np.bincount(which, values[inside], knots)[filled] / count[filled])
    trend = np.polynomial.Polynomial.fit(log_kappa, log_power, 3)(log_kappa)
    log_power = trend + gaussian_filter1d(log_power - trend, smooth, mode="nearest")
    table = Spectrum(tuple(np.exp(log_kappa)), tuple(np.exp(log_power)), 1.0)
    grid = np.geomspace(1e-4, float(np.exp(log_kappa[0])), 4000)
    zero = float(grid[np.argmin(np.abs(table(grid) - power.flat[0]))])
    return Spectrum(table.kappa, table.power, zero * math.sqrt(shape[0] * shape[1]))
