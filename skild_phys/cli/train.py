"""`skild-phys train`: weights for the shipped system, a user's own store, or an array."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from skild_phys.cli.options import answer, check_device, output_option, threads_option
from skild_phys.cli.outputs import beside, fill
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, OutputTaken
from skild_phys.files import (
    Lock,
    check_output,
    clear_partials,
    write_bytes_atomically,
    write_text_atomically,
)
from skild_phys.forks import forked

if TYPE_CHECKING:
    from skild_phys.skild.data import Source
    from skild_phys.skild.ranks import Ranks
    from skild_phys.skild.recipe import Recipe
    from skild_phys.skild.train import Trainer
    from skild_phys.skild.weights import Weights


@click.command()
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--preset", help="Recipe by name, such as ising2d.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Recipe from a TOML file (its keys: page Recipes).",
)
@click.option(
    "--from",
    "initial",
    metavar="PATH",
    help="Weights to start from, of the same network; 'shipped' for those of the package.",
)
@output_option
@click.option("--steps", type=int, help="Steps, instead of the recipe's.")
@click.option("--batch", type=int, help="Lattices a step, instead of the recipe's.")
@click.option("--seed", type=int, help="Seed of weights, noise and data.")
@click.option("--side", type=int, help="Side of the simulated lattices (no STORE).")
@threads_option
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--overwrite", is_flag=True, help="Replace what lies there: begin anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    store: Path | None,
    preset: str | None,
    config: Path | None,
    initial: str | None,
    output: Path | None,
    steps: int | None,
    batch: int | None,
    seed: int | None,
    side: int | None,
    threads: int | None,
    device: str,
    overwrite: bool,
    as_json: bool,
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
    turns and a change of sign: training and refining show the network every lattice through one.
    Lattices with a mean, or of a model that declares no change of sign, need a recipe without
    'sign'.
    """
    import torch

    from skild_phys.skild.ranks import joined

    options, begin = config_of(click.get_current_context().params)
    if threads is not None:
        torch.set_num_threads(threads)
    inputs = [p for p in (store, initial and Path(initial)) if p]

    def write(path: Path) -> dict[str, Any] | None:
        files = _Files.of(path, inputs)
        locked = Lock(files.checkpoint) if ranks.first else nullcontext()
        with locked:
            goes_on = files.checkpoint.exists() and not overwrite
            for file in (files.weights, files.curve):
                check_output(file, overwrite=overwrite or goes_on)
                clear_partials(file)
            source, system = _source(store, options)
            ranks.wait()
            if overwrite and ranks.first:
                files.checkpoint.unlink(missing_ok=True)
            ranks.wait()
            trainer = _run(options, source, files, system, own_device, begin, ranks)
            if not ranks.first:
                return None
            result = _write(trainer, system, files)
            files.checkpoint.unlink(missing_ok=True)
            return result

    if store is None:
        default = Path(f"{options.model}-weights.safetensors")
    else:
        default = beside(store, "weights", ".safetensors")
    with joined(device) as (ranks, own_device):
        output, result = fill(output, default, write)
    if result is not None:
        text = "sha256 {sha256:.16}  loss {loss:.4f}".format(**result)
        answer(result, text, as_json, output)


def config_of(given: Mapping[str, Any]) -> tuple[Recipe, Weights | None]:
    """Return what the parameters of the command ask for, and what it begins with."""
    from skild_phys.skild.recipe import read_recipe
    from skild_phys.skild.weights import weights_sha256

    preset, config, side, threads = (given[k] for k in ("preset", "config", "side", "threads"))
    if (preset is None) == (config is None):
        raise BadInput("--preset", preset, "one of --preset and --config")
    begin = None if given["initial"] is None else _initial(given["initial"])
    if side is not None and given["store"] is not None:
        raise BadInput("--side", side, "no side with STORE, whose sides are its own")
    own = {name: given[name] for name in ("steps", "batch", "seed", "side")}
    options = read_recipe(config or str(preset), **own, initial=begin and weights_sha256(begin))
    if options.initial and begin is None:
        raise BadInput("initial", options.initial, "--from and the weights of this SHA-256")
    check_device(given["device"])
    if threads is not None and threads > 1 and forked():
        raise BadInput("--threads", threads, "1 in a forked process, or start method 'spawn'")
    if given["store"] is None:
        simulated(options)
    return options, begin


def simulated(options: Recipe) -> dict[str, Any]:
    """Return the system that is simulated where no store is given; raises BadInput."""
    from skild_phys.models import get_model, parse_temperature

    if options.data == "images":
        raise BadInput("STORE", None, "a store of images ('skild-phys images prepare')")
    model = get_model(options.model)
    if model.name != "ising2d":
        raise BadInput("model", model.name, "ising2d, or a STORE: no other model is simulated")
    temperature = parse_temperature(options.temperature, model)
    return {"model": model.name, "temperature": temperature, "side": options.side}


class _Files(NamedTuple):
    """Where a run writes."""

    weights: Path
    checkpoint: Path
    curve: Path

    @classmethod
    def of(cls, weights: Path, inputs: Sequence[Path]) -> _Files:
        """Return the files of a run beside its weights; raises BadInput where none may be."""
        if weights.is_dir():
            raise OutputTaken("-o", str(weights), "a file, not a directory")
        checkpoint = weights.with_name(weights.name + ".checkpoint")
        files = cls(weights, checkpoint, weights.with_suffix(".loss.csv"))
        for path in files:
            check_output(path, overwrite=True, inputs=inputs)
        return files


def _source(store: Path | None, options: Recipe) -> tuple[Source, dict[str, Any]]:
    """Return where lattices come from, and what the weights say of their system."""
    import torch

    from skild_phys.models import find_model
    from skild_phys.skild.data import ImageLattices, SimulationSource, StoreSource
    from skild_phys.store import open_lattices

    if store is None:
        system = simulated(options)
        simulation = SimulationSource(
            options.side, system["temperature"], options.batch, options.clusters, options.seed,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        return simulation, system
    spins = options.output == "logits"
    system = {"model": None, "temperature": None}
    lattices = open_lattices(store, None if spins else "field", repeats=True)
    if options.data == "images" and lattices.field != "image":
        raise BadInput("STORE", str(store), "a store of images ('skild-phys images prepare')")
    if lattices.field == "image":
        if options.data != "images":
            raise BadInput("STORE", str(store), 'lattices; for images say data = "images"')
        if lattices.shape != (options.side, options.side):
            held = "{1} x {0}".format(*lattices.shape)
            raise BadInput(
                "STORE", f"images of {held}", f"{options.side} x {options.side}, the recipe's"
            )
        has = "train" if lattices.has("split") else None
        images = ImageLattices(lattices, has)
        system = {"model": "images", "temperature": None, "side": min(images.shape)}
        system |= {"dataset": lattices.attrs.get("dataset"), "images": images.n_samples}
        return StoreSource(images, options.seed), system
    if lattices.q:
        raise BadInput("STORE", str(store), f"spins, block sums or a field, not '{lattices.field}'")
    if spins and lattices.field != "spins":
        accepted = f"spins, not '{lattices.field}', or a recipe (--config) with output = \"v\""
        raise BadInput("STORE", str(store), accepted)
    known = find_model(lattices.attrs)
    if known is not None and not known.even and "sign" in options.symmetries:
        accepted = f"a recipe without 'sign': {known.name} declares no change of sign"
        raise BadInput("symmetries", list(options.symmetries), accepted)
    names = ("model", "temperature", "rule", "factor")
    system |= {name: lattices.attrs[name] for name in names if name in lattices.attrs}
    return StoreSource(lattices, options.seed), system | _size(lattices.shape)


def _size(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what weights record of the sides that they are trained on."""
    return {"side": min(shape)} | ({} if len(set(shape)) == 1 else {"shape": list(shape)})


def _initial(where: str) -> Weights:
    """Return the weights that a run starts from."""
    from skild_phys.skild.weights import load_weights, shipped_weights

    return load_weights(shipped_weights() if where == "shipped" else Path(where))


def _run(
    options: Recipe,
    source: Source,
    files: _Files,
    system: dict[str, Any],
    device: str,
    begin: Weights | None,
    ranks: Ranks,
) -> Trainer:
    """Return the trainer after its last step, taken up from its checkpoint if that is there."""
    from skild_phys.cli.options import interruptible, progress_bar
    from skild_phys.skild.train import Trainer, train

    if files.checkpoint.exists():
        trainer = Trainer.resume(files.checkpoint, options, source, device=device, ranks=ranks)
        if ranks.first:
            say(f"going on from step {trainer.step} of {options.steps}", err=True)
    else:
        trainer = Trainer(options, source, device=device, ranks=ranks)
        if begin is not None:
            trainer.start_from(begin)
    shown = (
        progress_bar("training", options.steps, trainer.step)
        if ranks.first
        else nullcontext(lambda count, note="": None)
    )
    with shown as advance, interruptible() as stop, _tensorboard(files, ranks) as told:
        done = trainer.step

        def report(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, note=f"loss {loss:.4f}")
            done = step
            if ranks.first and options.sample_every and step % options.sample_every == 0:
                _sample(trainer, system, files.weights)

        def saved() -> None:
            _write_curve(trainer, files.curve)
            told(trainer)

        train(trainer, files.checkpoint, stop, report, saved)
    return trainer


@contextmanager
def _tensorboard(files: _Files, ranks: Ranks) -> Iterator[Callable[[Trainer], None]]:
    """Yield what tells TensorBoard, where it is installed, of the rows it has not been told of."""
    if not ranks.first or find_spec("tensorboard") is None:
        yield lambda trainer: None
        return
    from torch.utils.tensorboard import SummaryWriter

    from skild_phys.skild.train import LOG

    board = SummaryWriter(files.weights.with_suffix(".tensorboard"))  # type: ignore[no-untyped-call]
    last = 0

    def told(trainer: Trainer) -> None:
        nonlocal last
        for row in trainer.log:
            if row[0] > last:
                for name, value in zip(LOG[1:], row[1:]):
                    board.add_scalar(name, value, row[0])  # type: ignore[no-untyped-call]
                last = row[0]

    try:
        yield told
    finally:
        board.close()  # type: ignore[no-untyped-call]


def _sample(trainer: Trainer, system: dict[str, Any], output: Path) -> None:
    """Write a grid of samples of the averaged network as it is now."""
    from skild_phys.files import make_directory
    from skild_phys.images.grids import sample_grid

    folder = output.with_suffix(".samples")
    make_directory(folder)
    image = sample_grid(trainer.weights(system), trainer.source.shape, trainer.device)
    write_bytes_atomically(folder / f"{trainer.step:07d}.png", image)


def _write_curve(trainer: Trainer, curve: Path) -> None:
    from skild_phys.skild.train import LOG

    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(LOG)
    rows.writerows(trainer.log)
    write_text_atomically(curve, table.getvalue())


def _write(trainer: Trainer, system: dict[str, Any], files: _Files) -> dict[str, Any]:
    """Write the curve, then the weights, whose presence says that both are there."""
    from skild_phys.skild.weights import save_weights

    _write_curve(trainer, files.curve)
    sha = save_weights(files.weights, trainer.weights(system))
    loss = trainer.log[-1][1]
    return {"weights": str(files.weights), "sha256": sha, "steps": trainer.step, "loss": loss}
