"""The observables: what is averaged over each lattice, and what is made of the averages.

A statistic is an average over one lattice, (n, ...) for n lattices. An observable is a function
of ensemble means of statistics, so that a jackknife over lattices gives its error. To add one,
write a function in a file of its own and list it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Means
from skild_phys.measurement import clusters, four_point, patterns, shells, two_point
from skild_phys.measurement import thermodynamics as thermo
from skild_phys.measurement.shells import Array
from skild_phys.measurement.system import Slice, System


@dataclass(frozen=True)
class Statistic:
    """An average over each lattice of a slice, for the systems that it applies to."""

    applies: Callable[[System], bool]
    compute: Callable[[Slice], Array]


@dataclass(frozen=True)
class Observable:
    """A function (means, system) of averaged statistics; `needs` names those it reads.

    The means may have any leading shape, which the function carries through. `symbol` is how
    tables head it and what `--only` takes for its name; of those with a dimension, the commands
    print the ones that have a symbol.
    """

    name: str
    long_name: str
    units: str
    dim: str
    needs: tuple[str, ...]
    function: Callable[[Means, System], Array]
    known_temperature: bool = False
    symbol: str = ""

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the value."""
        return (self.dim,) if self.dim else ()


@dataclass(frozen=True)
class Coordinate:
    """Values along a dimension, with their name and unit."""

    dim: str
    values: Callable[[System], NDArray[Any]]
    long_name: str
    units: str


def _always(system: System) -> bool:
    return True


def _discrete(system: System) -> bool:
    return system.field != "field"


def _has_energy(system: System) -> bool:
    return system.model is not None


def _has_bonds(system: System) -> bool:
    return math.isfinite(system.bond) and math.isfinite(system.temperature)


def _has_waves(system: System) -> bool:
    return max(system.shape) > 1


def _signed(system: System) -> bool:
    return not system.q


def _has_patterns(system: System) -> bool:
    return system.field == "spins" and system.dimension == 2 and min(system.shape) >= 3


def _has_squares(system: System) -> bool:
    return _signed(system) and min(system.shape) >= 2


def _energies(lattices: Slice) -> Array:
    if lattices.system.model is None:
        raise ValueError("no Hamiltonian")
    energy = lattices.system.model.energy(lattices.values)
    return np.stack([energy, energy**2], axis=-1)


def _moments(lattices: Slice) -> Array:
    system = lattices.system
    if system.q:
        # The order parameter of Potts states is that of the commonest one.
        shares = (lattices.order * math.sqrt((system.q - 1.0) / system.q)).max(axis=-1)
        return thermo.moments(shares * system.q / (system.q - 1.0))
    return thermo.magnetization_moments(lattices.values, dimension=system.dimension)


def _squares(lattices: Slice) -> Array:
    system = lattices.system
    return four_point.four_point_terms(lattices.values, system.sides.tolist(), system.dimension)


def _offsets(lattices: Slice) -> Array:
    terms = [
        four_point.offset_terms(lattices.values, np.array(one, dtype=np.int64))
        for one in lattices.system.offsets
    ]
    return np.stack(terms, axis=1)


def _patterns(lattices: Slice) -> Array:
    return patterns.pattern_counts(lattices.values) / float(lattices.system.sites)


def _largest_and_mean(found: clusters.Clusters) -> Array:
    return np.stack([found.largest, found.mean_size], axis=-1)


def _walls(lattices: Slice) -> Array:
    return thermo.domain_wall_density(lattices.values, lattices.system.dimension)


STATISTICS = {
    "energy": Statistic(_has_energy, _energies),
    "moments": Statistic(_always, _moments),
    "order": Statistic(_always, lambda s: s.order),
    "walls": Statistic(_discrete, _walls),
    "radial": Statistic(_always, lambda s: s.over_wave_shells()),
    "axis": Statistic(_always, lambda s: two_point.along_axes(s.correlation)),
    "diagonal": Statistic(_always, lambda s: two_point.along_diagonals(s.correlation)),
    "distance": Statistic(_always, lambda s: s.over_distances()),
    "along_k": Statistic(_always, lambda s: s.along_k()),
    "lowest": Statistic(_has_waves, lambda s: s.along_k()[:, :2]),
    "four_point": Statistic(_has_squares, _squares),
    "offsets": Statistic(lambda system: bool(system.offsets) and _signed(system), _offsets),
    "patterns": Statistic(_has_patterns, _patterns),
    "geometric": Statistic(_discrete, lambda s: s.geometric.density),
    "geometric_sizes": Statistic(_discrete, lambda s: _largest_and_mean(s.geometric)),
    "fk": Statistic(_has_bonds, lambda s: s.fk.density),
    "fk_sizes": Statistic(_has_bonds, lambda s: _largest_and_mean(s.fk)),
}
"""Name -> statistic: (n, ...) float64 averages over each of n lattices."""


def _component(name: str, i: int) -> Callable[[Means, System], Array]:
    return lambda means, system: means[name][..., i]


def all_of(name: str) -> Callable[[Means, System], Array]:
    """Return the function that gives the mean of a statistic itself."""
    return lambda means, system: means[name]


def _specific_heat(means: Means, system: System) -> Array:
    e, e2 = np.moveaxis(means["energy"], -1, 0)
    return thermo.specific_heat(e, e2, system.sites, system.temperature)


def _binder(means: Means, system: System) -> Array:
    return thermo.binder_cumulant(means["moments"][..., 2], means["moments"][..., 3])


def _binder_ratio(means: Means, system: System) -> Array:
    return thermo.binder_ratio(means["moments"][..., 1], means["moments"][..., 2])


def _susceptibility(means: Means, system: System) -> Array:
    return np.asarray(means["lowest"][..., 0])


def _connected_susceptibility(means: Means, system: System) -> Array:
    m2 = means["moments"][..., 2] - means["moments"][..., 1] ** 2
    return thermo.susceptibility(m2, system.sites)


def _correlation_length(means: Means, system: System) -> Array:
    zero, smallest = np.moveaxis(means["lowest"], -1, 0)
    return thermo.second_moment_correlation_length(zero, smallest, max(system.shape))


def _connected_length(means: Means, system: System) -> Array:
    zero, smallest = np.moveaxis(means["lowest"], -1, 0)
    zero = zero - system.sites * means["moments"][..., 1] ** 2
    return thermo.second_moment_correlation_length(zero, smallest, max(system.shape))


def _xi_over_l(means: Means, system: System) -> Array:
    return _correlation_length(means, system) / max(system.shape)


def _four_point(means: Means, system: System) -> Array:
    found = four_point.connected_four_point(means["four_point"])
    return found if system.dimension == 2 else np.asarray(found.mean(axis=-1))


def _at_offsets(means: Means, system: System) -> Array:
    return four_point.connected_at_offsets(means["offsets"])


def _connected(name: str) -> Callable[[Means, System], Array]:
    return lambda means, system: two_point.connected(means[name], means["order"])


_M = ("moments",)
_LENGTH = "lattice constant"
_WAVE = "rad / lattice constant"
OBSERVABLES = (
    Observable("energy", "energy per site", "J", "", ("energy",), _component("energy", 0)),
    Observable(
        "specific_heat", "specific heat per site", "k_B", "", ("energy",), _specific_heat, True,
        symbol="C",
    ),
    Observable(
        "magnetization", "magnetization m", "1", "", _M, _component("moments", 0),
        symbol="m",
    ),
    Observable(
        "abs_magnetization", "absolute value of m", "1", "", _M, _component("moments", 1),
        symbol="|m|",
    ),
    Observable(
        "magnetization_squared", "square of m", "1", "", _M, _component("moments", 2),
        symbol="m^2",
    ),
    Observable(
        "magnetization_fourth", "fourth power of m", "1", "", _M, _component("moments", 3),
        symbol="m^4",
    ),
    Observable(
        "binder_cumulant", "Binder cumulant 1 - <m^4> / (3 <m^2>^2)", "1", "", _M, _binder,
        symbol="U4",
    ),
    Observable(
        "binder_ratio", "Binder cumulant U2 = 1 - <m^2> / (3 <|m|>^2)", "1", "", _M, _binder_ratio,
        symbol="U2",
    ),
    Observable(
        "susceptibility",
        "susceptibility S(0): N <m^2>, of Potts states N times the squared vector of their shares",
        "1", "", ("lowest",), _susceptibility, symbol="chi",
    ),
    Observable(
        "connected_susceptibility", "connected susceptibility N (<m^2> - <|m|>^2)", "1", "",
        _M, _connected_susceptibility,
    ),
    Observable(
        "correlation_length",
        "second-moment correlation length (S(0) / S(k) - 1)^(1/2) / (2 sin(k / 2)), k = 2 pi / L",
        _LENGTH, "",
        ("lowest",), _correlation_length, symbol="xi",
    ),
    Observable(
        "connected_correlation_length",
        "the same of the connected two-point function, S(0) less N <|m|>^2: of the ordered phase",
        _LENGTH, "", ("lowest", "moments"), _connected_length, symbol="xi_c",
    ),
    Observable(
        "correlation_length_ratio", "second-moment correlation length over the longest side",
        "1", "", ("lowest",), _xi_over_l, symbol="xi/L",
    ),
    Observable(
        "domain_wall_density", "domain walls per site (unequal bonds)", f"{_LENGTH}^-1", "",
        ("walls",), all_of("walls"),
    ),
    Observable(
        "geometric_largest_cluster", "share of sites in the largest geometric cluster", "1", "",
        ("geometric_sizes",), _component("geometric_sizes", 0),
    ),
    Observable(
        "geometric_cluster_size", "mean size of a site's geometric cluster", "site", "",
        ("geometric_sizes",), _component("geometric_sizes", 1),
    ),
    Observable(
        "fk_largest_cluster", "share of sites in the largest Fortuin-Kasteleyn cluster", "1", "",
        ("fk_sizes",), _component("fk_sizes", 0),
    ),
    Observable(
        "fk_cluster_size", "mean size of a site's Fortuin-Kasteleyn cluster", "site", "",
        ("fk_sizes",), _component("fk_sizes", 1),
    ),
    Observable(
        "connected_four_point", "connected four-point function on the corners of an r x r square",
        "1", "side", ("four_point",), _four_point, symbol="G4c",
    ),
    Observable(
        "connected_four_point_offsets", "connected four-point function at four given sites",
        "1", "offsets", ("offsets",), _at_offsets, symbol="G4c(sites)",
    ),
    Observable(
        "two_point_axis", "two-point function along the axes", "1", "distance",
        ("axis",), all_of("axis"), symbol="G(r, 0)",
    ),
    Observable(
        "two_point_diagonal", "two-point function along the diagonals, at (r, r)", "1",
        "distance", ("diagonal",), all_of("diagonal"), symbol="G(r, r)",
    ),
    Observable(
        "two_point_radial", "two-point function averaged over shells of r", "1", "radius",
        ("distance",), all_of("distance"), symbol="G(|r|)",
    ),
    Observable(
        "connected_two_point_axis", "connected two-point function along the axes", "1",
        "distance", ("axis", "order"), _connected("axis"),
    ),
    Observable(
        "connected_two_point_diagonal", "connected two-point function along the diagonals", "1",
        "distance", ("diagonal", "order"), _connected("diagonal"),
    ),
    Observable(
        "connected_two_point_radial", "connected two-point function averaged over shells of r",
        "1", "radius", ("distance", "order"), _connected("distance"),
    ),
    Observable(
        "structure_factor", "structure factor averaged over shells", "1", "shell",
        ("radial",), all_of("radial"), symbol="S(k)",
    ),
    Observable(
        "structure_factor_axis", "structure factor along the axes", "1", "mode",
        ("along_k",), all_of("along_k"),
    ),
    Observable(
        "pattern_frequency", "frequency of 3x3 spin patterns", "1", "pattern",
        ("patterns",), all_of("patterns"),
    ),
    Observable(
        "geometric_cluster_density", "geometric clusters of a size, per site", "site^-2",
        "size", ("geometric",), all_of("geometric"), symbol="n(s) geometric",
    ),
    Observable(
        "fk_cluster_density", "Fortuin-Kasteleyn clusters of a size, per site", "site^-2",
        "size", ("fk",), all_of("fk"), symbol="n(s) FK",
    ),
)  # fmt: skip

NAMES = tuple(observable.name for observable in OBSERVABLES)


def name_of(text: str) -> str:
    """Return the name of an observable from its name or symbol as someone types it."""
    plain = "_".join(text.lower().replace("_", " ").split())
    symbols = {o.symbol.lower(): o.name for o in OBSERVABLES if o.symbol}
    return symbols.get(text.lower().strip(), plain)


def _axis_wave_numbers(system: System) -> Array:
    longest = max(system.shape)
    return np.asarray(2 * np.pi * np.arange(longest // 2 + 1) / longest)


def _offset_names(system: System) -> NDArray[Any]:
    return np.array([" ".join(",".join(map(str, s)) for s in one) for one in system.offsets])


COORDINATES = {
    "side": Coordinate("side", lambda s: s.sides, "side r of the square", _LENGTH),
    "distance": Coordinate(
        "distance",
        lambda s: np.arange(min(s.shape) // 2 + 1),
        "distance r (r sqrt 2 on the diagonals)",
        _LENGTH,
    ),
    "radius": Coordinate(
        "radius", lambda s: shells.distance_shells(s.shape).at, "mean distance of a shell", _LENGTH
    ),
    "pairs": Coordinate(
        "radius", lambda s: shells.distance_shells(s.shape).count, "separations in a shell", "1"
    ),
    "k": Coordinate(
        "shell", lambda s: shells.wave_shells(s.shape).at, "mean wave number of the shell", _WAVE
    ),
    "modes": Coordinate(
        "shell", lambda s: shells.wave_shells(s.shape).count, "modes in the shell", "1"
    ),
    "k_axis": Coordinate("mode", _axis_wave_numbers, "wave number along an axis", _WAVE),
    "pattern": Coordinate(
        "pattern",
        lambda s: np.arange(patterns.N_PATTERNS),
        "3x3 pattern read row by row as a binary number, up = 1",
        "1",
    ),
    "cluster_size": Coordinate(
        "size", lambda s: clusters.bin_sizes(s.sites), "geometric mean of a bin's sizes", "site"
    ),
    "offset": Coordinate("offsets", _offset_names, "the four sites, in steps along the axes", "1"),
}
"""Name -> coordinate, in the order of a dataset."""

POSITION = {c.dim: name for name, c in reversed(COORDINATES.items())}
"""Dimension -> the coordinate that a plot or a table is over."""


def observables(system: System, only: tuple[str, ...] | None = None) -> tuple[Observable, ...]:
    """Return the observables of a system, all or those called `only`."""
    return tuple(
        o
        for o in OBSERVABLES
        if all(STATISTICS[name].applies(system) for name in o.needs)
        and (not o.known_temperature or math.isfinite(system.temperature))
        and (only is None or o.name in only)
    )
