"""Where lattices to be measured come from: a store, an xarray Dataset, or an array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.files import AnyPath
from skild_phys.lattice.models import MODELS, Model, get_model, parse_temperature
from skild_phys.store import LatticeStore, open_store
from skild_phys.store.dataset import check_whole
from skild_phys.store.schema import AXES

_SLICE_SITES = 2**20  # their transforms take 30 MiB, and Python next to no time


class Lattices(Protocol):
    """What is measured; `LatticeStore` is one, and says what the attributes mean."""

    path: Path
    attrs: dict[str, Any]
    field: str
    n_samples: int
    shape: tuple[int, ...]
    chunk: int
    scale: float
    q: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored numbers of samples start .. stop-1, checked."""

    def has(self, name: str) -> bool:
        """Return whether there is a scalar `name` of every sample."""

    def variable(self, name: str) -> NDArray[Any]:
        """Return the scalar `name` of every sample."""

    def model(self) -> Model | None:
        """Return the model of the lattices, None if it is not known."""


class DatasetLattices:
    """Lattices in an xarray Dataset, read as they are asked for.

    The field is the variable `spins`, `states`, `block_sum` or `field`, or the only one with a
    sample axis and two or three more. What is called `spins`, and integers of -1 and +1, are
    spins; `states` are Potts states; anything else is a real field. Attributes `model` and
    `temperature` of the Dataset give energies and theory their meaning; `chain` and `draw` give
    errors theirs.
    """

    scale = 1.0

    def __init__(self, data: xr.Dataset) -> None:
        self.data, self.path = data, Path(str(data.attrs.get("name", "dataset")))
        self.attrs = {str(k): v for k, v in data.attrs.items()}
        name = _field_of(data)
        self._values = data[name]
        if "sample" in self._values.dims:
            named = [axes for axes in AXES.values() if {"sample", *axes} == {*self._values.dims}]
            self._values = self._values.transpose("sample", *(named[0] if named else (...,)))
        if self._values.dtype.kind not in "iuf":
            raise BadInput(name, str(self._values.dtype), "integers or real numbers")
        self.n_samples, *shape = self._values.shape
        self.chunk = max(_SLICE_SITES // math.prod(shape), 1)
        self.shape = tuple(int(n) for n in shape)
        check_whole(name, self.attrs.get("L"), self.shape)
        kind = self._values.dtype.kind
        whole = kind in "iu" and name != "block_sum"
        self.field = name if name == "states" else "field"
        first = self._values[:1].values
        if name == "spins" or (whole and name != "states" and np.isin(first, (-1, 1)).all()):
            self.field = "spins"
        self.q = 0
        if self.field == "states":
            flags = self._values.attrs.get("flag_values")
            model = MODELS.get(str(self.attrs.get("model")))
            if flags is None and model is None:
                raise BadInput("states", name, "an attribute flag_values, or model of the Dataset")
            self.q = len(flags) if flags is not None else len(model.values) if model else 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        values = self._values[start:stop].values
        if self.field == "field":
            found = np.ascontiguousarray(values, dtype=np.float64)
            good = bool(np.isfinite(found).all())
        else:
            allowed = range(self.q) if self.q else (-1, 1)
            good = bool(np.isin(values, list(allowed)).all())
            found = np.ascontiguousarray(values, dtype=np.int8) if good else values
        if not good:
            what = {"spins": "spins other than -1 and +1", "field": "NaN or infinity"}
            fault = what.get(self.field, f"a state outside 0 .. {self.q - 1}")
            raise BadInput(str(self._values.name), f"samples {start} .. {stop - 1}", f"no {fault}")
        return found

    def has(self, name: str) -> bool:
        return name in self.data and self.data[name].dims == self._values.dims[:1]

    def variable(self, name: str) -> NDArray[Any]:
        return np.asarray(self.data[name].values)

    def model(self) -> Model | None:
        model = MODELS.get(str(self.attrs.get("model")))
        if model is None or self.field == "field":
            return model
        q = len(model.values) if model.field == "states" else 0
        if (len(self.shape), self.q) != (model.dimension, q):
            size = "x".join(map(str, self.shape))
            what = f"states of {model.name}" if q else f"spins of {model.name}"
            raise BadInput(
                "model", model.name, f"lattices that are {what}, not {self.field} {size}"
            )
        return model


_FIELDS = ("spins", "states", "block_sum", "field")


def _field_of(data: xr.Dataset) -> str:
    if {"image", "state_count"} & set(data.data_vars):
        raise BadInput("dataset", "images or counts", "spins, states, block sums or a field")
    named = [name for name in _FIELDS if name in data]
    fields = named or [str(n) for n in data.data_vars if data[n].ndim in (3, 4)]
    if len(fields) != 1 or data[fields[0]].ndim not in (3, 4) or 0 in data[fields[0]].shape:
        found = ", ".join(fields) or "none"
        raise BadInput("dataset", found, "one variable (sample, y, x) or (sample, z, y, x)")
    return fields[0]


Source = LatticeStore | xr.Dataset | xr.DataArray | NDArray[Any] | AnyPath


def as_lattices(source: Source, **attrs: Any) -> Lattices:
    """Return the lattices of a store, its path, an xarray object or an array.

    Parameters
    ----------
    source : arrays are (n, Ly, Lx) or (n, Lz, Ly, Lx).
    attrs : what is known of a Dataset or an array: `model`, `temperature` (a
        number, or a text as --T takes it), ...

    Raises
    ------
    StoreError : a path that is no store.
    BadInput : a Dataset without one field, `attrs` for a store, which has its own.
    """
    if isinstance(source, str | Path):
        source = open_store(source)
    if isinstance(source, LatticeStore):
        if attrs:
            raise BadInput(next(iter(attrs)), str(source.path), "nothing: a store has its own")
        return source
    if unknown := set(attrs) - {"model", "temperature"}:
        raise BadInput(min(unknown), attrs[min(unknown)], "model and temperature only")
    if isinstance(source, xr.DataArray):
        source = source.to_dataset(name=source.name or "field")
    if not isinstance(source, xr.Dataset):
        values = np.asarray(source)
        if values.ndim not in (3, 4):
            raise BadInput("array", str(values.shape), "(n, Ly, Lx) or (n, Lz, Ly, Lx)")
        axes = ("sample", "z", "y", "x")
        known = MODELS.get(str(attrs.get("model")))
        name = known.field if known is not None and "factor" not in attrs else "lattice"
        source = xr.Dataset({name: (axes[:1] + axes[5 - values.ndim :], values)})
    about = {**source.attrs, **attrs}
    if "model" in attrs:
        get_model(str(attrs["model"]))
    if "temperature" in about:
        about["temperature"] = _temperature(about)
    return DatasetLattices(source.assign_attrs(about))


def _temperature(attrs: dict[str, Any]) -> float:
    """Return the temperature of a Dataset or an array as a number; raises BadInput."""
    text, model = str(attrs["temperature"]), MODELS.get(str(attrs.get("model")))
    if model is None and "c" in text:
        raise BadInput("temperature", text, "a number, or a known model beside it")
    return parse_temperature(text, model or MODELS["ising2d"])


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
