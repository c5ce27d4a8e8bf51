"""How long kernels take, and how long chains remember: what a benchmark is put together from."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from skild_phys.simulation.burn_in import autocorrelation, burn_in
from skild_phys.simulation.executors import Executor, threads
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.simulation.unit import Unit, draw, never, start_unit, watch

_TAUS = 4000  # of all chains together: tau is then known to about a twentieth
_FEWEST_TAUS = 20  # of a chain, however short the time
_FINE = 8.0  # records a tau
_MOST_UPDATES = 2**30


@dataclass(frozen=True)
class Timing:
    """Equal measurements, one after the other."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Load:
    """What the first call of a kernel in this process took, on the smallest lattice."""

    seconds: float
    compiled: bool


@dataclass(frozen=True)
class Tau:
    """Integrated autocorrelation times and their errors, in updates, of energy and of M^2.

    `shape` is the lattice they were measured on. Where that is not the one they are for,
    `factor` is what they were multiplied with.
    """

    time: tuple[float, float]
    error: tuple[float, float]
    shape: tuple[int, ...]
    factor: float = 1.0

    @property
    def slowest(self) -> float:
        """The larger of the two times."""
        return max(self.time)

    def scaled(self, factor: float) -> Tau:
        """Return the times multiplied with a factor."""
        (e, m), (de, dm) = self.time, self.error
        times, errors = (factor * e, factor * m), (factor * de, factor * dm)
        return Tau(times, errors, self.shape, factor * self.factor)


@dataclass(frozen=True)
class Scaling:
    """Samples a second on so many threads; `speedup` is over one thread, run beside run."""

    threads: int
    rate: Timing
    speedup: Timing


class Timed(Protocol):
    """A chain whose updates can be timed."""

    def time(self, updates: int) -> tuple[float, int | None]:
        """Return the seconds that so many updates took, and how many spins Wolff flipped.

        None for other updates, and where a package does not say.
        """


class Kernel:
    """Lattices (replicas, ...) that a kernel of this package advances, from equilibrium on."""

    def __init__(self, spec: SimulationSpec, lattices: NDArray[np.int8]) -> None:
        self._spec, self._lattices = spec, lattices
        self._rng = spec.kernel.start(spec.seed, 0)

    def time(self, updates: int) -> tuple[float, int | None]:
        """Return the seconds that so many updates took, and how many spins Wolff flipped."""
        spec, advance = self._spec, self._spec.kernel.advance
        began = time.perf_counter()
        flipped: Any = advance(self._lattices, spec.system, spec.temperature, self._rng, updates)
        return time.perf_counter() - began, flipped


def load_kernel(spec: SimulationSpec) -> Load:
    """Call a kernel for the first time; `compiled` says whether it did not lie in the cache."""
    unit = start_unit(spec, 0)
    with event.install_recorder("numba:compile") as compiled:
        began = time.perf_counter()
        spec.kernel.advance(unit.lattices, spec.system, spec.temperature, unit.rng, 1)
        took = time.perf_counter() - began
    return Load(took, bool(compiled.buffer))


def calibrate(work: Callable[[int], object], seconds: float) -> int:
    """Return how many times `work` does its piece of work in about so many seconds."""
    count = 1
    while True:
        began = time.perf_counter()
        work(count)
        took = time.perf_counter() - began
        if took > seconds / 4.0 or count >= _MOST_UPDATES:
            return max(1, round(count * seconds / took))
        count *= 2


def measure_tau(spec: SimulationSpec, run: Executor, seconds: float) -> tuple[Tau, list[Unit]]:
    """Return the autocorrelation times of a simulation, and its units in equilibrium.

    Parameters
    ----------
    spec : what is simulated.
    run : what runs its units.
    seconds : after which no more is recorded than a rough answer takes.
    """
    settled, units = burn_in(spec, run)
    slowest = max(settled.tau_energy or 0.5, settled.tau_magnetization_squared or 0.5)
    stride = max(1, int(slowest / _FINE))
    least = math.ceil(_FEWEST_TAUS * slowest / stride)
    wanted = max(least, math.ceil(_TAUS * slowest / (stride * spec.n_chains)))
    series = np.empty((2, 0, spec.n_chains))
    began = time.monotonic()
    while (made := series.shape[1]) < wanted:
        if made >= least and time.monotonic() - began > seconds:
            break
        segment = min(max(least, made), wanted - made)
        results = run.all(watch, [(spec, unit, segment, stride) for unit in units])
        units = [unit for unit, _ in results]
        series = np.concatenate([series, np.concatenate([s for _, s in results], axis=2)], axis=1)
    tau, error = (stride * a for a in autocorrelation(series))
    times, errors = (float(tau[0]), float(tau[1])), (float(error[0]), float(error[1]))
    return Tau(times, errors, spec.shape), units


def time_threads(
    spec: SimulationSpec, units: list[Unit], numbers: list[int], runs: int, seconds: float
) -> list[Scaling]:
    """Time the drawing of samples on several numbers of threads, each thread a unit of its own.

    Every thread gets the same amount of work whatever their number, and the numbers take turns.
    `spec` has a settled `every`; `numbers` begin with 1.
    """
    replicas = spec.kernel.replicas
    count = calibrate(lambda n: draw(spec, 0, units[0], 0, [(0, n * replicas)]), seconds)
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(runs):
        for number in numbers:
            work = [(0, count * replicas)]
            jobs = [(spec, n, unit, 0, work) for n, unit in enumerate(units[:number])]
            with threads(number, never) as run:
                began = time.perf_counter()
                run.all(draw, jobs)
                took = time.perf_counter() - began
            rates[number].append(number * count * replicas / took)
    speedups = {n: tuple(a / b for a, b in zip(rates[n], rates[1])) for n in numbers}
    return [Scaling(n, Timing(tuple(rates[n])), Timing(speedups[n])) for n in numbers]
