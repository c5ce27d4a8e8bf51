"""Images as fields: 0 .. 255 is -1 .. 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.store import Lattices

SPLITS = ("train", "test")
"""Values of the scalar `split`: 0 and 1. The images of a split lie one after the other."""


def fields_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 8-bit intensities as float32 fields within [-1, 1]."""
    return np.asarray(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0))


def pixels_of(fields: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return fields as the nearest 8-bit intensities; what is beyond [-1, 1] is cut off."""
    return np.asarray(np.rint((fields.clip(-1.0, 1.0) + 1.0) * 127.5).astype(np.uint8))


class ImageLattices:
    """The images of a store, or of one of its splits, as fields (n, channels, Ly, Lx).

    Parameters
    ----------
    store : of images.
    split : 'train' or 'test'; None for all.

    Raises BadInput for a store of anything else, or without images of the split.
    """

    scale = 1.0

    def __init__(self, store: Lattices, split: str | None = None) -> None:
        if store.field != "image":
            raise BadInput("STORE", str(store.path), f"images, not '{store.field}'")
        self.path: Path = store.path
        self.store, self.channels, self.chunk = store, store.channels, store.chunk
        self.shape = (store.shape[0], store.shape[1])
        self.first, last = 0, store.n_samples
        """Index of the first image in the store."""
        if split is not None:
            if split not in SPLITS:
                raise BadInput("--split", split, " or ".join(SPLITS))
            places = np.flatnonzero(store.variable("split") == SPLITS.index(split))
            if not len(places):
                raise BadInput("--split", split, f"a split that {store.path} has")
            self.first, last = int(places[0]), int(places[-1]) + 1
            if last - self.first != len(places):
                raise StoreError(f"{store.path}: variable 'split': not in one piece")
        self.n_samples = last - self.first

    def batches(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of stretches of a chunk."""
        for start in range(0, self.n_samples, self.chunk):
            yield start, min(start + self.chunk, self.n_samples)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return images start..stop-1 as fields."""
        return fields_of(self.store.read(self.first + start, self.first + stop))

    def labels(self) -> NDArray[np.int64]:
        """Return the class of every image."""
        every = self.store.variable("label").astype(np.int64)
        return every[self.first : self.first + self.n_samples]

    def digest(self) -> str:
        """Return what names the images: a SHA-256, with the place of the split.

        Of a data set that was prepared it is that of its source, so that a large one need not be
        read for it; of other stores that of their contents.
        """
        return f"{self.identity()} {self.first} {self.n_samples}"

    def identity(self) -> str:
        """Return what names the whole store, whatever the split."""
        return str(self.store.attrs.get("source_sha256") or self.store.digest())
