"""`skild-phys measure`: what one store's lattices are like, with errors and exact values."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from skild_phys.cli.options import (
    announced,
    check_threads,
    claim_output,
    error_method,
    error_options,
    from_python,
    json_option,
    overwrite_option,
    progress_bar,
    threads_option,
    warn_of,
)
from skild_phys.cli.terminal import say, show
from skild_phys.errors import BadInput
from skild_phys.files import (
    printable,
    whole_directory,
    write_bytes_atomically,
    write_text_atomically,
)

if TYPE_CHECKING:
    import xarray as xr

_SUFFIXES = ("", ".nc", ".csv", ".zarr")
_SHELLS_SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def compile_kernels() -> None:
    """Compile what measuring will call, and say so; quick once it is cached."""
    from skild_phys.measurement.measure import measure

    with announced("loading the kernels (compiled on the first run) ..."):
        spins = np.ones((1, 4, 4), dtype=np.int8)
        measure(spins, model="ising2d", temperature=2.0)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write all of it: FILE.nc (NetCDF), FILE.zarr, FILE.csv, or a directory for NetCDF, CSV"
    " and a figure.",
)
@click.option(
    "--only",
    help="Observables, by name (or U4, chi ..), with commas between.  [default: all]",
)
@click.option(
    "--offsets",
    multiple=True,
    help="Four sites for the connected four-point function, as '0,0 0,3 2,3 2,0' in the order of"
    " the axes (y,x); can be given more than once.",
)
@error_options
@threads_option
@overwrite_option
@json_option
def command(
    store: Path,
    output: Path | None,
    only: str | None,
    offsets: tuple[str, ...],
    errors: str | None,
    bins: int | None,
    resamples: int | None,
    seed: int,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure a store: energy, moments, G(r), S(k), four-point function, clusters, patterns.

    Values are shown as 1.234(56), the error in units of the last digits, beside exact values
    where they are known. tau is the integrated autocorrelation time in samples (1/2 where they
    are independent), n_eff how many independent lattices an error is worth. STORE is a store,
    which is read once, chunk by chunk, or any .npy file or Zarr array (n, [z,] y, x), which is
    read once more, to count samples that are there twice once.

    \b
    skild-phys measure refined.zarr
    skild-phys measure refined.zarr -o refined.nc
    skild-phys measure fine.zarr --only binder_cumulant,energy --errors bootstrap
    """
    from skild_phys.measurement.measure import measure
    from skild_phys.measurement.observables import chosen
    from skild_phys.measurement.system import System, check_measurable
    from skild_phys.store import open_lattices

    opened = open_lattices(store)
    warn_of([opened])
    check_measurable(opened)
    method = error_method(errors, bins, resamples, seed, opened.n_samples)
    sites = tuple(parse_offsets(text) for text in offsets)
    names = None if only is None else tuple(name.strip() for name in only.split(","))
    chosen(System.of(opened, offsets=sites), names)
    if output is not None:
        _check_kind(output)
        claim_output(output, overwrite=overwrite, inputs=[store], directory=output.suffix == "")
    compile_kernels()
    with progress_bar("measuring", opened.n_samples) as advance:
        result = measure(
            opened, only=names, offsets=sites, errors=method, seed=seed,
            threads=check_threads(threads), progress=advance,
        )  # fmt: skip
    result.attrs["store"] = printable(store.name)
    if output is not None:
        write_measurement(result, output)
    if from_python():
        return
    if as_json:
        say(json.dumps(as_plain(result), allow_nan=False))
    else:
        _print(result, everything=only is not None)
        if output is not None:
            say(str(output))


def write_measurement(result: xr.Dataset, output: Path) -> None:
    """Write a measurement as NetCDF, Zarr or CSV, or into a directory; raises WriteError."""
    from skild_phys.measurement.report import csv_text, estimates_table

    if output.suffix == ".zarr":
        from skild_phys.store import zarr_folder

        with whole_directory(output, replace=True) as folder, warnings.catch_warnings():
            # Names of offsets are text, for which Zarr 3 has no settled type.
            warnings.simplefilter("ignore")
            result.to_zarr(zarr_folder(folder), mode="w", zarr_format=3, consolidated=False)
        return
    netcdf = bytes(result.to_netcdf(engine="scipy"))
    text = csv_text(estimates_table(result))
    if output.suffix == ".nc":
        write_bytes_atomically(output, netcdf)
    elif output.suffix == ".csv":
        write_text_atomically(output, text)
    else:
        from skild_phys.plots import measurement_figure, save_figure

        with whole_directory(output) as folder:
            write_bytes_atomically(folder / "measure.nc", netcdf)
            write_text_atomically(folder / "measure.csv", text)
            figure = measurement_figure(result)
            if figure is not None:
                save_figure(figure, folder / "measure")


def as_plain(result: xr.Dataset) -> dict[str, Any]:
    """Return a measurement in plain types: attributes, and one record an observable and place."""
    from skild_phys.measurement.report import estimates_table, to_plain

    records = estimates_table(result).to_dict("records")
    attrs = {str(k): v for k, v in result.attrs.items()}
    plain: dict[str, Any] = to_plain({**attrs, "observables": records})
    return plain


def parse_offsets(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the four sites of an --offsets; raises BadInput."""
    try:
        sites = tuple(tuple(int(n) for n in site.split(",")) for site in text.split())
    except ValueError:
        sites = ()
    if len(sites) != 4 or max(abs(n) for site in sites for n in site) >= 2**31:
        raise BadInput("--offsets", text, "four sites such as '0,0 0,3 2,3 2,0'")
    return sites


def _check_kind(output: Path) -> None:
    from skild_phys.store import is_store
    from skild_phys.store.schema import ROOT

    if output.suffix not in _SUFFIXES:
        accepted = "FILE.nc, FILE.zarr, FILE.csv, or a directory without a suffix"
        raise BadInput("-o", str(output), accepted)
    if output.exists() and output.is_dir() != (output.suffix in ("", ".zarr")):
        raise BadInput("-o", str(output), "a file for .nc and .csv, else a directory")
    if output.suffix == ".zarr" and output.exists():
        if is_store(output):
            raise BadInput("-o", str(output), "no store of lattices, which this would replace")
        if not all(p.name == ROOT or (p / ROOT).is_file() for p in output.iterdir()):
            raise BadInput("-o", str(output), "a Zarr group with nothing else, which this replaces")


def _print(result: xr.Dataset, everything: bool) -> None:
    from skild_phys.measurement.report import estimated

    shape = "x".join(map(str, result.attrs["shape"]))
    title = f"{result.attrs['store']}: {result.attrs['lattices']} lattices of {shape}"
    say(title)
    scalars = [name for name in estimated(result) if not result[name].dims]
    if scalars:
        show(_scalar_table(result, scalars), 120)
    for table in _correlation_tables(result, everything):
        show(table, 120)
    say(f"errors: {result.attrs['errors']}")
    sources: dict[str, list[str]] = {}
    for name in result:
        if str(name).endswith("_theory"):
            about = str(name).removesuffix("_theory").replace("_", " ")
            sources.setdefault(result[name].attrs["comment"], []).append(about)
    for source, names in sources.items():
        say(f"theory of {', '.join(names)}: {source}")


def _correlation_tables(result: xr.Dataset, everything: bool) -> list[Any]:
    """Return a table a dimension of what has a symbol; `everything` adds one of each other."""
    from skild_phys.measurement.report import estimated

    there = [name for name in estimated(result) if result[name].dims and result[name].size]
    groups: dict[str, list[str]] = {}
    for name in there:
        if "symbol" in result[name].attrs:
            groups.setdefault(str(result[name].dims[0]), []).append(name)
        elif everything:
            groups[name] = [name]
    return [_line_table(result, names) for names in groups.values()]


def _scalar_table(result: xr.Dataset, names: Sequence[str]) -> Any:
    from rich.table import Table

    from skild_phys.measurement.report import with_error

    table = Table("observable", "", "unit", box=None, pad_edge=False)
    for heading in ("value", "theory", "tau", "n_eff"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        value, error = float(result[name]), float(result[f"{name}_err"])
        tau, tau_error = (float(result[f"{name}_tau_int{e}"]) for e in ("", "_err"))
        shown = with_error(tau, tau_error) if np.isfinite(tau_error) else f"{tau:.2g}"
        table.add_row(
            name.replace("_", " "),
            result[name].attrs.get("symbol", ""),
            result[name].attrs["units"],
            with_error(value, error),
            _theory(result, name),
            shown if np.isfinite(tau) else "unknown",
            f"{float(result[f'{name}_n_eff']):.0f}",
        )
    return table


def _theory(result: xr.Dataset, name: str, i: int | None = None) -> str:
    """Return a value in theory: six digits where it is exact, else four after a ~."""
    if f"{name}_theory" not in result:
        return ""
    known = result[f"{name}_theory"]
    value = float(known.values if i is None else known.values[i])
    if not np.isfinite(value):
        return ""
    return f"{value:.6g}" if known.attrs["exact"] else f"~{value:.4g}"


def _line_table(result: xr.Dataset, names: Sequence[str]) -> Any:
    from rich.table import Table

    from skild_phys.measurement.report import label, position, with_error

    over = position(result, names[0])
    table = Table(box=None, pad_edge=False)
    table.add_column(over.attrs["symbol"], justify="right")
    for name in names:
        table.add_column(label(result, name), justify="right")
        if f"{name}_theory" in result:
            table.add_column("theory", justify="right")
    places = over.values
    few = over.attrs["dense"] and "symbol" in result[names[0]].attrs
    for i in (i for i in _SHELLS_SHOWN if i < len(places)) if few else range(len(places)):
        at = places[i]
        cells = [str(at) if places.dtype.kind == "U" else f"{at:.4g}"]
        for name in names:
            cells.append(with_error(float(result[name][i]), float(result[f"{name}_err"][i])))
            if f"{name}_theory" in result:
                cells.append(_theory(result, name, i))
        table.add_row(*cells)
    return table
