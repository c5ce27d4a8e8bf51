"""What every lattice model says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model(ABC):
    """A Hamiltonian on a periodic lattice; J = k_B = 1.

    A lattice two sites wide has two bonds between each pair of neighbours along that axis, one
    each way round.

    Attributes
    ----------
    name : by which commands and stores call it.
    dimension : of the lattice: 2 (y, x) or 3 (z, y, x).
    values : what a site may hold, as int8.
    field : name of the store's variable that holds the lattices.
    critical_temperature : in J / k_B.
    symmetries : what every site's value may be changed to without a cost in energy: tuples as
        long as `values`, what each of them becomes, the identity among them. None by default.
    bond : energy, in J, that breaking a bond between equal nearest neighbours costs, if the
        Hamiltonian is a sum over such bonds and nothing else; None (the default) for any other.
        Fortuin-Kasteleyn clusters and exact conditional sampling need it.
    """

    name: str
    dimension: int
    values: tuple[int, ...]
    field: str
    critical_temperature: float
    symmetries: tuple[tuple[int, ...], ...] = ()
    bond: float | None = None

    @abstractmethod
    def energy(self, lattices: NDArray[np.int8]) -> Array:
        """Return the energy per site, in J, of lattices (..., Ly, Lx) or (..., Lz, Ly, Lx)."""

    @abstractmethod
    def magnetization(self, lattices: NDArray[np.int8]) -> Array:
        """Return the order parameter per site of lattices of the same shapes."""

    @property
    def even(self) -> bool:
        """Whether a change of sign of all values is a symmetry."""
        return tuple(-value for value in self.values) in self.symmetries

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of an array that are the lattice's: the last ones."""
        return tuple(range(-self.dimension, 0))

    def sites(self, lattices: NDArray[Any]) -> int:
        """Return the number of sites of one lattice."""
        return int(np.prod(lattices.shape[-self.dimension :]))
