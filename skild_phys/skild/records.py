"""Dataclasses as plain tables, and back: TOML of recipes, JSON of weights and checkpoints."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from skild_phys.errors import BadInput

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

    `tables` are the keys whose values are tables, with their kinds.
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
            values[key] = from_table(value, tables[key], f"{where} [{key}]", own[key])
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
