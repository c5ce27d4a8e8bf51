"""Data collapse: one function of (T - Tc) L^(1/nu) for the curves of all sizes, near Tc."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from skild_phys.measurement.scaling.curves import Curve
from skild_phys.measurement.scaling.exponents import Omega
from skild_phys.measurement.scaling.fits import Number, Quality, jackknife_error, over_sizes
from skild_phys.measurement.system import Array

_DEGREE = 4  # of the polynomial that the curves collapse on
_POINTS = 9  # of each size
_LEAST = 0.01  # variance of a mode of the residual, over the largest, below which it is left out
_GOOD = 0.1  # probability of chi^2 from which a window is narrow enough

WINDOWS = (1.0, 0.7, 0.5, 0.35)
"""Windows |T / Tc - 1| L^(1/nu) that are tried, the widest first, until the fit is good."""


@dataclass(frozen=True)
class Collapse:
    """What makes the curves of all sizes one function of (T - Tc) L^(1/nu), near Tc.

    Attributes
    ----------
    observable : name of the curves.
    temperature, nu, eta : of the best fit; eta for chi only.
    window : largest |T / Tc - 1| L^(1/nu) of the points.
    quality : chi^2 of the residual with its covariance over bins.
    omega : of a correction L^-omega to the function; None without one.
    """

    observable: str
    temperature: Number
    nu: Number
    eta: Number | None
    window: float
    quality: Quality
    omega: Number | None = None


def collapses_of(
    curves: Sequence[Curve],
    start: float,
    nu: float,
    window: float | None,
    omega: Omega,
) -> tuple[Collapse, ...]:
    """Return the collapses of U4, xi / L and chi; none if `start` is NaN.

    The window is the widest of `WINDOWS` whose chi^2 has a probability of `_GOOD`, or else the
    best of them, unless one is given; with a correction there is a second fit of each.
    """
    if not math.isfinite(start):
        return ()
    found = []
    for name in ("binder_cumulant", "xi_over_l", "log_susceptibility"):
        for correction in (None, omega) if omega is not None else (None,):
            tried = []
            for reach in WINDOWS if window is None else (window,):
                problem = _Problem.of(name, curves, start, nu, reach, correction)
                if problem is not None:
                    tried.append(problem.solved())
                if tried and tried[-1].quality.p >= _GOOD:
                    break
            if tried:
                good = tried[-1].quality.p >= _GOOD
                best = tried[-1] if good else max(tried, key=lambda c: c.quality.p)
                found.append(best)
    return tuple(found)


@dataclass(frozen=True)
class _Problem:
    """Points of every curve in a window; their errors are the weights of the fit."""

    name: str
    start: float
    nu: float
    reach: float
    omega: Omega
    t: Array
    side: Array
    values: list[Array]
    error: Array

    @classmethod
    def of(
        cls, name: str, curves: Sequence[Curve], start: float, nu: float, reach: float, omega: Omega
    ) -> _Problem | None:
        """Return the points that the data support; None where a curve has none in the window."""
        times, values = [], []
        for curve in curves:
            width = start * reach * curve.side ** (-1.0 / nu)
            low = max(curve.temperature[0], start - width)
            high = min(curve.temperature[-1], start + width)
            if not low < high:
                return None
            times.append(np.linspace(low, high, _POINTS))
            values.append(curve.spline(name)(times[-1]))
        side = np.repeat([float(c.side) for c in curves], _POINTS)
        error = np.maximum(np.concatenate([jackknife_error(v) for v in values]), 1e-300)
        return cls(name, start, nu, reach, omega, np.concatenate(times), side, values, error)

    def _residual(self, p: Array, y: Array) -> Array:
        """Return what is left of y after the best polynomial; p as in `solved`."""
        with_eta = self.name == "log_susceptibility"
        x = (self.t - self.start * (1.0 + p[0])) * self.side ** p[1]
        x = x / np.abs(x).max()
        shifted = y - (2.0 - p[2]) * np.log(self.side) if with_eta else y
        basis = np.polynomial.chebyshev.chebvander(x, _DEGREE)
        if with_eta:
            # The amplitude of chi is a function of T, whatever the size.
            basis = np.column_stack([basis, (self.t - self.start) / np.ptp(self.t)])
        if self.omega is not None:
            omega = p[-1] if isinstance(self.omega, str) else self.omega
            small = (self.side / self.side.min()) ** -omega
            basis = np.column_stack([basis, small, small * x])
        basis, shifted = basis / self.error[:, np.newaxis], shifted / self.error
        coefficients = np.linalg.lstsq(basis, shifted, rcond=None)[0]
        return np.asarray(basis @ coefficients - shifted)

    def solved(self) -> Collapse:
        """Fit Tc / start - 1, 1 / nu, for chi eta, and omega if it is free."""
        with_eta, free = self.name == "log_susceptibility", isinstance(self.omega, str)
        first = [0.0, 1.0 / self.nu, *([0.25] if with_eta else []), *([1.5] if free else [])]
        full = np.concatenate([v[0] for v in self.values])
        found = least_squares(self._residual, first, args=(full,), x_scale="jac")
        response, left = np.linalg.pinv(found.jac), self._residual(found.x, full)
        rows, spread = [], []
        for i, values in enumerate(self.values):
            at = slice(i * _POINTS, (i + 1) * _POINTS)
            of_size, moved = [found.x], []
            for row in values[1:]:
                y = full.copy()
                y[at] = row
                change = self._residual(found.x, y) - left
                of_size.append(found.x - response @ change)
                moved.append(change - found.jac @ (response @ change))
            rows.append(np.array(of_size))
            spread.append(np.array(moved))
        omega = None
        if self.omega is not None:
            omega = over_sizes([r[:, -1] for r in rows]) if free else Number(float(self.omega), 0.0)
        return Collapse(
            self.name,
            over_sizes([self.start * (1.0 + r[:, 0]) for r in rows]),
            over_sizes([1.0 / r[:, 1] for r in rows]),
            over_sizes([r[:, 2] for r in rows]) if with_eta else None,
            self.reach,
            _quality(left - found.jac @ (response @ left), spread),
            omega,
        )


def _quality(residual: Array, spread: Sequence[Array]) -> Quality:
    """Return chi^2 of a residual whose jackknife rows (bins, points) are known, a size each.

    Modes that hardly fluctuate are left out, and chi^2 is lowered by what a covariance from so
    many bins makes it too large by.
    """
    scaled = [(m - m.mean(axis=0)) * math.sqrt((len(m) - 1.0) / len(m)) for m in spread]
    moved = np.concatenate(scaled)
    size, vectors = np.linalg.eigh(moved.T @ moved)
    kept = size > _LEAST * size[-1]
    dof, bins = int(kept.sum()), len(moved) - len(spread)
    chi2 = float(((vectors[:, kept].T @ residual) ** 2 / size[kept]).sum())
    return Quality.of(chi2 * max(bins - dof - 1.0, 1.0) / bins, dof)
