"""Do residuals at several places together agree with zero? chi^2 with the full covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skild_phys.errorbars import Estimate

_FEWEST = 2
"""Independent lattices a degree of freedom below which a covariance is too noisy to invert."""

_SINGULAR = 1e-10


@dataclass(frozen=True)
class Agreement:
    """chi^2 = x C^-1 x of residuals x with covariance C.

    Attributes
    ----------
    chi2 : NaN where there are too few lattices for the covariance.
    dof : the rank of C; combinations of x without any fluctuation are left out.
    p : probability of a larger chi^2 by chance, by Hotelling's T^2: F(dof, n - dof) of
        (n - dof) / (dof (n - 1)) chi^2 with n independent lattices.
    n_eff : independent lattices that the covariance is from, the median over places: each by
        itself is as noisy as its autocorrelation time.
    """

    chi2: float
    dof: int
    p: float
    n_eff: float


def agreement_of(
    residual: Estimate, places: NDArray[np.int64], at_most: float = math.inf
) -> Agreement:
    """Return whether residuals, as an estimate with covariance, agree with zero together.

    The rank is that of the correlation matrix; with fewer than `_FEWEST` lattices a degree of
    freedom nothing is said.

    Parameters
    ----------
    residual : (n,) estimate with its covariance.
    places : the components that are judged.
    at_most : more independent rows than this are not behind the covariance (bins, say).
    """
    x, covariance = residual.value[places], residual.covariance
    n_eff = residual.n_eff[places]
    n = min(float(np.nanmedian(n_eff)), at_most) if np.isfinite(n_eff).any() else 0.0
    unknown = Agreement(math.nan, 0, math.nan, n)
    if covariance is None:
        return unknown
    covariance = covariance[np.ix_(places, places)]
    sigma = np.sqrt(np.diag(covariance))
    alive = np.isfinite(x) & np.isfinite(sigma) & (sigma > 0)
    if not alive.any():
        return unknown
    z = x[alive] / sigma[alive]
    correlation = covariance[np.ix_(alive, alive)] / np.outer(sigma[alive], sigma[alive])
    values, vectors = np.linalg.eigh(correlation)
    kept = values > _SINGULAR * values[-1]
    dof = int(kept.sum())
    if n < _FEWEST * dof:
        return Agreement(math.nan, dof, math.nan, n)
    chi2 = float((((vectors[:, kept].T @ z) ** 2) / values[kept]).sum())
    p = float(stats.f.sf((n - dof) / (dof * (n - 1.0)) * chi2, dof, n - dof))
    return Agreement(chi2, dof, p, n)
