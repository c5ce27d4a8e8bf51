"""The q-state Potts model: H = -J sum_<ij> delta(s_i, s_j), s = 0 .. q - 1, square lattice."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skild_phys.models.base import Array, Model, equal_bonds


class Potts(Model):
    """Potts model; the order parameter is (q n - N) / ((q - 1) N), n the commonest state's sites.

    It is 0 where all states are equally common and 1 where there is only one. At q = 2 the model
    is Ising's: energies are (e_Ising - 2) / 2 and temperatures half of Ising's.
    """

    def energy(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        energy: Array = -equal_bonds(s, self.dimension) / self.sites(s)
        return energy

    def order_parameter(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        most = np.max([(s == value).sum(axis=self.axes) for value in self.values], axis=0)
        order: Array = (self.q * (most / self.sites(s)) - 1.0) / (self.q - 1.0)
        return order

    @classmethod
    def of(cls, q: int) -> Potts:
        """Return the q-state model; its Tc on the square lattice is 1 / ln(1 + sqrt q), exactly."""
        shifts = tuple(tuple((state + shift) % q for state in range(q)) for shift in range(q))
        return cls(
            f"potts{q}", 2, tuple(range(q)), "states", 1.0 / math.log1p(math.sqrt(q)), shifts,
            bond=1.0, source="F. Y. Wu, Rev. Mod. Phys. 54, 235 (1982)",
        )  # fmt: skip


POTTS = tuple(Potts.of(q) for q in range(2, 9))
"""q = 2 .. 8; the transition is continuous up to q = 4 and of first order from q = 5 on."""
