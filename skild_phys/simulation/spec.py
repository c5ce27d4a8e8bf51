"""What is simulated, and which sample comes from which chain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skild_phys.errors import BadInput, check_whole
from skild_phys.models import Model, get_model
from skild_phys.rng import STREAMS, system_seed
from skild_phys.simulation.algorithms import Algorithm, get_algorithm
from skild_phys.simulation.expected import sweeps_between_samples

HOTTEST = 1e12
MOST_SAMPLES, MOST_CHAINS = 2**40, 2**20
LARGEST_SIDE = {2: 2**15, 3: 2**10}

_STINT_SITES = 2**19
_STINT_UPDATES = 2**26

SETTLED = ("every", "burn_in", "tau_energy", "tau_magnetization_squared")
"""Parameters that the burn-in may settle; a store keeps them from its first commit on."""


def parse_shape(text: str, model: Model) -> tuple[int, ...]:
    """Return a lattice shape from `64` (all sides) or `256x128` (slowest axis first).

    Raises BadInput naming --L.
    """
    sides = text.lower().split("x")
    accepted = f"a side such as 64, or {model.dimension} sides such as " + "x".join(
        ["128", "64", "64"][: model.dimension]
    )
    if not all(side.strip().isdecimal() for side in sides):
        raise BadInput("--L", text, accepted)
    shape = tuple(int(side) for side in sides)
    if len(shape) not in (1, model.dimension):
        raise BadInput("--L", text, accepted)
    return check_shape(shape if len(shape) > 1 else shape * model.dimension, model, text)


def check_shape(shape: tuple[int, ...], model: Model, shown: Any) -> tuple[int, ...]:
    """Return `shape` if `model` can live on it; raises BadInput naming --L."""
    most = LARGEST_SIDE[model.dimension]
    if len(shape) != model.dimension or not all(isinstance(n, int) for n in shape):
        raise BadInput("--L", shown, f"{model.dimension} whole numbers, or one for all sides")
    if not all(2 <= side <= most for side in shape):
        raise BadInput("--L", shown, f"sides from 2 to {most}")
    return shape


@dataclass(frozen=True)
class SimulationSpec:
    """What is simulated; with it the samples are settled to the last bit.

    Chains advance in units (one chain each, or the 64 of a `multispin` word). A unit makes
    `stint` draws in a row, then the next unit does, and so on round after round: sample i lies in
    round i // (chains stint), and within it in unit after unit, draw after draw, replica after
    replica. So every stint is a stretch of the store of its own, and more samples can be appended
    whenever.

    Parameters
    ----------
    L : side of the lattice from 2 on, or a tuple of sides, slowest axis first.
    temperature : in J / k_B.
    n_samples : samples of all chains together.
    model : name of the model (`models.MODELS`).
    algorithm : see `algorithms.ALGORITHMS`; `auto` for the fastest.
    chains : independent Markov chains, by default 4 (`multispin`: 64, or a multiple). Unit u
        draws from the stream "chain" u (`rng.KEYS`) of `system_seed`.
    every : updates between two samples of a chain; None: two integrated autocorrelation times,
        of the slower one of energy and M^2, as measured during burn-in.
    burn_in : updates before the first sample interval of a chain; None: at least 20
        autocorrelation times, as measured.
    stint : draws a unit makes in a row; None: about half a megabyte of lattices, less where they
        must be expected to take long, or are few.
    seed : of all streams, together with model, sides, temperature, algorithm and start: the same
        seed gives independent runs of two systems. Runs that differ in nothing but `n_samples`,
        `every`, `burn_in`, `stint` or `chains` are parts of the same chains.
    start : `cold` (all sites equal, from where clusters grow at once) or `hot` (random).
    tau_energy, tau_magnetization_squared : integrated autocorrelation times, in updates, that
        the burn-in found; None where it measured none.
    streams : `rng.STREAMS`; None for those of a store of version 0.1, from the seed alone.

    Raises
    ------
    BadInput naming the option that cannot be used.
    """

    L: int | tuple[int, ...]
    temperature: float
    n_samples: int
    model: str = "ising2d"
    algorithm: str = "auto"
    chains: int | None = None
    every: int | None = None
    burn_in: int | None = None
    stint: int | None = None
    seed: int = 0
    start: str = "cold"
    tau_energy: float | None = None
    tau_magnetization_squared: float | None = None
    streams: str | None = STREAMS

    def __post_init__(self) -> None:
        model = get_model(self.model)
        if isinstance(self.L, bool) or not isinstance(self.L, int | tuple):
            raise BadInput("--L", self.L, "a whole number, or a tuple of them")
        sides = (self.L,) * model.dimension if isinstance(self.L, int) else self.L
        shown = self.L if isinstance(self.L, int) else "x".join(map(str, self.L))
        check_shape(sides, model, shown)
        self._set("L", sides[0] if len(set(sides)) == 1 else sides)
        if not 0.0 < self.temperature <= HOTTEST:
            raise BadInput("--T", self.temperature, f"a positive temperature up to {HOTTEST:g}")
        chosen = get_algorithm(self.algorithm, model)
        self._set("algorithm", chosen.name)
        if chosen.local and any(side % 2 for side in sides):
            accepted = (
                f"even sides for the checkerboard of {chosen.name} (cluster updates take any)"
            )
            raise BadInput("--L", shown, accepted)
        if self.start not in ("cold", "hot"):
            raise BadInput("--start", self.start, "cold or hot")
        if self.streams not in (None, STREAMS):
            raise BadInput("streams", self.streams, f"{STREAMS}, or None")
        if self.chains is None:
            self._set("chains", max(4, chosen.replicas))
        for option, name, least in (
            ("-n", "n_samples", 1),
            ("--chains", "chains", 1),
            ("--seed", "seed", 0),
            ("--every", "every", 1),
            ("--burn-in", "burn_in", 0),
            ("stint", "stint", 1),
        ):
            if (value := getattr(self, name)) is not None:
                self._set(name, check_whole(option, value, least))
        if self.n_samples > MOST_SAMPLES:
            raise BadInput("-n", self.n_samples, f"at most {MOST_SAMPLES}")
        if self.n_chains > MOST_CHAINS:
            raise BadInput("--chains", self.n_chains, f"at most {MOST_CHAINS}")
        if self.n_chains % chosen.replicas:
            accepted = f"a multiple of {chosen.replicas} for {chosen.name}"
            raise BadInput("--chains", self.chains, accepted)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def system(self) -> Model:
        """The model itself."""
        return get_model(self.model)

    @property
    def kernel(self) -> Algorithm:
        """The algorithm itself."""
        return get_algorithm(self.algorithm, self.system)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the lattice, slowest axis first."""
        return (self.L,) * self.system.dimension if isinstance(self.L, int) else self.L

    @property
    def sites(self) -> int:
        """The number of sites."""
        return math.prod(self.shape)

    @property
    def system_seed(self) -> int:
        """The seed that the streams of all units grow from."""
        system = (self.model, self.shape, float(self.temperature), self.algorithm, self.start)
        return system_seed(self.streams, self.seed, *system)

    @property
    def n_chains(self) -> int:
        """The number of chains."""
        return self.chains or 1

    @property
    def units(self) -> int:
        """How many groups of chains advance by themselves."""
        return self.n_chains // self.kernel.replicas

    @property
    def stretch(self) -> int:
        """Samples that a unit makes in a row."""
        return (self.stint or 1) * self.kernel.replicas

    def with_stint(self) -> SimulationSpec:
        """Return the same with a number of draws in a row."""
        if self.stint is not None:
            return self
        sites = self.sites * self.kernel.replicas
        apart = self.every or sweeps_between_samples(
            self.kernel.local, max(self.shape), self.temperature, self.system.critical_temperature
        )
        limits = (
            _STINT_SITES // sites,
            _STINT_UPDATES // (sites * apart),
            -(-self.n_samples // self.n_chains),
        )
        return dataclasses.replace(self, stint=max(1, min(limits)))

    def default_chunk(self) -> int:
        """Return how many samples make a chunk of the store: it divides every stretch."""
        share = self.kernel.replicas
        while share > 1 and share * (self.stint or 1) * self.sites > _STINT_SITES:
            share //= 2
        return share * (self.stint or 1)

    def stretches(self, unit: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the samples first .. last - 1 that are of one unit."""
        round_size = self.units * self.stretch
        for number in range(first // round_size, -(-last // round_size)):
            start = number * round_size + unit * self.stretch
            low, high = max(first, start), min(last, start + self.stretch)
            if low < high:
                yield low, high

    def made(self, unit: int, total: int) -> int:
        """Return how many of the first `total` samples are of one unit."""
        rounds, rest = divmod(total, self.units * self.stretch)
        return rounds * self.stretch + min(max(rest - unit * self.stretch, 0), self.stretch)

    def attributes(self) -> dict[str, Any]:
        """Return what a store says of its samples; `n_samples` is not part of it."""
        known = dataclasses.asdict(self)
        del known["n_samples"]
        known["L"] = self.L if isinstance(self.L, int) else list(self.L)
        return {**known, "couplings": {"J": 1.0}, "update": self.kernel.update}


def spec_of(attrs: Mapping[str, Any], n_samples: int) -> SimulationSpec:
    """Return the spec of a simulated store from its attributes; raises KeyError for another."""
    names = {f.name for f in dataclasses.fields(SimulationSpec)} - {"n_samples"}
    known = {name: attrs[name] for name in names if attrs.get(name) is not None}
    missing = {"L", "temperature", "model", "algorithm", "chains", "seed", "stint"} - set(known)
    if missing:
        raise KeyError(", ".join(sorted(missing)))
    known["streams"] = attrs.get("streams")
    if isinstance(known["L"], list):
        known["L"] = tuple(known["L"])
    return SimulationSpec(n_samples=n_samples, **known)
