"""What an observable is: a function of averages, with its name, unit and label.

A statistic is an average over each configuration, (n, ...) for n of them. An observable is a
function of ensemble means of statistics, so that a jackknife over configurations gives its error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Array, Means
from skild_phys.errors import BadInput
from skild_phys.measurement.system import Slice, System

LENGTH, WAVE = "lattice constant", "rad / lattice constant"


def _always(system: System) -> bool:
    return True


@dataclass(frozen=True)
class Statistic:
    """An average over each configuration of a slice, (n, ...) float64, for some systems.

    `name` is the key of its means.
    """

    name: str
    compute: Callable[[Slice], Array]
    applies: Callable[[System], bool] = _always

    def __call__(self, part: Slice) -> Array:
        """Return the averages of a slice; those of one slice are computed once."""
        return part.once(self.compute)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Itself, so that `collect` takes statistics as it takes observables."""
        return (self,)


def statistic(
    name: str, applies: Callable[[System], bool] = _always
) -> Callable[[Callable[[Slice], Array]], Statistic]:
    """Return a decorator that makes a statistic of a function of a slice."""
    return lambda compute: Statistic(name, compute, applies)


@dataclass(frozen=True)
class Coordinate:
    """Values along a dimension, with their name and unit; tables are headed by the symbol."""

    name: str
    values: Callable[[System], NDArray[Any]]
    long_name: str
    units: str
    symbol: str = "r"


@dataclass(frozen=True)
class Axis:
    """A dimension of observables. Plots and tables are over the first of its coordinates.

    A dense one has a value at every step; tables show 1, 2, 4 .. steps, and these are judged
    together.
    """

    dim: str
    coordinates: tuple[Coordinate, ...]
    dense: bool = False


@dataclass(frozen=True)
class Observable:
    """A function of the means of the statistics in `needs`, as `observable` makes it.

    Attributes
    ----------
    label : symbol that heads tables, and that `only` takes for the name; "" if it has none. The
        commands print every scalar, and of curves those that have one.
    axis : of the values; None for a scalar.
    function : takes the mean of each statistic, arrays (..., *trailing) with any leading shape
        that it carries through, and the `System`; what is not finite needs no guard.
    judged : whether `compare` judges the residuals along the axis together (chi^2).
    """

    name: str
    units: str
    long_name: str
    label: str
    axis: Axis | None
    needs: tuple[Statistic, ...]
    function: Callable[..., Array]
    condition: Callable[[System], bool] = _always
    judged: bool = False

    def __call__(self, means: Means, system: System) -> Array:
        """Return the value from means by name of the statistic."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return np.asarray(self.function(*(means[s.name] for s in self.needs), system))

    def applies(self, system: System) -> bool:
        """Return whether the system has this observable."""
        return self.condition(system) and all(s.applies(system) for s in self.needs)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the value."""
        return () if self.axis is None else (self.axis.dim,)


_Needed = str | Statistic | Callable[[Slice], Array]


def observable(
    name: str,
    unit: str = "1",
    needs: _Needed | Sequence[_Needed] = (),
    label: str = "",
    *,
    axis: Axis | str | None = None,
    applies: Callable[[System], bool] = _always,
    about: str = "",
    judged: bool = False,
) -> Callable[[Callable[..., Array]], Observable]:
    """Make an observable of a function: measured, printed, plotted, compared, in every table.

    Without `needs` the function takes a slice of configurations (`Slice`: `values` (n, *shape),
    `system`) and returns an average over each, (n,) float64, or (n, k) along an `axis`; the
    observable is the ensemble mean. With `needs` it takes the ensemble mean of each statistic and
    the system, as any nonlinear function of averages must.

    Parameters
    ----------
    name : an identifier; the variable of a Dataset.
    unit : in units of J, k_B and the lattice constant.
    needs : statistics: names of those there are (`observables.STATISTICS`: energy, moments, order,
        ...), or functions of a slice.
    label : the symbol that heads tables.
    axis : of (..., k) values: `side`, `distance`, `radius`, `shell`, `mode`, `size`, or an `Axis`.
    applies : for which systems; for all by default.
    about : the long name; by default the first line of the docstring, or the name.
    judged : whether `compare` judges the residuals along the axis together, by chi^2.

    Examples
    --------
    >>> import numpy as np, skild_phys as sp
    >>> @sp.observable("up", label="p")
    ... def up(part):
    ...     return (part.values > 0).mean(axis=(1, 2))
    >>> spins = np.random.default_rng(1).choice([-1, 1], (100, 8, 8))
    >>> found = sp.measure(spins, extra=[up])
    >>> bool(np.isclose(found["up"], (1 + found["magnetization"]) / 2))
    True
    """
    if not name.isidentifier():
        raise BadInput("name", name, "an identifier, such as my_observable")

    def made(function: Callable[..., Array]) -> Observable:
        title = about or (inspect.getdoc(function) or name.replace("_", " ")).split("\n")[0]
        asked = (needs,) if isinstance(needs, str) or callable(needs) else needs
        found = tuple(map(_statistic, asked))
        over = _known("axis", axis, "AXES", "an Axis") if isinstance(axis, str) else axis
        return Observable(
            name, unit, title.rstrip("."), label, over, found or (Statistic(name, function),),
            function if found else mean, applies, judged,
        )  # fmt: skip

    return made


def _statistic(needed: _Needed) -> Statistic:
    if isinstance(needed, str):
        found: Statistic = _known("needs", needed, "STATISTICS", "a function of a slice")
        return found
    return needed if isinstance(needed, Statistic) else Statistic(needed.__name__, needed)


def _known(parameter: str, name: str, table: str, accepted: str) -> Any:
    from skild_phys.measurement import observables

    known = getattr(observables, table)
    if name not in known:
        raise BadInput(parameter, name, f"{accepted}, or one of {', '.join(known)}")
    return known[name]


def mean(value: Array, system: System) -> Array:
    """Return the mean of a statistic itself."""
    return value
