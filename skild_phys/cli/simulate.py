"""`skild-phys simulate`: samples of the Gibbs distribution, into a store."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource

from skild_phys.cli.options import (
    announced,
    answer,
    json_option,
    options_from,
    output_option,
    stored,
)
from skild_phys.cli.outputs import shape_name
from skild_phys.errors import BadInput, OutputLarger, StoreError, check_whole, warn
from skild_phys.files import check_output
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.simulation.spec import SimulationSpec
    from skild_phys.store import LatticeStore

PARAMETERS = {
    "side": "--L",
    "temperature": "--T",
    "model": "--model",
    "algorithm": "--algorithm",
    "chains": "--chains",
    "every": "--every",
    "burn_in": "--burn-in",
    "start": "--start",
    "seed": "--seed",
}
"""Parameters of a simulation, and the options that give them."""


@click.command()
@click.option("--L", "side", help="Side of the lattice, or sides such as 256x128.")
@click.option("--T", "temperature", help="J/k_B: a number, Tc or 1.05Tc.")
@click.option(
    "-n", "--samples", type=int, default=100, show_default=True, help="Of all chains together."
)
@output_option
@click.option(
    "--model", default="ising2d", show_default=True, help="ising2d, ising3d, potts2 .. potts8."
)
@click.option(
    "--algorithm",
    default="auto",
    show_default=True,
    help="wolff, swendsen-wang, metropolis, multispin (64 lattices a word), or the fastest.",
)
@click.option("--chains", type=int, help="Independent chains.  [default: 4; multispin: 64]")
@click.option(
    "--every",
    type=int,
    help="Clusters or sweeps between samples.  [default: two autocorrelation times, measured]",
)
@click.option(
    "--burn-in", type=int, help="The same before the first.  [default: 20 autocorrelation times]"
)
@click.option("--start", default="cold", show_default=True, help="cold or hot.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@click.option("--append", is_flag=True, help="Add -n samples to a finished store.")
@options_from(Run, skip=("device",))
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    samples: int,
    output: Path | None,
    append: bool,
    as_json: bool,
    **given: Any,
) -> dict[str, Any]:
    """Simulate a model exactly (no truncation, no bias) and store its lattices.

    Chains burn in until their autocorrelation is known; a sample is then taken each two
    autocorrelation times of the slower one of energy and M^2, a fixed number of updates.

    Run again, the same command goes on with an unfinished store, also in its burn-in. The samples
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
    from skild_phys.simulation.chain import simulate
    from skild_phys.store import end_append, open_store

    if append and given["overwrite"]:
        raise BadInput("append", "--overwrite", "one of the two")
    more: dict[str, Any] = {}
    if append:
        if output is None:
            raise BadInput("output", None, "the store to append to")
        check_output(output, overwrite=True)
        spec, more = _appended(output, samples)
        _check_agreement(context, given, spec, output)
    else:
        spec = spec_of_options(samples, **{name: given[name] for name in PARAMETERS})
    with announced("compiling the kernels (first run only) ..."):
        compile_kernels(spec)

    def made(path: Path, run: Run) -> LatticeStore:
        run = dataclasses.replace(run, attrs={**run.attrs, **more})
        try:
            simulate(spec, path, run)
        except OutputLarger:
            if output is not None:
                raise
            held = f"{open_store(path).n_samples} samples of this run, more than the {samples}"
            warn(f"{path} is left as it is: it holds {held} asked for")
        return open_store(path)

    default = _default_output(spec, given)
    path, store = stored("simulating", spec.n_samples, output, default, made, given, "numba")
    result = summary(store)
    for text in result["warnings"]:
        warn(text)
    answer(result, _report(result), as_json, path)
    if append:
        end_append(path)
    return result


def _default_output(spec: SimulationSpec, given: dict[str, Any]) -> Path:
    """Return a name such as ising2d-L256-Tc.zarr, with the seed unless it is 0."""
    temperature = "".join(str(given["temperature"]).split())
    heat = temperature if temperature.endswith("c") else f"T{temperature}"
    seed = f"-seed{spec.seed}" if spec.seed else ""
    return Path(f"{spec.model.name}-{shape_name(spec.shape)}-{heat}{seed}.zarr")


def spec_of_options(
    samples: int, side: str | None, temperature: str | None, **given: Any
) -> SimulationSpec:
    from skild_phys.models import get_model, parse_temperature
    from skild_phys.simulation.spec import SimulationSpec, parse_shape

    model = get_model(given["model"])
    for option, value, accepted in (
        ("--L", side, "a side such as 256, or sides such as 256x128"),
        ("--T", temperature, "a number, Tc, or a multiple such as 1.05Tc"),
    ):
        if value is None:
            raise BadInput(option, None, accepted)
    return SimulationSpec(
        L=parse_shape(str(side), model),
        temperature=parse_temperature(str(temperature), model),
        n_samples=samples,
        **given,
    )


def _appended(output: Path, samples: int) -> tuple[SimulationSpec, dict[str, Any]]:
    """Return the spec of a store with `samples` more, and attributes that say so."""
    from skild_phys.simulation.spec import spec_of
    from skild_phys.store import APPEND_TOTAL, open_store

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
        spec = spec_of(store.attrs, total)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{output}: was not simulated, or by an earlier version: attributes lack {error}"
        ) from None
    commands = str(store.attrs.get("command", ""))
    if not begun:
        commands += f"; skild-phys simulate --append --samples {samples}"
    return spec, {"append": samples, APPEND_TOTAL: total, "command": commands}


def _check_agreement(
    context: click.Context, given: dict[str, Any], spec: SimulationSpec, output: Path
) -> None:
    """Raise BadInput for an option that was given and says something else than the store."""
    from skild_phys.models import parse_temperature
    from skild_phys.simulation.algorithms import get_update
    from skild_phys.simulation.spec import parse_shape

    parse: dict[str, Callable[[Any], Any]] = {
        "side": lambda text: parse_shape(text, spec.model),
        "temperature": lambda text: parse_temperature(text, spec.model),
        "algorithm": lambda name: get_update(name, spec.model).name,
    }
    there = vars(spec) | {"side": spec.shape, "model": spec.model.name}
    for name, option in PARAMETERS.items():
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if parse.get(name, lambda value: value)(given[name]) != there[name]:
            shown = spec.L if name == "side" else there[name]
            accepted = f"what {output} was made with, {shown}, or nothing"
            raise BadInput(option, str(given[name]), accepted)


def compile_kernels(spec: SimulationSpec) -> None:
    """Compile what a simulation will call, on a lattice of four sites; quick once it is cached."""
    from skild_phys.simulation.unit import draw, start_unit

    small = dataclasses.replace(
        spec, L=2, n_samples=1, chains=spec.kernel.replicas, every=1, stint=1, burn_in=0
    )
    draw(small, 0, start_unit(small, 0), 0, [(0, 1)])


def summary(store: LatticeStore) -> dict[str, Any]:
    """Return what a finished run is judged by.

    Energy per site, with error and the exact value where there is one, and the integrated
    autocorrelation times of energy and M^2: in draws from the samples (1/2 when they are
    independent), in updates from the burn-in.
    """
    from skild_phys.errorbars import Chains, integrated_autocorrelation_time, jackknife
    from skild_phys.measurement.system import System
    from skild_phys.measurement.theory import theory

    chains = Chains(store.variable("chain").astype(np.int64), store.variable("draw"))
    rows = {"energy": store.variable("energy"), "m2": store.variable("magnetization") ** 2}
    estimate = jackknife(lambda means: means["energy"], rows, chains=chains)
    mean, error = float(estimate.value), float(estimate.error)
    known = theory(System.of(store)).get("energy")
    exact = float(known.value) if known is not None else None
    found = integrated_autocorrelation_time(np.stack([*rows.values()], axis=1), chains)
    attrs = store.attrs
    result = {
        "path": str(store.path),
        "samples": store.n_samples,
        "shape": list(store.shape),
        "model": attrs["model"],
        "algorithm": attrs["algorithm"],
        "chains": attrs["chains"],
        "every": attrs["every"],
        "burn_in": attrs["burn_in"],
        "update": attrs["update"],
        "energy": mean,
        "energy_error": error if math.isfinite(error) else None,
        "energy_exact": exact,
        "deviation_sigma": (mean - exact) / error
        if exact is not None and error > 0 and found.known[0]
        else None,
        "energy_tau": float(found.tau[0]),
        "energy_tau_error": float(found.error[0]),
        "energy_tau_known": bool(found.known[0]),
        "magnetization_squared_tau": float(found.tau[1]),
        "magnetization_squared_tau_error": float(found.error[1]),
        "magnetization_squared_tau_known": bool(found.known[1]),
        "burn_in_tau_energy": attrs.get("tau_energy"),
        "burn_in_tau_magnetization_squared": attrs.get("tau_magnetization_squared"),
    }
    return {**result, "warnings": _warnings(result)}


def _updates(tau: float, every: int) -> float:
    """Return tau_int in updates from tau_int in draws `every` updates apart.

    For an exponential autocorrelation; 0 where the draws are independent as far as one can see.
    """
    return every / (2.0 * math.atanh(0.5 / tau)) if tau > 0.5 else 0.0


def _warnings(result: dict[str, Any]) -> list[str]:
    every, burnt, update = result["every"], result["burn_in"], result["update"]
    names = ("energy", "magnetization_squared")
    # Two errors down, so that a sound run is not blamed for the noise of its tau.
    draws = [result[f"{n}_tau"] - 2.0 * result[f"{n}_tau_error"] for n in names]
    seen = max(_updates(tau, every) for tau in draws)
    before = max(result[f"burn_in_tau_{n}"] or 0.0 for n in names)
    warnings = []
    if every < 2.0 * seen:
        warnings.append(
            f"samples are {every} {update}s apart, closer than two autocorrelation times "
            f"(tau > {seen:.3g} {update}s); errors account for it, --every sets it"
        )
    if result["energy_error"] == 0.0 and result["samples"] > 1:
        warnings.append("the energy never changes: is this the ground state, or are chains frozen?")
    tau = max(seen, before)
    if burnt < 20.0 * tau:
        warnings.append(
            f"burn-in was {burnt} {update}s, shorter than 20 autocorrelation times "
            f"(tau {tau:.3g} {update}s); --burn-in sets it"
        )
    return warnings


def _report(result: dict[str, Any]) -> str:
    shape, update = " x ".join(map(str, result["shape"])), result["update"]
    energy = f"energy per site  {result['energy']:.6f}"
    if result["energy_error"] is not None:
        energy += f" +- {result['energy_error']:.6f} J"
    if result["energy_exact"] is not None:
        energy += f"   exact {result['energy_exact']:.6f}"
    if result["deviation_sigma"] is not None:
        energy += f" ({result['deviation_sigma']:+.1f} sigma)"
    names = {"energy": "energy", "magnetization_squared": "M^2"}
    draws = [
        f"{short} {result[f'{name}_tau']:.2f} +- {result[f'{name}_tau_error']:.2f}"
        for name, short in names.items()
        if result[f"{name}_tau_error"] > 0.0 and result[f"{name}_tau_known"]
    ]
    lines = [
        f"{result['samples']} samples of {shape}, one every {result['every']} "
        f"{update}s of a chain ({result['algorithm']}, {result['chains']} chains)",
        energy,
        f"tau_int  {', '.join(draws) or 'too few'} draws"
        + (" (independent: 0.5)" if draws else " to tell it"),
    ]
    if result["burn_in_tau_energy"] is not None:
        before = [f"{s} {result[f'burn_in_tau_{n}']:.3g}" for n, s in names.items()]
        lines[-1] += f"; at burn-in {', '.join(before)} {update}s"
    return "\n".join(lines)
