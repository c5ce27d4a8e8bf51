"""Writing a store, in commits that are whole or not there.

What a commit does, in this order:

1. chunk files of the new samples, each written beside, synced and renamed; a chunk that is
   already part full is replaced by one with the same first samples. Those of the lattices may
   have been written before, by other processes (`StoreWriter.region`);
2. the state to go on from, under a new name (`state/SAMPLES`);
3. the root `zarr.json`, replaced in one step: it alone says how many samples there are, in its
   consolidated metadata and in `samples_committed`, and the digest of every chunk;
4. the old state goes.

A process killed between any two of these leaves a store that reads as before the commit, and
what lies beyond the committed samples is cleared when the store is next opened for writing.
"""

from __future__ import annotations

import copy
import io
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import OutputLarger, OutputTaken, StoreError
from skild_phys.files import (
    PARTIAL,
    Lock,
    make_directory,
    write_bytes_atomically,
    write_error,
)
from skild_phys.store.chunks import (
    DIGITS,
    decode,
    digests_from,
    encode,
    read_rows,
    write_rows,
)
from skild_phys.store.reader import LatticeStore
from skild_phys.store.region import Region, check_values
from skild_phys.store.schema import (
    DIGESTS,
    FIELDS,
    MANAGED,
    ROOT,
    SCALARS,
    SCHEMA_VERSION,
    VOLATILE,
    Layout,
    Plan,
    array_metadata,
    as_json,
    checksum,
    chunk_name,
    chunk_shape,
    group_metadata,
    json_bytes,
    read_json,
    root_metadata,
    scalar,
)

KEPT = "kept.npz"
"""What `StoreWriter.keep` writes; it is gone from every store with a sample."""

COMMIT_SECONDS = 8.0
"""A run commits at least so often, as far as single lattices allow: what a kill may cost."""


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
    kept : arrays that `keep` put on disk after the last commit; empty if none, or damaged.
    state : arrays that the last commit saved to go on from; empty if none.

    One thread at a time may call it, and it may be another one each time.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        attributes: dict[str, Any],
        lock: Lock,
    ) -> None:
        self.path = path
        self.committed = 0
        self.state: dict[str, NDArray[Any]] = {}
        self.kept: dict[str, NDArray[Any]] = {}
        self._layout: Layout = plan
        self._attributes = attributes
        self._planned = plan.n_samples
        self._lock = lock
        self._unsettled = tuple(plan.unsettled)
        self._state_nodes: dict[str, Any] = {}
        self._digests: dict[str, str] = {}

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy of the store's attributes, with what was settled here or in an earlier run."""
        return copy.deepcopy(self._attributes)

    def settle(self, attrs: Mapping[str, Any]) -> None:
        """Add attributes that were not known when the store was made.

        Only before the first commit, which writes them; a run killed before that has to settle
        them anew. Raises ValueError later on, or for names that `create_store` was not told of
        (`unsettled`).
        """
        if self.committed:
            raise ValueError(f"{self.committed} samples are committed: nothing is left to settle")
        if strange := set(attrs) - set(self._unsettled):
            raise ValueError(f"not among the unsettled attributes: {', '.join(sorted(strange))}")
        self._attributes |= as_json(attrs)

    def region(self) -> Region:
        """Return what writes the lattices of coming samples, in this or in other processes.

        It is good until the store is finished, or opened for writing by a later run.
        """
        path, token = self.path.resolve(), f".region-{uuid.uuid4().hex}{PARTIAL}"
        write_bytes_atomically(path / token, b"")
        return Region(path, self._layout, self.committed, self._planned, token)

    def keep(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put arrays on disk to go on from before there is a sample to commit; it drops them.

        Raises WriteError if the disk refuses.
        """
        self._lock.check()
        data = io.BytesIO()
        np.savez(data, of=np.array(self._place()), **arrays)  # type: ignore[arg-type]
        write_bytes_atomically(self.path / KEPT, data.getvalue())
        self.kept = dict(arrays)

    def _read_kept(self) -> dict[str, NDArray[Any]]:
        try:
            with np.load(self.path / KEPT, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return {}  # none, or one that is begun again without loss of a sample
        return found if found.pop("of", None) == self._place() else {}

    def _place(self) -> str:
        """Return what names this store and its last commit."""
        skip = (*VOLATILE, *MANAGED, *self._unsettled)
        attributes = {k: v for k, v in self._attributes.items() if k not in skip}
        return checksum(attributes, self._layout.metadata(self.committed))

    def commit(
        self,
        arrays: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]] | None = None,
        *,
        written: int | None = None,
    ) -> None:
        """Append samples: all or nothing, on disk when this returns, whatever is killed when.

        Parameters
        ----------
        arrays : for the field (n, *shape), for `state_count` (n, q, *shape), and for every
            scalar (n,): the next n samples.
        state : arrays to go on from after a break; replaces what the last commit saved.
        written : n, if `Region.write` has put the lattices of the next n samples on disk;
            `arrays` are then the scalars alone.

        Raises
        ------
        StoreError if a value is not allowed, or lattices that should be written are not;
        WriteError if the disk refuses. Either way the store is as it was before.
        """
        self._lock.check()
        count = self._check_samples(arrays, written)
        total = self.committed + count
        metadata = self._layout.metadata(total)
        if written is not None:
            self._check_written(metadata[self._layout.field], total)
        for name, rows in arrays.items():
            write_rows(self.path, name, metadata[name], self.committed, np.asarray(rows))
        state_nodes = self._write_state(state, total)
        if total == self._planned:
            self._write_array_records(metadata)
            self._clear_partials()
        digests = self._digests_now(metadata, state_nodes)
        self._write_root(total, state_nodes, digests)
        old = self.committed
        self.committed, self._state_nodes, self._digests = total, state_nodes, digests
        self.state = {name: np.array(values) for name, values in (state or {}).items()}
        _remove(self.path / "state" / str(old) if state_nodes else self.path / "state")
        _remove(self.path / KEPT)
        self.kept = {}

    def _check_samples(self, arrays: Mapping[str, NDArray[Any]], written: int | None) -> int:
        layout = self._layout
        expected = (*((layout.field,) if written is None else ()), *layout.variables)
        if set(arrays) != set(expected):
            names = ", ".join(expected) or "none"
            raise ValueError(f"a commit to this store needs the variables {names}")
        count = len(arrays[layout.field]) if written is None else written
        for name, values in arrays.items():
            kind = FIELDS.get(name) or scalar(name)
            check_values(self.path, layout, name, kind.dtype, count, values)
        if count < 1 or self.committed + count > self._planned:
            raise ValueError(f"{count} samples after {self.committed} of {self._planned}")
        return count

    def _check_written(self, metadata: Mapping[str, Any], total: int) -> None:
        """Raise StoreError unless the lattices up to `total` are on disk.

        Of files that may be part full, the first and the last, the contents are looked at, so
        that no gap is committed; the others must be there.
        """
        field, step = self._layout.field, chunk_shape(metadata)[0]
        last = (total - 1) // step
        for index in range(self.committed // step, last + 1):
            file = chunk_name(metadata, index)
            if not (self.path / field / file).is_file():
                raise StoreError(f"{self.path}: variable '{field}': chunk {file} is missing")
        for index in sorted({self.committed // step, last}):
            start, stop = max(self.committed, index * step), min(total, (index + 1) * step)
            values = read_rows(self.path, field, metadata, start, stop)
            if fault := self._layout.fault(field, values):
                raise StoreError(
                    f"{self.path}: variable '{field}': samples {start}..{stop - 1} hold {fault}"
                )

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

    def _digests_now(
        self, metadata: Mapping[str, Any], state_nodes: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return the digests of all chunks; those before the last commit are known."""
        found = {}
        for name, document in metadata.items():
            first = self.committed // chunk_shape(document)[0]
            known = self._digests.get(name, "")[: first * DIGITS]
            found[name] = known + digests_from(self.path, name, document, len(known) // DIGITS)
        for node, document in state_nodes.items():
            if document["node_type"] == "array":
                found[node] = digests_from(self.path, node, document)
        return found

    def _write_root(
        self, total: int, state_nodes: Mapping[str, Any], digests: Mapping[str, str]
    ) -> None:
        attributes = {
            **self._attributes,
            "schema_version": SCHEMA_VERSION,
            "samples_planned": self._planned,
            "samples_committed": total,
        }
        nodes = {**self._layout.metadata(total), **state_nodes}
        if digests:
            nodes[DIGESTS] = group_metadata() | {"attributes": dict(digests)}
        data = json_bytes(root_metadata(attributes, nodes))
        file = self.path / ROOT
        if not file.exists() or file.read_bytes() != data:
            write_bytes_atomically(file, data)

    # -- opening ------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make the store anew, with no samples."""
        _remove(self.path / KEPT)
        self._write_root(0, {}, {})
        self._clear()

    def _resume(self) -> None:
        """Go on from what is committed, clearing what a killed process left beyond it."""
        store = LatticeStore(self.path)
        self._compare(store)
        self._attributes |= {k: v for k, v in store.attrs.items() if k in self._unsettled}
        store.verify()
        self.committed, self._digests = store.n_samples, store._digests
        self._state_nodes = {n: m for n, m in store._nodes.items() if n.split("/")[0] == "state"}
        folder = f"state/{self.committed}"
        for node, metadata in self._state_nodes.items():
            if read_json(self.path, f"{node}/{ROOT}") != metadata:
                raise StoreError(f"{self.path}: {node}/{ROOT} was altered after it was written")
            if node.startswith(folder + "/"):
                name = node[len(folder) + 1 :]
                self.state[name] = decode(self.path, node, metadata, 0, self._digests.get(node, ""))
        self._clear()
        self.kept = self._read_kept()
        if not self.kept:
            _remove(self.path / KEPT)  # damaged, or of before the last commit
        if self.committed > self._planned:
            raise OutputLarger(
                "-o",
                str(self.path),
                f"a path that does not exist: this store has {self.committed} samples, more than "
                f"the {self._planned} asked for (--overwrite starts afresh)",
            )
        # A finished store of these very parameters is the answer: it is left as it is.
        if self.committed < self._planned or not store.complete:
            self._write_root(self.committed, self._state_nodes, self._digests)

    def _compare(self, store: LatticeStore) -> None:
        """Raise OutputTaken unless the store was made with the same layout and attributes."""
        skip = (*VOLATILE, *MANAGED, *self._unsettled)
        for wanted, there in (
            (self._attributes, store.attrs),
            (
                {name: getattr(self._layout, name) for name in vars(store._layout)},
                vars(store._layout),
            ),
        ):
            for key in [*wanted, *(key for key in there if key not in wanted)]:
                if key not in skip and wanted.get(key) != there.get(key):
                    raise OutputTaken(
                        "-o",
                        str(self.path),
                        f"a store made with the same parameters: there '{key}' is "
                        f"{there.get(key)!r}, here {wanted.get(key)!r} (--overwrite starts afresh)",
                    )

    def _clear(self) -> None:
        """Leave on disk exactly what the committed samples need."""
        self._clear_partials()
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

    def _clear_partials(self) -> None:
        for partial in self.path.rglob(f"*{PARTIAL}"):
            _remove(partial)

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
