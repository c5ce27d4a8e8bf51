"""What reaches the terminal: text without control characters, tables, errors of the streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from skild_phys.errors import InputWarning
from skild_phys.files import printable

if TYPE_CHECKING:
    from rich.table import Table


def say(text: str, err: bool = False) -> None:
    """Print a line on stdout, or on stderr with `err`."""
    click.echo(printable(text), err=err)


def show(table: Table, width: int) -> None:
    """Print a table on stdout: as wide as the terminal, in a file `width` wide."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

        def on_broken_pipe(self) -> None:
            raise

    console = Plain(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = width
    console.print(table)


def columns(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 0) -> Table:
    """Return a table without rules: `left` columns of words, then numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", no_wrap=i >= left > 2)
    for line in lines:
        table.add_row(*line)
    return table


def open_streams() -> None:
    """Make stdout and stderr take every text: those that are closed, and those not UTF-8."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (`>&-`); the next file would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> bool:
    """Write out what was printed; what is refused is dropped, or Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


@contextlib.contextmanager
def warnings_after() -> Iterator[None]:
    """Print warnings of the input at once, and hold back those of libraries until all went well.

    Each is one line. Beside the line of an error those of libraries would only hide it.
    """
    held: list[str] = []

    def told(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        text = "warning: " + " ".join(str(message).split())
        if issubclass(category, InputWarning):
            say(text, err=True)
        else:
            held.append(text)

    with warnings.catch_warnings():
        warnings.showwarning = told
        yield
    for text in held:
        say(text, err=True)
