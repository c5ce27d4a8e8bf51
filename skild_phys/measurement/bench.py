"""What measuring costs, beside the least that it could: one Fourier transform, one pass."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import scipy.fft

from skild_phys.measurement.dataset import measure
from skild_phys.measurement.four_point import TERMS, four_point_terms
from skild_phys.measurement.statistics import collect
from skild_phys.measurement.system import System
from skild_phys.models.ising import ISING_2D
from skild_phys.simulation.chain import simulate
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import LatticeStore, create_store, open_store

TWO_POINT = ("radial", "along_k", "axis", "diagonal", "distance")
"""Statistics of S(k) and of G at all separations: shells, axes, diagonals."""


@dataclass(frozen=True)
class MeasureSpeed:
    """Seconds for all lattices, medians over runs; peaks of memory in MiB.

    Attributes
    ----------
    shape, lattices, sides, threads : what was measured, and with how many threads.
    read : reading and checking the store.
    transform : one batched real FFT (SciPy, float64) of the lattices, in memory.
    two_point : reading, S(k) and G at all separations.
    memory_pass : one sum over the lattices in memory, read as 64-bit words.
    four_point : all terms of the four-point function at all sides, of lattices in memory.
    everything : `measure` with every observable and its error.
    peaks : gibibytes of a store's lattices -> peak resident memory of measuring it.
    """

    shape: tuple[int, ...]
    lattices: int
    sides: int
    threads: int
    read: float
    transform: float
    two_point: float
    memory_pass: float
    four_point: float
    everything: float
    peaks: dict[float, float]

    @property
    def two_point_ratio(self) -> float:
        """Time of S(k) and G over that of reading and one transform."""
        return self.two_point / (self.read + self.transform)

    @property
    def four_point_ratio(self) -> float:
        """Time of a term of the four-point function over that of a pass over memory."""
        return self.four_point / (self.sides * len(TERMS)) / self.memory_pass


def critical_store(path: Path, side: int, n: int, threads: int) -> LatticeStore:
    """Simulate n critical Ising lattices of side^2 into a store."""
    spec = SimulationSpec(side, ISING_2D.critical_temperature, n, seed=1)
    simulate(spec, path, n_threads=threads)
    return open_store(path)


def measure_speed(
    store: LatticeStore, threads: int, runs: int = 3, peaks: dict[float, float] | None = None
) -> MeasureSpeed:
    """Time the measurement of a store of 2D spins; kernels are compiled first.

    The batched transform is one call of SciPy's for all lattices, with as many workers as
    `threads`. It is timed first, while the C library still hands out memory as it likes best.
    Passes over memory and the four-point function run on one thread.
    """
    system, n = System.of(store), store.n_samples
    spins = store.read(0, n)
    label = np.arange(n)
    words = spins.reshape(-1)[: spins.size // 8 * 8].view(np.uint64)

    def read() -> None:
        for start, stop in store.batches():
            store.read(start, stop)

    def transform() -> None:
        scipy.fft.rfft2(spins, workers=threads)

    def two_point() -> None:
        collect(store, system, label, n, needed=TWO_POINT, threads=threads)

    def memory_pass() -> None:
        words.sum()

    def four_point() -> None:
        four_point_terms(spins, system.sides.tolist())

    def everything() -> None:
        measure(store, threads=threads)

    works = (transform, read, two_point, memory_pass, four_point, everything)
    seconds = {work.__name__: _median(work, runs) for work in works}
    return MeasureSpeed(system.shape, n, len(system.sides), threads, **seconds, peaks=peaks or {})


def _median(work: Callable[[], None], runs: int) -> float:
    """Return the median time of `runs` calls after a first one."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


def peak_memory(
    store: LatticeStore, folder: Path, gibibytes: Sequence[float], threads: int
) -> dict[float, float]:
    """Return the peak resident memory, in MiB, of `measure` on stores of so many GiB of spins.

    Their lattices are those of `store`, moved by a vector each, over and over; each store is
    measured by a process of its own.
    """
    found = {}
    for size in gibibytes:
        n = max(round(size * 2**30 / np.prod(store.shape)), 2)
        path = folder / f"{size:g}.zarr"
        with create_store(
            path, field="spins", n_samples=n, shape=store.shape, chunk=store.chunk,
            attrs={k: store.attrs[k] for k in ("model", "temperature")}, variables=(),
        ) as writer:  # fmt: skip
            spins = store.read(0, store.n_samples)
            for start in range(0, n, store.chunk):
                index = np.arange(start, min(start + store.chunk, n))
                moved = np.roll(spins[index % len(spins)], (7 * start, 3 * start), (1, 2))
                writer.commit({"spins": moved})
        command = [sys.executable, "-m", "skild_phys.measurement.bench", str(path), str(threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[size] = float(done.stdout)
    return found


def _peak_of(path: str, threads: int) -> float:
    """Measure a store in this process and return its peak resident memory in MiB."""
    import resource

    measure(path, threads=threads)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


if __name__ == "__main__":
    print(_peak_of(sys.argv[1], int(sys.argv[2])))
