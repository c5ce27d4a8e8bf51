"""Opening a store for writing: a new one, or one to go on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput, OutputTaken, StoreError
from skild_phys.files import PARTIAL, AnyPath, Lock, make_directory, write_bytes_atomically
from skild_phys.rng import STREAMS
from skild_phys.store.inputs import is_store
from skild_phys.store.reader import LatticeStore, kind_of
from skild_phys.store.schema import (
    APPEND_TOTAL,
    ROOT,
    Plan,
    as_json,
    json_bytes,
    read_root,
    root_metadata,
)
from skild_phys.store.timing import remove_timing
from skild_phys.store.writer import StoreWriter


def _taken(path: Path) -> OutputTaken:
    return OutputTaken("-o", str(path), "a path that does not exist, or a store to go on with")


def _claim(path: Path) -> Lock:
    """Make the directory if there is none, and take its lock."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise _taken(path)
    make_directory(path)
    return Lock(path).acquire()


def readable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they will be read; raises BadInput for one that would be refused."""
    found: dict[str, Any] = {}
    for name, value in attrs.items():
        try:
            found |= as_json({name: value})
        except (TypeError, ValueError):  # no JSON, or a number beyond float64
            if isinstance(value, int):
                size = f"of {value.bit_length()} bits"
                raise BadInput(f"attribute {name}", size, "at most 1023 bits") from None
            accepted = "a number, a text, or a list"
            raise BadInput(f"attribute {name}", str(value), accepted) from None
        if accepted := kind_of(name, found[name]):
            raise BadInput(f"attribute {name}", found[name], accepted)
    return found


def streams_at(path: AnyPath, overwrite: bool) -> str | None:
    """Return the attribute `streams` (`rng.STREAMS`) of a store that is made at `path`, or resumed.

    None for one that was begun before there was this attribute.
    """
    try:
        return STREAMS if overwrite else LatticeStore(path).attrs.get("streams")
    except StoreError:
        return STREAMS  # nothing is there, or what `create_store` finds fault with


def end_append(path: AnyPath) -> None:
    """Record that the command which appended to a store has ended: another one appends anew.

    Raises StoreError if another process writes to the store, WriteError if the disk refuses.
    """
    path = Path(path)
    with Lock(path):
        root = read_root(path)
        skip = ("sha256", APPEND_TOTAL)
        attributes = {k: v for k, v in root["attributes"].items() if k not in skip}
        data = json_bytes(root_metadata(attributes, root["consolidated_metadata"]["metadata"]))
        write_bytes_atomically(path / ROOT, data)


def create_store(
    path: AnyPath, plan: Plan | None = None, *, overwrite: bool = False, **fields: Any
) -> StoreWriter:
    """Open a store for writing: a new one, or one to go on with.

    A store that lies at `path` with fewer samples than planned, and agrees in every parameter, is
    resumed where its last commit left it; one that differs is refused unless `overwrite`.

    Parameters
    ----------
    path : a directory, by custom NAME.zarr; its parent must exist.
    plan : what the finished store holds; or its `fields` as keywords.
    overwrite : start afresh even if a store lies there. Nothing else is ever removed, but for
        the record beside it of how long the old one took.

    Raises
    ------
    BadInput for a parameter or an attribute that no store can have; OutputTaken naming the first
    parameter that differs; StoreError if another process writes to
    the store or what lies there is damaged; WriteError if the disk refuses.
    """
    plan = plan or Plan(**fields)
    attributes = readable(plan.attrs)
    path = Path(path)
    lock = _claim(path)
    try:
        writer = StoreWriter(path, plan, attributes, lock)
        if all(name.endswith(PARTIAL) for name in os.listdir(path)):
            remove_timing(path)
            writer._start()
        elif overwrite:
            read_root(path)
            remove_timing(path)
            writer._start()
        elif not is_store(path):
            raise _taken(path)
        else:
            writer._resume()
    except BaseException:
        lock.release()
        raise
    return writer
