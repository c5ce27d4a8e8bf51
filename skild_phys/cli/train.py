"""`skild-phys train`: weights for the shipped system, a user's own store, or an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import interruptible, progress_bar, say
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.skild.train import Trainer


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
@cli.result_options("threads device overwrite")
def command(
    store: Path | None,
    output: Path | None,
    run: Run,
    **recipe: Any,
) -> None:
    """Train SKILD on STORE, or on a running simulation if no STORE is given.

    STORE is a store of this program, or any .npy or Zarr array of shape (n, y, x); for spins
    its numbers are -1 and +1, for fields the recipe says output = "v". A checkpoint lies beside
    OUTPUT while the run lasts; the same command, without --overwrite, resumes from it, to the same
    bytes as if it had never stopped (CPU, same number of threads). Loss, gradient norm, rate and
    pace are kept beside the weights as CSV, and for TensorBoard where that is installed. On
    several GPUs (fields and images):

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
        text = "sha256 {sha256:.16}  loss {loss:.4f}".format(**result)
        cli.answer(result, text, output)


@contextmanager
def _watched(
    trainer: Trainer,
) -> Iterator[tuple[Callable[[int, float], None], Callable[[], bool]]]:
    """Show how far a run is; yield what to tell, and whether Ctrl-C came."""
    steps, done, first = trainer.recipe.steps, trainer.step, trainer.ranks.first
    if done and first:
        say(f"resuming at step {done} of {steps}", err=True)
    bar = progress_bar("training", steps, done) if first else nullcontext(lambda *_, **__: None)
    with bar as advance, interruptible() as stop:
        yield lambda step, loss: advance(1, note=f"loss {loss:.4f}"), stop
