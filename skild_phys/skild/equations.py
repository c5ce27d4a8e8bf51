"""SKILD's equations: each mode forgets at its own scale, and is denoised back (arXiv 2605.26032).

X_t = sqrt(abar) X_0 + sqrt(1 - abar) sqrt(P) eps mode by mode, with
abar(kappa) = exp(-max(kappa, kappa_c)^2 lambda), with the power spectrum P
itself. kappa_c is the lowest wave number above zero unless it is given, so that the zero mode is
erased along with the longest waves. In whitened modes Y = X / sqrt(P) every mode is a
variance-preserving diffusion, Y = cos(theta) Y_0 + sin(theta) eps with cos^2 theta = abar.

Coefficients are computed in float64; fields and modes are float32: a draw of spins decides by them
with a relative error near 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput, Interrupted
from skild_phys.skild.spectrum import Basis, ChannelSpectra, Mixed, Spectrum, Torus, make_basis

SMALLEST_SINE = 1e-30
"""Where nothing is erased there is no angle: a velocity of 0 / 0 is 0."""


def each(lam: Tensor | float, fields: Tensor) -> Tensor | float:
    """Return `lam` (n,) of `fields` (n, ..., Ly, Lx) as float64 that broadcasts with them."""
    if not isinstance(lam, Tensor):
        return lam
    return lam.double().reshape(-1, *[1] * (fields.dim() - 1))


class Process:
    """Forward process, bridge and Gaussian draws for fields of one shape.

    Fields are (n, Ly, Lx), or (n, channels, Ly, Lx) with the same spectrum in every channel, or
    with those of `ChannelSpectra`. A cutoff of 0 keeps the zero mode at every lambda, as it is.

    Parameters
    ----------
    spectrum : P(kappa) of the data.
    shape : (Ly, Lx) of the fields; any sides.
    device : where the fields live.
    basis : 'dft' (periodic lattices) or 'dct' (open edges).
    cutoff : kappa_c in radians per site; None for the lowest wave number above zero.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        shape: tuple[int, int],
        device: torch.device | str = "cpu",
        basis: str = Torus.name,
        cutoff: float | None = None,
    ) -> None:
        self.shape = shape
        self.basis: Basis = make_basis(basis, shape)
        kappa = self.basis.kappa.clip(min=self.basis.lowest if cutoff is None else cutoff)
        self.kappa2 = torch.as_tensor(kappa**2, dtype=torch.float64, device=device)
        power, norms = spectrum.variances(self.basis), spectrum.eps_norms(self.basis)
        if isinstance(spectrum, ChannelSpectra):
            self.basis = Mixed(self.basis, spectrum.matrix)
        self.power = torch.as_tensor(power, dtype=torch.float64, device=device)
        self.amplitude = self.power.sqrt().float()
        self.eps_norms = torch.as_tensor(norms, dtype=torch.float32, device=device)

    # Whitened modes.

    def modes(self, fields: Tensor) -> Tensor:
        """Return the whitened modes Y of `fields`."""
        return self.basis.modes(fields) / self.amplitude

    def fields(self, modes: Tensor) -> Tensor:
        """Return the fields of whitened modes."""
        return self.basis.fields(modes * self.amplitude)

    def white(self, noise: Tensor) -> Tensor:
        """Return the modes of white `noise`: standard normal whitened modes."""
        return self.basis.modes(noise)

    def cosine(self, lam: Tensor | float) -> Tensor:
        """Return cos(theta) = sqrt(abar), float32; `lam` is a number or from `each`."""
        return torch.exp(-0.5 * self.kappa2 * lam).float()

    def sine(self, lam: Tensor | float) -> Tensor:
        """Return sin(theta) = sqrt(1 - abar), float32; `lam` is a number or from `each`."""
        return torch.sqrt(-torch.expm1(-self.kappa2 * lam)).float()

    def angle_between(self, lam: float, to: float) -> Tensor:
        """Return theta(lam) - theta(to), float32."""
        return (self._angle(lam) - self._angle(to)).float()

    def _angle(self, lam: float) -> Tensor:
        sine = torch.sqrt(-torch.expm1(-self.kappa2 * lam))
        return torch.atan2(sine, torch.exp(-0.5 * self.kappa2 * lam))

    def velocity(self, y: Tensor, y0: Tensor, lam: Tensor | float) -> Tensor:
        """Return v = cos(theta) eps - sin(theta) Y_0 = (cos(theta) Y - Y_0) / sin(theta)."""
        return (self.cosine(lam) * y - y0) / self.sine(lam).clamp(min=SMALLEST_SINE)

    def y0_from_velocity(self, y: Tensor, v: Tensor, lam: Tensor | float) -> Tensor:
        """Return Y_0 = cos(theta) Y - sin(theta) v."""
        return self.cosine(lam) * y - self.sine(lam) * v

    def bridge_modes(
        self, y: Tensor, y0: Tensor, lam: float, to: float, noise: Callable[[], Tensor]
    ) -> Tensor:
        """Draw Y at lambda = `to` given Y at `lam` > `to` and Y_0: the forward process's bridge.

        Exact for any distribution of Y_0. With a = abar(to), b = abar(lam), r = b / a:
        mean = [sqrt(a) (1 - r) Y_0 + sqrt(r) (1 - a) Y_lam] / (1 - b),
        variance = (1 - a) (1 - r) / (1 - b). At `to` = 0 it is Y_0.
        """
        one_a = -torch.expm1(-self.kappa2 * to)
        # A mode that is never erased (cutoff 0) has Y = Y_0 throughout.
        erased = self.kappa2 > 0
        y0 = torch.where(erased, y0, y)
        one_b = (-torch.expm1(-self.kappa2 * lam)).clamp(min=1e-300)
        one_r = -torch.expm1(-self.kappa2 * (lam - to))
        one_r = torch.where(erased, one_r, one_b)
        from_y0 = torch.exp(-0.5 * self.kappa2 * to) * one_r / one_b
        if to == 0.0:
            return from_y0.float() * y0
        from_y = torch.exp(-0.5 * self.kappa2 * (lam - to)) * one_a / one_b
        spread = torch.sqrt(one_a * one_r / one_b)
        return from_y0.float() * y0 + from_y.float() * y + spread.float() * noise()

    # Fields.

    def forward(self, x0: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        """Return X_t for fields `x0`, `lam` (n,) and white `noise` of their shape."""
        at = each(lam, x0)
        kept = self.cosine(at) * self.basis.modes(x0)
        erased = self.sine(at) * self.amplitude * self.basis.modes(noise)
        return self.basis.fields(kept + erased)

    def gaussian(self, noise: Tensor) -> Tensor:
        """Return Gaussian fields with spectrum P from white `noise`."""
        return self.fields(self.white(noise))


Noise = Callable[[], Tensor]
"""Draws modes of standard normal white noise, (n, *modes)."""


class Posterior(Protocol):
    """What a denoiser says of X_0 given X_t, whitened modes, under whatever is known of X_0."""

    def mean(self) -> Tensor:
        """Return E[Y_0 | X_t]."""

    def draw(self) -> Tensor:
        """Return Y_0 drawn given X_t."""


class Step(Protocol):
    """One step; an instance serves one chain, whose calls are in order of falling lambda."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        """Return Y at lambda = `to` from `y` at `lam` > `to` >= 0."""


class Stochastic:
    """The ancestral step with the noise that accounts for Var[X_0 | X_t].

    Exact at any number of steps where `Posterior.draw` is: for Gaussian fields, and for spins that
    are independent given X_t.
    """

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return process.bridge_modes(y, posterior.draw(), lam, to, noise)


class Ancestral:
    """DDPM's ancestral step, mode by mode (arXiv 2605.26032).

    Setting X_0 to its mean leaves out Var[X_0 | X_t]: a Gaussian field loses variance at any
    finite number of steps, and by more the fewer there are.
    """

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return process.bridge_modes(y, posterior.mean(), lam, to, noise)


MOST = 4.0
"""Largest ratio of successive angles at which a slope is still extrapolated."""


class Angle1:
    """Euler's step: Y' = Y - d v with d = theta - theta'."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        return y - process.angle_between(lam, to) * process.velocity(y, posterior.mean(), lam)


class Angle2:
    """Two-step Adams-Bashforth of variable step: Y' = Y - d (v + (v - v_before) d / (2 d_before)).

    The first step of a chain is Euler's. So is a mode's step where its angle moved by far less
    before: theta stays at pi / 2 until the mode's transition.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        d, v = process.angle_between(lam, to), process.velocity(y, posterior.mean(), lam)
        slope = v
        if self._before is not None:
            v_before, d_before = self._before
            ratio = d / d_before.clamp(min=1e-30)
            slope = v + (v - v_before) * (0.5 * ratio * (ratio < MOST))
        self._before = (v, d)
        return y - d * slope


STEPS: dict[str, Callable[[], Step]] = {
    "stochastic": Stochastic,
    "ancestral": Ancestral,
    "angle1": Angle1,
    "angle2": Angle2,
}


def make_step(name: str) -> Step:
    """Return a step of the sampler `name`, for one chain; raises BadInput."""
    if name not in STEPS:
        raise BadInput("--sampler", name, " or ".join(STEPS))
    return STEPS[name]()


Stop = Callable[[], bool]


AnyPosterior = TypeVar("AnyPosterior", bound=Posterior)


def run_chain(
    process: Process,
    y: Tensor,
    lambdas: NDArray[np.float64],
    denoise: Callable[[Tensor, float], AnyPosterior],
    step: Step,
    noise: Noise,
    stop: Stop = lambda: False,
) -> tuple[Tensor, AnyPosterior]:
    """Run the reverse process from whitened modes `y` at lambdas[0] down to the last lambda.

    Parameters
    ----------
    lambdas : one denoiser call for each. Where they rise (a restart), X_0 is drawn and erased
        anew; everywhere else they fall.
    denoise : (Y, lambda) -> what is known of X_0.
    step : of a sampler, new for this chain.
    noise : draws white whitened modes.
    stop : asked before each call; raises Interrupted once it says so.

    Returns
    -------
    Y at the last lambda and what is known of X_0 there: `step` to 0, or a draw, ends the chain.
    """
    for index, lam in enumerate(lambdas):
        if stop():
            raise Interrupted("interrupted")
        posterior = denoise(y, float(lam))
        if index + 1 == len(lambdas):
            break
        to = float(lambdas[index + 1])
        if to < lam:
            y = step(process, y, posterior, float(lam), to, noise)
        else:
            y = process.cosine(to) * posterior.draw() + process.sine(to) * noise()
    return y, posterior


Sight = Callable[[Tensor, Tensor], Tensor]
"""(features (n, inputs, Ly, Lx), lam (n,)) -> the network's outputs (n, outputs, Ly, Lx)."""


SMALLEST_COSINE = 1e-6
"""Floor of sqrt(abar) in X_0 = (X_t - sqrt(1 - abar) sqrt(P) eps) / sqrt(abar), the paper's."""


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


Correct = Callable[[Tensor, NDArray[np.float64]], Tensor]
"""(fields, Sigma of their modes) -> fields moved onto A x = y, by Sigma."""


class FieldPosterior:
    """A Gaussian about the denoiser's mean with the variance still open, under A x0 = y.

    Var[Y_0 | X_t] = 1 - abar, exact for a Gaussian field with spectrum P. Drawing and then
    correcting by Sigma = (1 - abar) P is drawing from the Gaussian conditioned on A x0 = y
    (Matheron's rule).
    """

    def __init__(
        self, process: Process, y0: Tensor, lam: float, noise: Noise, correct: Correct | None
    ) -> None:
        self.process, self.y0, self.noise, self.correct = process, y0, noise, correct
        self.spread = process.sine(lam)

    def _corrected(self, y0: Tensor) -> Tensor:
        if self.correct is None:
            return y0
        sigma = (self.spread.double() ** 2 * self.process.power).cpu().numpy()
        return self.process.modes(self.correct(self.process.fields(y0), sigma))

    def mean(self) -> Tensor:
        return self._corrected(self.y0)

    def draw(self) -> Tensor:
        return self._corrected(self.y0 + self.spread * self.noise())
