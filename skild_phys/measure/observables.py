"""The observables, each a function of averaged statistics, and the measurement of a store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import (
    Array,
    Chains,
    Estimate,
    Means,
    integrated_autocorrelation_time,
    jackknife,
)
from skild_phys.errors import StoreError
from skild_phys.measure import thermodynamics as thermo
from skild_phys.measure.correlations import N_PATTERNS, connected_four_point
from skild_phys.measure.statistics import MAX_ROWS, Statistics, collect, rows_of
from skild_phys.measure.structure_factor import shells
from skild_phys.measure.theory import theory
from skild_phys.store import LatticeStore


@dataclass(frozen=True)
class System:
    """What an observable needs to know beyond the statistics; temperature NaN if unknown."""

    shape: tuple[int, ...]
    temperature: float

    @property
    def sites(self) -> int:
        """Number of sites."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Observable:
    """A function (means, system) of averaged statistics; `needs` names those it reads."""

    name: str
    long_name: str
    units: str
    dim: str
    needs: tuple[str, ...]
    function: Callable[[Means, System], Array]

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the value."""
        return (self.dim,) if self.dim else ()

    def estimate(
        self, rows: Means, system: System, chains: Chains | None, bins: int | None = None
    ) -> Estimate:
        """Return the estimate from the rows of one store."""
        needed = {name: rows[name] for name in self.needs}
        return jackknife(lambda m: self.function(m, system), needed, chains=chains, bins=bins)


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


def _susceptibility(means: Means, system: System) -> Array:
    return thermo.susceptibility(means["moments"][..., 2], system.sites)


def _correlation_length(means: Means, system: System) -> Array:
    s_zero = system.sites * means["moments"][..., 2]
    return thermo.second_moment_correlation_length(s_zero, means["s_min"], min(system.shape))


def _four_point(means: Means, system: System) -> Array:
    return connected_four_point(means["four_point"])


_M = ("moments",)
_LENGTH = "lattice constant"
OBSERVABLES = (
    Observable("energy", "energy per site", "J", "", ("energy",), _component("energy", 0)),
    Observable("specific_heat", "specific heat per site", "k_B", "", ("energy",), _specific_heat),
    Observable("magnetization", "magnetization m", "1", "", _M, _component("moments", 0)),
    Observable("abs_magnetization", "absolute value of m", "1", "", _M, _component("moments", 1)),
    Observable("magnetization_squared", "square of m", "1", "", _M, _component("moments", 2)),
    Observable("magnetization_fourth", "fourth power of m", "1", "", _M, _component("moments", 3)),
    Observable("binder_cumulant", "Binder cumulant 1 - <m^4> / (3 <m^2>^2)", "1", "", _M, _binder),
    Observable("susceptibility", "susceptibility N <m^2>", "1", "", _M, _susceptibility),
    Observable(
        "correlation_length",
        "second-moment correlation length",
        _LENGTH,
        "",
        ("moments", "s_min"),
        _correlation_length,
    ),
    Observable(
        "connected_four_point",
        "connected four-point function on the corners of an r x r square",
        "1",
        "side",
        ("four_point",),
        _four_point,
    ),
    Observable(
        "two_point_axis",
        "two-point function along the axes",
        "1",
        "distance",
        ("axis",),
        all_of("axis"),
    ),
    Observable(
        "two_point_diagonal",
        "two-point function along the diagonals, at (r, r)",
        "1",
        "distance",
        ("diagonal",),
        all_of("diagonal"),
    ),
    Observable(
        "structure_factor",
        "structure factor averaged over shells",
        "1",
        "shell",
        ("radial",),
        all_of("radial"),
    ),
    Observable(
        "pattern_frequency",
        "frequency of 3x3 spin patterns",
        "1",
        "pattern",
        ("patterns",),
        all_of("patterns"),
    ),
)


def available(found: Statistics, system: System) -> list[Observable]:
    """Return the observables that the statistics allow; a specific heat needs a temperature."""
    return [
        o
        for o in OBSERVABLES
        if all(name in found.rows for name in o.needs)
        and (o.name != "specific_heat" or np.isfinite(system.temperature))
    ]


def is_coarse(store: LatticeStore) -> bool:
    """Return whether the store holds coarse-grained lattices, not those of a Hamiltonian."""
    return "factor" in store.attrs and "method" not in store.attrs


def physical_attrs(store: LatticeStore) -> dict[str, Any]:
    """Return the attributes under which theory applies: none for coarse lattices and fields.

    Raises StoreError if the lattices cannot be of the model that the store names.
    """
    if is_coarse(store) or store.field not in ("spins", "states"):
        return {}
    store.model()
    return dict(store.attrs)


def system_of(shape: tuple[int, ...], attrs: dict[str, Any]) -> System:
    """Return the system that attributes describe."""
    return System(shape, float(attrs.get("temperature", np.nan)))


def measure_store(
    store: LatticeStore,
    *,
    bins: int | None = None,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Measure a store in one pass, with bounded memory.

    Parameters
    ----------
    store : open store of spins, Potts states, or a coarse or real field. In 3D and of states
        there is what follows from energy and magnetization, and no correlations.
    bins : jackknife over so many bins instead of the Gamma method, see `errorbars.jackknife`.
    max_rows : more lattices than this are averaged in groups before errors are made.
    progress : called with the number of lattices just read.

    Returns
    -------
    Dataset in float64: every observable NAME with its standard error NAME_err and, where known,
    NAME_theory; all with units and long_name. Attributes say how the errors were made.

    Raises
    ------
    StoreError : a store without lattices, of counts of states, or a damaged one.
    BadInput : `bins` that does not suit the number of lattices.
    """
    if store.n_samples == 0:
        raise StoreError(f"{store.path}: holds no complete lattice")
    rows = rows_of(store, max_rows)
    attrs = physical_attrs(store)
    model = attrs.get("model")
    found = collect(store, rows.label, rows.size, model=model, progress=progress)
    return to_dataset(found, rows.chains, attrs, bins=bins)


def to_dataset(
    found: Statistics, chains: Chains | None, attrs: dict[str, Any], *, bins: int | None = None
) -> xr.Dataset:
    """Return the estimates that `found` gives, laid out as by `measure_store`."""
    system = system_of(found.shape, attrs)
    result = _coordinates(found)
    for observable in available(found, system):
        add_estimate(result, observable, observable.estimate(found.rows, system, chains, bins))
    for name, known in theory(attrs, found.shape, found.sides).items():
        long_name = f"{result[name].attrs['long_name']}, theory"
        _add(result, f"{name}_theory", result[name].dims, known.value, long_name)
        result[f"{name}_theory"].attrs |= {
            "units": result[name].attrs["units"],
            "comment": known.source,
        }
    if found.power is not None and found.power_error is not None:
        full = "structure factor mode by mode"
        error = f"standard error of the {full}, lattices taken as independent"
        _add(result, "structure_factor_full", ("ky", "kx"), found.power, full)
        _add(result, "structure_factor_full_err", ("ky", "kx"), found.power_error, error)
    for name, values in found.per_lattice.items():
        units = "J" if name == "energy" else "1"
        _add(result, f"{name}_per_lattice", ("sample",), values, f"{name} of a lattice", units)
    if chains is not None:
        _add_autocorrelation(result, found, chains)
    result.attrs = {
        "shape": list(found.shape),
        "lattices": int(found.count.sum()),
        "errors": _error_method(chains, bins, found),
        **{k: attrs[k] for k in ("model", "temperature") if k in attrs},
    }
    return result


def add_estimate(result: xr.Dataset, observable: Observable, estimate: Estimate) -> None:
    """Put value and standard error of an observable into a dataset, with units and long_name."""
    name, long_name, units = observable.name, observable.long_name, observable.units
    _add(result, name, observable.dims, estimate.value, long_name, units)
    error = f"standard error of the {long_name}"
    _add(result, f"{name}_err", observable.dims, estimate.error, error, units)


def _add(
    result: xr.Dataset,
    name: str,
    dims: tuple[Any, ...],
    values: NDArray[Any],
    long_name: str,
    units: str = "1",
) -> None:
    result[name] = (dims, values, {"long_name": long_name, "units": units})


def _error_method(chains: Chains | None, bins: int | None, found: Statistics) -> str:
    lattices, rows = int(found.count.sum()), len(found.count)
    text = f"jackknife over {lattices} lattices"
    if rows < lattices:
        text += f" in {rows} groups of up to {found.count.max()}"
    if bins is not None:
        return f"{text}, averaged in {bins} bins that are taken as independent"
    if chains is None:
        return f"{text}, taken as independent: the store names no chain and draw"
    return f"{text}, autocorrelation by the Gamma method (hep-lat/0306017)"


def _coordinates(found: Statistics) -> xr.Dataset:
    if found.power is None:
        return xr.Dataset()
    height, width = found.shape
    shell = shells((height, width))
    wave = "rad / lattice constant"
    r = np.arange(min(found.shape) // 2 + 1)
    table: dict[str, tuple[str, NDArray[Any], str, str]] = {
        "side": ("side", found.sides, "side r of the square", _LENGTH),
        "distance": ("distance", r, "distance r (r sqrt 2 on the diagonals)", _LENGTH),
        "k": ("shell", shell.k, "mean wave number of the shell", wave),
        "modes": ("shell", shell.modes, "modes in the shell", "1"),
        "pattern": (
            "pattern",
            np.arange(N_PATTERNS),
            "3x3 pattern read row by row as a binary number, up = 1",
            "1",
        ),
        "ky": ("ky", 2 * np.pi * np.fft.fftfreq(height), "wave number along y", wave),
        "kx": ("kx", 2 * np.pi * np.fft.rfftfreq(width), "wave number along x", wave),
    }
    return xr.Dataset(
        coords={
            name: (dim, values, {"long_name": long_name, "units": units})
            for name, (dim, values, long_name, units) in table.items()
        }
    )


def _add_autocorrelation(result: xr.Dataset, found: Statistics, chains: Chains) -> None:
    series = {"magnetization_squared": found.rows["moments"][:, 2]}
    if "energy" in found.rows:
        series["energy"] = found.rows["energy"][:, 0]
    units = "draw" if len(found.count) == found.count.sum() else f"{found.count.max()} draws"
    for name, values in series.items():
        time = integrated_autocorrelation_time(values, chains)
        long_name = f"integrated autocorrelation time of the {name}"
        _add(result, f"{name}_tau", (), time.tau, long_name, units)
        _add(result, f"{name}_tau_err", (), time.error, f"standard error of the {long_name}", units)
