"""Exact values to draw beside an estimate, for the systems that have them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from skild_phys.measurement.observables import OBSERVABLES
from skild_phys.measurement.observables.four_point import square_sides
from skild_phys.measurement.observables.two_point import exact_statistics
from skild_phys.measurement.system import Array, System
from skild_phys.models import MODELS, exact

_KAUFMAN = "exact on this lattice (Kaufman)"
_POTTS = "exact on this lattice (Kaufman, of the Ising model at 2 T)"
_TORUS = "continuum limit on the torus, from r = 4 on"
_NEAR = (
    "continuum limit on the torus, times the infinite lattice's own factor up to r = 8; off by "
    "0.035 / L next to the origin"
)
_TRANSFORM = "transform of the two-point function in theory"
_SMALLEST = 16  # side from which the scaling limit is within 1% of S(k) and xi
_CLOSEST = 4.0  # lattice constants from which the continuum limit of G4c is within 0.3%


class _Theory(NamedTuple):
    """Values that an observable has in theory, in which sense, and whether on this very lattice."""

    value: Array | float
    source: str
    exact: bool = False


def theory(system: System) -> dict[str, _Theory]:
    """Return what is known, by name of the observable.

    Energy, specific heat and domain walls of the 2D Ising model at any temperature, on tori of
    any sides; correlations and what follows from them at Tc, in the scaling limit, on tori whose
    sides are `_SMALLEST` or longer. The magnetization itself is 0 by symmetry. For the Potts model
    with q = 2, which is Ising's with e = (e_Ising(2 T) - 2) / 2, the energy is known.
    """
    model, temperature = system.model, system.temperature
    if model is None or not math.isfinite(temperature) or min(system.shape) < 2:
        return {}
    if model.name not in ("ising2d", "potts2"):
        return {}
    source, t = (_POTTS, 2 * temperature) if model.name == "potts2" else (_KAUFMAN, temperature)
    shape = (system.shape[0], system.shape[1])
    energy = exact.kaufman_energy(shape, t)
    known = {
        "energy": _Theory((energy - 2.0) / 2.0 if system.q else energy, source, True),
        "specific_heat": _Theory(exact.kaufman_specific_heat(shape, t), source, True),
        "domain_wall_density": _Theory((energy + 2.0) / 2.0, source, True),
    }
    if system.q:
        return known
    known["magnetization"] = _Theory(0.0, "by symmetry", True)
    critical = math.isclose(t, MODELS["ising2d"].critical_temperature, rel_tol=1e-9)
    return known | (_critical(system, energy) if critical and min(shape) >= _SMALLEST else {})


def _critical(system: System, energy: float) -> dict[str, _Theory]:
    height, width = system.shape
    power = exact.torus_structure_factor((height, width))
    x = np.arange(width)
    whole = power[:, np.minimum(x, width - x)]  # symmetric under reflections
    means = exact_statistics(exact.torus_two_point_map((height, width)), whole)
    means["axis"][1] = -energy / 2
    along = means["along_k"]
    xi, xi_over_l = (
        OBSERVABLES[name]({"lowest": along[:2]}, system)
        for name in ("correlation_length", "correlation_length_ratio")
    )
    sides = square_sides(system.shape).astype(np.float64)
    sides[sides < _CLOSEST] = np.nan
    four = exact.torus_connected_four_point(sides, float(width), height / width)
    known = {
        "connected_four_point": _Theory(four, _TORUS),
        "structure_factor": _Theory(means["radial"], _TRANSFORM),
        "structure_factor_axis": _Theory(along, _TRANSFORM),
        "susceptibility": _Theory(along[0], _TRANSFORM),
        "fk_cluster_size": _Theory(along[0], _TRANSFORM),
        "magnetization_squared": _Theory(along[0] / system.sites, _TRANSFORM),
        "correlation_length": _Theory(xi, _TRANSFORM),
        "correlation_length_ratio": _Theory(xi_over_l, _TRANSFORM),
    }
    for name, of in (("axis", "axis"), ("diagonal", "diagonal"), ("radial", "distance")):
        for kind in ("two_point", "connected_two_point"):
            known[f"{kind}_{name}"] = _Theory(means[of], _NEAR)
    if system.offsets:
        known["connected_four_point_offsets"] = _Theory(_at_offsets(system), _TORUS)
    if height == width:
        known["binder_cumulant"] = _Theory(exact.BINDER, "limit of large L (cond-mat/9904038)")
    return known


def _at_offsets(system: System) -> Array:
    """Return G4c at sets of four sites; NaN where two of them are closer than `_CLOSEST`."""
    height, width = system.shape
    torus = (float(width), height / width)
    found = []
    for one in system.offsets:
        y, x = (np.array(one, dtype=np.float64) % system.shape).T
        dy, dx = (a[:, np.newaxis] - a for a in (y, x))
        short = [np.minimum(np.abs(d), n - np.abs(d)) for d, n in ((dy, height), (dx, width))]
        away = np.hypot(*short)
        two = exact.torus_two_point(dx, dy, *torus)
        pairs = two[0, 1] * two[2, 3] + two[0, 2] * two[1, 3] + two[0, 3] * two[1, 2]
        four = float(exact.torus_four_point(x, y, *torus)) - pairs
        found.append(four if away[np.triu_indices(4, 1)].min() >= _CLOSEST else np.nan)
    return np.array(found)
