"""Data collapse: one function of (T - Tc) L^(1/nu) for the curves of all sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from skild_phys.measurement.scaling.crossings import Crossing, best_crossing
from skild_phys.measurement.scaling.curves import Curve, Number, jackknife_error, over_sizes
from skild_phys.measurement.shells import Array

_DEGREE = 4  # of the polynomial that the curves collapse on
_COLLAPSE_POINTS = 9  # of each size
_REACH = 1.2  # largest |x| of a collapse, in units of the shortest curve's


@dataclass(frozen=True)
class Collapse:
    """What makes the curves of all sizes one function of (T - Tc) L^(1/nu); eta for chi only."""

    observable: str
    temperature: Number
    nu: Number
    eta: Number | None


def collapses_of(curves: Sequence[Curve], crossings: Sequence[Crossing]) -> tuple[Collapse, ...]:
    """Return the collapses of U4, xi / L and chi; none where no curves cross."""
    start = best_crossing(crossings).value
    if not math.isfinite(start):
        return ()
    return tuple(
        _collapse(name, curves, start)
        for name in ("binder_cumulant", "xi_over_l", "log_susceptibility")
    )


def _collapse(name: str, curves: Sequence[Curve], start: float) -> Collapse:
    """Fit Tc, nu, and for chi eta, so that the curves are one polynomial in (T - Tc) L^(1/nu)."""
    with_eta = name == "log_susceptibility"
    sides = np.array([float(c.side) for c in curves])
    # Each curve is used to where the shortest of them ends, seen from the crossing.
    reach = _REACH * min(
        float(np.abs(c.temperature[[0, -1]] - start).min()) * c.side for c in curves
    )
    points = [
        np.linspace(
            max(c.temperature[0], start - reach / c.side),
            min(c.temperature[-1], start + reach / c.side),
            _COLLAPSE_POINTS,
        )
        for c in curves
    ]
    values = [c.spline(name)(t) for c, t in zip(curves, points)]
    error = np.concatenate([jackknife_error(v) for v in values])
    t = np.concatenate(points)
    side = np.repeat(sides, _COLLAPSE_POINTS)

    def residual(p: Array, y: Array) -> Array:
        x = (t - start * (1.0 + p[0])) * side ** p[1]
        x = x / np.abs(x).max()
        shifted = y - (2.0 - p[2]) * np.log(side) if with_eta else y
        basis = np.polynomial.chebyshev.chebvander(x, _DEGREE)
        if with_eta:
            # The amplitude of chi is a function of T, whatever the size.
            basis = np.column_stack([basis, (t - start) / np.ptp(t)])
        basis /= error[:, np.newaxis]
        coefficients = np.linalg.lstsq(basis, shifted / error, rcond=None)[0]
        return np.asarray(basis @ coefficients - shifted / error)

    def fit(y: Array, first: Array) -> Array:
        return np.asarray(least_squares(residual, first, args=(y,), x_scale="jac").x)

    full = np.concatenate([v[0] for v in values])
    best = fit(full, np.array([0.0, 1.0, 0.25] if with_eta else [0.0, 1.0]))
    found = []
    for i, v in enumerate(values):
        of_size = [best]
        for row in v[1:]:
            y = full.copy()
            y[i * _COLLAPSE_POINTS : (i + 1) * _COLLAPSE_POINTS] = row
            of_size.append(fit(y, best))
        found.append(np.array(of_size))
    temperature = over_sizes([start * (1.0 + p[:, 0]) for p in found])
    nu = over_sizes([1.0 / p[:, 1] for p in found])
    eta = over_sizes([p[:, 2] for p in found]) if with_eta else None
    return Collapse(name, temperature, nu, eta)
