"""Other packages that simulate the Ising model, driven to be timed beside this one.

Each is called as its own documentation has it, many updates a call, on one thread. mcising 1.1
and peapods 0.2 are what this was written against; the extra `bench` installs them.
"""

from __future__ import annotations

import importlib
import math
import time
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import how_to_install
from skild_phys.models.exact import kaufman_energy

ALGORITHMS = ("wolff", "swendsen-wang", "metropolis")

_CHECK_SIDE = 16
_BATCHES = 16
_BATCH_UPDATES = 4000  # many autocorrelation times on a lattice of that side
_EQUILIBRATION = 200  # Swendsen-Wang sweeps from a random lattice


class Missing(Exception):
    """A package that cannot be measured; the message says why."""


class Peer(ABC):
    """A chain of another package.

    Parameters
    ----------
    algorithm : one of `ALGORITHMS`.
    lattice : int8 of +-1 to start from; a package that takes none equilibrates one of its own.
    temperature : in J / k_B.
    seed : of its generator.
    """

    package: ClassVar[str]

    @abstractmethod
    def __init__(
        self, algorithm: str, lattice: NDArray[np.int8], temperature: float, seed: int
    ) -> None: ...

    @staticmethod
    def able(model: str, shape: tuple[int, ...]) -> bool:
        """Return whether the package has such a model and lattice."""
        return model in ("ising2d", "ising3d")

    @abstractmethod
    def time(self, updates: int) -> tuple[float, int | None]:
        """As `timing.Kernel.time`; no number of spins where the package does not say."""

    @abstractmethod
    def mean_energy(self, updates: int) -> float:
        """Return the energy per site averaged over so many updates."""


class Mcising(Peer):
    """mcising: a simulation with one algorithm; `sweep` makes one Wolff cluster, or one sweep."""

    package = "mcising"

    def __init__(
        self, algorithm: str, lattice: NDArray[np.int8], temperature: float, seed: int
    ) -> None:
        kind = "square" if lattice.ndim == 2 else "cubic"
        name = algorithm.replace("-", "_")
        create = importlib.import_module(self.package).IsingSimulation
        self._chain = create(len(lattice), 1.0, 0.0, 0.0, 0.0, seed, name, kind)
        self._chain.set_spins(lattice)
        self._temperature, self._wolff = temperature, algorithm == "wolff"

    @staticmethod
    def able(model: str, shape: tuple[int, ...]) -> bool:
        return Peer.able(model, shape) and len(set(shape)) == 1

    def time(self, updates: int) -> tuple[float, int | None]:
        began = time.perf_counter()
        flipped, _, _ = self._chain.sweep(updates, temperature=self._temperature)
        took = time.perf_counter() - began
        return took, int(flipped) if self._wolff else None

    def mean_energy(self, updates: int) -> float:
        found = self._chain.production_sweeps(
            updates, 1, temperature=self._temperature, store_configs=False
        )
        return float(np.mean(found["energies"]))


class Peapods(Peer):
    """peapods: every cluster update comes with a Metropolis sweep, whose time is taken off.

    Timed as its warm-up, in which it measures nothing. It does not say how large clusters are.
    """

    package = "peapods"

    def __init__(
        self, algorithm: str, lattice: NDArray[np.int8], temperature: float, seed: int
    ) -> None:
        create = importlib.import_module(self.package).Ising
        self._chain = create(lattice.shape, temperatures=np.array([temperature]))
        self._chain._sim.reset(seed=seed)
        mode = {"wolff": "wolff", "swendsen-wang": "sw"}.get(algorithm)
        self._cluster = _clusters(mode) if mode else {}
        self._sample(_EQUILIBRATION, 1.0, _clusters("sw"))

    def _sample(self, updates: int, warmup: float, cluster: dict[str, Any]) -> float:
        with np.errstate(invalid="ignore"):
            began = time.perf_counter()
            self._chain.sample(updates, warmup_ratio=warmup, sequential=True, **cluster)
            return time.perf_counter() - began

    def time(self, updates: int) -> tuple[float, int | None]:
        took = self._sample(updates, 1.0, self._cluster)
        if self._cluster:
            took -= self._sample(updates, 1.0, {})
        return took, None

    def mean_energy(self, updates: int) -> float:
        self._sample(updates, 0.0, self._cluster)
        return -float(self._chain.get_energies()[0])


PEERS: tuple[type[Peer], ...] = (Mcising, Peapods)


def _clusters(mode: str) -> dict[str, Any]:
    return {"cluster_update_interval": 1, "cluster_mode": mode}


def version(peer: type[Peer]) -> str:
    """Return the version of an installed peer; raises Missing."""
    package = peer.package
    try:
        importlib.import_module(package)
    except ImportError as error:
        if error.name == package:
            raise Missing(f"not installed: {how_to_install('bench')}") from None
        raise Missing(f"cannot be imported: {error}") from None
    return metadata.version(package)


def check_energy(peer: type[Peer], algorithm: str, temperature: float, seed: int) -> dict[str, Any]:
    """Compare the energy per site that a peer finds on a small 2D Ising lattice with Kaufman's.

    The error is that of the mean of batches, each many autocorrelation times long. Single
    precision is all that one may ask for.
    """
    start = np.ones((_CHECK_SIDE, _CHECK_SIDE), dtype=np.int8)
    chain = peer(algorithm, start, temperature, seed)
    chain.mean_energy(_BATCH_UPDATES)
    means = [chain.mean_energy(_BATCH_UPDATES) for _ in range(_BATCHES)]
    energy, error = float(np.mean(means)), float(np.std(means, ddof=1)) / math.sqrt(_BATCHES)
    exact = kaufman_energy(_CHECK_SIDE, temperature)
    sigmas = (energy - exact) / max(error, 1e-6)
    return {
        "side": _CHECK_SIDE, "energy": energy, "error": error, "exact": exact,
        "deviation_sigma": sigmas,
    }  # fmt: skip
