"""Lattices of any origin, read as they are asked for: what every command and function takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.models import MODELS, Model


class Lattices(ABC):
    """Samples of one field, open for reading, each checked when it is read.

    Attributes
    ----------
    path : where they lie; of lattices in memory only what messages call them.
    attrs : what is known of them (model, temperature, rule, seed, ...).
    field : what a site holds: `spins` (int8, +-1), `states` (int8, 0 .. q-1), `block_sum` or
        `state_count` (int16), `field` (real numbers; float32 in a store), `image` (uint8).
    n_samples : samples that are complete.
    shape : (Ly, Lx) or (Lz, Ly, Lx) of a lattice.
    q : number of states of `states` and `state_count`; 0 for the other fields.
    channels : number of channels of `image`; 0 for the other fields.
    chunk : samples in a chunk, the least that is read at once.
    scale : physical value = stored number x scale (1.0 unless `field` is `block_sum` or
        `state_count`).
    variables : names of the scalars.
    """

    path: Path
    attrs: dict[str, Any]
    field: str
    n_samples: int
    shape: tuple[int, ...]
    q: int
    channels: int
    chunk: int
    scale: float
    variables: tuple[str, ...]

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored numbers of samples start..stop-1, checked.

        `(stop - start, *shape)`, for `state_count` `(stop - start, q, *shape)`, for `image`
        `(stop - start, channels, *shape)`.
        """

    @abstractmethod
    def variable(self, name: str) -> NDArray[Any]:
        """Return the scalar `name` of every sample, (n_samples,); raises StoreError."""

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

        Raises StoreError if the lattices cannot be that model's, for their dimension or states.
        """
        model = MODELS.get(str(self.attrs.get("model")))
        if model is None:
            return None
        q = len(model.values) if model.field == "states" else 0
        if (len(self.shape), self.q) != (model.dimension, q):
            states = f" of {self.q} states" if self.q else ""
            raise StoreError(
                f"{self.path}: variable '{self.field}': {len(self.shape)}D{states}, which "
                f"{model.name} is not"
            )
        return model
