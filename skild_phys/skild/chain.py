"""How lambda runs: schedules, chains, and the numbers that were tuned.

sqrt(lambda) is the length, in sites, below which detail has been erased.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, check_whole
from skild_phys.runner import option

if TYPE_CHECKING:
    from skild_phys.rules import Rule
    from skild_phys.skild.equations import Sampler, Step
    from skild_phys.skild.weights import Weights

_Array = NDArray[np.float64]

TIMES = 1000
"""Training along a schedule draws t from 1/TIMES, 2/TIMES, ... 1, the paper's N steps."""

# -- schedules ---------------------------------------------------------------------------------


class Schedule(ABC):
    """lambda(t), increasing in t of [0, 1], in sites squared, and its inverse; float64 arrays."""

    kind: str
    """Of SCHEDULES."""

    def __call__(self, t: float | _Array) -> _Array:
        return np.asarray(self._lambda(np.asarray(t, dtype=np.float64)))

    def inverse(self, lam: float | _Array) -> _Array:
        """Return the t at which lambda is `lam`."""
        return np.asarray(self._t(np.asarray(lam, dtype=np.float64)))

    def lambdas(self, start: float, end: float, steps: int) -> _Array:
        """Return `steps` lambdas from `start` down to `end`, both included, equal in t."""
        check_whole("steps", steps)
        lambdas = self(np.linspace(float(self.inverse(start)), float(self.inverse(end)), steps))
        lambdas[-1], lambdas[0] = end, start
        return lambdas

    @abstractmethod
    def _lambda(self, t: _Array) -> _Array: ...

    @abstractmethod
    def _t(self, lam: _Array) -> _Array: ...

    def _check(self, **bounds: float) -> None:
        """Raise BadInput unless each field is a number above its bound."""
        for name, bound in bounds.items():
            if not bound < getattr(self, name) < math.inf:
                accepted = f"a number above {bound:g}" if bound > -math.inf else "a finite number"
                raise BadInput(f"[lambdas] {name}", getattr(self, name), accepted)


@dataclass(frozen=True)
class _Geometric(Schedule):
    """lambda = low (high / low)^t, uniform in log lambda.

    abar depends on kappa^2 lambda alone, so every mode crosses its transition at the same pace.
    """

    low: float
    high: float
    kind: str = "geometric"

    def __post_init__(self) -> None:
        self._check(low=0.0, high=self.low)

    def _lambda(self, t: _Array) -> _Array:
        return self.low * (self.high / self.low) ** t

    def _t(self, lam: _Array) -> _Array:
        return np.asarray(np.log(lam / self.low) / math.log(self.high / self.low))


@dataclass(frozen=True)
class _Linear(Schedule):
    """lambda = side^2 theta t / (lambda_i (1 - t) + lambda_f)^2 (arXiv 2605.26032).

    The paper counts wave numbers as pi u, u = 0, 1, ... in a box of side 1; `side` turns its
    lambda into sites squared.
    """

    side: int
    theta: float
    lambda_i: float
    lambda_f: float
    kind: str = "linear"

    def __post_init__(self) -> None:
        self._check(side=0.0, theta=0.0, lambda_i=0.0, lambda_f=0.0)

    def _lambda(self, t: _Array) -> _Array:
        scale = float(self.side) ** 2 * self.theta
        return scale * t / (self.lambda_i * (1.0 - t) + self.lambda_f) ** 2

    def _t(self, lam: _Array) -> _Array:
        # lam (i (1 - t) + f)^2 = c t is a quadratic in t; its smaller root lies in [0, 1].
        c, i, s = float(self.side) ** 2 * self.theta, self.lambda_i, self.lambda_i + self.lambda_f
        a, half_b, last = lam * i * i, lam * i * s + 0.5 * c, lam * s * s
        return np.asarray(last / (half_b + np.sqrt(half_b * half_b - a * last)))


@dataclass(frozen=True)
class _LogLinear(Schedule):
    """lambda = side^2 t 10^(lambda_i + (lambda_f - lambda_i) t), lambda_f > lambda_i (same)."""

    side: int
    lambda_i: float
    lambda_f: float
    kind: str = "log-linear"

    def __post_init__(self) -> None:
        check_whole("[lambdas] side", self.side)
        self._check(lambda_i=-math.inf)
        self._check(lambda_f=self.lambda_i)

    def _lambda(self, t: _Array) -> _Array:
        exponent = self.lambda_i + (self.lambda_f - self.lambda_i) * t
        return np.asarray(float(self.side) ** 2 * t * 10.0**exponent)

    def _t(self, lam: _Array) -> _Array:
        # With b = (lambda_f - lambda_i) ln 10: b t e^(b t) = b lambda / (side^2 10^lambda_i).
        from scipy.special import lambertw

        b = (self.lambda_f - self.lambda_i) * math.log(10.0)
        scale = float(self.side) ** 2 * 10.0**self.lambda_i
        return np.asarray(lambertw(b * lam / scale).real / b)


@dataclass(frozen=True)
class _VariancePreserving(Schedule):
    """kappa_c^2 lambda = beta_min t + (beta_max - beta_min) t^2 / 2: DDPM's linear beta.

    With a cutoff kappa_c above every wave number all modes share abar = exp(-kappa_c^2 lambda):
    diffusion with white noise (arXiv 2006.11239 in the continuous form of arXiv 2011.13456).
    """

    cutoff: float
    beta_min: float = 0.1
    beta_max: float = 20.0
    kind: str = "variance-preserving"

    def __post_init__(self) -> None:
        self._check(cutoff=0.0, beta_min=0.0, beta_max=self.beta_min)

    def _lambda(self, t: _Array) -> _Array:
        grown = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t
        return grown / self.cutoff**2

    def _t(self, lam: _Array) -> _Array:
        slope, grown = self.beta_max - self.beta_min, self.cutoff**2 * lam
        root = np.sqrt(self.beta_min**2 + 2.0 * slope * grown)
        return np.asarray(2.0 * grown / (self.beta_min + root))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "geometric": _Geometric,
    "linear": _Linear,
    "log-linear": _LogLinear,
    "variance-preserving": _VariancePreserving,
}

# -- chains ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuning:
    """Numbers of the chain and of the spin denoiser that suit one system.

    They belong to the weights and are kept in their record where they differ from the defaults.
    These were chosen on critical 2D Ising configurations of 64^2 and 128^2, by trial on tuning
    configurations that no result is reported on, and never change: weights without a record mean
    them. Lambda is in sites squared.

    Attributes
    ----------
    lambda_end : last evaluation of a chain. X_t shows all but 1 spin in 100 there.
    rule_end : by rule, `Rule.end_lambda` where it is other than the rule's own.
    alone, first, second, parts : mean-field iterations without a network, before and after it, and
        after a part of the spins has been sampled.
    rate, momentum : of the damped iteration, m += rate (tanh(l / 2) - m) + momentum (m - m before):
        after 8 iterations at lambda = 0.59 five times nearer its end than with 0.4 and 0.3.
    sure : lambda below which the sign of sqrt(abar) X_t is the spin at all but a few sites; only a
        start at the spins themselves converges there.
    steps, octave : over grids, evaluations on the lattice, and on each coarser grid.
    flow_above : lambda above which a chain follows the flow of spins; below, it samples them. From
        2.8 on, sampling them costs an energy of +0.004 from noise on 128^2; given block means by 4
        it is then off by +0.0019(4), not +0.0012(4), given decimated spins by +0.0057(14), not
        +0.0033(14).
    same_temperature : largest relative distance from the weights' temperature that is refined
        without `any_system`.
    poor_misfit : share of the input's rms that the low-pass field of refined spins may be off by
        before a warning asks whether the input is of this system; the shipped weights reach 0.08.
    """

    lambda_end: float = 0.1
    rule_end: Mapping[str, float] = field(default_factory=dict)
    alone: int = 8
    first: int = 4
    second: int = 2
    parts: int = 2
    rate: float = 0.7
    momentum: float = 0.2
    sure: float = 0.05
    steps: int = 8
    octave: int = 6
    flow_above: float = 0.9
    same_temperature: float = 0.005
    poor_misfit: float = 0.2


USUAL = Tuning()
"""What weights without a record of their own mean."""
_START_SEES, _NOISE_SEES = 0.35, 0.2
"""Most of the power of a mode that may be left where a chain starts: of a coarse lattice's finest
one for refining (the paper's chains by 4: 0.30), of the longest one for what starts from noise."""


@dataclass(frozen=True)
class Chain:
    """How a chain runs; what is None follows from where it starts and from the weights.

    Attributes
    ----------
    steps : evaluations of the denoiser per sample; over grids, those on the lattice.
    sampler : of `equations.STEPS`, or a step of one's own.
    lambda_start, lambda_end : its ends.
    """

    steps: int | None = option(
        None,
        "Evaluations of the denoiser per sample, over grids those on the lattice.  [default: 8]",
    )
    sampler: str | Step | None = option(
        None,
        "stochastic, mixed, ancestral (the paper's), angle1 or angle3.  [default: mixed of spins,"
        " angle3 of v, ancestral of eps]",
    )
    lambda_start: float | None = option(None, "Where it starts, in sites squared.")
    lambda_end: float | None = option(None, "Where its last evaluation is, in sites squared.")

    def __post_init__(self) -> None:
        from skild_phys.skild.equations import make_step

        if self.steps is not None:
            check_whole("steps", self.steps)
        if self.sampler is not None:
            make_step(self.sampler)
        for name in ("lambda_start", "lambda_end"):
            if not isinstance(value := getattr(self, name), Real | None):
                raise BadInput(name, value, "a number")

    def refining(self, weights: Weights, rule: Rule, factor: int, shape: tuple[int, ...]) -> _Array:
        """Return the lambdas of a chain that refines by `factor`; raises BadInput.

        Over grids it starts at the end of the coarsest one on which networks learn from such coarse
        lattices; elsewhere where the finest mode of these is erased.
        """
        start, end = self.lambda_start, self.lambda_end
        if start is None:
            start = _open_from(weights, rule, factor, shape) or starting_lambda(factor)
        if end is None and weights.output == "logits":
            own = weights.tuning.rule_end.get(rule.name, rule.end_lambda)
            end = None if own is None else max(own, weights.lambda_range[0])
        return self._lambdas(weights, shape, start, end)

    def refining_images(self, weights: Weights, factor: float, shape: tuple[int, ...]) -> _Array:
        """Return the lambdas of a chain that refines images by `factor` to `shape`.

        Raises BadInput.
        """
        start = self.lambda_start
        if start is None:
            start = _image_start(weights, factor) if weights.window is None else None
        start = starting_lambda(factor) if start is None else start
        return self._lambdas(weights, shape, start)

    def generating(self, weights: Weights, shape: tuple[int, ...], factor: int | None) -> _Array:
        """Return the lambdas of a chain from noise, or from a truth; raises BadInput.

        From noise it starts where no mode is left, or at the largest lambda that the weights have
        seen; from a truth where refinement by `factor` would.
        """
        start = self.lambda_start
        if start is None and factor is not None:
            one_grid = weights.channels and weights.window is None
            start = _image_start(weights, factor) if one_grid else starting_lambda(factor)
        elif start is None and weights.window is None:
            start = _noise_start(weights, weights.process(shape).basis.lowest)
        return self._lambdas(weights, shape, start)

    def sampler_for(self, weights: Weights) -> Sampler:
        """Return the sampler: the usual one of the weights if none is asked for.

        That is the paper's for weights as in the paper, and the flow of probability for other
        fields, whose spectrum need not be that of the data.
        """
        if self.sampler is not None:
            return self.sampler
        if weights.output == "logits":
            return "mixed"
        return "ancestral" if weights.output in ("eps", "white_eps") else "angle3"

    def _lambdas(
        self, weights: Weights, shape: tuple[int, ...], start: float | None,
        end: float | None = None,
    ) -> _Array:  # fmt: skip
        """Return the lambdas of a chain, over grids or along the schedule of the weights.

        Raises BadInput if it leaves what the weights have seen in training.
        """
        from skild_phys.skild.levels import lambdas_on_grids

        (low, high), schedule, tuning = weights.lambda_range, weights.schedule, weights.tuning
        if self.lambda_end is not None:
            end = self.lambda_end
        elif end is None:
            end = low if schedule else max(tuning.lambda_end, low)
        first = high if start is None else start
        if not (low <= end < first <= high and end > 0):
            accepted = f"{low:.3g} <= end < start <= {high:.3g}, what the weights have seen"
            wrong = first > high or first <= low
            option, value = ("lambda_start", first) if wrong else ("lambda_end", end)
            raise BadInput(option, value, accepted)
        if weights.window is None:
            assert schedule is not None
            t = schedule.inverse(np.array([first, end]))
            usual = 1 + max(1, round(TIMES * float(t[0] - t[1])))
            return schedule.lambdas(first, end, self.steps or usual)
        steps, grids = self.steps or tuning.steps, (shape, weights.basis, weights.window)
        lambdas = lambdas_on_grids(*grids, start, end, steps, tuning.octave)
        if lambdas[-1] > lambdas[-steps]:
            accepted = f"below {lambdas[-steps]:.3g}, where a chain comes to the lattice"
            raise BadInput("lambda_end", end, accepted)
        return lambdas


@functools.lru_cache(maxsize=64)
def _open_from(weights: Weights, rule: Rule, factor: int, shape: tuple[int, ...]) -> float | None:
    """Return where the coarsest grid begins of which a coarse lattice leaves something open.

    None without grids, or for a rule that these know nothing of.
    """
    from skild_phys.skild.levels import OPEN, Known

    window, responses = weights.window, weights.responses
    if window is None or (rule.linear is None and rule.name not in responses):
        return None
    (lattice, _), *coarser = weights.grids(shape)
    for grid, _ in reversed(coarser):
        far = window[1] * grid.spacing**2
        if Known.left_open(rule, factor, lattice, grid, responses, far) > OPEN:
            return far
    return window[1]


def _noise_start(weights: Weights, lowest: float) -> float:
    """Return where a chain from noise starts: where no mode is left, `lowest` the longest.

    That is the end of a schedule; raises BadInput if most of the longest mode is left there:
    weights for super-resolution.
    """
    high = weights.lambda_range[1]
    longest = lowest if weights.cutoff is None else weights.cutoff
    if math.exp(-(longest**2) * high) > _NOISE_SEES:
        accepted = "weights that begin with noise: these begin with an image, coarse or true"
        raise BadInput("checkpoint", f"lambda up to {high:.3g}", accepted)
    return high


def _image_start(weights: Weights, factor: float) -> float:
    """Return where chains that refine images start, as far as the weights have seen.

    Raises BadInput if the coarse lattice's finest mode is still to be seen there. A cutoff above
    it, as of white noise, erases it sooner.
    """
    high = weights.lambda_range[1]
    lowest = math.sqrt(math.log(1.0 / _START_SEES) / high)  # what may have been seen of it
    if max(math.pi / factor, weights.cutoff or 0.0) < lowest:
        accepted = f"at most {math.pi / lowest:.2g}, which these weights were trained for"
        raise BadInput("factor", factor, accepted)
    return min(starting_lambda(factor), high)


def starting_lambda(factor: float) -> float:
    """Return where the coarse lattice's Nyquist mode, kappa = pi / factor, is past its transition.

    It has abar = exp(-pi^2 / 4) there, so that a chain from there on need not know anything finer.
    """
    return factor**2 / 4.0
