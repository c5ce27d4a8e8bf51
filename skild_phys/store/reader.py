"""Reading a store: its committed samples only, and each checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.files import AnyPath, read_bytes
from skild_phys.store.chunks import check_digests, read_rows
from skild_phys.store.lattices import Lattices
from skild_phys.store.schema import (
    DIGESTS,
    MANAGED,
    ROOT,
    VOLATILE,
    check_root,
    chunk_name,
    chunk_shape,
    compare_metadata,
    layout_of,
    read_json,
    read_root,
)


class LatticeStore(Lattices):
    """A store, open for reading: its committed samples only, and each checked when read."""

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        root = read_root(self.path)
        self.attrs: dict[str, Any] = root["attributes"]
        self._nodes: dict[str, Any] = root["consolidated_metadata"]["metadata"]
        self._layout = layout_of(self.path, self._nodes)
        self._digests: dict[str, str] = self._nodes.get(DIGESTS, {}).get("attributes", {})
        self.field, self.shape = self._layout.field, self._layout.shape
        self.chunk, self.scale, self.q = self._layout.chunk, self._layout.scale, self._layout.q
        self.variables, self.channels = self._layout.variables, self._layout.channels
        samples = self.attrs.get("samples_committed")
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
            raise StoreError(f"{self.path}: attribute 'samples_committed' is {samples!r}")
        self.n_samples: int = samples
        self._arrays = self._layout.metadata(samples)
        for name, expected in self._arrays.items():
            compare_metadata(self.path, name, self._nodes[name], expected)
            # A kill while the store was made may have left an array without its own record.
            if samples:
                self._check_record(name)
            self._check_chunks(name)
        check_root(self.path, root)
        for key, value in self.attrs.items():
            if kind_of(key, value):
                raise StoreError(f"{self.path}: attribute '{key}' is {str(value)[:60]!r}")

    def _check_record(self, name: str) -> None:
        metadata = self._arrays[name]
        own = read_json(self.path, f"{name}/{ROOT}")
        # The array's own record is brought up to date at the end of a run only.
        skip = () if self.complete else ("shape",)
        expected = {key: value for key, value in metadata.items() if key not in skip}
        compare_metadata(self.path, name, own, expected)

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
        for index in range(-(-self.n_samples // chunk_shape(metadata)[0])):
            if (file := chunk_name(metadata, index)) not in there:
                raise StoreError(f"{self.path}: variable '{name}': chunk {file} is missing")

    @property
    def complete(self) -> bool:
        """Whether the store has all the samples that it was made for."""
        return bool(self.n_samples == self.attrs.get("samples_planned"))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if not 0 <= start <= stop <= self.n_samples:
            raise IndexError(f"samples {start}..{stop} of {self.n_samples}")
        return self._read(self.field, start, stop)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        known = self._digests.get(name, "")
        values = read_rows(self.path, name, self._arrays[name], start, stop, known)
        if fault := self._layout.fault(name, values):
            raise StoreError(
                f"{self.path}: variable '{name}': samples {start}..{stop - 1} hold {fault}"
            )
        return values

    def verify(self) -> None:
        """Read all that is stored; raises StoreError for what is not as it was written."""
        for name, metadata in self._arrays.items():
            if known := self._digests.get(name):
                check_digests(self.path, name, metadata, known)
                continue
            step = chunk_shape(metadata)[0]
            for start in range(0, self.n_samples, step):
                self._read(name, start, min(start + step, self.n_samples))

    def variable(self, name: str) -> NDArray[Any]:
        if not self.has(name):
            raise StoreError(f"{self.path}: has no variable '{name}'")
        return self._read(name, 0, self.n_samples)

    def digest(self) -> str:
        """Return the SHA-256 that names the samples and what they are.

        It covers the attributes (not how the store came about) and the chunk files of the
        lattices, not the scalars, which follow from them.
        """
        skip = (*VOLATILE, *MANAGED)
        identity = [
            {key: value for key, value in self.attrs.items() if key not in skip},
            self._arrays[self.field],
        ]
        total = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        whole = self.n_samples // self.chunk
        for index in range(whole):
            file = self.path / self.field / chunk_name(self._arrays[self.field], index)
            try:
                total.update(hashlib.sha256(read_bytes(file)).digest())
            except OSError as error:
                raise StoreError(
                    f"{self.path}: variable '{self.field}': chunk {file.name} cannot be read: "
                    f"{error.strerror}"
                ) from error
        # A part-full last chunk may be rewritten with more samples, so its file names nothing.
        total.update(self.read(whole * self.chunk, self.n_samples).tobytes())
        return total.hexdigest()


_WHOLE = ("samples_planned", "chains", "every", "burn_in", "stint", "seed", "tie_seed")
_TEXT = ("model", "algorithm", "rule", "method", "start")


def kind_of(key: str, value: object) -> str:
    """Return the kind of value that an attribute must have, "" if `value` is of it."""
    fits, accepted = True, ""
    if key == "temperature":
        fits, accepted = is_temperature(value), "a positive number"
    elif value is None:
        fits, accepted = key != "samples_planned", "a whole number"
    elif key in _WHOLE:
        most = math.inf if key in ("seed", "tie_seed") else 2**63 - 1
        fits, accepted = type(value) is int and 0 <= value <= most, "a whole number from 0 on"
    elif key == "factor":
        fits = type(value) in (int, float) and 1 <= value <= 2**31  # type: ignore[operator]
        accepted = "a number from 1 on"
    elif key == "L":
        sides = value if isinstance(value, list) else [value]
        fits = sides != [] and all(type(side) is int and 0 < side < 2**31 for side in sides)
        accepted = "a side, or a list of sides"
    elif key in _TEXT:
        fits, accepted = isinstance(value, str), "a text"
    return "" if fits else accepted


def is_temperature(value: object) -> bool:
    """Return whether an attribute can be a temperature: a positive number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return 0.0 < value < math.inf


def open_store(path: AnyPath) -> LatticeStore:
    """Open a store for reading; raises StoreError in one line if it is not one, or damaged.

    Metadata and the presence of every chunk are checked now, contents when they are read.
    """
    return LatticeStore(path)
