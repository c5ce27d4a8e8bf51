"""`skild-phys train`: weights for the shipped system, a user's own store, or an array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import interruptible, progress_bar, say, show
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.skild.train import Row, Trainer


@click.command()
@click.argument("store", required=False, type=cli.PATH)
@click.option("--preset", help="Recipe by name, such as ising2d.")
@click.option(
    "--config",
    type=cli.PATH,
    help="Recipe from a TOML file (its keys: page Recipes).",
)
@click.option(
    "--from",
    "initial",
    metavar="PATH",
    help="Weights to start from, of the same network; 'shipped' for those of the package.",
)
@cli.output_option()
@click.option("--steps", type=int, help="Steps, instead of the recipe's.")
@click.option("--batch", type=int, help="Configurations per step, instead of the recipe's.")
@click.option("--seed", type=int, help="Seed of weights, noise and data.")
@click.option("--side", type=int, help="Side of the simulated lattice (no STORE).")
@click.option(
    "--until",
    multiple=True,
    callback=lambda context, option, given: ", ".join(given) or None,
    metavar="FIGURE=LIMIT",
    help="End once this column of the quality table is as near to 0, its standard error included,"
    " such as refined_energy=0.02; of several, each. The recipe's schedule of the learning rate"
    " knows only its steps: 'constant' fits this option.",
)
@click.option(
    "--plateau",
    type=int,
    metavar="N",
    help="End after N measurements without a smaller held-out loss ('constant' fits it too).",
)
@cli.result_options("threads device overwrite")
def command(
    store: Path | None,
    output: Path | None,
    run: Run,
    **recipe: Any,
) -> None:
    """Train SKILD on STORE, or on a running simulation if no STORE is given.

    STORE is a store of this program, or any .npy or Zarr array of shape (n, y, x) or (n, z, y, x);
    for spins its numbers are -1 and +1, for fields the recipe says output = "v". A checkpoint lies
    beside OUTPUT while the run lasts; the same command, without --overwrite, resumes from it, to
    the same bytes as if it had never stopped (CPU, same number of threads). Loss, gradient norm,
    rate and pace are kept beside the weights as CSV, and for TensorBoard where that is installed;
    so is what the averaged weights do on held-out samples, measured every 250 steps, or 2% of them.
    Those of the least held-out loss are written. On several GPUs (recipes with a table [lambdas]):

    \b
    torchrun --nproc-per-node 8 -m skild_phys train STORE --preset cifar10 --device cuda -o W

    The system is taken to have the `symmetries` of the recipe, by default shifts, flips, quarter
    turns and a change of sign: training and refining show the network each configuration through
    one.
    Lattices with a mean, or of a model that declares no change of sign, need a recipe without
    'sign'.
    """
    from skild_phys.images.refine import sample_grid
    from skild_phys.skild.fit import Fit
    from skild_phys.skild.train import joined

    fit = Fit.of(store, threads=run.threads, **recipe)
    default = (
        Path(f"{fit.recipe.model}-weights.safetensors")
        if store is None
        else cli.beside(store, "weights", ".safetensors")
    )
    with joined(run.device) as ranks:
        output, result = cli.fill(
            output,
            default,
            lambda path: fit.run(
                path, ranks, overwrite=run.overwrite, watch=_watched, sample=sample_grid
            ),
        )
    if result is not None:
        cli.answer(result, lambda: _print(result), output)


def _print(result: dict[str, Any]) -> None:
    """Print loss and digest, why the run ended, and the quality of what was written."""
    say("sha256 {sha256:.16}  loss {loss:.4f}".format(**result))
    if result["ended"]:
        say("ended at step {steps}: {ended}".format(**result))
    row = result["quality"]
    if not row:
        return
    say("step {step}: held-out loss {loss:.4f}".format(**row))
    names = dict.fromkeys(name.partition("_")[2] for name in row if f"{name}_err" in row)
    kinds = [kind for kind in ("refined", "generated") if any(n.startswith(kind) for n in row)]
    if kinds:
        say("samples beside held-out ones, 0 for equal (S, chi, phi: their ratio less 1):")
        lines = [[name, *(_figure(row, f"{kind}_{name}") for kind in kinds)] for name in names]
        show(["", *kinds], lines, left=1)


def _figure(row: Mapping[str, float | None], name: str) -> str:
    """Return a figure with its standard error, "" if there is none."""
    from skild_phys.measurement.tables import with_error

    value, error = (row.get(f"{name}{end}") for end in ("", "_err"))
    text = "" if value is None else with_error(value, math.nan if error is None else error)
    noise = row.get(f"{name}_noise")
    return text if noise is None else f"{text} (noise {noise:.3f})"


_SHOWN = ("refined_energy", "refined_phi4", "refined_G4c_1", "refined_patterns",
          "generated_energy", "generated_phi4", "generated_U4", "generated_chi")  # fmt: skip
"""Figures of a line while a run lasts."""


def _line(row: Mapping[str, float]) -> str:
    """Return what a measurement found, in a line."""
    shown = (f"{name} {_figure(row, name)}" for name in _SHOWN if name in row)
    return "  ".join(["step {step}: held-out loss {loss:.4f}".format(**row), *shown])


@contextmanager
def _watched(
    trainer: Trainer,
) -> Iterator[tuple[Callable[[int, float], None], Callable[[], bool], Callable[[Row], None]]]:
    """Show how far a run is; yield what to tell, whether Ctrl-C came, what shows a row."""
    steps, done, first = trainer.recipe.steps, trainer.step, trainer.ranks.first
    if done and first:
        say(f"resuming at step {done} of {steps}", err=True)
    bar = progress_bar("training", steps, done) if first else nullcontext(lambda *_, **__: None)
    with bar as advance, interruptible() as stop:
        tell = lambda step, loss: advance(1, note=f"loss {loss:.4f}")  # noqa: E731
        yield tell, stop, lambda row: say(_line(row), err=True)
