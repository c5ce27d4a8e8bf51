"""`skild-phys simulate`: samples of the Gibbs distribution, into a store."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import announced
from skild_phys.errorbars import Chains, integrated_autocorrelation_time, jackknife
from skild_phys.errors import BadInput, OutputLarger, warn
from skild_phys.files import check_output
from skild_phys.runner import Run
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import Lattices, LatticeStore

PARAMETERS = [f.name for f in dataclasses.fields(SimulationSpec) if f.metadata]
"""Parameters of a simulation that have options."""

_SYSTEM = ("L", "temperature", "n_samples")
_SERIES = {"energy": "energy", "magnetization_squared": "M^2"}
_DRIFT = 1e-3
"""False-alarm rate of the warning that the energy drifts."""


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
    from skild_phys.simulation.ensemble import appended, simulate
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
        typed = f"skild-phys simulate --append --samples {given['n_samples']}"
        spec, more = appended(output, given["n_samples"], told, typed)
    else:
        spec = SimulationSpec(**{name: given[name] for name in PARAMETERS})
    with announced("compiling the kernels (first run only) ..."):
        _compile_kernels(spec)

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
    result = _summary(store, None if known is None else float(known.value))
    for text in result["warnings"]:
        warn(text)
    cli.answer(result, _in_words(result), path)
    if append:
        end_append(path)
    return result


def _default_output(spec: SimulationSpec, temperature: str) -> Path:
    """Return a name such as ising2d-L256-Tc.zarr, with the seed unless it is 0."""
    temperature = "".join(temperature.split())
    heat = temperature if temperature.endswith("c") else f"T{temperature}"
    seed = f"-seed{spec.seed}" if spec.seed else ""
    return Path(f"{spec.model.name}-{cli.shape_name(spec.shape)}-{heat}{seed}.zarr")


def _compile_kernels(spec: SimulationSpec) -> None:
    """Compile what a simulation will call, on a lattice of four sites; quick once it is cached."""
    from skild_phys.simulation.chain import Unit, draw

    small = dataclasses.replace(
        spec, L=2, n_samples=1, chains=spec.kernel.replicas, every=1, stint=1, burn_in=0
    )
    draw(small, 0, Unit.start(small, 0), 0, [(0, 1)])


# -- what a finished run is judged by ---------------------------------------------------------


def _summary(store: Lattices, exact: float | None = None) -> dict[str, Any]:
    """Return what a finished run is judged by.

    Energy per site, with error and the `exact` value where there is one, and the integrated
    autocorrelation times of energy and M^2: in draws from the samples (1/2 when they are
    independent), in updates from the burn-in.
    """
    chains = Chains(store.variable("chain").astype(np.int64), store.variable("draw"))
    rows = {"energy": store.variable("energy"), "m2": store.variable("magnetization") ** 2}
    estimate = jackknife(lambda means: means["energy"], rows, chains=chains)
    mean, error = float(estimate.value), float(estimate.error)
    found = integrated_autocorrelation_time(np.stack([*rows.values()], axis=1), chains)
    told = exact is not None and error > 0 and found.known[0]
    named = ("model", "algorithm", "chains", "every", "burn_in", "update")
    result = {
        "path": str(store.path),
        "samples": store.n_samples,
        "shape": list(store.shape),
        **{name: store.attrs[name] for name in named},
        "energy": mean,
        "energy_error": error if math.isfinite(error) else None,
        "energy_exact": exact,
        "deviation_sigma": (mean - (exact or 0.0)) / error if told else None,
    }
    for i, name in enumerate(_SERIES):
        result |= {
            f"{name}_tau": float(found.tau[i]),
            f"{name}_tau_error": float(found.error[i]),
            f"{name}_tau_known": bool(found.known[i]),
            f"burn_in_tau_{name}": store.attrs.get(f"tau_{name}"),
        }
    return {**result, "warnings": _warnings(result, _drifts(rows["energy"], chains))}


def _drifts(energy: Any, chains: Chains) -> bool:
    """Return whether chains have another energy early than late: t-test of chain means.

    The first quarter of the draws of each chain against the last half.
    """
    changes = []
    for chain in np.unique(chains.chain):
        of = energy[chains.chain == chain]
        if len(of) < 8:
            return False
        changes.append(of[: len(of) // 4].mean() - of[len(of) // 2 :].mean())
    if len(changes) < 4 or np.ptp(changes) == 0.0:
        return False
    from scipy.stats import ttest_1samp  # a second to import

    return bool(ttest_1samp(changes, 0.0).pvalue < _DRIFT)


def _updates(tau: float, every: int) -> float:
    """Return tau_int in updates from tau_int in draws `every` updates apart.

    For an exponential autocorrelation; 0 where the draws are independent as far as one can see.
    """
    return every / (2.0 * math.atanh(0.5 / tau)) if tau > 0.5 else 0.0


def _warnings(result: dict[str, Any], drifts: bool) -> list[str]:
    every, burnt, update = result["every"], result["burn_in"], result["update"]
    # Two standard errors down, so that a sound run is not blamed for the noise of its tau.
    draws = [result[f"{n}_tau"] - 2.0 * result[f"{n}_tau_error"] for n in _SERIES]
    seen = max(_updates(tau, every) for tau in draws)
    tau = max(seen, *(result[f"burn_in_tau_{n}"] or 0.0 for n in _SERIES))
    warnings = []
    if every < 2.0 * seen:
        warnings.append(
            f"samples are {every} {update}s apart, closer than two autocorrelation times "
            f"(tau > {seen:.3g} {update}s); errors account for it, --every sets it"
        )
    if result["energy_error"] == 0.0 and result["samples"] > 1:
        warnings.append("the energy never changes: is this the ground state, or are chains frozen?")
    if burnt < 20.0 * tau:
        warnings.append(
            f"burn-in was {burnt} {update}s, shorter than 20 autocorrelation times "
            f"(tau {tau:.3g} {update}s); --burn-in sets it"
        )
    elif drifts:
        drift = f"burn-in was {burnt} {update}s, and the energy still drifts"
        warnings.append(f"{drift}; --burn-in sets it")
    return warnings


def _in_words(result: dict[str, Any]) -> str:
    """Return a `_summary` as a text of three lines."""
    shape, update = " x ".join(map(str, result["shape"])), result["update"]
    energy = f"energy per site  {result['energy']:.6f}"
    if result["energy_error"] is not None:
        energy += f" +- {result['energy_error']:.6f} J"
    if result["energy_exact"] is not None:
        energy += f"   exact {result['energy_exact']:.6f}"
    if result["deviation_sigma"] is not None:
        energy += f" ({result['deviation_sigma']:+.1f} sigma)"
    draws = [
        f"{short} {result[f'{name}_tau']:.2f} +- {result[f'{name}_tau_error']:.2f}"
        for name, short in _SERIES.items()
        if result[f"{name}_tau_error"] > 0.0 and result[f"{name}_tau_known"]
    ]
    tau = f"tau_int  {', '.join(draws) or 'too few'} draws"
    tau += " (independent: 0.5)" if draws else " to tell it"
    if result["burn_in_tau_energy"] is not None:
        before = [f"{s} {result[f'burn_in_tau_{n}']:.3g}" for n, s in _SERIES.items()]
        tau += f"; at burn-in {', '.join(before)} {update}s"
    samples = (
        f"{result['samples']} samples of {shape}, one every {result['every']} "
        f"{update}s of a chain ({result['algorithm']}, {result['chains']} chains)"
    )
    return "\n".join([samples, energy, tau])
