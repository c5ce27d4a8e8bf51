"""Files that others wrote, `.npy` and Zarr, as Datasets that read them as they are asked for."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from skild_phys.errors import StoreError
from skild_phys.fields import FIELDS
from skild_phys.files import check_there
from skild_phys.store.chunks import zarr_folder
from skild_phys.store.schema import usual_axes

_ZARR = ("zarr.json", ".zarray", ".zgroup")
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


def read_file(path: Path) -> xr.Dataset:
    """Return what a `.npy` file, a Zarr array or a Zarr group holds, by names of variables.

    Axes have the names that the file gives them; where it gives none, arrays are (sample, [z,]
    y, x). Numbers are as they are on disk, with CF's attributes beside them. Raises StoreError
    for any other file, in a line that says how to convert it.
    """
    check_there(path)
    if path.is_dir():
        return _zarr(path)
    if not path.is_file():
        raise StoreError(f"{path}: neither a file nor a directory")
    try:
        with open(path, "rb") as file:
            first = file.read(512)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
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


def _folder(path: Path) -> str:
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


def _zarr(path: Path) -> xr.Dataset:
    if not any((path / name).is_file() for name in _ZARR):
        raise StoreError(f"{path}: {_folder(path)}")
    try:
        node = zarr.open(zarr_folder(path, read_only=True), mode="r")
        arrays = dict(sorted(node.arrays())) if isinstance(node, zarr.Group) else {"array": node}
        variables = {name: _variable(path, name, array) for name, array in arrays.items()}
        attrs = dict(node.attrs) if isinstance(node, zarr.Group) else {}
    except Exception as error:  # Zarr has dozens of errors for metadata that are not Zarr's
        raise StoreError(f"{path}: Zarr that cannot be read: {error}") from error
    field = variables[name := field_name(path, variables)]
    along = {n: v for n, v in variables.items() if v.sizes.items() < field.sizes.items()}
    return xr.Dataset({name: field, **along}, attrs=attrs)


def field_name(path: Path, variables: Mapping[Any, Any]) -> str:
    """Return the name of the variable that holds the lattices; raises StoreError."""
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
