"""One family of exceptions; each carries the exit code the command line ends with."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any

_LONGEST = 200
"""Characters of a value that a message shows."""
_PACKAGE = os.path.join(os.path.dirname(__file__), "")


class SkildPhysError(Exception):
    """Something the user can mend. The message is one line, without a trailing full stop."""

    exit_code = 2


class BadInput(SkildPhysError):
    """A parameter whose value cannot be used, or that is missing (None).

    It is named as in Python (`samples_per_input`); only the command line turns that into an option.
    """

    def __init__(self, name: str, value: Any, accepted: str) -> None:
        super().__init__(name, value, accepted)
        self.name, self.value, self.accepted = name, value, accepted

    def __str__(self) -> str:
        return self.message(self.name)

    def message(self, name: str) -> str:
        """Return what the error says, with `name` for the parameter."""
        if self.value is None:
            return f"missing {name}: expected {self.accepted}"
        shown = f"'{self.value}'" if isinstance(self.value, str) else str(self.value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
        return f"{name}: {shown} is not accepted; expected {self.accepted}"


class OutputTaken(BadInput):
    """An output that exists and is not what the same command would resume; it is left as it is."""


class OutputLarger(OutputTaken):
    """A store of the same run that holds more samples than were asked for."""


class StoreError(SkildPhysError):
    """A store that is missing, damaged, foreign or in use: names file, variable and fault."""


class WeightsError(SkildPhysError):
    """Weights that are missing, damaged, or made for another system."""


class WriteError(SkildPhysError):
    """The operating system refused a write, sync or rename; names the path."""

    exit_code = 3


class Interrupted(SkildPhysError):
    """Stopped by Ctrl-C at a commit; the message says how the run resumes."""

    exit_code = 130


class InputWarning(UserWarning):
    """What the user is to mind; commands print it at once, as a line."""


def warn(text: str) -> None:
    """Warn the user, in the one way that there is; points to the line that called the package."""
    files = [f.f_code.co_filename for f, _ in traceback.walk_stack(sys._getframe())]
    inside = [i for i, file in enumerate(files, 1) if file.startswith(_PACKAGE)]
    warnings.warn(text, InputWarning, stacklevel=inside[-1] + 1)


def check_whole(option: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Return `value` as an int; raise BadInput unless it is whole, from `least` on, up to `most`.

    NumPy's integers are whole numbers too.
    """
    if (
        not issubclass(type(value), Integral)
        or isinstance(value, bool)
        or value < least
        or (most is not None and value > most)
    ):
        reach = f"from {least} on" if most is None else f"from {least} to {most}"
        raise BadInput(option, value, f"a whole number {reach}")
    return int(value)


def nearest(name: str, known: Iterable[str], form: str = "'{}'") -> str:
    """Return the end of a message that asks whether the nearest known name was meant, or ""."""
    near = difflib.get_close_matches(name, [*known], 1)
    return f"; did you mean {form.format(near[0])}?" if near else ""


def how_to_install(extra: str) -> str:
    """Return what gets the packages of an extra, which no index has yet."""
    return f"pip install -e '.[{extra}]' in the folder of the clone of skild-phys"
