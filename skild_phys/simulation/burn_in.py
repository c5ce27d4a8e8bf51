"""Burn-in: until the chains have forgotten their start, and how far apart samples must be.

The autocorrelation is measured while the chains burn in, pooled over all of them; then the number
of updates between two samples is frozen, as it must be: an interval that depended on the state
would bias the ensemble. What was measured decides when the pilot ends, so after it the chains run
on for a fixed number of updates before the first sample.

It is done in pieces of a few seconds, and `keep` is told how far it is: a burn-in that was killed
resumes there, to the same numbers.
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

_TAUS_BURNT = 20  # after the pilot, and at least as many in its second half
_TAUS_MEASURED = 160  # of all chains together: tau is then known to about a quarter
_SEGMENT = 64  # records at first
_FINE = 8.0  # records per tau beyond which every other one is dropped
_MOST_UPDATES = 2**24

PIECE_SECONDS = 1.5
"""About how long units run between two looks at how far they are."""
KEEP_SECONDS = 5.0
"""About how long until it is kept how far they are."""

_Kept = Mapping[str, NDArray[Any]]


def autocorrelation(series: Array) -> tuple[Array, Array]:
    """Return tau_int and its error, in records, of series (observables, records, chains)."""
    records, chains = series.shape[1:]
    chain, draw = np.meshgrid(np.arange(chains), np.arange(records), indexing="ij")
    columns = series.transpose(2, 1, 0).reshape(-1, len(series))
    found = integrated_autocorrelation_time(columns, Chains(chain.ravel(), draw.ravel()))
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
        kept: _Kept,
        keep: Callable[[_Kept], None],
    ) -> None:
        self.spec, self.executor, self.note, self.keep = spec, executor, note, keep
        if "series" in kept:
            self.units, self.series = restored_units(spec, kept), np.asarray(kept["series"], float)
            self.stride, self.wanted, self.updates, self.burnt = map(int, kept["numbers"])
        else:
            self.series = np.empty((2, 0, spec.n_chains))
            self.stride, self.wanted, self.updates, self.burnt = 1, _SEGMENT, 0, -1
            self.begin()
        together = executor.at_once / max(spec.units, executor.at_once)
        self.piece = updates_in(spec, PIECE_SECONDS * together)
        self._kept_at = time.monotonic()

    def begin(self) -> None:
        """Put the units where they start."""
        self.units = [start_unit(self.spec, number) for number in range(self.spec.units)]

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
            jobs = [(self.spec, unit, *args) for unit in self.units]
            return self.executor.map(function, jobs)
        except Interrupted:
            self._save(-1.0)
            raise

    def _save(self, after: float) -> None:
        if time.monotonic() - self._kept_at > after:
            numbers = np.array((self.stride, self.wanted, self.updates, self.burnt))
            self.keep(units_state(self.units) | {"series": self.series, "numbers": numbers})
            self._kept_at = time.monotonic()


def burn_in(
    spec: SimulationSpec,
    executor: Executor,
    note: Callable[[str], None] = lambda text: None,
    *,
    kept: _Kept | None = None,
    keep: Callable[[_Kept], None] = lambda arrays: None,
) -> tuple[SimulationSpec, list[Unit]]:
    """Return the spec with every number settled, and the units ready for their first sample.

    Parameters
    ----------
    spec : what it gives of `every` and `burn_in` is kept.
    executor : what runs the units.
    note : called now and then with how far it is.
    kept : what `keep` was last given, to resume there.
    keep : called now and then, and when it is told to stop, with arrays.

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
