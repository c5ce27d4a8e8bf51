"""How fast the updates of a model are: time, autocorrelation, and what follows from both.

An algorithm is worth the independent configurations it makes a second, 1 / (2 tau_int t) for an
update that takes t, with the larger tau_int of energy and M^2. Kernels are timed on lattices in
equilibrium, because the size of a cluster is that of the state it grows in; a time is that of a
whole call, spread over its updates.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skild_phys import __version__
from skild_phys.errors import BadInput, check_whole
from skild_phys.models import Model, get_model
from skild_phys.simulation.algorithms import ALGORITHMS, Algorithm, default_algorithm, get_algorithm
from skild_phys.simulation.executors import Executor, threads
from skild_phys.simulation.expected import sweeps_between_samples
from skild_phys.simulation.peers import ALGORITHMS as PEER_ALGORITHMS
from skild_phys.simulation.peers import PEERS, Check, Missing, Peer, check_energy, version
from skild_phys.simulation.spec import SimulationSpec, check_shape
from skild_phys.simulation.timing import (
    Kernel,
    Load,
    Scaling,
    Tau,
    Timed,
    Timing,
    calibrate,
    load_kernel,
    measure_tau,
    time_threads,
)
from skild_phys.simulation.unit import Unit, never, start_unit

WORK = {"cluster": "flipped spin", "sweep": "site and sweep"}
"""What a time is divided by, for each kind of update."""

_MIXING = "swendsen-wang"  # what lattices are equilibrated with
_TAU_RUNS = 20  # a tau may take as long as so many runs
_SMALL_SIDE = {2: 32, 3: 12}  # on which the tau of single-site updates is measured

Note = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What is measured, and how long; raises BadInput naming the option that cannot be used.

    Parameters
    ----------
    model : name of the model.
    shape : sides of the lattice, slowest axis first.
    temperature : in J / k_B.
    runs : timed runs, of which the median is given.
    seconds : about how long a run takes.
    seed : of all streams.
    """

    model: str
    shape: tuple[int, ...]
    temperature: float
    runs: int = 5
    seconds: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_shape(self.shape, self.system, "x".join(map(str, self.shape)))
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise BadInput("--T", self.temperature, "a positive temperature")
        check_whole("--runs", self.runs)
        check_whole("--seed", self.seed, 0)
        if not (math.isfinite(self.seconds) and self.seconds > 0.0):
            raise BadInput("--seconds", self.seconds, "a positive number of seconds")

    @property
    def system(self) -> Model:
        """The model itself."""
        return get_model(self.model)

    @property
    def algorithms(self) -> list[Algorithm]:
        """The updates that exist for the model on this lattice."""
        even = not any(side % 2 for side in self.shape)
        known = [a for a in ALGORITHMS if a.fits(self.system)]
        return [a for a in known if even or not a.local]

    @property
    def default(self) -> str:
        """The name of the algorithm that `auto` picks."""
        return default_algorithm(self.system)

    def spec(self, algorithm: str, shape: tuple[int, ...] | None = None) -> SimulationSpec:
        """Return a simulation of this model at this temperature."""
        return SimulationSpec(
            L=shape or self.shape,
            temperature=self.temperature,
            n_samples=1,
            model=self.model,
            algorithm=algorithm,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Speed:
    """How fast an algorithm is.

    Attributes
    ----------
    algorithm : its name; `work` is what `nanoseconds` are divided by.
    update_seconds : median time of an update of one lattice.
    tau : None if unknown; of a peer, that of the same algorithm here.
    load : the first call; None for a peer, which comes compiled.
    package, version : this package, or a peer.
    own_cluster_size : whether a peer's clusters are taken to be as large as ours.
    check : the energy of a peer beside the exact one, where there is one.
    """

    algorithm: str
    work: str
    nanoseconds: Timing
    update_seconds: float
    tau: Tau | None
    load: Load | None
    package: str
    version: str
    own_cluster_size: bool
    check: Check | None

    @property
    def independent(self) -> float | None:
        """Independent configurations a second of one thread."""
        return None if self.tau is None else 1.0 / (2.0 * self.tau.slowest * self.update_seconds)


@dataclass(frozen=True)
class Result:
    """All that was measured; `missing` says why peers are not there.

    `cluster_size` is the mean number of spins that a Wolff cluster flips.
    """

    setting: Setting
    speeds: list[Speed]
    scaling: list[Scaling]
    cluster_size: float
    peers: list[Speed] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        """The algorithm that makes the most independent configurations a second."""
        return max(self.speeds, key=lambda speed: speed.independent or 0.0).algorithm


def load_kernels(setting: Setting) -> dict[str, Load]:
    """Call every kernel once, on the smallest lattice; return what that took."""
    smallest = (2,) * len(setting.shape)
    return {a.name: load_kernel(setting.spec(a.name, smallest)) for a in setting.algorithms}


@dataclass
class _Entry:
    """Something to be timed, run after run, in turn with all others."""

    chain: Timed
    algorithm: str
    lattices: int
    tau: Tau | None
    load: Load | None = None
    peer: type[Peer] | None = None
    check: Check | None = None
    count: int = 1
    measured: list[tuple[float, int | None]] = field(default_factory=list)

    def speed(self, sites: int, cluster_size: float) -> Speed:
        """Return what the runs say; a cluster has `cluster_size` spins where they do not."""
        cluster = self.algorithm == "wolff"
        work = self.count * self.lattices * (cluster_size if cluster else sites)
        return Speed(
            self.algorithm,
            WORK["cluster" if cluster else "sweep"],
            Timing(tuple(1e9 * took / (flipped or work) for took, flipped in self.measured)),
            statistics.median(took for took, _ in self.measured) / (self.count * self.lattices),
            self.tau,
            load=self.load,
            package=self.peer.package if self.peer else "skild-phys",
            version=version(self.peer) if self.peer else __version__,
            own_cluster_size=cluster and self.measured[0][1] is None,
            check=self.check,
        )


def steps(setting: Setting, with_peers: bool) -> int:
    """Return how often `bench` calls its `note`."""
    return len(setting.algorithms) + (len(PEERS) if with_peers else 0) + 2 + setting.runs


def bench(
    setting: Setting,
    loads: dict[str, Load],
    *,
    with_peers: bool = True,
    note: Note = lambda text: None,
) -> Result:
    """Measure every algorithm of a model on one thread, other packages beside it, and threads.

    All take turns, a run each, so that what else the machine does falls on all alike.

    Parameters
    ----------
    setting : what is measured.
    loads : of every kernel (`load_kernels`).
    with_peers : whether to measure the packages of `peers.PEERS` that are installed.
    note : called with what comes next.
    """
    taus, ready = _all_taus(setting, note)
    lattices = _apart(setting, ready[0].copy(), math.ceil(2.0 * taus[_MIXING].slowest))
    own = [
        _Entry(
            Kernel(
                setting.spec(algorithm.name),
                np.stack([next(lattices) for _ in range(algorithm.replicas)]),
            ),
            algorithm.name,
            algorithm.replicas,
            taus[algorithm.name],
            loads[algorithm.name],
        )
        for algorithm in setting.algorithms
    ]
    others, missing = _peers(setting, taus, lattices, note) if with_peers else ([], {})
    _run(setting, own + others, note)
    flips = next(entry for entry in own if entry.algorithm == "wolff")
    size = sum(f or 0 for _, f in flips.measured) / (flips.count * setting.runs)
    note("threads")
    sites = math.prod(setting.shape)
    return Result(
        setting,
        [entry.speed(sites, size) for entry in own],
        _scaling(setting, taus[setting.default], lattices),
        size,
        [entry.speed(sites, size) for entry in others],
        missing,
    )


def _run(setting: Setting, entries: list[_Entry], note: Note) -> None:
    note("how many updates a run takes")
    for entry in entries:
        entry.count = calibrate(entry.chain.time, setting.seconds)
    for number in range(setting.runs):
        note(f"run {number + 1} of {setting.runs}")
        for entry in entries:
            entry.measured.append(entry.chain.time(entry.count))


def _peers(
    setting: Setting, taus: dict[str, Tau], lattices: Iterator[NDArray[np.int8]], note: Note
) -> tuple[list[_Entry], dict[str, str]]:
    """Return what is to be timed of other packages, and why others are missing."""
    entries: list[_Entry] = []
    missing: dict[str, str] = {}
    for peer in PEERS:
        note(peer.package)
        try:
            version(peer)
        except Missing as error:
            missing[peer.package] = str(error)
            continue
        if not peer.able(setting.model, setting.shape):
            missing[peer.package] = "has no such model or lattice"
            continue
        for name in PEER_ALGORITHMS:
            chain = peer(name, next(lattices), setting.temperature, setting.seed)
            check = (
                check_energy(peer, name, setting.temperature, setting.seed)
                if setting.model == "ising2d"
                else None
            )
            entries.append(_Entry(chain, name, 1, taus.get(name), peer=peer, check=check))
    return entries, missing


def _all_taus(setting: Setting, note: Note) -> tuple[dict[str, Tau], list[Unit]]:
    """Return the times of every algorithm, and lattices in equilibrium."""
    taus: dict[str, Tau] = {}
    ready: list[Unit] = []
    local: Tau | None = None
    with threads(None, never) as run:
        for algorithm in setting.algorithms:
            note(f"{algorithm.name}: autocorrelation")
            if algorithm.local:
                local = local or _local_tau(setting, run)
                taus[algorithm.name] = local
                continue
            spec = setting.spec(algorithm.name)
            taus[algorithm.name], units = measure_tau(spec, run, _TAU_RUNS * setting.seconds)
            ready = units if algorithm.name == _MIXING else ready
    return taus, ready


def _local_tau(setting: Setting, run: Executor) -> Tau:
    """Return the times of single-site updates, scaled up from a small lattice.

    `metropolis` and `multispin` are the same Markov chain; the latter watches 64 at once.
    """
    name = [a.name for a in setting.algorithms if a.local][-1]
    shape, critical = _small(setting.shape), setting.system.critical_temperature
    found, _ = measure_tau(setting.spec(name, shape), run, _TAU_RUNS * setting.seconds)
    large, small = (
        sweeps_between_samples(True, max(sides), setting.temperature, critical)
        for sides in (setting.shape, shape)
    )
    return found.scaled(large / small)


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a lattice of the same proportions, small enough for single-site updates."""
    largest = _SMALL_SIDE[len(shape)]
    if max(shape) <= largest:
        return shape
    return tuple(max(2, 2 * round(side * largest / max(shape) / 2)) for side in shape)


def _apart(setting: Setting, unit: Unit, sweeps: int) -> Iterator[NDArray[np.int8]]:
    """Yield lattices in equilibrium, so many sweeps from one another, without end."""
    mixing = get_algorithm(_MIXING, setting.system)
    while True:
        mixing.advance(unit.lattices, setting.system, setting.temperature, unit.rng, sweeps)
        yield unit.lattices[0].copy()


def _scaling(setting: Setting, tau: Tau, lattices: Iterator[NDArray[np.int8]]) -> list[Scaling]:
    """Time the default algorithm on threads, its samples two autocorrelation times apart."""
    numbers = sorted({1, 2, os.cpu_count() or 1})
    spec = SimulationSpec(
        **{**vars(setting.spec(setting.default)), "every": math.ceil(2.0 * tau.slowest)}
    )
    units = [start_unit(spec, number) for number in range(numbers[-1])]
    for unit in units:
        for replica in unit.lattices:
            replica[:] = next(lattices)
    return time_threads(spec, units, numbers, setting.runs, setting.seconds)
