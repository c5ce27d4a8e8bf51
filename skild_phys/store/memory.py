"""Lattices in memory: written and read as a store is, and a Dataset of the same arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.fields import FIELDS
from skild_phys.store.reader import Lattices
from skild_phys.store.schema import (
    AXES,
    Layout,
    Plan,
    is_temperature,
    readable,
    sides,
    usual_axes,
)

if TYPE_CHECKING:
    import xarray as xr


class MemoryLattices(Lattices):
    """Lattices and their scalars in memory, as a store would keep them.

    They have been looked at where they came in, and are not checked again when read.

    Parameters
    ----------
    layout : what they are.
    arrays : the field and every scalar of the layout, by name; they are not copied.
    attrs : what is known of them.
    path : what messages call them.
    """

    in_file = False

    def __init__(
        self,
        layout: Layout,
        arrays: Mapping[str, NDArray[Any]],
        attrs: dict[str, Any],
        path: Path = Path("dataset"),
    ) -> None:
        super().__init__(path, attrs, layout, len(arrays[layout.field]))
        self._arrays = arrays

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._arrays[self.field][start:stop]

    def _scalar(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def digest(self) -> str:
        values = self._arrays[self.field]
        total = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
        total.update(np.ascontiguousarray(values).data)
        return total.hexdigest()

    def dataset(self) -> xr.Dataset:
        """Return what `xarray` would open of the store: a Dataset of the same arrays."""
        import xarray as xr

        from skild_phys.store.dataset import as_text

        variables = {}
        for name, record in self.layout.metadata(self.n_samples).items():
            values, about, encoding = self._arrays[name], record["attributes"], {}
            if scale := about.pop("scale_factor", None):
                encoding = {"scale_factor": scale, "dtype": values.dtype}
                values = values * scale
            dims = record["dimension_names"]
            variables[name] = xr.Variable(dims, values, about, encoding, fastpath=True)
        return xr.Dataset(variables, attrs=as_text(self.attrs))


class MemoryWriter:
    """A writer with the interface of `StoreWriter` that keeps the samples in memory."""

    path = None

    def __init__(self, plan: Plan) -> None:
        self.committed = 0
        self.state: dict[str, NDArray[Any]] = {}
        self.kept: dict[str, NDArray[Any]] = {}
        self.attributes: dict[str, Any] = readable(plan.attrs)
        self._plan = plan
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(self, *error: object) -> None: ...

    def settle(self, attrs: Mapping[str, Any]) -> None:
        """Add attributes that were not known when the writer was made."""
        self.attributes |= readable(attrs)

    def keep(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep nothing: what is interrupted in memory is gone."""

    def commit(
        self,
        arrays: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]] | None = None,
        *,
        written: int | None = None,
    ) -> None:
        """Append samples, as `StoreWriter.commit` does."""
        for name, dtype in self._plan.dtypes.items():
            values = np.asarray(arrays[name], dtype=dtype)
            self._parts.setdefault(name, []).append(values)
        self.committed += len(values)

    def lattices(self) -> MemoryLattices:
        """Return what was committed."""
        arrays = {
            name: parts[0] if len(parts) == 1 else np.concatenate(parts)
            for name, parts in self._parts.items()
        }
        return MemoryLattices(self._plan, arrays, self.attributes)


def in_memory(source: Any, repeats: bool, attrs: Mapping[str, Any]) -> MemoryLattices | None:
    """Return the arrays of `source` as lattices where they are already as a store has them.

    An array (n, [z,] y, x) int8 of spins, or a Dataset as `MemoryLattices.dataset` makes it. All
    values are looked at, and only means of blocks copied. None for all else, and where a sample may
    be a copy of another unless they may have `repeats`.
    """
    if isinstance(source, np.ndarray):
        name, scale, q, path = "spins", 1.0, 0, Path("lattices")
        arrays, known = {name: source}, dict(attrs)
        if source.dtype != np.int8 or source.ndim - 1 not in AXES or 0 in source.shape:
            return None
        dimension = source.ndim - 1
    elif not hasattr(source, "data_vars"):
        return None
    else:
        from skild_phys.store.dataset import as_stored

        path = Path("dataset")
        arrays, known = _ndarrays(source), as_stored({**source.attrs, **attrs})
        names = [name for name in arrays if name in FIELDS]
        if len(names) != 1 or len(arrays) != len(source.variables):
            return None
        name, variable = names[0], source.variables[names[0]]
        axes = usual_axes(name, variable.ndim)
        if variable.dims != axes or 0 in variable.shape:
            return None
        dimension = sum(axis in AXES[3] for axis in axes)
        scale = float(variable.encoding.get("scale_factor") or 1.0)
        flags = variable.attrs.get("flag_values", ())
        q = len(flags) if name == "states" else variable.shape[1] if name == "state_count" else 0
        if FIELDS[name].scaled:
            if scale == 1.0 or arrays[name].dtype.kind != "f":
                return None
            whole = np.rint(arrays[name] / scale)
            if not np.array_equal(whole * scale, arrays[name]):
                return None
            arrays[name] = whole.astype(np.int16)
    values = arrays[name]
    scalars = tuple(one for one in arrays if one != name)
    shape = values.shape[-dimension:]
    chunk = max(1, _CHUNK_SITES // values[0].size)
    try:
        layout = Layout(
            field=name, shape=shape, chunk=chunk, scale=scale, variables=scalars, q=q,
            channels=values.shape[1] if name == "image" else 0,
        )  # fmt: skip
    except BadInput:
        return None
    strange = any(arrays[one].dtype != dtype for one, dtype in layout.dtypes.items())
    if strange or any(layout.fault(one, values) for one, values in arrays.items()):
        return None
    if known.get("L", sides(shape)) != sides(shape) or not is_temperature(known.get("temperature")):
        return None
    if not repeats and "parent" not in arrays and _may_repeat(values):
        return None
    return MemoryLattices(layout, arrays, known, path)


_CHUNK_SITES = 2**22


def _ndarrays(data: xr.Dataset) -> dict[str, NDArray[Any]]:
    """Return the variables that are in memory, and along samples, by name."""
    return {
        str(name): variable.values
        for name, variable in data.variables.items()
        if isinstance(variable._data, np.ndarray) and variable.dims[:1] == ("sample",)
    }


def _may_repeat(values: NDArray[Any]) -> bool:
    """Return whether two samples have the same fingerprint."""
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    words = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows.astype(np.uint64)
    weights = np.random.default_rng(1).integers(2**63, size=words.shape[1], dtype=np.uint64)
    return len(np.unique((words * (2 * weights + 1)).sum(axis=1))) < len(values)
