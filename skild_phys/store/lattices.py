"""Samples of any origin, opened for reading, and samples in memory."""

from __future__ import annotations

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.fields import FIELDS
from skild_phys.files import AnyPath
from skild_phys.models import Model, find_model, get_model
from skild_phys.store.layout import (
    AXES,
    Layout,
    Plan,
    as_stored,
    as_text,
    kind_of,
    readable,
    sides,
    usual_axes,
)

if TYPE_CHECKING:
    import xarray as xr

_T = TypeVar("_T")

CHUNK_SITES = 2**22
"""Sites that are read at once where no file says how many."""


class Lattices(ABC):
    """Samples of one field, open for reading; what every command and function takes.

    Attributes
    ----------
    path : where they lie; of samples in memory only what messages call them.
    attrs : what is known of them (model, temperature, rule, seed, ...).
    layout : what a site holds and how samples are kept.
    field, shape, chunk, scale, q, channels, variables : as in `Layout`.
    n_samples : samples that are complete.
    in_file : whether a file says how many samples a chunk has.
    """

    in_file = True

    def __init__(self, path: Path, attrs: dict[str, Any], layout: Layout, n_samples: int) -> None:
        self.path, self.attrs, self.layout, self.n_samples = path, attrs, layout, n_samples
        self.field, self.shape, self.chunk = layout.field, layout.shape, layout.chunk
        self.scale, self.q, self.channels = layout.scale, layout.q, layout.channels
        self.variables = layout.variables

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored numbers of samples start..stop-1, (.., *layout.sample_shape)."""

    @abstractmethod
    def _scalar(self, name: str) -> NDArray[Any]: ...

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 that names the samples."""

    def variable(self, name: str) -> NDArray[Any]:
        """Return the scalar `name` of every sample, (n_samples,); raises StoreError."""
        if name not in self.variables:
            raise StoreError(f"{self.path}: has no variable '{name}'")
        return self._scalar(name)

    def batches(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) over all samples, in whole chunks: about `size` samples at once."""
        step = self.chunk * max(1, (size or self.chunk) // self.chunk)
        for start in range(0, self.n_samples, step):
            yield start, min(start + step, self.n_samples)

    def model(self) -> Model | None:
        """Return the model that the attribute `model` names; None if it names none of `MODELS`.

        Raises StoreError if the samples cannot be that model's, for their dimension or states.
        """
        model = find_model(self.attrs)
        if model and (len(self.shape), self.q) != (model.dimension, model.q):
            states = f" of {self.q} states" if self.q else ""
            raise StoreError(
                f"{self.path}: variable '{self.field}': {len(self.shape)}D{states}, which "
                f"{model.name} is not"
            )
        return model


Source: TypeAlias = Union[Lattices, "xr.Dataset", "xr.DataArray", NDArray[Any], AnyPath]


class MemoryLattices(Lattices):
    """Samples in memory as a store would keep them, checked where they came in.

    `arrays` are the field and every scalar of the layout, by name; they are not copied.
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

        variables = {}
        for name, array in self.layout.arrays.items():
            values, about, encoding = self._arrays[name], copy.deepcopy(array.attributes), {}
            if scale := about.pop("scale_factor", None):
                encoding = {"scale_factor": scale, "dtype": values.dtype}
                values = values * scale
            variables[name] = xr.Variable(array.axes, values, about, encoding, fastpath=True)
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
        self._commits: list[Mapping[str, NDArray[Any]]] = []

    def settle(self, attrs: Mapping[str, Any]) -> None:
        self.attributes |= readable(attrs)

    def keep(self, arrays: Mapping[str, NDArray[Any]]) -> None: ...

    def commit(
        self,
        arrays: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]] | None = None,
        *,
        written: int | None = None,
    ) -> None:
        kept = {name: np.asarray(arrays[name], a.dtype) for name, a in self._plan.arrays.items()}
        self._commits.append(kept)
        self.committed += len(arrays[self._plan.field])

    def lattices(self) -> MemoryLattices:
        """Return what was committed."""
        arrays = {}
        for name in self._plan.arrays:
            parts = [commit[name] for commit in self._commits]
            arrays[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return MemoryLattices(self._plan, arrays, self.attributes)


def open_lattices(
    source: Source, field: str | None = None, *, repeats: bool = False, **attrs: Any
) -> Lattices:
    """Open samples of any origin; what every command and function takes.

    Parameters
    ----------
    source : the path of a store, of a `.npy` file, or of a Zarr array or group of any make; a
        Dataset, a DataArray or an array, (n, Ly, Lx) or (n, Lz, Ly, Lx).
    field : what numbers of any other name are, `spins` or `field`; None to see.
    repeats : whether samples that are copies of others stay, as inputs of a refinement do; else
        each counts once, and an InputWarning says so.
    attrs : what is known of samples that are no store: `model`, `temperature` (a number, or a
        text as --T takes it).

    Raises
    ------
    StoreError, BadInput : what holds no samples, or is damaged; `attrs` for a store, which has
    its own.
    """
    if isinstance(source, str | os.PathLike):
        from skild_phys.store.reader import is_store, open_store

        source = open_store(source) if is_store(source) else source
    if isinstance(source, Lattices):
        if attrs:
            raise BadInput(next(iter(attrs)), str(source.path), "nothing: a store has its own")
        return source
    if unknown := set(attrs) - {"model", "temperature"}:
        raise BadInput(min(unknown), attrs[min(unknown)], "model and temperature only")
    if "model" in attrs:
        get_model(str(attrs["model"]))
    if field != "field" and (found := _as_kept(source, repeats, attrs)):
        return found
    from skild_phys.store.foreign import open_foreign

    return open_foreign(source, field, attrs).settled(repeats)


def own_store(data: _T) -> _T | str:
    """Return the path of the store that a Dataset was opened from, if it is still as that is."""
    source = getattr(data, "encoding", {}).get("source")
    if not source or not hasattr(data, "data_vars"):
        return data
    from skild_phys.store.reader import is_store, open_store

    if not is_store(source):
        return data
    dataset: Any = data
    store, opened = open_store(source), open_lattices(dataset, repeats=True)
    same = (store.n_samples, store.shape) == (opened.n_samples, opened.shape)
    same = same and as_text(as_stored(store.attrs)) == as_text(opened.attrs)
    same = same and store.variables == opened.variables
    if not same or any((store.variable(v) != opened.variable(v)).any() for v in store.variables):
        return data
    parts = store.batches()
    return str(source) if all((store.read(*p) == opened.read(*p)).all() for p in parts) else data


def _as_kept(source: Any, repeats: bool, attrs: Mapping[str, Any]) -> MemoryLattices | None:
    """Return samples that lie in memory just as a store has them; None for all else.

    An array (n, [z,] y, x) int8 of spins, or a Dataset as `MemoryLattices.dataset` makes it. All
    values are looked at, and only means of blocks copied. None also where a sample may be a copy of
    another, unless they may have `repeats`.
    """
    known, flags, scale = as_stored(attrs), (), 1.0
    if isinstance(source, np.ndarray):
        name, arrays, path = "spins", {"spins": source}, Path("lattices")
        axes = usual_axes(name, source.ndim)
    elif not hasattr(source, "data_vars"):
        return None
    else:
        known, path = as_stored({**source.attrs, **attrs}), Path("dataset")
        arrays = {
            str(name): variable.values
            for name, variable in source.variables.items()
            if isinstance(variable._data, np.ndarray) and variable.dims[:1] == ("sample",)
        }
        names = [name for name in arrays if name in FIELDS]
        if len(names) != 1 or len(arrays) != len(source.variables):
            return None
        name, variable = names[0], source.variables[names[0]]
        flags, axes = variable.attrs.get("flag_values", ()), variable.dims
        scale = float(variable.encoding.get("scale_factor") or 1.0)
        if FIELDS[name].scaled:
            if scale == 1.0 or variable.dtype.kind != "f":
                return None
            whole = np.rint(arrays[name] / scale)
            if not np.array_equal(whole * scale, arrays[name]):
                return None
            arrays[name] = whole.astype(np.int16)
    values = arrays[name]
    d = sum(axis in AXES[3] for axis in axes)
    if axes != usual_axes(name, values.ndim) or d not in AXES or 0 in values.shape:
        return None
    try:
        layout = Layout.of(
            name, values.shape[-d:], values.shape[1] if values.ndim > d + 1 else 0, scale=scale,
            chunk=max(1, CHUNK_SITES // values[0].size), q=len(flags) if name == "states" else 0,
            variables=tuple(one for one in arrays if one != name),
        )  # fmt: skip
    except BadInput:
        return None
    for one, array in layout.arrays.items():
        if arrays[one].dtype != array.dtype or layout.fault(one, arrays[one]):
            return None
    stated = known.get("L", sides(layout.shape))
    if stated != sides(layout.shape) or kind_of("temperature", known.get("temperature")):
        return None
    if not repeats and "parent" not in arrays and _may_repeat(values):
        return None
    return MemoryLattices(layout, arrays, known, path)


def _may_repeat(values: NDArray[Any]) -> bool:
    """Return whether two samples have the same fingerprint."""
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    words = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows.astype(np.uint64)
    weights = np.random.default_rng(1).integers(2**63, size=words.shape[1], dtype=np.uint64)
    return len(np.unique((words * (2 * weights + 1)).sum(axis=1))) < len(values)
