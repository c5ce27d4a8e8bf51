"""A Dataset as a store, so that what was opened, cut or made in memory goes on through commands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath
from skild_phys.lattice.coarsen import stored_scale
from skild_phys.store.create import create_store
from skild_phys.store.reader import LatticeStore, is_temperature, open_store
from skild_phys.store.schema import (
    AXES,
    FIELDS,
    MANAGED,
    PLANES,
    POTTS_FIELDS,
    SCALED_FIELDS,
    sides,
)

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
    BadInput : no field or several, no axis `sample`, numbers that the store cannot keep, another
        temperature than a positive number, lattices that are not as large as `L` says.
    """
    name = _field(data)
    values, attrs = _ordered(data[name]), _as_stored(data.attrs)
    scale = _scale(values, attrs) if name in SCALED_FIELDS else 1.0
    raw = _exactly(name, np.asarray(values.values), scale)
    planes = raw.shape[1] if name in PLANES else 0
    shape = raw.shape[2:] if planes else raw.shape[1:]
    check_whole(name, attrs.get("L"), shape)
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
        attrs=attrs,
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
    if 0 in data[found[0]].shape:
        raise BadInput(found[0], f"shape {data[found[0]].shape}", "a sample or more, and sites")
    return found[0]


def check_whole(name: str, told: object, shape: Sequence[int]) -> None:
    """Raise BadInput where lattices are not of the sides that the attribute L tells of."""
    if told is not None and np.any(np.asarray(told) != np.asarray(sides(shape))):
        accepted = f"L = {told}, as the attributes say: a part is no torus (without L it is one)"
        raise BadInput(name, f"lattices of {'x'.join(map(str, shape))}", accepted)


def _ordered(values: xr.DataArray) -> xr.DataArray:
    """Return a field with its axes in the order of stores; raises BadInput for other axes."""
    plane = PLANES.get(str(values.name), ())
    for axes in AXES.values():
        wanted = ("sample", *plane, *axes)
        if set(values.dims) == set(wanted):
            return values.transpose(*wanted)
    accepted = " or ".join(str(("sample", *plane, *axes)) for axes in AXES.values())
    raise BadInput(str(values.name), f"axes {values.dims}", accepted)


def as_text(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes with JSON texts for what NetCDF cannot keep.

    NetCDF keeps no dictionaries, None and truth values, and no integers beyond 32 bits (seeds).
    """
    return {
        str(k): json.dumps(v) if v is None or isinstance(v, dict | bool) or _is_long(v) else v
        for k, v in attrs.items()
    }


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def _as_stored(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as a store has them; raises BadInput for what is no JSON value."""
    found = {}
    for key, value in attrs.items():
        if key in MANAGED:
            continue
        if isinstance(value, str) and (value.startswith("{") or value in ("null", "true", "false")):
            with contextlib.suppress(ValueError):  # what only looks like JSON is a text
                value = json.loads(value)
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            with contextlib.suppress(ValueError):  # more digits than Python converts
                value = int(value) if _is_long(int(value)) else value
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise BadInput(f"attribute {key}", str(value), "a number, a text, or a list") from None
        found[str(key)] = value
    if not is_temperature(known := found.get("temperature")):
        raise BadInput("attribute temperature", known, "a positive number")
    return found


def _scale(values: xr.DataArray, attrs: Mapping[str, Any]) -> float:
    """Return what a stored 1 is worth: 1 over the sites of a block."""
    scale = values.encoding.get("scale_factor")
    if scale is not None:
        return float(scale)
    if "rule" not in attrs or "factor" not in attrs:
        raise BadInput(str(values.name), "no rule and factor", "attributes rule and factor")
    dimension = len(set(values.dims) & set(AXES[3]))
    return stored_scale(str(attrs["rule"]), int(attrs["factor"]), dimension)


def _exactly(name: str, values: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return values as the store keeps them; raises BadInput for what would be changed."""
    kind = np.dtype(FIELDS[name].dtype)
    if values.dtype.kind not in "iufb":
        raise BadInput(name, str(values.dtype), "real numbers")
    if not np.isfinite(values).all():
        raise BadInput(name, "NaN or infinity", "finite numbers")
    if kind.kind == "f":
        return np.ascontiguousarray(values, dtype=kind)
    whole = np.rint(np.asarray(values, np.float64) / scale)
    limits = np.iinfo(kind)
    wrong = (np.abs(whole * scale - values) > 1e-6) | (whole < limits.min) | (whole > limits.max)
    if wrong.any():
        what = f"multiples of {scale:g}" if scale != 1.0 else f"numbers that {kind} holds"
        raise BadInput(name, float(values[wrong].flat[0]), what)
    return np.ascontiguousarray(whole, dtype=kind)
