"""Energy, magnetization and what follows from their means; chi and xi from S(k); domain walls."""

from __future__ import annotations

import math

import numpy as np

from skild_phys.measurement.observables.base import LENGTH, mean, observable, statistic
from skild_phys.measurement.observables.two_point import along_k, order
from skild_phys.measurement.system import Array, Slice, System
from skild_phys.models.base import equal_bonds


@statistic("energy", lambda system: system.model is not None)
def _energy(part: Slice) -> Array:
    """Return the energy per site and its square, (n, 2)."""
    if part.system.model is None:
        raise ValueError("no Hamiltonian")
    e = part.system.model.energy(part.values)
    return np.stack([e, e**2], axis=-1)


@statistic("moments")
def _moments(part: Slice) -> Array:
    """Return m, |m|, m^2 and m^4 of each configuration, (n, 4).

    m is the mean over sites, of integers summed exactly; of Potts states the order parameter of
    the commonest one, of fields with components the length of the vector.
    """
    system, values = part.system, part.values
    if system.q:
        shares = (order(part) * math.sqrt((system.q - 1.0) / system.q)).max(axis=-1)
        m = shares * system.q / (system.q - 1.0)
    elif system.components == 1:
        exact = np.issubdtype(values.dtype, np.integer)
        total = values.sum(axis=part.axes, dtype=np.int64 if exact else np.float64)
        m = total * (1.0 / system.sites)
    else:
        m = np.linalg.norm(order(part), axis=-1)
    return np.stack([m, np.abs(m), m**2, m**4], axis=-1)


@statistic("lowest", lambda system: max(system.shape) > 1)
def _lowest(part: Slice) -> Array:
    """Return S(0) and S at the smallest wave number, (n, 2)."""
    return along_k(part)[:, :2]


@statistic("walls", lambda system: system.field != "field")
def _walls(part: Slice) -> Array:
    """Return how many bonds join unequal neighbours, per site, (n,).

    That is the length (in 3D the area) of the domain walls on the dual lattice: 0 for equal
    spins, d / 2 for random ones, (e + d) / 2 of an Ising configuration of energy e.
    """
    d = part.system.dimension
    return d - equal_bonds(part.values, d) / part.system.sites


def _specific_heat(energy: Array, system: System) -> Array:
    """N (<e^2> - <e>^2) / T^2."""
    return system.sites * (energy[..., 1] - energy[..., 0] ** 2) / system.temperature**2


def _xi(lowest: Array, system: System, disconnected: Array | float = 0.0) -> Array:
    """Return sqrt(S(0) / S(k) - 1) / (2 sin(k / 2)), k = 2 pi / L; NaN where S(k) > S(0)."""
    zero, smallest = np.moveaxis(lowest, -1, 0)
    ratio = np.sqrt((zero - disconnected) / smallest - 1)
    return np.asarray(ratio / (2 * np.sin(np.pi / max(system.shape))))


OBSERVABLES = (
    observable("energy", "J", _energy, about="energy per site")(lambda e, system: e[..., 0]),
    observable(
        "specific_heat", "k_B", _energy, "C", about="specific heat per site",
        applies=lambda system: math.isfinite(system.temperature),
    )(_specific_heat),
    *(
        observable(name, "1", _moments, label, about=about)(lambda m, system, i=i: m[..., i])
        for i, (name, label, about) in enumerate((
            ("magnetization", "m", "magnetization m"),
            ("abs_magnetization", "|m|", "absolute value of m"),
            ("magnetization_squared", "m^2", "square of m"),
            ("magnetization_fourth", "m^4", "fourth power of m"),
        ))
    ),
    # 2/3 in the ordered phase, 0 of a Gaussian
    observable(
        "binder_cumulant", "1", _moments, "U4", about="Binder cumulant 1 - <m^4> / (3 <m^2>^2)"
    )(lambda m, system: 1 - m[..., 3] / (3 * m[..., 2] ** 2)),
    # of arXiv 1806.03558; 1 - pi/6 of a Gaussian
    observable(
        "binder_ratio", "1", _moments, "U2", about="Binder cumulant U2 = 1 - <m^2> / (3 <|m|>^2)"
    )(lambda m, system: 1 - m[..., 2] / (3 * m[..., 1] ** 2)),
    # Without 1 / T, as in cond-mat/9904038: chi L^(-7/4) -> 1.09195 at Tc.
    observable(
        "susceptibility", "1", _lowest, "chi",
        about="susceptibility S(0): N <m^2>, of Potts states N times the squared vector of their"
        " shares",
    )(lambda lowest, system: lowest[..., 0]),
    observable(
        "connected_susceptibility", "1", _moments,
        about="connected susceptibility N (<m^2> - <|m|>^2)",
    )(lambda m, system: system.sites * (m[..., 2] - m[..., 1] ** 2)),
    observable(
        "correlation_length", LENGTH, _lowest, "xi",
        about="second-moment correlation length (S(0) / S(k) - 1)^(1/2) / (2 sin(k / 2)),"
        " k = 2 pi / L",
    )(_xi),
    observable(
        "connected_correlation_length", LENGTH, (_lowest, _moments), "xi_c",
        about="the same of the connected two-point function, S(0) less N <|m|>^2: of the ordered"
        " phase",
    )(lambda lowest, m, system: _xi(lowest, system, system.sites * m[..., 1] ** 2)),
    observable(
        "correlation_length_ratio", "1", _lowest, "xi/L",
        about="second-moment correlation length over the longest side",
    )(lambda lowest, system: _xi(lowest, system) / max(system.shape)),
    observable(
        "domain_wall_density", f"{LENGTH}^-1", _walls,
        about="domain walls per site (unequal bonds)",
    )(mean),
)  # fmt: skip
