"""Gradients of the loss of spins."""

from __future__ import annotations

import torch
from torch import Tensor

from skild_phys.skild.equations import Process
from skild_phys.skild.spins import Means, SpinLogits

DRAFT_WEIGHT = 0.1
"""Weight of the network's own draft in the loss of logits."""


def spin_surrogate(found: SpinLogits, targets: Tensor, means: Means) -> Tensor:
    """Return a number whose gradient is that of the cross-entropy with `targets`, nats a site.

    For sites of logits l, conditioned on what their coarse lattice says, the gradient of
    -ln p(x0) is (E[s] - x0) / 2 with the mean under the condition; `targets` (n, Ly, Lx) are the
    spins x0, or numbers whose mean given X_t is theirs. A share of the draft's cross-entropy is
    in it.
    """
    total = torch.zeros((), device=targets.device)
    for logits, share in ((found.logits, 1.0), (found.draft, DRAFT_WEIGHT)):
        with torch.no_grad():
            slope = 0.5 * (means(logits) - targets)
        total = total + share * (slope * logits).mean()
    return total


def wave_slope(process: Process, lam: Tensor, missing: Tensor) -> Tensor:
    """Return the gradient by m, times sites, of sum_k W |m_k - target_k|^2 / (2 sites).

    A cross-entropy weighs all waves alike and hardly sees the few long ones, which carry most of
    the power: W = min(lambda, 4) P / ((1 - abar) P + 1), with which its gradient is about as noisy
    as that of the cross-entropy. `missing` (n, Ly, Lx) is m - target.
    """
    at = lam.double()[:, None, None]
    left_open = -torch.expm1(-process.kappa2 * at) * process.power
    weight = (at.clamp(max=4.0) * process.power / (left_open + 1.0)).float()
    return process.basis.fields(weight * process.basis.modes(missing))
