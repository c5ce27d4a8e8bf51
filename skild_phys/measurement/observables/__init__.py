"""Every observable there is: those of the files beside, and what installed packages add.

A package's own are named in its entry points, group `skild_phys.observables`; those of a notebook
go to `measure(..., extra=[f])`. See `base.observable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

_MODULES = (thermodynamics, four_point, two_point, patterns, clusters)


def _of(modules: Iterable[ModuleType]) -> Iterator[Observable]:
    for module in modules:
        for value in vars(module).values():
            found = value if isinstance(value, tuple) else (value,)
            yield from (o for o in found if isinstance(o, Observable))


OBSERVABLES: dict[str, Observable] = {o.name: o for o in _of(_MODULES)}
STATISTICS: dict[str, Statistic] = {s.name: s for o in OBSERVABLES.values() for s in o.needs}
AXES: dict[str, Axis] = {o.axis.dim: o.axis for o in OBSERVABLES.values() if o.axis is not None}


def observables(system: System, extra: Sequence[Observable] = ()) -> tuple[Observable, ...]:
    """Return the observables that a system has, scalars first; raises BadInput for equal names."""
    there = dict(load_plugins(OBSERVABLES, "skild_phys.observables"))
    for own in extra:
        if not isinstance(own, Observable):
            raise BadInput("extra", repr(own), "what skild_phys.observable made of a function")
        if there.get(own.name, own) is not own:
            raise BadInput("extra", own.name, "a name that no other observable has")
        there[own.name] = own
    found = (o for o in there.values() if o.applies(system))
    return tuple(sorted(found, key=lambda o: o.axis is not None))


def chosen(
    system: System, only: str | Sequence[str] | None, extra: Sequence[Observable] = ()
) -> tuple[Observable, ...]:
    """Return the observables that are asked for; raises BadInput for one that cannot be."""
    there = observables(system, extra)
    if only is None:
        return there
    names, labels = [o.name for o in there], {o.label.lower(): o.name for o in there if o.label}
    known = {*OBSERVABLES, *names}
    labels |= {o.label.lower(): o.name for o in OBSERVABLES.values() if o.label}
    wanted = set()
    for text in only.split(",") if isinstance(only, str) else only:
        plain = "_".join(text.lower().replace("_", " ").split())
        name = text.strip()
        name = name if name in names else labels.get(name.lower(), plain)
        if name == "connected_four_point_offsets" and not system.offsets:
            raise BadInput("only", text, "offsets= beside it")
        if name not in names:
            what = "what these samples have:" if name in known else "one of"
            raise BadInput("only", text, f"{what} {', '.join(names)}")
        wanted.add(name)
    return tuple(o for o in there if o.name in wanted)
