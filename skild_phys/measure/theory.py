"""Exact values to draw beside an estimate, for the systems that have them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skild_phys.lattice import exact
from skild_phys.lattice.models import MODELS
from skild_phys.measure import shells, two_point
from skild_phys.measure.shells import Array
from skild_phys.measure.system import System

KAUFMAN = "exact on this lattice (Kaufman)"
KAUFMAN_POTTS = "exact on this lattice (Kaufman, of the Ising model at 2 T)"
TORUS = "continuum limit on the torus; within errors of the lattice for r >= 4"
NEAR = (
    "continuum limit on the torus, times the infinite lattice's own factor up to r = 8; "
    "0.035 / L too large at r = 1"
)
TRANSFORM = "transform of the two-point function in theory"
SALAS_SOKAL = "limit of large L (cond-mat/9904038)"


@dataclass(frozen=True)
class Theory:
    """Values that an observable has in theory, and in which sense."""

    value: Array
    source: str


def theory(system: System) -> dict[str, Theory]:
    """Return what is known, by name of the observable.

    Energy, specific heat and domain walls of the 2D Ising model at any temperature, on tori of
    any sides; correlations and what follows from them at Tc. The magnetization itself is 0 by
    symmetry. Of the Potts model with q = 2, which is Ising's with e = (e_Ising(2 T) - 2) / 2, the
    energy is known.
    """
    if system.model is None or not math.isfinite(system.temperature) or min(system.shape) < 2:
        return {}
    if system.model.name == "potts2":
        energy, heat = _kaufman(system, 2.0 * system.temperature)
        return {
            "energy": Theory(np.asarray((energy - 2.0) / 2.0), KAUFMAN_POTTS),
            "specific_heat": Theory(np.asarray(heat), KAUFMAN_POTTS),
            "domain_wall_density": Theory(np.asarray((energy + 2.0) / 2.0), KAUFMAN_POTTS),
        }
    if system.model.name != "ising2d":
        return {}
    energy, heat = _kaufman(system, system.temperature)
    known = {
        "energy": Theory(np.asarray(energy), KAUFMAN),
        "specific_heat": Theory(np.asarray(heat), KAUFMAN),
        "domain_wall_density": Theory(np.asarray((energy + 2.0) / 2.0), KAUFMAN),
        "magnetization": Theory(np.asarray(0.0), "by symmetry"),
    }
    tc = MODELS["ising2d"].critical_temperature
    if math.isclose(system.temperature, tc, rel_tol=1e-9):
        known |= _critical(system)
    return known


def _kaufman(system: System, temperature: float) -> tuple[float, float]:
    shape = (system.shape[0], system.shape[1])
    return (
        exact.kaufman_energy(shape, temperature),
        exact.kaufman_specific_heat(shape, temperature),
    )


def _critical(system: System) -> dict[str, Theory]:
    height, width = system.shape
    two = exact.torus_two_point_map((height, width))
    power = exact.torus_structure_factor((height, width))
    folded_two, folded = (
        shells.fold(values, 2)[np.newaxis] for values in (two, _whole(power, width))
    )
    axis, diagonal = two_point.along_axes(folded_two)[0], two_point.along_diagonals(folded_two)[0]
    radial = shells.distance_shells(system.shape).average(folded_two)[0]
    lines = [power[: height // 2 + 1, 0]] if height >= width else []
    lines += [power[0]] if width >= height else []
    along = np.asarray(np.mean(lines, axis=0))
    four = exact.torus_connected_four_point(system.sides, float(width), height / width)
    longest = max(system.shape)
    with np.errstate(invalid="ignore"):
        length = np.sqrt(along[0] / along[1] - 1) / (2 * np.sin(np.pi / longest))
    known = {
        "connected_four_point": Theory(four, TORUS),
        "structure_factor": Theory(shells.wave_shells(system.shape).average(folded)[0], TRANSFORM),
        "structure_factor_axis": Theory(along, TRANSFORM),
        "susceptibility": Theory(np.asarray(power[0, 0]), TRANSFORM),
        "fk_cluster_size": Theory(np.asarray(power[0, 0]), TRANSFORM),
        "magnetization_squared": Theory(np.asarray(power[0, 0] / system.sites), TRANSFORM),
        "correlation_length": Theory(np.asarray(length), TRANSFORM),
        "correlation_length_ratio": Theory(np.asarray(length / longest), TRANSFORM),
    }
    for name, values in (("axis", axis), ("diagonal", diagonal), ("radial", radial)):
        for kind in ("two_point", "connected_two_point"):
            known[f"{kind}_{name}"] = Theory(values, NEAR)
    if height == width:
        known["binder_cumulant"] = Theory(np.asarray(exact.BINDER), SALAS_SOKAL)
    return known


def _whole(half: Array, width: int) -> Array:
    """Return what is symmetric under reflections in full, from the layout of rfft2."""
    x = np.arange(width)
    return half[:, np.minimum(x, width - x)]
