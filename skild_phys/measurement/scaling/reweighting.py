"""Averages at temperatures near those simulated: the multiple-histogram method.

A. M. Ferrenberg and R. H. Swendsen, Phys. Rev. Lett. 63, 1195 (1989), without histograms: M. R.
Shirts and J. D. Chodera, J. Chem. Phys. 129, 124105 (2008). Samples i of energy E_i from runs k
at beta_k, N_k of each, have at beta the weight

    w_i(beta) = exp(-beta E_i) / sum_k N_k exp(f_k - beta_k E_i),

where exp(-f_k) = sum_i w_i(beta_k) makes the free energies f_k consistent. For one run this is
exp(-(beta - beta_k) E_i).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]

_TOLERANCE, _MOST_STEPS = 1e-10, 500


def free_energies(energy: Array, beta: Array, count: Array, start: Array | None = None) -> Array:
    """Return the free energies f_k of the runs, up to a constant: the first is 0.

    Parameters
    ----------
    energy : (n,) total energies in J of the samples of all runs.
    beta : (runs,) inverse temperatures in k_B / J.
    count : (runs,) how many of the samples are from each run.
    start : where the iteration begins.
    """
    f = np.zeros(len(beta)) if start is None else start.copy()
    action = -np.outer(energy, beta) + np.log(count)
    for _ in range(_MOST_STEPS if len(beta) > 1 else 0):
        logs = action + f
        share = np.exp(logs - logs.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)  # of each run in a sample
        total = np.maximum(share.sum(axis=0), 1e-300)
        step = -np.log(total / count)  # the equation itself, which always converges
        curvature = (np.diag(total) - share.T @ share)[1:, 1:]
        newton = np.append(0.0, np.linalg.pinv(curvature) @ (count - total)[1:])
        if np.abs(newton).max() < 1.0:
            step = newton
        f = f + step - step[0]
        if float(np.abs(step - step[0]).max()) < _TOLERANCE:
            break
    return f


def log_weights(energy: Array, beta: Array, count: Array, free: Array, targets: Array) -> Array:
    """Return ln w_i at each target beta up to a constant each, (targets, n); see the module."""
    log_sum = logsumexp(-np.outer(energy, beta) + free, b=count, axis=1)
    logs = -np.outer(targets, energy) - log_sum
    return np.asarray(logs - logs.max(axis=1, keepdims=True))


def effective_share(weights: Array) -> Array:
    """Return which share of the samples weights make use of: (sum w)^2 / (n sum w^2)."""
    return np.asarray(weights.sum(axis=-1) ** 2 / (weights.shape[-1] * (weights**2).sum(axis=-1)))
