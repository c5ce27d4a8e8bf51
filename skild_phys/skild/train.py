"""Training: a loop read from top to bottom, and a run that resumes exactly where it stopped.

    samples, lambda, noise -> `Loss` (what is made small) -> AdamW -> averaged weights

The objective is an object of `losses`, or a user's own: `Trainer(recipe, source, loss)`. On several
processes (torchrun, DDP) each has a part of every batch. All draw the same stream of data and the
same times, and noise is named by the step and the place in the batch: it is the run on one, up to
rounding, and to the masks of dropout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skild_phys import __version__
from skild_phys.errors import BadInput, Interrupted, OutputTaken, WeightsError
from skild_phys.rng import seed_sequence
from skild_phys.skild.data import Source, symmetry
from skild_phys.skild.losses import Batch, FieldLoss, GridLoss, Loss
from skild_phys.skild.measured import Measured, measure
from skild_phys.skild.networks import network_dtype
from skild_phys.skild.recipe import Recipe, as_record, from_table
from skild_phys.skild.response import Response
from skild_phys.skild.spectrum import spectrum_from_record
from skild_phys.skild.spins import Couplings
from skild_phys.skild.weights import Weights, read_tensors, write_tensors

LOG = ("step", "loss", "gradient_norm", "learning_rate", "lattices_per_second")
"""What the rows of `Trainer.log` hold: means since the last row, the rate, the pace."""
_DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
Row = dict[str, float]
"""What `Trainer.measure` finds: step, loss, and figures by name, some with NAME_err."""
_FORMAT = "skild-phys checkpoint 10"
_SAVE_SECONDS = 8.0  # between checkpoints: what a kill may cost where they are cheap
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device; the first writes files and reports."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return this process's part of a batch of `n`."""
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, numbers: list[float], device: torch.device) -> list[float]:
        """Return the means of `numbers` over all processes."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return [value / self.world for value in total.tolist()]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if any; yield which this is.

    One of several on 'cuda' has the GPU of its local rank; nccl connects them there, gloo on CPUs.
    """
    if any(name not in os.environ for name in _TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        yield Ranks(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def _learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate at `step`: linear warm-up, then constant-then-linear-decay or a cosine."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warmup))
    if recipe.schedule == "constant":
        return rate
    if recipe.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    left = (recipe.steps - step) / max(1.0, recipe.decay_fraction * recipe.steps)
    return rate * min(1.0, left)


def _averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return the running average of a network's weights, to be updated after each step.

    The decay of step n is (1 + n) / (10 + n) at most: a short run is not averaged with the weights
    that it began with.
    """

    def update(average: Any, now: Any, n: Any) -> None:
        least = min(decay, (1.0 + int(n)) / (10.0 + int(n)))
        get_ema_multi_avg_fn(least)(average, now, n)  # type: ignore[no-untyped-call]

    return AveragedModel(network, multi_avg_fn=update)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch have one thread: of many small sums that are shared out each waits for all."""
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(many)


class Trainer:
    """The state of a run and its one step.

    Everything a step depends on is in `save`: weights, EMA, optimizer, generator, place in the
    data. A run that was killed and resumed ends in the same bytes (CPU, same thread count).

    Parameters
    ----------
    recipe, source : what is trained, on which samples.
    loss : the objective; None for that of the recipe, for which spectrum and
        couplings of the source are measured unless `measured` says them.
    device : 'cpu', 'cuda' or 'cuda:1'.
    ranks : which of several processes this is.

    Attributes
    ----------
    log : rows of LOG.
    quality : what measures the averaged network: (trainer, stop) -> row; None for nothing.
    rows : what it found.
    best : the averaged weights of the row of least loss; empty before the first.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        loss: Loss | None = None,
        *,
        measured: Measured | None = None,
        device: str = "cpu",
        ranks: Ranks = Ranks(),
    ) -> None:
        self.recipe, self.source, self.device = recipe, source, torch.device(device)
        self.ranks, self.measured = ranks, measured
        if recipe.batch % (ranks.world * recipe.accumulate):
            accepted = f"a multiple of {ranks.world} processes x accumulate {recipe.accumulate}"
            raise BadInput("batch", recipe.batch, accepted)
        if loss is None:
            self.measured = measured or measure(source, recipe)
            kind = GridLoss if recipe.over_grids else FieldLoss
            loss = kind(recipe, source.shape, source.channels, self.measured, self.device)
        self.loss = loss
        if ranks.world > 1 and not loss.divisible:
            accepted = "a recipe with a table [lambdas] on several processes"
            raise BadInput("[lambdas]", None, accepted)
        self.dtype = _DTYPES.get(recipe.precision) or network_dtype(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(recipe.seed, "weights").generate_state(1)[0]))
            network = loss.make_network()
        layout = getattr(network, "memory_format", torch.channels_last)
        self.network = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._shared = DistributedDataParallel(self.network) if ranks.world > 1 else self.network
        self.ema = _averaged(self.network, recipe.ema)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            recipe.learning_rate,
            betas=(0.9, recipe.beta2),
            weight_decay=recipe.weight_decay,
        )
        noise = int(seed_sequence(recipe.seed, "training").generate_state(1, np.uint64)[0] >> 1)
        self.random = torch.Generator().manual_seed(noise)
        self.step, self.seconds = 0, 0.0
        self.log: list[tuple[int, float, float, float, float]] = []
        self.quality: Callable[[Trainer, Callable[[], bool]], Row] | None = None
        self.rows: list[Row] = []
        self.best: dict[str, Tensor] = {}
        self._measured = 0
        """Step of the last measurement."""
        self._window = (0.0, 0.0, 0, 0.0)
        """Sums since the last row of losses, gradient norms, steps, seconds."""

    def start_from(self, weights: Weights) -> None:
        """Take the tensors of `weights`, of a network of the same shape, in place of random ones.

        Raises BadInput.
        """
        own = {name: getattr(self.recipe, name) for name in ("network", "output", "basis")}
        own |= {"channels": self.source.channels, "dimension": len(self.source.shape)}
        if (weights.window is None) == self.recipe.over_grids:
            accepted = "weights with a grid for every scale, as the recipe has"
            if not self.recipe.over_grids:
                accepted = "weights with one grid, as a recipe with [lambdas] has"
            raise BadInput("from", f"weights with window = {weights.window}", accepted)
        for name, mine in own.items():
            theirs = getattr(weights, name)
            if theirs != mine:
                raise BadInput("from", f"weights with {name} = {theirs}", f"{mine}")
        tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
        self.network.load_state_dict(tensors)
        self.ema.module.load_state_dict(tensors)

    def train_step(self) -> float:
        """Take one step; return the batch's mean loss, over all processes."""
        c, began = self.recipe, time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.step, c)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward()
        with _one_thread():
            # The norm before it was clipped.
            norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), c.clip))
            if not math.isfinite(loss + norm):
                at = f"at step {self.step + 1} the loss is {loss:g}, its gradient {norm:g}"
                raise BadInput("learning_rate", c.learning_rate, f"a smaller one: {at}")
            self.optimizer.step()
            self.ema.update_parameters(self.network)
        self.step += 1
        loss, norm = self.ranks.mean([loss, norm], self.device)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        losses, norms, count, spent = self._window
        self._window = (losses + loss, norms + norm, count + 1, spent + seconds)
        return loss

    def _backward(self) -> float:
        """Add up the gradient of this process's part of a batch; return its loss.

        The part goes through the network in `accumulate` parts. Masks of dropout are named by the
        step and where a part begins: they are others for another number of parts.
        """
        c, mine = self.recipe, self.ranks.part(self.recipe.batch)
        samples = torch.from_numpy(np.asarray(self.source.next(c.batch, mine), dtype=np.float32))
        dimension = len(self.source.shape)
        x0 = symmetry(samples, self.random, c.symmetries, mine, c.batch, dimension).contiguous()
        lam, drawn = self.loss.draw(c.batch, self.random)
        noise, lam = self._noise(x0.shape, mine), lam[mine]
        size, total = len(x0) // c.accumulate, 0.0
        for first in range(0, len(x0), size):
            part = slice(first, first + size)
            if getattr(c.network, "dropout", 0.0):
                masks = seed_sequence(c.seed, "dropout", self.step, mine.start + first)
                torch.manual_seed(int(masks.generate_state(1, np.uint64)[0] >> 1))
            own = [array[part].to(self.device) for array in (x0, lam, noise)]
            # Gradients of all but the last part stay with their process.
            last = first + size == len(x0) or not isinstance(self._shared, DistributedDataParallel)
            with contextlib.nullcontext() if last else self._shared.no_sync():
                batch = Batch(own[0], own[1], own[2], drawn, self.random)
                total += self._gradient(batch, 1.0 / c.accumulate)
        return total

    def _gradient(self, batch: Batch, share: float) -> float:
        """Add `share` of the gradient of the loss of a batch; return as much of the loss.

        Terms of a loss (`GridLoss.terms`) on a CPU have a thread each: small convolutions hardly
        gain from a second one.
        """
        call = functools.partial(self.evaluate, self._shared)
        terms = getattr(self.loss, "terms", None)
        if terms is None or self.device.type != "cpu":
            whole = share * self.loss(call, batch)
            whole.backward()  # type: ignore[no-untyped-call]
            return float(whole.detach())
        network = list(self.network.parameters())

        def one(term: Callable[[], Tensor]) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = share * term()
            return float(loss.detach()), torch.autograd.grad(loss, network, allow_unused=True)

        total, pool = 0.0, self._pool
        with _one_thread():
            for loss, gradients in pool.map(one, terms(call, batch)):
                total += loss
                for parameter, gradient in zip(network, gradients, strict=True):
                    if gradient is not None:
                        before = parameter.grad
                        parameter.grad = gradient if before is None else before + gradient
        return total

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads for the terms of a loss, as many as PyTorch has, in which it has one."""
        many = torch.get_num_threads()
        return ThreadPoolExecutor(many, initializer=torch.set_num_threads, initargs=(1,))

    def _noise(self, shape: torch.Size, mine: slice) -> Tensor:
        """Return white noise, for a divisible loss named by the step and the place in the batch."""
        if not self.loss.divisible:
            return torch.randn(shape, generator=self.random)
        seeds = seed_sequence(self.recipe.seed, "loss", self.step)
        states = seeds.generate_state(self.recipe.batch, np.uint64)[mine]
        random = (torch.Generator(self.device).manual_seed(int(state >> 1)) for state in states)
        return torch.stack(
            [torch.randn(shape[1:], generator=one, device=self.device) for one in random]
        )

    def evaluate(self, network: nn.Module, features: Tensor, lam: Tensor, **at: int) -> Tensor:
        """Return a network's outputs, float32, in the arithmetic of training."""
        bf16 = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            outputs: Tensor = network(features, lam, **at)
        return outputs.float()

    @property
    def due(self) -> bool:
        """Whether the averaged network is to be measured before the next step."""
        if self.quality is None or self.step <= self._measured:
            return False
        return self.step % self.recipe.measured_every == 0 or self.step == self.recipe.steps

    def measure(self, stop: Callable[[], bool]) -> bool:
        """Measure the averaged network, and keep it if its held-out loss is the least so far.

        The first of several processes does, unless `stop` is true. Returns whether there is a new
        row.
        """
        if self.quality is None or not self.ranks.first:
            self._measured = self.step
            return False
        try:
            row = self.quality(self, stop)
        except Interrupted:
            return False
        if not self.rows or row["loss"] < self.best_row["loss"]:
            network = self.ema.module.state_dict()
            self.best = {name: tensor.detach().clone() for name, tensor in network.items()}
        self.rows.append(row)
        self._measured = self.step
        return True

    @property
    def ended(self) -> str:
        """Why the run ends before its last step, as its last measurement says; "" if it does not.

        A figure counts with its standard error: by chance alone it is near 0 now and then.
        """
        limits, wait, rows = self.recipe.limits, self.recipe.plateau, self.rows
        if not rows:
            return ""
        last = rows[-1]
        if limits and all(
            abs(last[name]) + last.get(f"{name}_err", 0.0) <= limit
            for name, limit in limits.items()
        ):
            return f"until {self.recipe.until}"
        if wait and len(rows) > wait + rows.index(self.best_row):
            return f"no smaller held-out loss in {wait} measurements"
        return ""

    @property
    def best_row(self) -> Row:
        """The first row of least loss, of the weights that the run ends with; {} before any."""
        return min(self.rows, key=lambda row: row["loss"], default={})

    def weights(self, system: dict[str, Any], *, last: bool = False) -> Weights:
        """Return the averaged network with its record, in bfloat16 for spins.

        The `last` ones of a run are the best.

        Raises ValueError for a loss of the user's own: its averaged network is `ema.module`.
        """
        c, measured = self.recipe, self.measured
        if measured is None:
            raise ValueError("weights are of a loss of the package; see Trainer.ema.module")
        if last and self.best:
            self.ema.module.load_state_dict(self.best)
        kept = torch.bfloat16 if c.output == "logits" else torch.float32
        tensors = {k: v.detach().to("cpu", kept) for k, v in self.ema.module.state_dict().items()}
        record = {
            "config": as_record(c),
            "steps": self.step,
            "lattices": self.step * c.batch,
            "loss": [[row[0], row[1], row[3]] for row in self.log[-1:]],
            "targets": "conditional" if measured.conditional else "spins",
            "version": __version__,
            "torch": torch.__version__.split("+")[0],
        }
        if last and self.rows:
            record |= {"quality": self.best_row} | ({"ended": self.ended} if self.ended else {})
        channels = self.source.channels
        return Weights.of(
            c, tensors, measured.spectrum, measured.couplings, channels, system, record,
            measured.responses, len(self.source.shape),
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the whole state of the run to `path`, atomically."""
        slots = self.optimizer.state_dict()["state"].items()
        parts: dict[str, dict[str, Any]] = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "source": self.source.state(),
            "best": self.best,
        } | {f"optimizer.{index}": slot for index, slot in slots}
        tensors = {
            f"{prefix}.{name}": torch.as_tensor(value)
            for prefix, part in parts.items()
            for name, value in part.items()
        }
        record = {
            "format": _FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "window": self._window,
            "rows": [[*row.items()] for row in self.rows],  # keys of a record are sorted
            "config": as_record(self.recipe),
            "source": self.source.identity(),
        }
        if self.measured is not None:
            record["spectrum"] = self.measured.spectrum.record()
            record["couplings"] = dataclasses.asdict(self.measured.couplings)
            record["conditional"] = self.measured.conditional
            record["responses"] = as_record(self.measured.responses)
        write_tensors(path, "record", record, tensors | {"random": self.random.get_state()})

    @classmethod
    def resume(
        cls,
        path: Path,
        recipe: Recipe,
        source: Source,
        loss: Loss | None = None,
        *,
        device: str = "cpu",
        ranks: Ranks = Ranks(),
    ) -> Trainer:
        """Take up the run saved at `path`; WeightsError if damaged, OutputTaken if of another."""
        record, tensors = read_tensors(path, "record", "checkpoint", _FORMAT)
        try:
            # Keys that a record lacks have their defaults.
            config = {key: value for key, value in record["config"].items() if value is not None}
            known = from_table(config, {}, "config", Recipe())
            for saved, mine in (
                (as_record(known), as_record(recipe)),
                (record["source"], source.identity()),
            ):
                _check_same(path, *(json.loads(json.dumps(one)) for one in (saved, mine)))
            measured = None
            if loss is None:
                measured = Measured(
                    spectrum_from_record(record["spectrum"]),
                    Couplings.from_record(record["couplings"]),
                    bool(record["conditional"]),
                    {k: Response.from_record(v) for k, v in record["responses"].items()},
                )
            trainer = cls(recipe, source, loss, measured=measured, device=device, ranks=ranks)
            trainer._restore(record, tensors)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: is no state of this run ({error!r})") from None
        return trainer

    def _restore(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.ema.load_state_dict(part("ema."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part("optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.random.set_state(tensors["random"])
        self.source.restore({k: v.numpy() for k, v in part("source.").items()})
        self.step, self.seconds = int(record["step"]), float(record["seconds"])
        self.log = [(int(row[0]), *map(float, row[1:5])) for row in record["log"]]  # type: ignore[misc]
        self.rows, self.best = [dict(row) for row in record["rows"]], part("best.")
        self._measured = int(self.rows[-1]["step"]) if self.rows else 0
        losses, norms, count, seconds = record["window"]
        self._window = (float(losses), float(norms), int(count), float(seconds))

    def note(self) -> None:
        """Add a row to the log, if there were steps since the last one."""
        losses, norms, count, seconds = self._window
        if not count:
            return
        rate, pace = _learning_rate(self.step - 1, self.recipe), count * self.recipe.batch / seconds
        self.log.append((self.step, losses / count, norms / count, rate, pace))
        self._window = (0.0, 0.0, 0, 0.0)


def _check_same(path: Path, saved: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raise OutputTaken unless a checkpoint's configuration or data are these."""
    for key in sorted(set(saved) | set(mine)):
        if saved.get(key) != mine.get(key):
            accepted = f"the checkpoint of a run with {key} = {mine.get(key)}"
            there = f"there it is {saved.get(key)} (overwrite=True begins anew)"
            raise OutputTaken("output", str(path), f"{accepted}: {there}")


def _next_save(began: float, ended: float) -> float:
    """Return when to save again, after a save that lasted so long: it may take 3% of the time."""
    return ended + max(_SAVE_SECONDS, 30.0 * (ended - began))


def train(
    trainer: Trainer,
    checkpoint: Path,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    saved: Callable[[], None] = lambda: None,
    log_every: int = 50,
    measured: Callable[[Row], None] = lambda row: None,
) -> None:
    """Run `trainer` to its end, saving every `recipe.save_every` steps and by `_next_save`.

    The first step is saved too: what was measured before it may have taken long. `stop` is asked
    after each step; where it is true the run is saved and Interrupted is raised. Every `log_every`
    steps a row goes to `trainer.log`; `measured` is given each row of `trainer.rows`. The first of
    several processes saves.
    """
    ranks, recipe = trainer.ranks, trainer.recipe
    save_at = time.monotonic() + _SAVE_SECONDS * (trainer.step > 0)
    last = not trainer.due and (trainer.step == recipe.steps or bool(trainer.ended))
    while not last:
        if not trainer.due:
            loss = trainer.train_step()
            progress(trainer.step, loss)
        if trainer.due and trainer.measure(stop):
            measured(trainer.rows[-1])
        now = ranks.first and time.monotonic() >= save_at
        asked = [float(one) for one in (stop(), now, bool(trainer.ended))]
        stopped, in_time, ended = (flag > 0.0 for flag in ranks.mean(asked, trainer.device))
        last = not trainer.due and (trainer.step == recipe.steps or ended)
        if trainer.step % log_every == 0 or last:
            trainer.note()
        if trainer.step % recipe.save_every == 0 or last or stopped or in_time:
            if ranks.first:
                began = time.monotonic()
                trainer.save(checkpoint)
                saved()
                save_at = _next_save(began, time.monotonic())
            ranks.wait()
        if stopped and not last:
            raise Interrupted(
                f"saved at step {trainer.step} in {checkpoint};"
                " started again, without overwrite=True, it resumes there"
            )
