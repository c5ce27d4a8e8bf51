"""What the means of spins are trained to be: the spins, or less noisy numbers with the same mean.

The gradient of the cross-entropy at a spin is (E[s] - s) / 2, most of it noise. Where the pair
couplings say all about the data, what a spin is given every other spin and X_t is known,

    E[s_i | s_rest, X_t] = tanh(h_i + sum_j J_ij s_j),

and has the same mean given X_t as s_i itself, with a variance smaller by E[1 - E[s_i | s_rest]^2]
(Rao and Blackwell). Where a block's majority is held a spin on which it hangs cannot change. Where
its sum is held no spin can change alone; two that differ change places with odds
exp(2 f_i - 2 f_j), where f is the field of all the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skild_phys.skild.equations import Process
from skild_phys.skild.spins import Evidence, MeanField, Means, SpinLogits


def site_targets(mean_field: MeanField, evidence: Evidence, x0: Tensor) -> Tensor:
    """Return E[s_i | all other spins, X_t] (n, Ly, Lx) at the spins `x0` that X_t was made from."""
    return torch.tanh(evidence.field + mean_field.coupled(evidence, x0))


def majority_targets(
    mean_field: MeanField, evidence: Evidence, x0: Tensor, factor: int, signs: Tensor
) -> Tensor:
    """Return E[s_i | all other spins, the signs of the sums of all blocks, X_t], (n, Ly, Lx).

    `signs` (n, Ly / factor, Lx / factor) are those of the sums of `x0`; the sign of a sum of zero
    was a fair coin's.
    """
    n, height, width = x0.shape
    split = (n, height // factor, factor, width // factor, factor)
    spins = x0.reshape(split)
    others = (spins.sum((2, 4), keepdim=True) - spins) * signs[:, :, None, :, None]
    # How likely the block's sign is with this spin along it and against it: 0, 1/2 or 1.
    along, against = (0.5 * (1.0 + torch.sign(others + own)) for own in (1.0, -1.0))
    field = (evidence.field + mean_field.coupled(evidence, x0)).reshape(split)
    field = (2.0 * field * signs[:, :, None, :, None]).clamp(-60.0, 60.0)
    along, against = along * torch.sigmoid(field), against * torch.sigmoid(-field)
    means = (along - against) / (along + against) * signs[:, :, None, :, None]
    return means.reshape(x0.shape)


def exchange_targets(
    mean_field: MeanField,
    evidence: Evidence,
    x0: Tensor,
    factor: int,
    random: torch.Generator,
    pairings: int = 4,
) -> Tensor:
    """Return the means of spins that only change places, two and two, inside their blocks.

    The sites of a factor x factor block are paired at random, alike in every block (of an odd
    number one keeps its spin): E[s_i | the pair's sum, all other spins, X_t], (n, Ly, Lx), the
    average over `pairings`.
    """
    n, height, width = x0.shape
    split = (n, height // factor, factor, width // factor, factor)
    joined = (n, height // factor, width // factor, factor, factor)
    field = evidence.field + mean_field.coupled(evidence, x0)
    field, spins = (f.reshape(split).permute(0, 1, 3, 2, 4).flatten(3) for f in (field, x0))
    by_site = mean_field.couplings_by_site(evidence)[:, None, None]
    targets, half = torch.zeros_like(spins), factor * factor // 2
    for _ in range(pairings):
        sites = torch.randperm(factor * factor, generator=random)
        i, j = sites[:half], sites[half : 2 * half]
        dy, dx = i // factor - j // factor, i % factor - j % factor
        apart = spins[..., i] - spins[..., j]
        # The field of the others: what the two do to each other is no part of it.
        pull = field[..., i] - field[..., j] + by_site[..., dy % height, dx % width] * apart
        found = spins.clone()
        found[..., i] -= 0.5 * (apart - apart.abs() * torch.tanh(pull))
        found[..., j] += 0.5 * (apart - apart.abs() * torch.tanh(pull))
        targets += found / pairings
    return targets.reshape(joined).permute(0, 1, 3, 2, 4).reshape(x0.shape)


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
