"""Names for outputs that the user does not name: after what they hold, and never one that is taken.

A store or a training run that the same command left unfinished is resumed; any other name that
exists is passed over: NAME.zarr, NAME-2.zarr, NAME-3.zarr, ...
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from skild_phys.errors import OutputTaken

Result = TypeVar("Result")

_GROUPS = ("zarr.json", ".zgroup", ".zarray")


def beside(source: Path, words: str, suffix: str = ".zarr", without: str = "") -> Path:
    """Return the name SOURCE-WORDS beside an input, outside any Zarr group that holds it.

    An end `without` of the input's name is left out: what is refined is no longer coarse.
    """
    source = Path(os.path.abspath(source))
    folder = source.parent
    while any((folder / name).exists() for name in _GROUPS):
        folder = folder.parent
    here = Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return folder / f"{source.stem.removesuffix(without)}-{words}{suffix}"


def shape_name(sides: Sequence[int]) -> str:
    """Return L64 or L64x128."""
    return "L" + "x".join(map(str, sides if len({*sides}) > 1 else sides[:1]))


def _candidates(first: Path) -> Iterator[Path]:
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.stem}-{number}{first.suffix}")


def free(default: Path, overwrite: bool = False) -> Path:
    """Return the first of NAME, NAME-2, ... where nothing lies; NAME itself to overwrite it."""
    return next(path for path in _candidates(default) if overwrite or not os.path.lexists(path))


def fill(
    output: Path | None, default: Path, write: Callable[[Path], Result]
) -> tuple[Path, Result]:
    """Call `write` with `output`, or with the first default name that is free or its own.

    Parameters
    ----------
    output : what the user named; None for a default name.
    default : the first name to try.
    write : writes to a path, or resumes there what it would write; raises OutputTaken, before
        anything is changed, where something else lies.

    Returns
    -------
    The path, and what `write` returned.
    """
    if output is not None:
        return output, write(output)
    candidates = _candidates(default)
    while True:
        with contextlib.suppress(OutputTaken):
            return (path := next(candidates)), write(path)
