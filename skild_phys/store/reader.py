"""Reading a store: its records, its chunk files, and the samples in them.

A missing chunk file is an error here, where Zarr would read fill values in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
from numcodecs import Blosc
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.fields import FIELDS
from skild_phys.files import (
    AnyPath,
    check_there,
    parse_json,
    read_bytes,
    reading,
    write_bytes_atomically,
)
from skild_phys.store.lattices import Lattices
from skild_phys.store.layout import MANAGED, VOLATILE, Layout, kind_of

SCHEMA_VERSION = 1
ROOT = "zarr.json"
_DIGESTS = "digests"
"""A node of the root alone, whose attributes are the digests of every array's chunks."""

numcodecs.blosc.use_threads = False  # its threads write blocks in the order in which they finish
_BLOSC, _CHECKSUM = Blosc("zstd", 5, Blosc.BITSHUFFLE), CRC32C(location="end")
_DIGITS = 16  # hexadecimal, of a chunk's digest

# -- records ----------------------------------------------------------------------------------


def _group_record(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def _array_record(
    dtype: str,
    shape: Sequence[int],
    chunk: Sequence[int],
    fill: int | str,
    axes: Sequence[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the `zarr.json` of an array, whose codecs are those of `ChunkFiles.encode`."""
    size = np.dtype(dtype).itemsize
    endian = {"configuration": {"endian": "little"}} if size > 1 else {}
    blosc = {
        "typesize": size, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0
    }  # fmt: skip
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [
            {"name": "bytes", **endian},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "attributes": dict(attributes),
        "dimension_names": list(axes),
    }


def root_record(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root `zarr.json`: attributes, records of every node, and a digest of both."""
    kept = {key: value for key, value in attributes.items() if key != "sha256"}
    text = json.dumps([kept, nodes], sort_keys=True, separators=(",", ":"))
    kept["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    inline = {"kind": "inline", "must_understand": False, "metadata": dict(nodes)}
    return _group_record(kept) | {"consolidated_metadata": inline}


def read_record(path: Path, file: str) -> dict[str, Any]:
    """Return a JSON object that lies in the store `path`; raises StoreError."""
    try:
        with reading(f"{path}: {file}", f"{path}: not a store: {file} is missing"):
            record = parse_json(read_bytes(path / file))
    except ValueError:
        raise StoreError(f"{path}: {file} is damaged: not valid JSON") from None
    if not isinstance(record, dict):
        raise StoreError(f"{path}: {file} is damaged: not a JSON object")
    return record


def read_root(path: Path) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return attributes and records of a store of a known version; raises StoreError.

    And whether they are what was written, to the last letter that counts.
    """
    check_there(path, "such store")
    if not os.path.isdir(path):
        raise StoreError(f"{path}: not a store: not a directory")
    root = read_record(path, ROOT)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "schema_version" not in attributes:
        raise StoreError(f"{path}: Zarr, but not a store of skild-phys: no schema_version")
    if (version := attributes["schema_version"]) != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema_version {version!r} is unknown; this release reads {SCHEMA_VERSION}"
        )
    consolidated = root.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise StoreError(f"{path}: {ROOT} is damaged: no consolidated metadata")
    return attributes, nodes, root == root_record(attributes, nodes)


def is_store(path: AnyPath) -> bool:
    """Return whether `path` looks like a store of this program, whatever its state.

    One that xarray copied (`to_zarr`), with its attributes, is none: its chunk files lie in
    folders of their own. Raises StoreError if it cannot be read.
    """
    record = os.path.join(path, ROOT)
    with reading(f"{path}:", f"{path}: not a store"):
        text = Path(record).read_bytes() if os.path.isfile(record) else b""
    copied = any(os.path.isdir(os.path.join(path, name, "c")) for name in FIELDS)
    return (b'"schema_version"' in text or b'"samples_committed"' in text) and not copied


# -- chunk files ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkFiles:
    """The chunk files of one array of a store.

    Attributes
    ----------
    path, name : of the store, and of the array in it.
    record : of the array; its shape says how many samples are committed.
    digests : those of the chunks, one behind the other; "" if none were kept. A whole chunk is
        named by its file. The last one may be replaced by one with more samples before a commit
        says so: it is named by the samples that are committed.
    """

    path: Path
    name: str
    record: Mapping[str, Any]
    digests: str = ""

    @classmethod
    def of(
        cls, path: Path, layout: Layout, samples: int, digests: Mapping[str, str] | None = None
    ) -> dict[str, ChunkFiles]:
        """Return those of every array of a store that holds `samples`."""
        records = {
            name: _array_record(
                a.dtype, (samples, *a.shape), (a.chunk, *a.shape), a.fill, a.axes, a.attributes
            )
            for name, a in layout.arrays.items()
        }
        known = digests or {}
        return {n: cls(path, n, record, known.get(n, "")) for n, record in records.items()}

    @classmethod
    def of_state(
        cls, path: Path, samples: int, state: Mapping[str, NDArray[Any]]
    ) -> dict[str, ChunkFiles]:
        """Return those of the state to resume from after so many samples, groups among them."""
        folder = f"state/{samples}"
        records = {"state": _group_record(), folder: _group_record()}
        for name, values in state.items():
            axes = [f"{name}_{axis}" for axis in range(values.ndim)]
            about = {"long_name": f"{name} of every chain, to go on from", "units": "1"}
            records[f"{folder}/{name}"] = _array_record(
                values.dtype.name, values.shape, values.shape, 0, axes, about
            )
        return {node: cls(path, node, record) for node, record in records.items()}

    @property
    def _chunk(self) -> tuple[int, ...]:
        return tuple(self.record["chunk_grid"]["configuration"]["chunk_shape"])

    @property
    def step(self) -> int:
        """Samples in a chunk."""
        return self._chunk[0]

    @property
    def count(self) -> int:
        """Number of chunks."""
        return int(-(-self.record["shape"][0] // self.step))

    def file(self, index: int) -> str:
        """Return the file name of chunk `index` along the first axis."""
        return ".".join(["c", str(index)] + ["0"] * (len(self.record["shape"]) - 1))

    def __str__(self) -> str:
        return f"{self.path}: variable '{self.name}'"

    def bytes_of(self, index: int) -> bytes:
        """Return a chunk file as it is; raises StoreError."""
        chunk = f"{self}: chunk {self.file(index)}"
        with reading(chunk, f"{chunk} is missing"):
            return read_bytes(self.path / self.name / self.file(index))

    def check_files(self, first: int = 0) -> None:
        """Raise StoreError unless the files of all chunks from `first` on are there."""
        files = [self.file(index) for index in range(first, self.count)]
        with reading(f"{self}:", f"{self}: chunk {files[0] if files else ''} is missing"):
            there = set(os.listdir(self.path / self.name)) if files else set()
        for file in files:
            if file not in there:
                raise StoreError(f"{self}: chunk {file} is missing")

    def _block(self, index: int, data: bytes) -> NDArray[Any]:
        dtype = np.dtype(self.record["data_type"]).newbyteorder("<")
        try:
            block = np.frombuffer(_BLOSC.decode(_CHECKSUM.decode(data)), dtype)
            return block.reshape(self._chunk)
        except Exception:
            # Each codec fails in its own way (ValueError, RuntimeError, ...) on damaged bytes.
            what = f"chunk {self.file(index)} is damaged (truncated or altered)"
            raise StoreError(f"{self}: {what}") from None

    def _digest(self, index: int, data: bytes) -> str:
        used = self.record["shape"][0] - index * self.step
        named = data if used >= self.step else self._block(index, data)[:used].tobytes()
        return hashlib.blake2b(named, digest_size=_DIGITS // 2).hexdigest()

    def _is_kept(self, index: int, data: bytes) -> bool:
        kept = self.digests[index * _DIGITS :][:_DIGITS]
        return not self.digests or kept == self._digest(index, data)

    def decode(self, index: int) -> NDArray[Any]:
        """Return a whole chunk, of its digest if one was kept; raises StoreError."""
        data = self.bytes_of(index)
        block = self._block(index, data)
        if not self._is_kept(index, data):
            what = f"chunk {self.file(index)} is not the one that was written here"
            raise StoreError(f"{self}: {what}")
        return block.astype(self.record["data_type"], copy=False)

    def encode(self, rows: NDArray[Any]) -> bytes:
        """Return the chunk file for `rows`, at most a chunk of them; the rest is fill value."""
        dtype, fill = np.dtype(self.record["data_type"]), self.record["fill_value"]
        block = np.full(self._chunk, dtype.type(fill), dtype.newbyteorder("<"))
        block[: len(rows)] = rows
        return bytes(_CHECKSUM.encode(_BLOSC.encode(block)))

    def with_digests(self, commit: int) -> ChunkFiles:
        """Return the same with the digests of all chunks; those before `commit` are known."""
        known = self.digests[: commit // self.step * _DIGITS]
        unknown = range(len(known) // _DIGITS, self.count)
        return replace(
            self, digests=known + "".join(self._digest(i, self.bytes_of(i)) for i in unknown)
        )

    def check_digests(self) -> None:
        """Raise StoreError unless the chunks on disk have the digests that were kept."""
        for index in range(len(self.digests) // _DIGITS):
            if not self._is_kept(index, self.bytes_of(index)):
                self.decode(index)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return samples start..stop-1; raises StoreError."""
        step, (_, *sample) = self.step, self.record["shape"]
        out = np.empty((stop - start, *sample), dtype=self.record["data_type"])
        for index in range(start // step, -(-stop // step)):
            low, high = max(start, index * step), min(stop, (index + 1) * step)
            block = self.decode(index)
            out[low - start : high - start] = block[low - index * step : high - index * step]
        return out

    def checked(self, layout: Layout, start: int, stop: int) -> NDArray[Any]:
        """Return samples start..stop-1; raises StoreError for values it cannot hold too."""
        values = self.read(start, stop)
        if fault := layout.fault(self.name, values):
            raise StoreError(f"{self}: samples {start}..{stop - 1} hold {fault}")
        return values

    def write(self, first: int, rows: NDArray[Any]) -> None:
        """Put `rows` on disk as samples first, first + 1 .., file by file.

        Samples before `first` in the same chunk are kept; what is behind the last row becomes
        fill value. Each file is replaced as a whole. Raises StoreError, WriteError.
        """
        step = self.step
        start, total = first // step, first + len(rows)
        kept = replace(self, digests="").read(start * step, first)
        rows = np.concatenate([kept, rows], dtype=kept.dtype, casting="same_kind")
        for index in range(start, -(-total // step)):
            block = rows[(index - start) * step :][:step]
            write_bytes_atomically(self.path / self.name / self.file(index), self.encode(block))


def nodes_of(files: Mapping[str, ChunkFiles]) -> dict[str, Any]:
    """Return the records of nodes, and the digests of their chunks, for the root record."""
    nodes: dict[str, Any] = {name: one.record for name, one in files.items()}
    if digests := {name: one.digests for name, one in files.items() if one.digests}:
        nodes[_DIGESTS] = _group_record(digests)
    return nodes


# -- samples ----------------------------------------------------------------------------------


class LatticeStore(Lattices):
    """A store, open for reading: its committed samples only, and each checked when read.

    Raises StoreError in one line if there is none, or a damaged one: records and the presence of
    every chunk are checked when it is opened, contents when they are read.
    """

    def __init__(self, path: AnyPath) -> None:
        path = Path(path)
        attributes, nodes, unaltered = read_root(path)
        samples = attributes.get("samples_committed")
        if type(samples) is not int or samples < 0:
            raise StoreError(f"{path}: attribute 'samples_committed' is {samples!r}")
        super().__init__(path, attributes, _layout_of(path, nodes), samples)
        digests = nodes.get(_DIGESTS, {}).get("attributes", {})
        self.arrays = ChunkFiles.of(path, self.layout, samples, digests)
        self.states = {
            node: ChunkFiles(path, node, record, digests.get(node, ""))
            for node, record in nodes.items()
            if node.split("/")[0] == "state"
        }
        # An array's own record is brought up to date at the end of a run only.
        skip = () if self.complete else ("shape",)
        for name, array in self.arrays.items():
            _compare(array, nodes[name])
            # A kill while the store was made may have left an array without its own record.
            if samples:
                _compare(array, read_record(path, f"{name}/{ROOT}"), skip)
            array.check_files()
        if not unaltered:
            raise StoreError(f"{path}: {ROOT} was altered after it was written")
        for key, value in self.attrs.items():
            if kind_of(key, value):
                raise StoreError(f"{path}: attribute '{key}' is {str(value)[:60]!r}")

    @property
    def complete(self) -> bool:
        """Whether the store has all the samples that it was made for."""
        return bool(self.n_samples == self.attrs.get("samples_planned"))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if not 0 <= start <= stop <= self.n_samples:
            raise IndexError(f"samples {start}..{stop} of {self.n_samples}")
        return self.arrays[self.field].checked(self.layout, start, stop)

    def _scalar(self, name: str) -> NDArray[Any]:
        return self.arrays[name].checked(self.layout, 0, self.n_samples)

    def verify(self) -> None:
        """Read all that is stored; raises StoreError for what is not as it was written."""
        for array in self.arrays.values():
            array.check_digests()
            for start in range(0, 0 if array.digests else self.n_samples, array.step):
                array.checked(self.layout, start, min(start + array.step, self.n_samples))

    def digest(self) -> str:
        """Return the SHA-256 that names the samples and what they are.

        It covers the attributes (not how the store came about) and the chunk files of the
        field, not the scalars, which follow from them.
        """
        skip, array = (*VOLATILE, *MANAGED), self.arrays[self.field]
        kept = {key: value for key, value in self.attrs.items() if key not in skip}
        total = hashlib.sha256(json.dumps([kept, array.record], sort_keys=True).encode())
        whole = self.n_samples // self.chunk
        for index in range(whole):
            total.update(hashlib.sha256(array.bytes_of(index)).digest())
        # A part-full last chunk may be rewritten with more samples, so its file names nothing.
        total.update(self.read(whole * self.chunk, self.n_samples).tobytes())
        return total.hexdigest()


def _layout_of(path: Path, nodes: Mapping[str, Any]) -> Layout:
    """Return the layout that the records of the store `path` describe; raises StoreError."""
    names = [name for name in nodes if name.split("/")[0] not in ("state", _DIGESTS)]
    fields = [name for name in names if name in FIELDS]
    if len(fields) != 1:
        raise StoreError(f"{path}: expected one of the variables {', '.join(FIELDS)}")
    field = fields[0]
    try:
        node, kind = nodes[field], FIELDS[field]
        about, (_, *shape) = node["attributes"], map(int, node["shape"])
        chunk, *_ = sample = node["chunk_grid"]["configuration"]["chunk_shape"]
        if len(sample) != 1 + len(shape):
            raise ValueError
        plane = shape.pop(0) if kind.plane in node["dimension_names"] else 0
        return Layout.of(
            field, shape, plane, chunk=int(chunk),
            q=len(about["flag_values"]) if field == "states" else 0,
            scale=float(about["scale_factor"] if kind.scaled else 1.0),
            variables=tuple(name for name in names if name != field),
            dtype=node["data_type"] if field == "field" else "",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, BadInput):
        wrong = f"variable '{field}': wrong shape, chunks, scale or states"
        raise StoreError(f"{path}: {wrong}") from None


def _compare(array: ChunkFiles, found: Any, skip: Sequence[str] = ()) -> None:
    """Raise StoreError naming the first entry of an array's record that is not as expected."""
    for key, value in array.record.items():
        there = found.get(key) if isinstance(found, dict) else None
        if key not in skip and there != value:
            raise StoreError(f"{array}: {key} is {there!r}, expected {value!r}")


open_store = LatticeStore
