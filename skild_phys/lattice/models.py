"""Lattice models: what the Hamiltonian is and where it is critical."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput


@dataclass(frozen=True)
class Ising2D:
    """Ising model on the periodic square lattice, H = -J sum_<ij> s_i s_j, s = +-1, J = k_B = 1.

    On a lattice two sites wide each pair of neighbours shares two bonds, one each way round.
    The critical temperature is Onsager's, 2 / ln(1 + sqrt 2).
    """

    name: str = "ising2d"
    critical_temperature: float = 2.0 / math.log1p(math.sqrt(2.0))

    def energy(self, spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return the energy per site, in J, of lattices `spins` of shape (..., Ly, Lx)."""
        s = np.asarray(spins, dtype=np.int8)
        bonds = (s * np.roll(s, -1, axis=-1)).sum(axis=(-2, -1), dtype=np.int64)
        bonds += (s * np.roll(s, -1, axis=-2)).sum(axis=(-2, -1), dtype=np.int64)
        energy: NDArray[np.float64] = -bonds / (s.shape[-1] * s.shape[-2])
        return energy

    def magnetization(self, spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return the (signed) magnetization per site of lattices of shape (..., Ly, Lx)."""
        s = np.asarray(spins, dtype=np.int8)
        total: NDArray[np.float64] = s.sum(axis=(-2, -1), dtype=np.int64) / (
            s.shape[-1] * s.shape[-2]
        )
        return total


MODELS = {"ising2d": Ising2D()}


def get_model(name: str) -> Ising2D:
    """Return the model called `name`; raises BadInput naming the known ones."""
    if name not in MODELS:
        raise BadInput("--model", name, " or ".join(MODELS))
    return MODELS[name]


def parse_temperature(text: str | float, model: Ising2D) -> float:
    """Return a temperature in J / k_B from a number, `Tc`, or a multiple such as `1.05Tc`."""
    match = re.fullmatch(r"\s*([0-9.eE+-]*?)\s*\*?\s*(T_?c)?\s*", str(text))
    accepted = "a positive number, Tc, or a multiple such as 1.05Tc"
    if match is None or not (match[1] or match[2]):
        raise BadInput("--T", str(text), accepted)
    try:
        value = float(match[1]) if match[1] else 1.0
    except ValueError:
        raise BadInput("--T", str(text), accepted) from None
    if match[2]:
        value *= model.critical_temperature
    if not (math.isfinite(value) and value > 0):
        raise BadInput("--T", str(text), accepted)
    return value
