"""Writing a store, in commits that are whole or not there.

What a commit does, in this order:

1. chunk files of the new samples, each written beside, synced and renamed; a chunk that is
   already part full is replaced by one with the same first samples;
2. the state to go on from, under a new name (`state/SAMPLES`);
3. the root `zarr.json`, replaced in one step: it alone says how many samples there are, in its
   consolidated metadata and in `samples_committed`;
4. the old state goes.

A process killed between any two of these leaves a store that reads as before the commit, and
what lies beyond the committed samples is cleared when the store is next opened for writing.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.files import (
    PARTIAL,
    AnyPath,
    Lock,
    make_directory,
    write_bytes_atomically,
    write_error,
)
from skild_phys.store.chunks import decode, encode, read_rows
from skild_phys.store.reader import LatticeStore
from skild_phys.store.schema import (
    FIELDS,
    MANAGED,
    ROOT,
    SCALARS,
    SCHEMA_VERSION,
    VOLATILE,
    Layout,
    array_metadata,
    chunk_name,
    chunk_shape,
    group_metadata,
    json_bytes,
    read_json,
    read_root,
    root_metadata,
    scalar,
)
from skild_phys.store.timing import remove_timing


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


class StoreWriter:
    """A store, open for writing by this process alone: a context manager from `create_store`.

    Attributes
    ----------
    path : where it lies.
    committed : samples that are already complete.
    state : arrays that the last commit saved to go on from; empty if none.
    """

    def __init__(
        self, path: Path, layout: Layout, attributes: dict[str, Any], n_samples: int, lock: Lock
    ) -> None:
        self.path = path
        self.committed = 0
        self.state: dict[str, NDArray[Any]] = {}
        self._layout = layout
        self._attributes = attributes
        self._planned = n_samples
        self._lock = lock
        self._state_nodes: dict[str, Any] = {}

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def commit(
        self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Append samples: all or nothing, on disk when this returns, whatever is killed when.

        Parameters
        ----------
        arrays : for the field (n, Ly, Lx) and for every scalar (n,): the next n samples.
        state : arrays to go on from after a break; replaces what the last commit saved.

        Raises
        ------
        StoreError if a value is not allowed; WriteError if the disk refuses. Either way the
        store is as it was before.
        """
        count = self._check_samples(arrays)
        total = self.committed + count
        metadata = self._layout.metadata(total)
        for name, rows in arrays.items():
            self._append(name, metadata[name], np.asarray(rows), total)
        state_nodes = self._write_state(state, total)
        if total == self._planned:
            self._write_array_records(metadata)
        self._write_root(total, state_nodes)
        old = self.committed
        self.committed, self._state_nodes = total, state_nodes
        self.state = {name: np.array(values) for name, values in (state or {}).items()}
        _remove(self.path / "state" / str(old) if state_nodes else self.path / "state")

    def _check_samples(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        layout = self._layout
        expected = (layout.field, *layout.variables)
        if set(arrays) != set(expected):
            raise ValueError(f"a commit to this store needs the variables {', '.join(expected)}")
        count = len(arrays[layout.field])
        for name, values in arrays.items():
            shape = (count, *(layout.shape if name == layout.field else ()))
            kind = FIELDS.get(name) or scalar(name)
            if values.shape != shape:
                raise ValueError(f"variable '{name}' has shape {values.shape}, expected {shape}")
            if not np.can_cast(values.dtype, kind.dtype, "same_kind"):
                raise ValueError(f"variable '{name}' is {values.dtype}, expected {kind.dtype}")
            if fault := layout.fault(name, values):
                raise StoreError(f"{self.path}: variable '{name}': refused {fault}")
        if count < 1 or self.committed + count > self._planned:
            raise ValueError(f"{count} samples after {self.committed} of {self._planned}")
        return count

    def _append(
        self, name: str, metadata: Mapping[str, Any], rows: NDArray[Any], total: int
    ) -> None:
        step = chunk_shape(metadata)[0]
        first = self.committed // step
        kept = read_rows(self.path, name, metadata, first * step, self.committed)
        rows = np.concatenate([kept, rows.astype(metadata["data_type"])])
        for index in range(first, -(-total // step)):
            block = rows[(index - first) * step :][:step]
            file = self.path / name / chunk_name(metadata, index)
            write_bytes_atomically(file, encode(metadata, block))

    def _write_state(self, state: Mapping[str, NDArray[Any]] | None, total: int) -> dict[str, Any]:
        """Write the arrays of a state under the name of the commit; return their metadata."""
        if not state:
            return {}
        folder = f"state/{total}"
        nodes: dict[str, Any] = {"state": group_metadata(), folder: group_metadata()}
        for name, values in state.items():
            dimensions = [f"{name}_{axis}" for axis in range(values.ndim)]
            metadata = array_metadata(
                values.dtype.name,
                values.shape,
                values.shape,
                0,
                dimensions,
                {"long_name": f"{name} of every chain, to go on from", "units": "1"},
            )
            nodes[f"{folder}/{name}"] = metadata
        for node, metadata in nodes.items():
            make_directory(self.path / node)
            write_bytes_atomically(self.path / node / ROOT, json_bytes(metadata))
        for name, values in state.items():
            metadata = nodes[f"{folder}/{name}"]
            file = self.path / folder / name / chunk_name(metadata, 0)
            write_bytes_atomically(file, encode(metadata, values))
        return nodes

    def _write_array_records(self, metadata: Mapping[str, Any]) -> None:
        for name, document in metadata.items():
            file = self.path / name / ROOT
            data = json_bytes(document)
            if not file.exists() or file.read_bytes() != data:
                write_bytes_atomically(file, data)

    def _write_root(self, total: int, state_nodes: Mapping[str, Any]) -> None:
        attributes = {
            **self._attributes,
            "schema_version": SCHEMA_VERSION,
            "samples_planned": self._planned,
            "samples_committed": total,
        }
        nodes = {**self._layout.metadata(total), **state_nodes}
        data = json_bytes(root_metadata(attributes, nodes))
        file = self.path / ROOT
        if not file.exists() or file.read_bytes() != data:
            write_bytes_atomically(file, data)

    # -- opening ------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make the store anew, with no samples."""
        self._write_root(0, {})
        self._clear()

    def _resume(self) -> None:
        """Go on from what is committed, clearing what a killed process left beyond it."""
        # A kill while the store was made may have left an array without a record of its own.
        store = LatticeStore(self.path, _records=False)
        self._compare(store)
        self.committed = store.n_samples
        self._state_nodes = {n: m for n, m in store._nodes.items() if n.split("/")[0] == "state"}
        folder = f"state/{self.committed}"
        for node, metadata in self._state_nodes.items():
            if read_json(self.path, f"{node}/{ROOT}") != metadata:
                raise StoreError(f"{self.path}: {node}/{ROOT} was altered after it was written")
            if node.startswith(folder + "/"):
                name = node[len(folder) + 1 :]
                self.state[name] = decode(self.path, node, metadata, 0)
        self._clear()
        if self.committed > self._planned:
            raise BadInput(
                "-o",
                str(self.path),
                f"a path that does not exist: this store has {self.committed} samples, more than "
                f"the {self._planned} asked for (--overwrite starts afresh)",
            )
        # A finished store of these very parameters is the answer: it is left as it is.
        if self.committed < self._planned or not store.complete:
            self._write_root(self.committed, self._state_nodes)

    def _compare(self, store: LatticeStore) -> None:
        """Raise BadInput unless the store was made with the same layout and attributes."""
        skip = (*VOLATILE, *MANAGED)
        for wanted, there in (
            (self._attributes, store.attrs),
            (vars(self._layout), vars(store._layout)),
        ):
            for key in [*wanted, *(key for key in there if key not in wanted)]:
                if key not in skip and wanted.get(key) != there.get(key):
                    raise BadInput(
                        "-o",
                        str(self.path),
                        f"a store made with the same parameters: there '{key}' is "
                        f"{there.get(key)!r}, here {wanted.get(key)!r} (--overwrite starts afresh)",
                    )

    def _clear(self) -> None:
        """Leave on disk exactly what the committed samples need."""
        for partial in self.path.rglob(f"*{PARTIAL}"):
            _remove(partial)
        metadata = self._layout.metadata(self.committed)
        for name in {*FIELDS, *SCALARS} - set(metadata):
            _remove(self.path / name)
        for name, document in metadata.items():
            make_directory(self.path / name)
            chunks = -(-self.committed // chunk_shape(document)[0])
            keep = {ROOT, *(chunk_name(document, index) for index in range(chunks))}
            for file in set(os.listdir(self.path / name)) - keep:
                _remove(self.path / name / file)
            self._rewrite_tail(name, document)
        self._write_array_records(metadata)
        self._clear_states()

    def _rewrite_tail(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Blank what a part-full last chunk holds beyond the committed samples."""
        step = chunk_shape(metadata)[0]
        index, used = divmod(self.committed, step)
        if not used:
            return
        file = self.path / name / chunk_name(metadata, index)
        data = encode(metadata, decode(self.path, name, metadata, index)[:used])
        if file.read_bytes() != data:
            write_bytes_atomically(file, data)

    def _clear_states(self) -> None:
        folder = self.path / "state"
        if not self._state_nodes:
            _remove(folder)
            return
        for entry in folder.iterdir():
            if entry.name not in (ROOT, str(self.committed)):
                _remove(entry)


@functools.singledispatch
def _plain(value: Any) -> Any:
    raise TypeError(f"an attribute of a store cannot be {type(value).__name__}")


@_plain.register(np.generic)
def _(value: np.generic) -> Any:
    return value.item()


@_plain.register(np.ndarray)
def _(value: NDArray[Any]) -> Any:
    return value.tolist()


def _claim(path: Path) -> Lock:
    """Make the directory if there is none, and take its lock."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadInput("-o", str(path), "a path that does not exist, or a store to go on with")
    make_directory(path)
    return Lock(path).acquire()


def create_store(
    path: AnyPath,
    *,
    field: str,
    n_samples: int,
    shape: tuple[int, int],
    chunk: int,
    attrs: Mapping[str, Any],
    variables: Sequence[str] = ("energy", "magnetization"),
    scale: float = 1.0,
    overwrite: bool = False,
) -> StoreWriter:
    """Open a store for writing: a new one, or one to go on with.

    A store that lies at `path` with fewer than `n_samples`, and agrees in every parameter, is
    resumed where its last commit left it; one that differs is refused unless `overwrite`.

    Parameters
    ----------
    path : a directory, by custom NAME.zarr; its parent must exist.
    field : `spins`, `block_sum` or `field` (see `FIELDS`).
    n_samples : how many samples the finished store holds.
    shape : (Ly, Lx) of a lattice.
    chunk : samples in a chunk, the least that is read at once.
    attrs : what identifies the samples (model, temperature, rule, seed, ...), as JSON values;
        `VOLATILE` ones are stored and not compared.
    variables : names of the scalars that come with each sample (see `SCALARS`).
    scale : physical value of a stored 1; for `block_sum` 1 over the sites in a block.
    overwrite : start afresh even if a store lies there. Nothing else is ever removed, but for
        the record beside it of how long the old one took.

    Raises
    ------
    BadInput naming the first parameter that differs; StoreError if another process writes to
    the store or what lies there is damaged; WriteError if the disk refuses.
    """
    if field not in FIELDS:
        raise BadInput("field", field, " or ".join(FIELDS))
    if n_samples < 1 or chunk < 1 or min(shape) < 1:
        raise BadInput("n_samples, chunk, shape", (n_samples, chunk, shape), "positive integers")
    if field == "block_sum" and not (math.isfinite(scale) and 2**-15 < scale <= 1.0):
        raise BadInput("scale", scale, "1 over the sites in a block, at most 32767 of them")
    layout = Layout(field, (int(shape[0]), int(shape[1])), int(chunk), scale, tuple(variables))
    attributes = json.loads(json.dumps(dict(attrs), default=_plain, allow_nan=False))
    path = Path(path)
    lock = _claim(path)
    try:
        writer = StoreWriter(path, layout, attributes, n_samples, lock)
        if all(name.endswith(PARTIAL) for name in os.listdir(path)):
            remove_timing(path)
            writer._start()
        elif overwrite:
            read_root(path)
            remove_timing(path)
            writer._start()
        else:
            writer._resume()
    except BaseException:
        lock.release()
        raise
    return writer
