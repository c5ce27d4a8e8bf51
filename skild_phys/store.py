"""The store: lattices and their scalars in a Zarr v3 group that `xarray.open_zarr` opens.

The only module that knows Zarr and the schema. What a commit does, in this order:

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

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from skild_phys.errors import BadInput, StoreError
from skild_phys.files import PARTIAL, AnyPath, Lock, write_bytes_atomically, write_error

SCHEMA_VERSION = 1
VOLATILE = ("command", "versions")
"""Attributes that say how a store came about; they are stored, but never compared."""

_MANAGED = ("schema_version", "samples_planned", "samples_committed", "sha256")
_ROOT = "zarr.json"
_SCALAR_CHUNK = 4096


class _Variable(NamedTuple):
    """Type of a variable; `fill` is a value that no sample has, so a gap is never data."""

    dtype: str
    fill: int | str
    units: str
    long_name: str


FIELDS = {
    "spins": _Variable("int8", 0, "1", "spin"),
    "block_sum": _Variable("int16", -(2**15), "1", "mean spin of a block, stored as its sum"),
    "field": _Variable("float32", "NaN", "1", "real field"),
}
SCALARS = {
    "energy": _Variable("float64", "NaN", "J", "energy per site"),
    "magnetization": _Variable("float64", "NaN", "1", "magnetization per site"),
    "chain": _Variable("int32", -1, "1", "Markov chain of the sample"),
    "draw": _Variable("int64", -1, "1", "place of the sample in its chain"),
    "parent": _Variable("int64", -1, "1", "index of the sample in the parent store"),
}


def _scalar(name: str) -> _Variable:
    return SCALARS.get(name) or _Variable("float64", "NaN", "1", name.replace("_", " "))


def _group_metadata() -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def _array_metadata(
    dtype: str,
    shape: Sequence[int],
    chunk: Sequence[int],
    fill: int | str,
    dimensions: Sequence[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the `zarr.json` of an array: Blosc(zstd, 5, bitshuffle), then crc32c."""
    size = np.dtype(dtype).itemsize
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if size > 1:
        to_bytes["configuration"] = {"endian": "little"}
    blosc = {
        "typesize": size,
        "cname": "zstd",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [to_bytes, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
        "attributes": dict(attributes),
        "dimension_names": list(dimensions),
    }


@dataclass(frozen=True)
class _Layout:
    """Which arrays a store has, apart from how many samples."""

    field: str
    shape: tuple[int, int]
    chunk: int
    scale: float
    variables: tuple[str, ...]

    def metadata(self, samples: int) -> dict[str, dict[str, Any]]:
        """Return the metadata of every array of a store that holds `samples`."""
        kind = FIELDS[self.field]
        attributes: dict[str, Any] = {"long_name": kind.long_name, "units": kind.units}
        if self.field == "spins":
            attributes |= {"flag_values": [-1, 1], "flag_meanings": "down up"}
        if self.field == "block_sum":
            attributes["scale_factor"] = self.scale
        arrays = {
            self.field: _array_metadata(
                kind.dtype,
                (samples, *self.shape),
                (self.chunk, *self.shape),
                kind.fill,
                ("sample", "y", "x"),
                attributes,
            )
        }
        for name in self.variables:
            kind = _scalar(name)
            described = {"long_name": kind.long_name, "units": kind.units}
            arrays[name] = _array_metadata(
                kind.dtype, (samples,), (_SCALAR_CHUNK,), kind.fill, ("sample",), described
            )
        return arrays

    def fault(self, name: str, values: NDArray[Any]) -> str | None:
        """Return what is wrong with values of a variable, if anything is."""
        if name == "spins":
            return None if ((values == 1) | (values == -1)).all() else "spins other than -1 and +1"
        if name == "block_sum":
            sites = round(1.0 / self.scale)
            wide = values.astype(np.int32)
            bad = (np.abs(wide) > sites) | ((wide - sites) & 1 != 0)
            return f"a number that is no sum of {sites} spins" if bad.any() else None
        if values.dtype.kind == "f":
            return None if np.isfinite(values).all() else "NaN or infinity"
        return "a negative number" if (values < 0).any() else None


# -- one chunk, by way of Zarr's own codecs, in memory ----------------------------------------


def _chunk_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])


def _chunk_name(metadata: Mapping[str, Any], index: int) -> str:
    return ".".join(["c", str(index)] + ["0"] * (len(metadata["shape"]) - 1))


@contextlib.contextmanager
def _one_chunk(metadata: Mapping[str, Any], chunk: bytes | None) -> Iterator[tuple[Any, Any]]:
    """Open chunk 0 as an array of its own: (the array, the mapping of keys to buffers)."""
    to_buffer = default_buffer_prototype().buffer.from_bytes
    document = json.dumps({**metadata, "shape": _chunk_shape(metadata), "attributes": {}})
    files = {_ROOT: to_buffer(document.encode())}
    if chunk is not None:
        files[_chunk_name(metadata, 0)] = to_buffer(chunk)
    # Zarr leaves out a chunk that is all fill value; here a missing chunk is a fault.
    with zarr.config.set({"array.write_empty_chunks": True}):
        yield zarr.open_array(MemoryStore(files), mode="r" if chunk is not None else "r+"), files


def _encode(metadata: Mapping[str, Any], rows: NDArray[Any]) -> bytes:
    """Return the chunk file for `rows`, at most a chunk of them; the rest is fill value."""
    with _one_chunk(metadata, None) as (array, files):
        block = np.full(array.shape, array.fill_value, dtype=array.dtype)
        block[: len(rows)] = rows
        array[...] = block
        return bytes(files[_chunk_name(metadata, 0)].to_bytes())


def _decode(path: Path, name: str, metadata: Mapping[str, Any], index: int) -> NDArray[Any]:
    """Return a whole chunk of variable `name` of the store `path`; raises StoreError."""
    file = _chunk_name(metadata, index)
    try:
        data = (path / name / file).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: variable '{name}': chunk {file} is missing") from None
    except OSError as error:
        raise StoreError(
            f"{path}: variable '{name}': chunk {file} cannot be read: {error.strerror}"
        ) from error
    try:
        with _one_chunk(metadata, data) as (array, _):
            return np.asarray(array[...])
    except Exception:
        # Each codec fails in its own way (ValueError, RuntimeError, ...) on damaged bytes.
        raise StoreError(
            f"{path}: variable '{name}': chunk {file} is damaged (truncated or altered)"
        ) from None


def _read_rows(
    path: Path, name: str, metadata: Mapping[str, Any], start: int, stop: int
) -> NDArray[Any]:
    step = _chunk_shape(metadata)[0]
    out = np.empty((stop - start, *metadata["shape"][1:]), dtype=metadata["data_type"])
    for index in range(start // step, -(-stop // step)):
        low, high = max(start, index * step), min(stop, (index + 1) * step)
        block = _decode(path, name, metadata, index)
        out[low - start : high - start] = block[low - index * step : high - index * step]
    return out


# -- the root record --------------------------------------------------------------------------


def _document(metadata: Mapping[str, Any]) -> bytes:
    return (json.dumps(metadata, indent=2, allow_nan=False) + "\n").encode()


def _checksum(attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """Return a digest of everything in the root that `zarr.json` itself would not protect."""
    kept = {key: value for key, value in attributes.items() if key != "sha256"}
    text = json.dumps([kept, arrays], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _root_document(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> bytes:
    root = _group_metadata()
    root["attributes"] = {**attributes, "sha256": _checksum(attributes, nodes)}
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": dict(nodes),
    }
    return _document(root)


def _read_json(path: Path, file: str) -> dict[str, Any]:
    try:
        document = json.loads((path / file).read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: not a store: {file} is missing") from None
    except (NotADirectoryError, PermissionError) as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise StoreError(f"{path}: {file} is damaged: not valid JSON") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path}: {file} is damaged: not a JSON object")
    return document


def _read_root(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (attributes, consolidated metadata) of a store of a known version."""
    if not path.exists():
        raise StoreError(f"{path}: no such store")
    if not path.is_dir():
        raise StoreError(f"{path}: not a store: not a directory")
    root = _read_json(path, _ROOT)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "schema_version" not in attributes:
        raise StoreError(f"{path}: Zarr, but not a store of skild-phys: no schema_version")
    version = attributes["schema_version"]
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema_version {version!r} is unknown; this release reads {SCHEMA_VERSION}"
        )
    consolidated = root.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise StoreError(f"{path}: {_ROOT} is damaged: no consolidated metadata")
    return attributes, nodes


def _layout_of(path: Path, nodes: Mapping[str, Any]) -> _Layout:
    """Return the layout that the metadata of a store describes; raises StoreError."""
    names = [name for name in nodes if name.split("/")[0] != "state"]
    fields = [name for name in names if name in FIELDS]
    if len(fields) != 1:
        raise StoreError(f"{path}: expected one of the variables {', '.join(FIELDS)}")
    field = fields[0]
    try:
        shape = nodes[field]["shape"]
        chunk = _chunk_shape(nodes[field])
        scale = nodes[field]["attributes"]["scale_factor"] if field == "block_sum" else 1.0
        _, height, width = (int(n) for n in shape)
        if len(chunk) != 3 or not (0.0 < float(scale) <= 1.0) or min(height, width, *chunk) < 1:
            raise ValueError
        layout = _Layout(
            field,
            (height, width),
            int(chunk[0]),
            float(scale),
            tuple(name for name in names if name != field),
        )
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{path}: variable '{field}': wrong shape, chunks or scale") from None
    return layout


def _compare_metadata(path: Path, name: str, found: Any, expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        there = found.get(key) if isinstance(found, dict) else None
        if there != value:
            raise StoreError(f"{path}: variable '{name}': {key} is {there!r}, expected {value!r}")


class LatticeStore:
    """A store, open for reading: its committed samples only, and each checked when read.

    Attributes
    ----------
    path : where it lies.
    attrs : attributes of the store (model, temperature, rule, seed, ...).
    field : name of the lattices: `spins` (int8, +-1), `block_sum` (int16) or `field` (float32).
    n_samples : samples that are complete.
    shape : (Ly, Lx) of a lattice.
    chunk : samples in a chunk.
    scale : physical value = stored number x scale (1.0 unless `field` is `block_sum`).
    variables : names of the scalars.
    """

    def __init__(self, path: AnyPath, *, _records: bool = True) -> None:
        self.path = Path(path)
        self.attrs, self._nodes = _read_root(self.path)
        self._layout = _layout_of(self.path, self._nodes)
        self.field, self.shape = self._layout.field, self._layout.shape
        self.chunk, self.scale = self._layout.chunk, self._layout.scale
        self.variables = self._layout.variables
        samples = self.attrs.get("samples_committed")
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
            raise StoreError(f"{self.path}: attribute 'samples_committed' is {samples!r}")
        self.n_samples: int = samples
        self._arrays = self._layout.metadata(samples)
        for name, expected in self._arrays.items():
            _compare_metadata(self.path, name, self._nodes[name], expected)
            if _records:
                self._check_record(name)
            self._check_chunks(name)
        if self.attrs.get("sha256") != _checksum(self.attrs, self._nodes):
            raise StoreError(f"{self.path}: {_ROOT} was altered after it was written")

    def _check_record(self, name: str) -> None:
        metadata = self._arrays[name]
        own = _read_json(self.path, f"{name}/{_ROOT}")
        # The array's own record is brought up to date at the end of a run only.
        _compare_metadata(self.path, name, own, {k: v for k, v in metadata.items() if k != "shape"})

    def _check_chunks(self, name: str) -> None:
        metadata = self._arrays[name]
        try:
            there = set(os.listdir(self.path / name))
        except FileNotFoundError:
            there = set()
        except OSError as error:
            raise StoreError(
                f"{self.path}: variable '{name}': cannot be read: {error.strerror}"
            ) from error
        for index in range(-(-self.n_samples // _chunk_shape(metadata)[0])):
            if (file := _chunk_name(metadata, index)) not in there:
                raise StoreError(f"{self.path}: variable '{name}': chunk {file} is missing")

    @property
    def complete(self) -> bool:
        """Whether the store has all the samples that it was made for."""
        return bool(self.n_samples == self.attrs.get("samples_planned"))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored numbers of samples start..stop-1, (stop - start, Ly, Lx), checked."""
        if not 0 <= start <= stop <= self.n_samples:
            raise IndexError(f"samples {start}..{stop} of {self.n_samples}")
        return self._read(self.field, start, stop)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        values = _read_rows(self.path, name, self._arrays[name], start, stop)
        if fault := self._layout.fault(name, values):
            raise StoreError(
                f"{self.path}: variable '{name}': samples {start}..{stop - 1} hold {fault}"
            )
        return values

    def batches(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) over all samples, in whole chunks: about `size` samples at once."""
        step = self.chunk * max(1, (size or self.chunk) // self.chunk)
        for start in range(0, self.n_samples, step):
            yield start, min(start + step, self.n_samples)

    def has(self, name: str) -> bool:
        """Return whether the store has the scalar `name`."""
        return name in self.variables

    def variable(self, name: str) -> NDArray[Any]:
        """Return the scalar `name` of every sample, (n_samples,); raises StoreError."""
        if not self.has(name):
            raise StoreError(f"{self.path}: has no variable '{name}'")
        return self._read(name, 0, self.n_samples)

    def digest(self) -> str:
        """Return the SHA-256 that names the samples and what they are.

        It covers the attributes (not how the store came about) and the chunk files of the
        lattices, not the scalars, which follow from them.
        """
        skip = (*VOLATILE, *_MANAGED)
        identity = [
            {key: value for key, value in self.attrs.items() if key not in skip},
            self._arrays[self.field],
        ]
        total = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        whole = self.n_samples // self.chunk
        for index in range(whole):
            file = self.path / self.field / _chunk_name(self._arrays[self.field], index)
            try:
                total.update(hashlib.sha256(file.read_bytes()).digest())
            except OSError as error:
                raise StoreError(
                    f"{self.path}: variable '{self.field}': chunk {file.name} cannot be read: "
                    f"{error.strerror}"
                ) from error
        # A part-full last chunk may be rewritten with more samples, so its file names nothing.
        total.update(self.read(whole * self.chunk, self.n_samples).tobytes())
        return total.hexdigest()


def open_store(path: AnyPath) -> LatticeStore:
    """Open a store for reading; raises StoreError in one line if it is not one, or damaged.

    Metadata and the presence of every chunk are checked now, contents when they are read.
    """
    return LatticeStore(path)


# -- writing ----------------------------------------------------------------------------------


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


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
        self, path: Path, layout: _Layout, attributes: dict[str, Any], n_samples: int, lock: Lock
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
            kind = FIELDS.get(name) or _scalar(name)
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
        step = _chunk_shape(metadata)[0]
        first = self.committed // step
        kept = _read_rows(self.path, name, metadata, first * step, self.committed)
        rows = np.concatenate([kept, rows.astype(metadata["data_type"])])
        for index in range(first, -(-total // step)):
            block = rows[(index - first) * step :][:step]
            file = self.path / name / _chunk_name(metadata, index)
            write_bytes_atomically(file, _encode(metadata, block))

    def _write_state(self, state: Mapping[str, NDArray[Any]] | None, total: int) -> dict[str, Any]:
        """Write the arrays of a state under the name of the commit; return their metadata."""
        if not state:
            return {}
        folder = f"state/{total}"
        nodes: dict[str, Any] = {"state": _group_metadata(), folder: _group_metadata()}
        for name, values in state.items():
            dimensions = [f"{name}_{axis}" for axis in range(values.ndim)]
            metadata = _array_metadata(
                values.dtype.name,
                values.shape,
                values.shape,
                0,
                dimensions,
                {"long_name": f"{name} of every chain, to go on from", "units": "1"},
            )
            nodes[f"{folder}/{name}"] = metadata
        for node, metadata in nodes.items():
            _make_directory(self.path / node)
            write_bytes_atomically(self.path / node / _ROOT, _document(metadata))
        for name, values in state.items():
            metadata = nodes[f"{folder}/{name}"]
            file = self.path / folder / name / _chunk_name(metadata, 0)
            write_bytes_atomically(file, _encode(metadata, values))
        return nodes

    def _write_array_records(self, metadata: Mapping[str, Any]) -> None:
        for name, document in metadata.items():
            file = self.path / name / _ROOT
            data = _document(document)
            if not file.exists() or file.read_bytes() != data:
                write_bytes_atomically(file, data)

    def _write_root(self, total: int, state_nodes: Mapping[str, Any]) -> None:
        attributes = {
            **self._attributes,
            "schema_version": SCHEMA_VERSION,
            "samples_planned": self._planned,
            "samples_committed": total,
        }
        data = _root_document(attributes, {**self._layout.metadata(total), **state_nodes})
        file = self.path / _ROOT
        if not file.exists() or file.read_bytes() != data:
            write_bytes_atomically(file, data)

    # -- opening ------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make the store anew, with no samples."""
        for name in self._layout.metadata(0):
            _make_directory(self.path / name)
        self._write_root(0, {})
        self._clear()

    def _resume(self) -> None:
        """Go on from what is committed, clearing what a killed process left beyond it."""
        # A kill while the store was made may have left an array without a record of its own.
        store = LatticeStore(self.path, _records=False)
        self._compare(store)
        if store.n_samples > self._planned or (store.n_samples == self._planned and store.complete):
            raise BadInput(
                "-o",
                str(self.path),
                f"a path that does not exist: this store is complete, with {store.n_samples} "
                f"samples; a larger -n appends, --overwrite starts afresh",
            )
        self.committed = store.n_samples
        self._state_nodes = {n: m for n, m in store._nodes.items() if n.split("/")[0] == "state"}
        folder = f"state/{self.committed}"
        for node, metadata in self._state_nodes.items():
            if node.startswith(folder + "/"):
                name = node[len(folder) + 1 :]
                self.state[name] = _decode(self.path, node, metadata, 0)
        self._clear()
        self._write_root(self.committed, self._state_nodes)

    def _compare(self, store: LatticeStore) -> None:
        """Raise BadInput unless the store was made with the same layout and attributes."""
        skip = (*VOLATILE, *_MANAGED)
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
            _make_directory(self.path / name)
            chunks = -(-self.committed // _chunk_shape(document)[0])
            keep = {_ROOT, *(_chunk_name(document, index) for index in range(chunks))}
            for file in set(os.listdir(self.path / name)) - keep:
                _remove(self.path / name / file)
            self._rewrite_tail(name, document)
        self._write_array_records(metadata)
        self._clear_states()

    def _rewrite_tail(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Blank what a part-full last chunk holds beyond the committed samples."""
        step = _chunk_shape(metadata)[0]
        index, used = divmod(self.committed, step)
        if not used:
            return
        file = self.path / name / _chunk_name(metadata, index)
        data = _encode(metadata, _decode(self.path, name, metadata, index)[:used])
        if file.read_bytes() != data:
            write_bytes_atomically(file, data)

    def _clear_states(self) -> None:
        folder = self.path / "state"
        if not self._state_nodes:
            _remove(folder)
            return
        for entry in folder.iterdir():
            if entry.name not in (_ROOT, str(self.committed)):
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
    if path.exists() and not path.is_dir():
        raise BadInput("-o", str(path), "a path that does not exist, or a store to go on with")
    _make_directory(path)
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
    overwrite : start afresh even if a store lies there. Nothing else is ever removed.

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
    layout = _Layout(field, (int(shape[0]), int(shape[1])), int(chunk), scale, tuple(variables))
    attributes = json.loads(json.dumps(dict(attrs), default=_plain, allow_nan=False))
    path = Path(path)
    lock = _claim(path)
    try:
        writer = StoreWriter(path, layout, attributes, n_samples, lock)
        if all(name.endswith(PARTIAL) for name in os.listdir(path)):
            writer._start()
        elif overwrite:
            _read_root(path)
            writer._start()
        else:
            writer._resume()
    except BaseException:
        lock.release()
        raise
    return writer


def open_array(path: AnyPath, variable: str | None = None) -> Any:
    """Return lattices that someone else stored, (n, Ly, Lx), read as they are asked for.

    Parameters
    ----------
    path : a `.npy` file, a Zarr array, or a Zarr group with one three-dimensional array.
        A `.npy` file with one lattice, (Ly, Lx), counts as n = 1. Nothing pickled is read.
    variable : which array of a group.

    Returns
    -------
    Something with `shape`, `dtype` and slices: a memory map or a `zarr.Array`. Values are not
    checked. Raises StoreError.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"{path}: no such file or directory")
    try:
        array = _open_npy(path) if path.is_file() else _open_zarr(path, variable)
    except StoreError:
        raise
    except Exception as error:
        # NumPy and Zarr have dozens of errors for what is not theirs.
        raise StoreError(f"{path}: neither .npy nor Zarr: {error}") from error
    if len(array.shape) != 3 or 0 in array.shape or np.dtype(array.dtype).kind not in "iuf":
        raise StoreError(
            f"{path}: expected numbers of shape (n, Ly, Lx), found {array.dtype} {array.shape}"
        )
    return array


def _open_npy(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise StoreError(f"{path}: expected .npy with one array, found .npz")
    return array[np.newaxis] if array.ndim == 2 else array


def _open_zarr(path: Path, variable: str | None) -> Any:
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return node
    arrays = {name: array for name, array in node.arrays() if array.ndim == 3}
    if variable is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if variable not in arrays:
        names = ", ".join(sorted(arrays)) or "none"
        raise StoreError(f"{path}: expected one array of shape (n, Ly, Lx), found {names}")
    return arrays[variable]
