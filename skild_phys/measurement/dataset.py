"""The measurement of lattices as an xarray Dataset: values, errors, theory, units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import Chains, ErrorMethod, Estimate
from skild_phys.errors import BadInput
from skild_phys.measurement.observables import (
    COORDINATES,
    NAMES,
    Observable,
    name_of,
    observables,
)
from skild_phys.measurement.rows import MAX_ROWS, rows_of
from skild_phys.measurement.statistics import Statistics, collect
from skild_phys.measurement.system import Offsets, System
from skild_phys.measurement.theory import theory
from skild_phys.store import Source, open_lattices

GAMMA = ErrorMethod()
Variables = dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]]
"""Name -> (dimensions, values, attributes): what a Dataset is made of, all of it at once."""


def measure(
    lattices: Source,
    *,
    only: str | Sequence[str] | None = None,
    offsets: Sequence[Offsets] = (),
    errors: ErrorMethod = GAMMA,
    seed: int = 0,
    threads: int = 1,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """Measure lattices in one pass, with bounded memory.

    Parameters
    ----------
    lattices : a store or its path, an xarray Dataset or DataArray (read slice by slice), or an
        array (n, Ly, Lx) or (n, Lz, Ly, Lx): spins of -1 and +1, Potts states, or a real field.
    only : names or symbols of observables (`observables.OBSERVABLES`); all by default.
    offsets : sets of four sites, each (y, x) or (z, y, x), for the four-point function there.
    errors : how errors are made, see `errorbars.ErrorMethod`.
    seed : of the bonds of Fortuin-Kasteleyn clusters.
    threads : change no bit of the result.
    max_rows : more lattices than this are averaged in groups before errors are made.
    progress : called with the number of lattices just reduced.
    attrs : `model` and `temperature` (J / k_B) of a Dataset or an array, which give energies,
        FK clusters and theory.

    Returns
    -------
    Dataset in float64: every observable NAME with its standard error NAME_err, the integrated
    autocorrelation time NAME_tau_int (with NAME_tau_int_err) and the number of independent
    lattices NAME_n_eff that it is worth, and, where known, NAME_theory; all with units and
    long_name. Attributes say how the errors were made.

    Raises
    ------
    StoreError : a store without lattices, of counts of states, or a damaged one.
    BadInput : an observable that is not known, or not for these lattices; bins that do not suit
        the number of lattices; four sites that are not.

    Examples
    --------
    >>> import numpy as np
    >>> spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (100, 8, 8))
    >>> found = measure(spins, only=["two_point_axis", "binder_cumulant"])
    >>> float(found["two_point_axis"][0])
    1.0
    """
    opened = open_lattices(lattices, **attrs)
    system = System.of(opened, offsets=tuple(offsets), seed=seed)
    wanted = chosen(system, only)
    rows = rows_of(opened, max_rows)
    found = collect(
        opened, system, rows.label, rows.size,
        needed={name for o in wanted for name in o.needs}, threads=threads, progress=progress,
    )  # fmt: skip
    group = int(rows.members.max())
    about = attributes(found, rows.chains, opened.attrs, errors)
    return to_dataset(
        system, estimates(found, rows.chains, wanted, errors=errors, group=group), about
    )


def chosen(system: System, only: str | Sequence[str] | None) -> tuple[Observable, ...]:
    """Return the observables that are asked for; raises BadInput for one that cannot be."""
    there = observables(system)
    if only is None:
        return there
    names = [o.name for o in there]
    asked = [only] if isinstance(only, str) else list(only)
    wanted = []
    for text in asked:
        name = name_of(text)
        if name == "connected_four_point_offsets" and not system.offsets:
            raise BadInput("--only", text, "--offsets beside it")
        if name not in names:
            what = "what these samples have:" if name in NAMES else "one of"
            raise BadInput("--only", text, f"{what} {', '.join(names)}")
        wanted.append(name)
    return observables(system, tuple(wanted))


def to_dataset(system: System, variables: Variables, attrs: dict[str, Any]) -> xr.Dataset:
    """Return variables as a Dataset with the coordinates of their dimensions."""
    dims = {dim for of_one, _, _ in variables.values() for dim in of_one}
    return xr.Dataset(variables, coords=_coordinates(system, dims), attrs=attrs)


def estimates(
    found: Statistics,
    chains: Chains | None,
    wanted: Sequence[Observable],
    *,
    errors: ErrorMethod = GAMMA,
    group: int = 1,
) -> Variables:
    """Return the estimates that `found` gives, as `measure` has them, with theory.

    `group` is how many lattices (of different parents) a row is made of, at most.
    """
    system = found.system
    result: Variables = {}
    for observable in wanted:
        add_estimate(result, observable, estimate(observable, found, chains, errors), group)
    for name, known in theory(system).items():
        if name not in result:
            continue
        dims, _, described = result[name]
        about = {
            "long_name": f"{described['long_name']}, theory",
            "comment": known.source,
            "exact": int(known.exact),
        }
        result[f"{name}_theory"] = (dims, known.value, described | about)
    if found.power is not None and found.power_error is not None and "structure_factor" in result:
        axes = _WAVE_AXES[-system.dimension :]
        full = "structure factor mode by mode"
        _add(result, "structure_factor_full", axes, found.power, full)
        about_error = f"standard error of the {full}, lattices taken as independent"
        _add(result, "structure_factor_full_err", axes, found.power_error, about_error)
    for name, values in found.per_lattice.items():
        units = "J" if name == "energy" else "1"
        _add(result, f"{name}_per_lattice", ("sample",), values, f"{name} of a lattice", units)
    return result


def attributes(
    found: Statistics, chains: Chains | None, attrs: dict[str, Any], errors: ErrorMethod
) -> dict[str, Any]:
    """Return what a measurement says of itself."""
    known = ("model", "temperature") if found.system.model is not None else ()
    return {
        "shape": list(found.system.shape),
        "lattices": int(found.count.sum()),
        "errors": _error_method(chains, errors, found),
        **{k: attrs[k] for k in known if k in attrs},
    }


def estimate(
    observable: Observable, found: Statistics, chains: Chains | None, errors: ErrorMethod
) -> Estimate:
    """Return the estimate of an observable from the rows of one store."""
    needed = {name: found.rows[name] for name in observable.needs}
    return errors(lambda m: observable.function(m, found.system), needed, chains=chains)


def add_estimate(
    result: Variables, observable: Observable, found: Estimate, group: int = 1
) -> None:
    """Put value, error, tau_int and n_eff of an observable among the variables.

    `group` lattices are averaged in a row, at most: tau_int and n_eff count such rows.
    """
    unit = "spacing of draws" if group == 1 else f"{group} spacings of draws"
    name, dims, units = observable.name, observable.dims, observable.units
    about = observable.long_name
    _add(result, name, dims, found.value, about, units)
    if observable.symbol:
        result[name][2]["symbol"] = observable.symbol
    _add(result, f"{name}_err", dims, found.error, f"standard error of the {about}", units)
    time = f"integrated autocorrelation time of the {about}"
    _add(result, f"{name}_tau_int", dims, found.tau, time, unit)
    _add(
        result, f"{name}_tau_int_err", dims, found.tau_error, f"standard error of the {time}", unit
    )
    rows = "independent lattices" if group == 1 else f"independent groups of {group} lattices"
    _add(result, f"{name}_n_eff", dims, found.n_eff, f"{rows} that the {about} is worth")


def _add(
    result: Variables,
    name: str,
    dims: tuple[str, ...],
    values: NDArray[Any],
    long_name: str,
    units: str = "1",
) -> None:
    result[name] = (dims, values, {"long_name": long_name, "units": units})


_WAVE_AXES = ("kz", "ky", "kx")


def _error_method(chains: Chains | None, errors: ErrorMethod, found: Statistics) -> str:
    lattices, rows = int(found.count.sum()), len(found.count)
    text = f"{'jackknife' if errors.kind == 'gamma' else errors.kind} over {lattices} lattices"
    if rows < lattices:
        text += f" in {rows} groups of up to {found.count.max()}"
    if errors.kind != "gamma":
        bins = errors.number_of_bins(rows)
        text += f", averaged in {bins} bins that are taken as independent"
        return text + (f", {errors.resamples} times" if errors.kind == "bootstrap" else "")
    if chains is None:
        return f"{text}, taken as independent: chain and draw are not known"
    return f"{text}, autocorrelation by the Gamma method (hep-lat/0306017)"


def _coordinates(system: System, dims: set[str]) -> Variables:
    found: Variables = {}
    for name, c in COORDINATES.items():
        if c.dim in dims:
            _add(found, name, (c.dim,), c.values(system), c.long_name, c.units)
    for axis, n in zip(_WAVE_AXES[-system.dimension :], system.shape):
        if axis in dims:
            steps = np.fft.rfftfreq(n) if axis == "kx" else np.fft.fftfreq(n)
            about = f"wave number along {axis[1]}"
            _add(found, axis, (axis,), 2 * np.pi * steps, about, "rad / lattice constant")
    return found
