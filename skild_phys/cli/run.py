"""`skild-phys run`: a campaign, as far as it has not been done, rehearsed before it begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from skild_phys.cli import FROM_PYTHON, main
from skild_phys.cli import options as cli
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, SkildPhysError, check_whole, nearest
from skild_phys.files import (
    Lock,
    check_directory,
    clear_partials,
    writing,
)
from skild_phys.measurement import REPORT
from skild_phys.runner import Run
from skild_phys.store import MemoryLattices, Plan

if TYPE_CHECKING:
    from skild_phys.campaign import Step

_GIVEN = ("output", "o", "overwrite", "json", "append", "coarse", "truth", "help", "h")
"""Options that a campaign sets itself, or that its tables cannot have."""


@click.command()
@click.argument("campaign", type=cli.PATH)
@cli.output_option("Folder.  [default: runs/NAME]")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@cli.result_options("threads overwrite")
def command(campaign: Path, output: Path | None, dry_run: bool, run: Run) -> dict[str, Any]:
    """Run the steps of the TOML file CAMPAIGN that have not been done yet.

    A step is done if its output is there and was made with the same options from the same
    inputs. One that was made otherwise is left alone, and the run refused, unless --overwrite
    is given; one that was interrupted is resumed. All comparisons
    together are written to results.csv. Tables and their sweeps are described in
    simulations/README.md.

    \b
    skild-phys run simulations/headline.toml --dry-run
    skild-phys run simulations/headline.toml
    """
    from skild_phys.campaign import plan, read_campaign, write_results
    from skild_phys.store import is_store, open_store

    folder = output or Path("runs") / campaign.stem
    tables = read_campaign(campaign)
    for name, many in tables.items():
        options = _options_of(name)
        for key in (key for table in many for key in table if key not in options or key in _GIVEN):
            hint = nearest(key, [] if key in options else options)
            accepted = f"an option of 'skild-phys {name}'{hint}"
            raise BadInput(f"{campaign}: [{name}]", key, accepted)
    check_directory(folder)
    steps = plan(tables, folder, campaign.parent)
    _rehearse(steps)
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
        return cli.answer(found, "\n".join(f"{s['status']:8} {s['command']}" for s in listed))
    changed = [step.output for step, state in zip(steps, states) if state == "changed"]
    if changed and not run.overwrite:
        if is_store(changed[0]):
            open_store(changed[0]).verify()  # a fault of its own says more
        accepted = "what the campaign says (it was made otherwise), or --overwrite"
        raise BadInput("CAMPAIGN", str(changed[0]), accepted)
    for number, (step, state) in enumerate(zip(steps, states), start=1):
        if state != "done":
            say(f"[{number}/{len(steps)}] {step.words()}", err=True)
            _do(step, run, begun=state == "begun")
    lines = [f"{folder}  {len(steps)} steps, {states.count('done')} of them done before"]
    reports = [str(step.output / REPORT) for step in steps if step.command == "compare"]
    if reports:
        lines += [*reports, str(write_results(steps, folder))]
    return cli.answer(found, "\n".join(lines))


def _do(step: Step, run: Run, begun: bool) -> None:
    _make_folders(step.output.parent)
    # What was begun like this resumes; tables and reports are quick, and made anew.
    anew = step.command in ("measure", "compare") or (run.overwrite and not begun)
    able = run.threads is not None and "threads" in _options_of(step.command)
    threads = {"threads": run.threads} if able else {}
    clear_partials(step.record)
    step.note(finished=False)
    try:
        with _parsed(step, output=step.output, overwrite=anew, **threads) as context:
            context.command.invoke(context)
    except BadInput:  # refused, so not begun
        step.record.unlink(missing_ok=True)
        raise
    step.note(finished=True)


def _make_folders(path: Path) -> None:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


# -- commands, called with values --------------------------------------------------------------


def _options_of(command: str) -> dict[str, click.Option]:
    """Return the options of a command by each of their names, `_` for `-`."""
    found = main.get_command(click.Context(main), command)
    return {
        name.lstrip("-").replace("-", "_"): param
        for param in (found.params if found else [])
        if isinstance(param, click.Option)
        for name in param.opts
    }


def _parsed(step: Step, **more: Any) -> click.Context:
    """Return the command of a step, with `more` options, ready to be invoked; it prints no result.

    Raises BadInput, with names of Python, for a value that cannot be parsed or is missing.
    """
    from skild_phys.campaign import option_words

    command, options = step.command, step.options | more
    known = _options_of(command)
    for name, value in options.items():
        option = known[name]
        if sum(known.get(other) is option for other in options) > 1:
            raise BadInput(name, value, "one of the names of its option alone")
        several = isinstance(value, list | tuple) and not option.multiple
        if not option.is_flag and (isinstance(value, bool) or several):
            raise BadInput(name, value, "one value")
        if option.type.name == "path" and not isinstance(value, str | os.PathLike | None):
            raise BadInput(name, type(value).__name__, "a path")
    given = {name: bool(v) if known[name].is_flag else v for name, v in options.items()}
    words = [*option_words(given), "--", *map(str, step.inputs)]
    found = main.get_command(click.Context(main), command)
    assert found is not None
    try:
        return found.make_context(command, words, obj=FROM_PYTHON)
    except click.BadParameter as error:
        name = error.param.human_readable_name if error.param else ""
        kind = error.param.type.name if error.param else ""
        of = [(k, v) for k, v in options.items() if known[k] is error.param]
        expected = {"integer": "a whole number", "float": "a number", "path": "a path"}
        raise BadInput(*(of or [(name, None)])[0], expected.get(kind, "a value")) from None
    except click.UsageError as error:
        raise SkildPhysError(f"{command}: {error.format_message()}") from None


# -- what the commands of a campaign would refuse, found before the first of them runs ---------


class _Promised(MemoryLattices):
    """What a step will have written, of no memory and no meaning.

    Whether trained weights make spins or fields is not `known` before they are there.
    """

    def __init__(self, plan: Plan, known: bool = True) -> None:
        arrays = {
            name: np.broadcast_to(np.zeros((), array.dtype), (plan.n_samples, *array.shape))
            for name, array in plan.arrays.items()
        }
        super().__init__(plan, arrays, dict(plan.attrs))
        self.known = known

    def digest(self) -> str:
        return ""


def _rehearse(steps: Sequence[Step]) -> None:
    """Raise SkildPhysError for the first step with a value that its command would refuse."""
    from skild_phys.cli.simulate import PARAMETERS
    from skild_phys.rules import get_rule
    from skild_phys.simulation.coarsening import coarse_plan
    from skild_phys.simulation.ensemble import plan_of
    from skild_phys.simulation.spec import SimulationSpec

    made: dict[Path, _Promised] = {}
    for step in steps:
        params = _parsed(step, output=step.output).params
        inputs = [made[path] for path in step.inputs]
        how = ("threads", "chunk", "device", "dask")
        try:
            run = Run(**{name: params[name] for name in how if name in params})
            if step.command == "simulate":
                spec = SimulationSpec(**{name: params[name] for name in PARAMETERS})
                made[step.output] = _Promised(plan_of(spec, run)[1])
            elif step.command == "coarsen":
                rule, seed = get_rule(params["rule"]), params["tie_seed"]
                plan, *_ = coarse_plan(inputs[0], rule, params["factor"], run, seed, digest=False)
                made[step.output] = _Promised(plan)
            elif step.command == "refine":
                trained = any(params["checkpoint"] == one.output for one in steps)
                made[step.output] = _refine(params, inputs[0], trained)
            elif step.command == "train":
                from skild_phys.skild.fit import Fit

                others = ("store", "output", "device", "overwrite", "as_json")
                Fit.of(params["store"], **{k: params[k] for k in params if k not in others})
            else:
                _measure(params, inputs)
        except SkildPhysError as error:
            raise SkildPhysError(f"{step.output}: {error}") from None


def _refine(params: Mapping[str, Any], coarse: _Promised, trained: bool) -> _Promised:
    from skild_phys.cli.refine import named_method
    from skild_phys.methods import SKILD
    from skild_phys.skild.coarse import open_coarse

    method = named_method(dict(params) | ({"checkpoint": None} if trained else {}))
    known = not (trained and isinstance(method, SKILD))
    source = open_coarse(
        coarse, params["factor"], params["rule"], spins=method.spins if known else None
    )
    if isinstance(method, SKILD) and trained:
        method.temperature(source)
        method.check_values(source, spins=True)
    else:
        method.check(source)
    plan = Plan(
        field=source.kind, shape=source.fine_shape, chunk=1, q=source.q,
        n_samples=source.n * check_whole("samples_per_input", params["samples_per_input"]),
        attrs=coarse.attrs | {"method": method.name},
    )  # fmt: skip
    return _Promised(plan, known)


def _measure(params: Mapping[str, Any], stores: Sequence[_Promised]) -> None:
    """Check the options of `measure` and `compare`."""
    from skild_phys.cli.measure import parse_offsets
    from skild_phys.measurement.compare import check_names
    from skild_phys.measurement.observables import chosen
    from skild_phys.measurement.system import System

    if params.get("names") is not None:
        check_names([name.strip() for name in params["names"].split(",")], len(stores) - 1)
    errors = cli.Errors(**{name: params[name] for name in ("errors", "bins", "resamples", "seed")})
    errors.method(min(store.n_samples for store in stores))
    if all(store.known for store in stores):
        offsets = tuple(parse_offsets(text) for text in params.get("offsets", ()))
        system = System.of(stores[0], offsets=offsets, seed=params["seed"])
        chosen(system, params.get("only"))
