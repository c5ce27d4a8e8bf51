"""Reading: samples of any origin, and those of a store, each checked when it is read."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.files import AnyPath
from skild_phys.models import Model, find_model
from skild_phys.store.chunks import ChunkFiles
from skild_phys.store.schema import (
    DIGESTS,
    MANAGED,
    ROOT,
    VOLATILE,
    Layout,
    Root,
    kind_of,
    read_json,
)


class Lattices(ABC):
    """Samples of one field, open for reading; what every command and function takes.

    Attributes
    ----------
    path : where they lie; of samples in memory only what messages call them.
    attrs : what is known of them (model, temperature, rule, seed, ...).
    layout : what a site holds and how samples are kept (`Layout`).
    field : what a site holds: `spins` (int8, +-1), `states` (int8, 0 .. q-1), `block_sum` or
        `state_count` (int16), `field` (real numbers; float32 in a store), `image` (uint8), ...
    shape : (Ly, Lx) or (Lz, Ly, Lx).
    chunk : samples in a chunk, the least that is read at once.
    scale : physical value = stored number x scale.
    q : number of states of `states` and `state_count`; 0 for the other fields.
    channels : number of channels of `image`; 0 for the other fields.
    n_samples : samples that are complete.
    variables : names of the scalars.
    in_file : whether a file says how many samples a chunk has.
    """

    in_file = True

    def __init__(self, path: Path, attrs: dict[str, Any], layout: Layout, n_samples: int) -> None:
        self.path, self.attrs, self.layout, self.n_samples = path, attrs, layout, n_samples
        self.field, self.shape, self.chunk = layout.field, layout.shape, layout.chunk
        self.scale, self.q, self.channels = layout.scale, layout.q, layout.channels
        self.variables = layout.variables

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored numbers of samples start..stop-1, checked.

        `(stop - start, *shape)`; for `state_count` `(.., q, *shape)`, for `image`
        `(.., channels, *shape)`, for a field of several components `(.., components, *shape)`.
        """

    @abstractmethod
    def _scalar(self, name: str) -> NDArray[Any]: ...

    def variable(self, name: str) -> NDArray[Any]:
        """Return the scalar `name` of every sample, (n_samples,); raises StoreError."""
        if not self.has(name):
            raise StoreError(f"{self.path}: has no variable '{name}'")
        return self._scalar(name)

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 that names the samples."""

    def batches(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) over all samples, in whole chunks: about `size` samples at once."""
        step = self.chunk * max(1, (size or self.chunk) // self.chunk)
        for start in range(0, self.n_samples, step):
            yield start, min(start + step, self.n_samples)

    def has(self, name: str) -> bool:
        """Return whether there is a scalar `name` of every sample."""
        return name in self.variables

    def model(self) -> Model | None:
        """Return the model that the attribute `model` names; None if it names none of `MODELS`.

        Raises StoreError if the samples cannot be that model's, for their dimension or states.
        """
        model = find_model(self.attrs)
        if model is None:
            return None
        if (len(self.shape), self.q) != (model.dimension, model.q):
            states = f" of {self.q} states" if self.q else ""
            raise StoreError(
                f"{self.path}: variable '{self.field}': {len(self.shape)}D{states}, which "
                f"{model.name} is not"
            )
        return model


class LatticeStore(Lattices):
    """A store, open for reading: its committed samples only, and each checked when read."""

    def __init__(self, path: AnyPath) -> None:
        root = Root.read(path := Path(path))
        samples = root.attributes.get("samples_committed")
        if type(samples) is not int or samples < 0:
            raise StoreError(f"{path}: attribute 'samples_committed' is {samples!r}")
        super().__init__(path, root.attributes, Layout.of(path, root.nodes), samples)
        digests = root.nodes.get(DIGESTS, {}).get("attributes", {})
        self.arrays = {
            name: ChunkFiles(self.path, name, metadata, digests.get(name, ""))
            for name, metadata in self.layout.metadata(samples).items()
        }
        self.states = {
            node: ChunkFiles(self.path, node, metadata, digests.get(node, ""))
            for node, metadata in root.nodes.items()
            if node.split("/")[0] == "state"
        }
        # An array's own record is brought up to date at the end of a run only.
        skip = () if self.complete else ("shape",)
        for name, array in self.arrays.items():
            _compare(array, root.nodes[name])
            # A kill while the store was made may have left an array without its own record.
            if samples:
                _compare(array, read_json(self.path, f"{name}/{ROOT}"), skip)
            array.check_files()
        root.check(self.path)
        for key, value in self.attrs.items():
            if kind_of(key, value):
                raise StoreError(f"{self.path}: attribute '{key}' is {str(value)[:60]!r}")

    @property
    def complete(self) -> bool:
        """Whether the store has all the samples that it was made for."""
        return bool(self.n_samples == self.attrs.get("samples_planned"))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if not 0 <= start <= stop <= self.n_samples:
            raise IndexError(f"samples {start}..{stop} of {self.n_samples}")
        return self.arrays[self.field].checked(self.layout, start, stop)

    def verify(self) -> None:
        """Read all that is stored; raises StoreError for what is not as it was written."""
        for array in self.arrays.values():
            array.check_digests()
            if not array.digests:
                for start in range(0, self.n_samples, array.step):
                    array.checked(self.layout, start, min(start + array.step, self.n_samples))

    def _scalar(self, name: str) -> NDArray[Any]:
        return self.arrays[name].checked(self.layout, 0, self.n_samples)

    def digest(self) -> str:
        """Return the SHA-256 that names the samples and what they are.

        It covers the attributes (not how the store came about) and the chunk files of the
        field, not the scalars, which follow from them.
        """
        skip, array = (*VOLATILE, *MANAGED), self.arrays[self.field]
        kept = {key: value for key, value in self.attrs.items() if key not in skip}
        total = hashlib.sha256(json.dumps([kept, array.metadata], sort_keys=True).encode())
        whole = self.n_samples // self.chunk
        for index in range(whole):
            total.update(hashlib.sha256(array.bytes_of(index)).digest())
        # A part-full last chunk may be rewritten with more samples, so its file names nothing.
        total.update(self.read(whole * self.chunk, self.n_samples).tobytes())
        return total.hexdigest()


def _compare(array: ChunkFiles, found: Any, skip: Sequence[str] = ()) -> None:
    """Raise StoreError naming the first entry of an array's metadata that is not as expected."""
    for key, value in array.metadata.items():
        there = found.get(key) if isinstance(found, dict) else None
        if key not in skip and there != value:
            raise array.fault(f"{key} is {there!r}, expected {value!r}")


def open_store(path: AnyPath) -> LatticeStore:
    """Open a store for reading; raises StoreError in one line if it is not one, or damaged.

    Metadata and the presence of every chunk are checked now, contents when they are read.
    """
    return LatticeStore(path)
