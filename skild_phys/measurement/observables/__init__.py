"""Every observable there is: those of the files beside, and what installed packages add.

A package's own are named in its entry points, group `skild_phys.observables`; those of a notebook
go to `measure(..., extra=[f])`. See `base.observable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from skild_phys.errors import BadInput
from skild_phys.measurement.observables import (
    clusters,
    four_point,
    patterns,
    thermodynamics,
    two_point,
)
from skild_phys.measurement.observables.base import Axis
from skild_phys.measurement.observables.base import Observable as Observable
from skild_phys.measurement.observables.base import Statistic as Statistic
from skild_phys.measurement.observables.base import observable as observable
from skild_phys.measurement.system import System
from skild_phys.plugins import load_plugins


def _defined_in(module: ModuleType) -> Iterator[Observable]:
    """Yield the observables of a module, alone or in tuples, in the order of their definition."""
    for value in vars(module).values():
        several = value if isinstance(value, tuple) else (value,)
        yield from (one for one in several if isinstance(one, Observable))


OBSERVABLES: dict[str, Observable] = {
    found.name: found
    for module in (thermodynamics, four_point, two_point, patterns, clusters)
    for found in _defined_in(module)
}
STATISTICS: dict[str, Statistic] = {s.name: s for o in OBSERVABLES.values() for s in o.needs}
AXES: dict[str, Axis] = {o.axis.dim: o.axis for o in OBSERVABLES.values() if o.axis is not None}


def chosen(
    system: System, only: str | Sequence[str] | None = None, extra: Sequence[Observable] = ()
) -> tuple[Observable, ...]:
    """Return the observables of a system that are asked for, scalars first.

    Raises BadInput for one that the system does not have, and for two of one name.
    """
    known = dict(load_plugins(OBSERVABLES, "skild_phys.observables"))
    for own in extra:
        if not isinstance(own, Observable):
            raise BadInput("extra", repr(own), "what skild_phys.observable made of a function")
        if known.get(own.name, own) is not own:
            raise BadInput("extra", own.name, "a name that no other observable has")
        known[own.name] = own
    there = sorted((o for o in known.values() if o.applies(system)), key=lambda o: bool(o.axis))
    if only is None:
        return tuple(there)
    names, wanted = [o.name for o in there], set()
    labels = {o.label.lower(): o.name for o in (*there, *OBSERVABLES.values()) if o.label}
    for text in only.split(",") if isinstance(only, str) else only:
        name = text.strip()
        if name not in names:
            plain = "_".join(text.lower().replace("_", " ").split())
            name = labels.get(name.lower(), plain)
        if name == "connected_four_point_offsets" and not system.offsets:
            raise BadInput("only", text, "offsets= beside it")
        if name not in names:
            what = "what these samples have:" if name in known else "one of"
            raise BadInput("only", text, f"{what} {', '.join(names)}")
        wanted.add(name)
    return tuple(o for o in there if o.name in wanted)
