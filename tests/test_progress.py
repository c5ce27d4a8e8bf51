"""How far a run is, and how fast, where stderr is no terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from skild_phys.cli import terminal


def test_rates_are_of_this_run_not_of_what_an_earlier_one_had_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """900 of 1000 were there, then one a second. Planted, seen to fail: all of them counted."""
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with terminal.progress_bar("refining", 1000) as advance:
        advance(900)
        for _ in range(40):
            now += 1.0
            advance(1)
    assert "refining 930/1000 1/s, 0:01:10 left" in capsys.readouterr().err


def test_a_bar_that_is_drawn_at_once_has_all_of_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook draws whenever the bar changes, a terminal now and then.

    Planted, seen to fail: a reset without the field `rate`.
    """
    from rich.console import Console
    from rich.progress import Progress

    reset = Progress.reset

    def reset_and_draw(bar: Progress, *words: Any, **more: Any) -> None:
        reset(bar, *words, **more)
        bar.refresh()

    monkeypatch.setattr(Progress, "reset", reset_and_draw)
    console = Console(file=io.StringIO(), force_terminal=True)
    for advance in terminal._bar(console, "counting", 4, 1):
        advance(1, "first")
        advance(2)


def test_a_line_stands_above_a_bar_that_is_drawn() -> None:
    """On a terminal of its own. Planted, seen to fail: a line behind the bar, on its line."""
    script = (
        "from skild_phys.cli.terminal import progress_bar, say\n"
        "with progress_bar('counting', 4) as advance:\n"
        "    for _ in range(4): advance(1, 'first'); say('a line', err=True)\n"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
        shown += read
    os.close(ours)
    assert child.wait() == 0
    lines = re.findall(r"(.{4}|^)a line\r\n", shown.decode())
    assert (len(lines), {line[-4:] for line in lines[1:]}) == (4, {"\x1b[2K"})
