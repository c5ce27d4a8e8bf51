"""Numbers with errors of several sizes, and least squares through them with a chi^2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import chi2 as chi2_distribution

from skild_phys.measurement.system import Array

POOR = 0.01
"""Probability of chi^2 below which a fit is called poor."""


@dataclass(frozen=True)
class Number:
    """A value with its standard error."""

    value: float
    error: float


NOTHING = Number(math.nan, math.nan)


def jackknife_error(values: Array) -> Array:
    """Return the error from (1 + bins, ...) values, the first of all samples."""
    return np.asarray(np.sqrt((len(values) - 2) * values[1:].var(axis=0)))


def over_sizes(values: Sequence[Array]) -> Number:
    """Return a function of several sizes from its values (1 + bins,), one size jackknifed each."""
    total = sum(float(jackknife_error(v)) ** 2 for v in values)
    return Number(float(values[0][0]), math.sqrt(total))


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
class Fit:
    """Parameters of a fit: for each size (1 + bins, parameters), that size jackknifed."""

    parameters: list[Array]
    quality: Quality

    def number(self, i: int, of: Callable[[Array], Array] = np.asarray) -> Number:
        """Return a function of parameter `i` with its error."""
        return over_sizes([of(rows[:, i]) for rows in self.parameters])


def fit_sizes(
    function: Callable[[Array, Array], Array],
    start: Sequence[float],
    sides: Array,
    values: Sequence[Array],
) -> Fit:
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
    return Fit(rows, Quality.of(float(2.0 * found.cost), len(sides) - len(start)))
