"""A Dataset as a store, so that what was opened, cut or made in memory goes on through commands."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath
from skild_phys.store.create import create_store
from skild_phys.store.reader import LatticeStore, open_store
from skild_phys.store.schema import FIELDS, MANAGED, POTTS_FIELDS, SCALED_FIELDS

_CHUNK_SITES = 2**19


def write_dataset(data: xr.Dataset, path: AnyPath) -> LatticeStore:
    """Write a Dataset like those that stores open as to a new store, and open it.

    Parameters
    ----------
    data : one of `FIELDS`, (sample, y, x) or (sample, z, y, x), for counts of states and images
        with their own axis after sample; scalars (sample,); attributes of the store.
    path : of the new store.

    Returns
    -------
    The store. Of a Dataset that was opened and not changed it has the original's digest.

    Raises
    ------
    BadInput : no field or several, no axis `sample`, numbers that the store cannot keep.
    """
    name = _field(data)
    values = data[name]
    if values.dims[:1] != ("sample",):
        values = values.transpose("sample", ...)
    scale = _scale(values) if name in SCALED_FIELDS else 1.0
    raw = _exactly(name, np.asarray(values.values), scale)
    planes = raw.shape[1] if name in ("state_count", "image") else 0
    shape = raw.shape[2:] if planes else raw.shape[1:]
    q = planes if name == "state_count" else 0
    if name == "states":
        flags = values.attrs.get("flag_values")
        q = len(flags) if flags is not None else int(raw.max()) + 1
    scalars = {
        str(k): np.asarray(v.values)
        for k, v in data.data_vars.items()
        if v.dims == ("sample",) and v.dtype.kind in "iuf"
    }
    chunks = values.encoding.get("chunks")
    chunk = int(chunks[0]) if chunks else max(1, _CHUNK_SITES // int(np.prod(raw.shape[1:])))
    with create_store(
        path, field=name, n_samples=len(raw), shape=shape, chunk=chunk,
        attrs={k: v for k, v in data.attrs.items() if k not in MANAGED},
        variables=tuple(scalars), scale=scale, q=q if name in POTTS_FIELDS else 0,
        channels=planes if name == "image" else 0,
    ) as writer:  # fmt: skip
        writer.commit({name: raw, **scalars})
    return open_store(path)


def _field(data: xr.Dataset) -> str:
    found = [name for name in FIELDS if name in data]
    if len(found) != 1 or "sample" not in data[found[0]].dims:
        accepted = f"one variable of {', '.join(FIELDS)}, with an axis 'sample'"
        raise BadInput("dataset", ", ".join(map(str, data.data_vars)) or "nothing", accepted)
    if data.sizes["sample"] == 0:
        raise BadInput("dataset", "0 samples", "a sample or more")
    return found[0]


def _scale(values: xr.DataArray) -> float:
    """Return what a stored 1 is worth: 1 over the sites of a block."""
    scale = values.encoding.get("scale_factor")
    if scale is None:
        raise BadInput(str(values.name), "no encoding", "an encoding with scale_factor")
    return float(scale)


def _exactly(name: str, values: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return values as the store keeps them; raises BadInput for what would be changed."""
    kind = np.dtype(FIELDS[name].dtype)
    raw = values.astype(kind) if scale == 1.0 else np.rint(values / scale).astype(kind)
    same = np.array_equal(raw * kind.type(1) if scale == 1.0 else raw * scale, values)
    if not same and name != "field":
        raise BadInput(name, str(values.dtype), f"numbers that {kind} holds")
    return np.ascontiguousarray(raw)
