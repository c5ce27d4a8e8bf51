"""The Ising model: H = -J sum_<ij> s_i s_j, s = +-1, on the square and simple cubic lattice."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skild_phys.models.base import Array, Model
from skild_phys.models.geometry import equal_bonds


class Ising(Model):
    """Ising model without a field; the magnetization is the (signed) mean spin."""

    def energy(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        equal = equal_bonds(s, self.dimension)
        sites = self.sites(s)
        energy: Array = (self.dimension * sites - 2 * equal) / sites
        return energy

    def magnetization(self, lattices: NDArray[np.int8]) -> Array:
        s = np.asarray(lattices, dtype=np.int8)
        mean: Array = s.sum(axis=self.axes, dtype=np.int64) / self.sites(s)
        return mean


_SIGNS = ((-1, 1), (1, -1))

ISING_2D = Ising("ising2d", 2, (-1, 1), "spins", 2.0 / math.log1p(math.sqrt(2.0)), _SIGNS, 2.0)
"""Square lattice; Tc is Onsager's, 2 / ln(1 + sqrt 2)."""

ISING_3D = Ising("ising3d", 3, (-1, 1), "spins", 1.0 / 0.221654626, _SIGNS, 2.0)
"""Simple cubic lattice; Kc = 0.221654626(5), Ferrenberg, Xu and Landau, arXiv:1806.03558."""
