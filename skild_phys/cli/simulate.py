"""`skild-phys simulate`: samples of the Gibbs distribution, into a store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import announced
from skild_phys.errors import BadInput, OutputLarger, warn
from skild_phys.files import check_output
from skild_phys.runner import Run
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import LatticeStore

PARAMETERS = [f.name for f in dataclasses.fields(SimulationSpec) if f.metadata]
"""Parameters of a simulation that have options."""


_SYSTEM = ("L", "temperature", "n_samples")


@click.command()
@cli.options_from(SimulationSpec, skip=[name for name in PARAMETERS if name not in _SYSTEM])
@cli.output_option()
@cli.options_from(SimulationSpec, skip=_SYSTEM)
@click.option("--append", is_flag=True, help="Add -n samples to a finished store.")
@cli.result_options("threads chunk overwrite dask")
@click.pass_context
def command(
    context: click.Context,
    /,
    output: Path | None,
    append: bool,
    run: Run,
    **given: Any,
) -> dict[str, Any]:
    """Simulate a model exactly (no truncation, no bias) and store its samples.

    Chains burn in until their autocorrelation is known; a sample is then taken each two
    autocorrelation times of the slower one of energy and M^2, a fixed number of updates.

    Run again, the same command resumes an unfinished store, also in its burn-in. The samples
    depend on the seed and the system (one seed gives independent runs at two temperatures), not on
    threads, machines, chunks or interruptions; the first -n settles how many draws
    a chain makes before the next chain's turn. --append takes everything but -n from the store;
    each call that ends adds -n samples, one that was interrupted or killed is finished by the next.

    \b
    skild-phys simulate --L 256 --T Tc
    skild-phys simulate --L 256 --T Tc -n 100 -o fine.zarr
    skild-phys simulate --append -n 100 -o fine.zarr
    skild-phys simulate --model potts3 --L 128x64 --T 1.05Tc -n 1000 --seed 1 -o warm.zarr
    skild-phys simulate --model ising3d --L 64 --T Tc -n 1000 --dask local:4 -o cube.zarr
    """
    from skild_phys.measurement.system import System
    from skild_phys.measurement.theory import theory
    from skild_phys.simulation.chain import appended, simulate
    from skild_phys.simulation.report import in_words, summary
    from skild_phys.store import end_append, open_store

    more: dict[str, Any] = {}
    if append:
        if run.overwrite:
            raise BadInput("append", "--overwrite", "one of the two")
        if output is None:
            raise BadInput("output", None, "the store to append to")
        check_output(output, overwrite=True)
        source = context.get_parameter_source
        told = {n: given[n] for n in PARAMETERS if source(n) is ParameterSource.COMMANDLINE}
        told.pop("n_samples", None)
        spec, more = appended(output, given["n_samples"], told)
    else:
        spec = SimulationSpec(**{name: given[name] for name in PARAMETERS})
    with announced("compiling the kernels (first run only) ..."):
        compile_kernels(spec)

    def made(path: Path, run: Run) -> LatticeStore:
        try:
            simulate(spec, path, dataclasses.replace(run, attrs={**run.attrs, **more}))
        except OutputLarger:
            if output is not None:
                raise
            held = f"{open_store(path).n_samples} samples of this run, more than the"
            warn(f"{path} is left as it is: it holds {held} {spec.n_samples} asked for")
        return open_store(path)

    default = _default_output(spec, str(given["temperature"]))
    path, store = cli.stored("simulating", spec.n_samples, output, default, made, run, "numba")
    known = theory(System.of(store)).get("energy")
    result = summary(store, None if known is None else float(known.value))
    for text in result["warnings"]:
        warn(text)
    cli.answer(result, in_words(result), path)
    if append:
        end_append(path)
    return result


def _default_output(spec: SimulationSpec, temperature: str) -> Path:
    """Return a name such as ising2d-L256-Tc.zarr, with the seed unless it is 0."""
    temperature = "".join(temperature.split())
    heat = temperature if temperature.endswith("c") else f"T{temperature}"
    seed = f"-seed{spec.seed}" if spec.seed else ""
    return Path(f"{spec.model.name}-{cli.shape_name(spec.shape)}-{heat}{seed}.zarr")


def compile_kernels(spec: SimulationSpec) -> None:
    """Compile what a simulation will call, on a lattice of four sites; quick once it is cached."""
    from skild_phys.simulation.unit import draw, start_unit

    small = dataclasses.replace(
        spec, L=2, n_samples=1, chains=spec.kernel.replicas, every=1, stint=1, burn_in=0
    )
    draw(small, 0, start_unit(small, 0), 0, [(0, 1)])
