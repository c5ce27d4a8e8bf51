"""`skild-phys compare`: a report on stores against a truth and exact theory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.measure import compile_measuring
from skild_phys.cli.terminal import announced, progress_bar, say, show
from skild_phys.measurement import REPORT
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.measurement.report import Report


@click.command()
@click.argument("truth", type=cli.PATH)
@click.argument("stores", nargs=-1, required=True, type=cli.PATH)
@cli.output_option(
    "Directory for the report, its tables and figures.  [default: report, report-2, ...]"
)
@click.option("--coarse", type=cli.PATH, help="The coarse store the others were refined from.")
@click.option(
    "--names", help="What to call the stores, with commas between.  [default: their own names]"
)
@click.option("--no-figures", is_flag=True, help="Only the tables, and a report of these.")
@cli.options_from(cli.Errors, into="errors")
@cli.result_options("threads overwrite dask")
def command(
    truth: Path,
    stores: tuple[Path, ...],
    output: Path | None,
    coarse: Path | None,
    names: str | None,
    no_figures: bool,
    errors: cli.Errors,
    run: Run,
) -> dict[str, Any]:
    """Compare stores with a truth: what agrees, what does not, and which store is closest.

    A store whose samples descend from those of TRUTH is compared sample by sample, so that the
    fluctuation they share does not blur the difference. Each is a store, or any .npy file or
    Zarr array (n, [z,] y, x).

    \b
    skild-phys compare fine.zarr refined.zarr
    skild-phys compare fine.zarr skild.zarr exact.zarr --coarse coarse.zarr -o report/
    """
    from skild_phys.measurement.compare import compare
    from skild_phys.measurement.rows import workers
    from skild_phys.plots.comparison import report_of
    from skild_phys.store import open_lattices

    inputs = [truth, *stores, *([coarse] if coarse else [])]
    opened = [open_lattices(path) for path in inputs]
    cli.warn_of(opened)
    output = output or cli.free(Path("report"), run.overwrite)
    cli.claim_output(output, overwrite=run.overwrite, inputs=inputs, directory=True)
    measured = opened[: len(stores) + 1]
    method = errors.method(min(s.n_samples for s in measured))
    compile_measuring()
    with (
        progress_bar("comparing", sum(s.n_samples for s in measured)) as advance,
        workers(run.cores, run.dask) as at_work,
    ):
        found = compare(
            measured[0], measured[1:],
            names=None if names is None else [name.strip() for name in names.split(",")],
            coarse=opened[-1] if coarse else None,
            errors=method, at_work=at_work, progress=advance,
        )  # fmt: skip
    with announced("writing tables ..." if no_figures else "drawing ..."):
        report = report_of(found, output, figures=not no_figures, command=cli.command_line())
    return cli.answer(report.summary(), lambda: _print(report), output / REPORT)


def _print(report: Report) -> None:
    show(*report.lines(), left=2, width=200)
    for store in report.comparison.stores:
        say(f"\n{store.name}: {report.verdict(store)}")
        for note in store.notes:
            say(f"  note: {note}")
    for line in report.ranking():
        say(f"  {line}")
