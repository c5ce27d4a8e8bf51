"""Where lambda goes: sqrt(lambda) is the length, in sites, below which detail has been erased.

A schedule is a monotonic map from t in [0, 1] to lambda with its inverse; a leg of a chain takes
steps that are equal in t, between any two lambdas (`chain.Chain`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw

from skild_phys.errors import BadInput, check_whole

_Array = NDArray[np.float64]


ERASED = 9.0
"""-log abar of a mode of which nothing is left."""
TIMES = 1000
"""Training along a schedule draws t from 1/TIMES, 2/TIMES, ... 1, the paper's N steps."""


class Schedule(ABC):
    """lambda(t), increasing in t of [0, 1], in sites squared, and its inverse; float64 arrays."""

    kind: str
    """Of SCHEDULES."""

    def __call__(self, t: float | _Array) -> _Array:
        return np.asarray(self._lambda(np.asarray(t, dtype=np.float64)))

    def inverse(self, lam: float | _Array) -> _Array:
        """Return the t at which lambda is `lam`."""
        return np.asarray(self._t(np.asarray(lam, dtype=np.float64)))

    @abstractmethod
    def _lambda(self, t: _Array) -> _Array: ...

    @abstractmethod
    def _t(self, lam: _Array) -> _Array: ...

    def _check(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"[lambdas] {name}", getattr(self, name), "a number above 0")

    def _check_order(self, low: str, high: str) -> None:
        if not 0 < getattr(self, low) < getattr(self, high) < math.inf:
            accepted = f"a number above 0, below {high} = {getattr(self, high)}"
            raise BadInput(f"[lambdas] {low}", getattr(self, low), accepted)


@dataclass(frozen=True)
class Geometric(Schedule):
    """lambda = low (high / low)^t, uniform in log lambda.

    abar depends on kappa^2 lambda alone, so every mode crosses its transition at the same pace.
    """

    low: float
    high: float
    kind: str = "geometric"

    def __post_init__(self) -> None:
        self._check_order("low", "high")

    def _lambda(self, t: _Array) -> _Array:
        return self.low * (self.high / self.low) ** t

    def _t(self, lam: _Array) -> _Array:
        return np.asarray(np.log(lam / self.low) / math.log(self.high / self.low))


@dataclass(frozen=True)
class Linear(Schedule):
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
        self._check("side", "theta", "lambda_i", "lambda_f")

    def _lambda(self, t: _Array) -> _Array:
        scale = float(self.side) ** 2 * self.theta
        return scale * t / (self.lambda_i * (1.0 - t) + self.lambda_f) ** 2

    def _t(self, lam: _Array) -> _Array:
        # lam (i (1 - t) + f)^2 = c t is a quadratic in t; its smaller root lies in [0, 1].
        c, i, s = float(self.side) ** 2 * self.theta, self.lambda_i, self.lambda_i + self.lambda_f
        a, half_b, last = lam * i * i, lam * i * s + 0.5 * c, lam * s * s
        return np.asarray(last / (half_b + np.sqrt(half_b * half_b - a * last)))


@dataclass(frozen=True)
class LogLinear(Schedule):
    """lambda = side^2 t 10^(lambda_i + (lambda_f - lambda_i) t) (arXiv 2605.26032).

    It increases for every lambda_f above lambda_i.
    """

    side: int
    lambda_i: float
    lambda_f: float
    kind: str = "log-linear"

    def __post_init__(self) -> None:
        check_whole("[lambdas] side", self.side)
        if not -math.inf < self.lambda_i < self.lambda_f < math.inf:
            accepted = f"a number above lambda_i = {self.lambda_i}"
            raise BadInput("[lambdas] lambda_f", self.lambda_f, accepted)

    def _lambda(self, t: _Array) -> _Array:
        exponent = self.lambda_i + (self.lambda_f - self.lambda_i) * t
        return np.asarray(float(self.side) ** 2 * t * 10.0**exponent)

    def _t(self, lam: _Array) -> _Array:
        # With b = (lambda_f - lambda_i) ln 10: b t e^(b t) = b lambda / (side^2 10^lambda_i).
        b = (self.lambda_f - self.lambda_i) * math.log(10.0)
        scale = float(self.side) ** 2 * 10.0**self.lambda_i
        return np.asarray(lambertw(b * lam / scale).real / b)


@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """kappa_c^2 lambda = beta_min t + (beta_max - beta_min) t^2 / 2: DDPM's linear beta.

    With a cutoff kappa_c above every wave number all modes share abar = exp(-kappa_c^2 lambda):
    diffusion with white noise (arXiv 2006.11239 in the continuous form of arXiv 2011.13456).
    """

    cutoff: float
    beta_min: float = 0.1
    beta_max: float = 20.0
    kind: str = "variance-preserving"

    def __post_init__(self) -> None:
        self._check("cutoff")
        self._check_order("beta_min", "beta_max")

    def _lambda(self, t: _Array) -> _Array:
        grown = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t
        return grown / self.cutoff**2

    def _t(self, lam: _Array) -> _Array:
        slope, grown = self.beta_max - self.beta_min, self.cutoff**2 * lam
        root = np.sqrt(self.beta_min**2 + 2.0 * slope * grown)
        return np.asarray(2.0 * grown / (self.beta_min + root))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "geometric": Geometric,
    "linear": Linear,
    "log-linear": LogLinear,
    "variance-preserving": VariancePreserving,
}


def schedule_from_record(record: dict[str, Any] | None) -> Schedule | None:
    """Return the schedule whose fields `record` holds; KeyError or TypeError if none has them."""
    return None if record is None else SCHEDULES[record["kind"]](**record)


def chain_lambdas(schedule: Schedule, start: float, end: float, steps: int) -> _Array:
    """Return `steps` lambdas from `start` down to `end`, both included, equal in t."""
    check_whole("steps", steps)
    if steps == 1:
        return np.array([start])
    t = np.linspace(float(schedule.inverse(start)), float(schedule.inverse(end)), steps)
    lambdas = np.asarray(schedule(t), dtype=np.float64)
    lambdas[0], lambdas[-1] = start, end
    return lambdas
