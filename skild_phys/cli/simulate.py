"""`skild-phys simulate`: samples of the Gibbs distribution, into a store."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import (
    announced,
    interruptible,
    json_option,
    output_option,
    overwrite_option,
    progress_bar,
    provenance,
    threads_option,
)
from skild_phys.errors import StoreError
from skild_phys.files import check_output

if TYPE_CHECKING:
    from skild_phys.store import LatticeStore


@click.command()
@click.option("--L", "side", type=int, required=True, help="Side of the lattice.")
@click.option("--T", "temperature", required=True, help="J/k_B: a number, Tc or 1.05Tc.")
@click.option("-n", "--samples", type=int, required=True, help="Samples, of all chains together.")
@output_option
@click.option("--model", default="ising2d", show_default=True, help="The Hamiltonian.")
@click.option("--algorithm", default="wolff", show_default=True, help="wolff or metropolis.")
@click.option("--chains", type=int, default=4, show_default=True, help="Independent chains.")
@click.option(
    "--every",
    type=int,
    help="Clusters or sweeps between samples.  [default: about two autocorrelation times]",
)
@click.option("--burn-in", type=int, help="The same before the first.  [default: 20 times that]")
@click.option("--start", default="cold", show_default=True, help="cold or hot.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@click.option("--chunk", type=int, help="Samples in a chunk of the store.  [default: 4 MiB]")
@threads_option
@overwrite_option
@json_option
def command(
    side: int,
    temperature: str,
    samples: int,
    output: Path,
    model: str,
    algorithm: str,
    chains: int,
    every: int | None,
    burn_in: int | None,
    start: str,
    seed: int,
    chunk: int | None,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Simulate a model exactly (no truncation, no bias) and store its lattices.

    Run again, the same command goes on with an unfinished store; with a larger -n it appends
    to a finished one. The samples depend on the seed, not on threads, chunks or interruptions.

    \b
    skild-phys simulate --L 256 --T Tc -n 100 -o fine.zarr
    skild-phys simulate --L 64 --T 1.05Tc -n 1000 --chains 8 --seed 1 -o warm.zarr
    """
    from skild_phys.lattice.models import get_model, parse_temperature
    from skild_phys.simulate.chain import Ensemble, SimulationSpec, simulate

    spec = SimulationSpec(
        L=side,
        temperature=parse_temperature(temperature, get_model(model)),
        n_samples=samples,
        model=model,
        algorithm=algorithm,
        chains=chains,
        every=every,
        burn_in=burn_in,
        seed=seed,
        start=start,
    )
    # What lies there already may be a store to go on with; that is for the store to say.
    check_output(output, overwrite=True)
    with announced("compiling the kernels (first run only) ..."):
        small = SimulationSpec(2, 1.0, 1, algorithm=algorithm, chains=1, start="hot")
        Ensemble(small).advance(0, 1, lambda: False)
    kept = 0 if overwrite else _samples_kept(output)
    with progress_bar("simulating", samples, kept) as advance, interruptible() as stop:
        store = simulate(
            spec,
            output,
            chunk=chunk,
            threads=threads,
            overwrite=overwrite,
            attrs=provenance("numba"),
            stop=stop,
            progress=advance,
        )
    result = summary(store)
    click.echo(json.dumps(result) if as_json else _report(result))


def _samples_kept(output: Path) -> int:
    """Return how many samples the progress line starts with."""
    from skild_phys.store import open_store

    try:
        return open_store(output).n_samples
    except StoreError:
        return 0


def summary(store: LatticeStore) -> dict[str, Any]:
    """Return what a finished run is judged by: energy per site, with error and Kaufman's value.

    `energy_tau` is the integrated autocorrelation time in draws; 1/2 when they are independent.
    """
    from skild_phys.errorbars import Chains, jackknife

    chains = Chains(store.variable("chain"), store.variable("draw"))
    rows = {"energy": store.variable("energy")}
    estimate = jackknife(lambda means: means["energy"], rows, chains=chains)
    mean, error = float(estimate.value), float(estimate.error)
    exact = _kaufman(store.shape[1], float(store.attrs["temperature"]))
    deviation = (mean - exact) / error if exact is not None and error > 0 else None
    return {
        "path": str(store.path),
        "samples": store.n_samples,
        "every": store.attrs["every"],
        "update": store.attrs["update"],
        "energy": mean,
        "energy_error": error if math.isfinite(error) else None,
        "energy_tau": float(estimate.tau),
        "energy_exact": exact,
        "deviation_sigma": deviation,
    }


def _kaufman(side: int, temperature: float) -> float | None:
    """Return the exact energy per site of the torus, or None where it is not to be had."""
    try:
        exact = importlib.import_module("skild_phys.lattice.exact")
    except ModuleNotFoundError:
        return None
    return float(exact.kaufman_energy(side, temperature))


def _report(result: dict[str, Any]) -> str:
    lines = [
        f"{result['path']}  {result['samples']} samples, one every {result['every']} "
        f"{result['update']}s of a chain",
        f"energy per site  {result['energy']:.6f}",
    ]
    if result["energy_error"] is not None:
        lines[1] += f" +- {result['energy_error']:.6f} J (tau {result['energy_tau']:.2f} draws)"
    if result["energy_exact"] is not None:
        lines[1] += f"   exact {result['energy_exact']:.6f}"
    if result["deviation_sigma"] is not None:
        lines[1] += f" ({result['deviation_sigma']:+.1f} sigma)"
    return "\n".join(lines)
