"""Chunk files: Zarr's codecs, applied in memory to one chunk at a time.

A missing file is an error here, where Zarr would read fill values in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
from skild_phys.store.schema import ROOT, chunk_name, chunk_shape

_BLOSC, _CHECKSUM = Blosc(), CRC32C(location="end")


def zarr_folder(path: AnyPath, *, read_only: bool = False) -> Any:
    """Return the folder `path` as Zarr's functions take it: they read text with '::' as a URL."""
    return LocalStore(Path(path), read_only=read_only)


def _one_chunk(metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return chunk 0 as an array of its own: (the array, the mapping of keys to buffers).

    Zarr leaves out a chunk that is all fill value, where here a missing chunk is a fault; the
    array is told not to, by itself: Zarr's own setting is of the process, not of the thread.
    """
    to_buffer = default_buffer_prototype().buffer.from_bytes
    document = json.dumps({**metadata, "shape": chunk_shape(metadata), "attributes": {}})
    files = {ROOT: to_buffer(document.encode())}
    array: Any = zarr.open_array(MemoryStore(files), mode="r+")
    whole = zarr.AsyncArray(array.metadata, array.store_path, {"write_empty_chunks": True})
    return zarr.Array(whole), files


def encode(metadata: Mapping[str, Any], rows: NDArray[Any]) -> bytes:
    """Return the chunk file for `rows`, at most a chunk of them; the rest is fill value."""
    array, files = _one_chunk(metadata)
    block = np.full(array.shape, array.fill_value, dtype=array.dtype)
    block[: len(rows)] = rows
    array[...] = block
    return bytes(files[chunk_name(metadata, 0)].to_bytes())


DIGITS = 16
"""Hexadecimal digits of a chunk's digest."""


def _read_file(path: Path, name: str, file: str) -> bytes:
    try:
        return read_bytes(path / name / file)
    except FileNotFoundError:
        raise StoreError(f"{path}: variable '{name}': chunk {file} is missing") from None
    except OSError as error:
        raise StoreError(
            f"{path}: variable '{name}': chunk {file} cannot be read: {error.strerror}"
        ) from error


def _decoded(
    path: Path, name: str, metadata: Mapping[str, Any], index: int
) -> tuple[NDArray[Any], str]:
    """Return a chunk, and the digest of what it holds.

    A whole chunk is named by its file. The last one may be replaced by one with more samples
    before a commit says so: it is named by the samples that are committed.
    """
    file = chunk_name(metadata, index)
    data = _read_file(path, name, file)
    shape, dtype = chunk_shape(metadata), np.dtype(metadata["data_type"]).newbyteorder("<")
    try:
        # The codecs of `schema.array_metadata`, undone in a fifth of the time that Zarr takes.
        block = np.frombuffer(_BLOSC.decode(_CHECKSUM.decode(data)), dtype).reshape(shape)
    except Exception:
        # Each codec fails in its own way (ValueError, RuntimeError, ...) on damaged bytes.
        raise StoreError(
            f"{path}: variable '{name}': chunk {file} is damaged (truncated or altered)"
        ) from None
    used = _used(metadata, index)
    return block, _digest(data if used == len(block) else block[:used].tobytes())


def _used(metadata: Mapping[str, Any], index: int) -> int:
    """Return how many samples of a chunk are committed."""
    step = chunk_shape(metadata)[0]
    return int(min(step, metadata["shape"][0] - index * step))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGITS // 2).hexdigest()


def _digest_of(path: Path, name: str, metadata: Mapping[str, Any], index: int) -> str:
    """Return the digest of a chunk; one that is whole need not be decoded."""
    if _used(metadata, index) == chunk_shape(metadata)[0]:
        return _digest(_read_file(path, name, chunk_name(metadata, index)))
    return _decoded(path, name, metadata, index)[1]


def decode(
    path: Path, name: str, metadata: Mapping[str, Any], index: int, digests: str = ""
) -> NDArray[Any]:
    """Return a whole chunk of variable `name` of the store `path`; raises StoreError.

    `digests` are those of the variable's chunks, one behind the other; "" if none were kept.
    """
    block, found = _decoded(path, name, metadata, index)
    if digests and digests[index * DIGITS :][:DIGITS] != found:
        file = chunk_name(metadata, index)
        raise StoreError(
            f"{path}: variable '{name}': chunk {file} is not the one that was written here"
        )
    return block.astype(metadata["data_type"], copy=False)


def digests_from(path: Path, name: str, metadata: Mapping[str, Any], first: int = 0) -> str:
    """Return the digests of a variable's chunks on disk from number `first` on."""
    chunks = -(-metadata["shape"][0] // chunk_shape(metadata)[0])
    return "".join(_digest_of(path, name, metadata, index) for index in range(first, chunks))


def check_digests(path: Path, name: str, metadata: Mapping[str, Any], digests: str) -> None:
    """Raise StoreError unless a variable's chunks on disk have these digests."""
    for index in range(len(digests) // DIGITS):
        if _digest_of(path, name, metadata, index) != digests[index * DIGITS :][:DIGITS]:
            decode(path, name, metadata, index, digests)


def read_rows(
    path: Path, name: str, metadata: Mapping[str, Any], start: int, stop: int, digests: str = ""
) -> NDArray[Any]:
    """Return samples start..stop-1 of a variable; raises StoreError."""
    step = chunk_shape(metadata)[0]
    out = np.empty((stop - start, *metadata["shape"][1:]), dtype=metadata["data_type"])
    for index in range(start // step, -(-stop // step)):
        low, high = max(start, index * step), min(stop, (index + 1) * step)
        block = decode(path, name, metadata, index, digests)
        out[low - start : high - start] = block[low - index * step : high - index * step]
    return out


def write_rows(
    path: Path, name: str, metadata: Mapping[str, Any], first: int, rows: NDArray[Any]
) -> None:
    """Put `rows` on disk as samples first, first + 1 .. of a variable, file by file.

    Samples before `first` in the same chunk are kept; what is behind the last row becomes fill
    value. Each file is replaced as a whole. Raises StoreError, WriteError.
    """
    step = chunk_shape(metadata)[0]
    start, total = first // step, first + len(rows)
    kept = read_rows(path, name, metadata, start * step, first)
    rows = np.concatenate([kept, rows.astype(metadata["data_type"])])
    for index in range(start, -(-total // step)):
        block = rows[(index - start) * step :][:step]
        write_bytes_atomically(path / name / chunk_name(metadata, index), encode(metadata, block))
