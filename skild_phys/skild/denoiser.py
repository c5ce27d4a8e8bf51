"""What the network says, for each kind of output: X_0 for continuous fields, logits for spins.

`eps`, `white_eps`, `x0` and `v` are four ways to say the mean of a continuous X_0: `eps` has the
spectrum of the data, `white_eps` is that of the paper. `logits` are log odds of
spin up: the mean of a spin, tanh(logit / 2), is never outside [-1, 1] and nothing is clamped.
For spins the network works between two runs of the mean-field iteration: it sees the first one's
result, and what the coarse lattice says, and returns, for each site, a better start, a field for
the second, and how far to trust the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from skild_phys.errors import BadInput
from skild_phys.skild.mean_field import Evidence, MeanField, Means, half_tanh
from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig
from skild_phys.skild.process import Process, each
from skild_phys.skild.schedule import Schedule
from skild_phys.skild.unet import NetworkConfig, UNet

Network: TypeAlias = UNet | Ncsnpp
AnyNetworkConfig: TypeAlias = NetworkConfig | NcsnppConfig
NETWORKS: dict[str, type[AnyNetworkConfig]] = {"unet": NetworkConfig, "ncsnpp": NcsnppConfig}

Sight = Callable[[Tensor, Tensor], Tensor]
"""(features (n, inputs, Ly, Lx), lam (n,)) -> the network's outputs (n, outputs, Ly, Lx)."""

OUTPUTS = ("logits", "v", "eps", "white_eps", "x0")
SMALLEST_COSINE = 1e-6
"""Floor of sqrt(abar) in X_0 = (X_t - sqrt(1 - abar) sqrt(P) eps) / sqrt(abar), the paper's."""

ALONE, FIRST, SECOND = 8, 4, 2
"""Mean-field iterations without the network, and before and after it."""
TELLING = 0.05
"""The lambda below which the sign of sqrt(abar) X_t is the spin at all but a few sites."""
DRAFT_WEIGHT = 0.1
"""Weight of the network's own draft in the loss of logits."""

ODD_OUTPUTS = {"logits": (True, False, True, False)}
"""Which outputs change sign with the spins: draft, trust in the first iteration, field, trust in
the second. A continuous field's one output does."""


def make_network(
    config: AnyNetworkConfig,
    output: str,
    basis: str,
    channels: int = 1,
    schedule: Schedule | None = None,
) -> Network:
    """Return an untrained network for the output kind `output` of fields in `basis`.

    A network that counts time in steps does so along `schedule`.
    """
    inputs, outputs = {"logits": (5, 4), "v": (2 * channels, channels)}.get(
        output, (channels, channels)
    )
    if isinstance(config, NcsnppConfig):
        if schedule is None:
            raise BadInput("network", config.kind, "unet where [lambdas] name no schedule")
        return Ncsnpp(config, inputs, outputs, basis, schedule)
    waved = [i for i, odd in enumerate(odd_outputs(output)) if odd]
    return UNet(config, inputs, outputs, basis, waved, channels)


def odd_outputs(output: str, channels: int = 1) -> tuple[bool, ...]:
    """Return, for each output of the network, whether it changes sign with the field."""
    return ODD_OUTPUTS.get(output, (True,) * channels)


def see_fields(sight: Sight, kind: str, process: Process, xt: Tensor, lam: Tensor) -> Tensor:
    """Return the network's output for fields X_t, of their shape.

    For `v` it sees the whitened field as well: v is white, and of the finest detail of X_t too
    little is left to be told by.
    """
    seen = xt if xt.dim() == 4 else xt[:, None]
    if kind == "v":
        white = process.basis.fields(process.modes(xt))
        seen = torch.cat([seen, white if xt.dim() == 4 else white[:, None]], 1)
    return sight(seen, lam).reshape(xt.shape)


class SpinLogits(NamedTuple):
    """Logits given X_t, the network's draft of them, and what X_t says of the spins."""

    logits: Tensor
    draft: Tensor
    evidence: Evidence


def spin_logits(
    sight: Sight | None,
    mean_field: MeanField,
    xt: Tensor,
    lam: Tensor,
    means: Means = half_tanh,
    alone: Tensor | None = None,
) -> SpinLogits:
    """Return log odds of spin up given X_t, (n, Ly, Lx).

    Parameters
    ----------
    sight : the network, or what looks through it; None for the mean field alone.
    xt, lam : (n, Ly, Lx) and (n,), or (1,) for one lambda for all.
    means : logits to means. Where a constraint holds these are the means under it: the
        mean field then carries what a block says to its neighbours, and what comes back are
        the logits of independent sites that have yet to be drawn under the constraint.
    alone : (n, Ly, Lx), E[s] by the constraint alone, without X_t; None for none. Without it the
        network cannot tell whether it is to say what the constraint does: from majority signs by
        4 at lambda = 4, E[m s] - E[m^2] of the means m was then +0.015 instead of 0.
    """
    evidence = mean_field.evidence(xt, lam)
    with torch.no_grad():
        first_guess = evidence.wiener.clamp(-0.98, 0.98)
        # Where X_t tells nearly every spin, only a start at the spins themselves converges.
        first_guess = torch.where(
            lam[:, None, None] < TELLING, 0.9999 * evidence.wiener.sign(), first_guess
        )
        start = means(2.0 * torch.atanh(first_guess))
        first = mean_field.iterate(evidence, start, FIRST if sight else ALONE, means=means)
    if sight is None:
        return SpinLogits(first, first, evidence)
    alone = torch.zeros_like(xt) if alone is None else alone
    seen = [xt, evidence.whitened, torch.tanh(first / 2), torch.tanh(first / 8), alone]
    draft, trust, field, weight = sight(torch.stack(seen, 1), lam.expand(len(xt))).unbind(dim=1)
    draft = draft + (1.0 + trust) * first
    second = mean_field.iterate(evidence, means(draft), SECOND, 0.5 * field, means)
    weight = torch.sigmoid(weight)
    return SpinLogits(weight * second + (1.0 - weight) * draft, draft, evidence)


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


def scale_weights(process: Process, at: Tensor | float) -> Tensor:
    """Return how much each mode's error counts where every scale is to be learnt.

    (d theta / d log lambda)^2: how far a step of a chain moves the mode along what the network
    says, which is where the mode is being erased; the rest of what it says is of no use. Divided by
    the root of its mean, so that the gradient is about as large at every lambda: by the mean, every
    scale would count alike, but those of the few longest waves drown what is learnt of the others
    (their gradient is ten times as noisy). Of channels with spectra of their own each counts as its
    share of the power, as in the pixels' error: alike, colours, which have a hundredth of the
    power, kept the network from learning anything else.
    """
    x = process.kappa2 * at
    weight = x * x * torch.exp(-x) / (-torch.expm1(-x)).clamp(min=1e-300)
    weight = weight / weight.mean((-2, -1), keepdim=True).clamp(min=1e-300).sqrt()
    if process.power.dim() == 3:
        weight = weight * process.power / process.power.mean(0)
    return weight.float()


def y0_from_output(output: Tensor, kind: str, process: Process, y: Tensor, lam: Tensor) -> Tensor:
    """Return the mean of Y_0, whitened modes, from the network's field `output`.

    v is white: cos(theta) eps - sin(theta) Y_0; eps and x0 have the data's spectrum. white_eps is
    the paper's output, standard normal in every mode of its DCT (`Spectrum.eps_norms`).
    """
    at = each(lam, output)
    if kind == "v":
        return process.y0_from_velocity(y, process.white(output), at)
    if kind == "x0":
        return process.modes(output)
    white = kind == "white_eps"
    eps = process.white(output) / process.eps_norms if white else process.modes(output)
    return (y - process.sine(at) * eps) / process.cosine(at).clamp(min=SMALLEST_COSINE)


def field_target(kind: str, process: Process, x0: Tensor, noise: Tensor, lam: Tensor) -> Tensor:
    """Return what the network's output is trained to be, as a field of the shape of `x0`.

    `noise` is white; eps is sqrt(P) times its modes.
    """
    if kind == "x0":
        return x0
    if kind == "eps":
        return process.gaussian(noise)
    if kind == "white_eps":
        return process.basis.fields(process.eps_norms * process.white(noise))
    at = each(lam, x0)
    y0, eps = process.modes(x0), process.white(noise)
    return process.basis.fields(process.cosine(at) * eps - process.sine(at) * y0)
