"""Writing lattices ahead of the commit that makes them samples, from any process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.store.chunks import read_rows, write_rows
from skild_phys.store.schema import FIELDS, Layout, chunk_shape


@dataclass(frozen=True)
class Region:
    """Leave to write chunk files of a store's lattices; from `StoreWriter.region`.

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
        """Put lattices on disk as samples first, first + 1 ..; synced when this returns.

        Parameters
        ----------
        first : number of the first sample. Inside a chunk, the chunk must hold all samples
            before it already, and keeps them.
        lattices : (n, ...) as the field's part of a commit. The last may lie inside a chunk.

        Raises
        ------
        StoreError if a value is not allowed, the chunk lacks earlier samples, or the store is
        no longer (or not) the one that this was made for; WriteError if the disk refuses.
        """
        if not (self.path / self.token).is_file():
            raise StoreError(
                f"{self.path}: is not, seen from here, the store that is being written"
                " (workers need the same file system)"
            )
        field = self.layout.field
        if not self.committed <= first < first + len(lattices) <= self.planned:
            raise ValueError(
                f"{len(lattices)} samples from {first} on, of {self.committed} .. {self.planned}"
            )
        check_values(self.path, self.layout, field, FIELDS[field].dtype, len(lattices), lattices)
        metadata = self.layout.metadata(first + len(lattices))[field]
        self._check_earlier(first, metadata)
        write_rows(self.path, field, metadata, first, lattices)

    def _check_earlier(self, first: int, metadata: dict[str, Any]) -> None:
        start = first - first % chunk_shape(metadata)[0]
        kept = read_rows(self.path, self.layout.field, metadata, start, first)
        if fault := self.layout.fault(self.layout.field, kept):
            raise StoreError(
                f"{self.path}: variable '{self.layout.field}': samples {start}..{first - 1} "
                f"hold {fault}"
            )


def check_values(
    path: Path, layout: Layout, name: str, dtype: str, count: int, values: NDArray[Any]
) -> None:
    """Raise unless `values` are `count` samples of variable `name`.

    ValueError for a wrong shape or type, StoreError for a value that is not allowed.
    """
    shape = (count, *(layout.sample_shape if name == layout.field else ()))
    if values.shape != shape:
        raise ValueError(f"variable '{name}' has shape {values.shape}, expected {shape}")
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise ValueError(f"variable '{name}' is {values.dtype}, expected {dtype}")
    if fault := layout.fault(name, values):
        raise StoreError(f"{path}: variable '{name}': refused {fault}")
