"""Markov chains: how they start, burn in and draw samples.

A unit is the chains that one call of a kernel advances. `burn`, `watch` and `draw` are all that a
thread or another machine runs: they take a unit and return it as it is later; nothing is shared, so
that a piece of work can be done twice.

The autocorrelation is measured while the chains burn in, pooled over all of them; then the number
of updates between two samples is frozen, as it must be: an interval that depended on the state
would bias the ensemble. What was measured decides when the pilot ends, so after it the chains run
on for a fixed number of updates before the first sample.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Array, Chains, integrated_autocorrelation_time
from skild_phys.errors import BadInput, Interrupted
from skild_phys.executors import Executor, Stop
from skild_phys.rng import seed_sequence
from skild_phys.simulation.spec import SimulationSpec

PIECE_SECONDS = 1.5
"""About how long units run between two looks at how far they are."""
KEEP_SECONDS = 5.0
"""About how long until it is kept how far they are."""

_SLICE_SECONDS = 0.2  # of a kernel between two looks at `stop`; no bytes depend on it
_TAUS_BURNT = 20  # after the pilot, and at least as many in its second half
_TAUS_MEASURED = 160  # of all chains together: tau is then known to about a quarter
_SEGMENT = 64  # records at first
_FINE = 8.0  # records per tau beyond which every other one is dropped
_MOST_UPDATES = 2**24

Kept = Mapping[str, NDArray[Any]]


def _never() -> bool:
    return False


# -- units ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """The state of a unit: `configurations` (replicas, ...) of the model's dtype, and `rng`."""

    configurations: NDArray[Any]
    rng: NDArray[np.uint64]

    @classmethod
    def start(cls, spec: SimulationSpec, number: int) -> Unit:
        """Return a unit as it stands before burn-in."""
        kernel, model = spec.kernel, spec.model
        shape = (kernel.replicas, *model.site_shape(spec.shape))
        rng = kernel.stream(spec.system_seed, "chain", number)
        if spec.start == "cold":
            return cls(model.cold(shape), rng)
        # One lane's own words, by column where there are eight.
        words = np.ascontiguousarray(rng.reshape(4, -1)[:, 0])
        configurations = model.random(shape, words)
        rng.reshape(4, -1)[:, 0] = words
        return cls(configurations, rng)

    def copy(self) -> Unit:
        """Return a copy that can be advanced by itself."""
        return Unit(self.configurations.copy(), self.rng.copy())

    @staticmethod
    def pack(units: Sequence[Unit]) -> dict[str, NDArray[Any]]:
        """Return the arrays that `unpack` makes units of."""
        return {
            "spins": np.concatenate([unit.configurations for unit in units]),
            "rng": np.stack([unit.rng for unit in units]),
        }

    @staticmethod
    def unpack(spec: SimulationSpec, packed: Kept) -> list[Unit]:
        """Return the units that `pack` packed."""
        configurations = np.ascontiguousarray(packed["spins"], dtype=spec.model.dtype)
        states = np.array(packed["rng"], dtype=np.uint64)
        return [
            *map(Unit, configurations.reshape(len(states), -1, *configurations.shape[1:]), states)
        ]


@dataclass
class Samples:
    """What a piece of work yields: samples in the order of the store, and the next state."""

    unit: Unit
    energy: Array
    magnetization: Array
    configurations: list[NDArray[Any]] = field(default_factory=list)


def _advancing(spec: SimulationSpec, unit: Unit, stop: Stop) -> Callable[[int], None]:
    """Return what makes so many updates of a unit, in place; it raises Interrupted by `stop`."""
    kernel, step = spec.kernel, spec.updates_in(_SLICE_SECONDS)

    def advance(updates: int) -> None:
        for done in range(0, updates, step):
            if stop():
                raise Interrupted("stopped")
            count = min(step, updates - done)
            kernel.advance(unit.configurations, spec.model, spec.temperature, unit.rng, count)

    return advance


def burn(spec: SimulationSpec, unit: Unit, updates: int, stop: Stop = _never) -> Unit:
    """Return a unit `updates` updates later."""
    unit = unit.copy()
    _advancing(spec, unit, stop)(updates)
    return unit


def watch(
    spec: SimulationSpec, unit: Unit, records: int, stride: int, stop: Stop = _never
) -> tuple[Unit, Array]:
    """Return a unit later, and its energy and M^2 each `stride` updates, (2, records, replicas)."""
    unit, model = unit.copy(), spec.model
    advance = _advancing(spec, unit, stop)
    series = np.empty((2, records, spec.kernel.replicas))
    for i in range(records):
        advance(stride)
        series[0, i] = model.energy(unit.configurations)
        series[1, i] = model.order_parameter(unit.configurations) ** 2
    return unit, series


def _draw_symmetries(
    spec: SimulationSpec, number: int, first: int, count: int
) -> NDArray[np.int64]:
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
    region: Any = None,
    stop: Stop = _never,
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
    region : where configurations go (`store.StoreWriter.region`); without it they are returned.
    stop : asked every fraction of a second; raises Interrupted once it says so.
    tick : called with the number of samples just made.
    ahead : updates that the unit has made since its last draw.
    """
    unit, model, replicas = unit.copy(), spec.model, spec.kernel.replicas
    advance, every, shape = _advancing(spec, unit, stop), spec.every or 1, spec.shape
    plain = [s in (model.values, np.positive) for s in model.symmetries] or [True]
    parts: list[NDArray[Any]] = []
    energy: list[Array] = []
    magnetization: list[Array] = []
    for start, last in stretches:
        configurations = np.empty((last - start, *model.site_shape(shape)), dtype=model.dtype)
        symmetry = _draw_symmetries(spec, number, made, len(configurations))
        filled = 0
        while filled < len(configurations):
            replica = made % replicas
            if replica == 0:
                advance(every - ahead)
                ahead = 0
            count = min(replicas - replica, len(configurations) - filled)
            configurations[filled : filled + count] = unit.configurations[replica : replica + count]
            filled, made = filled + count, made + count
            tick(count)
        for chosen in np.unique(symmetry):
            if not plain[chosen]:
                here = symmetry == chosen
                configurations[here] = model.turned(chosen, configurations[here])
        energy.append(model.energy(configurations))
        magnetization.append(model.order_parameter(configurations))
        if region is None:
            parts.append(configurations)
        else:
            region.write(start, configurations)
    return Samples(unit, np.concatenate(energy), np.concatenate(magnetization), parts)


# -- burn-in ----------------------------------------------------------------------------------


def autocorrelation(series: Array) -> tuple[Array, Array]:
    """Return tau_int and its error, in records, of series (observables, records, chains)."""
    chain, row = np.indices(series.shape[:0:-1]).reshape(2, -1)
    found = integrated_autocorrelation_time(series.T.reshape(-1, len(series)), Chains(chain, row))
    return found.tau, found.error


class _BurnIn:
    """How far a burn-in is; runs its units in pieces.

    `series` are the records of the pilot so far, (2, records, chains): energy and M^2, each
    `stride` updates; it looks at tau once there are `wanted`. `updates` are those of the pilot,
    `burnt` those after it, or of the burn-in that was asked for; -1 before.
    """

    def __init__(
        self,
        spec: SimulationSpec,
        executor: Executor,
        note: Callable[[str], None],
        kept: Kept,
        keep: Callable[[Kept], None],
    ) -> None:
        self.spec, self.executor, self.note, self.keep = spec, executor, note, keep
        if "series" in kept:
            self.units, self.series = Unit.unpack(spec, kept), np.asarray(kept["series"], float)
            self.stride, self.wanted, self.updates, self.burnt = map(int, kept["numbers"])
        else:
            self.series = np.empty((2, 0, spec.n_chains))
            self.stride, self.wanted, self.updates, self.burnt = 1, _SEGMENT, 0, -1
            self.begin()
        together = executor.at_once / max(spec.units, executor.at_once)
        self.piece = spec.updates_in(PIECE_SECONDS * together)
        self._kept_at = time.monotonic()

    def begin(self) -> None:
        """Put the units where they start."""
        self.units = [Unit.start(self.spec, number) for number in range(self.spec.units)]

    def tau(self) -> tuple[Array, Array]:
        """Return tau and its error of the second half of the pilot, in updates."""
        tau, error = autocorrelation(self.series[:, self.series.shape[1] // 2 :])
        return self.stride * tau, self.stride * error

    def pilot(self) -> None:
        """Run chains until the second half of the run is long enough to say what tau is."""
        unit = self.spec.kernel.unit
        while True:
            self._watch()
            records = self.series.shape[1]
            slowest = float(self.tau()[0].max())
            self.note(f"burn-in: {self.updates} {unit}s, tau {slowest:.3g}")
            half, taus = records - records // 2, slowest / self.stride
            if half >= max(_TAUS_BURNT * taus, _TAUS_MEASURED * taus / self.spec.n_chains):
                return
            if self.updates >= _MOST_UPDATES:
                raise BadInput(
                    "burn_in", "measured",
                    f"a number, with every: after {self.updates} {unit}s the chains do not agree "
                    f"yet (tau > {slowest:.3g}); a cluster algorithm or a cold start may help",
                )  # fmt: skip
            while taus > _FINE:
                self.series, self.stride, taus = self.series[:, 1::2], 2 * self.stride, taus / 2
            self.wanted = self.series.shape[1] + max(_SEGMENT, self.series.shape[1] // 2)

    def _watch(self) -> None:
        """Run the pilot until it has the records that it wants."""
        while (missing := self.wanted - self.series.shape[1]) > 0:
            count = min(missing, max(1, self.piece // self.stride))
            results = self._map(watch, count, self.stride)
            self.units = [unit for unit, _ in results]
            new = np.concatenate([series for _, series in results], axis=2)
            self.series = np.concatenate([self.series, new], axis=1)
            self.updates += count * self.stride
            self._save(KEEP_SECONDS)

    def burn(self, updates: int) -> None:
        """Make the updates after the pilot, as far as they are missing."""
        while self.burnt < updates:
            count = min(updates - self.burnt, self.piece)
            self.units = self._map(burn, count)
            self.burnt += count
            # The end is kept unless it is quickly come by: the first commit may be far.
            self._save(KEEP_SECONDS if self.burnt < updates else KEEP_SECONDS / 5)

    def _map(self, function: Callable[..., Any], *args: int) -> list[Any]:
        try:
            return self.executor.map(function, [(self.spec, unit, *args) for unit in self.units])
        except Interrupted:
            self._save(-1.0)
            raise

    def _save(self, after: float) -> None:
        if time.monotonic() - self._kept_at > after:
            numbers = np.array((self.stride, self.wanted, self.updates, self.burnt))
            self.keep(Unit.pack(self.units) | {"series": self.series, "numbers": numbers})
            self._kept_at = time.monotonic()


def burn_in(
    spec: SimulationSpec,
    executor: Executor,
    note: Callable[[str], None] = lambda text: None,
    *,
    kept: Kept | None = None,
    keep: Callable[[Kept], None] = lambda arrays: None,
) -> tuple[SimulationSpec, list[Unit]]:
    """Return the spec with every number settled, and the units ready for their first sample.

    It is done in pieces of a few seconds, and `keep` is given how far it is: a burn-in that was
    killed resumes there, to the same numbers.

    Parameters
    ----------
    spec : what it gives of `every` and `burn_in` is kept.
    executor : what runs the units.
    note : called now and then with how far it is.
    kept : what `keep` was last given, to resume there.
    keep : called now and then, and when it is stopped, with arrays.

    Raises
    ------
    Interrupted : from the executor, once it is told to stop.
    BadInput : if the chains do not come to agree; then both numbers must be given.
    """
    now, unit = _BurnIn(spec, executor, note, kept or {}, keep), spec.kernel.unit
    measured = spec.every is None or spec.burn_in is None
    if now.burnt < 0:
        if measured:
            now.pilot()
        now.burnt = 0
        if spec.burn_in is not None:
            now.begin()  # the burn-in that was asked for, from the start: the pilot only measured
    if not measured:
        note(f"burn-in: {spec.burn_in} {unit}s")
        now.burn(spec.burn_in or 0)
        return spec, now.units
    tau, error = now.tau()
    slowest = float((tau + error).max())  # one standard error up
    more = math.ceil(_TAUS_BURNT * slowest) if spec.burn_in is None else spec.burn_in
    total = now.updates + more if spec.burn_in is None else more
    note(f"burn-in: {total} {unit}s, tau {float(tau.max()):.3g}")
    now.burn(more)
    settled = dataclasses.replace(
        spec,
        every=spec.every or max(1, math.ceil(2.0 * slowest)),
        burn_in=total,
        tau_energy=float(tau[0]),
        tau_magnetization_squared=float(tau[1]),
    )
    return settled, now.units
