"""Samples that are no store of this program: names, CF and values say what they are."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError, warn
from skild_phys.fields import FIELDS
from skild_phys.models import MODELS, find_model, parse_temperature
from skild_phys.rules import check_factor, get_rule
from skild_phys.store.dataset import as_stored
from skild_phys.store.formats import field_name
from skild_phys.store.identity import copied, whole_numbers
from skild_phys.store.reader import Lattices
from skild_phys.store.schema import AXES, Layout, is_temperature, plane_length, sides

_CHUNK_SITES = 2**22
_IN_MEMORY = 2**28  # bytes of a file that are kept once they are read
_FROM_BITS = " (from 0 and 1: 2*s.astype('i1')-1)"  # 2*s-1 of uint8 has 255 in place of -1


class ForeignLattices(Lattices):
    """Samples of a Dataset, in memory or of a file, read as they are asked for.

    The field is the variable that is named as in a store (`FIELDS`), or else the only one with
    samples and two or three axes of sites; then integers -1 and +1 are spins, as are real
    numbers that are all -1 and +1, and all else is a real field. `scale_factor`, `add_offset`
    and `_FillValue` mean what CF says.

    Parameters
    ----------
    data : with attributes as those of a store.
    path : named in messages.
    field : what numbers are whose name does not say it, `spins` or `field`; None to see.

    Raises
    ------
    StoreError, BadInput : no field or several, axes that are not those of samples and sites,
        numbers or attributes that cannot be used. Missing values are refused when they are read.
    """

    def __init__(self, data: xr.Dataset, path: Path, field: str | None = None) -> None:
        self.path, self.attrs = path, as_stored(data.attrs)
        name = self._name = field_name(path, data.data_vars)
        self._data, self._values = data, _decoded(path, name, data[name].variable)
        self._pieces: dict[tuple[int, int], NDArray[Any]] = {}
        self._dims, kind = _ordered(path, data[name]), self._values.dtype.kind
        if kind not in "iuf":
            wanted = f"-1 and +1{_FROM_BITS}" if kind == "b" else "integers or real numbers"
            raise StoreError(f"{path}: variable '{name}' is {self._values.dtype}, not {wanted}")
        sample = self._dims[0]
        self._shape = tuple(int(self._values.sizes[dim]) for dim in self._dims)
        samples, *shape = self._shape
        plane = shape.pop(0) if _plane(name, self._dims) else 0
        _check_sides(f"{path}: {name}", self.attrs.get("L"), shape)
        self._check_temperature()
        chunks = self._values.encoding.get("chunks", ())
        self.in_file = len(chunks) == self._values.ndim
        self._step = max(1, _CHUNK_SITES // int(np.prod(self._shape[1:])))
        if self.in_file:
            self._step = int(chunks[self._values.dims.index(sample)])
        scale = self._scale(len(shape)) if name in FIELDS and FIELDS[name].scaled else 1.0
        if name == "block_sum" and not scale:
            name = "field"  # means of blocks that nothing tells the size of
        name = (name if name in FIELDS else field) or self._seen()
        own = name == "field" and "schema_version" in data.attrs  # a store of this program
        layout = Layout(
            field=name,
            shape=tuple(shape),
            chunk=self._step,
            scale=scale or 1.0,
            variables=tuple(
                str(k)
                for k, v in data.variables.items()
                if v.dims == (sample,) and k != sample and v.dtype.kind in "iuf"
            ),
            dtype="float64" if own and self._values.dtype == np.float64 else "",
            **({"q": self._states()} if name == "states" else plane_length(name, plane)),
        )
        super().__init__(path, self.attrs, layout, samples)

    def _check_temperature(self) -> None:
        known, model = self.attrs.get("temperature"), find_model(self.attrs)
        if isinstance(known, str) and (model is not None or "c" not in known):
            with contextlib.suppress(BadInput):
                known = parse_temperature(known, model or MODELS["ising2d"])
        if not is_temperature(known):
            accepted = "a positive number (or Tc, beside a known model)"
            raise BadInput(f"{self.path}: attribute temperature", known, accepted)
        if known is not None:
            self.attrs["temperature"] = known

    def _scale(self, dimension: int) -> float:
        """Return what a stored 1 is worth, 1 over the sites of a block; 0 if nothing tells it."""
        scale = self._values.encoding.get("scale_factor")
        if scale is None and {"rule", "factor"} <= set(self.attrs):
            factor = check_factor(self.attrs["factor"])
            scale = get_rule(self.attrs["rule"]).scale("spins", factor, dimension)
        if scale is None and self._name == "state_count":
            raise BadInput(f"{self.path}: state_count", "no rule and factor", "them as attributes")
        if scale is not None and not 0 < scale <= 1:
            raise BadInput(f"{self.path}: scale_factor", scale, "1 over the sites of a block")
        return float(scale or 0.0)

    def _states(self) -> int:
        flags = self._values.attrs.get("flag_values")
        model = find_model(self.attrs)
        if flags is None and (model is None or model.field != "states"):
            accepted = "an attribute flag_values, or a model of such states"
            raise BadInput(f"{self.path}: states", "of unknown number", accepted)
        return len(flags) if flags is not None else len(model.values) if model else 0

    def _seen(self) -> str:
        """Return whether numbers whose name does not say it are spins or a real field."""
        found = "field"
        for start in range(0, self._shape[0], self._step):
            values = self._slice(start, start + self._step)
            if np.isin(values, (-1, 1)).all():
                found = "spins"
                if values.dtype.kind != "f":  # real numbers may go on to be others, as means do
                    break
                continue
            two = (values.min(), values.max())
            if two[0] >= 0 and two[1] > two[0] and np.isin(values, two).all():
                raise StoreError(
                    f"{self.path}: holds {two[0]:g} and {two[1]:g}; spins are -1 and +1"
                    f"{_FROM_BITS}, and a field of two values is called 'field' in a Dataset"
                )
            if two[1] != 0 or two[0] != 0:
                return "field"
        return found

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        """Return samples as they lie there; pieces of a file that fits in memory are read once."""
        if (start, stop) in self._pieces:
            return self._pieces[start, stop]
        part = self._values.isel({self._dims[0]: slice(start, stop)})
        found = np.asarray(part.transpose(*self._dims).values)
        if self._values.nbytes <= _IN_MEMORY:
            self._pieces[start, stop] = found
        return found

    def _numbers(self, start: int, stop: int) -> NDArray[Any]:
        """Return samples start..stop-1 as numbers of the file's own type, none of them missing."""
        values = self._slice(start, stop)
        if values.dtype.kind == "f" and not (good := np.isfinite(values)).all():
            fault = f"{(~good).sum()} missing values (NaN, infinity or _FillValue)"
            raise self._error(start, len(values), fault)
        return values

    def _error(self, start: int, count: int, fault: str) -> StoreError:
        where = f"samples {start}..{start + count - 1} hold {fault}"
        return StoreError(f"{self.path}: variable '{self._name}': {where}")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._checked(self._numbers(start, stop), start)

    def _checked(self, values: NDArray[Any], start: int) -> NDArray[Any]:
        if self.field == "field":
            return np.ascontiguousarray(values)
        kind = np.dtype(FIELDS[self.field].dtype)
        whole = np.rint(values / self.scale) if values.dtype.kind == "f" else values
        off = np.abs(whole * self.scale - values) > (1e-6 if self.scale != 1.0 else 0.0)
        limits = np.iinfo(kind)
        wrong = off | (whole < limits.min) | (whole > limits.max)
        fault = self.layout.fault(self.field, whole.clip(limits.min, limits.max).astype(kind))
        if wrong.any() or fault:
            if self.field == "spins":
                wrong = ~np.isin(values, (-1, 1))
                hint = (
                    " (block means are called 'block_sum')"
                    if values.dtype.kind == "f"
                    else _FROM_BITS
                )
                fault = f"{values[wrong][0]}, not -1 and +1{hint}"
            elif wrong.any():
                what = f"multiple of {self.scale:g}" if self.scale != 1 else f"number for {kind}"
                fault = f"{values[wrong][0]}, which is no {what}"
            raise self._error(start, len(values), str(fault))
        return np.ascontiguousarray(whole, dtype=kind)

    def _scalar(self, name: str) -> NDArray[Any]:
        return self._scalars[name]

    @functools.cached_property
    def _scalars(self) -> dict[str, NDArray[Any]]:
        """The scalars; those that count something are whole numbers, none of them missing."""
        found = {
            name: np.asarray(_decoded(self.path, name, self._data[name].variable).values)
            for name in self.variables
        }
        return found | whole_numbers(self.path, found)

    def settled(self, repeats: bool = False) -> ForeignLattices:
        """Return the same without scalars that some samples lack and, unless `repeats`, copies.

        What is left out is said in an InputWarning.
        """
        lacking = [k for k, v in self._scalars.items() if not np.isfinite(v).all()]
        again = np.zeros(self.n_samples, dtype=np.bool_) if repeats else copied(self)
        if lacking:
            names = ", ".join(f"'{name}'" for name in lacking)
            warn(f"{self.path}: not all samples have {names}: left out")
        if again.any():
            what = f"{again.sum()} of {len(again)} samples are copies of others"
            warn(f"{self.path}: {what}: each is counted once")
        if not lacking and not again.any():
            return self
        kept = self._data.drop_vars(lacking).isel({self._dims[0]: np.flatnonzero(~again)})
        return ForeignLattices(kept, self.path, self.field)

    def digest(self) -> str:
        """Return the SHA-256 of type, shape and numbers, all of which are read and checked."""
        total = hashlib.sha256(f"{self._values.dtype} {self._shape}".encode())
        for start, stop in self.batches():
            values = self._numbers(start, stop)
            self._checked(values, start)
            total.update(np.ascontiguousarray(values).tobytes())
        return total.hexdigest()


def _decoded(path: Path, name: str, values: xr.Variable) -> xr.Variable:
    """Return numbers as CF means them (scale_factor, add_offset, _FillValue), still to be read."""
    try:
        return xr.conventions.decode_cf_variable(name, values, decode_times=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: variable '{name}': {error}") from None


def _ordered(path: Path, values: xr.DataArray) -> tuple[Any, ...]:
    """Return the axes of a field in the order of stores: samples first, x last.

    The samples' axis is the only one beside [z,] y, x, whatever its name; beside `sample` axes of
    other names are sites in their order. Raises StoreError for anything else.
    """
    name, dims = str(values.name), values.dims
    if all(re.fullmatch(r"dim_\d+", str(dim)) for dim in dims):  # xarray's, where none are given
        return dims
    plane = tuple(filter(None, (_plane(name, dims),)))
    for axes in AXES.values():
        samples = [dim for dim in dims if dim not in (*plane, *axes)]
        if len(samples) == 1 and samples != ["z"] and len(dims) == 1 + len(plane) + len(axes):
            return (*samples, *plane, *axes)
    if "sample" in dims and not {*plane, "z", "y", "x"} & {*dims} and not plane:
        return ("sample", *(dim for dim in dims if dim != "sample"))
    accepted = " or ".join(str(("sample", *plane, *axes)) for axes in AXES.values())
    raise StoreError(f"{path}: variable '{name}': its axes are {dims}; name them {accepted}")


def _plane(name: str, dims: Sequence[Any]) -> str:
    """Return the name of the axis between samples and sites, "" if the field has none."""
    plane = FIELDS[name].plane if name in FIELDS else ""
    return plane if name != "field" or plane in dims else ""


def _check_sides(name: str, stated: object, shape: Sequence[int]) -> None:
    """Raise BadInput where lattices are not of the sides that the attribute L tells of."""
    if stated is not None and np.any(np.asarray(stated) != np.asarray(sides(shape))):
        accepted = f"L = {stated}, as the attributes say: a part is no torus (without L it is one)"
        raise BadInput(name, f"lattices of {'x'.join(map(str, shape))}", accepted)
