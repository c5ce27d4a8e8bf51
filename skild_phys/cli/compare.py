"""`skild-phys compare`: a report on stores against a truth and exact theory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.measure import compile_kernels
from skild_phys.cli.options import (
    announced,
    check_threads,
    claim_output,
    command_line,
    error_method,
    error_options,
    from_python,
    json_option,
    overwrite_option,
    progress_bar,
    threads_option,
    warn_of,
)
from skild_phys.cli.outputs import free
from skild_phys.cli.terminal import say, show
from skild_phys.files import whole_directory, write_text_atomically
from skild_phys.measurement import JSON, REPORT, TABLE

if TYPE_CHECKING:
    from skild_phys.measurement.compare import Comparison


@click.command()
@click.argument("truth", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Directory for the report, its tables and figures.  [default: report, report-2, ...]",
)
@click.option(
    "--coarse",
    type=click.Path(path_type=Path),
    help="The coarse store the models were refined from.",
)
@click.option(
    "--names",
    help="Of the models, with commas between.  [default: the names of their stores]",
)
@click.option("--no-figures", is_flag=True, help="Only the tables, and a report of these.")
@error_options
@threads_option
@overwrite_option
@json_option
def command(
    truth: Path,
    models: tuple[Path, ...],
    output: Path | None,
    coarse: Path | None,
    names: str | None,
    no_figures: bool,
    errors: str | None,
    bins: int | None,
    resamples: int | None,
    seed: int,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> Comparison:
    """Compare stores with a truth: what agrees, what does not, and which model is closest.

    A store whose lattices descend from those of TRUTH is compared lattice by lattice, so that
    the fluctuation they share does not blur the difference. Each is a store, or any .npy file or
    Zarr array (n, [z,] y, x).

    \b
    skild-phys compare fine.zarr refined.zarr
    skild-phys compare fine.zarr skild.zarr exact.zarr --coarse coarse.zarr -o report/
    """
    from skild_phys.measurement.compare import compare
    from skild_phys.store import open_lattices

    inputs = [truth, *models, *([coarse] if coarse else [])]
    opened = [open_lattices(path) for path in inputs]
    warn_of(opened)
    output = output or free(Path("report"), overwrite)
    claim_output(output, overwrite=overwrite, inputs=inputs, directory=True)
    stores = opened[1 : len(models) + 1]
    fewest = min(s.n_samples for s in (opened[0], *stores))
    method = error_method(errors, bins, resamples, seed, fewest)
    total = sum(s.n_samples for s in (opened[0], *stores))
    compile_kernels()
    with progress_bar("comparing", total) as advance:
        found = compare(
            opened[0],
            stores,
            names=None if names is None else [name.strip() for name in names.split(",")],
            coarse=opened[-1] if coarse else None,
            errors=method,
            seed=seed,
            threads=check_threads(threads),
            progress=advance,
        )
    with (
        announced("writing tables ..." if no_figures else "drawing ..."),
        whole_directory(output) as folder,
    ):
        drawn = _write(found, folder, draw=not no_figures)
    _remove_others(output, drawn)
    if not from_python():
        _print(found, as_json)
        if not as_json:
            say(str(output / REPORT))
    return found


def _remove_others(output: Path, drawn: list[str]) -> None:
    """Remove the figures of an earlier comparison that this one did not draw."""
    from skild_phys.plots import FIGURES

    for name in {*FIGURES}.difference(drawn):
        for kind in ("png", "pdf"):
            (output / f"{name}.{kind}").unlink(missing_ok=True)


def _write(found: Comparison, output: Path, draw: bool) -> list[str]:
    """Write figures, tables and report; return the names of the figures."""
    from skild_phys.measurement.report import csv_text, html_report, summary, table
    from skild_phys.plots import FIGURES, caption, figure_bytes, save_figure

    images, names = [], []
    for name, (_, drawn) in FIGURES.items():
        figure = drawn(found) if draw else None
        if figure is not None:
            save_figure(figure, output / name)
            images.append((caption(name, found), figure_bytes(figure, dpi=150)))
            names.append(name)
    write_text_atomically(output / TABLE, csv_text(table(found)))
    text = json.dumps(summary(found), indent=1, allow_nan=False)
    write_text_atomically(output / JSON, f"{text}\n")
    write_text_atomically(output / REPORT, html_report(found, images, command_line()))
    return names


def _print(found: Comparison, as_json: bool) -> None:
    from skild_phys.measurement.report import ranking, summary, verdict

    if as_json:
        say(json.dumps(summary(found), allow_nan=False))
        return
    show(_table(found), 200)
    for model in found.stores:
        say(f"\n{model.name}: {verdict(found, model)}")
        for note in model.notes:
            say(f"  note: {note}")
    for line in ranking(found):
        say(f"  {line}")


def _table(found: Comparison) -> Any:
    from rich.table import Table

    from skild_phys.measurement.report import label, table, with_error

    shown = Table(box=None, pad_edge=False)
    for name in ("observable", "r"):
        shown.add_column(name)
    for name in ("truth", *(f"{m.name} - truth" for m in found.stores), "theory"):
        shown.add_column(name, justify="right")
    frame = table(found)
    wanted = frame[frame["at"].isna() | (frame["observable"] == "connected_four_point")]
    for (observable, at), lines in wanted.groupby(["observable", "at"], sort=False, dropna=False):
        by_model = {str(line["model"]): dict(line) for line in lines.to_dict("records")}
        first = next(iter(by_model.values()))
        cells = [
            label(found.truth, str(observable)),
            "" if at != at else f"{at:g}",
        ]
        cells.append(with_error(first["truth"], first["truth_err"]))
        for model in found.stores:
            line = by_model.get(model.name)
            cells.append(_cell(line) if line else "")
        shown.add_row(*cells, with_error(first["theory"], 0.0))
    return shown


def _cell(line: dict[Any, Any]) -> str:
    """Return a residual with the number of errors it amounts to, or a value of its own."""
    from skild_phys.measurement.report import with_error

    if line["residual"] != line["residual"]:
        return with_error(line["value"], line["err"])
    text = with_error(line["residual"], line["residual_err"])
    return text if line["sigmas"] != line["sigmas"] else f"{text} {line['sigmas']:+.1f}σ"
