"""The one door: a store, anyone's file, a Dataset or an array, opened as lattices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath
from skild_phys.models import find_model, get_model
from skild_phys.store.memory import in_memory
from skild_phys.store.reader import Lattices, open_store
from skild_phys.store.schema import is_store, usual_axes

if TYPE_CHECKING:
    import xarray as xr

    from skild_phys.store.foreign import ForeignLattices

Source: TypeAlias = Union[Lattices, "xr.Dataset", "xr.DataArray", NDArray[Any], AnyPath]


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
