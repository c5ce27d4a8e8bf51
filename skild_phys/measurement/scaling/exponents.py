"""Exponents from straight lines through logarithms, where U4 has one value for all sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import exprel

from skild_phys.errors import BadInput
from skild_phys.measurement.scaling.curves import CROSSING, Curve
from skild_phys.measurement.scaling.fits import Fit, Number, Quality, fit_sizes
from skild_phys.measurement.system import Array

COMBINED = "combined"

Omega = float | str | None
"""Exponent of the correction L^-omega: a number, `fit`, or None for no correction."""


@dataclass(frozen=True)
class Exponent:
    """An exponent from a straight line through logarithms, ln y = a + b ln L.

    With a correction it is ln y = a + b ln L + c L^-omega.

    Attributes
    ----------
    name, source : `nu`, `eta`, `beta/nu`, `gamma/nu` or `alpha/nu`, and what it was read off.
    number : value and error.
    quality : chi^2 of the line.
    omega : of the correction (error 0: it was given); None without one.
    """

    name: str
    source: str
    number: Number
    quality: Quality
    omega: Number | None = None


def at_level_of(curve: Curve, level: float, near: float) -> dict[str, Array]:
    """Return values (1 + bins,) where U4 = level, of all that `exponents_of` reads.

    Where U4 of all samples takes that value more than once it is the place next to `near`; bins
    move it by how far they move U4, over the slope. Raises BadInput where one moves it out of the
    curve.
    """
    cumulant, t = curve.spline("binder_cumulant"), curve.temperature
    off = cumulant(t)[0] - level
    changes = np.flatnonzero(np.diff(np.sign(off)) != 0)
    i = changes[np.argmin(np.abs(t[changes] - near))]
    root = float(brentq(lambda t: float(cumulant(t)[0]) - level, t[i], t[i + 1]))
    moved = root - (cumulant(root) - level) / float(cumulant(root, 1)[0])
    if not (t[0] <= moved.min() and moved.max() <= t[-1]):
        raise BadInput("stores", f"U4 of L = {curve.side}", "more samples, nearer to Tc")

    def at(name: str, order: int = 0) -> Array:
        return np.diagonal(curve.spline(name)(moved, order)).copy()

    slopes = {f"slope_{name}": np.log(np.abs(at(name, 1))) for name in CROSSING}
    return slopes | {n: at(n) for n in curve.values if n.startswith("log_") or n == "specific_heat"}


_TURNED: dict[str, Callable[[Array], Array]] = {
    "nu": lambda b: 1.0 / b,
    "eta": lambda b: 2.0 - b,
    "beta/nu": lambda b: -b,
    "gamma/nu": np.asarray,
}
"""Exponent -> what it is of the slope of a line."""


def _line(p: Array, sides: Array) -> Array:
    return np.asarray(p[0] + p[1] * np.log(sides))


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
        kept = [(source, 0, values) for source, values in lines.items()]
        source, _, values = kept[-1]
        kept += [
            (f"{source}, L >= {sides[first]:.0f}", first, values)
            for first in range(1, len(curves) - 1)
        ]
        for label, first, of_line in kept:
            fit = fit_sizes(_line, (0.0, 1.0), sides[first:], of_line[first:])
            found.append(Exponent(name, label, fit.number(1, _TURNED[name]), fit.quality))
        if omega is not None:
            found.append(_corrected(name, source, sides, values, omega))
    return (*found, *_heat(sides, [values["specific_heat"] for values in at_level]))


def _corrected(
    name: str, source: str, sides: Array, values: Sequence[Array], omega: float | str
) -> Exponent:
    """Return an exponent from a line with the correction c L^-omega."""
    plain = fit_sizes(_line, (0.0, 1.0), sides, values).parameters[0][0]
    free = isinstance(omega, str)

    def corrected(p: Array, sides: Array) -> Array:
        power = p[3] if isinstance(omega, str) else omega
        return np.asarray(_line(p, sides) + p[2] * sides**-power)

    fit = fit_sizes(corrected, (*plain, *((0.1, 1.5) if free else (0.0,))), sides, values)
    found = fit.number(3) if free else Number(float(omega), 0.0)
    label = f"{source}, with L^-omega"
    return Exponent(name, label, fit.number(1, _TURNED[name]), fit.quality, found)


def _heat(sides: Array, values: Sequence[Array]) -> list[Exponent]:
    """Return alpha / nu from C = a + b (L^x - 1) / x, and from its limit x = 0, C = a + b ln L."""
    if len(sides) < 3:
        return []
    logarithm: Fit = fit_sizes(_line, (0.0, 1.0), sides, values)

    def power(p: Array, sides: Array) -> Array:
        return np.asarray(p[0] + p[1] * np.log(sides) * exprel(p[2] * np.log(sides)))

    free = fit_sizes(power, (*logarithm.parameters[0][0], 0.0), sides, values)
    return [
        Exponent("alpha/nu", "C = a + b L^(alpha/nu)", free.number(2), free.quality),
        Exponent("alpha/nu", "C = a + b ln L", Number(0.0, 0.0), logarithm.quality),
    ]


def _combined(sides: Array, lines: Sequence[Sequence[Array]]) -> list[Array]:
    """Return one line of several, weighted by the covariance of their slopes.

    Weights below 0, which lines that are nearly the same would get, are left out.
    """
    slopes = [
        [rows[:, 1] for rows in fit_sizes(_line, (0.0, 1.0), sides, line).parameters]
        for line in lines
    ]
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


def nu_of(exponents: Sequence[Exponent]) -> float:
    """Return the best estimate of nu, 1 if it is none."""
    value = next(e.number.value for e in exponents if (e.name, e.source) == ("nu", COMBINED))
    return value if math.isfinite(value) and value > 0 else 1.0
