"""`skild-phys measure`: what one store's lattices are like, with errors and exact values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import announced, progress_bar, say, show
from skild_phys.errors import BadInput
from skild_phys.files import (
    printable,
    whole_directory,
    write_bytes_atomically,
    write_text_atomically,
)
from skild_phys.runner import Run

if TYPE_CHECKING:
    import xarray as xr

_SUFFIXES = ("", ".nc", ".csv", ".zarr")


def compile_measuring() -> None:
    """Compile what measuring will call, and say so; quick once it is cached."""
    from skild_phys.measurement.measure import measure

    with announced("loading the kernels (compiled on the first run) ..."):
        measure(np.ones((1, 4, 4), dtype=np.int8), model="ising2d", temperature=2.0)


@click.command()
@click.argument("store", type=cli.PATH)
@cli.output_option(
    "Write all of it: FILE.nc (NetCDF), FILE.zarr, FILE.csv, or a directory for NetCDF, CSV"
    " and a figure."
)
@click.option(
    "--only", help="Observables, by name (or U4, chi ..), with commas between.  [default: all]"
)
@click.option(
    "--offsets",
    multiple=True,
    help="Four sites for the connected four-point function, as '0,0 0,3 2,3 2,0' in the order of"
    " the axes (y,x); can be given more than once.",
)
@cli.options_from(cli.Errors, into="errors")
@cli.result_options("threads overwrite dask")
def command(
    store: Path,
    output: Path | None,
    only: str | None,
    offsets: tuple[str, ...],
    errors: cli.Errors,
    run: Run,
) -> dict[str, Any]:
    """Measure a store: energy, moments, G(r), S(k), four-point function, clusters, patterns.

    Values are shown as 1.234(56), the standard error in units of the last digits, beside exact
    values where they are known. tau is the integrated autocorrelation time in samples (1/2 where
    they are independent), n_eff how many independent samples an error is worth. STORE is a store,
    or any .npy file or Zarr array (n, [z,] y, x); it is read once, chunk by chunk (a file of more
    than 256 MiB that is no store twice, to count samples that are there twice once).

    \b
    skild-phys measure refined.zarr
    skild-phys measure refined.zarr -o refined.nc
    skild-phys measure fine.zarr --only binder_cumulant,energy --errors bootstrap
    """
    from skild_phys.measurement.measure import measure
    from skild_phys.measurement.observables import chosen
    from skild_phys.measurement.rows import check_measurable
    from skild_phys.measurement.system import System
    from skild_phys.measurement.tables import to_plain
    from skild_phys.store import open_lattices

    opened = open_lattices(store)
    cli.warn_of([opened])
    check_measurable(opened)
    method = errors.method(opened.n_samples)
    sites = tuple(parse_offsets(text) for text in offsets)
    chosen(System.of(opened, offsets=sites), only)
    if output is not None:
        _check_kind(output)
        cli.claim_output(
            output, overwrite=run.overwrite, inputs=[store], directory=output.suffix == ""
        )
    compile_measuring()
    with progress_bar("measuring", opened.n_samples) as advance:
        result = measure(
            opened, only=only, offsets=sites, errors=method, threads=run.cores,
            dask=run.dask, progress=advance,
        )  # fmt: skip
    result.attrs["store"] = printable(store.name)
    if output is not None:
        _write(result, output)
    return cli.answer(to_plain(result), lambda: _print(result, only is not None), output)


def _write(result: xr.Dataset, output: Path) -> None:
    """Write a measurement as NetCDF, Zarr or CSV, or into a directory; raises WriteError."""
    from skild_phys.measurement.tables import Estimates, csv_text
    from skild_phys.plots.measurement import measurement_figure
    from skild_phys.plots.style import save_figure
    from skild_phys.store import write_group

    if output.suffix == ".zarr":
        return write_group(result, output)
    netcdf, text = bytes(result.to_netcdf(engine="scipy")), csv_text(Estimates(result).table())
    if output.suffix == ".nc":
        write_bytes_atomically(output, netcdf)
    elif output.suffix == ".csv":
        write_text_atomically(output, text)
    else:
        with whole_directory(output) as folder:
            write_bytes_atomically(folder / "measure.nc", netcdf)
            write_text_atomically(folder / "measure.csv", text)
            if figure := measurement_figure(result):
                save_figure(figure, folder / "measure")


def parse_offsets(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the four sites of an --offsets; raises BadInput."""
    try:
        sites = tuple(tuple(int(n) for n in site.split(",")) for site in text.split())
    except ValueError:
        sites = ()
    if len(sites) != 4 or max(abs(n) for site in sites for n in site) >= 2**31:
        raise BadInput("offsets", text, "four sites such as '0,0 0,3 2,3 2,0'")
    return sites


def _check_kind(output: Path) -> None:
    from skild_phys.store import ROOT, is_store

    if output.suffix not in _SUFFIXES:
        accepted = "FILE.nc, FILE.zarr, FILE.csv, or a directory without a suffix"
        raise BadInput("output", str(output), accepted)
    if output.exists() and output.is_dir() != (output.suffix in ("", ".zarr")):
        raise BadInput("output", str(output), "a file for .nc and .csv, else a directory")
    if output.suffix == ".zarr" and output.exists():
        if is_store(output):
            raise BadInput("output", str(output), "no store of lattices, which this would replace")
        if not all(p.name == ROOT or (p / ROOT).is_file() for p in output.iterdir()):
            accepted = "a Zarr group with nothing else, which this replaces"
            raise BadInput("output", str(output), accepted)


def _print(result: xr.Dataset, everything: bool) -> None:
    from skild_phys.measurement.tables import Estimates

    shape = "x".join(map(str, result.attrs["shape"]))
    say(f"{result.attrs['store']}: {result.attrs['lattices']} configurations of {shape}")
    for headings, lines in Estimates(result).texts(everything):
        show(headings, lines, left=3 if headings[0] == "observable" else 0)
    say(f"errors: {result.attrs['errors']}")
    sources: dict[str, list[str]] = {}
    for name in (str(n) for n in result if str(n).endswith("_theory")):
        about = name.removesuffix("_theory").replace("_", " ")
        sources.setdefault(result[name].attrs["comment"], []).append(about)
    for source, known in sources.items():
        say(f"theory of {', '.join(known)}: {source}")
