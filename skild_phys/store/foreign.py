"""Lattices that someone else stored: `.npy` files and Zarr arrays of any make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.files import AnyPath, check_there


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
    check_there(path)
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


def is_store(path: Path) -> bool:
    """Return whether `path` looks like a store of this program, whatever its state.

    Raises StoreError if it cannot be read.
    """
    record = os.path.join(path, "zarr.json")
    try:
        return os.path.isfile(record) and b'"schema_version"' in Path(record).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
