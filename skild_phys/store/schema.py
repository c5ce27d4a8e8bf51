"""What a store consists of: its variables, their metadata, and the root record."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.files import check_there, parse_json, read_bytes

SCHEMA_VERSION = 1
APPEND_TOTAL = "append_total"
"""Samples that an append asked for, until its command has ended."""

VOLATILE = ("command", "versions", "append", APPEND_TOTAL, "warnings")
"""Attributes that say how a store came about, or what to mind; stored, but never compared."""

MANAGED = ("schema_version", "samples_planned", "samples_committed", "sha256")
ROOT = "zarr.json"
DIGESTS = "digests"
"""A node of the root alone, whose attributes are the digests of every array's chunks."""

_SCALAR_CHUNK = 4096


class Variable(NamedTuple):
    """Type of a variable; `fill` is a value that no sample has, so a gap is never data."""

    dtype: str
    fill: int | str
    units: str
    long_name: str


FIELDS = {
    "spins": Variable("int8", 0, "1", "spin"),
    "block_sum": Variable("int16", -(2**15), "1", "mean spin of a block, stored as its sum"),
    "field": Variable("float32", "NaN", "1", "real field"),
    "states": Variable("int8", -1, "1", "Potts state"),
    "state_count": Variable(
        "int16", -1, "1", "share of a block's sites in each state, stored as their number"
    ),
    "image": Variable("uint8", 0, "1", "intensity, 0 to 255"),
}
POTTS_FIELDS = ("states", "state_count")
"""Fields of lattices whose sites are in one of q states, 0 .. q-1."""

PLANES = {"state_count": ("state",), "image": ("channel",)}
"""Axes between samples and sites, of the fields that have one."""

SCALED_FIELDS = ("block_sum", "state_count")
"""Fields that are kept as whole numbers, to be multiplied by 1 over the sites of a block."""

AXES = {2: ("y", "x"), 3: ("z", "y", "x")}
"""Names of a lattice's axes, by its dimension."""


def sides(shape: Sequence[int]) -> int | list[int]:
    """Return what the attribute `L` says of lattices of `shape`: their side, or sides (Ly, Lx)."""
    return int(shape[0]) if len({*shape}) == 1 else [int(side) for side in shape]


MOST_STATES = 127
SCALARS = {
    "energy": Variable("float64", "NaN", "J", "energy per site"),
    "magnetization": Variable("float64", "NaN", "1", "magnetization per site"),
    "chain": Variable("int32", -1, "1", "Markov chain of the sample"),
    "draw": Variable("int64", -1, "1", "place of the sample in its chain"),
    "parent": Variable("int64", -1, "1", "index of the sample in the parent store"),
    "label": Variable("int32", -1, "1", "class of the image"),
    "split": Variable("int8", -1, "1", "0 for training, 1 for testing"),
}


def scalar(name: str) -> Variable:
    """Return the type of a scalar; one that the schema does not know is a number of unit 1."""
    return SCALARS.get(name) or Variable("float64", "NaN", "1", name.replace("_", " "))


def group_metadata() -> dict[str, Any]:
    """Return the `zarr.json` of a group without attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


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
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if size > 1:
        to_bytes["configuration"] = {"endian": "little"}
    blosc = {
        "typesize": size,
        "cname": "zstd",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [to_bytes, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
        "attributes": dict(attributes),
        "dimension_names": list(dimensions),
    }


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which arrays a store has, apart from how many samples.

    Attributes
    ----------
    field : what a site holds, one of `FIELDS`.
    shape : (Ly, Lx) or (Lz, Ly, Lx) of the lattice.
    chunk : samples in a chunk, the least that is read at once.
    scale : physical value of a stored 1; for `SCALED_FIELDS` 1 over the sites in a block.
    variables : names of the scalars that come with each sample (see `SCALARS`).
    q : number of states of `POTTS_FIELDS`; 0 for the others.
    channels : of an `image`; 0 for the others.

    Raises BadInput for what no store can have.
    """

    field: str
    shape: tuple[int, ...]
    chunk: int
    scale: float = 1.0
    variables: tuple[str, ...] = ("energy", "magnetization")
    q: int = 0
    channels: int = 0

    def __post_init__(self) -> None:
        field, q, scale = self.field, self.q, self.scale
        if field not in FIELDS:
            raise BadInput("field", field, " or ".join(FIELDS))
        if len(self.shape) not in AXES:
            raise BadInput("shape", self.shape, "two sides or three")
        for name, value in (("chunk", self.chunk), *(("shape", side) for side in self.shape)):
            check_whole(name, value)
        if not 2**-15 < scale <= 1.0 if field in SCALED_FIELDS else scale != 1.0:
            raise BadInput("scale", scale, "1 over the sites in a block, at most 32767 of them")
        if not 2 <= q <= MOST_STATES if field in POTTS_FIELDS else q != 0:
            accepted = f"2 to {MOST_STATES} states" if field in POTTS_FIELDS else "0"
            raise BadInput("q", q, f"{accepted} for '{field}'")
        if (self.channels < 1) if field == "image" else (self.channels != 0):
            accepted = "1 or more" if field == "image" else "0"
            raise BadInput("channels", self.channels, f"{accepted} for '{field}'")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of what is stored of one lattice: (q, Ly, Lx) counts, (channels, Ly, Lx) images."""
        planes = {"state_count": (self.q,), "image": (self.channels,)}
        return (*planes.get(self.field, ()), *self.shape)

    def dtype(self, name: str) -> str:
        """Return the type of the numbers of a variable."""
        return (FIELDS.get(name) or scalar(name)).dtype

    def metadata(self, samples: int) -> dict[str, dict[str, Any]]:
        """Return the metadata of every array of a store that holds `samples`."""
        kind = FIELDS[self.field]
        attributes: dict[str, Any] = {"long_name": kind.long_name, "units": kind.units}
        if self.field == "spins":
            attributes |= {"flag_values": [-1, 1], "flag_meanings": "down up"}
        if self.field == "states":
            states = list(range(self.q))
            attributes |= {"flag_values": states, "flag_meanings": " ".join(map(str, states))}
        if self.field in SCALED_FIELDS:
            attributes["scale_factor"] = self.scale
        arrays = {
            self.field: array_metadata(
                kind.dtype,
                (samples, *self.sample_shape),
                (self.chunk, *self.sample_shape),
                kind.fill,
                ("sample", *PLANES.get(self.field, ()), *AXES[len(self.shape)]),
                attributes,
            )
        }
        for name in self.variables:
            kind = scalar(name)
            described = {"long_name": kind.long_name, "units": kind.units}
            arrays[name] = array_metadata(
                kind.dtype, (samples,), (_SCALAR_CHUNK,), kind.fill, ("sample",), described
            )
        return arrays

    def fault(self, name: str, values: NDArray[Any]) -> str | None:
        """Return what is wrong with values of a variable, if anything is."""
        if name == "spins":
            return None if ((values == 1) | (values == -1)).all() else "spins other than -1 and +1"
        if name == "block_sum":
            sites = round(1.0 / self.scale)
            wide = values.astype(np.int32)
            bad = (np.abs(wide) > sites) | ((wide - sites) & 1 != 0)
            return f"a number that is no sum of {sites} spins" if bad.any() else None
        if name == "states":
            bad = (values < 0) | (values >= self.q)
            return f"a state outside 0 .. {self.q - 1}" if bad.any() else None
        if name == "state_count":
            sites = round(1.0 / self.scale)
            good = (values >= 0).all() and (values.sum(axis=1, dtype=np.int64) == sites).all()
            return None if good else f"counts that are not those of {sites} sites"
        if values.dtype.kind == "f":
            return None if np.isfinite(values).all() else "NaN or infinity"
        return "a negative number" if (values < 0).any() else None


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


def chunk_name(metadata: Mapping[str, Any], index: int) -> str:
    """Return the file name of chunk `index` along the first axis of an array."""
    return ".".join(["c", str(index)] + ["0"] * (len(metadata["shape"]) - 1))


def json_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Return metadata as the bytes of a `zarr.json`."""
    return (json.dumps(metadata, indent=2, allow_nan=False) + "\n").encode()


@functools.singledispatch
def _plain(value: Any) -> Any:
    raise TypeError(f"an attribute of a store cannot be {type(value).__name__}")


@_plain.register(np.generic)
def _(value: np.generic) -> Any:
    return value.item()


@_plain.register(np.ndarray)
def _(value: NDArray[Any]) -> Any:
    return value.tolist()


def as_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they will be read: NumPy's numbers and arrays become plain ones."""
    plain: dict[str, Any] = parse_json(json.dumps(dict(attrs), default=_plain, allow_nan=False))
    return plain


def checksum(attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """Return a digest of everything in the root that `zarr.json` itself would not protect."""
    kept = {key: value for key, value in attributes.items() if key != "sha256"}
    text = json.dumps([kept, arrays], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def root_metadata(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root `zarr.json`: attributes, and the metadata of every node below."""
    return {
        **group_metadata(),
        "attributes": {**attributes, "sha256": checksum(attributes, nodes)},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(nodes),
        },
    }


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


def read_root(path: Path) -> dict[str, Any]:
    """Return the root `zarr.json` of a store of a known version; raises StoreError."""
    check_there(path, "such store")
    if not os.path.isdir(path):
        raise StoreError(f"{path}: not a store: not a directory")
    root = read_json(path, ROOT)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "schema_version" not in attributes:
        raise StoreError(f"{path}: Zarr, but not a store of skild-phys: no schema_version")
    version = attributes["schema_version"]
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema_version {version!r} is unknown; this release reads {SCHEMA_VERSION}"
        )
    consolidated = root.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise StoreError(f"{path}: {ROOT} is damaged: no consolidated metadata")
    return root


def check_root(path: Path, root: Mapping[str, Any]) -> None:
    """Raise StoreError unless the root is what was written, to the last letter that counts."""
    given = {key: value for key, value in root["attributes"].items() if key != "sha256"}
    if root != root_metadata(given, root["consolidated_metadata"]["metadata"]):
        raise StoreError(f"{path}: {ROOT} was altered after it was written")


def layout_of(path: Path, nodes: Mapping[str, Any]) -> Layout:
    """Return the layout that the metadata of a store describes; raises StoreError."""
    names = [name for name in nodes if name.split("/")[0] not in ("state", DIGESTS)]
    fields = [name for name in names if name in FIELDS]
    if len(fields) != 1:
        raise StoreError(f"{path}: expected one of the variables {', '.join(FIELDS)}")
    field = fields[0]
    try:
        attributes = nodes[field]["attributes"]
        chunk = chunk_shape(nodes[field])
        scale = attributes["scale_factor"] if field in SCALED_FIELDS else 1.0
        _, *shape = (int(n) for n in nodes[field]["shape"])
        q = len(attributes["flag_values"]) if field == "states" else 0
        channels = 0
        if field == "state_count":
            q, *shape = shape
        if field == "image":
            channels, *shape = shape
        if len(chunk) != len(nodes[field]["shape"]):
            raise ValueError
        return Layout(
            field=field, shape=tuple(shape), chunk=int(chunk[0]), scale=float(scale),
            variables=tuple(name for name in names if name != field), q=q, channels=channels,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, BadInput):
        raise StoreError(
            f"{path}: variable '{field}': wrong shape, chunks, scale or states"
        ) from None


def compare_metadata(path: Path, name: str, found: Any, expected: Mapping[str, Any]) -> None:
    """Raise StoreError naming the first entry of an array's metadata that is not as expected."""
    for key, value in expected.items():
        there = found.get(key) if isinstance(found, dict) else None
        if there != value:
            raise StoreError(f"{path}: variable '{name}': {key} is {there!r}, expected {value!r}")
