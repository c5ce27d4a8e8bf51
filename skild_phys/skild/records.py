"""Dataclasses as plain tables, and back: TOML of recipes, JSON of weights and checkpoints.

Weights and checkpoints are safetensors files: named tensors, and a record in the header. Nothing in
them is executed. One SHA-256 covers every tensor and the record, and is checked before a number is
used.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from skild_phys.errors import BadInput, WeightsError
from skild_phys.files import parse_json, write_bytes_atomically

LATE = {"late": True}
"""Metadata of a field that records of before lack: it is written only if it has another value than
its default, so that equal weights have equal SHA-256, whatever version wrote them."""

_LIKE: dict[Any, Any] = {"int": 0, "float": 0.0}


def as_record(value: Any) -> Any:
    """Return a dataclass as a dictionary, less fields marked LATE that have their defaults."""
    if not dataclasses.is_dataclass(value):
        return value
    own = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        field.name: as_record(one)
        for field, one in own.items()
        if "late" not in field.metadata or one != field.default
    }


def from_table(
    table: dict[str, Any], kinds: dict[str, Any], where: str, default: Any = None
) -> Any:
    """Return a table as the dataclass that its `kind` names, changed from `default` if it is one.

    Raises BadInput that names `where` and the key.
    """
    kind = table.get("kind", getattr(default, "kind", next(iter(kinds))))
    if kind not in kinds:
        raise BadInput(f"{where}: kind", kind, " or ".join(kinds))
    if default is not None and default.kind == kind:
        return changed(default, table, where)
    like = {}
    for field in dataclasses.fields(kinds[kind]):
        required = field.default is dataclasses.MISSING
        if required and field.name not in table:
            raise BadInput(f"{where}: {field.name}", None, "a value")
        like[field.name] = _LIKE[field.type] if required else field.default
    return kinds[kind](**like | _values(like, table, where, {}))


def changed(base: Any, table: dict[str, Any], where: str, tables: Any = None) -> Any:
    """Return the dataclass `base` with the values of a table in place of its own.

    `tables` are the keys whose values are tables, with their kinds (none: always the same).
    """
    own = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return dataclasses.replace(base, **_values(own, table, where, tables or {}))


def _values(
    own: dict[str, Any], table: dict[str, Any], where: str, tables: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of a table, of the types of `own`; raises BadInput."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in own:
            near = difflib.get_close_matches(key, own, 1)
            hint = f"'{near[0]}'?" if near else "one of " + ", ".join(own)
            raise BadInput(where, key, f"a known key: {hint}")
        if key not in tables:
            values[key] = _value(value, own[key], where, key)
        elif isinstance(value, dict):
            at = f"{where} [{key}]"
            kinds = tables[key]
            values[key] = (
                from_table(value, kinds, at, own[key]) if kinds else changed(own[key], value, at)
            )
        else:
            raise BadInput(f"{where}: {key}", value, f"a table [{key}]")
    return values


def _value(value: Any, default: Any, where: str, key: str) -> Any:
    """Return a value of a table as the type of `default`; raises BadInput naming file and key."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, tuple):
        kind = type(default[0]) if default else int
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return tuple(value)
        accepted = "a list of whole numbers" if kind is int else "a list of texts in quotes"
    elif isinstance(default, dict):
        if isinstance(value, dict):
            return {name: _value(one, 0.0, f"{where} {key}", name) for name, one in value.items()}
        accepted = "a table of numbers"
    elif isinstance(default, int):
        if whole:
            return value
        accepted = "a whole number"
    elif isinstance(default, float):
        if whole or isinstance(value, float):
            return float(value)
        accepted = "a number"
    else:
        if isinstance(value, str):
            return value
        if key == "temperature" and (whole or isinstance(value, float)):
            return str(value)
        accepted = "a text in quotes"
    raise BadInput(f"{where}: {key}", value, accepted)


def content_sha256(record: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a record, less its entry 'sha256', and of named tensors on the CPU.

    What is hashed is the record as JSON with sorted keys, then name, dtype, shape and bytes of
    each tensor in order of name.
    """
    rest = {key: value for key, value in record.items() if key != "sha256"}
    digest = hashlib.sha256((json.dumps(rest, sort_keys=True) + "\n").encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(
    path: str | Path, key: str, record: dict[str, Any], tensors: dict[str, Tensor]
) -> str:
    """Write named tensors, with `record` under `key` of the header, atomically; return the SHA-256.

    `record` says its `format`.
    """
    sha = content_sha256(record, tensors)
    # One key: safetensors writes several in no fixed order, and equal weights are equal bytes.
    header = {key: json.dumps(record | {"sha256": sha}, sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes_atomically(path, save(tensors, metadata=header))
    return sha


def read_tensors(
    path: str | Path, key: str, kind: str, form: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_tensors` wrote, checked; raises WeightsError naming file and fault.

    `kind` is what the file should be, in words, `form` the format that its record says.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such {kind}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable {kind} ({error})") from None
    try:
        record = parse_json(header[key], finite=False)
    except (LookupError, ValueError):
        record = None
    # Checkpoints of before have their format beside the record.
    if not isinstance(record, dict) or record.get("format", header.get("format")) != form:
        raise WeightsError(f"{path}: not a {kind} of this version ({form})")
    if content_sha256(record, tensors) != record.get("sha256"):
        raise WeightsError(f"{path}: does not match the SHA-256 in its header; it was altered")
    return record, tensors
