"""The loop that runs Markov chains and commits their samples to a store.

Units advance by themselves, each a few draws at a time, and run up to two blocks of samples ahead
of the last commit. A block is committed when all its samples are there, on a thread of its own,
while the next ones are computed. Where commits fall does not change a byte.

A draw that takes longer than a few seconds is made in pieces, and how far the units are with it is
kept beside the samples (`StoreWriter.keep`), as of a burn-in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted, OutputTaken, StoreError
from skild_phys.executors import Executor
from skild_phys.files import AnyPath
from skild_phys.runner import Run, interrupted, open_writer
from skild_phys.simulation import burn_in as burning
from skild_phys.simulation.spec import SETTLED, SimulationSpec
from skild_phys.simulation.unit import (
    Samples,
    Unit,
    burn,
    draw,
    restored_units,
    units_state,
    updates_in,
)
from skild_phys.store import Lattices, MemoryWriter, Plan, StoreWriter, open_store

COMMIT_SECONDS = 2.5
"""About how long a block takes; a kill may cost the two that are under way."""

_BLOCK_BYTES = 2**25
_CHUNK_BYTES = 2**30
_AHEAD = 2
_POLL_SECONDS = 0.1

Note = Callable[[str], None]
Writer = StoreWriter | MemoryWriter
_PLAIN = Run()


@dataclass
class _Block:
    """Samples first .. last - 1, with what each unit has made of them."""

    first: int
    last: int
    units: int
    parts: dict[int, Samples] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def whole(self) -> bool:
        return len(self.parts) == self.units


class _Run:
    """One run of the loop: what has been made, what is on its way, what is committed."""

    def __init__(
        self,
        spec: SimulationSpec,
        writer: Writer,
        units: list[Unit],
        run: Executor,
        progress: Callable[..., None],
    ) -> None:
        self.spec, self.writer, self.units, self.run = spec, writer, list(units), run
        self.region = writer.region() if isinstance(writer, StoreWriter) and run.remote else None
        self.progress = progress
        self.blocks: list[_Block] = []
        self.gone = 0  # blocks committed
        self.rounds = 1  # in the next block
        self.at = [0] * spec.units  # the block each unit works on next
        self.made = [spec.made(unit, writer.committed) for unit in range(spec.units)]
        self.busy: set[int] = set()
        self.before = units
        """The units as they stand at the last commit."""
        self.ahead = [0] * spec.units
        """Updates that each unit has made since its last draw."""
        self.piece = updates_in(spec, burning.PIECE_SECONDS)
        self.long = (spec.every or 1) > 2 * self.piece and spec.stretch == spec.kernel.replicas
        if self.long and "ahead" in writer.kept:
            kept = writer.kept
            self.units = restored_units(spec, {n: kept[f"now_{n}"] for n in ("spins", "rng")})
            self.ahead = kept["ahead"].tolist()
        self.kept_at = time.monotonic()
        self.events: queue.SimpleQueue[tuple[int | None, Future[Any]]] = queue.SimpleQueue()
        self.committing = False

    def _block(self, number: int) -> _Block | None:
        """Return a block, making the next one if there is more to do."""
        if number < len(self.blocks):
            return self.blocks[number]
        first = self.blocks[-1].last if self.blocks else self.writer.committed
        if first >= self.spec.n_samples:
            return None
        # Units that take long over a draw each have a block of their own.
        size = self.spec.stretch * (1 if self.long else self.spec.units)
        last = min((first // size + self.rounds) * size, self.spec.n_samples)
        busy = [u for u in range(self.spec.units) if any(self.spec.stretches(u, first, last))]
        self.blocks.append(_Block(first, last, len(busy)))
        return self.blocks[number]

    def feed(self) -> None:
        """Give every idle unit its next piece of work, unless it is far ahead."""
        ahead = _AHEAD * (self.spec.units if self.long else 1)
        for unit in range(self.spec.units):
            while unit not in self.busy and self.at[unit] < self.gone + ahead:
                block = self._block(self.at[unit])
                if block is None:
                    break
                stretches = list(self.spec.stretches(unit, block.first, block.last))
                if not stretches:
                    self.at[unit] += 1
                    continue
                self._submit(unit, stretches)

    def _submit(self, unit: int, stretches: list[tuple[int, int]]) -> None:
        self.busy.add(unit)
        in_draw = self.made[unit] % self.spec.kernel.replicas != 0
        if self.long and not in_draw and (self.spec.every or 1) - self.ahead[unit] > self.piece:
            work = self.run.submit(burn, self.spec, self.units[unit], self.piece)
        else:
            work = self.run.submit(
                draw, self.spec, unit, self.units[unit], self.made[unit], stretches, self.region,
                tick=self.progress, ahead=self.ahead[unit],
            )  # fmt: skip
        work.add_done_callback(lambda done: self.events.put((unit, done)))

    def receive(self, unit: int, samples: Samples | Unit) -> None:
        """Take in what a unit has made, or that it is nearer to its next draw."""
        if isinstance(samples, Unit):
            self.units[unit] = samples
            self.ahead[unit] += self.piece
            self.busy.discard(unit)
            return
        self.ahead[unit] = 0
        self.blocks[self.at[unit]].parts[unit] = samples
        self.units[unit] = samples.unit
        self.made[unit] += len(samples.energy)
        self.at[unit] += 1
        self.busy.discard(unit)
        if self.run.remote:
            self.progress(len(samples.energy))

    def commit(self, pool: ThreadPoolExecutor) -> None:
        """Start to commit the next block, if it is whole and none is being committed."""
        if self.committing or self.gone == len(self.blocks) or not self.blocks[self.gone].whole:
            return
        block = self.blocks[self.gone]
        state = units_state([self._state(u, block) for u in range(len(self.at))])
        arrays = self._arrays(block)
        written = block.last - block.first if self.run.remote else None
        self.committing = True
        job = pool.submit(self.writer.commit, arrays, state, written=written)
        job.add_done_callback(lambda done: self.events.put((None, done)))

    def _state(self, unit: int, block: _Block) -> Unit:
        """Return a unit as it stands after a block, though it may be ahead by now."""
        if unit in block.parts:
            return block.parts[unit].unit
        # It has made none of this block's samples: it stands where the last block left it.
        return self.before[unit]

    def keep(self) -> None:
        """Keep how far the units are with their next draws; those of a block beyond it lose it."""
        made = {unit for block in self.blocks[self.gone :] for unit in block.parts}
        units = [self.before[u] if u in made else unit for u, unit in enumerate(self.units)]
        now = {f"now_{name}": values for name, values in units_state(units).items()}
        ahead = [0 if u in made else updates for u, updates in enumerate(self.ahead)]
        self.writer.keep({**self.writer.kept, **now, "ahead": np.array(ahead)})
        self.kept_at = time.monotonic()

    def committed(self) -> None:
        """Drop a block that is in the store, and see how many draws the next ones should have."""
        block = self.blocks[self.gone]
        for unit, part in block.parts.items():
            self.before[unit] = part.unit
        seconds = (time.monotonic() - block.began) / _AHEAD
        size = self.spec.units * self.spec.stretch * self.spec.sites
        if self.long:
            self.kept_at = -math.inf  # the commit dropped what was kept of the other units
        room = size * self.rounds * 2 <= _BLOCK_BYTES and not self.long
        if seconds < COMMIT_SECONDS / 2 and room:
            self.rounds *= 2
        elif seconds > COMMIT_SECONDS * 2:
            self.rounds = max(1, self.rounds // 2)
        block.parts.clear()
        block.units = 0
        self.gone += 1
        self.committing = False

    def _arrays(self, block: _Block) -> dict[str, NDArray[Any]]:
        spec, count = self.spec, block.last - block.first
        model, replicas = spec.model, spec.kernel.replicas
        arrays: dict[str, NDArray[Any]] = {
            "energy": np.empty(count),
            "magnetization": np.empty(count),
            "chain": np.empty(count, dtype=np.int32),
            "draw": np.empty(count, dtype=np.int64),
        }
        if not self.run.remote:
            shape = (count, *model.site_shape(spec.shape))
            arrays[model.field] = np.empty(shape, dtype=model.dtype)
        for unit, part in block.parts.items():
            used = 0
            for number, (start, stop) in enumerate(spec.stretches(unit, block.first, block.last)):
                here = slice(start - block.first, stop - block.first)
                rows = slice(used, used + stop - start)
                arrays["energy"][here] = part.energy[rows]
                arrays["magnetization"][here] = part.magnetization[rows]
                place = spec.made(unit, start) + np.arange(stop - start)
                arrays["chain"][here] = unit * replicas + place % replicas
                arrays["draw"][here] = place // replicas
                if not self.run.remote:
                    arrays[model.field][here] = part.lattices[number]
                used = rows.stop
        return arrays

    def loop(self) -> None:
        """Run until every sample is committed; raises Interrupted once told to stop."""
        with ThreadPoolExecutor(1) as pool:
            try:
                while self.missing or self.committing:
                    self.feed()
                    self.commit(pool)
                    with contextlib.suppress(queue.Empty):
                        self.take(*self.events.get(timeout=_POLL_SECONDS))
                    overdue = time.monotonic() - self.kept_at > burning.KEEP_SECONDS
                    if self.long and self.missing and overdue and not self.committing:
                        self.keep()
                    if self.run.stop():
                        raise Interrupted("stopped")
            except Interrupted:
                while self.committing:
                    unit, done = self.events.get()
                    if unit is None:
                        self.take(unit, done)
                if self.long and self.missing:
                    self.keep()
                raise

    @property
    def missing(self) -> bool:
        return self.writer.committed < self.spec.n_samples

    def take(self, unit: int | None, done: Future[Any]) -> None:
        """Take in the end of a piece of work, or (None) of a commit; raises what it raised."""
        if unit is None:
            done.result()
            self.committed()
        else:
            self.receive(unit, done.result())


def _go(
    spec: SimulationSpec,
    writer: Writer,
    run: Executor,
    progress: Callable[..., None],
) -> None:
    note: Note = lambda text: progress(0, text)  # noqa: E731
    unsettled = [name for name in SETTLED if getattr(spec, name) is None]
    try:
        if writer.committed:
            there = writer.attributes
            found = {name: there[name] for name in unsettled if name in there}
            spec, units = dataclasses.replace(spec, **found), restored_units(spec, writer.state)
        else:
            spec, units = burning.burn_in(spec, run, note, kept=writer.kept, keep=writer.keep)
            found = {name: getattr(spec, name) for name in unsettled}
            writer.settle({name: value for name, value in found.items() if value is not None})
        note("")
        _Run(spec, writer, units, run, progress).loop()
    except (Interrupted, KeyboardInterrupt):
        what = "there" if writer.committed else "in the burn-in"
        raise interrupted(writer.path, writer.committed, spec.n_samples, what) from None


def _check_measured(spec: SimulationSpec, writer: Writer) -> None:
    """Raise OutputTaken if a measured spacing is asked for, and the store's own was given."""
    there = writer.attributes
    for name, option in (("every", "every"), ("burn_in", "burn_in")):
        if writer.committed and getattr(spec, name) is None and "tau_energy" not in there:
            accepted = f"{there.get(name)}, as it was given for {writer.path}"
            raise OutputTaken(option, "measured", accepted)


def _begun(spec: SimulationSpec, path: AnyPath) -> tuple[SimulationSpec, int | None]:
    """Return the spec with stint and streams of a store at `path`, and that store's chunk size."""
    try:
        store = open_store(path)
    except StoreError:
        return spec, None  # none, or one that create_store will find fault with
    if spec.stint is None and isinstance(store.attrs.get("stint"), int):
        spec = dataclasses.replace(spec, stint=store.attrs["stint"])
    return dataclasses.replace(spec, streams=store.attrs.get("streams")), store.chunk


def settled_chunk(spec: SimulationSpec, run: Run) -> tuple[SimulationSpec, int]:
    """Return the spec with a stint, and samples in a chunk of the store; raises BadInput."""
    spec = spec.with_stint()
    chunk = run.chunk or spec.default_chunk()
    if chunk * spec.sites > _CHUNK_BYTES:
        raise BadInput("chunk", chunk, f"at most {_CHUNK_BYTES // spec.sites}: a chunk of 1 GiB")
    if run.dask is not None and spec.stretch % chunk:
        accepted = f"a divisor of {spec.stretch} with dask=: workers write whole chunks"
        raise BadInput("chunk", chunk, accepted)
    return spec, chunk


def _plan(spec: SimulationSpec, chunk: int, attrs: Mapping[str, Any]) -> Plan:
    return Plan(
        field=spec.model.field,
        shape=spec.shape,
        chunk=chunk,
        variables=("energy", "magnetization", "chain", "draw"),
        q=spec.model.q,
        components=spec.model.components,
        dtype=spec.model.dtype,
        n_samples=spec.n_samples,
        attrs={**spec.attributes(), **attrs},
        unsettled=[name for name in SETTLED if getattr(spec, name) is None],
    )


def simulate(spec: SimulationSpec, output: AnyPath | None, run: Run = _PLAIN) -> Lattices:
    """Simulate into a store, or into memory; a store that the same parameters began is resumed.

    Parameters
    ----------
    spec : what is simulated.
    output : path of the store; None to keep the samples in memory.
    run : threads or dask, chunk (by default what a unit makes in a row), progress, stop.

    Returns
    -------
    The finished store, or the lattices in memory. Raises BadInput, StoreError, WriteError as
    `create_store` does, and Interrupted once `run.stop` says so.
    """
    if output is None and run.dask is not None:
        raise BadInput("dask", run.dask, "output=, a store that all workers write to")
    if output is not None and not run.overwrite:
        spec, kept = _begun(spec, output)
        run = dataclasses.replace(run, chunk=run.chunk or kept)
    spec, chunk = settled_chunk(spec, run)
    plan = _plan(spec, chunk, run.attrs)
    # First of all the workers: an address where nobody answers must leave nothing behind.
    with run.open(spec.units) as executor, open_writer(output, plan, run.overwrite) as writer:
        _check_measured(spec, writer)
        run.progress(writer.committed)
        if writer.committed < spec.n_samples:
            _go(spec, writer, executor, run.progress)
        if isinstance(writer, MemoryWriter):
            return writer.lattices()
    return open_store(writer.path)
