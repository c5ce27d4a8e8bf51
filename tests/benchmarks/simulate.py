"""`skild-phys bench simulate`: how fast the updates of a model are.

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
from dataclasses import dataclass, field, replace
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from skild_phys.cli.options import answer, result_options
from skild_phys.cli.terminal import announced, progress_bar, say, show
from skild_phys.errors import BadInput, check_whole
from skild_phys.executors import Executor, threads
from skild_phys.measurement.tables import with_error
from skild_phys.models import Model, Update, get_model, parse_temperature
from skild_phys.simulation.chain import Unit
from skild_phys.simulation.spec import (
    SimulationSpec,
    _parse_shape,
    get_update,
    sweeps_between_samples,
    updates_of,
)

from .peers import ALGORITHMS as PEER_ALGORITHMS
from .peers import PEERS, Missing, Peer, check_energy, version
from .timing import Kernel, Tau, calibrate, load_kernel, measure_tau, time_threads, with_runs

_MIXING = "swendsen-wang"  # what lattices are equilibrated with
_TAU_RUNS = 20  # a tau may take as long as so many runs
_SMALL_SIDE = {2: 32, 3: 12}  # on which the tau of single-site updates is measured
_CLEARLY = 1.2  # times as many independent configurations as the default makes
_AGREES = 4.0  # standard errors from the exact energy that are no reason to doubt
_WIDTH = 160  # of a table that goes to a file

Row = dict[str, Any]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What is measured, and how long: `runs` of about `seconds` each, of which the median."""

    model: str
    shape: tuple[int, ...]
    temperature: float
    runs: int
    seconds: float
    seed: int

    def __post_init__(self) -> None:
        _parse_shape(self.shape, self.system)
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise BadInput("T", self.temperature, "a positive temperature")
        check_whole("runs", self.runs)
        check_whole("seed", self.seed, 0)
        if not (math.isfinite(self.seconds) and self.seconds > 0.0):
            raise BadInput("seconds", self.seconds, "a positive number of seconds")

    @property
    def system(self) -> Model:
        """The model itself."""
        return get_model(self.model)

    @property
    def algorithms(self) -> list[Update]:
        """The updates that exist for the model on this lattice."""
        even = not any(side % 2 for side in self.shape)
        return [u for u in updates_of(self.system).values() if even or not u.even_sides]

    def spec(self, algorithm: str, shape: tuple[int, ...] | None = None) -> SimulationSpec:
        """Return a simulation of this model at this temperature."""
        return SimulationSpec(
            L=shape or self.shape, temperature=self.temperature, n_samples=1, model=self.model,
            algorithm=algorithm, seed=self.seed,
        )  # fmt: skip


@click.command("simulate")
@click.option(
    "--L", "side", default="256", show_default=True, help="Side of the lattice, or 256x128."
)
@click.option(
    "--T", "temperature", default="Tc", show_default=True, help="J/k_B: a number, Tc or 1.05Tc."
)
@click.option(
    "--model", default="ising2d", show_default=True, help="ising2d, ising3d, potts2 .. potts8."
)
@click.option("--runs", type=int, default=5, show_default=True, help="Runs, of which the median.")
@click.option("--seconds", type=float, default=0.5, show_default=True, help="Length of a run.")
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Measure mcising and peapods too."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@result_options("")
def command(side: str, temperature: str, model: str, peers: bool, **options: Any) -> None:
    """Time every update of a model on one thread, the default on several, and other packages.

    Also measures autocorrelation times: an algorithm is worth the independent configurations it
    makes a second, 1 / (2 tau_int t), t the time of an update, with the larger tau_int of energy
    and M^2. Lattices are in equilibrium before anything is timed.

    \b
    skild-phys bench simulate
    skild-phys bench simulate --model ising3d --L 64 --no-peers --json
    """
    known = get_model(model)
    shape, heat = _parse_shape(side, known), parse_temperature(temperature, known)
    setting = Setting(model, shape, heat, **options)
    with announced("compiling the kernels (first run only) ..."):
        smallest = (2,) * len(setting.shape)
        loads = {a.name: load_kernel(setting.spec(a.name, smallest)) for a in setting.algorithms}
    steps = len(setting.algorithms) + (len(PEERS) if peers else 0) + 2 + setting.runs
    done = 0
    with progress_bar("measuring", steps) as advance:

        def note(text: str) -> None:
            nonlocal done
            advance(min(done, 1), text)
            done += 1

        result = bench(setting, loads, peers, note)
        advance(1)
    answer(result, lambda: _print(setting, result))


@dataclass
class _Entry:
    """Something to be timed, run after run, in turn with all others."""

    chain: Kernel | Peer
    algorithm: str
    lattices: int
    tau: Tau | None
    more: Row
    count: int = 1
    took: list[float] = field(default_factory=list)
    flipped: list[int | None] = field(default_factory=list)

    def run(self) -> None:
        took, flipped = self.chain.time(self.count)
        self.took.append(took)
        self.flipped.append(flipped)

    def row(self, sites: int, cluster_size: float) -> Row:
        """Return what the runs say; a cluster has `cluster_size` spins where they do not.

        Times of autocorrelation are in updates of one lattice.
        """
        cluster, tau, updates = self.algorithm == "wolff", self.tau, self.count * self.lattices
        work = updates * (cluster_size if cluster else sites)
        seconds = statistics.median(self.took) / updates
        row: Row = {
            "algorithm": self.algorithm,
            "work": "flipped spin" if cluster else "site and sweep",
            **with_runs(
                "nanoseconds", [1e9 * t / (f or work) for t, f in zip(self.took, self.flipped)]
            ),
            "update_seconds": seconds,
            "independent_per_second": tau and 1.0 / (2.0 * max(tau.time) * seconds),
        }
        if tau is not None:
            for i, name in enumerate(("energy", "magnetization_squared")):
                row |= {f"tau_{name}": tau.time[i], f"tau_{name}_error": tau.error[i]}
            row |= {"tau_shape": list(tau.shape), "tau_factor": tau.factor}
        if "package" in self.more:
            row["own_cluster_size"] = cluster and self.flipped[0] is None
        return row | self.more


def bench(setting: Setting, loads: dict[str, Row], with_peers: bool, note: Note) -> Row:
    """Measure every algorithm of a model on one thread, other packages beside it, and threads.

    All take turns, a run each, so that what else the machine does falls on all alike. `loads` are
    those of every kernel, `note` is called with what comes next.
    """
    taus, ready = _all_taus(setting, note)
    lattices = _apart(setting, ready[0].copy(), math.ceil(2.0 * max(taus[_MIXING].time)))
    own = []
    for a in setting.algorithms:
        kernel = Kernel(setting.spec(a.name), np.stack([next(lattices) for _ in range(a.replicas)]))
        own.append(_Entry(kernel, a.name, a.replicas, taus[a.name], loads[a.name]))
    others, missing = _peers(setting, taus, lattices, note) if with_peers else ([], {})
    note("how many updates a run takes")
    for entry in own + others:
        entry.count = calibrate(entry.chain.time, setting.seconds)
    for number in range(setting.runs):
        note(f"run {number + 1} of {setting.runs}")
        for entry in own + others:
            entry.run()
    wolff = next(entry for entry in own if entry.algorithm == "wolff")
    size = sum(f or 0 for f in wolff.flipped) / (wolff.count * setting.runs)
    note("threads")
    sites, default = math.prod(setting.shape), get_update("auto", setting.system).name
    rows = [entry.row(sites, size) for entry in own]
    fastest = max(rows, key=lambda row: row["independent_per_second"] or 0.0)
    return vars(setting) | {
        "shape": list(setting.shape),
        "cores": os.cpu_count(),
        "default": default,
        "fastest": fastest["algorithm"],
        "cluster_size": size,
        "algorithms": rows,
        "threads": _threads(setting, default, taus[default], lattices),
        "peers": [entry.row(sites, size) for entry in others],
        "peers_missing": missing,
    }


def _peers(
    setting: Setting, taus: dict[str, Tau], lattices: Iterator[NDArray[np.int8]], note: Note
) -> tuple[list[_Entry], dict[str, str]]:
    """Return what is to be timed of other packages, and why others are missing."""
    entries: list[_Entry] = []
    missing: dict[str, str] = {}
    for peer in PEERS:
        note(peer.package)
        try:
            found = {"package": peer.package, "version": version(peer)}
        except Missing as error:
            missing[peer.package] = str(error)
            continue
        if not peer.able(setting.model, setting.shape):
            missing[peer.package] = "has no such model or lattice"
            continue
        for name in PEER_ALGORITHMS:
            rest = (setting.temperature, setting.seed)
            chain, more = peer(name, next(lattices), *rest), dict[str, Any](found)
            if setting.model == "ising2d":
                more["check"] = check_energy(peer, name, *rest)
            entries.append(_Entry(chain, name, 1, taus.get(name), more))
    return entries, missing


def _all_taus(setting: Setting, note: Note) -> tuple[dict[str, Tau], list[Unit]]:
    """Return the times of every algorithm, and lattices in equilibrium."""
    taus: dict[str, Tau] = {}
    ready: list[Unit] = []
    local: Tau | None = None
    with threads(None, lambda: False) as run:
        for algorithm in setting.algorithms:
            note(f"{algorithm.name}: autocorrelation")
            if algorithm.local:
                local = taus[algorithm.name] = local or _local_tau(setting, run)
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
    shape, largest = setting.shape, _SMALL_SIDE[len(setting.shape)]
    if max(shape) > largest:
        shape = tuple(max(2, 2 * round(side * largest / max(shape) / 2)) for side in shape)
    found, _ = measure_tau(setting.spec(name, shape), run, _TAU_RUNS * setting.seconds)
    large, small = (
        sweeps_between_samples(
            True, max(sides), setting.temperature, setting.system.critical_temperature
        )
        for sides in (setting.shape, shape)
    )
    return found.scaled(large / small)


def _apart(setting: Setting, unit: Unit, sweeps: int) -> Iterator[NDArray[np.int8]]:
    """Yield lattices in equilibrium, so many sweeps from one another, without end."""
    mixing = get_update(_MIXING, setting.system)
    while True:
        mixing.advance(unit.configurations, setting.system, setting.temperature, unit.rng, sweeps)
        yield unit.configurations[0].copy()


def _threads(
    setting: Setting, default: str, tau: Tau, lattices: Iterator[NDArray[np.int8]]
) -> list[Row]:
    """Time the default algorithm on threads, its samples two autocorrelation times apart."""
    numbers = sorted({1, 2, os.cpu_count() or 1})
    spec = replace(setting.spec(default), every=math.ceil(2.0 * max(tau.time)))
    units = [Unit.start(spec, number) for number in range(numbers[-1])]
    for unit in units:
        for replica in unit.configurations:
            replica[:] = next(lattices)
    return time_threads(spec, units, numbers, setting.runs, setting.seconds)


def _print(setting: Setting, result: Row) -> None:
    shape = " x ".join(map(str, setting.shape))
    say(
        f"{setting.model} {shape} at T = {setting.temperature:.6g}, one thread, "
        f"median of {setting.runs} runs of about {setting.seconds:g} s\n"
    )
    show(_HEADINGS, _rows(result), left=2, width=_WIDTH)
    say(f"\nsamples two autocorrelation times apart, {result['default']}:")
    for found in result["threads"]:
        n = found["threads"]
        line = f"  {n} thread{'s' if n > 1 else ''}  {_short(found['samples_per_second'])}/s "
        line += f"({_range(found['samples_per_second_runs'])})"
        if n > 1:
            line += f", {found['speedup']:.2f}x of one ({_range(found['speedup_runs'])})"
        say(line)
    say("")
    for line in (*_footnotes(result), *_peer_notes(result)):
        say(f"  {line}")


_HEADINGS = (
    "", "per", "ns", "min .. max", "first call", "tau E", "tau M^2", "independent/s", "",
)  # fmt: skip


def _rows(result: Row) -> Iterator[tuple[str, ...]]:
    for row in [*result["algorithms"], *result["peers"]]:
        own, name, load = "package" not in row, row["algorithm"], ""
        scaled = "~" if row.get("tau_factor", 1.0) != 1.0 else ""
        if own:
            how = "compiled" if row["compiled"] else "cached"
            load = f"{row['load_seconds']:.2g} s ({how})"
        rate = row["independent_per_second"]
        yield (
            name if own else f"{row['package']} {row['version']} {name}",
            row["work"],
            _short(row["nanoseconds"]),
            _range(row["nanoseconds_runs"]),
            load,
            *(_tau(row, of, scaled) if own else "" for of in ("energy", "magnetization_squared")),
            "" if rate is None else scaled + _short(rate),
            "<- auto" if own and name == result["default"] else "",
        )


def _tau(row: Row, of: str, scaled: str) -> str:
    """Return tau in updates; ~ marks what was scaled up."""
    value = row[f"tau_{of}"]
    return f"~{_short(value)}" if scaled else with_error(value, row[f"tau_{of}_error"])


def _range(runs: list[float]) -> str:
    return f"{_short(min(runs))} .. {_short(max(runs))}"


def _short(value: float) -> str:
    """Return three digits, without an exponent where a number has more before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def _footnotes(result: Row) -> Iterator[str]:
    rates = {row["algorithm"]: row["independent_per_second"] for row in result["algorithms"]}
    default, fastest = result["default"], result["fastest"]
    if rates[fastest] > _CLEARLY * rates[default]:
        yield f"auto picks {default}, but {fastest} is the fastest here"
    size = _short(result["cluster_size"])
    yield f"a Wolff cluster has {size} spins on average; tau is in updates"
    for row in result["algorithms"]:
        if row["tau_factor"] != 1.0:
            small = " x ".join(map(str, row["tau_shape"]))
            yield (
                f"~ tau measured on {small}, times {row['tau_factor']:.3g}: it grows as L^2.17, "
                "up to the correlation length"
            )
            break
    if "metropolis" in rates:
        yield "the sign of M, which E and M^2 do not see, lasts longer under single-site updates"
    else:
        yield "single-site updates need even sides"


def _peer_notes(result: Row) -> Iterator[str]:
    if result["peers"]:
        yield "independent/s of other packages: with the tau measured here"
    for package in dict.fromkeys(row["package"] for row in result["peers"]):
        rows = [row for row in result["peers"] if row["package"] == package]
        if any(row["own_cluster_size"] for row in rows):
            yield f"{package} does not say how large its clusters are; taken as large as ours"
        agree = []
        for row in rows:
            check, name = row.get("check"), row["algorithm"]
            if check and abs(check["deviation_sigma"]) > _AGREES:
                yield (
                    f"{package} {name}: energy {check['energy']:.5f} +- {check['error']:.5f} at "
                    f"L = {check['side']}, exact {check['exact']:.5f} "
                    f"({check['deviation_sigma']:+.1f} sigma)"
                )
            elif check:
                agree.append(name)
        if agree:
            side = rows[0]["check"]["side"]
            yield f"{package} {', '.join(agree)}: energy at L = {side} agrees with Kaufman's"
    for package, reason in result["peers_missing"].items():
        yield f"{package} {reason}"
