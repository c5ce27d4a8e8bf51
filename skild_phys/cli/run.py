"""`skild-phys run`: a campaign, as far as it has not been done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import call, options_of
from skild_phys.cli.options import answer, overwrite_option, threads_option
from skild_phys.cli.rehearsal import rehearse
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, nearest
from skild_phys.files import (
    Lock,
    check_directory,
    clear_partials,
    write_error,
    write_text_atomically,
)
from skild_phys.measurement import REPORT

if TYPE_CHECKING:
    from skild_phys.campaign import Step

_GIVEN = ("output", "o", "overwrite", "json", "append", "coarse", "truth", "help", "h")
# Options that a campaign sets itself, or that its tables cannot have.


@click.command()
@click.argument("campaign", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder.  [default: runs/NAME]"
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@threads_option
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print the steps as JSON.")
def command(
    campaign: Path,
    output: Path | None,
    dry_run: bool,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Do what the TOML file CAMPAIGN says and has not been done yet.

    A step is done if its output is there and was made with the same options from the same
    inputs. One that was made otherwise is left alone, and the run refused, unless --overwrite
    says to make it anew; one that was interrupted is resumed. All comparisons
    together are written to results.csv. Tables and their sweeps are described in
    simulations/README.md.

    \b
    skild-phys run simulations/headline.toml --dry-run
    skild-phys run simulations/headline.toml
    """
    from skild_phys.campaign import plan, read_campaign

    folder = output or Path("runs") / campaign.stem
    tables = read_campaign(campaign)
    for name, many in tables.items():
        options = list(options_of(name))
        for key in (key for table in many for key in table if key not in options or key in _GIVEN):
            hint = nearest(key, [] if key in options else options)
            accepted = f"an option of 'skild-phys {name}'{hint}"
            raise BadInput(f"{campaign}: [{name}]", key, accepted)
    check_directory(folder)
    steps = plan(tables, folder, campaign.parent)
    rehearse(steps)
    if not dry_run:
        _make_folders(folder.parent)
        click.get_current_context().with_resource(Lock(folder, beside=True))
    states = [step.status() for step in steps]
    listed = [
        {"status": state, "output": str(step.output), "command": step.words()}
        for step, state in zip(steps, states)
    ]
    found = {"folder": str(folder), "steps": listed}
    if dry_run:
        lines = [f"{one['status']:8} {one['command']}" for one in listed]
        return answer(found, "\n".join(lines), as_json)
    _refuse_changed(steps, states, overwrite)
    for number, (step, state) in enumerate(zip(steps, states), start=1):
        if state != "done":
            say(f"[{number}/{len(steps)}] {step.words()}", err=True)
            _do(step, overwrite, state == "begun", threads)
    done = sum(state == "done" for state in states)
    lines = [f"{folder}  {len(steps)} steps, {done} of them done before"]
    return answer(found, "\n".join(lines + _compared(steps, folder)), as_json)


def _refuse_changed(steps: Sequence[Step], states: Sequence[str], overwrite: bool) -> None:
    from skild_phys.store import is_store, open_store

    changed = [step.output for step, state in zip(steps, states) if state == "changed"]
    if changed and not overwrite:
        if is_store(changed[0]):
            open_store(changed[0]).verify()  # a fault of its own says more
        accepted = "what the campaign says (it was made otherwise), or --overwrite"
        raise BadInput("CAMPAIGN", str(changed[0]), accepted)


def _do(step: Step, overwrite: bool, begun: bool, threads: int | None) -> None:
    _make_folders(step.output.parent)
    # What was begun like this resumes; tables and reports are quick, and made anew.
    anew = step.command in ("measure", "compare") or (overwrite and not begun)
    more: dict[str, Any] = {"output": step.output, "overwrite": anew}
    if threads is not None and "threads" in options_of(step.command):
        more["threads"] = threads
    clear_partials(step.record)
    step.note(finished=False)
    try:
        call(step.command, step.inputs, step.options | more)
    except BadInput:  # refused, so not begun
        step.record.unlink(missing_ok=True)
        raise
    step.note(finished=True)


def _compared(steps: Sequence[Step], folder: Path) -> list[str]:
    """Write all comparisons as one table; return the paths of what was written."""
    from skild_phys.campaign import RESULTS, results
    from skild_phys.measurement.report import csv_text

    reports = [step.output / REPORT for step in steps if step.command == "compare"]
    if not reports:
        return []
    clear_partials(folder / RESULTS)
    write_text_atomically(folder / RESULTS, csv_text(results(steps, folder)))
    return [*map(str, reports), str(folder / RESULTS)]


def _make_folders(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from None
