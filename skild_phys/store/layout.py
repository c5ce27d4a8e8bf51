"""What samples are and what is known of them, apart from files: variables, axes, attributes."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import skild_phys.rules  # noqa: F401, which register what coarse sites hold
from skild_phys.errors import BadInput, check_whole
from skild_phys.fields import FIELDS
from skild_phys.files import parse_json

APPEND_TOTAL = "append_total"
"""Samples that an append asked for, until its command has ended."""

VOLATILE = ("command", "versions", "append", APPEND_TOTAL, "warnings")
"""Attributes of how a store was made, and warnings; stored, but never compared."""

MANAGED = ("schema_version", "samples_planned", "samples_committed", "sha256")

AXES = {2: ("y", "x"), 3: ("z", "y", "x")}
"""Names of a lattice's axes, by its dimension."""

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

_PLANES = {"state": "q", "channel": "channels", "component": "components"}
"""The attribute of a layout that is the length of a field's axis between samples and sites."""

_SCALAR_CHUNK = 4096
_MOST_STATES = 127


def sides(shape: Sequence[int]) -> int | list[int]:
    """Return the attribute `L` for samples of `shape`: the side, or the sides (Ly, Lx)."""
    return int(shape[0]) if len({*shape}) == 1 else [int(side) for side in shape]


def usual_axes(name: str, ndim: int) -> tuple[str, ...]:
    """Return the names of a variable's axes where nothing else names them."""
    plane = (FIELDS[name].plane,) if name in FIELDS and name != "field" else ()
    plane = plane if any(plane) else ()
    sites = AXES.get(ndim - 1 - len(plane), tuple(f"axis_{i}" for i in range(ndim - 1)))
    return ("sample", *plane, *sites)[:ndim]


class _Variable(NamedTuple):
    """An array of a store: `shape` of one sample, `fill` that no sample has, CF's attributes."""

    dtype: str
    shape: tuple[int, ...]
    chunk: int
    fill: int | str
    axes: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which arrays a store has, apart from how many samples.

    Attributes
    ----------
    field : what a site holds, one of `fields.FIELDS`: `spins` (int8, +-1), `states` (int8,
        0 .. q-1), `block_sum` or `state_count` (int16), `field` (real numbers), `image` (uint8) ...
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

    @classmethod
    def of(cls, field: str, shape: Sequence[int], plane: int = 0, **known: Any) -> Layout:
        """Return a layout; `plane` is the length of an axis before those of `shape`, or 0."""
        if plane and (key := _PLANES.get(FIELDS[field].plane)):
            known[key] = plane
        return cls(field=field, shape=tuple(shape), **known)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of what is stored of one sample: (q, Ly, Lx) counts, (channels, Ly, Lx) images."""
        return self.arrays[self.field].shape

    @cached_property
    def arrays(self) -> dict[str, _Variable]:
        """Every array by its name, the field first."""
        kind = FIELDS[self.field]
        about: dict[str, Any] = {"long_name": kind.long_name, "units": "1"}
        if self.field == "spins":
            about |= {"flag_values": [-1, 1], "flag_meanings": "down up"}
        if self.field == "states":
            states = list(range(self.q))
            about |= {"flag_values": states, "flag_meanings": " ".join(map(str, states))}
        if kind.scaled:
            about["scale_factor"] = self.scale
        shape, axes = self.shape, AXES[len(self.shape)]
        plane = getattr(self, _PLANES.get(kind.plane, ""), 0)
        if plane and (self.field, plane) != ("field", 1):
            shape, axes = (plane, *shape), (kind.plane, *axes)
        axes = ("sample", *axes)
        found = {self.field: _Variable(self.dtype, shape, self.chunk, kind.fill, axes, about)}
        for name in self.variables:
            usual = ("float64", "NaN", "1", name.replace("_", " "))
            dtype, fill, units, long_name = SCALARS.get(name, usual)
            about = {"long_name": long_name, "units": units}
            found[name] = _Variable(dtype, (), _SCALAR_CHUNK, fill, ("sample",), about)
        return found

    def fault(self, name: str, values: NDArray[Any]) -> str | None:
        """Return what is wrong with values of a variable, if anything is."""
        if name == self.field:
            return FIELDS[name].fault(values, self.q, round(1.0 / self.scale))
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


# -- attributes -------------------------------------------------------------------------------


_Kind = tuple[tuple[type, ...], float, float, str]
_WHOLE: _Kind = ((int,), 0, 2**63 - 1, "a whole number from 0 on")
_KINDS: dict[str, _Kind] = {
    "temperature": ((int, float), math.ulp(0.0), sys.float_info.max, "a positive number"),
    "factor": ((int, float), 1, 2**31, "a number from 1 on"),
    "L": ((int,), 1, 2**31 - 1, "a side, or a list of sides"),
    **dict.fromkeys(("samples_planned", "chains", "every", "burn_in", "stint"), _WHOLE),
    **dict.fromkeys(("seed", "tie_seed"), ((int,), 0, math.inf, _WHOLE[3])),
    **dict.fromkeys(("model", "algorithm", "rule", "method", "start"), ((str,), 0, 0, "a text")),
}
"""Types of attributes, the least and the most that numbers can be, and what is accepted."""


def kind_of(key: str, value: object) -> str:
    """Return the kind of value that an attribute must have, "" if `value` is of it."""
    if key not in _KINDS or (value is None and key != "samples_planned"):
        return ""
    types, least, most, accepted = _KINDS[key]
    every: list[Any] = value if key == "L" and isinstance(value, list) else [value]
    fits = all(type(v) in types and (type(v) is str or least <= v <= most) for v in every)
    return "" if fits and every else accepted


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"an attribute of a store cannot be {type(value).__name__}")


def readable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they will be read, NumPy's numbers and arrays as plain ones.

    Raises BadInput for one that would be refused.
    """
    found: dict[str, Any] = {}
    for name, value in attrs.items():
        try:
            found |= parse_json(json.dumps({name: value}, default=_plain, allow_nan=False))
        except (TypeError, ValueError):  # no JSON, or a number beyond float64
            if isinstance(value, int):
                size = f"of {value.bit_length()} bits"
                raise BadInput(f"attribute {name}", size, "at most 1023 bits") from None
            accepted = "a number, a text, or a list"
            raise BadInput(f"attribute {name}", str(value), accepted) from None
        if accepted := kind_of(name, found[name]):
            raise BadInput(f"attribute {name}", found[name], accepted)
    return found


def _is_kept(value: object) -> bool:
    if isinstance(value, list):
        return value != [] and all(isinstance(v, int | float) and _is_kept(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**31) <= value < 2**31
    return not (value is None or isinstance(value, dict | bool))


def as_text(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes with JSON texts for what NetCDF cannot keep.

    These are dictionaries, None, truth values, integers beyond 32 bits (seeds), and lists that hold
    anything but numbers.
    """
    return {str(k): v if _is_kept(v) else json.dumps(v) for k, v in attrs.items()}


_WORDS = ("null", "true", "false")


def as_stored(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as a store has them: JSON's values in place of NumPy's, and of texts."""
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, str) and (value[:1] in ("{", "[") or value in _WORDS):
            with contextlib.suppress(ValueError):  # what only looks like JSON is a text
                value = parse_json(value)
        elif isinstance(value, str) and value.isdecimal() and value.isascii():
            with contextlib.suppress(ValueError):  # more digits than Python converts
                value = int(value) if int(value) >= 2**31 else value
        if key not in MANAGED:
            found[str(key)] = value
    return found
