"""The `skild-phys` command: click in, exit codes out. Nothing below this package knows click."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from skild_phys import __version__
from skild_phys.cli.terminal import flush, open_streams, say, warnings_after
from skild_phys.errors import BadInput, SkildPhysError, as_in_python

COMMANDS = {
    "simulate": "Exact Monte Carlo into a store.",
    "coarsen": "Coarse-grain a store by blocks, decimation or modes.",
    "refine": "Fine lattices from a coarse store alone.",
    "generate": "Lattices from noise, or by the paper's protocol.",
    "measure": "Correlations, structure factor and moments of a store, with errors.",
    "compare": "A report: stores against a truth and against exact theory.",
    "run": "A campaign: all of the above, as far as it is missing.",
    "scaling": "Tc and exponents from stores of several sizes.",
    "train": "Train SKILD weights on a store or on a running simulation.",
    "spectrum": "Power spectrum of a store, measured and fitted.",
    "images": "Image benchmarks: data sets, low resolution, scores.",
    "bench": "How fast updates are on this machine, beside other packages.",
}


class _LazyGroup(click.Group):
    """Imports a command's module (skild_phys/cli/NAME.py, attribute `command`) when it is called.

    `--help` and `simulate` need not wait for torch to load.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"skild_phys.cli.{name}")
        command: click.Command = module.command
        command.name = name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


FROM_PYTHON = "from Python"
"""Context object of commands that `skild_phys.api` calls: they print no result, but return it."""


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skild-phys")
def main() -> None:
    """Critical lattice systems: simulate, coarsen, refine, measure, compare.

    \b
    skild-phys simulate --L 256 --T Tc -n 100 -o fine.zarr
    skild-phys coarsen fine.zarr --factor 4 -o coarse.zarr
    skild-phys refine coarse.zarr --factor 4 -o refined.zarr
    skild-phys compare fine.zarr refined.zarr -o report/
    """


def call(command: str, inputs: Sequence[object], options: Mapping[str, object]) -> Any:
    """Call a command from Python, and return its result instead of printing it.

    Parameters
    ----------
    inputs : its arguments.
    options : by name, `_` for `-`; True for a flag, None or False to leave one out.

    Raises
    ------
    BadInput : a value that the command cannot parse, or misses; and what it raises. Names are those
    of Python. KeyError : an option that it does not have.
    """
    with as_in_python(), _parsed(command, inputs, options) as context:
        return context.command.invoke(context)


def check(command: str, inputs: Sequence[object], options: Mapping[str, object]) -> dict[str, Any]:
    """Return the parameters that `call` would parse, or raise what it would; nothing is done."""
    return _parsed(command, inputs, options).params


def _parsed(command: str, inputs: Sequence[object], options: Mapping[str, object]) -> click.Context:
    from skild_phys.campaign import option_words

    told = main.get_command(click.Context(main), command)
    if told is None:
        raise ValueError(command)
    known = options_of(command)
    for name, value in options.items():
        option = known[name]
        if any(known.get(other) is option for other in options if other != name):
            raise BadInput(name, value, "one of the names of its option alone")
        several = isinstance(value, list | tuple) and not option.multiple
        if not option.is_flag and (isinstance(value, bool) or several):
            raise BadInput(name, value, "one value")
        if option.type.name == "path" and not isinstance(value, str | os.PathLike | None):
            raise BadInput(name, type(value).__name__, "a path")
    given = {name: bool(v) if known[name].is_flag else v for name, v in options.items()}
    words = [*option_words(given), "--", *map(str, inputs)]
    try:
        return told.make_context(command, words, obj=FROM_PYTHON)
    except click.BadParameter as error:
        name = error.param.human_readable_name if error.param else ""
        name, value = next(
            ((k, v) for k, v in options.items() if known[k] is error.param), (name, None)
        )
        kind = "" if error.param is None else error.param.type.name
        raise BadInput(name, value, _KINDS.get(kind, "a value")) from None
    except click.UsageError as error:
        raise SkildPhysError(f"{command}: {error.format_message()}") from None


_KINDS = {"integer": "a whole number", "float": "a number", "path": "a path"}


def options_of(command: str) -> dict[str, click.Option]:
    """Return the options of a command by each of their names, `_` for `-`."""
    told = main.get_command(click.Context(main), command)
    return {
        opt.lstrip("-").replace("-", "_"): param
        for param in (told.params if told else [])
        if isinstance(param, click.Option)
        for opt in param.opts
    }


NO_MEMORY = ("can't allocate memory", "out of memory", "can't start new thread")
"""What PyTorch and Python say in a RuntimeError where they lack memory."""


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        say("error: " + " ".join(message.split()), err=True)
    return code


def _with_options(error: SkildPhysError, words: Sequence[str]) -> str:
    """Return what an error says, with options of the command `words` for parameters of Python.

    Other names (of attributes, or keys of a file) stay as they are. Advice such as `overwrite=True`
    or `rule=` becomes `--overwrite` and `--rule`.
    """
    command: click.Command = main
    for word in words:
        found = (
            command.get_command(click.Context(main), word)
            if isinstance(command, click.Group)
            else None
        )
        if found is None:
            break
        command = found
    shown: dict[str, str] = {}
    for param in command.params:
        option = isinstance(param, click.Option)
        name = min(param.opts, key=len) if option else param.human_readable_name
        for one in ("lattices",) if not option else ():
            shown.setdefault(one, name)
        shown |= {_python_name(one): name for one in (param.name or "", *param.opts)}
    text = str(error)
    if isinstance(error, BadInput):
        names = ", ".join(shown.get(name, name) for name in error.name.split(", "))
        kind = "option " if names.startswith("-") else "argument " if names.isupper() else ""
        text = error.message((kind if error.value is None else "") + names)
    return _ADVICE.sub(lambda found: shown.get(found[1], found[0]), text)


_ADVICE = re.compile(r"(?<![\w/.'])([A-Za-z]\w*)=(?:True)?(?=[\s,;:.)]|$)")


def _python_name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _ended(args: Sequence[str] | None) -> int:
    """Do what the command line says; return the exit code."""
    try:
        with warnings_after():
            main.main(args=args, prog_name="skild-phys", standalone_mode=False)
            sys.stdout.flush()
    except SkildPhysError as error:
        return _fail(_with_options(error, sys.argv[1:] if args is None else args), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except OSError as error:
        name = error.filename if flush() else None
        return _fail(f"{name or 'output'}: {error.strerror or error}", 3)
    except (KeyboardInterrupt, click.Abort) as error:  # an Abort is a RuntimeError too
        first = error.__cause__ or error.__context__
        if isinstance(first, EOFError):  # a bug, which click takes for Ctrl-D
            raise first from None
        return _fail("interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in NO_MEMORY):
            raise
        return _fail(f"memory does not suffice: {error or 'no more can be had'}", 3)
    return 0


def run(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit; what a user can mend takes one line, a bug a traceback."""
    open_streams()
    sys.exit(_ended(args))
