"""The `skild-phys` command: click in, exit codes out. Nothing below this package knows click."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from skild_phys import __version__
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, InputWarning, SkildPhysError

_COMMANDS = {
    "simulate": "Exact Monte Carlo into a store.",
    "coarsen": "Coarse-grain a store by blocks, decimation or Fourier modes.",
    "refine": "Fine configurations from a coarse store alone.",
    "generate": "Configurations from noise, or by the paper's protocol.",
    "measure": "Correlations, structure factor and moments of a store, with standard errors.",
    "compare": "A report on stores against a truth and exact theory.",
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
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"skild_phys.cli.{name}")
        command: click.Command = module.command
        command.name = name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


FROM_PYTHON = "from Python"
"""Context object of commands that print no result, but return it."""


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


_NO_MEMORY = ("can't allocate memory", "out of memory", "can't start new thread")
"""What PyTorch and Python say in a RuntimeError where they lack memory."""


def _with_options(error: SkildPhysError, words: Sequence[str]) -> str:
    """Return what an error says, with options of the command `words` for parameters of Python.

    Other names (of attributes, or keys of a file) stay as they are. Advice such as `overwrite=True`
    or `rule=` becomes `--overwrite` and `--rule`.
    """
    command: click.Command = main
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(main), word) or click.Command("")
    shown: dict[str, str] = {}
    for param in command.params:
        option = isinstance(param, click.Option)
        name = min(param.opts, key=len) if option else param.human_readable_name
        if not option:
            shown.setdefault("lattices", name)
        shown |= {one.lstrip("-").replace("-", "_"): name for one in (str(param.name), *param.opts)}
    text = str(error)
    if isinstance(error, BadInput):
        names = ", ".join(shown.get(name, name) for name in error.name.split(", "))
        kind = "option " if names.startswith("-") else "argument " if names.isupper() else ""
        text = error.message((kind if error.value is None else "") + names)
    return _ADVICE.sub(lambda found: shown.get(found[1], found[0]), text)


_ADVICE = re.compile(r"(?<![\w/.'])([A-Za-z]\w*)=(?:True)?(?=[\s,;:.)]|$)")


@contextlib.contextmanager
def _warnings_after() -> Iterator[None]:
    """Print warnings of the input at once, and hold back those of libraries until all went well.

    Each is one line. Beside the line of an error those of libraries would only hide it.
    """
    held: list[str] = []

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        text = "warning: " + " ".join(str(message).split())
        if issubclass(category, InputWarning):
            say(text, err=True)
        else:
            held.append(text)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
    for text in held:
        say(text, err=True)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        say("error: " + " ".join(message.split()), err=True)
    return code


def _flush() -> bool:
    """Write out what was printed; what is refused is dropped, or Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _ended(args: Sequence[str] | None) -> int:
    """Run the command line; return the exit code."""
    try:
        with _warnings_after():
            main.main(args=args, prog_name="skild-phys", standalone_mode=False)
            sys.stdout.flush()
    except SkildPhysError as error:
        return _fail(_with_options(error, sys.argv[1:] if args is None else args), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except OSError as error:
        name = error.filename if _flush() else None
        return _fail(f"{name or 'output'}: {error.strerror or error}", 3)
    except (KeyboardInterrupt, click.Abort) as error:  # an Abort is a RuntimeError too
        first = error.__cause__ or error.__context__
        if isinstance(first, EOFError):  # a bug, which click takes for Ctrl-D
            raise first from None
        return _fail("interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in _NO_MEMORY):
            raise
        return _fail(f"memory does not suffice: {error or 'no more can be had'}", 3)
    return 0


def run(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit; what a user can mend takes one line, a bug a traceback.

    stdout and stderr take every text, also if the shell closed them or they are not UTF-8.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (`>&-`); the next file would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_ended(args))
