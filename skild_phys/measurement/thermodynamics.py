"""Energy and magnetization: moments of each lattice, and what follows from their means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.models.geometry import equal_bonds

Array = NDArray[np.float64]


def magnetization_moments(field: NDArray[Any], scale: float = 1.0, dimension: int = 2) -> Array:
    """Return m, |m|, m^2 and m^4 of each lattice, (..., Ly, Lx) -> (..., 4) float64.

    m is the mean over sites, the last `dimension` axes, of `scale` times `field`; integers are
    summed exactly.
    """
    values = np.asarray(field)
    axes = tuple(range(-dimension, 0))
    exact = np.issubdtype(values.dtype, np.integer)
    total = values.sum(axis=axes, dtype=np.int64 if exact else np.float64)
    return moments(total * (scale / math.prod(values.shape[-dimension:])))


def moments(m: Array) -> Array:
    """Return m, |m|, m^2 and m^4 of an order parameter, (...) -> (..., 4)."""
    return np.stack([m, np.abs(m), m**2, m**4], axis=-1)


def binder_cumulant(m2: Array, m4: Array) -> Array:
    """Return U4 = 1 - <m^4> / (3 <m^2>^2): 2/3 in the ordered phase, 0 for a Gaussian m."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - m4 / (3 * m2**2))


def binder_ratio(abs_m: Array, m2: Array) -> Array:
    """Return U2 = 1 - <m^2> / (3 <|m|>^2): 2/3 in the ordered phase, 1 - pi / 6 for a Gaussian m.

    The second of the cumulants U_2i = 1 - <|m|^2i> / (3 <|m|^i>^2) of arXiv 1806.03558.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - m2 / (3 * abs_m**2))


def domain_wall_density(lattices: NDArray[np.int8], dimension: int) -> Array:
    """Return how many bonds join unequal neighbours, per site, (n, *shape) -> (n,).

    That is the length (in 3D the area) of the domain walls on the dual lattice, in lattice
    constants per site: 0 for equal spins, `dimension` / 2 for random ones, (e + d) / 2 of an
    Ising lattice of energy e.
    """
    sites = math.prod(lattices.shape[-dimension:])
    return dimension - equal_bonds(lattices, dimension) / sites


def susceptibility(m2: Array, sites: int) -> Array:
    """Return chi = N <m^2>, dimensionless and without the factor 1/T.

    The convention of Salas and Sokal, cond-mat/9904038; chi L^(-7/4) -> 1.09195 at Tc.
    """
    return np.asarray(sites * m2)


def specific_heat(energy: Array, energy_squared: Array, sites: int, temperature: float) -> Array:
    """Return C = N (<e^2> - <e>^2) / T^2 per site in k_B, e the energy per site in J."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.asarray(sites * (energy_squared - energy**2) / temperature**2)


def second_moment_correlation_length(s_zero: Array, s_min: Array, length: int) -> Array:
    """Return xi = sqrt(S(0) / S(k_min) - 1) / (2 sin(pi / L)), in lattice constants.

    k_min = 2 pi / L along an axis (cond-mat/9904038). NaN where S(k_min) exceeds S(0).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(s_zero / s_min - 1) / (2 * np.sin(np.pi / length)))
