"""Writing a store, in commits that are whole or not there.

What a commit does, in this order:

1. chunk files of the new samples, each written beside, synced and renamed; a chunk that is
   already part full is replaced by one with the same first samples. Those of the field may
   have been written before, by other processes (`StoreWriter.region`);
2. the state to resume from, under a new name (`state/SAMPLES`);
3. the root `zarr.json`, replaced in one step: it alone says how many samples there are, in its
   consolidated metadata and in `samples_committed`, and the digest of every chunk;
4. the old state goes.

A process killed between any two of these leaves a store that reads as before the commit, and
what lies beyond the committed samples is cleared when the store is next opened for writing.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import OutputLarger, OutputTaken, StoreError
from skild_phys.fields import FIELDS
from skild_phys.files import (
    PARTIAL,
    AnyPath,
    Lock,
    make_directory,
    parse_json,
    read_bytes,
    write_bytes_atomically,
    write_text_atomically,
    writing,
)
from skild_phys.rng import STREAMS
from skild_phys.store.layout import APPEND_TOTAL, MANAGED, SCALARS, VOLATILE, Layout, Plan, readable
from skild_phys.store.reader import (
    ROOT,
    SCHEMA_VERSION,
    ChunkFiles,
    LatticeStore,
    is_store,
    nodes_of,
    read_record,
    read_root,
    root_record,
)

_KEPT = "kept.npz"
"""What `StoreWriter.keep` writes; it is gone from every store with a sample."""

_Arrays = Mapping[str, NDArray[Any]]


def _check(path: Path, layout: Layout, name: str, count: int, values: NDArray[Any]) -> None:
    """Raise unless `values` are `count` samples of variable `name` of the store `path`.

    ValueError for a wrong shape or type, StoreError for a value that is not allowed.
    """
    array = layout.arrays[name]
    if values.shape != (shape := (count, *array.shape)):
        raise ValueError(f"variable '{name}' has shape {values.shape}, expected {shape}")
    if not np.can_cast(values.dtype, array.dtype, "same_kind"):
        raise ValueError(f"variable '{name}' is {values.dtype}, expected {array.dtype}")
    if fault := layout.fault(name, values):
        raise StoreError(f"{path}: variable '{name}': refused {fault}")


@dataclass(frozen=True)
class Region:
    """Leave to write chunk files of a store's field ahead of the commit; `StoreWriter.region`.

    It holds no file and can be sent to other processes. Two that write at once must share no
    chunk file. What is written counts only once the writer has committed it (`written=`).

    Attributes
    ----------
    path, layout : of the store.
    committed : samples that were complete when this was made; they are never written again.
    planned : samples of the finished store.
    token : a file in the store that lies there while this leave is good. A process that works
        for a run that has ended, or sees another store under that name, does not find it.
    """

    path: Path
    layout: Layout
    committed: int
    planned: int
    token: str

    def write(self, first: int, lattices: NDArray[Any]) -> None:
        """Put samples (n, ...) on disk as numbers first, first + 1 ..; synced when this returns.

        Both ends may lie inside a chunk; the first only in one that holds all samples before it
        already, and keeps them. Raises StoreError if a value is not allowed, the chunk lacks
        earlier samples, or the store is not the one that this was made for; WriteError if the disk
        refuses.
        """
        if not (self.path / self.token).is_file():
            raise StoreError(
                f"{self.path}: is not, seen from here, the store that is being written"
                " (workers need the same file system)"
            )
        last = first + len(lattices)
        if not self.committed <= first < last <= self.planned:
            raise ValueError(
                f"{len(lattices)} samples from {first} on, of {self.committed} .. {self.planned}"
            )
        name = self.layout.field
        _check(self.path, self.layout, name, len(lattices), lattices)
        array = ChunkFiles.of(self.path, self.layout, last)[name]
        array.checked(self.layout, first - first % array.step, first)
        array.write(first, lattices)


class StoreWriter:
    """A store, open for writing by this process alone: a context manager from `create_store`.

    Attributes
    ----------
    path : where it lies.
    committed : samples that are already complete.
    kept : arrays that `keep` put on disk after the last commit; empty if none, or damaged.
    state : arrays that the last commit saved to resume from; empty if none.

    One thread at a time may call it, and it may be another one each time.
    """

    def __init__(self, path: Path, plan: Plan, lock: Lock) -> None:
        self.path = path
        self.committed = 0
        self.state: dict[str, NDArray[Any]] = {}
        self.kept: dict[str, NDArray[Any]] = {}
        self._plan, self._lock, self._attributes = plan, lock, dict(plan.attrs)
        self._arrays = ChunkFiles.of(path, plan, 0)
        self._states: dict[str, ChunkFiles] = {}
        # Attributes that two runs of the same store may differ in.
        self._apart = (*VOLATILE, *MANAGED, *plan.unsettled)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy of the store's attributes, with what was settled here or in an earlier run."""
        return copy.deepcopy(self._attributes)

    def lattices(self) -> LatticeStore:
        """Return what was committed, open for reading."""
        return LatticeStore(self.path)

    def settle(self, attrs: Mapping[str, Any]) -> None:
        """Add attributes that were not known when the store was made (`Plan.unsettled`).

        Only before the first commit, which writes them; a run killed before that has to settle
        them anew. Raises ValueError later on, or for other names.
        """
        if self.committed:
            raise ValueError(f"{self.committed} samples are committed: nothing is left to settle")
        if strange := set(attrs) - set(self._plan.unsettled):
            raise ValueError(f"not among the unsettled attributes: {', '.join(sorted(strange))}")
        self._attributes |= readable(attrs)

    def region(self) -> Region:
        """Return what writes the field of coming samples, in this or in other processes.

        It is good until the store is finished, or opened for writing by a later run.
        """
        path, token = self.path.resolve(), f".region-{uuid.uuid4().hex}{PARTIAL}"
        write_bytes_atomically(path / token, b"")
        return Region(path, self._plan, self.committed, self._plan.n_samples, token)

    def keep(self, arrays: _Arrays) -> None:
        """Put arrays on disk to resume from before there is a sample to commit; it drops them."""
        self._lock.check()
        data = io.BytesIO()
        np.savez(data, of=np.array(self._place()), **arrays)  # type: ignore[arg-type]
        write_bytes_atomically(self.path / _KEPT, data.getvalue())
        self.kept = dict(arrays)

    def _place(self) -> str:
        """Return what names this store and its last commit."""
        attributes = {k: v for k, v in self._attributes.items() if k not in self._apart}
        bare = nodes_of(ChunkFiles.of(self.path, self._plan, self.committed))
        return str(root_record(attributes, bare)["attributes"]["sha256"])

    def commit(
        self, arrays: _Arrays, state: _Arrays | None = None, *, written: int | None = None
    ) -> None:
        """Append samples: all or nothing, on disk when this returns, whatever is killed when.

        Parameters
        ----------
        arrays : the field and every scalar of the next n samples, (n, ...).
        state : arrays to resume from after a break; replaces what the last commit saved.
        written : n, if `Region.write` has put the field of the next n samples on disk;
            `arrays` are then the scalars alone.

        Raises
        ------
        StoreError if a value is not allowed, or samples that should be written are not;
        WriteError if the disk refuses. Either way the store is as it was before.
        """
        self._lock.check()
        plan, old = self._plan, self.committed
        expected = [name for name in plan.arrays if not written or name != plan.field]
        if set(arrays) != set(expected):
            names = ", ".join(expected) or "none"
            raise ValueError(f"a commit to this store needs the variables {names}")
        count = written or len(arrays[plan.field])
        for name, values in arrays.items():
            _check(self.path, plan, name, count, values)
        if count < 1 or old + count > plan.n_samples:
            raise ValueError(f"{count} samples after {old} of {plan.n_samples}")
        total = old + count
        known = {name: array.digests for name, array in self._arrays.items()}
        files = ChunkFiles.of(self.path, plan, total, known)
        if written:
            self._check_written(files[plan.field], total)
        for name, rows in arrays.items():
            files[name].write(old, np.asarray(rows))
        states = ChunkFiles.of_state(self.path, total, state) if state else {}
        for node, array in states.items():
            make_directory(self.path / node)
            _write_record(self.path / node, array.record)
        for name, values in (state or {}).items():
            array = states[node := f"state/{total}/{name}"]
            write_bytes_atomically(self.path / node / array.file(0), array.encode(values))
            states[node] = array.with_digests(0)
        if total == plan.n_samples:
            self._write_array_records(files)
            self._clear_partials()
        files = {name: one.with_digests(old) for name, one in files.items()}
        self._write_root(files, states)
        self.committed, self._arrays, self._states = total, files, states
        self.state = {name: np.array(values) for name, values in (state or {}).items()}
        _remove(self.path / "state" / str(old) if states else self.path / "state")
        _remove(self.path / _KEPT)
        self.kept = {}

    def _check_written(self, array: ChunkFiles, total: int) -> None:
        """Raise StoreError unless the samples up to `total` are on disk.

        Of files that may be part full, the first and the last, the contents are looked at, so
        that no gap is committed; the others must be there.
        """
        step, array = array.step, replace(array, digests="")
        first, last = self.committed // step, (total - 1) // step
        array.check_files(first)
        for index in sorted({first, last}):
            start, stop = max(self.committed, index * step), min(total, (index + 1) * step)
            array.checked(self._plan, start, stop)

    def _write_array_records(self, files: Mapping[str, ChunkFiles]) -> None:
        for name, array in files.items():
            _write_record(self.path / name, array.record)

    def _write_root(
        self, arrays: Mapping[str, ChunkFiles], states: Mapping[str, ChunkFiles]
    ) -> None:
        attributes = {
            **self._attributes,
            "schema_version": SCHEMA_VERSION,
            "samples_planned": self._plan.n_samples,
            "samples_committed": arrays[self._plan.field].record["shape"][0],
        }
        _write_record(self.path, root_record(attributes, nodes_of({**arrays, **states})))

    # -- opening ------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make the store anew, with no samples."""
        with writing(record := _timing(self.path)):
            record.unlink(missing_ok=True)
        _remove(self.path / _KEPT)
        self._write_root(self._arrays, {})
        self._clear()

    def _resume(self) -> None:
        """Resume from what is committed, clearing what a killed process left beyond it."""
        store = LatticeStore(self.path)
        self._compare(store)
        self._attributes |= {k: v for k, v in store.attrs.items() if k in self._plan.unsettled}
        store.verify()
        self.committed, self._arrays, self._states = store.n_samples, store.arrays, store.states
        folder = f"state/{self.committed}/"
        for node, array in self._states.items():
            if read_record(self.path, f"{node}/{ROOT}") != array.record:
                raise StoreError(f"{self.path}: {node}/{ROOT} was altered after it was written")
            if node.startswith(folder):
                self.state[node.removeprefix(folder)] = array.decode(0)
        self._clear()
        # What is not there, damaged, or of before the last commit is made again.
        with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):
            with np.load(self.path / _KEPT, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            self.kept = kept if kept.pop("of", None) == self._place() else {}
        if not self.kept:
            _remove(self.path / _KEPT)
        if self.committed > self._plan.n_samples:
            raise OutputLarger(
                "output",
                str(self.path),
                f"a path that does not exist: this store has {self.committed} samples, more than "
                f"the {self._plan.n_samples} asked for (overwrite=True starts afresh)",
            )
        # A finished store of these very parameters is the answer: it is left as it is.
        if self.committed < self._plan.n_samples or not store.complete:
            self._write_root(self._arrays, self._states)

    def _compare(self, store: LatticeStore) -> None:
        """Raise OutputTaken unless the store was made with the same layout and attributes."""
        layout = asdict(store.layout)
        planned = {key: getattr(self._plan, key) for key in layout}
        for wanted, there in ((self._attributes, store.attrs), (planned, layout)):
            for key in [*wanted, *(key for key in there if key not in wanted)]:
                if key not in self._apart and wanted.get(key) != there.get(key):
                    raise OutputTaken(
                        "output",
                        str(self.path),
                        f"a store made with the same parameters: there '{key}' is "
                        f"{there.get(key)!r}, here {wanted.get(key)!r}"
                        " (overwrite=True starts afresh)",
                    )

    def _clear(self) -> None:
        """Leave on disk exactly what the committed samples need."""
        self._clear_partials()
        for name in {*FIELDS, *SCALARS} - set(self._arrays):
            _remove(self.path / name)
        for name, array in self._arrays.items():
            make_directory(self.path / name)
            keep = {ROOT, *map(array.file, range(array.count))}
            for file in set(os.listdir(self.path / name)) - keep:
                _remove(self.path / name / file)
            # Blank what a part-full last chunk holds beyond the committed samples.
            index, used = divmod(self.committed, array.step)
            if used:
                data = array.encode(array.decode(index)[:used])
                if array.bytes_of(index) != data:
                    write_bytes_atomically(self.path / name / array.file(index), data)
        self._write_array_records(self._arrays)
        if not self._states:
            _remove(self.path / "state")
            return
        for entry in (self.path / "state").iterdir():
            if entry.name not in (ROOT, str(self.committed)):
                _remove(entry)

    def _clear_partials(self) -> None:
        for partial in self.path.rglob(f"*{PARTIAL}"):
            _remove(partial)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Make the `zarr.json` of a folder hold a record, unless it does; raises WriteError."""
    file, data = folder / ROOT, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
    if not file.exists() or file.read_bytes() != data:
        write_bytes_atomically(file, data)


def _remove(path: Path) -> None:
    with writing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def create_store(
    path: AnyPath, plan: Plan | None = None, *, overwrite: bool = False, **fields: Any
) -> StoreWriter:
    """Open a store for writing: a new one, or one to resume.

    A store that lies at `path` with fewer samples than planned, and agrees in every parameter, is
    resumed where its last commit left it; one that differs is refused unless `overwrite`.

    Parameters
    ----------
    path : a directory, by custom NAME.zarr; its parent must exist.
    plan : what the finished store holds; or its `fields` as keywords.
    overwrite : start afresh even if a store lies there. Nothing else is ever removed, but for
        the record beside it of how long the old one took.

    Raises BadInput for a parameter or an attribute that no store can have; OutputTaken naming the
    first parameter that differs; StoreError if another process writes to the store or what lies
    there is damaged; WriteError if the disk refuses.
    """
    plan, path = plan or Plan(**fields), Path(path)
    plan = replace(plan, attrs=readable(plan.attrs))
    taken = OutputTaken("output", str(path), "a path that does not exist, or a store to resume")
    if os.path.exists(path) and not os.path.isdir(path):
        raise taken
    make_directory(path)
    lock = Lock(path).acquire()
    try:
        writer = StoreWriter(path, plan, lock)
        if all(name.endswith(PARTIAL) for name in os.listdir(path)):
            writer._start()
        elif overwrite:
            read_root(path)
            writer._start()
        elif not is_store(path):
            raise taken
        else:
            writer._resume()
    except BaseException:
        lock.release()
        raise
    return writer


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
        attributes, nodes, _ = read_root(path)
        attributes.pop(APPEND_TOTAL, None)
        _write_record(path, root_record(attributes, nodes))


# -- how long a store took to make ------------------------------------------------------------
# In a small file beside it: equal runs give equal stores, byte for byte, and no two runs take
# equally long.


def _timing(path: AnyPath) -> Path:
    path = Path(path)
    return path.with_name(path.name + ".timing.json")


def write_timing(path: AnyPath, seconds_per_lattice: float) -> None:
    """Record the wall time (s) per sample that the store at `path` took to make."""
    text = json.dumps({"seconds_per_lattice": seconds_per_lattice})
    write_text_atomically(_timing(path), f"{text}\n")


def read_timing(path: AnyPath) -> float | None:
    """Return the wall time (s) per sample, None without a readable record beside the store."""
    try:
        return float(parse_json(read_bytes(_timing(path)))["seconds_per_lattice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
