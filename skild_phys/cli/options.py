"""What commands share: options, the progress line, Ctrl-C, and how a store came about."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from skild_phys.cli.outputs import fill
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, warn
from skild_phys.files import check_output, claimed, printable
from skild_phys.models.base import LARGEST_SIDE
from skild_phys.runner import Run, versions

if TYPE_CHECKING:
    from rich.console import Console

    from skild_phys.errorbars import ErrorMethod
    from skild_phys.skild.coarse import CoarseInput
    from skild_phys.store import Lattices

Function = Callable[..., Any]
Result = TypeVar("Result")

_UNRECORDED = {"threads", "dask", "as_json", "overwrite", "quiet"}
"""Options that change no number, so that equal runs give equal stores."""

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write.  [default: a name after what it holds; the last line says it]",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what OUTPUT holds.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def _threads(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    return Run(threads=value).threads


threads_option = click.option(
    "--threads",
    type=int,
    callback=_threads,
    help="Threads; change no number.  [default: all cores]",
)


def claim_output(
    output: Path, *, overwrite: bool, inputs: Sequence[Path] = (), directory: bool = False
) -> None:
    """Keep what is no store to the running command until it ends (`files.claimed`)."""
    click.get_current_context().with_resource(
        claimed(output, overwrite=overwrite, inputs=inputs, directory=directory)
    )


class Advance(Protocol):
    """Move a progress line on by `count`, and show `note` at its end."""

    def __call__(self, count: int, note: str = "") -> None: ...


def error_options(command: Function) -> Function:
    """Add the options of how error bars are made."""
    kinds = "gamma (autocorrelation by the Gamma method), jackknife or bootstrap over bins."
    seeded = "Seed of the bootstrap, and of the bonds of FK clusters."
    for name, about in (
        ("seed", {"type": int, "default": 0, "show_default": True, "help": seeded}),
        ("resamples", {"type": int, "help": "Resamples of the bootstrap.  [default: 1000]"}),
        ("bins", {"type": int, "help": "Bins of jackknife and bootstrap.  [default: 50]"}),
        ("errors", {"help": f"{kinds}  [default: gamma; jackknife with --bins]"}),
    ):
        command = click.option(f"--{name}", **about)(command)
    return command


def error_method(
    errors: str | None, bins: int | None, resamples: int | None, seed: int, lattices: int
) -> ErrorMethod:
    """Return the method that the options ask for; raises BadInput."""
    from skild_phys.errorbars import ErrorMethod

    kind = errors or ("gamma" if bins is None else "jackknife")
    if bins is not None and not 2 <= bins <= lattices:
        raise BadInput("bins", bins, f"2 to {lattices}, the number of lattices")
    if resamples is not None and kind != "bootstrap":
        raise BadInput("resamples", resamples, "errors= bootstrap beside it")
    return ErrorMethod(kind, bins, 1000 if resamples is None else resamples, seed)


def parse_sides(option: str, text: str, least: int) -> tuple[int, int]:
    """Return (Ly, Lx) from text such as 96x128; raises BadInput."""
    words, most = text.lower().split("x"), LARGEST_SIDE[2]
    sides = [int(word) for word in words if word.strip().isdecimal() and len(word) < 10]
    if len(words) != 2 or len(sides) != 2 or not least <= min(sides) <= max(sides) <= most:
        raise BadInput(option, text, f"sides from {least} to {most}, LYxLX")
    return sides[0], sides[1]


def thread_count(threads: int | None) -> int:
    """Return the number of threads, by default one a core."""
    return threads or os.cpu_count() or 1


LINE_SECONDS = 30.0
"""How often a run whose stderr is no terminal (a batch job's log) says how far it is."""


@contextlib.contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress on stderr, with rate and time left: a bar, or lines now and then in a log.

    Rates begin at the first call, which may tell of what an earlier run had done.
    """
    from rich.console import Console

    console = Console(stderr=True)
    yield from (
        _bar(console, title, total, done)
        if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))
        else _log(title, total, done)
    )


def _bar(console: Console, title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeLeft(),
        TextColumn("{task.fields[note]}"),
    )
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


def _log(title: str, total: int, done: int) -> Iterator[Advance]:
    began = said = time.monotonic()
    made, before = 0, -1
    lock = threading.Lock()

    def advance(count: int, note: str = "") -> None:
        nonlocal began, made, before, said
        with lock:
            made, now = made + count, time.monotonic()
            if before < 0:
                began, before = now, made
            if now - said < LINE_SECONDS:
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

    A thread hears the signal (signal.set_wakeup_fd), because Python runs no handler while a long
    call of a kernel lasts. To end at once is safe: a store survives a kill at any point.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def listen() -> None:
        times = 0
        while number := heard.recv(1):
            if number[0] != signal.SIGINT:
                continue
            times += 1
            if times > 1:
                os.write(2, b"stopped at once\n")
                os._exit(130)
            came.set()
            say("stopping at the last commit (Ctrl-C again: at once)", err=True)

    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.signal(signal.SIGINT, lambda number, frame: came.set())
    previous = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield came.is_set
    finally:
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGINT, before)
        told.close()
        listener.join()
        heard.close()


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


def from_python() -> bool:
    """Return whether the running command was called by `skild_phys.api`, which prints nothing."""
    from skild_phys.cli import FROM_PYTHON

    return bool(click.get_current_context().find_root().obj == FROM_PYTHON)


def answer(
    result: dict[str, Any], text: str, as_json: bool, output: Path | None = None
) -> dict[str, Any]:
    """Print the result of a command, in words that end with its output or as JSON; return it."""
    if not from_python():
        words = text if output is None else f"{text}\n{output}"
        say(json.dumps(result) if as_json else words)
    return result


def warn_of(stores: Iterable[Lattices | CoarseInput]) -> None:
    """Warn of what is to be minded of `stores`: that one is unfinished, and its `warnings`."""
    for store in stores:
        known = store.attrs.get("warnings")
        texts = [str(text) for text in known] if isinstance(known, list) else []
        kept, planned = (store.attrs.get(f"samples_{n}") for n in ("committed", "planned"))
        if kept != planned:
            texts = [f"is unfinished: {kept} of {planned} samples are there", *texts]
        for text in texts:
            warn(f"{store.path.name}: {text}")


_TYPES: dict[str, Any] = {"int": int, "float": float, "AnyPath": click.Path(path_type=Path)}


def options_from(
    *kinds: type, skip: Sequence[str] = (), only: Sequence[str] | None = None
) -> Callable[[Function], Function]:
    """Return what adds an option for every field with a help text of dataclasses.

    `metadata` may have `help`, and the option's own names (`opts`); the type follows from the
    field's. Of fields with one name the first counts.
    """
    known: dict[str, dataclasses.Field[Any]] = {}
    for one in (one for kind in kinds for one in dataclasses.fields(kind)):
        if "help" in one.metadata and one.name not in skip and one.name in (only or (one.name,)):
            known.setdefault(one.name, one)

    def add(command: Function) -> Function:
        for name, one in reversed(known.items()):
            names = one.metadata.get("opts", ("--" + name.replace("_", "-"),))
            about: dict[str, Any] = {"help": one.metadata["help"]}
            if one.type == "bool":
                about["is_flag"] = True
            else:
                kind, *others = str(one.type).split(" | ")
                about["type"] = str if "str" in others else _TYPES.get(kind, str)
                about |= {"default": one.default, "show_default": one.default is not None}
            command = click.option(*names, name, **about)(command)
        return command

    return add


def stored(
    title: str,
    total: int,
    output: Path | None,
    default: Path,
    make: Callable[[Path, Run], Result],
    given: Mapping[str, Any],
    *packages: str,
    inputs: Sequence[Path] = (),
) -> tuple[Path, Result]:
    """Make a store at `output`, or under a default name, with progress shown and Ctrl-C heard.

    `given` are the parameters of the command, of which those of `Run` are taken, and `packages`
    those whose versions the store keeps. Returns its path, and what `make` returned.
    """
    own = {one.name: given[one.name] for one in dataclasses.fields(Run) if one.name in given}
    plain = Run(**own)
    attrs = {"command": command_line(), "versions": versions("numpy", "zarr", *packages)}

    def write(path: Path) -> Result:
        # An output that exists may be one to resume; the store itself decides.
        check_output(path, overwrite=True, inputs=inputs)
        with progress_bar(title, total) as advance, interruptible() as stop:
            run = dataclasses.replace(plain, progress=advance, stop=stop, attrs=attrs)
            return make(path, run)

    return fill(output, default, write)
