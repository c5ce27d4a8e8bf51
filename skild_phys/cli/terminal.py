"""The terminal: text without control characters, tables, progress, Ctrl-C."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from skild_phys.files import printable

if TYPE_CHECKING:
    from rich.console import Console

_Advance = Callable[..., None]
"""(count, note="") moves a progress line on by `count`, and shows `note` at its end."""

_LINE_SECONDS = 30.0
"""How often a run whose stderr is no terminal (a batch job's log) says how far it is."""


def say(text: str, err: bool = False) -> None:
    """Print a line on stdout, or on stderr with `err`: there above a progress bar."""
    click.echo(printable(text), file=sys.stderr if err else None)


def show(
    headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 0, width: int = 120
) -> None:
    """Print a table without rules: `left` columns of words, then numbers.

    It is as wide as the terminal, in a file `width` wide.
    """
    from rich.console import Console
    from rich.table import Table

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

        def on_broken_pipe(self) -> None:
            raise

    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", no_wrap=i >= left > 2)
    for line in lines:
        table.add_row(*line)
    console = Plain(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = width
    console.print(table)


@contextlib.contextmanager
def announced(text: str) -> Iterator[None]:
    """Print `text` on stderr if what is done inside takes longer than a second."""
    timer = threading.Timer(1.0, say, [text, True])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[_Advance]:
    """Show progress on stderr, with rate and time left: a bar, or lines now and then in a log.

    The first advance may count what an earlier run had done; rates begin with it.
    """
    from rich.console import Console

    console = Console(stderr=True)
    yield from (
        _bar(console, title, total, done)
        if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))
        else _log(title, total, done)
    )


def _bar(console: Console, title: str, total: int, done: int) -> Iterator[_Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (
        "{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}",
        TimeRemainingColumn(), "{task.fields[note]}",
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=done, note="", rate="")
        called = False

        def advance(count: int, note: str = "") -> None:
            nonlocal called
            if called:
                bar.update(task, advance=count, note=note)
            else:
                bar.reset(task, total=total, completed=done + count, note=note, rate="")
                called = True
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.3g}/s" if speed else "")

        yield advance


def _log(title: str, total: int, done: int) -> Iterator[_Advance]:
    began = said = time.monotonic()
    made, before = 0, -1
    lock = threading.Lock()

    def advance(count: int, note: str = "") -> None:
        nonlocal began, made, before, said
        with lock:
            made, now = made + count, time.monotonic()
            if before < 0:
                began, before = now, made
            if now - said < _LINE_SECONDS:
                return
            said, pace = now, ""
            if made > before:
                rate = (made - before) / (now - began)
                seconds = min((total - done - made) / rate, 1e12)
                pace = f"{rate:.3g}/s, {datetime.timedelta(seconds=round(seconds))} left "
            say(f"{title} {done + made}/{total} {pace}{note}", err=True)

    yield advance


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C came; a second Ctrl-C ends the process at once.

    A thread receives the signal (signal.set_wakeup_fd), because Python runs no handler while a long
    call of a kernel lasts. To end at once is safe: a store survives a kill at any point.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def listen() -> None:
        times = 0
        while number := receiver.recv(1):
            if number[0] != signal.SIGINT:
                continue
            times += 1
            if times > 1:
                os.write(2, b"stopped at once\n")
                os._exit(130)
            came.set()
            say("stopping at the last commit (Ctrl-C again: at once)", err=True)

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.signal(signal.SIGINT, lambda number, frame: came.set())
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield came.is_set
    finally:
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGINT, before)
        sender.close()
        listener.join()
        receiver.close()
