"""Exact results for the Ising model on the square lattice, J = k_B = 1, K = 1 / T."""

from skild_phys.models.exact.critical import (
    AMPLITUDE,
    BINDER,
    ETA,
    EXPONENTS,
    NU,
    SHORT_DISTANCE,
    SUSCEPTIBILITY,
    XI_OVER_L,
    structure_factor_asymptote,
)
from skild_phys.models.exact.infinite import critical_correlation, diagonal_correlation
from skild_phys.models.exact.kaufman import (
    energy_infinite,
    kaufman_energy,
    kaufman_specific_heat,
)
from skild_phys.models.exact.torus import (
    torus_connected_four_point,
    torus_four_point,
    torus_structure_factor,
    torus_two_point,
    torus_two_point_map,
)

__all__ = [
    "AMPLITUDE",
    "BINDER",
    "ETA",
    "EXPONENTS",
    "NU",
    "SHORT_DISTANCE",
    "SUSCEPTIBILITY",
    "XI_OVER_L",
    "critical_correlation",
    "diagonal_correlation",
    "energy_infinite",
    "kaufman_energy",
    "kaufman_specific_heat",
    "structure_factor_asymptote",
    "torus_connected_four_point",
    "torus_four_point",
    "torus_structure_factor",
    "torus_two_point",
    "torus_two_point_map",
]
