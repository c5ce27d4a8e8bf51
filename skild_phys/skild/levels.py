"""Grids for every scale: at lambda a field lives where its finest mode is just being erased.

Level 0 is the lattice itself, level j a grid of spacing s = 2^j (as near as whole sides allow).
Lambda / s^2 runs over the same octave of lengths on each, the window: above its upper end the next
coarser grid says all there is, below the lower end the next finer one is due.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from operator import truediv
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.base import Operator, Rule
from skild_phys.skild.equations import Guess, Process, each
from skild_phys.skild.response import Response

OPEN = 0.05
"""Share of the variance on a grid that a coarse lattice has to leave open to be learnt from there,
and for a chain that refines to begin there."""
_COARSEST = {"dft": 4, "dct": 2}  # sites of the coarsest grid: it has the longest waves alone


def coarser_grids(shape: tuple[int, ...], basis: str) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield sides and spacing of the grids of a lattice but itself, the finest first."""
    sides, by = shape, 1
    while max(sides) > _COARSEST[basis]:
        by *= 2
        sides = tuple(-(-side // by) for side in shape)
        yield sides, max(map(truediv, shape, sides))


def lambdas_on_grids(
    shape: tuple[int, ...], basis: str, window: tuple[float, float], start: float | None,
    end: float, steps: int, octave: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the lambdas of a chain: on each grid equal in log lambda, to the end of its window.

    Parameters
    ----------
    start : None for noise: the upper end of the coarsest grid's window.
    steps : evaluations on the lattice, the last at `end`; a single one is where it begins.
    octave : evaluations on each coarser grid, of the whole window.
    """
    own = [1.0, *(spacing for _, spacing in coarser_grids(shape, basis))]
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


class Known:
    """What a Gaussian field with spectrum P would be, on a grid, given X_t and a coarse lattice.

    A field of independent modes with mean m and variances Sigma has, given y = A x + noise,

        m + Sigma A^T C^-1 (y - A m),    C = A Sigma A^T + noise,

    where C is diagonal in K (`rules.base.Operator`): y(K) is a sum of h x over an alias set. X_t
    gives m = cos(theta) Y and Sigma = (1 - abar) P to the modes of the grid; those that it lacks
    have mean 0 and variance P. A rule that is not linear has a gain and noise by K (`Response`).

    Parameters
    ----------
    rule, factor : by which lattices were coarse-grained.
    raw : (n, *sides / factor), what a coarse store keeps of them.
    lattice, grid : the processes.
    responses : of rules that are not linear, by name; a rule that is not there must be.
    """

    def __init__(
        self, rule: Rule, raw: NDArray[Any], factor: int, lattice: Process, grid: Process,
        responses: Mapping[str, Response],
    ) -> None:  # fmt: skip
        power = lattice.power.cpu().numpy()
        operator = rule.proxy(lattice.shape, factor)
        gain: Any = 1.0
        noise: Any = 0.0
        values = np.asarray(raw, dtype=np.float64)
        if rule.name in responses:
            gain, noise = responses[rule.name](operator.coarse, factor)
        else:
            values = rule.values(raw, operator, power)
        self.grid, d, sides, self.coarse = grid, len(grid.shape), lattice.shape, operator.coarse
        self._axes = tuple(range(-d, 0))
        self._wanted = np.fft.fftn(values, axes=self._axes, norm="ortho")
        unit = operator.factor ** (-0.5 * d)
        waves = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(np.int64) for n in grid.shape]
        there = [(2 * np.abs(m) < n) | (n == side) for m, n, side in zip(waves, grid.shape, sides)]
        outer = functools.partial(functools.reduce, np.multiply.outer)
        transfer = [operator.filter(n)[m % n] * ok for n, m, ok in zip(sides, waves, there)]
        self._aliases = [m % side for m, side in zip(waves, self.coarse)]
        size = 1.0 / math.sqrt(grid.share)  # of a lattice's mode, in the grid's units
        self._spread: Any = (..., *np.ix_(*self._aliases))
        gains = np.broadcast_to(gain, self.coarse)
        self._h = outer(transfer) * unit * size * gains[self._spread]
        rest = np.abs(outer([operator.filter(n) for n in sides]) * unit) ** 2
        rest = rest * Operator.whole(power, sides)
        rest[np.ix_(*(m[ok] % n for m, ok, n in zip(waves, there, sides)))] = 0.0
        split = [n for side in self.coarse for n in (operator.factor, side)]
        self._rest = gains**2 * rest.reshape(split).sum(axis=tuple(range(0, 2 * d, 2))) + noise
        self._power = Operator.whole(grid.power.cpu().numpy(), grid.shape)

    def _summed(self, modes: NDArray[Any]) -> NDArray[Any]:
        """Return sums over the alias sets of the coarse lattice."""
        for axis, alias, side in zip(self._axes, self._aliases, self.coarse, strict=True):
            moved = np.moveaxis(modes, axis, 0)
            total = np.zeros((side, *moved.shape[1:]), dtype=modes.dtype)
            np.add.at(total, alias, moved)
            modes = np.moveaxis(total, 0, axis)
        return modes

    def __call__(self, y: Tensor, lam: Tensor) -> Guess:
        """Return what is known of Y_0 for whitened modes `y` (n, *modes) at `lam` (n,)."""
        grid, at = self.grid, each(lam, y)
        sigma = Operator.whole(grid.erased(at).cpu().numpy(), grid.shape) * self._power
        plain = grid.cosine(at) * y
        fields = grid.fields(plain).double().cpu().numpy()
        modes = np.fft.fftn(fields, axes=self._axes, norm="ortho")
        of_mode = np.abs(self._h) ** 2 * sigma
        total = np.maximum(self._summed(of_mode) + self._rest, 1e-30)
        missing = (self._wanted - self._summed(self._h * modes)) / total
        moved = sigma * self._h.conj() * missing[self._spread]
        change = np.fft.ifftn(moved, axes=self._axes, norm="ortho").real.astype(np.float32)
        mean = plain + grid.modes(torch.from_numpy(change).to(y.device))
        left = np.sqrt(np.clip(1.0 - of_mode / total[self._spread], 0.0, 1.0)).astype(np.float32)
        half = left[..., : grid.shape[-1] // 2 + 1]
        return Guess(mean, torch.from_numpy(half).to(y.device))

    @classmethod
    def left_open(
        cls, rule: Rule, factor: int, lattice: Process, grid: Process,
        responses: Mapping[str, Response], lam: float,
    ) -> float:  # fmt: skip
        """Return the share of the variance on `grid` that X_t and a coarse lattice leave open."""
        any_lattice = np.ones((1, *lattice.shape), dtype=np.int8)
        raw = rule.coarsen(any_lattice, factor, dimension=len(lattice.shape))
        known = cls(rule, raw, factor, lattice, grid, responses)
        white = grid.modes(torch.zeros(1, *grid.shape, device=grid.kappa2.device))
        at = torch.tensor([lam], dtype=torch.float64, device=grid.kappa2.device)
        return float(known(white, at).left(grid))
