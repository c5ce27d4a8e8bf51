"""Registries that a user's own code adds to: a line of a script, or an entry point of a package."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from skild_phys.errors import BadInput

T = TypeVar("T")


@functools.cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group; to look for them takes milliseconds."""
    return tuple(entry_points(group=group))


def load_plugins(registry: dict[str, T], group: str) -> dict[str, T]:
    """Add what installed packages offer under the entry point `group`; return the registry.

    What is registered already stays. An entry point names an object, or a class without
    arguments to make one.
    """
    for point in _points(group):
        if point.name not in registry:
            found = point.load()
            registry[point.name] = found() if isinstance(found, type) else found
    return registry


def look_up(registry: dict[str, T], group: str, parameter: str, name: str) -> T:
    """Return `registry[name]`, from an entry point if need be; BadInput names all there are."""
    if name not in registry:
        load_plugins(registry, group)
    if name not in registry:
        raise BadInput(parameter, name, one_of(registry))
    return registry[name]


def one_of(names: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
