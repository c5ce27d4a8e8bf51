"""The one door: samples of any origin, opened, and kept as a store; attributes of files."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath, parse_json
from skild_phys.models import find_model, get_model
from skild_phys.store.memory import in_memory
from skild_phys.store.reader import Lattices, LatticeStore, open_store
from skild_phys.store.schema import MANAGED, Layout, Plan, is_store, usual_axes
from skild_phys.store.writer import create_store

if TYPE_CHECKING:
    import xarray as xr

    from skild_phys.store.foreign import ForeignLattices

Source: TypeAlias = Union[Lattices, "xr.Dataset", "xr.DataArray", NDArray[Any], AnyPath]
_CHUNK_SITES = 2**19


def open_lattices(
    source: Source, field: str | None = None, *, repeats: bool = False, **attrs: Any
) -> Lattices:
    """Open lattices of any origin; what every command and function takes.

    Parameters
    ----------
    source : the path of a store, of a `.npy` file, or of a Zarr array or group of any make; a
        Dataset, a DataArray or an array, (n, Ly, Lx) or (n, Lz, Ly, Lx).
    field : what numbers are whose name does not say it, `spins` or `field`; None to see.
    repeats : whether samples that are copies of others stay, as inputs of a refinement do; else
        each counts once, and an InputWarning says so.
    attrs : what is known of lattices that are no store: `model`, `temperature` (a number, or a
        text as --T takes it).

    Raises
    ------
    StoreError, BadInput : what is no lattices, or damaged; `attrs` for a store, which has its own.
    """
    if isinstance(source, str | os.PathLike) and is_store(source):
        source = open_store(source)
    if isinstance(source, Lattices):
        if attrs:
            raise BadInput(next(iter(attrs)), str(source.path), "nothing: a store has its own")
        return source
    if unknown := set(attrs) - {"model", "temperature"}:
        raise BadInput(min(unknown), attrs[min(unknown)], "model and temperature only")
    if "model" in attrs:
        get_model(str(attrs["model"]))
    if field != "field" and (found := in_memory(source, repeats, attrs)):
        return found
    return _foreign(source, field, attrs).settled(repeats)


def _foreign(
    source: xr.Dataset | xr.DataArray | NDArray[Any] | AnyPath,
    field: str | None,
    attrs: dict[str, Any],
) -> ForeignLattices:
    import xarray as xr

    from skild_phys.store.foreign import ForeignLattices
    from skild_phys.store.formats import read_file

    known = find_model(attrs)
    name, path = "array" if known is None else known.field, Path("dataset")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        source = read_file(path)
    elif isinstance(source, xr.DataArray):
        source = source.to_dataset(name=source.name or name)
    elif not isinstance(source, xr.Dataset):
        path, values = Path("lattices"), np.asanyarray(source)
        source = xr.Dataset({name: (usual_axes(name, values.ndim), values)})
    return ForeignLattices(source.assign_attrs(attrs), path, field)


def write_lattices(lattices: Lattices, path: AnyPath) -> LatticeStore:
    """Write lattices of any origin to a new store, chunk by chunk, and open it.

    Parameters
    ----------
    lattices : what `open_lattices` returns.
    path : of the new store; one that was begun with the same lattices is finished.

    Returns
    -------
    The store. Of a Dataset that was opened and not changed it has the original's digest.

    Raises
    ------
    BadInput, StoreError, WriteError : as `Lattices.read` and `create_store` do.
    """
    chunk, field = lattices.chunk, lattices.field
    if not lattices.in_file:
        chunk = max(1, _CHUNK_SITES // math.prod(lattices.layout.sample_shape))
    scalars = {name: lattices.variable(name) for name in lattices.variables}
    known = {one.name: getattr(lattices.layout, one.name) for one in fields(Layout)}
    known |= {"chunk": chunk, "variables": tuple(scalars)}
    plan = Plan(**known, n_samples=lattices.n_samples, attrs=as_stored(lattices.attrs))
    with create_store(path, plan) as writer:
        while (first := writer.committed) < plan.n_samples:
            last = min(first + chunk, plan.n_samples)
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
                values = lattices.read(first, last).astype(plan.dtype)
            writer.commit({field: values} | {k: v[first:last] for k, v in scalars.items()})
    return open_store(path)


def as_text(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes with JSON texts for what NetCDF cannot keep.

    NetCDF keeps no dictionaries, None and truth values, no integers beyond 32 bits (seeds), and
    of lists only those of numbers.
    """
    return {str(k): v if _is_kept(v) else json.dumps(v) for k, v in attrs.items()}


def _is_kept(value: object) -> bool:
    if isinstance(value, list):
        return value != [] and all(isinstance(v, int | float) and _is_kept(v) for v in value)
    return not (value is None or isinstance(value, dict | bool) or _is_long(value))


_WORDS = ("null", "true", "false")


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def as_stored(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as a store has them: JSON's values in place of NumPy's, and of texts."""
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, str) and (value[:1] in ("{", "[") or value in _WORDS):
            with contextlib.suppress(ValueError):  # what only looks like JSON is a text
                value = parse_json(value)
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            with contextlib.suppress(ValueError):  # more digits than Python converts
                value = int(value) if _is_long(int(value)) else value
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if key not in MANAGED:
            found[str(key)] = value
    return found
