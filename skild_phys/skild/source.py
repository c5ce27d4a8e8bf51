"""Where training lattices come from: a running simulation, which never repeats, or a store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.rng import generator, kernel_state
from skild_phys.simulate.wolff import wolff
from skild_phys.store import LatticeStore

State = dict[str, NDArray[np.generic]]


class Source(Protocol):
    """A stream of lattices that can be stopped and taken up again at the same place."""

    shape: tuple[int, int]

    def next(self, n: int) -> NDArray[np.generic]:
        """Return the next `n` lattices, (n, Ly, Lx)."""

    def state(self) -> State:
        """Return what `restore` needs to go on with the very next lattice."""

    def restore(self, state: State) -> None:
        """Go on where the source that gave `state` stood."""


class SimulationSource:
    """Independent Wolff chains, one a place in the batch.

    Parameters
    ----------
    side, temperature : of the lattices.
    chains : number of chains; `next` must be asked for that many.
    clusters : clusters between two lattices of a chain, a fixed number (at L = 64 and Tc the
        energy's integrated autocorrelation time is 6 clusters).
    seed : chain c draws from stream (c,) of this seed.
    burn_in : clusters before the first lattice, from a fully magnetized start.
    """

    def __init__(
        self,
        side: int,
        temperature: float,
        chains: int,
        clusters: int,
        seed: int,
        burn_in: int = 200,
        threads: int = 2,
    ) -> None:
        self.shape = (side, side)
        self.temperature, self.clusters, self.threads = temperature, clusters, threads
        self.spins = np.ones((chains, side, side), dtype=np.int8)
        self.states = np.stack([kernel_state(seed, chain) for chain in range(chains)])
        self._advance(burn_in)

    def _advance(self, clusters: int) -> None:
        def one(chain: int) -> None:
            wolff(self.spins[chain], self.temperature, self.states[chain], clusters)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(one, range(len(self.spins))))

    def next(self, n: int) -> NDArray[np.generic]:
        if n != len(self.spins):
            raise ValueError(f"asked for {n} lattices of {len(self.spins)} chains")
        self._advance(self.clusters)
        return self.spins.copy()

    def state(self) -> State:
        return {"spins": self.spins.copy(), "states": self.states.copy()}

    def restore(self, state: State) -> None:
        self.spins = state["spins"].astype(np.int8)
        self.states = state["states"].astype(np.uint64)


class StoreSource:
    """Lattices of a store in random order, every one once an epoch; read chunk by chunk.

    Chunks are visited in random order and shuffled inside, so that memory stays at one chunk.
    """

    def __init__(self, store: LatticeStore, seed: int) -> None:
        if store.n_samples < 1:
            raise BadInput("STORE", str(store.path), "a store with at least one sample")
        self.store, self.seed, self.shape = store, seed, store.shape
        self.epoch = self.position = 0
        self._spans = list(store.batches())
        self._held: tuple[int, int, NDArray[np.generic]] | None = None

    def _chunk(self, which: int) -> NDArray[np.generic]:
        if self._held is None or self._held[:2] != (self.epoch, which):
            random = generator(self.seed, self.epoch)
            order = random.permutation(len(self._spans))
            lattices = self.store.read(*self._spans[order[which]])
            inside = generator(self.seed, self.epoch, which).permutation(len(lattices))
            self._held = (self.epoch, which, lattices[inside])
        return self._held[2]

    def next(self, n: int) -> NDArray[np.generic]:
        out: list[NDArray[np.generic]] = []
        have = 0
        while have < n:
            which, offset = divmod(self.position, self.store.chunk)
            if which >= len(self._spans):
                self.epoch, self.position = self.epoch + 1, 0
                continue
            part = self._chunk(which)[offset : offset + n - have]
            if not len(part):
                self.position = (which + 1) * self.store.chunk
                continue
            out.append(part)
            have += len(part)
            self.position += len(part)
        return (
            np.concatenate(out) if self.store.scale == 1 else np.concatenate(out) * self.store.scale
        )

    def state(self) -> State:
        return {"place": np.array([self.epoch, self.position], dtype=np.int64)}

    def restore(self, state: State) -> None:
        self.epoch, self.position = (int(i) for i in state["place"])
