"""Chunk files: Zarr's codecs, applied in memory to one chunk at a time.

A missing file is an error here, where Zarr would read fill values in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

from skild_phys.errors import StoreError
from skild_phys.files import AnyPath, read_bytes, write_bytes_atomically
from skild_phys.store.schema import ROOT, Layout, chunk_shape

_BLOSC, _CHECKSUM = Blosc(), CRC32C(location="end")
_DIGITS = 16  # hexadecimal, of a chunk's digest


def zarr_folder(path: AnyPath, *, read_only: bool = False) -> Any:
    """Return the folder `path` as Zarr's functions take it: they read text with '::' as a URL."""
    return LocalStore(Path(path), read_only=read_only)


@dataclass(frozen=True)
class ChunkFiles:
    """The chunk files of one array of a store.

    Attributes
    ----------
    path, name : of the store, and of the array in it.
    metadata : of the array; its shape says how many samples are committed.
    digests : those of the chunks, one behind the other; "" if none were kept. A whole chunk is
        named by its file. The last one may be replaced by one with more samples before a commit
        says so: it is named by the samples that are committed.
    """

    path: Path
    name: str
    metadata: Mapping[str, Any]
    digests: str = ""

    @property
    def step(self) -> int:
        """Samples in a chunk."""
        return int(chunk_shape(self.metadata)[0])

    @property
    def count(self) -> int:
        """Number of chunks."""
        return int(-(-self.metadata["shape"][0] // self.step))

    def file(self, index: int) -> str:
        """Return the file name of chunk `index` along the first axis."""
        return ".".join(["c", str(index)] + ["0"] * (len(self.metadata["shape"]) - 1))

    def fault(self, text: str) -> StoreError:
        """Return the error that names store, variable and fault."""
        return StoreError(f"{self.path}: variable '{self.name}': {text}")

    def bytes_of(self, index: int) -> bytes:
        """Return a chunk file as it is; raises StoreError."""
        file = self.file(index)
        try:
            return read_bytes(self.path / self.name / file)
        except FileNotFoundError:
            raise self.fault(f"chunk {file} is missing") from None
        except OSError as error:
            raise self.fault(f"chunk {file} cannot be read: {error.strerror}") from error

    def check_files(self, first: int = 0) -> None:
        """Raise StoreError unless the files of all chunks from `first` on are there."""
        try:
            there = set(os.listdir(self.path / self.name))
        except FileNotFoundError:
            there = set()
        except OSError as error:
            raise self.fault(f"cannot be read: {error.strerror}") from error
        for index in range(first, self.count):
            if (file := self.file(index)) not in there:
                raise self.fault(f"chunk {file} is missing")

    def _used(self, index: int) -> int:
        return int(min(self.step, self.metadata["shape"][0] - index * self.step))

    def _decoded(self, index: int) -> tuple[NDArray[Any], str]:
        """Return a chunk, and the digest of what it holds."""
        data = self.bytes_of(index)
        dtype = np.dtype(self.metadata["data_type"]).newbyteorder("<")
        try:
            # The codecs of `schema.array_metadata`, undone in a fifth of the time that Zarr takes.
            block = np.frombuffer(_BLOSC.decode(_CHECKSUM.decode(data)), dtype)
            block = block.reshape(chunk_shape(self.metadata))
        except Exception:
            # Each codec fails in its own way (ValueError, RuntimeError, ...) on damaged bytes.
            text = f"chunk {self.file(index)} is damaged (truncated or altered)"
            raise self.fault(text) from None
        used = self._used(index)
        return block, _digest(data if used == len(block) else block[:used].tobytes())

    def decode(self, index: int) -> NDArray[Any]:
        """Return a whole chunk, of its digest if one was kept; raises StoreError."""
        block, found = self._decoded(index)
        if self.digests and self._kept(index) != found:
            raise self.fault(f"chunk {self.file(index)} is not the one that was written here")
        return block.astype(self.metadata["data_type"], copy=False)

    def _kept(self, index: int) -> str:
        return self.digests[index * _DIGITS :][:_DIGITS]

    def _digest_of(self, index: int) -> str:
        """Return the digest of a chunk; one that is whole need not be decoded."""
        if self._used(index) == self.step:
            return _digest(self.bytes_of(index))
        return self._decoded(index)[1]

    def with_digests(self, commit: int) -> ChunkFiles:
        """Return the same with the digests of all chunks; those before `commit` are known."""
        known = self.digests[: commit // self.step * _DIGITS]
        unknown = range(len(known) // _DIGITS, self.count)
        return replace(self, digests=known + "".join(map(self._digest_of, unknown)))

    def check_digests(self) -> None:
        """Raise StoreError unless the chunks on disk have the digests that were kept."""
        for index in range(len(self.digests) // _DIGITS):
            if self._digest_of(index) != self._kept(index):
                self.decode(index)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return samples start..stop-1; raises StoreError."""
        step, (_, *sample) = self.step, self.metadata["shape"]
        out = np.empty((stop - start, *sample), dtype=self.metadata["data_type"])
        for index in range(start // step, -(-stop // step)):
            low, high = max(start, index * step), min(stop, (index + 1) * step)
            block = self.decode(index)
            out[low - start : high - start] = block[low - index * step : high - index * step]
        return out

    def checked(self, layout: Layout, start: int, stop: int) -> NDArray[Any]:
        """Return samples start..stop-1; raises StoreError for values it cannot hold too."""
        values = self.read(start, stop)
        if fault := layout.fault(self.name, values):
            raise self.fault(f"samples {start}..{stop - 1} hold {fault}")
        return values

    def write(self, first: int, rows: NDArray[Any]) -> None:
        """Put `rows` on disk as samples first, first + 1 .., file by file.

        Samples before `first` in the same chunk are kept; what is behind the last row becomes
        fill value. Each file is replaced as a whole. Raises StoreError, WriteError.
        """
        step = self.step
        start, total = first // step, first + len(rows)
        kept = replace(self, digests="").read(start * step, first)
        rows = np.concatenate([kept, rows.astype(self.metadata["data_type"])])
        for index in range(start, -(-total // step)):
            block = rows[(index - start) * step :][:step]
            write_bytes_atomically(self.path / self.name / self.file(index), self.encode(block))

    def encode(self, rows: NDArray[Any]) -> bytes:
        """Return the chunk file for `rows`, at most a chunk of them; the rest is fill value.

        Zarr leaves out a chunk that is all fill value, where here a missing chunk is a fault; the
        array is told not to, by itself: Zarr's own setting is of the process, not of the thread.
        """
        to_buffer = default_buffer_prototype().buffer.from_bytes
        one = {**self.metadata, "shape": chunk_shape(self.metadata), "attributes": {}}
        files = {ROOT: to_buffer(json.dumps(one).encode())}
        array: Any = zarr.open_array(MemoryStore(files), mode="r+")
        array = zarr.Array(
            zarr.AsyncArray(array.metadata, array.store_path, {"write_empty_chunks": True})
        )
        block = np.full(array.shape, array.fill_value, dtype=array.dtype)
        block[: len(rows)] = rows
        array[...] = block
        return bytes(files[self.file(0)].to_bytes())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGITS // 2).hexdigest()
