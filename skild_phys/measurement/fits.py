"""Fits to curves of several sizes: exponents from straight lines, and data collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import exprel
from scipy.stats import chi2 as chi2_distribution

from skild_phys.measurement.curves import Curve, jackknife_error
from skild_phys.measurement.system import Array

WINDOWS = (1.0, 0.7, 0.5, 0.35)
"""Windows |T / Tc - 1| L^(1/nu) that are tried, the widest first, until the fit is good."""

COMBINED = "combined"
_DEGREE = 4  # of the polynomial that the curves collapse on
_POINTS = 9  # of each size in a collapse
_LEAST = 0.01  # variance of a mode of the residual, over the largest, below which it is left out
_GOOD = 0.1  # probability of chi^2 from which a window is narrow enough

Omega = float | str | None
"""Exponent of the correction L^-omega: a number, `fit`, or None for no correction."""


@dataclass(frozen=True)
class Number:
    """A value with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[Array]) -> Number:
        """Return a function of several sizes from its values (1 + bins,), each jackknifed."""
        total = sum(float(jackknife_error(v)) ** 2 for v in values)
        return cls(float(values[0][0]), math.sqrt(total))


@dataclass(frozen=True)
class Quality:
    """chi^2 of a fit, its degrees of freedom, and the probability of more; NaN without any."""

    chi2: float
    dof: int
    p: float

    @classmethod
    def of(cls, chi2: float, dof: int) -> Quality:
        """Return the quality of a fit with `dof` degrees of freedom."""
        if dof < 1:
            return cls(math.nan, 0, math.nan)
        return cls(chi2, dof, float(chi2_distribution.sf(chi2, dof)))


@dataclass(frozen=True)
class Exponent:
    """An exponent from a straight line through logarithms, ln y = a + b ln L (+ c L^-omega).

    `name` is `nu`, `eta`, `beta/nu`, `gamma/nu` or `alpha/nu`, `source` what it was read off;
    `omega` has the error 0 where it was given, and is None without a correction.
    """

    name: str
    source: str
    number: Number
    quality: Quality
    omega: Number | None = None


@dataclass(frozen=True)
class Collapse:
    """What makes the curves of all sizes one function of (T - Tc) L^(1/nu), near Tc.

    `eta` is of chi only, `window` the largest |T / Tc - 1| L^(1/nu) of the points, `omega` of a
    correction L^-omega to the function.
    """

    observable: str
    temperature: Number
    nu: Number
    eta: Number | None
    window: float
    quality: Quality
    omega: Number | None = None


@dataclass(frozen=True)
class _Fit:
    """Parameters of a fit: for each size (1 + bins, parameters), that size jackknifed."""

    parameters: list[Array]
    quality: Quality

    def number(self, i: int, of: Callable[[Array], Array] = np.asarray) -> Number:
        """Return a function of parameter `i` with its error."""
        return Number.of([of(rows[:, i]) for rows in self.parameters])


def _fit(
    function: Callable[[Array, Array], Array],
    start: Sequence[float],
    sides: Array,
    values: Sequence[Array],
) -> _Fit:
    """Fit a function (parameters, sides) to values (1 + bins,) of each size.

    Sizes are independent. Bins move the parameters to first order in what they move the values.
    """
    error = np.maximum([float(jackknife_error(v)) for v in values], 1e-300)
    full = np.array([v[0] for v in values])
    found = least_squares(
        lambda p: (function(p, sides) - full) / error, np.array(start), x_scale="jac"
    )
    response = np.linalg.pinv(found.jac) / error
    rows = [found.x + np.outer(v - v[0], response[:, i]) for i, v in enumerate(values)]
    return _Fit(rows, Quality.of(float(2.0 * found.cost), len(sides) - len(start)))


def _line(p: Array, sides: Array) -> Array:
    return np.asarray(p[0] + p[1] * np.log(sides))


_OF_SLOPE: dict[str, Callable[[Array], Array]] = {
    "nu": lambda b: 1.0 / b,
    "eta": lambda b: 2.0 - b,
    "beta/nu": lambda b: -b,
    "gamma/nu": np.asarray,
}
"""Exponent -> what it is of the slope of a line."""


def exponents_of(
    curves: Sequence[Curve], at_level: Sequence[dict[str, Array]], lowest: int, omega: Omega
) -> tuple[Exponent, ...]:
    """Return each exponent by every line, combined, and combined without the smallest sizes."""
    sides = np.array([float(curve.side) for curve in curves])
    sources = {
        "nu": {"slope of U4": "slope_binder_cumulant", "slope of xi/L": "slope_xi_over_l"},
        "eta": {"chi": "log_susceptibility"}
        | {f"S(k = {2 * j} pi/L)": f"log_power_{j}" for j in range(1, lowest + 1)},
        "beta/nu": {"|m|": "log_abs_magnetization"},
        "gamma/nu": {"chi": "log_susceptibility", "chi connected": "log_connected_susceptibility"},
    }
    found = []
    for name, of in sources.items():
        lines = {s: [values[key] for values in at_level] for s, key in of.items()}
        if len(lines) > 1:
            lines[COMBINED] = _combined(sides, [*lines.values()])
        source, values = [*lines.items()][-1]
        kept = [(label, 0, line) for label, line in lines.items()]
        kept += [(f"{source}, L >= {sides[i]:.0f}", i, values) for i in range(1, len(curves) - 1)]
        for label, first, line in kept:
            fit = _fit(_line, (0.0, 1.0), sides[first:], line[first:])
            found.append(Exponent(name, label, fit.number(1, _OF_SLOPE[name]), fit.quality))
        if omega is not None:
            found.append(_corrected(name, source, sides, values, omega))
    return (*found, *_heat(sides, [values["specific_heat"] for values in at_level]))


def _corrected(
    name: str, source: str, sides: Array, values: Sequence[Array], omega: float | str
) -> Exponent:
    """Return an exponent from a line with the correction c L^-omega."""
    plain = _fit(_line, (0.0, 1.0), sides, values).parameters[0][0]
    free = isinstance(omega, str)

    def corrected(p: Array, sides: Array) -> Array:
        power = p[3] if isinstance(omega, str) else omega
        return np.asarray(_line(p, sides) + p[2] * sides**-power)

    fit = _fit(corrected, (*plain, *((0.1, 1.5) if free else (0.0,))), sides, values)
    found = fit.number(3) if free else Number(float(omega), 0.0)
    label = f"{source}, with L^-omega"
    return Exponent(name, label, fit.number(1, _OF_SLOPE[name]), fit.quality, found)


def _heat(sides: Array, values: Sequence[Array]) -> list[Exponent]:
    """Return alpha / nu from C = a + b (L^x - 1) / x, and from its limit x = 0, C = a + b ln L."""
    if len(sides) < 3:
        return []
    logarithm = _fit(_line, (0.0, 1.0), sides, values)

    def power(p: Array, sides: Array) -> Array:
        return np.asarray(p[0] + p[1] * np.log(sides) * exprel(p[2] * np.log(sides)))

    free = _fit(power, (*logarithm.parameters[0][0], 0.0), sides, values)
    return [
        Exponent("alpha/nu", "C = a + b L^(alpha/nu)", free.number(2), free.quality),
        Exponent("alpha/nu", "C = a + b ln L", Number(0.0, 0.0), logarithm.quality),
    ]


def _combined(sides: Array, lines: Sequence[Sequence[Array]]) -> list[Array]:
    """Return one line of several, weighted by the covariance of their slopes.

    Weights below 0, which lines that are nearly the same would get, are left out.
    """
    slopes = [[r[:, 1] for r in _fit(_line, (0.0, 1.0), sides, line).parameters] for line in lines]
    covariance = np.zeros((len(lines), len(lines)))
    for of_size in zip(*slopes):
        values = np.stack(of_size)
        moved = values[:, 1:] - values[:, 1:].mean(axis=1, keepdims=True)
        bins = moved.shape[1]
        covariance += (bins - 1.0) / bins * (moved @ moved.T)
    kept = list(range(len(lines)))
    while True:
        inverse = np.linalg.pinv(covariance[np.ix_(kept, kept)])
        weight = inverse.sum(axis=1) / inverse.sum()
        if (weight >= 0).all():
            break
        del kept[int(weight.argmin())]
    return [np.asarray(weight @ np.stack([lines[k][i] for k in kept])) for i in range(len(sides))]


def collapses_of(
    curves: Sequence[Curve],
    start: float,
    exponents: Sequence[Exponent],
    window: float | None,
    omega: Omega,
) -> tuple[Collapse, ...]:
    """Return the collapses of U4, xi / L and chi, which begin at Tc = `start`.

    The window is the widest of `WINDOWS` whose chi^2 has a probability of `_GOOD`, or else the
    best of them, unless one is given; with a correction there is a second fit of each.
    """
    nu = next(e.number.value for e in exponents if (e.name, e.source) == ("nu", COMBINED))
    nu = nu if math.isfinite(nu) and nu > 0 else 1.0
    found = []
    for name in ("binder_cumulant", "xi_over_l", "log_susceptibility"):
        for correction in (None, omega) if omega is not None else (None,):
            tried: list[Collapse] = []
            for reach in WINDOWS if window is None else (window,):
                tried += _collapse(name, curves, start, nu, reach, correction)
                if tried and tried[-1].quality.p >= _GOOD:
                    break
            if tried:
                good = tried[-1].quality.p >= _GOOD
                found.append(tried[-1] if good else max(tried, key=lambda c: c.quality.p))
    return tuple(found)


def _collapse(
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
        """Return what is left of y (points, ...) after the best polynomial; p as `first` below."""
        x = (t - start * (1.0 + p[0])) * side ** p[1]
        x = x / np.abs(x).max()
        shift = (2.0 - p[2]) * np.log(side) if with_eta else np.zeros(len(side))
        basis = np.polynomial.chebyshev.chebvander(x, _DEGREE)
        if with_eta:
            # The amplitude of chi is a function of T, whatever the size.
            basis = np.column_stack([basis, (t - start) / np.ptp(t)])
        if omega is not None:
            small = (side / side.min()) ** -(p[-1] if isinstance(omega, str) else omega)
            basis = np.column_stack([basis, small, small * x])
        basis, shifted = basis / error[:, np.newaxis], ((y.T - shift) / error).T
        return np.asarray(basis @ np.linalg.lstsq(basis, shifted, rcond=None)[0] - shifted)

    # Tc / start - 1, 1 / nu, for chi eta, and omega if it is free.
    first = [0.0, 1.0 / nu, *([0.25] if with_eta else []), *([1.5] if free else [])]
    full = np.concatenate([v[0] for v in values])
    found = least_squares(residual, first, args=(full,), x_scale="jac")
    response, left = np.linalg.pinv(found.jac), residual(found.x, full)
    rows, spread = [], []
    for i, of_curve in enumerate(values):
        bins = np.repeat(full[:, np.newaxis], len(of_curve) - 1, axis=1)
        bins[i * _POINTS : (i + 1) * _POINTS] = of_curve[1:].T
        change = residual(found.x, bins) - left[:, np.newaxis]
        rows.append(found.x - np.column_stack([0.0 * found.x, response @ change]).T)
        spread.append((change - found.jac @ (response @ change)).T)
    given = None if omega is None or free else Number(float(omega), 0.0)
    return [
        Collapse(
            name,
            Number.of([start * (1.0 + r[:, 0]) for r in rows]),
            Number.of([1.0 / r[:, 1] for r in rows]),
            Number.of([r[:, 2] for r in rows]) if with_eta else None,
            reach,
            _quality_of(left - found.jac @ (response @ left), spread),
            Number.of([r[:, -1] for r in rows]) if free else given,
        )
    ]


def _quality_of(residual: Array, spread: Sequence[Array]) -> Quality:
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
