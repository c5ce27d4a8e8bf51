"""A unit: the chains that one call of a kernel advances, and the pieces of work it is given.

The functions here are all that a thread or another machine runs. They take the state of a unit and
return the next one; nothing is shared, so that a piece of work can be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import Interrupted
from skild_phys.rng import seed_sequence
from skild_phys.simulation.spec import SimulationSpec

_SLICE_SECONDS = 0.2
"""About how long a kernel runs between two looks at `stop`; no bytes depend on it."""

Array = NDArray[np.float64]


class Region(Protocol):
    """Where a piece of work writes its lattices (`store.StoreWriter.region`)."""

    def write(self, first: int, lattices: NDArray[Any]) -> None:
        """Write samples first .. first + n - 1."""


@dataclass(frozen=True)
class Unit:
    """The state of a unit: `lattices` (replicas, ...) of the model's dtype, `rng` the words."""

    lattices: NDArray[Any]
    rng: NDArray[np.uint64]

    def copy(self) -> Unit:
        """Return a copy that can be advanced by itself."""
        return Unit(self.lattices.copy(), self.rng.copy())


def units_state(units: Sequence[Unit]) -> dict[str, NDArray[Any]]:
    """Return the arrays that `restored_units` makes units of."""
    return {
        "spins": np.concatenate([unit.lattices for unit in units]),
        "rng": np.stack([unit.rng for unit in units]),
    }


def restored_units(spec: SimulationSpec, state: Mapping[str, NDArray[Any]]) -> list[Unit]:
    """Return the units of `units_state`."""
    lattices = np.ascontiguousarray(state["spins"], dtype=spec.model.dtype)
    replicas = spec.kernel.replicas
    return [
        Unit(lattices[u * replicas : (u + 1) * replicas], np.array(rng, dtype=np.uint64))
        for u, rng in enumerate(state["rng"])
    ]


@dataclass
class Samples:
    """What a piece of work yields: samples in the order of the store, and the next state."""

    unit: Unit
    energy: Array
    magnetization: Array
    lattices: list[NDArray[Any]] = field(default_factory=list)


def start_unit(spec: SimulationSpec, number: int) -> Unit:
    """Return a unit as it stands before burn-in."""
    kernel, model = spec.kernel, spec.model
    shape = (kernel.replicas, *model.site_shape(spec.shape))
    rng = kernel.stream(spec.system_seed, "chain", number)
    if spec.start == "cold":
        return Unit(model.cold(shape), rng)
    # One lane's own words, by column where there are eight.
    words = np.ascontiguousarray(rng.reshape(4, -1)[:, 0])
    lattices = model.random(shape, words)
    rng.reshape(4, -1)[:, 0] = words
    return Unit(lattices, rng)


def advance(spec: SimulationSpec, unit: Unit, updates: int, stop: Callable[[], bool]) -> None:
    """Make `updates` updates of a unit, in place; raises Interrupted once `stop` says so."""
    kernel = spec.kernel
    step = updates_in(spec, _SLICE_SECONDS)
    for done in range(0, updates, step):
        if stop():
            raise Interrupted("stopped")
        count = min(step, updates - done)
        kernel.advance(unit.lattices, spec.model, spec.temperature, unit.rng, count)


def updates_in(spec: SimulationSpec, seconds: float) -> int:
    """Return about how many updates of a unit take so long."""
    kernel = spec.kernel
    return max(1, int(seconds * 1e9 / (kernel.pace * spec.sites * kernel.replicas)))


def never() -> bool:
    """Return False: the `stop` of work that is not to be stopped."""
    return False


def burn(spec: SimulationSpec, unit: Unit, updates: int, stop: Callable[[], bool] = never) -> Unit:
    """Return a unit `updates` updates later."""
    unit = unit.copy()
    advance(spec, unit, updates, stop)
    return unit


def watch(
    spec: SimulationSpec, unit: Unit, records: int, stride: int, stop: Callable[[], bool] = never
) -> tuple[Unit, Array]:
    """Return a unit later, and its energy and M^2 each `stride` updates, (2, records, replicas)."""
    unit, model = unit.copy(), spec.model
    series = np.empty((2, records, spec.kernel.replicas))
    for i in range(records):
        advance(spec, unit, stride, stop)
        series[0, i] = model.energy(unit.lattices)
        series[1, i] = model.order_parameter(unit.lattices) ** 2
    return unit, series


def turns(spec: SimulationSpec, number: int, first: int, count: int) -> NDArray[np.int64]:
    """Return which symmetry of the model is applied to samples first .. of unit `number`.

    Where a change of all spins costs no energy an ensemble has both signs (all states) as often;
    but a chain may change its sign rarely (single sites below Tc) or in step with the samples
    (Wolff clusters that are the whole lattice). So every sample is stored under one of the
    symmetries that the model declares, drawn for it alone and addressed by its index (Philox), not
    by order.
    """
    choices = len(spec.model.symmetries)
    if choices < 2:
        return np.zeros(count, dtype=np.int64)
    stream = np.random.Philox(seed_sequence(spec.system_seed, "symmetry", number)).advance(first)
    drawn = stream.random_raw(4 * count)[::4] >> np.uint64(32)
    return ((drawn * np.uint64(choices)) >> np.uint64(32)).astype(np.int64)


def draw(
    spec: SimulationSpec,
    number: int,
    unit: Unit,
    made: int,
    stretches: Sequence[tuple[int, int]],
    region: Region | None = None,
    stop: Callable[[], bool] = never,
    tick: Callable[[int], None] = lambda count: None,
    *,
    ahead: int = 0,
) -> Samples:
    """Draw samples of a unit.

    Parameters
    ----------
    spec : with `every` settled.
    number : of the unit.
    unit : as it stands after `made` samples.
    made : samples that the unit has made; in the middle of a draw the replicas that are left
        come before the unit moves on.
    stretches : (start, stop) of the samples to make, by their index in the store, in order.
    region : where lattices go; without it they are returned.
    stop : asked every fraction of a second; raises Interrupted once it says so.
    tick : called with the number of samples just made.
    ahead : updates that the unit has made since its last draw.
    """
    unit, model, replicas = unit.copy(), spec.model, spec.kernel.replicas
    shape = model.site_shape(spec.shape)
    parts: list[NDArray[Any]] = []
    energy: list[Array] = []
    magnetization: list[Array] = []
    for start, last in stretches:
        lattices = np.empty((last - start, *shape), dtype=model.dtype)
        turn = turns(spec, number, made, len(lattices))
        filled = 0
        while filled < len(lattices):
            replica = made % replicas
            if replica == 0:
                advance(spec, unit, (spec.every or 1) - ahead, stop)
                ahead = 0
            count = min(replicas - replica, len(lattices) - filled)
            lattices[filled : filled + count] = unit.lattices[replica : replica + count]
            filled, made = filled + count, made + count
            tick(count)
        for symmetry in np.unique(turn) if model.symmetries else ():
            here = turn == symmetry
            lattices[here] = model.turned(symmetry, lattices[here])
        energy.append(model.energy(lattices))
        magnetization.append(model.order_parameter(lattices))
        if region is None:
            parts.append(lattices)
        else:
            region.write(start, lattices)
    return Samples(unit, np.concatenate(energy), np.concatenate(magnetization), parts)
