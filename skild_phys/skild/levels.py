"""Grids for every scale: at lambda a field lives where its finest mode is just being erased.

Level 0 is the lattice itself, level j a grid of spacing s = 2^j (as near as whole sides allow).
Lambda / s^2 runs over the same octave of lengths on each, the window: above its upper end the next
coarser grid says all there is, below the lower end the next finer one is due.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.base import Operator
from skild_phys.skild.equations import Process

_COARSEST = 4  # sides of the coarsest grid: its only modes are the longest waves


def grid_sides(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the sides of the grids of a lattice, the lattice itself first."""
    sides, spacing = shape, 1
    yield sides
    while max(sides) > _COARSEST:
        spacing *= 2
        sides = tuple(-(-side // spacing) for side in shape)
        yield sides


def spacings(shape: tuple[int, ...]) -> list[float]:
    """Return the spacing of each grid in sites, 1 of the lattice first, a mean over the axes."""
    sites = [math.prod(sides) for sides in grid_sides(shape)]
    return [(sites[0] / one) ** (1.0 / len(shape)) for one in sites]


def lambdas_on_grids(
    shape: tuple[int, ...], window: tuple[float, float], start: float | None, end: float,
    steps: int, octave: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the lambdas of a chain: on each grid equal in log lambda, to the end of its window.

    Parameters
    ----------
    start : None for noise: the upper end of the coarsest grid's window.
    steps : evaluations on the lattice, the last at `end`.
    octave : evaluations on each coarser grid, of the whole window.
    """
    own = spacings(shape)
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


class Seen:
    """What a linear coarse-graining says of a field on a grid: y(K) = sum of h x over aliases.

    With independent modes of variance Sigma the mean of x given A x = y is

        x + Sigma A^T D^-1 (y - A x),    D = A Sigma A^T,

    where D is diagonal in K (`rules.base.Operator`). On a grid A x is what the grid's modes give;
    those that it lacks add to D what they are expected to.

    Parameters
    ----------
    operator : A, on the lattice.
    values : y (n, *coarse sides).
    process : of fields on the grid.
    power : P of the lattice's modes, rfftn layout.
    """

    def __init__(
        self, operator: Operator, values: NDArray[Any], process: Process, power: NDArray[Any]
    ) -> None:
        self.process, d = process, len(process.shape)
        device = process.kappa2.device
        axes = tuple(range(-d, 0))
        y = torch.as_tensor(np.asarray(values), dtype=torch.float64, device=device)
        self.wanted = torch.fft.fftn(y, dim=axes, norm="ortho").to(torch.complex64)
        unit = operator.factor ** (-0.5 * d)
        self._axes, self._coarse = axes, operator.coarse
        lines = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) for n in process.shape]
        sides = process.lattice
        inside = [
            (2 * np.abs(m) < n) | (n == side) for m, n, side in zip(lines, process.shape, sides)
        ]
        transfer = [
            operator.filter(side)[m % side] * ok for side, m, ok in zip(sides, lines, inside)
        ]
        self._aliases = [
            torch.as_tensor(m % side, device=device) for m, side in zip(lines, self._coarse)
        ]
        h = _outer(transfer) * unit
        # Fields of the grid have values, modes of the lattice the size that the lattice gives them.
        self._size = process.spacing ** (0.5 * d)
        self.h = torch.as_tensor(h, dtype=torch.complex64, device=device)
        whole = [operator.filter(side) for side in sides]
        every = np.abs(_outer(whole) * unit) ** 2 * _whole(power, sides)
        rest = every.copy()
        ix = np.ix_(*(m[ok] % side for m, ok, side in zip(lines, inside, sides)))
        rest[ix] = 0.0
        split = [n for side in self._coarse for n in (operator.factor, side)]
        rest = rest.reshape(split).sum(axis=tuple(range(0, 2 * d, 2)))
        self._rest = torch.as_tensor(rest, device=device)
        self._h2 = self.h.abs().double() ** 2

    def _summed(self, modes: Tensor) -> Tensor:
        """Return sums over the alias sets of the coarse lattice."""
        for axis, alias, side in zip(self._axes, self._aliases, self._coarse, strict=True):
            shape = list(modes.shape)
            shape[axis] = side
            modes = torch.zeros(shape, dtype=modes.dtype, device=modes.device).index_add_(
                axis % modes.dim(), alias, modes
            )
        return modes

    def correct(self, fields: Tensor, sigma: Tensor) -> Tensor:
        """Return fields (n, *grid) moved to their mean given y; `sigma` of the grid's modes."""
        whole = torch.as_tensor(_whole(sigma.cpu().numpy(), self.process.shape)).to(self.h.device)
        whole = whole * self._size**2
        total = self._summed(self._h2 * whole) + self._rest
        modes = torch.fft.fftn(fields, dim=self._axes, norm="ortho") * self._size
        missing = (self.wanted - self._summed(self.h * modes)) / total.clamp(min=1e-30).float()
        spread = missing[(..., *np.ix_(*(alias.numpy() for alias in self._aliases)))]
        moved = (whole.float() / self._size) * self.h.conj() * spread
        change: Tensor = torch.fft.ifftn(moved, dim=self._axes, norm="ortho").real
        return fields + change


def _outer(lines: list[NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(functools.reduce(np.multiply.outer, lines))


def _whole(half: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return variances of the modes of `rfftn` for all modes of `fftn`."""
    mirror = np.arange(1, (shape[-1] + 1) // 2)[::-1]
    opposite = [-np.arange(side) % side for side in shape[:-1]]
    return np.concatenate([half, half[np.ix_(*opposite, mirror)]], axis=-1)
