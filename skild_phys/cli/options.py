"""What commands share: options, names of outputs, and how a store comes about.

An output that the user does not name is called after what it holds. A store or a training run that
the same command left unfinished is resumed; any other name that exists is passed over: NAME.zarr,
NAME-2.zarr, NAME-3.zarr, ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from skild_phys.cli import FROM_PYTHON
from skild_phys.cli.terminal import interruptible, progress_bar, say
from skild_phys.errors import BadInput, OutputTaken, warn
from skild_phys.files import check_output, claimed, printable
from skild_phys.models.base import LARGEST_SIDE
from skild_phys.runner import Run, option, versions

if TYPE_CHECKING:
    from skild_phys.errorbars import ErrorMethod
    from skild_phys.skild.coarse import CoarseInput
    from skild_phys.store import Lattices

Function = Callable[..., Any]
Result = TypeVar("Result")

PATH = click.Path(path_type=Path)
_TYPES: dict[str, Any] = {"int": int, "float": float, "AnyPath": PATH}
_RUN = "threads device chunk overwrite dask"
_UNRECORDED = {"threads", "dask", "as_json", "overwrite"}
"""Options that change no number, so that equal runs give equal stores."""


def options_from(
    *kinds: type, skip: Iterable[str] = (), only: Iterable[str] | None = None, into: str = ""
) -> Callable[[Function], Function]:
    """Return what adds an option for every field with a help text of dataclasses.

    `metadata` may have the option's own names (`opts`); the type follows from the field's. If
    fields share a name the first counts. The command gets the fields, or one object `into`.
    """
    fields: dict[str, dataclasses.Field[Any]] = {}
    for one in (one for kind in kinds for one in dataclasses.fields(kind)):
        if "help" in one.metadata and one.name not in skip and (only is None or one.name in only):
            fields.setdefault(one.name, one)

    def add(command: Function) -> Function:
        @functools.wraps(command)
        def called(**given: Any) -> Any:
            own = {name: given.pop(name) for name in fields}
            return command(**given, **{into: kinds[0](**own)})

        taking = called if into else command
        for name, one in reversed(fields.items()):
            names = one.metadata.get("opts", ("--" + name.replace("_", "-"),))
            about: dict[str, Any] = {"help": one.metadata["help"]}
            if one.type == "bool":
                about["is_flag"] = True
            else:
                kind, *others = str(one.type).split(" | ")
                about["type"] = str if "str" in others else _TYPES.get(kind, str)
                about |= {"default": one.default, "show_default": one.default is not None}
            taking = click.option(*names, name, **about)(taking)
        return taking

    return add


def output_option(
    text: str = "Where to write.  [default: named after what it holds; printed last]",
) -> Callable[[Function], Function]:
    """Return what adds --output."""
    return click.option("-o", "--output", type=PATH, help=text)


def result_options(run: str = _RUN) -> Callable[[Function], Function]:
    """Return what adds options of `Run` and --json; the command gets the former as `run`."""

    def add(command: Function) -> Function:
        @functools.wraps(command)
        def called(as_json: bool, **given: Any) -> Any:
            return command(**given)  # `answer` reads --json

        about = "Print the result as JSON."
        taking = click.option("--json", "as_json", is_flag=True, help=about)(called)
        return options_from(Run, only=run.split(), into="run")(taking) if run else taking

    return add


@dataclasses.dataclass(frozen=True)
class Errors:
    """How error bars are made, as options say it."""

    errors: str | None = option(
        None,
        "gamma (autocorrelation by the Gamma method), jackknife or bootstrap over bins."
        "  [default: gamma; jackknife with --bins]",
    )
    bins: int | None = option(None, "Bins of jackknife and bootstrap.  [default: 50]")
    resamples: int | None = option(None, "Resamples of the bootstrap.  [default: 1000]")
    seed: int = option(0, "Seed of the bootstrap, and of the bonds of FK clusters.")

    def method(self, lattices: int) -> ErrorMethod:
        """Return the method for so many configurations; raises BadInput."""
        from skild_phys.errorbars import ErrorMethod

        kind = self.errors or ("gamma" if self.bins is None else "jackknife")
        if self.bins is not None and not 2 <= self.bins <= lattices:
            raise BadInput("bins", self.bins, f"2 to {lattices}, the number of configurations")
        if self.resamples is not None and kind != "bootstrap":
            raise BadInput("resamples", self.resamples, "errors= bootstrap beside it")
        resamples = 1000 if self.resamples is None else self.resamples
        return ErrorMethod(kind, self.bins, resamples, self.seed)


def parse_sides(option: str, text: str, least: int, dimension: int = 2) -> tuple[int, ...]:
    """Return (Ly, Lx) from text such as 96x128, or (Lz, Ly, Lx); raises BadInput."""
    words, most = text.lower().split("x"), LARGEST_SIDE[dimension]
    sides = [int(word) for word in words if word.strip().isdecimal() and len(word) < 10]
    right = len(words) == len(sides) == dimension
    if not right or not least <= min(sides) <= max(sides) <= most:
        named = "x".join(["LZ", "LY", "LX"][-dimension:])
        raise BadInput(option, text, f"sides from {least} to {most}, {named}")
    return tuple(sides)


def beside(source: Path, words: str, suffix: str = ".zarr", without: str = "") -> Path:
    """Return the name SOURCE-WORDS beside an input, outside any Zarr group that holds it.

    An end `without` of the input's name is left out: what is refined is no longer coarse.
    """
    source = Path(os.path.abspath(source))
    folder = source.parent
    while any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        folder = folder.parent
    here = Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return folder / f"{source.stem.removesuffix(without)}-{words}{suffix}"


def shape_name(sides: Sequence[int]) -> str:
    """Return L64 or L64x128."""
    return "L" + "x".join(map(str, sides if len({*sides}) > 1 else sides[:1]))


def times(sides: Sequence[int]) -> str:
    """Return 64 x 128."""
    return " x ".join(map(str, sides))


def _candidates(first: Path) -> Iterator[Path]:
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.stem}-{number}{first.suffix}")


def free(default: Path, overwrite: bool = False) -> Path:
    """Return the first of NAME, NAME-2, ... where nothing lies; NAME itself to overwrite it."""
    return next(path for path in _candidates(default) if overwrite or not os.path.lexists(path))


def fill(
    output: Path | None, default: Path, write: Callable[[Path], Result]
) -> tuple[Path, Result]:
    """Call `write` with `output`, or with the first of NAME, NAME-2, ... that is free or its own.

    `write` resumes at a path what it would write; it raises OutputTaken, before anything is
    changed, where something else lies. Returns the path, and what `write` returned.
    """
    if output is not None:
        return output, write(output)
    candidates = _candidates(default)
    while True:
        with contextlib.suppress(OutputTaken):
            return (path := next(candidates)), write(path)


def claim_output(
    output: Path, *, overwrite: bool, inputs: Sequence[Path] = (), directory: bool = False
) -> None:
    """Keep what is no store to the running command until it ends (`files.claimed`)."""
    click.get_current_context().with_resource(
        claimed(output, overwrite=overwrite, inputs=inputs, directory=directory)
    )


def stored(
    title: str,
    total: int,
    output: Path | None,
    default: Path,
    make: Callable[[Path, Run], Result],
    run: Run,
    *packages: str,
    inputs: Sequence[Path] = (),
) -> tuple[Path, Result]:
    """Make a store at `output`, or under a default name, with progress shown and Ctrl-C obeyed.

    The store keeps the versions of `packages`. Returns its path, and what `make` returned.
    """
    attrs = {"command": command_line(), "versions": versions("numpy", "zarr", *packages)}

    def write(path: Path) -> Result:
        # An output that exists may be one to resume; the store itself decides.
        check_output(path, overwrite=True, inputs=inputs)
        with progress_bar(title, total) as advance, interruptible() as stop:
            return make(path, dataclasses.replace(run, progress=advance, stop=stop, attrs=attrs))

    return fill(output, default, write)


def command_line() -> str:
    """Return the running command with the options that were given and decide the result.

    Paths are cut to their names, so that equal runs in two places give equal stores.
    """
    context = click.get_current_context()
    words = ["skild-phys", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not ParameterSource.COMMANDLINE or name in _UNRECORDED:
            continue
        value = context.params[name]
        option = [] if isinstance(parameter, click.Argument) else [parameter.opts[-1]]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words += option if value else list(parameter.secondary_opts[:1])
            continue
        for item in value if isinstance(value, tuple) else (value,):
            words += [*option, item.name if isinstance(item, Path) else str(item)]
    return printable(shlex.join(words))


def answer(result: Result, text: str | Callable[[], None], output: Path | None = None) -> Result:
    """Print the result of a command, as JSON or in words that end with its output; return it."""
    context = click.get_current_context()
    if context.find_root().obj == FROM_PYTHON:
        return result
    if context.params["as_json"]:
        say(json.dumps(result, allow_nan=False))
        return result
    if isinstance(text, str):
        say(text)
    else:
        text()
    if output is not None:
        say(str(output))
    return result


def warn_of(stores: Iterable[Lattices | CoarseInput]) -> None:
    """Pass on the `warnings` of `stores`, and warn of one that is unfinished."""
    for store in stores:
        known = store.attrs.get("warnings")
        texts = [str(text) for text in known] if isinstance(known, list) else []
        kept, planned = (store.attrs.get(f"samples_{n}") for n in ("committed", "planned"))
        if kept != planned:
            texts = [f"is unfinished: {kept} of {planned} samples are there", *texts]
        for text in texts:
            warn(f"{store.path.name}: {text}")
