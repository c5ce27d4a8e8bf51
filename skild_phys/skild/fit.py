"""A training run in files: weights, their checkpoint while it lasts, and the curve of the loss."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from skild_phys.errors import BadInput, OutputTaken, check_whole
from skild_phys.files import (
    AnyPath,
    Lock,
    check_output,
    make_directory,
    write_bytes_atomically,
    write_text_atomically,
)
from skild_phys.process import forked
from skild_phys.skild.data import Source, training_source
from skild_phys.skild.ranks import Ranks
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.train import LOG, Trainer, train
from skild_phys.skild.weights import (
    Weights,
    load_weights,
    save_weights,
    shipped_weights,
    weights_sha256,
)

_Progress = Callable[[int, float], None]
_Watch = Callable[[Trainer], AbstractContextManager[tuple[_Progress, Callable[[], bool]]]]
"""(trainer) -> a context that yields `progress` and `stop` of `train`."""


def _unwatched(trainer: Trainer) -> AbstractContextManager[tuple[_Progress, Callable[[], bool]]]:
    return nullcontext((lambda step, loss: None, lambda: False))


@dataclass(frozen=True)
class Fit:
    """What a run is made of, wherever it is written."""

    recipe: Recipe
    source: Source
    system: dict[str, Any]
    initial: Weights | None = None
    inputs: tuple[Path, ...] = ()
    threads: int | None = None

    @classmethod
    def of(
        cls,
        lattices: Any = None,
        *,
        preset: str | None = None,
        config: AnyPath | None = None,
        initial: Weights | AnyPath | None = None,
        threads: int | None = None,
        **changes: Any,
    ) -> Fit:
        """Return a run by a recipe, `preset` or `config`, and `changes` of its keys.

        Raises BadInput, and what reading `lattices` and `initial` raises.
        """
        if (preset is None) == (config is None):
            raise BadInput("preset", preset, "one of preset= and config=")
        if threads is not None and threads > 1 and forked():
            raise BadInput("threads", threads, "1 in a forked process, or start method 'spawn'")
        if changes.get("side") is not None and lattices is not None:
            raise BadInput("side", changes["side"], "no side with STORE, whose sides are its own")
        if threads is not None:
            check_whole("threads", threads)
        given = [one for one in (lattices, initial) if isinstance(one, str | os.PathLike)]
        if initial is not None and not isinstance(initial, Weights):
            initial = load_weights(shipped_weights() if initial == "shipped" else Path(initial))
        sha = initial and weights_sha256(initial)
        recipe = read_recipe(
            str(preset) if config is None else Path(config), initial=sha, **changes
        )
        if recipe.initial and initial is None:
            raise BadInput("initial", recipe.initial, "initial= and the weights of this SHA-256")
        source, system = training_source(lattices, recipe)
        return cls(recipe, source, system, initial, tuple(map(Path, given)), threads)

    def run(
        self,
        output: AnyPath,
        ranks: Ranks = Ranks(),  # noqa: B008
        *,
        overwrite: bool = False,
        watch: _Watch = _unwatched,
        sample: Callable[[Weights, tuple[int, int], torch.device], bytes] | None = None,
    ) -> dict[str, Any] | None:
        """Train, or resume, and write the weights to `output`; of several processes the first.

        Parameters
        ----------
        overwrite : replace what lies at `output`, and begin anew.
        sample : makes a PNG of samples, every `recipe.sample_every` steps.

        Returns
        -------
        Path, SHA-256, steps and last loss of the weights; None of a process that is not the first.

        Raises
        ------
        OutputTaken, before anything is changed, where something else lies; Interrupted.
        """
        files = _Files.of(Path(output), self.inputs)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with ExitStack() as held:
            if ranks.first:
                held.enter_context(Lock(files.checkpoint))
            resumes = files.checkpoint.exists() and not overwrite
            for file in (files.weights, files.curve):
                check_output(file, overwrite=overwrite or resumes)
                if ranks.first:  # a killed run's half of a file goes
                    held.enter_context(Lock(file, beside=True))
            ranks.wait()
            if overwrite and ranks.first:
                files.checkpoint.unlink(missing_ok=True)
            ranks.wait()
            trainer = self._trainer(files.checkpoint, ranks)
            with watch(trainer) as (progress, stop), _tensorboard(files.weights, ranks) as told:

                def report(step: int, loss: float) -> None:
                    progress(step, loss)
                    every = self.recipe.sample_every
                    if sample and ranks.first and every and step % every == 0:
                        weights = trainer.weights(self.system)
                        files.add_sample(step, sample(weights, self.source.shape, trainer.device))

                def saved() -> None:
                    files.write_curve(trainer)
                    told(trainer)

                train(trainer, files.checkpoint, stop, report, saved)
            if not ranks.first:
                return None
            # The weights last: their presence says that the curve is there too.
            files.write_curve(trainer)
            sha = save_weights(files.weights, trainer.weights(self.system))
            files.checkpoint.unlink(missing_ok=True)
        found = {"weights": str(files.weights), "sha256": sha, "steps": trainer.step}
        return found | {"loss": trainer.log[-1][1]}

    def _trainer(self, checkpoint: Path, ranks: Ranks) -> Trainer:
        if checkpoint.exists():
            return Trainer.resume(
                checkpoint, self.recipe, self.source, device=ranks.device, ranks=ranks
            )
        trainer = Trainer(self.recipe, self.source, device=ranks.device, ranks=ranks)
        if self.initial is not None:
            trainer.start_from(self.initial)
        return trainer


@dataclass(frozen=True)
class _Files:
    weights: Path
    checkpoint: Path
    curve: Path

    @classmethod
    def of(cls, weights: Path, inputs: tuple[Path, ...]) -> _Files:
        """Return the files of a run beside its weights; raises BadInput where none may be."""
        if weights.is_dir():
            raise OutputTaken("output", str(weights), "a file, not a directory")
        checkpoint = weights.with_name(weights.name + ".checkpoint")
        curve = weights.with_suffix(".loss.csv")
        for path in (weights, checkpoint, curve):
            check_output(path, overwrite=True, inputs=inputs)
        return cls(weights, checkpoint, curve)

    def write_curve(self, trainer: Trainer) -> None:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([LOG, *trainer.log])
        write_text_atomically(self.curve, table.getvalue())

    def add_sample(self, step: int, png: bytes) -> None:
        folder = self.weights.with_suffix(".samples")
        make_directory(folder)
        write_bytes_atomically(folder / f"{step:07d}.png", png)


@contextmanager
def _tensorboard(weights: Path, ranks: Ranks) -> Iterator[Callable[[Trainer], None]]:
    """Yield what tells TensorBoard, where it is installed, of the rows it has not been told of."""
    if not ranks.first or find_spec("tensorboard") is None:
        yield lambda trainer: None
        return
    from torch.utils.tensorboard import SummaryWriter

    last = 0
    with SummaryWriter(weights.with_suffix(".tensorboard")) as board:  # type: ignore[no-untyped-call]

        def told(trainer: Trainer) -> None:
            nonlocal last
            for row in trainer.log:
                if row[0] > last:
                    for name, value in zip(LOG[1:], row[1:]):
                        board.add_scalar(name, value, row[0])
                    last = row[0]

        yield told
