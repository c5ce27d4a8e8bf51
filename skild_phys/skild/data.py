"""Training data: a running simulation, which never repeats, or a store; images are fields too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput, StoreError
from skild_phys.models import find_model, get_model, parse_temperature
from skild_phys.rng import generator, kernel_state
from skild_phys.simulation.wolff import default_every, wolff
from skild_phys.skild.networks import MIRROR, SYMMETRIES, turns
from skild_phys.skild.recipe import Recipe
from skild_phys.store import Lattices, open_lattices

_State = dict[str, NDArray[np.generic]]
_EVERY = slice(None)
_FEWEST, _HELD_BYTES = 64, 2**26  # samples below which none are held out; memory of those that are
_A_STORE_OF_IMAGES = "a store of images ('skild-phys images prepare')"


class Held(NamedTuple):
    """Samples that training never sees, (n, ...) as `Source.next` gives them.

    `series` are chain and draw of each, where they are known.
    """

    samples: NDArray[np.generic]
    series: dict[str, NDArray[Any]]


class Source(Protocol):
    """A stream of samples that can be stopped and resumed at the same place."""

    shape: tuple[int, ...]
    channels: int
    """Of images; 0 for lattices, which have none."""
    n_samples: int | None
    """Number of different samples; None where there is no end of them."""

    def next(self, n: int, part: slice = _EVERY) -> NDArray[np.generic]:
        """Return `part` of the next `n` samples, (n, *shape) or (n, channels, Ly, Lx)."""

    def identity(self) -> dict[str, Any]:
        """Return, for JSON, what no other stream has."""

    def state(self) -> _State:
        """Return what `restore` needs to resume with the very next sample."""

    def restore(self, state: _State) -> None:
        """Resume where the source that gave `state` stood."""

    def held_out(self, n: int) -> Held | None:
        """Return about `n` samples that `next` never gives, always the same; None if none are."""


class SimulationSource:
    """Independent Wolff chains, one for each place in the batch.

    Parameters
    ----------
    chains : number of chains; `next` must be asked for that many. Chain c draws from stream (c,) of
        the seed.
    clusters : between two samples of a chain, a fixed number (at L = 64 and Tc the energy's
        integrated autocorrelation time is 6 clusters); 0 for `default_every`, about two of these.
    burn_in : clusters before the first sample, from a fully magnetized start; by default 10
        `default_every`, and 200 at least. They run when the first sample is asked for.
    threads : None for as many as PyTorch has; they change no number.
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
        threads: int | None = 1,
        more: Sequence[tuple[int, int]] = (),
    ) -> None:
        every = default_every(side, temperature)
        self.shape: tuple[int, ...] = (side, side)
        self.shapes = ((side, side), *more)
        self.temperature, self.clusters, self.threads = temperature, clusters or every, threads
        self.seed, self.burn_in = seed, max(200, 10 * every) if burn_in is None else burn_in
        # As many chains of each shape as have the sites of a batch of the first.
        self.chains = chains
        many = [max(1, round(chains * side**2 / math.prod(shape))) for shape in self.shapes]
        self.spins = [np.ones((n, *at), dtype=np.int8) for n, at in zip(many, self.shapes)]
        places = np.split(np.arange(sum(many)), np.cumsum(many)[:-1])
        self.states = [
            np.stack([kernel_state(seed, "images", int(chain)) for chain in own]) for own in places
        ]
        self._waiting = [self.burn_in] * len(many)
        self.turn = 0

    def _advance(self, turn: int, clusters: int) -> None:
        """Run `clusters` of the chains of a shape, after those of the burn-in if still to run."""
        total = clusters + self._waiting[turn]
        spins, states = self.spins[turn], self.states[turn]

        def one(chain: int) -> None:
            wolff(spins[chain], self.temperature, states[chain], total)

        if total:
            with ThreadPoolExecutor(self.threads or torch.get_num_threads()) as pool:
                list(pool.map(one, range(len(spins))))
        self._waiting[turn] = 0

    def next(self, n: int, part: slice = _EVERY) -> NDArray[np.generic]:
        if n != self.chains:
            raise ValueError(f"asked for {n} samples of {self.chains} chains")
        turn = self.turn
        self._advance(turn, self.clusters)
        self.turn = (turn + 1) % len(self.shapes)
        own, (first, last, _) = self.spins[turn], part.indices(n)
        return own[first * len(own) // n : last * len(own) // n].copy()

    def identity(self) -> dict[str, Any]:
        names = ("shape", "temperature", "clusters", "burn_in", "seed")
        own = {"simulation": "wolff"} | {name: getattr(self, name) for name in names}
        return own | ({"shapes": self.shapes} if len(self.shapes) > 1 else {})

    def state(self) -> _State:
        for turn in range(len(self.shapes)):
            self._advance(turn, 0)
        state: _State = {"turn": np.array(self.turn)}
        for i, own in enumerate(zip(self.spins, self.states)):
            state |= {f"spins.{i}": own[0].copy(), f"states.{i}": own[1].copy()}
        return state

    def restore(self, state: _State) -> None:
        for i, spins in enumerate(self.spins):
            there = state[f"spins.{i}"]
            if there.shape != spins.shape or state[f"states.{i}"].shape != self.states[i].shape:
                raise ValueError(f"chains of shape {there.shape}, not {spins.shape}")
            self.spins[i] = there.astype(np.int8)
            self.states[i] = state[f"states.{i}"].astype(np.uint64)
            self._waiting[i] = 0
        self.turn = int(state["turn"])

    def held_out(self, n: int) -> Held:
        """Return `n` independent samples of the first shape, of chains of their own."""
        given = (self.shape[0], self.temperature, n, self.clusters, self.seed, self.burn_in)
        own = SimulationSource(*given, self.threads)
        own.states[0] = np.stack([kernel_state(self.seed, "held out", i) for i in range(n)])
        return Held(own.next(n), {})


class _StoreSource:
    """Samples of any origin in random order, each once an epoch; read chunk by chunk.

    Chunks are visited in random order and shuffled inside, so that memory stays at one chunk. The
    last `held` samples are never given.
    """

    def __init__(self, store: Lattices | ImageLattices, seed: int, held: int = 0) -> None:
        if store.n_samples < 1 or len(store.shape) not in (2, 3) or min(store.shape) < 2:
            accepted = "a sample or more, in two or three dimensions, of sides from 2 on"
            raise BadInput("lattices", str(store.path), accepted)
        self.store, self.seed = store, seed
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.held, last = held, store.n_samples - held
        self.n_samples: int | None = last
        self.channels: int = store.channels
        self.epoch = self.position = 0
        self._spans = [(a, min(b, last)) for a, b in store.batches() if a < last]
        self._held: tuple[tuple[int, int], NDArray[np.generic]] | None = None
        self._identity = {"data": store.digest(), "seed": seed} | ({"held": held} if held else {})

    def identity(self) -> dict[str, Any]:
        return self._identity

    def _chunk(self, place: int, start: int, stop: int) -> NDArray[np.generic]:
        which = (self.epoch, place)
        if self._held is None or self._held[0] != which:
            inside = generator(self.seed, "stretch", *which).permutation(stop - start)
            self._held = (which, self.store.read(start, stop)[inside])
        return self._held[1]

    def next(self, n: int, part: slice = _EVERY) -> NDArray[np.generic]:
        out: list[NDArray[np.generic]] = []
        first, last, _ = part.indices(n)
        have, order = 0, generator(self.seed, "epoch", self.epoch).permutation(len(self._spans))
        while have < n:
            place, offset = divmod(self.position, self.store.chunk)
            if place >= len(self._spans):
                self.epoch, self.position = self.epoch + 1, 0
                order = generator(self.seed, "epoch", self.epoch).permutation(len(self._spans))
                continue
            start, stop = self._spans[order[place]]
            count = min(stop - start - offset, n - have)
            if count <= 0:
                self.position = (place + 1) * self.store.chunk
                continue
            low, high = max(first - have, 0), min(last - have, count)
            if low < high:
                chunk = self._chunk(place, start, stop)
                out.append(chunk[offset + low : offset + high])
            have += count
            self.position += count
        return self._physical(np.concatenate(out))

    def _physical(self, samples: NDArray[Any]) -> NDArray[np.generic]:
        return samples if self.store.scale == 1 else samples * self.store.scale

    def state(self) -> _State:
        return {"place": np.array([self.epoch, self.position], dtype=np.int64)}

    def restore(self, state: _State) -> None:
        self.epoch, self.position = (int(i) for i in state["place"])

    def held_out(self, n: int) -> Held | None:
        if not self.held:
            return None
        store, last = self.store, self.store.n_samples
        series = {}
        if isinstance(store, Lattices):
            known: list[str] = [name for name in ("chain", "draw") if name in store.variables]
            series = {name: store.variable(name)[last - self.held :] for name in known}
        return Held(self._physical(store.read(last - self.held, last)), series)


def _held(store: Lattices | ImageLattices, recipe: Recipe) -> int:
    """Return how many samples of a store are held out: one in twenty, if there are 64 or more."""
    if not recipe.measured_every or store.n_samples < _FEWEST:
        return 0
    most = _HELD_BYTES // store.read(0, 1).nbytes
    return min(max(8, store.n_samples // 20), max(8, most), 256)


_SPLITS = ("train", "test")
"""Values of the scalar `split`: 0 and 1. The images of a split lie one after the other."""


def fields_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 8-bit intensities as float32 fields within [-1, 1]."""
    return np.asarray(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0))


def pixels_of(fields: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return fields as the nearest 8-bit intensities; what is beyond [-1, 1] is cut off."""
    return np.asarray(np.rint((fields.clip(-1.0, 1.0) + 1.0) * 127.5).astype(np.uint8))


class ImageLattices:
    """The images of a store, or of one of its splits, as fields (n, channels, Ly, Lx).

    Parameters
    ----------
    store : of images.
    split : 'train' or 'test'; None for all.
    n : the first so many; None for all.

    Raises BadInput for a store of anything else, or without images of the split.
    """

    scale = 1.0

    def __init__(self, store: Lattices, split: str | None = None, n: int | None = None) -> None:
        if store.field != "image":
            raise BadInput("lattices", str(store.path), f"images, not '{store.field}'")
        self.path: Path = store.path
        self.store, self.channels, self.chunk = store, store.channels, store.chunk
        self.split, self.shape = split, (store.shape[0], store.shape[1])
        self.first, last = 0, store.n_samples
        """Index of the first image in the store."""
        if split is not None:
            if split not in _SPLITS:
                raise BadInput("split", split, " or ".join(_SPLITS))
            places = np.flatnonzero(store.variable("split") == _SPLITS.index(split))
            if not len(places):
                raise BadInput("split", split, f"a split that {store.path} has")
            self.first, last = int(places[0]), int(places[-1]) + 1
            if last - self.first != len(places):
                raise StoreError(f"{store.path}: variable 'split': not in one piece")
        self.n_samples = min(last - self.first, n or last)
        self._held: tuple[int, NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return self.n_samples

    def batches(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of stretches of a chunk."""
        for start in range(0, self.n_samples, self.chunk):
            yield start, min(start + self.chunk, self.n_samples)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return images start..stop-1 as fields."""
        return fields_of(self._pixels(start, stop))

    def _pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.store.read(self.first + start, self.first + stop)

    def pixels(self, index: Sequence[int]) -> NDArray[np.uint8]:
        """Return images (len(index), channels, Ly, Lx), 8-bit; the last chunk read is kept."""
        return np.stack([self._chunk(int(i) // self.chunk)[int(i) % self.chunk] for i in index])

    def _chunk(self, number: int) -> NDArray[np.uint8]:
        held = self._held  # threads may ask at once
        if held is None or held[0] != number:
            start = number * self.chunk
            stop = min(start + self.chunk, self.n_samples)
            held = self._held = (number, self._pixels(start, stop))
        return held[1]

    def digest(self) -> str:
        """Return what names the images: that of their store, and the place of the split."""
        return f"{self.identity()} {self.first} {self.n_samples}"

    def identity(self) -> str:
        """Return what names the whole store: a SHA-256.

        Of a data set that was prepared it is that of its source, so that a large one need not be
        read for it; of other stores that of their contents.
        """
        return str(self.store.attrs.get("source_sha256") or self.store.digest())


def symmetry(
    samples: Tensor,
    random: torch.Generator,
    symmetries: Sequence[str] = SYMMETRIES,
    part: slice = _EVERY,
    batch: int | None = None,
    dimension: int = 2,
) -> Tensor:
    """Apply one random symmetry, of those that hold, to `part` of a batch (n, ..., *sides).

    MIRROR is drawn for each on its own.
    """
    axes = tuple(range(-dimension, 0))
    sides = tuple(samples.shape[axis] for axis in axes)
    drawn = torch.randint(0, 2**30, (2 * dimension + 2,), generator=random).tolist()
    if "shift" in symmetries:
        shifts = tuple(number % side for number, side in zip(drawn, sides))
        samples = torch.roll(samples, shifts, axes)
    for axis, number in zip(axes, drawn[dimension:]):
        if number % 2 and "flip" in symmetries:
            samples = samples.flip(axis)
    if "turn" in symmetries:
        able, first = turns(sides), samples.dim() - dimension
        order = able[drawn[-2] % len(able)]
        samples = samples.permute(*range(first), *(first + axis for axis in order))
    if MIRROR in symmetries:
        which = torch.rand(batch or len(samples), generator=random)[part] < 0.5
        which = which.reshape(-1, *[1] * (samples.dim() - 1))
        samples = torch.where(which, samples.flip(-1), samples)
    return -samples if drawn[-1] % 2 and "sign" in symmetries else samples


def training_source(lattices: Any, recipe: Recipe) -> tuple[Source, dict[str, Any]]:
    """Return where samples come from, and what the weights record of their system.

    `lattices` is what `open_lattices` takes; None for the running simulation of the recipe. Raises
    BadInput for what the recipe is not of.
    """
    system: dict[str, Any]
    if lattices is None:
        if recipe.data == "images":
            raise BadInput("lattices", None, _A_STORE_OF_IMAGES)
        model = get_model(recipe.model)
        if model.name != "ising2d":
            raise BadInput("model", model.name, "ising2d, or a STORE: no other model is simulated")
        system = {"model": model.name, "temperature": parse_temperature(recipe.temperature, model)}
        given = (recipe.side, system["temperature"], recipe.batch, recipe.clusters, recipe.seed)
        more = list(zip(recipe.shapes[::2], recipe.shapes[1::2], strict=True))
        return SimulationSource(*given, threads=None, more=more), system | {"side": recipe.side}
    spins = recipe.output == "logits"
    system = {"model": None, "temperature": None}
    opened = open_lattices(lattices, None if spins else "field", repeats=True)
    where, kind = str(opened.path), opened.field
    if recipe.data == "images" or kind == "image":
        if kind != "image":
            raise BadInput("lattices", where, _A_STORE_OF_IMAGES)
        if recipe.data != "images":
            raise BadInput("lattices", where, 'lattices; for images say data = "images"')
        if opened.shape != (recipe.side, recipe.side):
            held = "images of {1} x {0}".format(*opened.shape)
            raise BadInput("lattices", held, f"{recipe.side} x {recipe.side}, the recipe's")
        images = ImageLattices(opened, "train" if "split" in opened.variables else None)
        system |= {"model": "images", "side": min(images.shape)}
        system |= {"dataset": opened.attrs.get("dataset"), "images": images.n_samples}
        return _StoreSource(images, recipe.seed, _held(images, recipe)), system
    if opened.q:
        raise BadInput("lattices", where, f"spins, block sums or a field, not '{kind}'")
    if spins and kind != "spins":
        accepted = f"spins, not '{kind}', or a recipe (config=) with output = \"v\""
        raise BadInput("lattices", where, accepted)
    if opened.layout.components > 1:
        held = f"{where}, of {opened.layout.components} components"
        raise BadInput("lattices", held, "fields of one number per site")
    known = find_model(opened.attrs)
    if known is not None and "sign" in recipe.symmetries and not known.even:
        accepted = f"a recipe without 'sign': {known.name} declares no change of sign"
        raise BadInput("symmetries", list(recipe.symmetries), accepted)
    names = ("model", "temperature", "rule", "factor")
    system |= {name: opened.attrs[name] for name in names if name in opened.attrs}
    shape = {} if len(set(opened.shape)) == 1 else {"shape": list(opened.shape)}
    source = _StoreSource(opened, recipe.seed, _held(opened, recipe))
    return source, system | {"side": min(opened.shape)} | shape
