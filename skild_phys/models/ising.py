"""The Ising model: H = -J sum_<ij> s_i s_j, s = +-1, on the square and simple cubic lattice."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skild_phys.models.base import Array, Model, equal_bonds


class Ising(Model):
    """Ising model without a field; the order parameter is the (signed) mean spin."""

    def energy(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        sites = self.sites(s)
        energy: Array = (self.dimension * sites - 2 * equal_bonds(s, self.dimension)) / sites
        return energy

    def order_parameter(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        mean: Array = s.sum(axis=self.axes) / self.sites(s)
        return mean


_SIGNS = ((-1, 1), (1, -1))

ISING_2D = Ising(
    "ising2d", 2, (-1, 1), "spins", 2.0 / math.log1p(math.sqrt(2.0)), _SIGNS, bond=2.0,
    source="L. Onsager, Phys. Rev. 65, 117 (1944): 2 / ln(1 + sqrt 2)",
)  # fmt: skip
"""Square lattice."""

ISING_3D = Ising(
    "ising3d", 3, (-1, 1), "spins", 1.0 / 0.221654626, _SIGNS, bond=2.0,
    source="A. M. Ferrenberg, J. Xu and D. P. Landau, arXiv:1806.03558: Kc = 0.221654626(5)",
)  # fmt: skip
"""Simple cubic lattice."""
