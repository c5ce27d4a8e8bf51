"""Exponents from straight lines through logarithms, where U4 has one value for all sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2 as chi2_law

from skild_phys.errors import BadInput
from skild_phys.measurement.scaling.crossings import CROSSING
from skild_phys.measurement.scaling.curves import Curve, Number, jackknife_error, over_sizes
from skild_phys.measurement.shells import Array

COMBINED = "combined"


@dataclass(frozen=True)
class Exponent:
    """An exponent from a straight line through logarithms, ln y = a + b ln L.

    Attributes
    ----------
    name, source : `nu` or `eta`, and what it was read off.
    number : value and error.
    chi2, dof, p : of the line; NaN for two sizes, which always lie on one.
    """

    name: str
    source: str
    number: Number
    chi2: float
    dof: int
    p: float


def at_level_of(curve: Curve, level: float) -> dict[str, Array]:
    """Return logarithms, (1 + bins,), where U4 = level: of slopes, chi and S(k)."""
    rows = len(curve.values["binder_cumulant"])
    cumulant = curve.spline("binder_cumulant")
    low, high = curve.temperature[0], curve.temperature[-1]
    found: dict[str, list[float]] = {}
    for row in range(rows):

        def off(t: float, row: int = row) -> float:
            return float(cumulant(t)[row]) - level

        # A bin that is left out may move the end of a curve past the level: the spline goes on.
        room = 0.2 * (high - low)
        try:
            t = float(brentq(off, low - room, high + room))
        except ValueError:
            raise BadInput(
                "STORES", f"U4 of L = {curve.side}", "more samples, nearer to Tc"
            ) from None
        for name in CROSSING:
            slope = abs(float(curve.spline(name)(t, 1)[row]))
            found.setdefault(f"slope_{name}", []).append(math.log(slope))
        for name in curve.values:
            if name.startswith("log_"):
                found.setdefault(name, []).append(float(curve.spline(name)(t)[row]))
    return {name: np.array(values) for name, values in found.items()}


@dataclass(frozen=True)
class _Line:
    """The slope b of y = a + b ln L, for the values of all samples and of each size's bins."""

    slope: list[Array]
    chi2: float
    dof: int


def _line(sides: Array, values: Sequence[Array]) -> _Line:
    """Fit a line by weighted least squares; the weights are those of all samples throughout."""
    x = np.log(sides)
    error = np.array([float(jackknife_error(v)) for v in values])
    weight = 1.0 / np.maximum(error, 1e-300) ** 2
    centre = (weight * x).sum() / weight.sum()
    scale = weight * (x - centre) / (weight * (x - centre) ** 2).sum()
    full = np.array([v[0] for v in values])
    slopes = []
    for i, v in enumerate(values):
        slopes.append((scale * full).sum() + scale[i] * (v - v[0]))
    slope = float(slopes[0][0])
    intercept = (weight * (full - slope * x)).sum() / weight.sum()
    chi2 = float((weight * (full - intercept - slope * x) ** 2).sum())
    return _Line(slopes, chi2, len(sides) - 2)


_TURNED: dict[str, Callable[[Array], Array]] = {"nu": lambda b: 1.0 / b, "eta": lambda b: 2.0 - b}
"""Exponent -> what it is of the slope of a line."""


def exponents_of(
    curves: Sequence[Curve], at_level: Sequence[dict[str, Array]], lowest: int
) -> tuple[Exponent, ...]:
    """Return each exponent by every line, combined, and combined without the smallest sizes."""
    sides = np.array([float(curve.side) for curve in curves])
    sources = {
        "nu": {"slope of U4": "slope_binder_cumulant", "slope of xi/L": "slope_xi_over_l"},
        "eta": {"chi": "log_susceptibility"}
        | {f"S(k = {2 * j} pi/L)": f"log_power_{j}" for j in range(1, lowest + 1)},
    }
    found = []
    for name, of in sources.items():
        for first in range(len(curves) - 1):
            lines = {
                source: _line(sides[first:], [values[key] for values in at_level[first:]])
                for source, key in of.items()
            }
            numbers = [[_TURNED[name](b) for b in line.slope] for line in lines.values()]
            if not first:
                for (source, line), values in zip(lines.items(), numbers):
                    p = float(chi2_law.sf(line.chi2, line.dof)) if line.dof else math.nan
                    chi2 = line.chi2 if line.dof else math.nan
                    number = over_sizes(values)
                    found.append(Exponent(name, source, number, chi2, line.dof, p))
            source = COMBINED + (f", L >= {sides[first]:.0f}" if first else "")
            found.append(Exponent(name, source, _combined(numbers), math.nan, 0, math.nan))
    return tuple(found)


def _combined(numbers: Sequence[Sequence[Array]]) -> Number:
    """Return the mean of several estimates by size and bin, weighted by their covariance.

    Weights below 0, which estimates that are nearly the same would get, are left out.
    """
    sizes = [np.stack(of_size) for of_size in zip(*numbers)]  # (estimates, 1 + bins) of a size
    covariance = np.zeros((len(numbers), len(numbers)))
    for values in sizes:
        moved = values[:, 1:] - values[:, 1:].mean(axis=1, keepdims=True)
        bins = moved.shape[1]
        covariance += (bins - 1.0) / bins * (moved @ moved.T)
    kept = np.arange(len(numbers))
    while True:
        inverse = np.linalg.pinv(covariance[np.ix_(kept, kept)])
        weight = inverse.sum(axis=1) / inverse.sum()
        if (weight >= 0).all():
            break
        kept = np.delete(kept, weight.argmin())
    return over_sizes([np.asarray(weight @ values[kept]) for values in sizes])
