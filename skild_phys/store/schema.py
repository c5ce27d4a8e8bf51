"""What a store consists of: its variables, their metadata, and the root record."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import skild_phys.rules  # noqa: F401, which register what coarse sites hold
from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.fields import FIELDS
from skild_phys.files import AnyPath, check_there, parse_json, read_bytes, write_bytes_atomically

SCHEMA_VERSION = 1
APPEND_TOTAL = "append_total"
"""Samples that an append asked for, until its command has ended."""

VOLATILE = ("command", "versions", "append", APPEND_TOTAL, "warnings")
"""Attributes that say how a store came about, or what to mind; stored, but never compared."""

MANAGED = ("schema_version", "samples_planned", "samples_committed", "sha256")
ROOT = "zarr.json"
DIGESTS = "digests"
"""A node of the root alone, whose attributes are the digests of every array's chunks."""

AXES = {2: ("y", "x"), 3: ("z", "y", "x")}
"""Names of a lattice's axes, by its dimension."""

_SCALAR_CHUNK = 4096
_MOST_STATES = 127


SCALARS: dict[str, tuple[str, int | str, str, str]] = {
    "energy": ("float64", "NaN", "J", "energy per site"),
    "magnetization": ("float64", "NaN", "1", "magnetization per site"),
    "chain": ("int32", -1, "1", "Markov chain of the sample"),
    "draw": ("int64", -1, "1", "place of the sample in its chain"),
    "parent": ("int64", -1, "1", "index of the sample in the parent store"),
    "label": ("int32", -1, "1", "class of the image"),
    "split": ("int8", -1, "1", "0 for training, 1 for testing"),
}
"""Type, a value that no sample has, unit and long name of scalars; others are numbers of unit 1."""


def sides(shape: Sequence[int]) -> int | list[int]:
    """Return what the attribute `L` says of lattices of `shape`: their side, or sides (Ly, Lx)."""
    return int(shape[0]) if len({*shape}) == 1 else [int(side) for side in shape]


def usual_axes(name: str, ndim: int) -> tuple[str, ...]:
    """Return the names of a variable's axes where nothing else names them."""
    plane = (FIELDS[name].plane,) if name in FIELDS and FIELDS[name].plane else ()
    plane = plane if name != "field" else ()
    sites = AXES.get(ndim - 1 - len(plane), tuple(f"axis_{i}" for i in range(ndim - 1)))
    return ("sample", *plane, *sites)[:ndim]


# -- arrays -----------------------------------------------------------------------------------


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def array_metadata(
    dtype: str,
    shape: Sequence[int],
    chunk: Sequence[int],
    fill: int | str,
    dimensions: Sequence[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the `zarr.json` of an array: Blosc(zstd, 5, bitshuffle), then crc32c."""
    size = np.dtype(dtype).itemsize
    endian = {"configuration": {"endian": "little"}} if size > 1 else {}
    blosc = {
        "typesize": size, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0
    }  # fmt: skip
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [
            {"name": "bytes", **endian},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "attributes": dict(attributes),
        "dimension_names": list(dimensions),
    }


def plane_length(field: str, size: int) -> dict[str, int]:
    """Return what of a `Layout` is the length of the axis between samples and sites."""
    known = {"state_count": "q", "image": "channels", "field": "components"}
    return {known[field]: size} if size and field in known else {}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which arrays a store has, apart from how many samples.

    Attributes
    ----------
    field : what a site holds, one of `fields.FIELDS`.
    shape : (Ly, Lx) or (Lz, Ly, Lx) of the lattice.
    chunk : samples in a chunk, the least that is read at once.
    scale : physical value of a stored 1; of a scaled field 1 over the sites in a block.
    variables : names of the scalars that come with each sample (see `SCALARS`).
    q : number of states of `states` and `state_count`; 0 for the others.
    channels : of an `image`; 0 for the others.
    components : numbers per site of a `field`; an axis of its own from 2 on.
    dtype : of a `field`: float32 or float64. That of the others is their own.

    Raises BadInput for what no store can have.
    """

    field: str
    shape: tuple[int, ...]
    chunk: int
    scale: float = 1.0
    variables: tuple[str, ...] = ("energy", "magnetization")
    q: int = 0
    channels: int = 0
    components: int = 1
    dtype: str = ""

    def __post_init__(self) -> None:
        if self.field not in FIELDS:
            raise BadInput("field", self.field, " or ".join(FIELDS))
        kind, real = FIELDS[self.field], self.field == "field"
        if not self.dtype:
            object.__setattr__(self, "dtype", kind.dtype)
        for name, fits, accepted in (
            ("shape", len(self.shape) in AXES, "two sides or three"),
            ("scale", 2**-15 < self.scale <= 1 if kind.scaled else self.scale == 1,
             "1 over the sites in a block, at most 32767 of them"),
            ("q", 2 <= self.q <= _MOST_STATES if kind.of_states else self.q == 0,
             f"2 to {_MOST_STATES} states" if kind.of_states else f"0 for '{self.field}'"),
            ("channels", (self.channels > 0) == (self.field == "image"), "1 or more for images"),
            ("components", self.components == 1 or (real and self.components > 1), "1 or more"),
            ("dtype", self.dtype == kind.dtype or (real and self.dtype == "float64"), kind.dtype),
        ):  # fmt: skip
            if not fits:
                raise BadInput(name, getattr(self, name), accepted)
        for name, value in (("chunk", self.chunk), *(("shape", side) for side in self.shape)):
            check_whole(name, value)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of what is stored of one sample: (q, Ly, Lx) counts, (channels, Ly, Lx) images."""
        return (*self._planes, *self.shape)

    @property
    def _planes(self) -> tuple[int, ...]:
        if self.components > 1:
            return (self.components,)
        return {"state_count": (self.q,), "image": (self.channels,)}.get(self.field, ())

    def metadata(self, samples: int) -> dict[str, dict[str, Any]]:
        """Return the metadata of every array of a store that holds `samples`."""
        kind = FIELDS[self.field]
        attributes: dict[str, Any] = {"long_name": kind.long_name, "units": "1"}
        if self.field == "spins":
            attributes |= {"flag_values": [-1, 1], "flag_meanings": "down up"}
        if self.field == "states":
            states = list(range(self.q))
            attributes |= {"flag_values": states, "flag_meanings": " ".join(map(str, states))}
        if kind.scaled:
            attributes["scale_factor"] = self.scale
        arrays = {
            self.field: array_metadata(
                self.dtype,
                (samples, *self.sample_shape),
                (self.chunk, *self.sample_shape),
                kind.fill,
                ("sample", *((kind.plane,) if self._planes else ()), *AXES[len(self.shape)]),
                attributes,
            )
        }
        for name in self.variables:
            usual: tuple[str, int | str, str, str] = ("float64", "NaN", "1", name.replace("_", " "))
            dtype, fill, units, long_name = SCALARS.get(name, usual)
            described = {"long_name": long_name, "units": units}
            arrays[name] = array_metadata(
                dtype, (samples,), (_SCALAR_CHUNK,), fill, ("sample",), described
            )
        return arrays

    @property
    def dtypes(self) -> dict[str, str]:
        """The type of the numbers of every array."""
        return {name: node["data_type"] for name, node in self.metadata(0).items()}

    def check(self, path: Path, name: str, count: int, values: NDArray[Any]) -> None:
        """Raise unless `values` are `count` samples of variable `name` of the store `path`.

        ValueError for a wrong shape or type, StoreError for a value that is not allowed.
        """
        metadata = self.metadata(count)[name]
        shape, dtype = tuple(metadata["shape"]), metadata["data_type"]
        if values.shape != shape:
            raise ValueError(f"variable '{name}' has shape {values.shape}, expected {shape}")
        if not np.can_cast(values.dtype, dtype, "same_kind"):
            raise ValueError(f"variable '{name}' is {values.dtype}, expected {dtype}")
        if fault := self.fault(name, values):
            raise StoreError(f"{path}: variable '{name}': refused {fault}")

    def fault(self, name: str, values: NDArray[Any]) -> str | None:
        """Return what is wrong with values of a variable, if anything is."""
        if name == self.field:
            return FIELDS[name].fault(values, self.q, round(1.0 / self.scale))
        if values.dtype.kind == "f":
            return None if np.isfinite(values).all() else "NaN or infinity"
        return "a negative number" if (values < 0).any() else None

    @classmethod
    def of(cls, path: Path, nodes: Mapping[str, Any]) -> Layout:
        """Return the layout that the metadata of the store `path` describes; raises StoreError."""
        names = [name for name in nodes if name.split("/")[0] not in ("state", DIGESTS)]
        fields = [name for name in names if name in FIELDS]
        if len(fields) != 1:
            raise StoreError(f"{path}: expected one of the variables {', '.join(FIELDS)}")
        field = fields[0]
        try:
            node, kind = nodes[field], FIELDS[field]
            attributes, (chunk, *_) = node["attributes"], chunk_shape(node)
            _, *shape = (int(n) for n in node["shape"])
            if len(chunk_shape(node)) != 1 + len(shape):
                raise ValueError
            q = len(attributes["flag_values"]) if field == "states" else 0
            planes = shape.pop(0) if kind.plane in node["dimension_names"] else 0
            known = {"q": q} | plane_length(field, planes)
            return cls(
                field=field, shape=tuple(shape), chunk=int(chunk),
                scale=float(attributes["scale_factor"] if kind.scaled else 1.0),
                variables=tuple(name for name in names if name != field),
                dtype=node["data_type"] if field == "field" else "", **known,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError, BadInput):
            wrong = f"variable '{field}': wrong shape, chunks, scale or states"
            raise StoreError(f"{path}: {wrong}") from None


@dataclass(frozen=True, kw_only=True)
class Plan(Layout):
    """What a finished store holds, and what is known of it before it is made.

    Attributes
    ----------
    n_samples : how many samples it holds.
    attrs : what identifies the samples (model, temperature, rule, seed, ...), as JSON values;
        `VOLATILE` ones are stored and not compared.
    unsettled : names of attributes that may follow by `StoreWriter.settle`. They are not
        compared: a store that has them keeps them (`StoreWriter.attributes`).
    """

    n_samples: int
    attrs: Mapping[str, Any]
    unsettled: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("n_samples", self.n_samples)


def chunk_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of an array's chunks."""
    return tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])


# -- attributes -------------------------------------------------------------------------------


def is_temperature(value: object) -> bool:
    """Return whether an attribute can be a temperature: a positive number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return 0.0 < value < math.inf


def _whole(value: Any, most: float = 2**63 - 1) -> bool:
    return type(value) is int and 0 <= value <= most


_Kind = tuple[Callable[[Any], bool], str]
_WHOLE: _Kind = (_whole, "a whole number from 0 on")
_SEED: _Kind = (lambda value: _whole(value, math.inf), _WHOLE[1])
_TEXT: _Kind = (lambda value: isinstance(value, str), "a text")
_KINDS: dict[str, _Kind] = {
    "temperature": (is_temperature, "a positive number"),
    "factor": (lambda v: type(v) in (int, float) and 1 <= v <= 2**31, "a number from 1 on"),
    "L": (
        lambda v: (
            v != []
            and all(
                _whole(side, 2**31 - 1) and side for side in (v if isinstance(v, list) else [v])
            )
        ),
        "a side, or a list of sides",
    ),
    **dict.fromkeys(("samples_planned", "chains", "every", "burn_in", "stint"), _WHOLE),
    **dict.fromkeys(("seed", "tie_seed"), _SEED),
    **dict.fromkeys(("model", "algorithm", "rule", "method", "start"), _TEXT),
}


def kind_of(key: str, value: object) -> str:
    """Return the kind of value that an attribute must have, "" if `value` is of it."""
    fits, accepted = _KINDS.get(key, (bool, ""))
    return "" if fits(value) or (value is None and key != "samples_planned") else accepted


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"an attribute of a store cannot be {type(value).__name__}")


def as_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they will be read: NumPy's numbers and arrays become plain ones."""
    plain: dict[str, Any] = parse_json(json.dumps(dict(attrs), default=_plain, allow_nan=False))
    return plain


def readable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they will be read; raises BadInput for one that would be refused."""
    found: dict[str, Any] = {}
    for name, value in attrs.items():
        try:
            found |= as_json({name: value})
        except (TypeError, ValueError):  # no JSON, or a number beyond float64
            if isinstance(value, int):
                size = f"of {value.bit_length()} bits"
                raise BadInput(f"attribute {name}", size, "at most 1023 bits") from None
            accepted = "a number, a text, or a list"
            raise BadInput(f"attribute {name}", str(value), accepted) from None
        if accepted := kind_of(name, found[name]):
            raise BadInput(f"attribute {name}", found[name], accepted)
    return found


# -- the root ---------------------------------------------------------------------------------


def read_json(path: Path, file: str) -> dict[str, Any]:
    """Return a JSON object that lies in the store `path`; raises StoreError."""
    try:
        document = parse_json(read_bytes(path / file))
    except FileNotFoundError:
        raise StoreError(f"{path}: not a store: {file} is missing") from None
    except OSError as error:
        raise StoreError(f"{path}: {file} cannot be read: {error.strerror}") from error
    except ValueError:
        raise StoreError(f"{path}: {file} is damaged: not valid JSON") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path}: {file} is damaged: not a JSON object")
    return document


def write_json(file: Path, metadata: Mapping[str, Any]) -> None:
    """Make a `zarr.json` hold metadata, unless it does; raises WriteError."""
    data = (json.dumps(metadata, indent=2, allow_nan=False) + "\n").encode()
    if not file.exists() or file.read_bytes() != data:
        write_bytes_atomically(file, data)


class Root(NamedTuple):
    """The root record of a store: its attributes, and the metadata of every node below."""

    attributes: dict[str, Any]
    nodes: dict[str, Any]
    found: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Root:
        """Read the root of a store of a known version, as yet unchecked; raises StoreError."""
        check_there(path, "such store")
        if not os.path.isdir(path):
            raise StoreError(f"{path}: not a store: not a directory")
        root = read_json(path, ROOT)
        attributes = root.get("attributes")
        if not isinstance(attributes, dict) or "schema_version" not in attributes:
            raise StoreError(f"{path}: Zarr, but not a store of skild-phys: no schema_version")
        if (version := attributes["schema_version"]) != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: schema_version {version!r} is unknown; this release reads "
                f"{SCHEMA_VERSION}"
            )
        consolidated = root.get("consolidated_metadata")
        nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        if not isinstance(nodes, dict):
            raise StoreError(f"{path}: {ROOT} is damaged: no consolidated metadata")
        return cls(attributes, nodes, root)

    def check(self, path: Path) -> None:
        """Raise StoreError unless the root is what was written, to the last letter that counts."""
        if self.found != self.document():
            raise StoreError(f"{path}: {ROOT} was altered after it was written")

    def sha256(self) -> str:
        """Return a digest of everything in the root that `zarr.json` itself would not protect."""
        kept = {key: value for key, value in self.attributes.items() if key != "sha256"}
        text = json.dumps([kept, self.nodes], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return the root `zarr.json`."""
        known = {"kind": "inline", "must_understand": False, "metadata": dict(self.nodes)}
        kept = {key: value for key, value in self.attributes.items() if key != "sha256"}
        return group_metadata(kept | {"sha256": self.sha256()}) | {"consolidated_metadata": known}


def is_store(path: AnyPath) -> bool:
    """Return whether `path` looks like a store of this program, whatever its state.

    One that xarray copied (`to_zarr`), with its attributes, is none: its chunk files lie in
    folders of their own. Raises StoreError if it cannot be read.
    """
    record = os.path.join(path, ROOT)
    try:
        text = Path(record).read_bytes() if os.path.isfile(record) else b""
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    copied = any(os.path.isdir(os.path.join(path, name, "c")) for name in FIELDS)
    return (b'"schema_version"' in text or b'"samples_committed"' in text) and not copied
