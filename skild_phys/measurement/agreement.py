"""Do residuals at several distances together agree with zero? chi^2 with the full covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skild_phys.errorbars import (
    Array,
    Chains,
    Estimate,
    bin_sums,
    bins_in_time,
    integrated_autocorrelation_time,
)

_FEWEST = 2  # bins a degree of freedom below which a covariance is too noisy to invert
_MOST = 8  # bins a degree of freedom: longer bins see slower modes, and cost some power
_LENGTH, _ENOUGH = 6.0, 3
"""Length of a bin in units of tau - 1/2 of the slowest combination, unless there are fewer than so
many bins a degree of freedom; they are never shorter than 2 tau."""
_SINGULAR = 1e-10


@dataclass(frozen=True)
class Agreement:
    """chi^2 = x C^-1 x of residuals x with covariance C.

    Attributes
    ----------
    chi2 : NaN where there are too few configurations for the covariance.
    dof : the rank of C; combinations of x without any fluctuation are left out.
    p : probability of a larger chi^2 by chance, see `agreement_of`.
    n_eff : independent rows that the covariance is from: 1 + its effective degrees of freedom.
    """

    chi2: float
    dof: int
    p: float
    n_eff: float


def agreement_of(residual: Estimate, at: NDArray[np.int64]) -> Agreement:
    """Return whether residuals, as an estimate with its influence, agree with zero together.

    C is the covariance of rows, or, of Markov chains, of bins in time: every combination of the
    residuals has an autocorrelation time of its own, and bins that are longer than these see all
    of them. p is Hotelling's, F(dof, nu + 1 - dof) of (nu + 1 - dof) / (dof nu) chi^2, where C has
    nu degrees of freedom.

    Exact: independent rows with Gaussian residuals, nu = rows - 1. Approximate: what bins that
    follow one another still share is made up for by one factor, the trace of the covariance by
    the Gamma method over that by bins; of two ensembles nu is Welch's. Modes that are slower than
    a bin and too weak to lengthen any tau make p too small. The residuals count as Gaussian.

    Parameters
    ----------
    residual : (n,) estimate with its influence.
    at : the components that are judged.
    """
    x = residual.value[at]
    parts = [(part.rows[:, at], part.chains) for part in residual.influence]
    spread = sum((rows**2).sum(axis=0) for rows, _ in parts) if parts else np.zeros(len(at))
    alive = np.isfinite(x) & np.isfinite(spread) & (spread > 0)
    if not alive.any():
        return Agreement(math.nan, 0, math.nan, 0.0)
    binned = [_binned(rows[:, alive], chains) for rows, chains in parts]
    whitening = _whitening(np.concatenate(binned))
    dof = whitening.shape[1]
    if not dof:  # rows that fluctuate, in bins that do not
        return Agreement(math.nan, 0, math.nan, 0.0)
    white = [rows @ whitening for rows in binned]
    shares = [float((rows**2).sum()) / dof for rows in white]
    n = 1.0 + 1.0 / sum(a**2 / max(len(rows) - 1, 1) for a, rows in zip(shares, white))
    if n < _FEWEST * dof:
        return Agreement(math.nan, dof, math.nan, n)
    chi2 = float(((x[alive] @ whitening) ** 2).sum())
    p = float(stats.f.sf((n - dof) / (dof * (n - 1.0)) * chi2, dof, n - dof))
    return Agreement(chi2, dof, p, n)


def _whitening(rows: Array) -> Array:
    """Return (size, rank) W that makes `rows @ W` uncorrelated, with sums of squares 1."""
    covariance = rows.T @ rows
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    values, vectors = np.linalg.eigh(covariance / np.outer(sigma, sigma))
    kept = values > _SINGULAR * values[-1]
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]) / sigma[:, np.newaxis])


def _binned(rows: Array, chains: Chains | None) -> Array:
    """Return the influence of bins that count as independent, (bins, size)."""
    if chains is None:
        return rows
    n, size = rows.shape
    white = rows @ _whitening(rows)
    taus, white_taus = (integrated_autocorrelation_time(a, chains).tau for a in (rows, white))
    tau = max(float(taus.max()), float(white_taus.max()))
    bins = min(n / max(_LENGTH * (tau - 0.5), 1.0), _MOST * size)
    bins = max(int(max(bins, min(n / max(2.0 * tau, 1.0), _ENOUGH * size))), 2)
    label, scale = bins_in_time(n, bins, chains), math.sqrt((1 - 1 / n) / (1 - 1 / bins))
    of_bins, white_bins = (bin_sums(a, label, bins) * scale for a in (rows, white))
    # Neighbours share what is correlated across their edge; the Gamma method includes it.
    short = 2.0 * float(white_taus.mean()) / float((white_bins**2).sum(axis=0).mean())
    return np.asarray(of_bins * math.sqrt(max(short, 0.0)))
