"""How long things take, and how long chains remember: what a benchmark is put together from."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from skild_phys.executors import Executor, threads
from skild_phys.simulation.chain import Unit, autocorrelation, burn_in, draw, watch
from skild_phys.simulation.spec import SimulationSpec

_TAUS = 4000  # of all chains together: tau is then known to about a twentieth
_FEWEST_TAUS = 20  # of a chain, however short the time
_FINE = 8.0  # records a tau
_MOST_UPDATES = 2**30


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Clock:
    """Seconds by part, on one thread; a part inside another counts as itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inner = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with its calls counted and timed as `part`."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                took = time.perf_counter() - began
                self.seconds[part] += took - self._inner.pop()
                self.calls[part] += 1
                self._inner[-1] += took

        return call

    @contextlib.contextmanager
    def around(self, methods: Iterable[tuple[str, object, str]]) -> Iterator[None]:
        """Time the methods (part, object or class, name); raises AttributeError if one is gone."""
        with contextlib.ExitStack() as undo:
            for part, owner, name in methods:
                function = getattr(owner, name)
                if name in vars(owner):
                    undo.callback(setattr, owner, name, function)
                else:
                    undo.callback(delattr, owner, name)
                setattr(owner, name, self.timed(part, function))
            yield


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

    def scaled(self, factor: float) -> Tau:
        """Return the times multiplied with a factor."""
        (e, m), (de, dm) = self.time, self.error
        times, errors = (factor * e, factor * m), (factor * de, factor * dm)
        return Tau(times, errors, self.shape, factor * self.factor)


class Kernel:
    """Lattices (replicas, ...) that a kernel of this package advances, from equilibrium on."""

    def __init__(self, spec: SimulationSpec, lattices: NDArray[np.int8]) -> None:
        self._spec, self._lattices = spec, lattices
        self._rng = spec.kernel.stream(spec.seed, "chain", 0)

    def time(self, updates: int) -> tuple[float, int | None]:
        """Return the seconds that so many updates took, and how many spins Wolff flipped."""
        spec, advance = self._spec, self._spec.kernel.advance
        began = time.perf_counter()
        flipped: Any = advance(self._lattices, spec.model, spec.temperature, self._rng, updates)
        return time.perf_counter() - began, flipped


def load_kernel(spec: SimulationSpec) -> dict[str, Any]:
    """Call a kernel for the first time; `compiled` says whether it did not lie in the cache."""
    unit, args = Unit.start(spec, 0), (spec.model, spec.temperature)
    with event.install_recorder("numba:compile") as compiled:
        took = seconds_of(lambda: spec.kernel.advance(unit.configurations, *args, unit.rng, 1))
    return {"load_seconds": took, "compiled": bool(compiled.buffer)}


def calibrate(work: Callable[[int], object], seconds: float) -> int:
    """Return how many times `work` does its piece of work in about so many seconds."""
    count = 1
    while True:
        took = seconds_of(functools.partial(work, count))
        if took > seconds / 4.0 or count >= _MOST_UPDATES:
            return max(1, round(count * seconds / took))
        count *= 2


def measure_tau(spec: SimulationSpec, run: Executor, seconds: float) -> tuple[Tau, list[Unit]]:
    """Return the autocorrelation times of a simulation, and its units in equilibrium.

    After `seconds` no more is recorded than a rough answer takes.
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
        results = run.map(watch, [(spec, unit, segment, stride) for unit in units])
        units = [unit for unit, _ in results]
        series = np.concatenate([series, np.concatenate([s for _, s in results], axis=2)], axis=1)
    tau, error = (stride * a for a in autocorrelation(series))
    times, errors = (float(tau[0]), float(tau[1])), (float(error[0]), float(error[1]))
    return Tau(times, errors, spec.shape), units


def with_runs(name: str, runs: list[float]) -> dict[str, Any]:
    """Return the median of equal measurements, and all of them."""
    return {name: statistics.median(runs), f"{name}_runs": runs}


def time_threads(
    spec: SimulationSpec, units: list[Unit], numbers: list[int], runs: int, seconds: float
) -> list[dict[str, Any]]:
    """Time the drawing of samples on several numbers of threads, each thread a unit of its own.

    Every thread gets the same amount of work whatever their number, and the numbers take turns;
    `speedup` is over one thread, run beside run. `spec` has a settled `every`; `numbers` begin
    with 1.
    """
    replicas = spec.kernel.replicas
    count = calibrate(lambda n: draw(spec, 0, units[0], 0, [(0, n * replicas)]), seconds)
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(runs):
        for number in numbers:
            work = [(0, count * replicas)]
            jobs = [(spec, n, unit, 0, work) for n, unit in enumerate(units[:number])]
            with threads(number, lambda: False) as run:
                took = seconds_of(functools.partial(run.map, draw, jobs))
            rates[number].append(number * count * replicas / took)
    return [
        {
            "algorithm": spec.algorithm,
            "threads": n,
            **with_runs("samples_per_second", rates[n]),
            **with_runs("speedup", [a / b for a, b in zip(rates[n], rates[1])]),
        }
        for n in numbers
    ]
