"""Lattices as a store, so that what was opened, cut or made in memory goes on through commands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath, parse_json
from skild_phys.store.create import create_store
from skild_phys.store.lattices import Lattices
from skild_phys.store.reader import LatticeStore, open_store
from skild_phys.store.schema import FIELDS, MANAGED

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
    for name, value in (attrs := as_stored(lattices.attrs)).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise BadInput(f"attribute {name}", str(value), "a number, a text, or a list") from None
    field, chunk = lattices.field, lattices.chunk
    if not getattr(lattices, "chunked", True):
        chunk = max(1, _CHUNK_SITES // lattices.read(0, 1).size)
    scalars = {name: lattices.variable(name) for name in lattices.variables}
    with create_store(
        path, field=field, n_samples=lattices.n_samples, shape=lattices.shape, chunk=chunk,
        attrs=attrs, variables=tuple(scalars), scale=lattices.scale, q=lattices.q,
        channels=lattices.channels,
    ) as writer:  # fmt: skip
        while (first := writer.committed) < lattices.n_samples:
            last = min(first + chunk, lattices.n_samples)
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
                values = lattices.read(first, last).astype(FIELDS[field].dtype)
            writer.commit({field: values} | {k: v[first:last] for k, v in scalars.items()})
    return open_store(path)


def as_text(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes with JSON texts for what NetCDF cannot keep.

    NetCDF keeps no dictionaries, None and truth values, and no integers beyond 32 bits (seeds).
    """
    return {
        str(k): json.dumps(v) if v is None or isinstance(v, dict | bool) or _is_long(v) else v
        for k, v in attrs.items()
    }


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def as_stored(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as a store has them: JSON's values in place of NumPy's, and of texts."""
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, str) and (value.startswith("{") or value in ("null", "true", "false")):
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
