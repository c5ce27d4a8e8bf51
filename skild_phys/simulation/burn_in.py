"""Burn-in: until the chains have forgotten their start, and how far apart samples must be.

The autocorrelation is measured while the chains burn in, pooled over all of them; then the number
of updates between two samples is frozen, as it must be: an interval that depended on the state
would bias the ensemble. What was measured decides when the pilot ends, so after it the chains run
on for a fixed number of updates before the first sample.

It is done in pieces of a few seconds, and `keep` is told how far it is: a burn-in that was killed
goes on from there, to the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Array, Chains, integrated_autocorrelation_time
from skild_phys.errors import BadInput, Interrupted
from skild_phys.executors import Executor
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.simulation.unit import (
    Unit,
    burn,
    restored_units,
    start_unit,
    units_state,
    updates_in,
    watch,
)

TAUS_BURNT = 20
"""Autocorrelation times after the pilot, and at least as many in its second half."""

_TAUS_MEASURED = 160  # of all chains together: tau is then known to about a quarter
_SEGMENT = 64  # records at first
_FINE = 8.0  # records a tau beyond which every other one is dropped

_MOST_UPDATES = 2**24

PIECE_SECONDS, KEEP_SECONDS = 1.5, 5.0
"""About how long units run between two looks, and between two times that it is kept how far."""

Note = Callable[[str], None]
Kept = Mapping[str, NDArray[Any]]
Keep = Callable[[Kept], None]


@dataclasses.dataclass
class Progress:
    """How far a burn-in is.

    Attributes
    ----------
    units : as they are now.
    series : records of the pilot so far, (2, records, chains): energy and M^2, each `stride`
        updates.
    wanted : records at which the pilot next looks at tau.
    updates : that the pilot has made.
    burnt : updates made after the pilot, or of the burn-in that was asked for; -1 before.
    """

    units: list[Unit]
    series: Array
    stride: int = 1
    wanted: int = _SEGMENT
    updates: int = 0
    burnt: int = -1

    @classmethod
    def begin(cls, spec: SimulationSpec, kept: Kept) -> Progress:
        """Return what `arrays` gave, or how a burn-in begins."""
        if "series" in kept:
            units = restored_units(spec, kept)
            return cls(units, np.asarray(kept["series"], float), *map(int, kept["numbers"]))
        return cls(_fresh(spec), np.empty((2, 0, spec.n_chains)))

    def arrays(self) -> Kept:
        """Return all of it as arrays."""
        numbers = np.array((self.stride, self.wanted, self.updates, self.burnt))
        return units_state(self.units) | {"series": self.series, "numbers": numbers}

    def tau(self) -> tuple[Array, Array]:
        """Return tau and its error of the second half of the pilot, in records."""
        return autocorrelation(self.series[:, self.series.shape[1] // 2 :])


def _fresh(spec: SimulationSpec) -> list[Unit]:
    return [start_unit(spec, number) for number in range(spec.units)]


class _Work:
    """Runs the units of a burn-in in pieces, and keeps how far it is about each `KEEP_SECONDS`."""

    def __init__(self, spec: SimulationSpec, run: Executor, progress: Progress, keep: Keep) -> None:
        self.spec, self.run, self.now, self.keep = spec, run, progress, keep
        self.piece = updates_in(spec, PIECE_SECONDS * run.at_once / max(spec.units, run.at_once))
        self._kept = time.monotonic()

    def watch(self) -> None:
        """Run the pilot until it has the records that it wants."""
        now = self.now
        while (missing := now.wanted - now.series.shape[1]) > 0:
            count = min(missing, max(1, self.piece // now.stride))
            jobs = [(self.spec, unit, count, now.stride) for unit in now.units]
            results = self._all(watch, jobs)
            now.units = [unit for unit, _ in results]
            new = np.concatenate([series for _, series in results], axis=2)
            now.series = np.concatenate([now.series, new], axis=1)
            now.updates += count * now.stride
            self._saved(KEEP_SECONDS)

    def burn(self, updates: int) -> None:
        """Make the updates after the pilot, as far as they are missing."""
        now = self.now
        while now.burnt < updates:
            count = min(updates - now.burnt, self.piece)
            now.units = self._all(burn, [(self.spec, unit, count) for unit in now.units])
            now.burnt += count
            # The end is kept unless it is quickly come by: the first commit may be far.
            self._saved(KEEP_SECONDS if now.burnt < updates else KEEP_SECONDS / 5)

    def _all(self, function: Callable[..., Any], jobs: list[Any]) -> list[Any]:
        try:
            return self.run.map(function, jobs)
        except Interrupted:
            self.keep(self.now.arrays())
            raise

    def _saved(self, after: float) -> None:
        if time.monotonic() - self._kept > after:
            self.keep(self.now.arrays())
            self._kept = time.monotonic()


def autocorrelation(series: Array) -> tuple[Array, Array]:
    """Return tau_int and its error, in records, of series (observables, records, chains)."""
    records, chains = series.shape[1:]
    chain, draw = np.meshgrid(np.arange(chains), np.arange(records), indexing="ij")
    columns = series.transpose(2, 1, 0).reshape(-1, len(series))
    found = integrated_autocorrelation_time(columns, Chains(chain.ravel(), draw.ravel()))
    return found.tau, found.error


def _pilot(work: _Work, note: Note) -> None:
    """Run chains until the second half of the run is long enough to say what tau is."""
    now, spec = work.now, work.spec
    update = spec.kernel.unit
    while True:
        work.watch()
        half, slowest = now.series.shape[1] - now.series.shape[1] // 2, float(now.tau()[0].max())
        note(f"burn-in: {now.updates} {update}s, tau {slowest * now.stride:.3g}")
        if half >= max(TAUS_BURNT * slowest, _TAUS_MEASURED * slowest / spec.n_chains):
            return
        if now.updates >= _MOST_UPDATES:
            raise BadInput(
                "burn_in", "measured",
                f"a number, with every=: after {now.updates} {update}s the chains do not agree "
                f"yet (tau > {slowest * now.stride:.3g}); a cluster algorithm or a cold start may "
                "help",
            )  # fmt: skip
        while slowest > _FINE:
            now.series, now.stride, slowest = now.series[:, 1::2], 2 * now.stride, slowest / 2
        now.wanted = now.series.shape[1] + max(_SEGMENT, now.series.shape[1] // 2)


def burn_in(
    spec: SimulationSpec,
    run: Executor,
    note: Note = lambda text: None,
    *,
    kept: Kept | None = None,
    keep: Keep = lambda arrays: None,
) -> tuple[SimulationSpec, list[Unit]]:
    """Return the spec with every number settled, and the units ready for their first sample.

    Parameters
    ----------
    spec : what it gives of `every` and `burn_in` is kept.
    run : what runs the units.
    note : called now and then with how far it is.
    kept : what `keep` was last given, to go on from there.
    keep : called now and then, and when it is told to stop, with arrays.

    Raises
    ------
    Interrupted : from the executor, once it is told to stop.
    BadInput : if the chains do not come to agree; then both numbers must be given.
    """
    work = _Work(spec, run, Progress.begin(spec, kept or {}), keep)
    now, measured = work.now, spec.every is None or spec.burn_in is None
    if measured and now.burnt < 0:
        _pilot(work, note)
    if now.burnt < 0:
        now.burnt = 0
        if spec.burn_in is not None:
            # The burn-in that was asked for, from the start: the pilot only measured.
            now.units = _fresh(spec)
    if not measured:
        note(f"burn-in: {spec.burn_in} {spec.kernel.unit}s")
        work.burn(spec.burn_in or 0)
        return spec, now.units
    tau, error = (now.stride * found for found in now.tau())
    slowest = float((tau + error).max())  # one standard error up
    more = math.ceil(TAUS_BURNT * slowest) if spec.burn_in is None else spec.burn_in
    total = now.updates + more if spec.burn_in is None else more
    note(f"burn-in: {total} {spec.kernel.unit}s, tau {float(tau.max()):.3g}")
    work.burn(more)
    settled = dataclasses.replace(
        spec,
        every=spec.every or max(1, math.ceil(2.0 * slowest)),
        burn_in=total,
        tau_energy=float(tau[0]),
        tau_magnetization_squared=float(tau[1]),
    )
    return settled, now.units
