"""Burn-in: until the chains have forgotten their start, and how far apart samples must be.

The autocorrelation is measured while the chains burn in, pooled over all of them; then the number
of updates between two samples is frozen, as it must be: an interval that depended on the state
would bias the ensemble. What was measured decides when the pilot ends, so after it the chains run
on for a fixed number of updates before the first sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from skild_phys.errorbars import Array, Chains, integrated_autocorrelation_time
from skild_phys.errors import BadInput
from skild_phys.simulation.executors import Executor
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.simulation.unit import Unit, burn, start_unit, watch

TAUS_BURNT = 20
"""Autocorrelation times after the pilot, and at least as many in its second half."""

_TAUS_MEASURED = 160  # of all chains together: tau is then known to about a quarter
_SEGMENT = 64  # records at first
_FINE = 8.0  # records a tau beyond which every other one is dropped

_MOST_UPDATES = 2**24

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Pilot:
    """What a pilot run found; tau and its error in updates, of energy and of M^2."""

    units: list[Unit]
    updates: int
    tau: tuple[float, float]
    error: tuple[float, float]

    @property
    def slowest(self) -> float:
        """The larger tau, one standard error up."""
        return max(t + e for t, e in zip(self.tau, self.error))


def autocorrelation(series: Array) -> tuple[Array, Array]:
    """Return tau_int and its error, in records, of series (observables, records, chains)."""
    records, chains = series.shape[1:]
    chain, draw = np.meshgrid(np.arange(chains), np.arange(records), indexing="ij")
    columns = series.transpose(2, 1, 0).reshape(-1, len(series))
    found = integrated_autocorrelation_time(columns, Chains(chain.ravel(), draw.ravel()))
    return found.tau, found.error


def _pilot(spec: SimulationSpec, units: list[Unit], run: Executor, note: Note) -> Pilot:
    """Run chains until the second half of the run is long enough to say what tau is."""
    update = spec.kernel.update
    series = np.empty((2, 0, spec.n_chains))
    stride, updates, segment = 1, 0, _SEGMENT
    while True:
        jobs = [(spec, unit, segment, stride) for unit in units]
        results = run.all(watch, jobs)
        units = [unit for unit, _ in results]
        series = np.concatenate([series, np.concatenate([s for _, s in results], axis=2)], axis=1)
        updates += segment * stride
        half = series[:, series.shape[1] // 2 :]
        tau, error = autocorrelation(half)
        slowest = float(tau.max())
        note(f"burn-in: {updates} {update}s, tau {slowest * stride:.3g}")
        if half.shape[1] >= max(TAUS_BURNT * slowest, _TAUS_MEASURED * slowest / spec.n_chains):
            break
        if updates >= _MOST_UPDATES:
            raise BadInput(
                "--burn-in", "measured",
                f"a number, with --every: after {updates} {update}s the chains do not agree yet "
                f"(tau > {slowest * stride:.3g}); a cluster algorithm or --start cold may help",
            )  # fmt: skip
        while slowest > _FINE:
            series, stride, slowest = series[:, 1::2], 2 * stride, slowest / 2
        segment = max(_SEGMENT, series.shape[1] // 2)
    times = [float(t) * stride for t in tau], [float(e) * stride for e in error]
    return Pilot(units, updates, (times[0][0], times[0][1]), (times[1][0], times[1][1]))


def burn_in(
    spec: SimulationSpec, run: Executor, note: Note = lambda text: None
) -> tuple[SimulationSpec, list[Unit]]:
    """Return the spec with every number settled, and the units ready for their first sample.

    Parameters
    ----------
    spec : what it gives of `every` and `burn_in` is kept.
    run : what runs the units.
    note : called now and then with how far it is.

    Raises
    ------
    Interrupted : from the executor, once it is told to stop.
    BadInput : if the chains do not come to agree; then both numbers must be given.
    """
    units = [start_unit(spec, number) for number in range(spec.units)]
    if spec.every is not None and spec.burn_in is not None:
        note(f"burn-in: {spec.burn_in} {spec.kernel.update}s")
        done = run.all(burn, [(spec, unit, spec.burn_in) for unit in units])
        return spec, done
    found = _pilot(spec, units, run, note)
    every = spec.every or max(1, math.ceil(2.0 * found.slowest))
    if spec.burn_in is None:
        more = math.ceil(TAUS_BURNT * found.slowest)
        units, total = found.units, found.updates + more
    else:
        # The burn-in that was asked for, from the start: the pilot only measured.
        more = total = spec.burn_in
    note(f"burn-in: {total} {spec.kernel.update}s, tau {max(found.tau):.3g}")
    done = run.all(burn, [(spec, unit, more) for unit in units])
    settled = dataclasses.replace(
        spec,
        every=every,
        burn_in=total,
        tau_energy=found.tau[0],
        tau_magnetization_squared=found.tau[1],
    )
    return settled, done
