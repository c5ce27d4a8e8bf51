"""What is simulated: parameters, the updates that a model has, which sample is of which chain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skild_phys.errors import BadInput, check_whole
from skild_phys.models import Model, Update, find_model, get_model, parse_temperature
from skild_phys.models.base import LARGEST_SIDE
from skild_phys.rng import STREAMS, lane_state, system_seed
from skild_phys.runner import option
from skild_phys.simulation.metropolis import REPLICAS, metropolis, multispin
from skild_phys.simulation.swendsen_wang import swendsen_wang
from skild_phys.simulation.wolff import wolff

_HOTTEST = 1e12
_STINT_SITES = 2**19
_STINT_UPDATES = 2**26

SETTLED = ("every", "burn_in", "tau_energy", "tau_magnetization_squared")
"""Parameters that the burn-in may settle; a store keeps them from its first commit on."""

_WHOLE = {
    "n_samples": (1, 2**40),
    "chains": (1, 2**20),
    "seed": (0, None),
    "every": (1, None),
    "burn_in": (0, None),
    "stint": (1, None),
}
"""The least and the most that whole numbers of a simulation may be."""


def _is_ising(model: Model) -> bool:
    return model.values == (-1, 1) and model.bond == 2.0 and model.nearest


def _is_potts(model: Model) -> bool:
    return model.q > 1 and model.bond == 1.0 and model.nearest


def _is_either(model: Model) -> bool:
    return _is_ising(model) or _is_potts(model)


def _alone(kernel: Callable[..., object]) -> Callable[..., object]:
    """Return a kernel of one configuration as an `Update.advance`."""
    return lambda x, model, t, state, updates: kernel(x[0], t, state, updates, model.q)


ALGORITHMS: list[tuple[Callable[[Model], bool], Update]] = [
    (_is_either, Update(_alone(wolff), "wolff", "cluster", local=False)),
    (_is_either, Update(_alone(swendsen_wang), "swendsen-wang", stream=lane_state, local=False)),
    (
        _is_either,
        Update(_alone(metropolis), "metropolis", stream=lane_state, even_sides=True, pace=1.0),
    ),
    (
        _is_ising,
        Update(
            lambda x, model, t, state, updates: multispin(x, t, state, updates), "multispin",
            stream=lane_state, replicas=REPLICAS, even_sides=True, pace=0.1,
        ),
    ),
]  # fmt: skip
"""Updates for every model of which the function before it holds."""


def updates_of(model: Model) -> dict[str, Update]:
    """Return the updates of a model by name: its own, then those that its bonds make exact."""
    general = {update.name: update for fits, update in ALGORITHMS if fits(model)}
    return {**model.updates, **{n: u for n, u in general.items() if n not in model.updates}}


def get_update(name: str, model: Model) -> Update:
    """Return the update called `name` of a model; raises BadInput naming those that it has.

    `auto` is Swendsen-Wang, which makes the most independent configurations per second at Tc
    (`skild-phys bench simulate`), or else the first of the model's own.
    """
    known = updates_of(model)
    if not known:
        raise BadInput("model", model.name, "a model with updates")
    if name == "auto":
        return known.get("swendsen-wang") or next(iter(known.values()))
    if name.replace("_", "-") not in known:
        raise BadInput("algorithm", name, f"{', '.join(known)} (for {model.name}), or auto")
    return known[name.replace("_", "-")]


def sweeps_between_samples(local: bool, side: int, temperature: float, critical: float) -> int:
    """Return roughly how many updates two independent samples are apart, before any is measured.

    16 for cluster updates; ell^2.17 for local ones (Nightingale and Bloete, Phys. Rev. Lett. 76,
    4548, 1996), ell the smaller of L and Tc / |T - Tc|.
    """
    if not local:
        return 16
    away = abs(temperature / critical - 1.0)
    ell = side if away * side < 1.0 else max(1.0, 1.0 / away)
    return math.ceil(math.pow(ell, 2.17))


def _parse_shape(sides: Any, model: Model) -> tuple[int, ...]:
    """Return the shape of a lattice that `model` can live on, slowest axis first.

    `sides` is one for all axes or a sequence of them, or a text such as `64` or `256x128`. Raises
    BadInput naming L.
    """
    d, most = model.dimension, LARGEST_SIDE[model.dimension]
    several = isinstance(sides, tuple | list)
    shown = "x".join(map(str, sides)) if several else sides
    known = [*sides] if several else [sides]
    if isinstance(sides, str):
        known = [int(n) if n.strip().isdecimal() else n for n in sides.lower().split("x")]
    if len(known) not in (1, d) or not all(type(n) is int and 2 <= n <= most for n in known):
        example = "x".join(["128", "64", "64"][:d])
        accepted = f"a side such as 64, or {d} sides such as {example}, each from 2 to {most}"
        raise BadInput("L", shown, accepted)
    return tuple(known if len(known) == d else known * d)


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
    L : side from 2 on, a tuple of sides, slowest axis first, or "256x128".
    temperature : in J / k_B, or "Tc", or a multiple such as "1.05Tc".
    n_samples : of all chains together.
    model : a `Model`, or the name of one (`models.MODELS`).
    algorithm : one of the model's updates; `auto` for the fastest.
    chains : by default 4 (`multispin`: 64, or a multiple). Unit u draws from the stream "chain" u
        (`rng.KEYS`) of `system_seed`.
    every : updates between two samples of a chain; None: two integrated autocorrelation times,
        of the slower one of energy and M^2, as measured during burn-in.
    burn_in : updates before the first sample interval of a chain; None: at least 20
        autocorrelation times, as measured.
    stint : draws a unit makes in a row; None: about half a megabyte of configurations, less where
        they must be expected to take long, or are few.
    start : `cold` (all sites equal, from where clusters grow at once) or `hot` (random).
    seed : of all streams, together with model, sides, temperature, algorithm and start: the same
        seed gives independent runs of two systems. Runs that differ in nothing but `n_samples`,
        `every`, `burn_in`, `stint` or `chains` are parts of the same chains.
    tau_energy, tau_magnetization_squared : integrated autocorrelation times, in updates, that
        the burn-in found; None where it measured none.
    streams : `rng.STREAMS`; None for those of a store of version 0.1, from the seed alone.

    Raises
    ------
    BadInput naming the option that cannot be used.
    """

    L: Any = option(None, "Side of the lattice, or sides such as 256x128.")
    temperature: Any = option(None, "J/k_B: a number, Tc or 1.05Tc.", "--T")
    n_samples: int = option(100, "Samples of all chains together.", "-n", "--samples")
    model: Any = option("ising2d", "ising2d, ising3d, potts2 .. potts8.")
    algorithm: str = option(
        "auto",
        "wolff, swendsen-wang, metropolis, multispin (64 replicas per word), or the fastest.",
    )
    chains: int | None = option(None, "Independent chains.  [default: 4; multispin: 64]")
    every: int | None = option(
        None, "Clusters or sweeps between samples.  [default: two autocorrelation times, measured]"
    )
    burn_in: int | None = option(
        None, "The same before the first.  [default: 20 autocorrelation times]"
    )
    stint: int | None = None
    start: str = option("cold", "cold or hot.")
    seed: int = option(0, "Seed of every stream.")
    tau_energy: float | None = None
    tau_magnetization_squared: float | None = None
    streams: str | None = STREAMS

    def __post_init__(self) -> None:
        model = self.model if isinstance(self.model, Model) else get_model(str(self.model))
        self._set("model", model)
        if self.L is None:
            raise BadInput("L", None, "a side such as 256, or sides such as 256x128")
        if self.temperature is None:
            raise BadInput("T", None, "a number, Tc, or a multiple such as 1.05Tc")
        shape = _parse_shape(self.L, model)
        shown = "x".join(map(str, shape)) if isinstance(self.L, str | tuple) else self.L
        self._set("L", shape[0] if len(set(shape)) == 1 else shape)
        self._set("temperature", parse_temperature(self.temperature, model))
        if self.temperature > _HOTTEST:
            raise BadInput("T", self.temperature, f"a positive temperature up to {_HOTTEST:g}")
        chosen = get_update(self.algorithm, model)
        self._set("algorithm", chosen.name)
        if chosen.even_sides and any(side % 2 for side in shape):
            accepted = f"even sides for the checkerboard of {chosen.name}"
            raise BadInput("L", shown, f"{accepted} (cluster updates take any)")
        if self.start not in ("cold", "hot"):
            raise BadInput("start", self.start, "cold or hot")
        if self.streams not in (None, STREAMS):
            raise BadInput("streams", self.streams, f"{STREAMS}, or None")
        if self.chains is None:
            self._set("chains", max(4, chosen.replicas))
        for name, (least, most) in _WHOLE.items():
            if (value := getattr(self, name)) is not None:
                shown_as = "samples" if name == "n_samples" else name
                self._set(name, check_whole(shown_as, value, least, most))
        if self.n_chains % chosen.replicas:
            accepted = f"a multiple of {chosen.replicas} for {chosen.name}"
            raise BadInput("chains", self.chains, accepted)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def kernel(self) -> Update:
        """The update itself."""
        return get_update(self.algorithm, self.model)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the lattice, slowest axis first."""
        return _parse_shape(self.L, self.model)

    @property
    def sites(self) -> int:
        """The number of sites."""
        return math.prod(self.shape)

    @property
    def system_seed(self) -> int:
        """The seed that the streams of all units grow from."""
        parameters = self.model.parameters
        system = [self.model.name, self.shape, self.temperature, self.algorithm, self.start]
        return system_seed(self.streams, self.seed, *system, *([parameters] if parameters else []))

    @property
    def n_chains(self) -> int:
        """The number of chains."""
        return self.chains or 1

    @property
    def units(self) -> int:
        """How many groups of chains advance by themselves."""
        return self.n_chains // self.kernel.replicas

    def updates_in(self, seconds: float) -> int:
        """Return about how many updates of a unit take so long."""
        kernel = self.kernel
        return max(1, int(seconds * 1e9 / (kernel.pace * self.sites * kernel.replicas)))

    @property
    def stretch(self) -> int:
        """Samples that a unit makes in a row."""
        return (self.stint or 1) * self.kernel.replicas

    def with_stint(self) -> SimulationSpec:
        """Return the same with a number of draws in a row."""
        if self.stint is not None:
            return self
        kernel, sites = self.kernel, self.sites * self.kernel.replicas
        apart = self.every or sweeps_between_samples(
            kernel.local, max(self.shape), self.temperature, self.model.critical_temperature
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
        """Return what a store says of its samples, as far as it is settled; not `n_samples`."""
        known = {n: v for n, v in vars(self).items() if v is not None and n != "n_samples"}
        couplings = {"J": 1.0, **self.model.parameters}
        L = self.L if isinstance(self.L, int) else list(self.L)
        update = self.kernel.unit
        return known | {"model": self.model.name, "L": L, "couplings": couplings, "update": update}

    @classmethod
    def of(cls, attrs: Mapping[str, Any], n_samples: int) -> SimulationSpec:
        """Return the spec of a simulated store by its attributes; raises KeyError for another."""
        names = {f.name for f in dataclasses.fields(cls)} - {"n_samples"}
        known = {name: attrs[name] for name in names if attrs.get(name) is not None}
        needed = {"L", "temperature", "model", "algorithm", "chains", "seed", "stint"}
        if missing := needed - set(known):
            raise KeyError(", ".join(sorted(missing)))
        known |= {"streams": attrs.get("streams"), "model": find_model(attrs) or known["model"]}
        if isinstance(known["L"], list):
            known["L"] = tuple(known["L"])
        return cls(n_samples=n_samples, **known)
