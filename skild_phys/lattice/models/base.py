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
    """

    name: str
    dimension: int
    values: tuple[int, ...]
    field: str
    critical_temperature: float

    @abstractmethod
    def energy(self, lattices: NDArray[np.int8]) -> Array:
        """Return the energy per site, in J, of lattices (..., Ly, Lx) or (..., Lz, Ly, Lx)."""

    @abstractmethod
    def magnetization(self, lattices: NDArray[np.int8]) -> Array:
        """Return the order parameter per site of lattices of the same shapes."""

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of an array that are the lattice's: the last ones."""
        return tuple(range(-self.dimension, 0))

    def sites(self, lattices: NDArray[Any]) -> int:
        """Return the number of sites of one lattice."""
        return int(np.prod(lattices.shape[-self.dimension :]))
