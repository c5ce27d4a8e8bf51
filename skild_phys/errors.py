"""One family of exceptions; each carries the exit code the command line ends with."""

from __future__ import annotations

from typing import Any


class SkildPhysError(Exception):
    """Something the user can mend. The message is one line, without a trailing full stop."""

    exit_code = 2


class BadInput(SkildPhysError):
    """An option or argument whose value cannot be used."""

    def __init__(self, option: str, value: Any, accepted: str) -> None:
        shown = f"'{value}'" if isinstance(value, str) else value
        super().__init__(f"{option}: {shown} is not accepted; expected {accepted}")


class OutputTaken(BadInput):
    """An output that exists and is not what the same command would resume; it is left as it is."""


class StoreError(SkildPhysError):
    """A store that is missing, damaged, foreign or in use: names file, variable and fault."""


class WeightsError(SkildPhysError):
    """Weights that are missing, damaged, or made for another system."""


class WriteError(SkildPhysError):
    """The operating system refused a write, sync or rename; names the path."""

    exit_code = 3


class Interrupted(SkildPhysError):
    """Stopped by Ctrl-C at a commit; the message says how to go on."""

    exit_code = 130
