"""Between Datasets of xarray and files: stores opened as Datasets, and the other way round."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skild_phys.files import AnyPath, whole_directory
from skild_phys.store.lattices import Lattices
from skild_phys.store.layout import Layout, Plan, as_stored, as_text
from skild_phys.store.reader import LatticeStore, open_store
from skild_phys.store.writer import create_store

if TYPE_CHECKING:
    import xarray as xr

_CHUNK_SITES = 2**19


def store_dataset(path: AnyPath) -> xr.Dataset:
    """Return a store that was verified, or written just now, as a Dataset."""
    import xarray as xr
    from zarr.storage import LocalStore

    # A folder: Zarr reads text with '::' as a URL.
    data: xr.Dataset = xr.open_zarr(LocalStore(Path(path), read_only=True), chunks=None)
    data.encoding["source"] = str(path)
    return data.assign_attrs(as_text(data.attrs))


def write_group(data: xr.Dataset, path: AnyPath) -> None:
    """Write any Dataset as a Zarr group, in place of what lies at `path`; raises WriteError."""
    from zarr.storage import LocalStore

    with whole_directory(path, replace=True) as folder, warnings.catch_warnings():
        # Names of offsets are text, for which Zarr 3 has no settled type.
        warnings.simplefilter("ignore")
        data.to_zarr(LocalStore(folder), mode="w", zarr_format=3, consolidated=False)


def write_lattices(lattices: Lattices, path: AnyPath) -> LatticeStore:
    """Write samples of any origin (`open_lattices`) to a store, chunk by chunk, and open it.

    One that lies at `path` and was begun with the same samples is finished. Of a Dataset that was
    opened and not changed the store has the original's digest. Raises BadInput, StoreError,
    WriteError as `Lattices.read` and `create_store` do.
    """
    chunk, field = lattices.chunk, lattices.field
    if not lattices.in_file:
        chunk = max(1, _CHUNK_SITES // math.prod(lattices.layout.sample_shape))
    scalars = {name: lattices.variable(name) for name in lattices.variables}
    known = {one.name: getattr(lattices.layout, one.name) for one in fields(Layout)}
    known |= {"chunk": chunk}
    plan = Plan(**known, n_samples=lattices.n_samples, attrs=as_stored(lattices.attrs))
    with create_store(path, plan) as writer:
        while (first := writer.committed) < plan.n_samples:
            last = min(first + chunk, plan.n_samples)
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
                values = lattices.read(first, last).astype(plan.dtype)
            writer.commit({field: values} | {k: v[first:last] for k, v in scalars.items()})
    return open_store(path)
