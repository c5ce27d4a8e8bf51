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
            tried: list[Collapse] = []
            for reach in WINDOWS if window is None else (window,):
                tried += _collapse_of(name, curves, start, nu, reach, correction)
                if tried and tried[-1].quality.p >= _GOOD:
                    break
            if tried:
                good = tried[-1].quality.p >= _GOOD
                best = tried[-1] if good else max(tried, key=lambda c: c.quality.p)
                found.append(best)
    return tuple(found)


def _collapse_of(
    name: str, curves: Sequence[Curve], start: float, nu: float, reach: float, omega: Omega
) -> list[Collapse]:
    """Return the fit in one window, with the data's errors as weights; none without points."""
    times, values = [], []
    for curve in curves:
        width = start * reach * curve.side ** (-1.0 / nu)
        low = max(curve.temperature[0], start - width)
        high = min(curve.temperature[-1], start + width)
        if not low < high:
            return []
        times.append(np.linspace(low, high, _POINTS))
        values.append(curve.spline(name)(times[-1]))
    t, side = np.concatenate(times), np.repeat([float(c.side) for c in curves], _POINTS)
    error = np.maximum(np.concatenate([jackknife_error(v) for v in values]), 1e-300)
    with_eta, free = name == "log_susceptibility", isinstance(omega, str)

    def residual(p: Array, y: Array) -> Array:
        """Return what is left of y after the best polynomial; p as `first` below."""
        x = (t - start * (1.0 + p[0])) * side ** p[1]
        x = x / np.abs(x).max()
        shifted = y - (2.0 - p[2]) * np.log(side) if with_eta else y
        basis = np.polynomial.chebyshev.chebvander(x, _DEGREE)
        if with_eta:
            # The amplitude of chi is a function of T, whatever the size.
            basis = np.column_stack([basis, (t - start) / np.ptp(t)])
        if omega is not None:
            small = (side / side.min()) ** -(p[-1] if isinstance(omega, str) else omega)
            basis = np.column_stack([basis, small, small * x])
        basis, shifted = basis / error[:, np.newaxis], shifted / error
        coefficients = np.linalg.lstsq(basis, shifted, rcond=None)[0]
        return np.asarray(basis @ coefficients - shifted)

    # Tc / start - 1, 1 / nu, for chi eta, and omega if it is free.
    first = [0.0, 1.0 / nu, *([0.25] if with_eta else []), *([1.5] if free else [])]
    full = np.concatenate([v[0] for v in values])
    found = least_squares(residual, first, args=(full,), x_scale="jac")
    response, left = np.linalg.pinv(found.jac), residual(found.x, full)
    rows, spread = [], []
    for i, of_curve in enumerate(values):
        of_size, moved = [found.x], []
        for row in of_curve[1:]:
            y = full.copy()
            y[i * _POINTS : (i + 1) * _POINTS] = row
            change = residual(found.x, y) - left
            of_size.append(found.x - response @ change)
            moved.append(change - found.jac @ (response @ change))
        rows.append(np.array(of_size))
        spread.append(np.array(moved))
    correction = over_sizes([r[:, -1] for r in rows]) if free else None
    return [
        Collapse(
            name,
            over_sizes([start * (1.0 + r[:, 0]) for r in rows]),
            over_sizes([1.0 / r[:, 1] for r in rows]),
            over_sizes([r[:, 2] for r in rows]) if with_eta else None,
            reach,
            _quality(left - found.jac @ (response @ left), spread),
            correction if free or omega is None else Number(float(omega), 0.0),
        )
    ]


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
