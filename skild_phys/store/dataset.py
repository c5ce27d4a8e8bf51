"""Lattices as a store, so that what was opened, cut or made in memory goes on through commands."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from skild_phys.files import AnyPath, parse_json
from skild_phys.store.reader import Lattices, LatticeStore, open_store
from skild_phys.store.schema import MANAGED, Plan
from skild_phys.store.writer import create_store

_CHUNK_SITES = 2**19


def write_lattices(lattices: Lattices, path: AnyPath) -> LatticeStore:
    """Write lattices of any origin to a new store, chunk by chunk, and open it.

    Parameters
    ----------
    lattices : what `open_lattices` returns.
    path : of the new store; one that was begun with the same lattices is finished.

    Returns
    -------
    The store. Of a Dataset that was opened and not changed it has the original's digest.

    Raises
    ------
    BadInput, StoreError, WriteError : as `Lattices.read` and `create_store` do.
    """
    chunk, field = lattices.chunk, lattices.field
    if not lattices.in_file:
        chunk = max(1, _CHUNK_SITES // math.prod(lattices.layout.sample_shape))
    scalars = {name: lattices.variable(name) for name in lattices.variables}
    known = vars(lattices.layout) | {"chunk": chunk, "variables": tuple(scalars)}
    plan = Plan(**known, n_samples=lattices.n_samples, attrs=as_stored(lattices.attrs))
    with create_store(path, plan) as writer:
        while (first := writer.committed) < plan.n_samples:
            last = min(first + chunk, plan.n_samples)
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
                values = lattices.read(first, last).astype(plan.dtype)
            writer.commit({field: values} | {k: v[first:last] for k, v in scalars.items()})
    return open_store(path)


def as_text(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes with JSON texts for what NetCDF cannot keep.

    NetCDF keeps no dictionaries, None and truth values, no integers beyond 32 bits (seeds), and
    of lists only those of numbers.
    """
    return {str(k): v if _is_kept(v) else json.dumps(v) for k, v in attrs.items()}


def _is_kept(value: object) -> bool:
    if isinstance(value, list):
        return value != [] and all(isinstance(v, int | float) and _is_kept(v) for v in value)
    return not (value is None or isinstance(value, dict | bool) or _is_long(value))


_WORDS = ("null", "true", "false")


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def as_stored(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as a store has them: JSON's values in place of NumPy's, and of texts."""
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, str) and (value[:1] in ("{", "[") or value in _WORDS):
            with contextlib.suppress(ValueError):  # what only looks like JSON is a text
                value = parse_json(value)
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            with contextlib.suppress(ValueError):  # more digits than Python converts
                value = int(value) if _is_long(int(value)) else value
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if key not in MANAGED:
            found[str(key)] = value
    return found
