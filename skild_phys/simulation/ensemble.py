"""Simulation of an ensemble: many chains, whose samples are committed in order.

Units advance by themselves, each a few draws at a time, and run up to two blocks of samples ahead
of the last commit. A block is committed when all its samples are there, on a thread of its own,
while the next ones are computed. Where commits fall does not change a byte.

A draw that takes longer than a few seconds is made in pieces, and how far the units are with it is
kept beside the samples (`StoreWriter.keep`), as of a burn-in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import queue
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted, OutputTaken, StoreError, check_whole
from skild_phys.executors import Executor
from skild_phys.files import AnyPath
from skild_phys.runner import COMMIT_SECONDS, Run, Writer, interrupted, open_writer
from skild_phys.simulation import chain
from skild_phys.simulation.chain import Samples, Unit
from skild_phys.simulation.spec import SETTLED, SimulationSpec
from skild_phys.store import APPEND_TOTAL, Lattices, Plan, StoreWriter, open_store

_BLOCK_BYTES = 2**25
_CHUNK_BYTES = 2**30
_AHEAD = 2
_POLL_SECONDS = 0.1


@dataclass
class _Course:
    """A unit as it stands now and at the last commit, and what it does.

    `made` are its samples, `ahead` its updates since the last draw, `block` the number of the block
    that it works on next.
    """

    committed: Unit
    now: Unit
    made: int
    ahead: int = 0
    block: int = 0
    busy: bool = False


@dataclass
class _Block:
    """Samples first .. last - 1, with what each of `units` units has made of them."""

    first: int
    last: int
    units: int
    parts: dict[int, Samples] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)


class _Loop:
    """What has been made, what is on its way, what is committed."""

    def __init__(
        self,
        spec: SimulationSpec,
        writer: Writer,
        units: list[Unit],
        executor: Executor,
        run: Run,
    ) -> None:
        self.spec, self.writer, self.executor, self.run = spec, writer, executor, run
        store = writer if executor.remote and isinstance(writer, StoreWriter) else None
        self.region = store and store.region()
        self.blocks: list[_Block] = []
        self.gone = 0  # blocks committed
        self.rounds = 1  # in the next block
        self.courses = [
            _Course(unit, unit, spec.made(number, writer.committed))
            for number, unit in enumerate(units)
        ]
        self.every, self.replicas = spec.every or 1, spec.kernel.replicas
        self.piece = spec.updates_in(chain.PIECE_SECONDS)
        self.long = self.every > 2 * self.piece and spec.stretch == self.replicas
        if self.long and "ahead" in (kept := writer.kept):
            now = Unit.unpack(spec, {name: kept[f"now_{name}"] for name in ("spins", "rng")})
            for course, unit, ahead in zip(self.courses, now, kept["ahead"].tolist()):
                course.now, course.ahead = unit, ahead
        self.kept_at = time.monotonic()
        self.events: queue.SimpleQueue[tuple[int | None, Future[Any]]] = queue.SimpleQueue()
        self.committing = False

    def run_all(self) -> None:
        """Run until every sample is committed; raises Interrupted once told to stop."""
        with ThreadPoolExecutor(1) as pool:
            try:
                while self._missing or self.committing:
                    self._feed()
                    self._commit(pool)
                    with contextlib.suppress(queue.Empty):
                        self._take(*self.events.get(timeout=_POLL_SECONDS))
                    overdue = time.monotonic() - self.kept_at > chain.KEEP_SECONDS
                    if overdue and not self.committing:
                        self._keep()
                    if self.run.stop():
                        raise Interrupted("stopped")
            except (Interrupted, KeyboardInterrupt):
                while self.committing:
                    unit, done = self.events.get()
                    if unit is None:
                        self._take(unit, done)
                self._keep()
                raise

    @property
    def _missing(self) -> bool:
        return self.writer.committed < self.spec.n_samples

    def _block(self, number: int) -> _Block | None:
        """Return a block, making the next one if there is more to do; None if it is far ahead."""
        if number >= self.gone + _AHEAD * (self.spec.units if self.long else 1):
            return None
        if number == len(self.blocks):
            first = self.blocks[-1].last if self.blocks else self.writer.committed
            if first >= self.spec.n_samples:
                return None
            # Units that take long over a draw each have a block of their own.
            size = self.spec.stretch * (1 if self.long else self.spec.units)
            last = min((first // size + self.rounds) * size, self.spec.n_samples)
            units = sum(any(self.spec.stretches(u, first, last)) for u in range(self.spec.units))
            self.blocks.append(_Block(first, last, units))
        return self.blocks[number]

    def _feed(self) -> None:
        """Give every idle unit its next piece of work, unless it is far ahead."""
        for number, unit in enumerate(self.courses):
            while not unit.busy and (block := self._block(unit.block)):
                stretches = list(self.spec.stretches(number, block.first, block.last))
                if not stretches:
                    unit.block += 1
                    continue
                unit.busy = True
                left = self.every - unit.ahead
                if self.long and unit.made % self.replicas == 0 and left > self.piece:
                    work = self.executor.submit(chain.burn, self.spec, unit.now, self.piece)
                else:
                    work = self.executor.submit(
                        chain.draw, self.spec, number, unit.now, unit.made, stretches, self.region,
                        tick=self.run.progress, ahead=unit.ahead,
                    )  # fmt: skip
                work.add_done_callback(functools.partial(self._report, number))

    def _report(self, unit: int | None, done: Future[Any]) -> None:
        self.events.put((unit, done))

    def _take(self, number: int | None, done: Future[Any]) -> None:
        """Take in the end of a piece of work, or (None) of a commit; raises what it raised."""
        result = done.result()
        if number is None:
            self._committed()
            return
        unit = self.courses[number]
        unit.busy = False
        if isinstance(result, Unit):  # nearer to its next draw
            unit.now, unit.ahead = result, unit.ahead + self.piece
            return
        self.blocks[unit.block].parts[number] = result
        unit.now, unit.ahead = result.unit, 0
        unit.made += len(result.energy)
        unit.block += 1
        if self.executor.remote:
            self.run.progress(len(result.energy))

    def _commit(self, pool: ThreadPoolExecutor) -> None:
        """Start to commit the next block, if it is whole and none is being committed."""
        if self.committing or self.gone == len(self.blocks):
            return
        block = self.blocks[self.gone]
        if len(block.parts) < block.units:
            return
        for number, part in block.parts.items():
            self.courses[number].committed = part.unit
        state = Unit.pack([unit.committed for unit in self.courses])
        written = block.last - block.first if self.region else None
        self.committing = True
        job = pool.submit(self.writer.commit, self._arrays(block), state, written=written)
        job.add_done_callback(functools.partial(self._report, None))

    def _committed(self) -> None:
        """Drop a block that is in the store, and see how many draws the next ones should have."""
        block = self.blocks[self.gone]
        seconds = (time.monotonic() - block.began) / _AHEAD
        goal = COMMIT_SECONDS / (1 + _AHEAD)  # a kill costs this block and those ahead of it
        size = self.spec.units * self.spec.stretch * self.spec.sites
        if self.long:
            self.kept_at = -math.inf  # the commit dropped what was kept of the other units
        elif seconds < goal / 2 and size * self.rounds * 2 <= _BLOCK_BYTES:
            self.rounds *= 2
        elif seconds > goal * 2:
            self.rounds = max(1, self.rounds // 2)
        block.parts.clear()
        self.gone += 1
        self.committing = False

    def _keep(self) -> None:
        """Keep how far the units are with long draws; those of a block beyond the next lose it."""
        if not (self.long and self._missing):
            return
        made = {number for block in self.blocks[self.gone :] for number in block.parts}
        kept = [
            (unit.committed, 0) if number in made else (unit.now, unit.ahead)
            for number, unit in enumerate(self.courses)
        ]
        units, ahead = zip(*kept, strict=True)
        now = {f"now_{name}": values for name, values in Unit.pack(units).items()}
        self.writer.keep({**self.writer.kept, **now, "ahead": np.array(ahead)})
        self.kept_at = time.monotonic()

    def _arrays(self, block: _Block) -> dict[str, NDArray[Any]]:
        spec, model, count = self.spec, self.spec.model, block.last - block.first
        arrays: dict[str, NDArray[Any]] = {
            "energy": np.empty(count),
            "magnetization": np.empty(count),
            "chain": np.empty(count, dtype=np.int32),
            "draw": np.empty(count, dtype=np.int64),
        }
        if not self.region:
            shape = (count, *model.site_shape(spec.shape))
            arrays[model.field] = np.empty(shape, dtype=model.dtype)
        for unit, part in block.parts.items():
            stretches = list(spec.stretches(unit, block.first, block.last))
            here = np.concatenate([np.arange(*stretch) for stretch in stretches]) - block.first
            place = spec.made(unit, block.first) + np.arange(len(here))
            arrays["energy"][here] = part.energy
            arrays["magnetization"][here] = part.magnetization
            arrays["chain"][here] = unit * self.replicas + place % self.replicas
            arrays["draw"][here] = place // self.replicas
            for (start, stop), values in zip(stretches, part.configurations):
                arrays[model.field][start - block.first : stop - block.first] = values
        return arrays


def _fill(spec: SimulationSpec, writer: Writer, executor: Executor, run: Run) -> None:
    unsettled = [name for name in SETTLED if getattr(spec, name) is None]
    there = writer.attributes if writer.committed else {}
    for name in ("every", "burn_in"):
        if there and name in unsettled and "tau_energy" not in there:
            accepted = f"{there.get(name)}, as it was given for {writer.path}"
            raise OutputTaken(name, "measured", accepted)
    if writer.committed == spec.n_samples:
        return
    run.progress(writer.committed)
    try:
        if there:
            found = {name: there[name] for name in unsettled if name in there}
            spec, units = dataclasses.replace(spec, **found), Unit.unpack(spec, writer.state)
        else:
            spec, units = chain.burn_in(
                spec, executor, lambda text: run.progress(0, text),
                kept=writer.kept, keep=writer.keep,
            )  # fmt: skip
            found = {name: getattr(spec, name) for name in unsettled}
            writer.settle({name: value for name, value in found.items() if value is not None})
            run.progress(0, "")
        _Loop(spec, writer, units, executor, run).run_all()
    except (Interrupted, KeyboardInterrupt):
        what = "there" if writer.committed else "in the burn-in"
        raise interrupted(writer.path, writer.committed, spec.n_samples, what) from None


def plan_of(spec: SimulationSpec, run: Run) -> tuple[SimulationSpec, Plan]:
    """Return the spec with a stint, and what its store will hold; raises BadInput."""
    spec = spec.with_stint()
    chunk = run.chunk or spec.default_chunk()
    if chunk * spec.sites > _CHUNK_BYTES:
        raise BadInput("chunk", chunk, f"at most {_CHUNK_BYTES // spec.sites}: a chunk of 1 GiB")
    if run.dask is not None and spec.stretch % chunk:
        accepted = f"a divisor of {spec.stretch} with dask=: workers write whole chunks"
        raise BadInput("chunk", chunk, accepted)
    model = spec.model
    plan = Plan(
        field=model.field, shape=spec.shape, chunk=chunk, q=model.q, components=model.components,
        dtype=model.dtype, variables=("energy", "magnetization", "chain", "draw"),
        n_samples=spec.n_samples, attrs={**spec.attributes(), **run.attrs},
        unsettled=[name for name in SETTLED if getattr(spec, name) is None],
    )  # fmt: skip
    return spec, plan


def simulate(
    spec: SimulationSpec, output: AnyPath | None = None, run: Run | None = None
) -> Lattices:
    """Simulate into a store, or resume one that the same parameters began.

    Parameters
    ----------
    spec : what is simulated.
    output : path of the store; None to keep the samples in memory.
    run : how; its progress is called with the samples just made, and 0 and a text on burn-in.

    Returns
    -------
    The finished store, open for reading. Raises BadInput, StoreError, WriteError as
    `create_store` does, and Interrupted once `run.stop` says so.
    """
    run = run or Run()
    if output is None and run.dask is not None:
        raise BadInput("dask", run.dask, "output=, a store that all workers write to")
    if output is not None and not run.overwrite:
        with contextlib.suppress(StoreError):  # none, or one that create_store finds fault with
            store = open_store(output)
            stint = store.attrs.get("stint") if spec.stint is None else spec.stint
            spec = dataclasses.replace(spec, stint=stint, streams=store.attrs.get("streams"))
            run = dataclasses.replace(run, chunk=run.chunk or store.chunk)
    spec, plan = plan_of(spec, run)
    with (
        # First of all: an address where nobody answers must leave nothing behind.
        run.open(spec.units) as executor,
        open_writer(output, plan, run.overwrite) as writer,
    ):
        _fill(spec, writer, executor, run)
        return writer.lattices()


def appended(
    output: AnyPath, samples: int, given: Mapping[str, Any], command: str = ""
) -> tuple[SimulationSpec, dict[str, Any]]:
    """Return the spec of a store with `samples` more, and attributes that say so.

    `given` are parameters of the spec, which must agree with the store's; `command` is added to
    the store's. Raises BadInput, StoreError.
    """
    check_whole("samples", samples)
    store = open_store(output)
    planned = int(store.attrs["samples_planned"])
    unfinished = not store.complete
    if unfinished and store.attrs.get("append") != samples:
        accepted = "a finished store: call the command that began it again to finish it"
        raise BadInput("append", str(output), accepted)
    # Killed after its last commit, an append is complete and has not ended.
    same = store.attrs.get(APPEND_TOTAL) == planned and store.attrs.get("append") == samples
    begun = unfinished or same
    total = planned if begun else planned + samples
    try:
        spec = SimulationSpec.of(store.attrs, total)
        if spec.every is None or spec.burn_in is None:
            raise KeyError("every, burn_in")
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{output}: was not simulated, or by an earlier version: attributes lack {error}"
        ) from None
    asked = dataclasses.replace(spec, **given)
    for name, value in given.items():
        if getattr(asked, name) != (there := getattr(spec, name)):
            shown = getattr(there, "name", there)
            raise BadInput(name, value, f"what {output} was made with, {shown}, or nothing")
    commands = [str(store.attrs.get("command", "")), *([] if begun else [command])]
    return spec, {"append": samples, APPEND_TOTAL: total, "command": "; ".join(commands)}
