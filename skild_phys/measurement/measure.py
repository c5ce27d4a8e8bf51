"""`measure`: from configurations to estimates with errors, as an xarray Dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errorbars import ErrorMethod, Estimate
from skild_phys.measurement.observables import Observable, chosen
from skild_phys.measurement.rows import PER_SAMPLE, Rows, Statistics, collect, workers
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
    extra: Sequence[Observable] = (),
    offsets: Sequence[Offsets] = (),
    errors: ErrorMethod = GAMMA,
    threads: int = 1,
    dask: str | None = None,
    progress: Callable[[int], None] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """Measure configurations in one pass, with bounded memory; see `skild_phys.measure`.

    The seed of `errors` is that of the bonds of Fortuin-Kasteleyn clusters too; `progress` is
    called with the number of samples just reduced. Attributes of the Dataset hold how the
    errors were made.

    Raises
    ------
    StoreError : a store without samples, of counts of states, or a damaged one.
    BadInput : an observable that is not known, or not for these configurations; bins that do not
        suit the number of samples; four sites that are not.
    """
    opened = open_lattices(lattices, **attrs)
    system = System.of(opened, offsets=tuple(offsets), seed=errors.seed)
    wanted, rows = chosen(system, only, extra), Rows.of(opened)
    with workers(threads, dask) as at_work:
        found = collect(opened, system, wanted, rows, at_work=at_work, progress=progress)
    return to_dataset(found, estimates(found, wanted, errors), wanted, errors, opened.attrs)


def to_dataset(
    found: Statistics,
    variables: Variables,
    wanted: Sequence[Observable],
    errors: ErrorMethod,
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Return the variables of observables as a Dataset with coordinates and attributes.

    `attrs` are those of the store whose model and temperature it is.
    """
    known = ("model", "temperature") if found.system.model is not None else ()
    about = {
        "shape": list(found.system.shape),
        "lattices": found.samples,
        "errors": _error_method(errors, found),
        **{k: attrs[k] for k in known if k in attrs},
    }
    coordinates: Variables = {}
    for axis in {o.axis.dim: o.axis for o in wanted if o.axis is not None}.values():
        for c in axis.coordinates:
            _add(coordinates, c.name, (axis.dim,), c.values(found.system), c.long_name, c.units)
            coordinates[c.name][2].update(symbol=c.symbol, dense=int(axis.dense))
    return xr.Dataset(variables, coords=coordinates, attrs=about)


def _error_method(errors: ErrorMethod, found: Statistics) -> str:
    samples, rows = found.samples, len(found.count)
    text = f"{'jackknife' if errors.kind == 'gamma' else errors.kind} over {samples} lattices"
    if rows < samples:
        text += f" in {rows} groups of up to {found.count.max()}"
    if errors.kind != "gamma":
        bins = errors.number_of_bins(rows)
        text += f", averaged in {bins} bins that are taken as independent"
        return text + (f", {errors.resamples} times" if errors.kind == "bootstrap" else "")
    if found.chains is None:
        return f"{text}, taken as independent: chain and draw are not known"
    return f"{text}, autocorrelation by the Gamma method (hep-lat/0306017)"


def estimates(found: Statistics, wanted: Sequence[Observable], errors: ErrorMethod) -> Variables:
    """Return the estimates that `found` gives, as `measure` has them, with theory."""
    system = found.system
    result: Variables = {}
    for one in wanted:
        add_estimate(result, one, found.estimate(one, errors), found.group)
    for name, (value, source, exact) in theory(system).items():
        if name in result:
            dims, _, described = result[name]
            title = f"{described['long_name']}, theory"
            about = {"long_name": title, "comment": source, "exact": int(exact)}
            result[f"{name}_theory"] = (dims, np.asarray(value), described | about)
    if found.power is not None and found.power_error is not None and "structure_factor" in result:
        axes = ("kz", "ky", "kx")[-system.dimension :]
        full = "structure factor mode by mode"
        _add(result, "structure_factor_full", axes, found.power, full)
        about_error = f"standard error of the {full}, lattices taken as independent"
        _add(result, "structure_factor_full_err", axes, found.power_error, about_error)
        for axis, n in zip(axes, system.shape):
            steps = np.fft.rfftfreq(n) if axis == "kx" else np.fft.fftfreq(n)
            along = f"wave number along {axis[1]}"
            _add(result, axis, (axis,), 2 * np.pi * steps, along, "rad / lattice constant")
    for name, values in found.per_sample.items():
        units = PER_SAMPLE[name][1]
        _add(result, f"{name}_per_lattice", ("sample",), values, f"{name} of a lattice", units)
    return result


def add_estimate(
    result: Variables, observable: Observable, found: Estimate, group: int = 1
) -> None:
    """Put value, error, tau_int and n_eff of an observable among the variables.

    `group` configurations are averaged in a row, at most: tau_int and n_eff count such rows.
    """
    spacing = "spacing of draws" if group == 1 else f"{group} spacings of draws"
    rows = "independent lattices" if group == 1 else f"independent groups of {group} lattices"
    name, units, about = observable.name, observable.units, observable.long_name
    time = f"integrated autocorrelation time of the {about}"
    for end, values, text, unit in (
        ("", found.value, about, units),
        ("_err", found.error, f"standard error of the {about}", units),
        ("_tau_int", found.tau, time, spacing),
        ("_tau_int_err", found.tau_error, f"standard error of the {time}", spacing),
        ("_n_eff", found.n_eff, f"{rows} that the {about} is worth", "1"),
    ):
        _add(result, f"{name}{end}", observable.dims, values, text, unit)
    if observable.label:
        result[name][2]["symbol"] = observable.label


def _add(
    result: Variables,
    name: str,
    dims: tuple[str, ...],
    values: NDArray[Any],
    long_name: str,
    units: str = "1",
) -> None:
    result[name] = (dims, values, {"long_name": long_name, "units": units})
