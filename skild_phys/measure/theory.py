"""Exact values to draw beside an estimate, for the stores whose system has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.lattice.exact import kaufman_energy, torus_connected_four_point, torus_two_point
from skild_phys.lattice.models import MODELS

KAUFMAN = "exact on this lattice (Kaufman)"
KAUFMAN_POTTS = "exact on this lattice (Kaufman, of the Ising model at 2 T)"
TORUS = "continuum limit on the torus; within errors of the lattice for r >= 4"
SALAS_SOKAL = "limit of large L (cond-mat/9904038)"


@dataclass(frozen=True)
class Theory:
    """Values that an observable has in theory, and in which sense."""

    value: NDArray[np.float64]
    source: str


def theory(
    attrs: dict[str, Any], shape: tuple[int, ...], sides: NDArray[np.int64]
) -> dict[str, Theory]:
    """Return what is known, by name of the observable, for the system that `attrs` names.

    Empty for another model, a lattice that is not square, or attributes without a temperature.
    Correlations and magnetization are known at Tc only; NaN at r = 0 of G(r). Of the Potts model
    with q = 2, which is Ising's with e = (e_Ising(2 T) - 2) / 2, the energy is known.
    """
    model, temperature = attrs.get("model"), attrs.get("temperature")
    length = shape[0]
    if not isinstance(temperature, float | int) or shape != (length, length):
        return {}
    if model == "potts2":
        energy = (kaufman_energy(length, 2.0 * temperature) - 2.0) / 2.0
        return {"energy": Theory(np.asarray(energy), KAUFMAN_POTTS)}
    if model != "ising2d":
        return {}
    known = {"energy": Theory(np.asarray(kaufman_energy(length, temperature)), KAUFMAN)}
    if not math.isclose(temperature, MODELS["ising2d"].critical_temperature, rel_tol=1e-9):
        return known
    r = np.arange(1, length // 2 + 1, dtype=np.float64)
    known["two_point_axis"] = Theory(_after_zero(torus_two_point(r, 0 * r, length)), TORUS)
    known["two_point_diagonal"] = Theory(_after_zero(torus_two_point(r, r, length)), TORUS)
    four = torus_connected_four_point(sides.astype(np.float64), length)
    known["connected_four_point"] = Theory(np.asarray(four), TORUS)
    known["susceptibility"] = Theory(np.asarray(1.09195 * length**1.75), SALAS_SOKAL)
    known["correlation_length"] = Theory(np.asarray(0.905049 * length), SALAS_SOKAL)
    known["binder_cumulant"] = Theory(np.asarray(0.61069), SALAS_SOKAL)
    return known


def _after_zero(values: Any) -> NDArray[np.float64]:
    return np.concatenate([[np.nan], np.asarray(values, dtype=np.float64)])
