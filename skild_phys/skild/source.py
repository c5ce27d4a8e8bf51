"""Where training lattices come from: a running simulation, which never repeats, or files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError
from skild_phys.rng import generator, kernel_state
from skild_phys.simulation.expected import default_every
from skild_phys.simulation.wolff import wolff
from skild_phys.skild.pixels import ImageLattices
from skild_phys.store import LatticeStore, open_array

State = dict[str, NDArray[np.generic]]
EVERY = slice(None)


class Source(Protocol):
    """A stream of lattices that can be stopped and taken up again at the same place."""

    shape: tuple[int, int]
    channels: int
    """Of images; 0 for lattices, which have none."""
    n_samples: int | None
    """Number of different lattices; None where there is no end of them."""

    def next(self, n: int, part: slice = EVERY) -> NDArray[np.generic]:
        """Return the next `n` lattices, (n, Ly, Lx), or images, (n, channels, Ly, Lx).

        Only `part` of them, if not all are wanted; the others are passed over.
        """

    def identity(self) -> dict[str, Any]:
        """Return, for JSON, what tells this stream from every other."""

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
        energy's integrated autocorrelation time is 6 clusters); 0 for `default_every`, about
        two autocorrelation times.
    seed : chain c draws from stream (c,) of this seed.
    threads : that run chains; they change no number.
    burn_in : clusters before the first lattice, from a fully magnetized start; by default 10
        `default_every`, and 200 at least. They run when the first lattice is asked for.
    """

    n_samples: int | None = None
    channels = 0

    def __init__(
        self,
        side: int,
        temperature: float,
        chains: int,
        clusters: int,
        seed: int,
        burn_in: int | None = None,
        threads: int = 1,
    ) -> None:
        every = default_every(side, temperature)
        self.shape = (side, side)
        self.temperature, self.clusters, self.threads = temperature, clusters or every, threads
        self.seed, self.burn_in = seed, max(200, 10 * every) if burn_in is None else burn_in
        self.spins = np.ones((chains, side, side), dtype=np.int8)
        self.states = np.stack([kernel_state(seed, chain) for chain in range(chains)])
        self._waiting = self.burn_in

    def _advance(self, clusters: int) -> None:
        def one(chain: int) -> None:
            wolff(self.spins[chain], self.temperature, self.states[chain], clusters)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(one, range(len(self.spins))))

    def next(self, n: int, part: slice = EVERY) -> NDArray[np.generic]:
        if n != len(self.spins):
            raise ValueError(f"asked for {n} lattices of {len(self.spins)} chains")
        self._burn()
        self._advance(self.clusters)
        return self.spins[part].copy()

    def _burn(self) -> None:
        if self._waiting:
            self._advance(self._waiting)
            self._waiting = 0

    def identity(self) -> dict[str, Any]:
        names = ("shape", "temperature", "clusters", "burn_in", "seed")
        return {"simulation": "wolff"} | {name: getattr(self, name) for name in names}

    def state(self) -> State:
        self._burn()
        return {"spins": self.spins.copy(), "states": self.states.copy()}

    def restore(self, state: State) -> None:
        if state["spins"].shape != self.spins.shape or state["states"].shape != self.states.shape:
            raise ValueError(f"chains of shape {state['spins'].shape}, not {self.spins.shape}")
        self.spins = state["spins"].astype(np.int8)
        self.states = state["states"].astype(np.uint64)
        self._waiting = 0


class ArrayLattices:
    """Lattices in someone's own `.npy` or Zarr array, read and checked like those of a store.

    Parameters
    ----------
    path : what `store.open_array` reads, (n, Ly, Lx).
    spins : whether every number must be -1 or +1; if not, every one must be finite.

    All numbers are read once, for the check and the digest. Raises StoreError.
    """

    scale = 1.0
    channels = 0

    def __init__(self, path: Path, spins: bool) -> None:
        self.path, self.spins, self._array = path, spins, open_array(path)
        self.n_samples, height, width = self._array.shape
        self.shape = (height, width)
        chunks = getattr(self._array, "chunks", None)
        self.chunk = chunks[0] if chunks else max(1, 2**22 // (height * width))
        digest = hashlib.sha256(f"{self._array.shape} {self._array.dtype}".encode())
        for span in self.batches():
            digest.update(self.read(*span).tobytes())
        self._digest = digest.hexdigest()

    def batches(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of every chunk."""
        for start in range(0, self.n_samples, self.chunk):
            yield start, min(start + self.chunk, self.n_samples)

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return lattices start..stop-1, checked."""
        values = np.asarray(self._array[start:stop])
        good = np.isin(values, (-1, 1)) if self.spins else np.isfinite(values)
        if not good.all():
            bad = values[~good][0]
            wanted = "-1 and +1 (from 0/1: 2*s-1)" if self.spins else "finite numbers"
            raise StoreError(f"{self.path}: samples {start}..{stop - 1} hold {bad}, not {wanted}")
        return values

    def digest(self) -> str:
        """Return the SHA-256 of shape, type and numbers."""
        return self._digest


class StoreSource:
    """Lattices of a store or array in random order, each once an epoch; read chunk by chunk.

    Chunks are visited in random order and shuffled inside, so that memory stays at one chunk.
    """

    def __init__(self, store: LatticeStore | ArrayLattices | ImageLattices, seed: int) -> None:
        if store.n_samples < 1 or len(store.shape) != 2 or min(store.shape) < 2:
            raise BadInput("STORE", str(store.path), "a sample or more, of 2 x 2 sites or more")
        height, width = store.shape
        self.store, self.seed, self.shape = store, seed, (height, width)
        self.n_samples: int | None = store.n_samples
        self.channels: int = store.channels
        self.epoch = self.position = 0
        self._spans = list(store.batches())
        self._held: tuple[int, int, NDArray[np.generic]] | None = None
        self._orders: tuple[int, NDArray[np.int64]] | None = None
        self._identity = {"data": store.digest(), "seed": seed}

    def identity(self) -> dict[str, Any]:
        return self._identity

    def _chunk(self, which: int) -> NDArray[np.generic]:
        if self._held is None or self._held[:2] != (self.epoch, which):
            lattices = self.store.read(*self._spans[self._order()[which]])
            inside = generator(self.seed, self.epoch, which).permutation(len(lattices))
            self._held = (self.epoch, which, lattices[inside])
        return self._held[2]

    def _order(self) -> NDArray[np.int64]:
        """Return the chunks in the order of this epoch."""
        if self._orders is None or self._orders[0] != self.epoch:
            order = generator(self.seed, self.epoch).permutation(len(self._spans))
            self._orders = (self.epoch, order)
        return self._orders[1]

    def next(self, n: int, part: slice = EVERY) -> NDArray[np.generic]:
        out: list[NDArray[np.generic]] = []
        first, last, _ = part.indices(n)
        have = 0
        while have < n:
            which, offset = divmod(self.position, self.store.chunk)
            if which >= len(self._spans):
                self.epoch, self.position = self.epoch + 1, 0
                continue
            start, stop = self._spans[self._order()[which]]
            count = min(stop - start - offset, n - have)
            if count <= 0:
                self.position = (which + 1) * self.store.chunk
                continue
            low, high = max(first - have, 0), min(last - have, count)
            if low < high:
                out.append(self._chunk(which)[offset + low : offset + high])
            have += count
            self.position += count
        return (
            np.concatenate(out) if self.store.scale == 1 else np.concatenate(out) * self.store.scale
        )

    def state(self) -> State:
        return {"place": np.array([self.epoch, self.position], dtype=np.int64)}

    def restore(self, state: State) -> None:
        self.epoch, self.position = (int(i) for i in state["place"])
