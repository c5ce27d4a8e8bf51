"""Samples that are no store of this program: what they are follows from names, CF and values."""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import os
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.storage import LocalStore

from skild_phys.errors import BadInput, StoreError, check_whole, warn
from skild_phys.fields import FIELDS
from skild_phys.files import AnyPath, check_there, reading
from skild_phys.models import MODELS, find_model, parse_temperature
from skild_phys.rules import get_rule
from skild_phys.store.identity import copied, whole_numbers
from skild_phys.store.lattices import CHUNK_SITES, Lattices
from skild_phys.store.layout import AXES, Layout, as_stored, kind_of, sides, usual_axes

_IN_MEMORY = 2**28  # bytes of a file that are kept once they are read
_FROM_BITS = " (from 0 and 1: 2*s.astype('i1')-1)"  # 2*s-1 of uint8 has 255 in place of -1


def open_foreign(
    source: xr.Dataset | xr.DataArray | NDArray[Any] | AnyPath,
    field: str | None,
    attrs: Mapping[str, Any],
) -> _Foreign:
    """Open what is no store, as `open_lattices` does."""
    known = find_model(attrs)
    name, path = "array" if known is None else known.field, Path("dataset")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        source = _read_file(path)
    elif isinstance(source, xr.DataArray):
        source = source.to_dataset(name=source.name or name)
    elif not isinstance(source, xr.Dataset):
        path, values = Path("lattices"), np.asanyarray(source)
        source = xr.Dataset({name: (usual_axes(name, values.ndim), values)})
    return _Foreign(source.assign_attrs(attrs), path, field)


class _Foreign(Lattices):
    """Samples of a Dataset, in memory or of a file, read as they are asked for.

    The field is the variable that is named as in a store (`FIELDS`), or else the only one with
    samples and two or three axes of sites; then integers -1 and +1 are spins, as are real
    numbers that are all -1 and +1, and all else is a real field. `scale_factor`, `add_offset`
    and `_FillValue` mean what CF says. `field` is as in `open_lattices`.

    Raises StoreError, BadInput for no field or several, axes that are not those of samples and
    sites, numbers or attributes that cannot be used. Missing values are refused when they are read.
    """

    def __init__(self, data: xr.Dataset, path: Path, field: str | None = None) -> None:
        self.path, self.attrs = path, as_stored(data.attrs)
        name = self._name = _field_name(path, data.data_vars)
        self._data, self._values = data, _decoded(path, name, data[name].variable)
        self._pieces: dict[tuple[int, int], NDArray[Any]] = {}
        self._dims, kind = _ordered(path, data[name]), self._values.dtype.kind
        if kind not in "iuf":
            wanted = f"-1 and +1{_FROM_BITS}" if kind == "b" else "integers or real numbers"
            raise StoreError(f"{path}: variable '{name}' is {self._values.dtype}, not {wanted}")
        sample = self._dims[0]
        samples, *shape = self._shape = tuple(int(self._values.sizes[dim]) for dim in self._dims)
        plane = shape.pop(0) if _plane(name, self._dims) else 0
        stated = self.attrs.get("L")
        if stated is not None and np.any(np.asarray(stated) != np.asarray(sides(shape))):
            what = f"lattices of {'x'.join(map(str, shape))}"
            accepted = f"L = {stated}, as the attributes say: a part is no torus"
            raise BadInput(f"{path}: {name}", what, f"{accepted} (without L it is one)")
        self._check_temperature()
        chunks = self._values.encoding.get("chunks", ())
        self.in_file = len(chunks) == self._values.ndim
        self._step = max(1, CHUNK_SITES // int(np.prod(self._shape[1:])))
        if self.in_file:
            self._step = int(chunks[self._values.dims.index(sample)])
        scale = self._scale(len(shape)) if name in FIELDS and FIELDS[name].scaled else 1.0
        if name == "block_sum" and not scale:
            name = "field"  # means of blocks of unknown size
        name = (name if name in FIELDS else field) or self._seen()
        own = name == "field" and "schema_version" in data.attrs  # a store of this program
        layout = Layout.of(
            name, shape, plane, chunk=self._step, scale=scale or 1.0,
            q=self._states() if name == "states" else 0,
            dtype="float64" if own and self._values.dtype == np.float64 else "",
            variables=tuple(
                str(k)
                for k, v in data.variables.items()
                if v.dims == (sample,) and k != sample and v.dtype.kind in "iuf"
            ),
        )  # fmt: skip
        super().__init__(path, self.attrs, layout, samples)

    def _check_temperature(self) -> None:
        known, model = self.attrs.get("temperature"), find_model(self.attrs)
        if isinstance(known, str) and (model is not None or "c" not in known):
            with contextlib.suppress(BadInput):
                known = parse_temperature(known, model or MODELS["ising2d"])
        if kind_of("temperature", known):
            accepted = "a positive number (or Tc, beside a known model)"
            raise BadInput(f"{self.path}: attribute temperature", known, accepted)
        if known is not None:
            self.attrs["temperature"] = known

    def _scale(self, dimension: int) -> float:
        """Return what a stored 1 is worth, 1 over the sites of a block; 0 if unknown."""
        scale = self._values.encoding.get("scale_factor")
        if scale is None and {"rule", "factor"} <= set(self.attrs):
            factor = check_whole("factor", self.attrs["factor"], 2)
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
        """Return whether numbers under any other name are spins or a real field."""
        found = "field"
        for start in range(0, self._shape[0], self._step):
            values = self._slice(start, start + self._step)
            if np.isin(values, (-1, 1)).all():
                found = "spins"
                if values.dtype.kind != "f":  # real numbers may be others further on, as means are
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
        real, limits = values.dtype.kind == "f", np.iinfo(kind)
        whole = np.rint(values / self.scale) if real else values
        off = np.abs(whole * self.scale - values) > (1e-6 if self.scale != 1.0 else 0.0)
        wrong = off | (whole < limits.min) | (whole > limits.max)
        fault = self.layout.fault(self.field, whole.clip(limits.min, limits.max).astype(kind))
        if wrong.any() or fault:
            if self.field == "spins":
                hint = " (block means are called 'block_sum')" if real else _FROM_BITS
                fault = f"{values[~np.isin(values, (-1, 1))][0]}, not -1 and +1{hint}"
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

    def settled(self, repeats: bool = False) -> _Foreign:
        """Return the same without scalars that some samples lack and, unless `repeats`, copies.

        An InputWarning says what is left out.
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
        return _Foreign(kept, self.path, self.field)

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


def _field_name(path: Path, variables: Mapping[Any, Any]) -> str:
    """Return the name of the variable that holds the samples; raises StoreError."""
    large = [str(name) for name, value in variables.items() if value.ndim > 2]
    found = [n for n in large if n in FIELDS] or [n for n in large if variables[n].ndim < 5]
    if len(found) > 1:
        choose = f"{path}/{found[0]}" if path.exists() else f"data[['{found[0]}']]"
        raise StoreError(f"{path}: holds several arrays ({', '.join(found)}): choose {choose}")
    if not found:
        held = ", ".join(f"{n} {v.shape}" for n, v in variables.items()) or "no array"
        flat = any(value.ndim == 2 for value in variables.values())
        hint = "; a single configuration is x[None], (1, y, x)" if flat else ""
        raise StoreError(f"{path}: holds {held}; expected one array (sample, [z,] y, x){hint}")
    if 0 in (shape := variables[found[0]].shape):
        raise StoreError(f"{path}: variable '{found[0]}': a sample or more expected, not {shape}")
    return found[0]


# -- files that others wrote ------------------------------------------------------------------

_SAVE = "skild_phys.save(x, 'NAME.zarr')"
_GREY = "numpy.asarray(PIL.Image.open({}).convert('L'))"
_FORMATS = {
    b"\x89HDF\r\n\x1a\n": ("HDF5 (or NetCDF 4)", "x = xarray.open_dataset('{}'), or h5py's array"),
    b"CDF": ("NetCDF", "x = xarray.open_dataset('{}')"),
    b"\x89PNG\r\n\x1a\n": ("PNG", "x = 2 * (" + _GREY.format("'{}'") + "[None] > 127) - 1"),
    b"MATLAB 5": ("MATLAB", "x = scipy.io.loadmat('{}')['ITS NAME']"),
    b"\x80": ("a pickle", "x = the array in it, if it is of someone you trust"),
}
"""First bytes of a format: its name, and the line of Python that reads it."""


def _read_file(path: Path) -> xr.Dataset:
    """Return what a `.npy` file, a Zarr array or a Zarr group holds, by names of variables.

    Axes have the names that the file gives them; where it gives none, arrays are (sample, [z,]
    y, x). Numbers are as they are on disk, with CF's attributes beside them. Raises StoreError
    for any other file, in a line that says how to convert it.
    """
    check_there(path)
    if path.is_dir():
        return _read_zarr(path)
    if not path.is_file():
        raise StoreError(f"{path}: neither a file nor a directory")
    with reading(f"{path}:", f"{path}: is gone"), open(path, "rb") as file:
        first = file.read(512)
    if not first.startswith(b"\x93NUMPY"):
        raise StoreError(f"{path}: {_what(path, first)}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:  # what NumPy documents for what it cannot read
        fault = "holds Python objects" if "object" in str(error) else f"damaged .npy: {error}"
        raise StoreError(f"{path}: {fault}") from None
    return xr.Dataset({"array": (usual_axes("array", array.ndim), array)})


def _what(path: Path, first: bytes) -> str:
    """Return what a file is that is not read, and how to convert it."""
    say = f"is not read; in Python: {{}}; {_SAVE}".format
    for magic, (name, how) in _FORMATS.items():
        if first.startswith(magic):
            return f"{name} {say(how.format(path.name))}"
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        arrays = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
        if arrays:
            return f".npz {say(f'''x = numpy.load('{path.name}')['{arrays[0]}']''')}"
        return "a ZIP archive, which is not read: unpack it"
    if first and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in first):
        return f"text {say(f'''x = numpy.loadtxt('{path.name}').reshape(-1, Ly, Lx)''')}"
    return "neither .npy nor Zarr"


def _what_folder(path: Path) -> str:
    """Return what a directory is that is no Zarr."""
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    for name in names:
        kind = name.rpartition(".")[2].lower()
        if kind in ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "gif"):
            each = f"[{_GREY.format('f')} for f in sorted(pathlib.Path('{path.name}').iterdir())]"
            how = f"x = 2 * (numpy.stack({each}) > 127) - 1"
            return f"a folder of {kind.upper()} is not read; in Python, for spins: {how}; {_SAVE}"
        if kind in ("npy", "npz", "h5", "nc", "txt", "dat", "csv"):
            return f"not a store: a folder with files such as {name}; name one of them"
    return "not a store: zarr.json is missing"


def _read_zarr(path: Path) -> xr.Dataset:
    if not any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
        raise StoreError(f"{path}: {_what_folder(path)}")
    try:
        node: Any = zarr.open(LocalStore(path, read_only=True), mode="r")
        arrays, attrs = {"array": node}, {}
        if isinstance(node, zarr.Group):
            arrays, attrs = dict(sorted(node.arrays())), dict(node.attrs)
        variables = {name: _variable(path, name, array) for name, array in arrays.items()}
    except Exception as error:  # Zarr has dozens of errors for metadata that are not Zarr's
        raise StoreError(f"{path}: Zarr that cannot be read: {error}") from error
    field = variables[name := _field_name(path, variables)]
    along = {n: v for n, v in variables.items() if v.sizes.items() < field.sizes.items()}
    return xr.Dataset({name: field, **along}, attrs=attrs)


def _variable(path: Path, name: str, array: Any) -> xr.Variable:
    """Return an array with the names of its axes and its attributes, `_FillValue` among them."""
    attrs = dict(array.attrs)
    named = attrs.pop("_ARRAY_DIMENSIONS", None) or getattr(array.metadata, "dimension_names", None)
    usual = usual_axes(name, array.ndim)
    axes = [own or other for own, other in zip(named or usual, usual, strict=True)]
    if array.metadata.zarr_format == 2 and named and array.fill_value is not None:
        attrs.setdefault("_FillValue", array.fill_value)  # as xarray writes it there
    if isinstance(fill := attrs.get("_FillValue"), str):
        try:  # and in Zarr 3, of floating-point numbers
            attrs["_FillValue"] = struct.unpack("<d", base64.b64decode(fill, validate=True))[0]
        except (binascii.Error, struct.error):
            del attrs["_FillValue"]
    data = indexing.LazilyIndexedArray(_Rows(path, array))
    return xr.Variable(axes, data, attrs, {"chunks": array.chunks})


class _Rows(BackendArray):
    """A Zarr array that xarray reads piece by piece."""

    def __init__(self, path: Path, array: Any) -> None:
        self.path, self.array = path, array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> Any:
        outer = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._read)

    def _read(self, key: Any) -> NDArray[Any]:
        try:
            return np.asarray(self.array[key])
        except Exception as error:  # each codec fails in its own way on damaged bytes
            name = self.array.name or "array"
            raise StoreError(f"{self.path}: {name} is damaged: {error}") from None
