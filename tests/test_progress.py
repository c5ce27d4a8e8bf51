"""How far a run is, and how fast, where stderr is no terminal."""

from __future__ import annotations

import io
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
