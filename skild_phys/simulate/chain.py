"""The loop that runs Markov chains on threads and commits their samples to a store."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted
from skild_phys.files import AnyPath
from skild_phys.lattice.models import get_model
from skild_phys.rng import SIMULATION, kernel_state, next_u64
from skild_phys.simulate.metropolis import metropolis
from skild_phys.simulate.wolff import wolff
from skild_phys.store import LatticeStore, StoreWriter, create_store, open_store

ALGORITHMS: Mapping[str, Callable[[NDArray[np.int8], float, NDArray[np.uint64], int], int]] = {
    "wolff": wolff,
    "metropolis": metropolis,
}
UPDATES = {"wolff": "cluster", "metropolis": "sweep"}

COMMIT_SECONDS = 5.0
"""About how much work a kill may cost. When commits fall does not change a byte."""

_SLICE_SITES = 2**23
_CHUNK_BYTES = 2**22
_POLL_SECONDS = 0.1


def correlation_length(temperature: float) -> float:
    """Return the correlation length of the infinite lattice along an axis, in sites.

    1 / |ln tanh K + 2 K| above Tc and half of that below (McCoy and Wu, The Two-Dimensional
    Ising Model, 1973); infinite at Tc.
    """
    k = 1.0 / temperature
    inverse = -math.log(math.tanh(k)) - 2.0 * k
    if inverse == 0.0:
        return math.inf
    return 1.0 / inverse if inverse > 0.0 else -0.5 / inverse


def default_every(algorithm: str, side: int, temperature: float) -> int:
    """Return how many updates to make between samples: about two autocorrelation times.

    Wolff: tau is 2.2 (ell / 64)^0.3 lattices' worth of flipped spins, ell the smaller of L and
    the correlation length, and a cluster has on average about chi = min(1.09 L^(7/4),
    1 + 2.6 xi^(7/4)) spins above Tc (at Tc 5.8 and 8.4 clusters at L = 64 and 128, in the table
    of exact references). Metropolis: ell^2.17 sweeps, the dynamic exponent (Nightingale and
    Bloete, Phys. Rev. Lett. 76, 4548, 1996). A fixed number, known before the first sample:
    to stop at a number of flipped spins would bias the ensemble.
    """
    xi = correlation_length(temperature)
    ell = max(1.0, min(float(side), xi))
    if algorithm == "metropolis":
        return math.ceil(math.pow(ell, 2.17))
    size = float(side * side)
    cluster = 1.09 * math.pow(side, 1.75)
    if temperature > get_model("ising2d").critical_temperature and math.isfinite(xi):
        cluster = min(cluster, 1.0 + 2.6 * math.pow(xi, 1.75))
    return math.ceil(4.4 * math.pow(ell / 64.0, 0.3) * size / min(cluster, size))


def _default_chunk(side: int) -> int:
    return max(1, min(1024, _CHUNK_BYTES // side**2))


def _positive(option: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(option, value, f"a whole number from {least} on")


@dataclass(frozen=True)
class SimulationSpec:
    """What is simulated; with it the samples are settled to the last bit.

    Sample i is draw i // chains of chain i % chains, so more samples can be appended later.

    Parameters
    ----------
    L : side of the lattice, from 2 on.
    temperature : in J / k_B.
    n_samples : samples of all chains together.
    model : name of the model (`lattice.models.MODELS`).
    algorithm : `wolff` (update: one cluster) or `metropolis` (update: one sweep).
    chains : independent Markov chains; chain c draws from the stream
        (`rng.SIMULATION`, c) of `seed`.
    every : updates between two samples of a chain; by default `default_every`.
    burn_in : updates before the first sample of a chain; by default 20 `every`, about 40
        autocorrelation times.
    seed : of all streams.
    start : `cold` (all spins +1, from where clusters grow at once) or `hot` (random).

    Raises
    ------
    BadInput naming the option that cannot be used.
    """

    L: int
    temperature: float
    n_samples: int
    model: str = "ising2d"
    algorithm: str = "wolff"
    chains: int = 4
    every: int | None = None
    burn_in: int | None = None
    seed: int = 0
    start: str = "cold"

    def __post_init__(self) -> None:
        get_model(self.model)
        _positive("--L", self.L, 2)
        if self.L > 2**15:
            raise BadInput("--L", self.L, "a side up to 32768")
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise BadInput("--T", self.temperature, "a positive temperature")
        if self.algorithm not in ALGORITHMS:
            raise BadInput("--algorithm", self.algorithm, " or ".join(ALGORITHMS))
        if self.start not in ("cold", "hot"):
            raise BadInput("--start", self.start, "cold or hot")
        _positive("-n", self.n_samples)
        _positive("--chains", self.chains)
        _positive("--seed", self.seed, 0)
        if self.every is not None:
            _positive("--every", self.every)
        if self.burn_in is not None:
            _positive("--burn-in", self.burn_in, 0)

    def resolved(self) -> SimulationSpec:
        """Return the same with every default replaced by its number."""
        every = self.every or default_every(self.algorithm, self.L, self.temperature)
        burn_in = 20 * every if self.burn_in is None else self.burn_in
        return dataclasses.replace(self, every=every, burn_in=burn_in)

    def attributes(self) -> dict[str, Any]:
        """Return what a store says of its samples; `n_samples` is not part of it."""
        known = dataclasses.asdict(self.resolved())
        del known["n_samples"]
        return {**known, "couplings": {"J": 1.0}, "update": UPDATES[self.algorithm]}


@njit(cache=True, nogil=True)
def _random_spins(spins, state):  # type: ignore[no-untyped-def]
    flat = spins.reshape(-1)
    for site in range(flat.size):
        flat[site] = 1 - 2 * np.int8(next_u64(state) >> np.uint64(63))


class Ensemble:
    """Chains at some point of their course: spins and generators, advanced together.

    Parameters
    ----------
    spec : what is simulated.
    state : `spins` (chains, L, L) int8 and `rng` (chains, 4) uint64 to go on from; without it
        every chain stands at its start, before burn-in.
    """

    def __init__(
        self, spec: SimulationSpec, state: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        self.spec = spec.resolved()
        self._update = ALGORITHMS[spec.algorithm]
        if state:
            self.spins = np.ascontiguousarray(state["spins"], dtype=np.int8)
            self.rng = np.ascontiguousarray(state["rng"], dtype=np.uint64)
            return
        self.spins = np.ones((spec.chains, spec.L, spec.L), dtype=np.int8)
        self.rng = np.stack([kernel_state(spec.seed, SIMULATION, c) for c in range(spec.chains)])
        if spec.start == "hot":
            for chain in range(spec.chains):
                _random_spins(self.spins[chain], self.rng[chain])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of what `state` takes."""
        return {"spins": self.spins.copy(), "rng": self.rng.copy()}

    def advance(self, chain: int, updates: int, stop: Callable[[], bool]) -> bool:
        """Make `updates` updates of one chain; return False if `stop` came in between."""
        step = max(1, _SLICE_SITES // self.spec.L**2)
        for done in range(0, updates, step):
            if stop():
                return False
            count = min(step, updates - done)
            self._update(self.spins[chain], self.spec.temperature, self.rng[chain], count)
        return not stop()


class _Block:
    """Samples first .. last-1, filled by one task a chain; `done` counts those that are there."""

    def __init__(self, ensemble: Ensemble, first: int, last: int) -> None:
        spec = ensemble.spec
        self._ensemble, self._first = ensemble, first
        index = np.arange(first, last)
        self.arrays: dict[str, NDArray[Any]] = {
            "spins": np.empty((last - first, spec.L, spec.L), dtype=np.int8),
            "energy": np.empty(last - first),
            "magnetization": np.empty(last - first),
            "chain": (index % spec.chains).astype(np.int32),
            "draw": index // spec.chains,
        }
        self._counts = np.zeros(spec.chains, dtype=np.int64)

    @property
    def done(self) -> int:
        return int(self._counts.sum())

    def run(self, chain: int, stop: Callable[[], bool]) -> None:
        """Draw the samples of one chain; leaves early once `stop` says so."""
        spec, ensemble = self._ensemble.spec, self._ensemble
        model = get_model(spec.model)
        for row in np.flatnonzero(self.arrays["chain"] == chain):
            updates = int(spec.every or 0)
            if self.arrays["draw"][row] == 0:
                updates += int(spec.burn_in or 0)
            if not ensemble.advance(chain, updates, stop):
                return
            spins = ensemble.spins[chain]
            self.arrays["spins"][row] = spins
            self.arrays["energy"][row] = model.energy(spins)
            self.arrays["magnetization"][row] = model.magnetization(spins)
            self._counts[chain] += 1


def _fill(
    block: _Block,
    chains: int,
    pool: ThreadPoolExecutor,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> bool:
    """Run the tasks of a block; return whether it is whole. An error in a task is raised."""
    failed = False

    def halt() -> bool:
        return failed or stop()

    tasks = [pool.submit(block.run, chain, halt) for chain in range(chains)]
    reported = 0
    try:
        while True:
            pending = wait(tasks, _POLL_SECONDS, FIRST_EXCEPTION).not_done
            if (done := block.done) > reported:
                progress(done - reported)
                reported = done
            if not pending or any(t.done() and t.exception() for t in tasks):
                break
    finally:
        failed = not all(task.done() for task in tasks)
    for task in tasks:
        task.result()
    return block.done == len(block.arrays["chain"])


def _run(
    spec: SimulationSpec,
    writer: StoreWriter,
    threads: int,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> None:
    ensemble = Ensemble(spec, writer.state)
    draws = 1
    with ThreadPoolExecutor(threads) as pool:
        while writer.committed < spec.n_samples:
            first = writer.committed
            # To the end of a draw, so that every task of the next block has equal work.
            last = min((first // spec.chains + draws) * spec.chains, spec.n_samples)
            block = _Block(ensemble, first, last)
            began = time.monotonic()
            if not _fill(block, spec.chains, pool, stop, progress):
                raise Interrupted(
                    f"interrupted: {writer.committed} of {spec.n_samples} samples are kept in "
                    f"{writer.path}; the same command, without --overwrite, goes on from there"
                )
            writer.commit(block.arrays, ensemble.state())
            pace = (time.monotonic() - began) / draws
            limit = max(1, 2 * _CHUNK_BYTES // (spec.L**2 * spec.chains))
            draws = max(1, min(2 * draws, limit, int(COMMIT_SECONDS / max(pace, 1e-9))))


def simulate(
    spec: SimulationSpec,
    path: AnyPath,
    *,
    chunk: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    attrs: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda count: None,
) -> LatticeStore:
    """Simulate into a store, or go on with one that the same parameters began.

    Parameters
    ----------
    spec : what is simulated.
    path : of the store.
    chunk : samples in a chunk of the store; by default about 4 MiB of spins.
    threads : chains that run at once (default: one a core); changes no sample.
    overwrite : start afresh even if a store lies at `path`.
    attrs : more attributes for the store (command line, versions).
    stop : asked several times a second; when it says so the run ends at its last commit.
    progress : called with the number of samples just drawn.

    Returns
    -------
    The finished store, open for reading. Raises BadInput, StoreError, WriteError as
    `create_store` does, and Interrupted once `stop` says so.
    """
    if chunk is not None:
        _positive("--chunk", chunk)
    if threads is not None:
        _positive("--threads", threads)
    writer = create_store(
        path,
        field="spins",
        n_samples=spec.n_samples,
        shape=(spec.L, spec.L),
        chunk=chunk or _default_chunk(spec.L),
        attrs={**spec.attributes(), **(attrs or {})},
        variables=("energy", "magnetization", "chain", "draw"),
        overwrite=overwrite,
    )
    with writer:
        _run(spec, writer, min(threads or os.cpu_count() or 1, spec.chains), stop, progress)
    return open_store(Path(path))
