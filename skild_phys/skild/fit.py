"""A training run in files: weights, their checkpoint while it lasts, curves of loss and quality."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from skild_phys.errors import BadInput, OutputTaken, check_whole, warn
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
from skild_phys.skild.quality import Quality
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.train import LOG, Ranks, Row, Trainer, train
from skild_phys.skild.weights import (
    Weights,
    load_weights,
    save_weights,
    shipped_weights,
    weights_sha256,
)

_Told = tuple[Callable[[int, float], None], Callable[[], bool], Callable[[Row], None]]
_Watch = Callable[[Trainer], AbstractContextManager[_Told]]
"""(trainer) -> a context that yields `progress`, `stop` and `measured` of `train`."""
_UNSEEN: _Told = (lambda step, loss: None, lambda: False, lambda row: None)


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
        recipe = read_recipe(
            str(preset) if config is None else Path(config),
            initial=initial and weights_sha256(initial),
            **changes,
        )
        if recipe.initial and initial is None:
            raise BadInput("initial", recipe.initial, "initial= and the weights of this SHA-256")
        source, system = training_source(lattices, recipe)
        if recipe.sample_every and len(source.shape) != 2:
            raise BadInput("sample_every", recipe.sample_every, "0 in three dimensions")
        return cls(recipe, source, system, initial, tuple(map(Path, given)), threads)

    def run(
        self,
        output: AnyPath,
        ranks: Ranks = Ranks(),  # noqa: B008
        *,
        overwrite: bool = False,
        watch: _Watch = lambda trainer: nullcontext(_UNSEEN),
        sample: Callable[[Weights, tuple[int, ...], torch.device], bytes] | None = None,
    ) -> dict[str, Any] | None:
        """Train, or resume, and write the weights to `output`; of several processes the first.

        Parameters
        ----------
        overwrite : replace what lies at `output`, and begin anew.
        sample : makes a PNG of samples, every `recipe.sample_every` steps.

        Returns
        -------
        Path, SHA-256, steps and last loss of the weights, why the run ended early, if it did, and
        `quality`, the row of what was written; None of a process that is not the first.

        Raises
        ------
        OutputTaken, before anything is changed, where something else lies; Interrupted.
        """
        path, recipe = Path(output), self.recipe
        if path.is_dir():
            raise OutputTaken("output", str(path), "a file, not a directory")
        checkpoint = path.with_name(path.name + ".checkpoint")
        curves = (path.with_suffix(".loss.csv"), path.with_suffix(".quality.csv"))
        for file in (path, checkpoint, *curves):
            check_output(file, overwrite=True, inputs=self.inputs)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with ExitStack() as held:
            if ranks.first:
                held.enter_context(Lock(checkpoint))
            resumes = checkpoint.exists() and not overwrite
            for file in (path, *curves):
                check_output(file, overwrite=overwrite or resumes)
                if ranks.first:  # a killed run's half of a file goes
                    held.enter_context(Lock(file, beside=True))
            ranks.wait()
            if overwrite and ranks.first:
                for file in (checkpoint, curves[1]):
                    file.unlink(missing_ok=True)
            ranks.wait()
            quality = Quality.of(recipe, self.source, self.system)
            trainer = self._trainer(checkpoint, ranks)
            trainer.quality = quality
            if quality is None and recipe.measured_every and ranks.first:
                warn("fewer than 64 samples: none are held out, and no quality is measured")
            began = _tensorboard(path, ranks, trainer.step)
            with watch(trainer) as (progress, stop, measured), began as board:

                def report(step: int, loss: float) -> None:
                    progress(step, loss)
                    every = recipe.sample_every
                    if sample and ranks.first and every and step % every == 0:
                        weights = trainer.weights(self.system)
                        png = sample(weights, self.source.shape, trainer.device)
                        folder = path.with_suffix(".samples")
                        make_directory(folder)
                        write_bytes_atomically(folder / f"{step:07d}.png", png)

                def saved() -> None:
                    _write_curves(curves, trainer)
                    board(trainer)

                train(trainer, checkpoint, stop, report, saved, measured=measured)
            if not ranks.first:
                return None
            # The weights last: their presence says that the curves are there too.
            _write_curves(curves, trainer)
            sha = save_weights(path, trainer.weights(self.system, last=True))
            checkpoint.unlink(missing_ok=True)
        found = {"weights": str(path), "sha256": sha, "steps": trainer.step}
        found |= {"loss": trainer.log[-1][1], "ended": trainer.ended or None}
        row = {k: v if math.isfinite(v) else None for k, v in trainer.best_row.items()}
        return found | {"quality": row}

    def _trainer(self, checkpoint: Path, ranks: Ranks) -> Trainer:
        given = (self.recipe, self.source)
        if checkpoint.exists():
            return Trainer.resume(checkpoint, *given, device=ranks.device, ranks=ranks)
        trainer = Trainer(*given, device=ranks.device, ranks=ranks)
        if self.initial is not None:
            trainer.start_from(self.initial)
        return trainer


def _write_curves(paths: tuple[Path, Path], trainer: Trainer) -> None:
    """Write the log and, once there are any, the rows of quality."""
    tables: list[tuple[Sequence[str], Sequence[Iterable[float]]]] = [
        (LOG, trainer.log),
        ([*trainer.best_row], [row.values() for row in trainer.rows]),
    ]
    for path, (heading, rows) in zip(paths, tables):
        if heading:
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([heading, *rows])
            write_text_atomically(path, table.getvalue())


def _scalars(trainer: Trainer, after: int) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of what was logged and measured after a step."""
    logged = [dict(zip(LOG, row)) for row in trainer.log]
    for prefix, rows in (("", logged), ("quality/", trainer.rows)):
        for row in rows:
            step = int(row["step"])
            names = [name for name in row if name != "step"] if step > after else []
            yield from ((f"{prefix}{name}", row[name], step) for name in names)


@contextmanager
def _tensorboard(weights: Path, ranks: Ranks, last: int) -> Iterator[Callable[[Trainer], None]]:
    """Yield what writes rows of a log after step `last` for TensorBoard, where it is installed."""
    if not ranks.first or find_spec("tensorboard") is None:
        yield lambda trainer: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(weights.with_suffix(".tensorboard")) as board:  # type: ignore[no-untyped-call]

        def write(trainer: Trainer) -> None:
            nonlocal last
            for scalar in _scalars(trainer, last):
                board.add_scalar(*scalar)
            last = trainer.step

        yield write
