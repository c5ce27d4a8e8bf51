"""Grids for every scale: at lambda a field lives where its finest mode is just being erased.

Level 0 is the lattice itself, level j a grid of spacing s = 2^j (as near as whole sides allow).
Lambda / s^2 runs over the same octave of lengths on each, the window: above its upper end the next
coarser grid says all there is, below the lower end the next finer one is due.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rng import Streams, uniform
from skild_phys.rules.base import Operator, Rule
from skild_phys.skild.equations import Process

_FIRST_SWEEPS, _SWEEPS, _REACH = 20, 5, 6  # of truncated blocks; how far one is pulled by others
_COARSEST = {"dft": 4, "dct": 2}  # sites of the coarsest grid: it has the longest waves alone

MISSED_AT: tuple[float, ...] = tuple(np.geomspace(0.02, 20.0, 13).tolist())
"""kappa^2 lambda at which a table of `Missed` stands."""
Missed = tuple[tuple[float, ...], ...]
"""rho by level (1, 2, ..; the last for all coarser grids) and kappa^2 lambda: Var[Y_0 | X_t] as a
share of 1 - abar, what it would be of a Gaussian field."""


def grid_sides(shape: tuple[int, ...], basis: str) -> Iterator[tuple[int, ...]]:
    """Yield the sides of the grids of a lattice, the lattice itself first."""
    sides, spacing = shape, 1
    yield sides
    while max(sides) > _COARSEST[basis]:
        spacing *= 2
        sides = tuple(-(-side // spacing) for side in shape)
        yield sides


def spacings(shape: tuple[int, ...], basis: str) -> list[float]:
    """Return the spacing of each grid (`Process.spacing`), 1 of the lattice first."""
    grids = grid_sides(shape, basis)
    return [max(side / n for side, n in zip(shape, grid, strict=True)) for grid in grids]


def lambdas_on_grids(
    shape: tuple[int, ...], basis: str, window: tuple[float, float], start: float | None,
    end: float, steps: int, octave: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the lambdas of a chain: on each grid equal in log lambda, to the end of its window.

    Parameters
    ----------
    start : None for noise: the upper end of the coarsest grid's window.
    steps : evaluations on the lattice, the last at `end`.
    octave : evaluations on each coarser grid, of the whole window.
    """
    own = spacings(shape, basis)
    most = window[1] * own[-1] ** 2
    at = most if start is None else min(start, most)
    legs = []
    for spacing in own[:0:-1]:
        low = window[0] * spacing**2
        if at > low:
            n = max(1, round(octave * math.log(at / low) / math.log(window[1] / window[0])))
            legs.append(np.geomspace(at, low, n + 1)[:-1])
            at = low
    return np.concatenate([*legs, np.geomspace(at, end, steps)])


def coarse_alone(rule: Rule, raw: NDArray[Any], factor: int, process: Process) -> Tensor:
    """Return what coarse values say of a field by themselves: its mean, were it Gaussian.

    E[x | A x = y] of a Gaussian field with spectrum P, as orthonormal modes (n, *modes) of the
    lattice of `process`; of majorities y are their signs, scaled (`Rule.values`).
    """
    operator, power = rule.proxy(process.shape, factor), process.power.cpu().numpy()
    values = rule.values(raw, operator, power)
    found = operator.correct(np.zeros((len(raw), *process.shape)), values, power)
    fields = torch.from_numpy(found.astype(np.float32)).to(process.kappa2.device)
    return process.lattice_modes(fields)


class Seen:
    """What a coarse-graining says of a field on a grid: y(K) = sum of h x over aliases, or sign y.

    With independent modes of variance Sigma the mean of x given A x = y is

        x + Sigma A^T C^-1 (y - A x),    C = A Sigma A^T,

    where C is diagonal in K (`rules.base.Operator`). Samples of x, moved by this, are samples given
    A x = y (Matheron). On a grid A x is what the grid's modes give; those that it lacks have their
    share in C. Where only the signs of y are known, y is sampled first: a normal distribution of
    covariance C, truncated, by Gibbs sweeps over the blocks that resume from one step to the next.

    Parameters
    ----------
    operator : A, on the lattice.
    values : y (n, *coarse sides), or numbers with its signs.
    process : of fields on the grid.
    power : P of the lattice's modes, rfftn layout.
    streams : one for each configuration.
    signs : whether only the signs of y are known.
    """

    def __init__(
        self, operator: Operator, values: NDArray[np.float64], process: Process,
        power: NDArray[np.float64], streams: Sequence[Streams], signs: bool = False,
    ) -> None:  # fmt: skip
        self.process, self.streams, self.y, self.signs = process, streams, values.copy(), signs
        d, sides, self._coarse = len(process.shape), process.lattice, operator.coarse
        self._axes, self._begun = tuple(range(-d, 0)), False
        unit = operator.factor ** (-0.5 * d)
        waves = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(np.int64) for n in process.shape]
        there = [
            (2 * np.abs(m) < n) | (n == side) for m, n, side in zip(waves, process.shape, sides)
        ]
        transfer = [operator.filter(n)[m % n] * ok for n, m, ok in zip(sides, waves, there)]
        self._aliases = [m % side for m, side in zip(waves, self._coarse)]
        self._size = 1.0 / math.sqrt(process.share)  # of a lattice's mode, in the grid's units
        self._h = _outer(transfer) * unit
        rest = np.abs(_outer([operator.filter(n) for n in sides]) * unit) ** 2
        rest = rest * _whole(power, sides)
        rest[np.ix_(*(m[ok] % n for m, ok, n in zip(waves, there, sides)))] = 0.0
        split = [n for side in self._coarse for n in (operator.factor, side)]
        self._rest = rest.reshape(split).sum(axis=tuple(range(0, 2 * d, 2)))

    def _summed(self, modes: NDArray[Any]) -> NDArray[Any]:
        """Return sums over the alias sets of the coarse lattice."""
        for axis, alias, side in zip(self._axes, self._aliases, self._coarse, strict=True):
            moved = np.moveaxis(modes, axis, 0)
            total = np.zeros((side, *moved.shape[1:]), dtype=modes.dtype)
            np.add.at(total, alias, moved)
            modes = np.moveaxis(total, 0, axis)
        return modes

    def mean(self, fields: Tensor, sigma: NDArray[np.float64]) -> Tensor:
        """Return fields (n, *grid) moved to their mean given y; `sigma` of the grid's modes."""
        return self._moved(fields, fields, sigma, sampled=False)

    def draw(self, means: Tensor, fields: Tensor, sigma: NDArray[np.float64]) -> Tensor:
        """Return samples `fields` of N(means, sigma) moved to samples given y."""
        return self._moved(means, fields, sigma, sampled=True)

    def _moved(
        self, means: Tensor, fields: Tensor, sigma: NDArray[np.float64], sampled: bool
    ) -> Tensor:
        whole = _whole(sigma, self.process.shape) * self._size**2
        total = self._summed(np.abs(self._h) ** 2 * whole) + self._rest
        rest = np.zeros((1, *self._coarse))
        if sampled and self._rest.any():
            white = [s.noise.standard_normal(self._coarse) for s in self.streams]
            rest = self._modes(np.stack(white)) * np.sqrt(self._rest)
        if self.signs:
            seen = self._modes(self._of(means), back=True)
            self._sample(seen, total)
        missing = self._modes(self.y) - self._of(fields) - rest
        missing = missing / np.maximum(total, 1e-30)
        spread = missing[(..., *np.ix_(*self._aliases))]
        moved = (whole / self._size) * self._h.conj() * spread
        change = np.fft.ifftn(moved, axes=self._axes, norm="ortho").real
        return fields + torch.from_numpy(change.astype(np.float32)).to(fields.device)

    def _of(self, fields: Tensor) -> NDArray[np.complex128]:
        """Return the modes of A x."""
        return self._summed(self._h * self._size * self._modes(fields.double().cpu().numpy()))

    def _modes(self, values: NDArray[Any], back: bool = False) -> NDArray[Any]:
        if back:
            return np.fft.ifftn(values, axes=self._axes, norm="ortho").real
        return np.fft.fftn(values, axes=self._axes, norm="ortho")

    def _sample(self, means: NDArray[np.float64], total: NDArray[np.float64]) -> None:
        """Sweep y (n, *coarse sides) given its signs, mean and covariance's spectrum `total`."""
        sweeps, self._begun = (_SWEEPS if self._begun else _FIRST_SWEEPS), True
        precision = np.fft.ifftn(1.0 / np.maximum(total, 1e-30)).real
        near = [np.arange(-min(_REACH, (n - 1) // 2), min(_REACH, n // 2) + 1)
                for n in self._coarse]  # fmt: skip
        offsets = np.stack(np.meshgrid(*near, indexing="ij"), -1).reshape(-1, len(near))
        offsets = offsets[np.any(offsets != 0, axis=1)]
        pull = precision[tuple(offsets.T)] / precision.flat[0]
        sites = np.moveaxis(np.indices(self._coarse), 0, -1).reshape(-1, 1, len(near))
        at = (sites + offsets) % np.array(self._coarse)
        others = np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), self._coarse)
        spread = 1.0 / math.sqrt(precision.flat[0])
        signs = np.where(self.y > 0, 1.0, -1.0)
        for i, stream in enumerate(self.streams):
            flat = self.y[i].ravel()
            _truncated(
                flat, means[i].ravel(), signs[i].ravel(), others.astype(np.int32), pull, spread,
                sweeps, stream.state,
            )  # fmt: skip
            self.y[i] = flat.reshape(self._coarse)


@njit(cache=True, nogil=True)
def _truncated(y, mean, sign, others, pull, spread, sweeps, state):  # type: ignore[no-untyped-def]
    """Gibbs sweeps of a normal distribution truncated to signs; `pull` is Q_ij / Q_ii."""
    for _ in range(sweeps):
        for i in range(y.size):
            at = mean[i]
            for k in range(pull.size):
                j = others[i, k]
                at -= pull[k] * (y[j] - mean[j])
            y[i] = at + spread * sign[i] * _beyond(-at * sign[i] / spread, state)


@njit(cache=True, nogil=True)
def _beyond(least, state):  # type: ignore[no-untyped-def]
    """Sample a standard normal number above `least` (Robert, Stat. Comput. 5, 121 (1995))."""
    if least < 0.4:
        while True:
            radius = math.sqrt(-2.0 * math.log(1.0 - uniform(state)))
            x = radius * math.cos(2.0 * math.pi * uniform(state))
            if x > least:
                return x
    rate = 0.5 * (least + math.sqrt(least * least + 4.0))
    while True:
        x = least - math.log(1.0 - uniform(state)) / rate
        if uniform(state) <= math.exp(-0.5 * (x - rate) ** 2):
            return x


def _outer(lines: list[NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(functools.reduce(np.multiply.outer, lines))


def _whole(half: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return variances of the modes of `rfftn` for all modes of `fftn`."""
    mirror = np.arange(1, (shape[-1] + 1) // 2)[::-1]
    opposite = [-np.arange(side) % side for side in shape[:-1]]
    return np.concatenate([half, half[np.ix_(*opposite, mirror)]], axis=-1)
