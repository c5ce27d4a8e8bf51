"""What is read of lattices to be measured: slices of any length, in physical units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.models import Model
from skild_phys.store import Lattices

_SLICE_SITES = 2**20  # their transforms take 30 MiB, and Python next to no time


def slices(lattices: Lattices) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first sample, raw numbers) over all samples, a million sites at a time.

    Where slices end does not depend on the chunks, nor then do sums over slices.
    """
    step = max(_SLICE_SITES // math.prod(lattices.shape), 1)
    first, waiting = 0, lattices.read(0, 0)
    for start in range(0, lattices.n_samples, lattices.chunk):
        raw = lattices.read(start, min(start + lattices.chunk, lattices.n_samples))
        waiting = np.concatenate([waiting, raw]) if len(waiting) else raw
        whole = len(waiting) // step * step
        for begin in range(0, whole, step):
            yield first + begin, waiting[begin : begin + step]
        first, waiting = first + whole, waiting[whole:]
    if len(waiting):
        yield first, waiting


def read_lattices(lattices: Lattices, index: NDArray[np.int64]) -> NDArray[Any]:
    """Return the raw lattices of any indices, in their order, reading each chunk once."""
    chunk = index // lattices.chunk
    none = lattices.read(0, 0)
    parts = np.empty((len(index), *none.shape[1:]), dtype=none.dtype)
    for number in np.unique(chunk):
        start = int(number) * lattices.chunk
        block = lattices.read(start, min(start + lattices.chunk, lattices.n_samples))
        here = chunk == number
        parts[here] = block[index[here] - start]
    return parts


def is_spins(lattices: Lattices) -> bool:
    """Return whether the lattices hold +-1."""
    return lattices.field == "spins"


def physical(lattices: Lattices, raw: NDArray[Any]) -> NDArray[Any]:
    """Return raw numbers as they are measured: spins and states int8, all else in float64."""
    return raw if is_spins(lattices) or lattices.q else raw * np.float64(lattices.scale)


def is_coarse(lattices: Lattices) -> bool:
    """Return whether these are coarse-grained lattices, not those of a Hamiltonian."""
    return "factor" in lattices.attrs and "method" not in lattices.attrs


def hamiltonian(lattices: Lattices) -> Model | None:
    """Return the model whose energies the lattices have: None for coarse lattices and fields.

    Raises StoreError if the lattices cannot be of the model that a store names.
    """
    if is_coarse(lattices) or lattices.field not in ("spins", "states"):
        return None
    return lattices.model()


def check_measurable(lattices: Lattices) -> None:
    """Raise StoreError for no lattices at all, for counts of states, and for images."""
    if lattices.n_samples == 0:
        raise StoreError(f"{lattices.path}: holds no complete lattice")
    if lattices.field in ("state_count", "image"):
        raise StoreError(
            f"{lattices.path}: variable '{lattices.field}': only spins, states, block sums and"
            " fields are measured"
        )
