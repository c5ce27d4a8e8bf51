"""`skild-phys measure`: what one store's lattices are like, with errors and exact values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from skild_phys.cli.options import announced, json_option, overwrite_option, progress_bar
from skild_phys.errors import BadInput
from skild_phys.files import check_output, write_bytes_atomically, write_error

if TYPE_CHECKING:
    import xarray as xr

SCALARS = (
    "energy", "specific_heat", "magnetization", "abs_magnetization", "susceptibility",
    "binder_cumulant", "correlation_length",
)  # fmt: skip


def compile_kernels() -> None:
    """Compile what measuring will call, and say so; quick once it is cached."""
    from skild_phys.measure.correlations import pattern_counts

    with announced("compiling the kernels (first run only) ..."):
        pattern_counts(np.ones((1, 3, 3), dtype=np.int8))


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write all of it: FILE.nc (NetCDF), FILE.csv, or a directory for both.",
)
@click.option(
    "--bins",
    type=int,
    help="Jackknife over so many bins of lattices.  [default: one by one, with autocorrelation]",
)
@overwrite_option
@json_option
def command(
    store: Path, output: Path | None, bins: int | None, overwrite: bool, as_json: bool
) -> None:
    """Measure a store: energy, moments, G(r), S(k), four-point function, patterns.

    In 3D, and of Potts states: energy, moments and what follows from them. Values are shown as
    1.234(56), the error in units of the last digits, beside exact values where they are known.
    Reads the store once, chunk by chunk.

    \b
    skild-phys measure refined.zarr
    skild-phys measure refined.zarr -o refined.nc
    """
    from skild_phys.measure.observables import measure_store
    from skild_phys.store import open_store

    opened = open_store(store)
    if bins is not None and not 2 <= bins <= opened.n_samples:
        raise BadInput("--bins", bins, f"2 to {opened.n_samples}, the number of lattices")
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=[store])
        _check_kind(output)
    compile_kernels()
    with progress_bar("measuring", opened.n_samples) as advance:
        result = measure_store(opened, bins=bins, progress=advance)
    result.attrs["store"] = store.name
    if output is not None:
        write_measurement(result, output)
    if as_json:
        click.echo(json.dumps(as_plain(result), allow_nan=False))
    else:
        _print(result)


def write_measurement(result: xr.Dataset, output: Path) -> None:
    """Write a measurement as NetCDF, CSV, or both into a directory; raises WriteError."""
    from skild_phys.measure.report import estimates_table

    netcdf = bytes(result.to_netcdf(engine="scipy"))
    text = estimates_table(result).to_csv(index=False).encode()
    if output.suffix == ".nc":
        write_bytes_atomically(output, netcdf)
    elif output.suffix == ".csv":
        write_bytes_atomically(output, text)
    else:
        make_directory(output)
        write_bytes_atomically(output / "measure.nc", netcdf)
        write_bytes_atomically(output / "measure.csv", text)


def make_directory(path: Path) -> None:
    """Make a directory unless it is there; raises WriteError."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def as_plain(result: xr.Dataset) -> dict[str, Any]:
    """Return a measurement in plain types: attributes, and one record an observable and place."""
    from skild_phys.measure.report import estimates_table, to_plain

    records = estimates_table(result).to_dict("records")
    attrs = {str(k): v for k, v in result.attrs.items()}
    times = {
        str(n): {"value": float(result[n]), "error": float(result[f"{n}_err"])}
        for n in result.data_vars
        if str(n).endswith("_tau")
    }
    plain: dict[str, Any] = to_plain({**attrs, "autocorrelation": times, "observables": records})
    return plain


def _check_kind(output: Path) -> None:
    if output.suffix not in ("", ".nc", ".csv"):
        raise BadInput("-o", str(output), "FILE.nc, FILE.csv, or a directory without a suffix")
    if output.exists() and output.is_dir() != (output.suffix == ""):
        raise BadInput("-o", str(output), "a file for .nc and .csv, else a directory")


def _print(result: xr.Dataset) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    shape = "x".join(map(str, result.attrs["shape"]))
    title = f"{result.attrs['store']}: {result.attrs['lattices']} lattices of {shape}"
    console.print(title, soft_wrap=True, markup=False)
    console.print(_scalar_table(result))
    if "structure_factor" in result:
        for table in _correlation_tables(result):
            console.print(table)
    for name in ("energy", "magnetization_squared"):
        if f"{name}_tau" in result:
            value, error = float(result[f"{name}_tau"]), float(result[f"{name}_tau_err"])
            unit = result[f"{name}_tau"].attrs["units"]
            console.print(f"tau_int({name.replace('_', ' ')}) = {value:.2f} +- {error:.2f} {unit}")
    console.print(f"errors: {result.attrs['errors']}", soft_wrap=True)
    sources = {result[n].attrs["comment"] for n in result if str(n).endswith("_theory")}
    for source in sorted(sources):
        console.print(f"theory: {source}", soft_wrap=True)


def _correlation_tables(result: xr.Dataset) -> list[Any]:
    distances, shells = len(result["distance"]), len(result["shell"])
    names = ["two_point_axis", "two_point_diagonal"]
    powers = [2**i for i in range(distances.bit_length()) if 2**i < distances]
    shown = [i for i in (1, 2, 4, 8, 16, 32, 64, 128, 256) if i < shells]
    return [
        _line_table(result, "side", ["connected_four_point"], ["G4c(r)"]),
        _line_table(result, "distance", names, ["G(r, 0)", "G(r, r)"], powers),
        _line_table(result, "shell", ["structure_factor"], ["S(k)"], shown),
    ]


def _scalar_table(result: xr.Dataset) -> Any:
    from rich.table import Table

    from skild_phys.measure.report import with_error

    table = Table("observable", "unit", box=None, pad_edge=False)
    table.add_column("value", justify="right")
    table.add_column("theory", justify="right")
    for name in SCALARS:
        if name in result:
            value, error = float(result[name]), float(result[f"{name}_err"])
            known = f"{float(result[f'{name}_theory']):.6g}" if f"{name}_theory" in result else ""
            unit = result[name].attrs["units"]
            table.add_row(name.replace("_", " "), unit, with_error(value, error), known)
    return table


def _line_table(
    result: xr.Dataset,
    dim: str,
    names: Sequence[str],
    labels: Sequence[str],
    chosen: Sequence[int] | None = None,
) -> Any:
    from rich.table import Table

    from skild_phys.measure.report import with_error

    table = Table(box=None, pad_edge=False)
    table.add_column("k" if dim == "shell" else "r", justify="right")
    for name, label in zip(names, labels, strict=True):
        table.add_column(label, justify="right")
        if f"{name}_theory" in result:
            table.add_column("theory", justify="right")
    places = result["k" if dim == "shell" else dim].values
    for i in range(len(places)) if chosen is None else chosen:
        cells = [f"{places[i]:.4g}"]
        for name in names:
            cells.append(with_error(float(result[name][i]), float(result[f"{name}_err"][i])))
            if f"{name}_theory" in result:
                cells.append(f"{float(result[f'{name}_theory'][i]):.6f}")
        table.add_row(*cells)
    return table
