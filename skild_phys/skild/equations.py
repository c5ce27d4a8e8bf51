"""SKILD in equations: diffusion whose time is scale (arXiv 2605.26032), in the paper's order.

X, Y = X / sqrt(P)  `modes`            modes of a field in an orthonormal basis; whitened modes
kappa, kappa_c      `kappa2`           wave number in radians per site; the least that counts
lambda              `lam`              time, in sites^2: detail below sqrt(lambda) is erased
P(kappa)            `power`            power spectrum of the data, E|X - E X|^2
abar(kappa)         `abar`             share of a mode's power that is still the data's
theta(kappa)        `cosine`, `sine`   angle of a mode, cos^2 theta = abar
v                   `velocity`         dY / d theta along the probability flow

1. Forward marginal:  X_t = sqrt(abar) X_0 + sqrt(1 - abar) sqrt(P) eps.
2. In whitened modes: Y = cos(theta) Y_0 + sin(theta) eps, a diffusion at each mode's own pace.
3. Bridge:            q(Y_s | Y_t, Y_0), s < t, exact for every distribution of Y_0.
4. Steps:             from lambda to a smaller one by the distribution of Y_0 given Y_t.
5. Chain:             denoise, step, until the last lambda.
6. Network's output:  Y_0 or logits, and the loss of fields that it is trained with.

Coefficients are float64, fields and modes float32: spins sampled by them are right to about 1e-6.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput, Interrupted
from skild_phys.skild.spectrum import Basis, Spectrum, make_basis

Noise = Callable[[], Tensor]
"""Samples whitened modes of white noise, (n, *modes)."""
Stop = Callable[[], bool]
Correct = Callable[[Tensor, NDArray[np.float64]], Tensor]
"""(fields, Sigma of their modes) -> fields moved onto A x = y, by Sigma."""

_NEVER = 1e3  # wave number of a mode that is noise on a grid: nothing of it is left at any lambda
_SMALLEST_SINE = 1e-30  # where nothing is erased there is no angle: a velocity of 0 / 0 is 0


def each(lam: Tensor | float, fields: Tensor) -> Tensor | float:
    """Return `lam` (n,) of `fields` (n, ...) as float64 that broadcasts with them."""
    if not isinstance(lam, Tensor):
        return lam
    return lam.double().reshape(-1, *[1] * (fields.dim() - 1))


# -- 1 to 3: forward marginal, velocity, bridge ------------------------------------------------


@functools.lru_cache(maxsize=32)
def _crop(basis: str, shape: tuple[int, ...], grid: tuple[int, ...]) -> Any:
    return make_basis(basis, shape).crop(grid)


class Process:
    """Forward process and bridge for fields of one shape, of any dimension.

    Fields are (n, *shape), or (n, components, *shape) with the same spectrum in every component or
    with those of `ChannelSpectra`. `lam` is a number, or float64 from `each`.

    Parameters
    ----------
    spectrum : P(kappa) of the data.
    shape : (Ly, Lx) of the fields in 2D; any sides.
    device : where the fields live.
    basis : 'dft' (periodic lattices) or 'dct' (open edges).
    cutoff : kappa_c in radians per site; None for the lowest wave number above zero, so that the
        zero mode is erased along with the longest wavelengths; 0 keeps the zero mode as it is.
    grid : sides of the grid that the fields live on, where it is coarser than the lattice: its
        fields are the lattice's without the modes beyond the grid (`Basis.crop`), at the sites of
        the grid. Lambda, kappa and P are the lattice's on every grid.

    Attributes
    ----------
    shape : of the fields, the grid's; `lattice` that of the lattice.
    crop : the lattice's modes that the grid has.
    share : of the lattice's number of sites, what the grid has.
    spacing : of the grid, in sites, along the axis where it is largest: at lambda = c spacing^2
        every mode that the grid lacks has abar <= exp(-pi^2 c).
    rms : root mean square of a field.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        basis: str = "dft",
        cutoff: float | None = None,
        grid: tuple[int, ...] | None = None,
    ) -> None:
        mixing = getattr(spectrum, "mixing", None)
        self._lattice = lattice = make_basis(basis, tuple(shape), mixing)
        self.lattice, self.shape = lattice.shape, tuple(grid or shape)
        self.basis: Basis = lattice if grid is None else make_basis(basis, self.shape, mixing)
        self.crop = lattice.crop(self.shape)
        self.share = share = self.basis.sites / lattice.sites
        self.spacing = max(side / n for side, n in zip(lattice.shape, self.shape, strict=True))
        kappa = lattice.kappa.clip(min=lattice.lowest if cutoff is None else cutoff)
        kappa = np.where(self.crop.inside, self.crop.of(kappa), _NEVER)
        self.kappa2 = torch.as_tensor(kappa**2, dtype=torch.float64, device=device)
        power = self.crop.of(spectrum.variances(lattice)) * share
        norms = self.crop.of(spectrum.eps_norms(lattice))
        self.power = torch.as_tensor(power, dtype=torch.float64, device=device)
        self.amplitude = self.power.sqrt().float()
        self.eps_norms = torch.as_tensor(norms, dtype=torch.float32, device=device)
        self.weight = torch.as_tensor(self.basis.weight, dtype=torch.float64, device=device)
        self.inside = torch.as_tensor(self.crop.inside, device=device)
        shares = power * self.basis.weight * self.crop.inside
        self.rms = math.sqrt(float(shares.sum(self.basis.axes).mean()) / self.basis.sites)

    @functools.cached_property
    def bands(self) -> Tensor:
        """Means over modes below pi / 4 s, from there to pi / 2 s, and beyond: (3, *modes)."""
        q = self.kappa2.sqrt() * self.spacing / math.pi
        edges = ((0.0, 0.25), (0.25, 0.5), (0.5, math.inf))
        shares = [self.weight * self.inside * (q > low) * (q <= high) for low, high in edges]
        return torch.stack([one / one.sum().clamp(min=1.0) for one in shares]).float()

    def modes(self, fields: Tensor) -> Tensor:
        """Return Y = F x / sqrt(P)."""
        return self.basis.modes(fields) / self.amplitude

    def fields(self, modes: Tensor) -> Tensor:
        """Return x = F^T sqrt(P) Y."""
        return self.basis.fields(modes * self.amplitude)

    def white(self, noise: Tensor) -> Tensor:
        """Return eps = F noise, standard normal whitened modes of white `noise`."""
        return self.basis.modes(noise)

    def gaussian(self, noise: Tensor) -> Tensor:
        """Return F^T sqrt(P) eps: Gaussian fields with spectrum P from white `noise`."""
        return self.fields(self.white(noise))

    def abar(self, lam: Tensor | float) -> Tensor:
        """Return abar = exp(-max(kappa, kappa_c)^2 lambda), float64."""
        return torch.exp(-self.kappa2 * lam)

    def erased(self, lam: Tensor | float) -> Tensor:
        """Return 1 - abar, float64."""
        return -torch.expm1(-self.kappa2 * lam)

    def cosine(self, lam: Tensor | float) -> Tensor:
        """Return cos(theta) = sqrt(abar), float32."""
        return torch.exp(-0.5 * self.kappa2 * lam).float()

    def sine(self, lam: Tensor | float) -> Tensor:
        """Return sin(theta) = sqrt(1 - abar), float32."""
        return torch.sqrt(self.erased(lam)).float()

    def angle_between(self, lam: float, to: float) -> Tensor:
        """Return theta(lam) - theta(to), float32."""
        angles = (
            torch.atan2(torch.sqrt(self.erased(at)), torch.exp(-0.5 * self.kappa2 * at))
            for at in (lam, to)
        )
        return torch.sub(*angles).float()

    def forward(self, x0: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        """Return X_t = sqrt(abar) X_0 + sqrt(1 - abar) sqrt(P) eps as fields.

        `lam` is (n,) or (1,), `noise` white and of the shape of `x0`.
        """
        at = each(lam, x0)
        kept = self.cosine(at) * self.basis.modes(x0)
        erased = self.sine(at) * self.amplitude * self.basis.modes(noise)
        return self.basis.fields(kept + erased)

    def restricted(self, modes: Tensor) -> Tensor:
        """Return Y of orthonormal `modes` of the lattice, whitened: those of the grid alone."""
        sized = self.crop.of(modes) * math.sqrt(self.share)
        return torch.where(self.inside, sized / self.amplitude, 0.0)

    def lattice_modes(self, fields: Tensor) -> Tensor:
        """Return the orthonormal modes of fields on the lattice."""
        return self._lattice.modes(fields)

    def lifted(self, y: Tensor, finer: Process, rest: Tensor) -> Tensor:
        """Return whitened modes `y` on a finer grid of the same lattice.

        Those that this grid lacks are `rest`, modes on the finer grid: noise, as long as lambda is
        so large that nothing is left of them.
        """
        shared = _crop(self.basis.name, finer.shape, self.shape)
        out = rest.clone()
        out[shared.index] = torch.where(self.inside, y, shared.of(rest))
        return out

    def velocity(self, y: Tensor, y0: Tensor, lam: Tensor | float) -> Tensor:
        """Return v = cos(theta) eps - sin(theta) Y_0 = (cos(theta) Y - Y_0) / sin(theta)."""
        return (self.cosine(lam) * y - y0) / self.sine(lam).clamp(min=_SMALLEST_SINE)

    def y0_from_velocity(self, y: Tensor, v: Tensor, lam: Tensor | float) -> Tensor:
        """Return Y_0 = cos(theta) Y - sin(theta) v."""
        return self.cosine(lam) * y - self.sine(lam) * v

    def bridge_modes(self, y: Tensor, y0: Tensor, lam: float, to: float, noise: Noise) -> Tensor:
        """Sample Y_to given Y at `lam` > `to` and Y_0; at `to` = 0 it is Y_0.

        With a = abar(to), b = abar(lam), r = b / a:

            mean     = [sqrt(a) (1 - r) Y_0 + sqrt(r) (1 - a) Y] / (1 - b),
            variance = (1 - a) (1 - r) / (1 - b).
        """
        one_a = self.erased(to)
        # A mode that is never erased (cutoff 0) has Y = Y_0 throughout.
        moves = self.kappa2 > 0
        y0 = torch.where(moves, y0, y)
        one_b = self.erased(lam).clamp(min=1e-300)
        one_r = torch.where(moves, self.erased(lam - to), one_b)
        from_y0 = torch.exp(-0.5 * self.kappa2 * to) * one_r / one_b
        if to == 0.0:
            return from_y0.float() * y0
        from_y = torch.exp(-0.5 * self.kappa2 * (lam - to)) * one_a / one_b
        spread = torch.sqrt(one_a * one_r / one_b)
        return from_y0.float() * y0 + from_y.float() * y + spread.float() * noise()


# -- 4: the steps ------------------------------------------------------------------------------


class Posterior(Protocol):
    """The distribution of Y_0 given X_t, under whatever is known of X_0.

    One whose samples are better than its mean may say `flows` = False (`STEPS`, 'mixed').
    """

    def mean(self) -> Tensor:
        """Return E[Y_0 | X_t], whitened modes."""

    def draw(self) -> Tensor:
        """Return a sample of Y_0 given X_t, whitened modes."""

    def last(self, step: Step, y: Tensor) -> NDArray[np.generic]:
        """Return what a chain ends in: spins, or the fields that `step` makes of `y`."""


class Step(Protocol):
    """One step; an instance serves one chain, in order of falling lambda."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        """Return Y at lambda = `to` from `y` at `lam` > `to` >= 0."""


def _stochastic(
    process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
) -> Tensor:
    """Y' ~ q(Y' | Y, Y_0), Y_0 ~ p(Y_0 | X_t).

    It has all of Var[Y_0 | X_t]: exact at any number of steps where `Posterior.draw` is, as for
    Gaussian fields, and for spins that are independent given X_t.
    """
    return process.bridge_modes(y, posterior.draw(), lam, to, noise)


def _ancestral(
    process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
) -> Tensor:
    """Y' ~ q(Y' | Y, E[Y_0 | X_t]): the paper's ancestral step, DDPM's mode by mode.

    It leaves out Var[Y_0 | X_t]: a Gaussian field loses variance, the more the fewer the steps.
    """
    return process.bridge_modes(y, posterior.mean(), lam, to, noise)


def _angle1(
    process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
) -> Tensor:
    """Y' = Y - d v with d = theta - theta': Euler's step of the probability flow dY / d theta = v.

    v = E[cos(theta) eps - sin(theta) Y_0 | X_t] is zero for a Gaussian field with spectrum P, so
    that this and `angle3` are exact for it at any number of steps. The step is straight in theta,
    not DDIM's rotation cos(d) Y - sin(d) v, which is exact where X_0 is known and shrinks a
    Gaussian field by cos(d) each step.
    """
    return y - process.angle_between(lam, to) * process.velocity(y, posterior.mean(), lam)


class _Angle3:
    """Y' = Y - d (v + (v - v_before) d / (2 d_before)), taken again once v at Y' is known.

    Adams-Bashforth of second order and variable step; before the next one, Adams-Moulton of third
    order in its place, which needs no evaluation of its own. The first step of a chain is Euler's,
    and so is a mode's step where its angle moved by far less before: theta stays at pi / 2 until
    the mode's transition. A finer grid begins anew, as its network has errors of its own.
    """

    _MOST = 4.0  # largest ratio of successive angles at which a slope is still extrapolated

    _past: tuple[tuple[Tensor, Tensor, Tensor | float], ...] = ()
    """v, d and the ratio of d to the one before, of the last two steps."""
    _from: Tensor

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        d, v = process.angle_between(lam, to), process.velocity(y, posterior.mean(), lam)
        ratio: Tensor | float = 0.0
        slope = v
        if self._past and self._from.shape != y.shape:
            self._past = ()
        if self._past:
            y = self._again(v)
            v_before, d_before, _ = self._past[-1]
            ratio = d / d_before.clamp(min=1e-30)
            ratio = torch.where(ratio < self._MOST, ratio, 0.0)
            slope = v + 0.5 * ratio * (v - v_before)
        self._past, self._from = (*self._past[-1:], (v, d, ratio)), y
        return y - d * slope

    def _again(self, v: Tensor) -> Tensor:
        """Return what the last step should have come to, now that `v` is known there."""
        v0, d, ratio = self._past[-1]
        mean = 0.5 * (v0 + v)
        if len(self._past) > 1:
            curved = (v - v0) - ratio * (v0 - self._past[-2][0])
            mean = mean - ratio / (6.0 * (1.0 + ratio)) * curved
        return self._from - d * mean


class _Mixed(_Angle3):
    """`stochastic` where posteriors do not flow, as of spins at small lambda, else `angle3`."""

    def __call__(
        self, process: Process, y: Tensor, posterior: Posterior, lam: float, to: float, noise: Noise
    ) -> Tensor:
        step: Step = super().__call__ if getattr(posterior, "flows", True) else _stochastic
        return step(process, y, posterior, lam, to, noise)


STEPS: dict[str, Step | type[Step]] = {
    "stochastic": _stochastic,
    "mixed": _Mixed,
    "ancestral": _ancestral,
    "angle1": _angle1,
    "angle3": _Angle3,
}
"""The steps by name; one more is one more entry: a class, made without arguments for each chain, or
a step itself, a function or an instance, which each chain takes a copy of. A function that makes
steps would be called as a step."""

Sampler = str | Step
"""A name of STEPS, or what could stand there."""


def make_step(sampler: Sampler) -> Step:
    """Return a step for one chain: a class's instance, or a copy of anything else.

    Raises BadInput for a name that is none of STEPS.
    """
    if isinstance(sampler, str) and sampler not in STEPS:
        raise BadInput("sampler", sampler, " or ".join(STEPS))
    step = STEPS[sampler] if isinstance(sampler, str) else sampler
    return step() if isinstance(step, type) else copy.deepcopy(step)


# -- 5: the chain ------------------------------------------------------------------------------


class Level(NamedTuple):
    """A grid, and what is known of Y_0 on it.

    Attributes
    ----------
    process : of the fields on the grid.
    denoise : (y, lam) -> what is known of Y_0 given whitened modes `y` at `lam`.
    noise : samples whitened modes of white noise on the grid.
    low : the lambda down to which a chain stays on this grid; the next finer one goes on from it.
    """

    process: Process
    denoise: Callable[[Tensor, float], Posterior]
    noise: Noise
    low: float = 0.0


def run_chain(
    levels: Sequence[Level],
    y: Tensor,
    lambdas: NDArray[np.float64],
    step: Step,
    stop: Stop = lambda: False,
) -> tuple[Tensor, Posterior]:
    """Run the reverse process from whitened modes `y` at lambdas[0] down to the last lambda.

    At lambda X_t says nothing of wave numbers far beyond 1 / sqrt(lambda): it lives on a grid that
    ends there, and modes beyond are independent noise, sampled when the chain comes to a finer one.

    Parameters
    ----------
    levels : the finest first, its `low` 0; each lambda is evaluated on the coarsest whose `low` it
        is above. One grid, the lattice, is a chain as in the paper.
    lambdas : falling, one evaluation of the denoiser for each. Each `low` between them is one of
        them.
    step : new for this chain.
    stop : asked before each evaluation; raises Interrupted once it is true.

    Returns
    -------
    Y at the last lambda and what is known of Y_0 there (`Posterior.last`).
    """
    level = level_at(levels, float(lambdas[0]))
    for index, lam in enumerate(lambdas):
        if stop():
            raise Interrupted("interrupted")
        if (finer := level_at(levels, float(lam))) is not level:
            y = level.process.lifted(y, finer.process, finer.noise())
            level = finer
        posterior = level.denoise(y, float(lam))
        if index + 1 == len(lambdas):
            break
        to = float(lambdas[index + 1])
        y = step(level.process, y, posterior, float(lam), to, level.noise)
    return y, posterior


class _Low(Protocol):
    @property
    def low(self) -> float: ...


_AnyLevel = TypeVar("_AnyLevel", bound=_Low)


def level_at(levels: Sequence[_AnyLevel], lam: float) -> _AnyLevel:
    """Return the coarsest of `levels`, the finest first, that `lam` is evaluated on."""
    return next(level for level in reversed(levels) if lam > level.low or level is levels[0])


# -- 6: the network's output for fields, and its loss ------------------------------------------

_EVEN = 0.02  # weight of every mode's error beside that by scale
_LEAST_LEFT = 1e-4  # share of a field's modes left of the data from which on it is not amplified
_SMALLEST_COSINE = 1e-6  # the paper's floor of sqrt(abar) where Y_0 is found from eps

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""(features (n, inputs, *shape), lam (n,)) -> the network's outputs (n, outputs, *shape)."""


class Guess(NamedTuple):
    """What Y_0 would be of a Gaussian field, given X_t and whatever else is known.

    Attributes
    ----------
    mean : (n, *modes) E[Y_0 | X_t, y].
    spread : (n, *modes) standard deviation of Y_0, over that given X_t alone, sin(theta).
    """

    mean: Tensor
    spread: Tensor

    def moved(self, output: Tensor, process: Process, lam: Tensor | float) -> Tensor:
        """Return Y_0 = mean - sin(theta) spread v for v the white field `output`."""
        beyond = process.sine(each(lam, output)) * self.spread * process.white(output)
        return self.mean - beyond

    def left(self, process: Process) -> Tensor:
        """Return the share of the variance of whitened modes given X_t that is left, (n,)."""
        modes = (process.weight * process.inside).expand_as(self.spread).flatten(1)
        return (self.spread.flatten(1).square() * modes).sum(1) / modes.sum(1)


def evaluate_fields(
    network: Evaluate, kind: str, process: Process, y: Tensor, lam: Tensor,
    guess: Guess | None = None,
) -> Tensor:  # fmt: skip
    """Return the network's output, fields, for whitened modes `y` at `lam`, (n,).

    On a grid lambda is counted in squares of its spacing, so that every grid is the same problem.
    For `v` the network sees X_t, its part that is still of the data, sqrt(abar) X_t, and that
    whitened, all of mean square 1: v is white, and of the finest detail too little is left in X_t
    to be told by. Beside them it sees by how much a coarse configuration moves the mean of a
    Gaussian field, as it is and in units of sin(theta), white, and how much of what X_t leaves open
    it decides, by `Process.bands`; 0 where there is none.
    """
    xt = process.fields(y)
    seen = [xt]
    if kind == "v":
        at = each(lam, xt)
        kept = process.cosine(at)
        plain = kept * y
        left = (kept.double() ** 2 * process.weight).sum(process.basis.axes, keepdim=True)
        scale = (left / process.basis.sites).clamp(min=_LEAST_LEFT).rsqrt()
        white = process.basis.fields(plain) * scale.float()
        beside = [torch.zeros_like(xt)] * 5
        if guess is not None:
            more = guess.mean - plain
            pull = process.basis.fields(more / process.sine(at))
            axes = tuple(range(-len(process.shape), 0))
            decided = [((1.0 - guess.spread**2) * band).sum(axes, True) for band in process.bands]
            planes = [one.expand_as(xt) for one in decided]
            beside = [process.fields(more) / process.rms, pull, *planes]
        seen = [xt / process.rms, process.fields(plain) / process.rms, white, *beside]
    single = xt.dim() == 1 + len(process.shape)
    features = torch.cat([f[:, None] if single else f for f in seen], 1)
    return network(features, lam / process.spacing**2).reshape(xt.shape)


def y0_from_output(output: Tensor, kind: str, process: Process, y: Tensor, lam: Tensor) -> Tensor:
    """Return E[Y_0 | X_t] from the network's field `output`.

    v:    Y_0 = cos(theta) Y - sin(theta) v;
    eps:  Y_0 = (Y - sin(theta) eps) / cos(theta);
    x0:   Y_0 = F x0 / sqrt(P).
    """
    at = each(lam, output)
    if kind == "v":
        return process.y0_from_velocity(y, process.white(output), at)
    if kind == "x0":
        return process.modes(output)
    white = kind == "white_eps"
    eps = process.white(output) / process.eps_norms if white else process.modes(output)
    return (y - process.sine(at) * eps) / process.cosine(at).clamp(min=_SMALLEST_COSINE)


def field_target(kind: str, process: Process, x0: Tensor, noise: Tensor, lam: Tensor) -> Tensor:
    """Return what the network's output is trained to be: `y0_from_output` for the true Y_0.

    A field of the shape of `x0`; `noise` is white.
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


def _scale_weights(process: Process, at: Tensor | float, octave: bool) -> Tensor:
    """Return the weight of each mode's error where every scale is to be learned.

    w = (d theta / d log lambda)^2 = (kappa^2 lambda)^2 abar / (1 - abar), up to a factor: how far a
    step of a chain moves the mode along the network's output. Where lambda stays within an octave
    of the grid, divided by the mean, and with 2% of all modes alike. On a grid that sees every
    lambda, divided by the root of the mean, so that the gradient is about as large at each: by the
    mean every scale would count alike, but the few longest wavelengths (their gradient is ten times
    as noisy) drown what is learned of the others. Channels with spectra of their own count as their
    share of the power, as in the pixels' error: alike, colours, which have a hundredth of the
    power, kept the network from learning anything else.
    """
    x = process.kappa2 * at
    weight = x * x * torch.exp(-x) / (-torch.expm1(-x)).clamp(min=1e-300)
    mean = (weight * process.weight).sum(process.basis.axes, keepdim=True) / process.basis.sites
    mean = mean.clamp(min=1e-300)
    weight = weight / mean + _EVEN if octave else weight / mean.sqrt()
    if process.power.dim() > process.kappa2.dim():
        weight = weight * process.power / process.power.mean(0)
    return (weight * process.weight).float()


def field_loss(
    process: Process, missing: Tensor, lam: Tensor, weighting: str = "flat", octave: bool = False
) -> Tensor:
    """Return the loss of `missing` = output - target, fields at `lam` (n,), by `weighting`.

    'flat':   mean of missing^2;
    'scales': sum_k w_k |missing_k|^2 / sites, with w of `_scale_weights`.
    """
    if weighting == "flat":
        return missing.square().mean()
    weight = _scale_weights(process, each(lam, missing), octave)
    return (weight * process.white(missing).abs().square()).sum() / missing.numel()
