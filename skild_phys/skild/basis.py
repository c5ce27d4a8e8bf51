"""The orthonormal bases in which the process is diagonal: DFT on a torus, DCT-II on a box.

Both map real fields (..., Ly, Lx) to modes with E|X|^2 = P for each, and both know the wave
number kappa = |k|, in radians per site, of every mode. Sides may be odd and unequal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput

Array = NDArray[np.float64]


class Basis(ABC):
    """An orthonormal transform of real (Ly, Lx) fields.

    Attributes
    ----------
    shape : (Ly, Lx) of the fields.
    kappa : |k| of every mode, float64, of the modes' shape.
    lowest : the smallest kappa above 0.
    sites : Ly Lx.
    weight : how many modes of the full transform each mode stands for, of the modes' shape: a
        mode of the half-plane DFT stands for its complex conjugate too.
    mixing : (c, c) orthogonal, what channels are turned by before they are transformed; None for
        not at all.
    """

    name: str
    mixing: Tensor | None = None

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.kappa: Array = self._wave_numbers()
        above = self.kappa[self.kappa > 0]
        self.lowest = float(above.min()) if above.size else 2.0 * math.pi
        self.weight: Array = np.ones_like(self.kappa)
        self.sites = shape[0] * shape[1]

    @abstractmethod
    def _wave_numbers(self) -> Array: ...

    @abstractmethod
    def modes(self, fields: Tensor) -> Tensor:
        """Return the modes of real `fields` (..., Ly, Lx)."""

    @abstractmethod
    def fields(self, modes: Tensor) -> Tensor:
        """Return the real fields (..., Ly, Lx) of `modes`: the inverse of `modes`."""


class Torus(Basis):
    """The DFT of a periodic lattice, the half-plane of `rfft2`: modes (..., Ly, Lx // 2 + 1)."""

    name = "dft"

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        self.weight[:, 1 : (shape[1] + 1) // 2] = 2.0

    def _wave_numbers(self) -> Array:
        ky = 2.0 * np.pi * np.fft.fftfreq(self.shape[0])
        kx = 2.0 * np.pi * np.fft.rfftfreq(self.shape[1])
        return np.asarray(np.hypot(ky[:, None], kx[None, :]))

    def modes(self, fields: Tensor) -> Tensor:
        modes: Tensor = torch.fft.rfft2(fields, norm="ortho")
        return modes

    def fields(self, modes: Tensor) -> Tensor:
        fields: Tensor = torch.fft.irfft2(modes, s=self.shape, norm="ortho")
        return fields


class Box(Basis):
    """The DCT-II of a lattice with open (Neumann) edges: real modes (..., Ly, Lx).

    Two products with cosine matrices: exact for any side, and fast where images live (sides of a
    few hundred).
    """

    name = "dct"

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        self._y, self._x = (cosines(side) for side in shape)

    def _wave_numbers(self) -> Array:
        ky, kx = (np.pi * np.arange(side) / side for side in self.shape)
        return np.asarray(np.hypot(ky[:, None], kx[None, :]))

    def modes(self, fields: Tensor) -> Tensor:
        return self._y.to(fields) @ fields @ self._x.to(fields).T

    def fields(self, modes: Tensor) -> Tensor:
        return self._y.to(modes).T @ modes @ self._x.to(modes)


class Mixed(Basis):
    """Another basis for fields (..., channels, Ly, Lx) whose channels are turned by `mixing`."""

    def __init__(self, basis: Basis, mixing: Array) -> None:
        self.name, self._inner = basis.name, basis
        super().__init__(basis.shape)
        self.weight = basis.weight
        self.mixing = torch.from_numpy(np.ascontiguousarray(mixing))

    def _wave_numbers(self) -> Array:
        return self._inner.kappa

    def modes(self, fields: Tensor) -> Tensor:
        return self._inner.modes(turned(self.mixing, fields))

    def fields(self, modes: Tensor) -> Tensor:
        return turned(self.mixing, self._inner.fields(modes), back=True)


def turned(mixing: Tensor | None, fields: Tensor, back: bool = False) -> Tensor:
    """Return fields (..., channels, Ly, Lx) whose channels are turned by `mixing`, or back."""
    if mixing is None:
        return fields
    matrix = mixing.to(fields)
    return torch.einsum("kc,...cyx->...kyx", matrix.T if back else matrix, fields)


def cosines(side: int) -> Tensor:
    """Return the orthonormal DCT-II of a line of `side` sites, (mode, site) float64."""
    u, x = np.arange(side)[:, None], np.arange(side)[None, :]
    table = np.cos(np.pi * u * (x + 0.5) / side) * math.sqrt(2.0 / side)
    table[0] /= math.sqrt(2.0)
    return torch.from_numpy(table)


BASES: dict[str, type[Basis]] = {basis.name: basis for basis in (Torus, Box)}


def make_basis(name: str, shape: tuple[int, int]) -> Basis:
    """Return the basis `name` of BASES for fields of `shape`; raises BadInput."""
    if name not in BASES:
        raise BadInput("basis", name, " or ".join(BASES))
    return BASES[name](shape)
