"""`skild-phys train`: weights for the shipped system or for a user's own store."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import click

from skild_phys.errors import BadInput
from skild_phys.files import check_output, write_bytes_atomically


@click.command()
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--preset", help="Recipe by name, such as ising2d.")
@click.option("--config", type=click.Path(path_type=Path), help="Recipe from a TOML file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Weights.")
@click.option("--steps", type=int, help="Steps, instead of the recipe's.")
@click.option("--batch", type=int, help="Lattices a step, instead of the recipe's.")
@click.option("--seed", type=int, help="Seed of weights, noise and data.")
@click.option("--side", type=int, help="Side of the simulated lattices (no STORE).")
@click.option("--threads", type=int, default=None, help="CPU threads (default: all cores).")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--overwrite", is_flag=True, help="Replace existing weights, begin anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    store: Path | None,
    preset: str | None,
    config: Path | None,
    output: Path,
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

    A checkpoint lies beside OUTPUT while the run lasts; the same command goes on from it, to
    the same bytes as if it had never stopped (CPU, same number of threads). The loss curve
    is kept beside the weights as CSV.
    """
    import torch

    from skild_phys.cli.options import interruptible, progress_bar
    from skild_phys.lattice.models import get_model, parse_temperature
    from skild_phys.skild.config import read_config
    from skild_phys.skild.source import SimulationSource, Source, StoreSource
    from skild_phys.skild.train import Trainer, train
    from skild_phys.skild.weights import save_weights
    from skild_phys.store import open_store

    if (preset is None) == (config is None):
        raise BadInput("--preset", preset, "one of --preset and --config")
    options = read_config(config or str(preset), steps=steps, batch=batch, seed=seed, side=side)
    check_output(output, overwrite=overwrite, inputs=[store] if store else [])
    if device != "cpu" and not torch.cuda.is_available():
        raise BadInput("--device", device, "cpu: this machine has no CUDA device")
    if threads is not None:
        if threads < 1:
            raise BadInput("--threads", threads, "a whole number of at least 1")
        torch.set_num_threads(threads)
    source: Source
    if store:
        lattices = open_store(store)
        source = StoreSource(lattices, options.seed)
        system = {k: lattices.attrs.get(k) for k in ("model", "temperature")}
        system["side"] = min(lattices.shape)
    else:
        model = get_model(options.model)
        temperature = parse_temperature(options.temperature, model)
        source = SimulationSource(
            options.side, temperature, options.batch, options.clusters, options.seed
        )
        system = {"model": model.name, "temperature": temperature, "side": options.side}
    checkpoint = output.with_name(output.name + ".checkpoint")
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    trainer = Trainer(options, source, device=device)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        click.echo(f"going on from step {trainer.step} of {options.steps}", err=True)
    with progress_bar("training", options.steps, trainer.step) as advance, interruptible() as stop:
        done = trainer.step

        def report(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, note=f"loss {loss:.4f}")
            done = step

        train(trainer, checkpoint, stop, report)
    sha = save_weights(output, trainer.weights(system))
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["step", "loss_nats_per_site", "learning_rate"])
    rows.writerows(trainer.log)
    write_bytes_atomically(output.with_suffix(".loss.csv"), table.getvalue().encode())
    checkpoint.unlink(missing_ok=True)
    loss = trainer.log[-1][1] if trainer.log else None
    result = {"weights": str(output), "sha256": sha, "steps": trainer.step, "loss": loss}
    click.echo(json.dumps(result) if as_json else f"{output}  sha256 {sha[:16]}  loss {loss:.4f}")
