"""Opening a store for writing: a new one, or one to go on with."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput, OutputTaken, StoreError
from skild_phys.files import PARTIAL, AnyPath, Lock, make_directory, write_bytes_atomically
from skild_phys.rng import STREAMS
from skild_phys.store.inputs import is_store
from skild_phys.store.reader import LatticeStore, kind_of
from skild_phys.store.schema import (
    APPEND_TOTAL,
    AXES,
    FIELDS,
    MOST_STATES,
    POTTS_FIELDS,
    ROOT,
    SCALED_FIELDS,
    Layout,
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
    path: AnyPath,
    *,
    field: str,
    n_samples: int,
    shape: tuple[int, ...],
    chunk: int,
    attrs: Mapping[str, Any],
    variables: Sequence[str] = ("energy", "magnetization"),
    scale: float = 1.0,
    q: int = 0,
    channels: int = 0,
    unsettled: Sequence[str] = (),
    overwrite: bool = False,
) -> StoreWriter:
    """Open a store for writing: a new one, or one to go on with.

    A store that lies at `path` with fewer than `n_samples`, and agrees in every parameter, is
    resumed where its last commit left it; one that differs is refused unless `overwrite`.

    Parameters
    ----------
    path : a directory, by custom NAME.zarr; its parent must exist.
    field : `spins`, `states`, `block_sum`, `state_count`, `field` or `image` (see `FIELDS`).
    n_samples : how many samples the finished store holds.
    shape : (Ly, Lx) or (Lz, Ly, Lx) of a lattice.
    chunk : samples in a chunk, the least that is read at once.
    attrs : what identifies the samples (model, temperature, rule, seed, ...), as JSON values;
        `VOLATILE` ones are stored and not compared.
    variables : names of the scalars that come with each sample (see `SCALARS`).
    scale : physical value of a stored 1; for `block_sum` and `state_count` 1 over the sites in
        a block.
    q : number of states, for `states` and `state_count`.
    channels : of an `image`.
    unsettled : names of attributes that may follow by `StoreWriter.settle`. They are not
        compared: a store that has them keeps them (`StoreWriter.attributes`).
    overwrite : start afresh even if a store lies there. Nothing else is ever removed, but for
        the record beside it of how long the old one took.

    Raises
    ------
    BadInput for a parameter or an attribute that no store can have; OutputTaken naming the first
    parameter that differs; StoreError if another process writes to
    the store or what lies there is damaged; WriteError if the disk refuses.
    """
    if field not in FIELDS:
        raise BadInput("field", field, " or ".join(FIELDS))
    if n_samples < 1 or chunk < 1 or min(shape) < 1:
        raise BadInput("n_samples, chunk, shape", (n_samples, chunk, shape), "positive integers")
    if len(shape) not in AXES:
        raise BadInput("shape", shape, "two sides or three")
    if field in SCALED_FIELDS and not (math.isfinite(scale) and 2**-15 < scale <= 1.0):
        raise BadInput("scale", scale, "1 over the sites in a block, at most 32767 of them")
    if q != 0 and field not in POTTS_FIELDS:
        raise BadInput("q", q, f"0 for '{field}'")
    if field in POTTS_FIELDS and not 2 <= q <= MOST_STATES:
        raise BadInput("q", q, f"2 to {MOST_STATES} states for '{field}'")
    if (channels < 1) if field == "image" else (channels != 0):
        raise BadInput("channels", channels, f"{'1 or more' if field == 'image' else 0}, '{field}'")
    sides = tuple(int(side) for side in shape)
    layout = Layout(field, sides, int(chunk), scale, tuple(variables), int(q), int(channels))
    attributes = readable(attrs)
    path = Path(path)
    lock = _claim(path)
    try:
        writer = StoreWriter(path, layout, attributes, n_samples, lock, unsettled)
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
