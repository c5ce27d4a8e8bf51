"""A field of a dataclass that is an option of a command too, with its help."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, text: str, *opts: str) -> Any:
    """Return the field; `opts` are the option's own names, such as `-n`."""
    return field(default=default, metadata={"help": text} | ({"opts": opts} if opts else {}))
