"""`skild-phys refine`: fine lattices from coarse ones alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from skild_phys.cli.options import (
    announced,
    answer,
    chain_options,
    check_device,
    interruptible,
    json_option,
    output_option,
    overwrite_option,
    progress_bar,
    provenance,
    threads_option,
    warn,
    warn_of,
    warnings_of,
)
from skild_phys.cli.outputs import beside, fill
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, check_whole
from skild_phys.files import check_output

if TYPE_CHECKING:
    from skild_phys.skild.coarse import CoarseInput
    from skild_phys.skild.refine import RefineSpec


POOR_MISFIT = 0.2
"""Share of the input's rms that kept modes of spins may be off by; shipped weights reach 0.08."""


def compile_kernels(
    source: CoarseInput, method: str, polish: int = 0, *, pilot: bool = False
) -> None:
    """Compile what refining `source` will call, on one block; quick once it is cached."""
    from skild_phys.rules import coarsen
    from skild_phys.rules.sampling import compile_sampling
    from skild_phys.simulation.conditional import Conditional, sample
    from skild_phys.simulation.conditional.chains import CLUSTERS_FROM, SWEEPS_PER_CLUSTERS
    from skild_phys.skild.oracle import measured_sweeps, model_of_values

    if method == "skild":
        compile_sampling()
    if not source.rule.binds:
        return
    model, clustered = model_of_values(source), source.factor >= CLUSTERS_FROM
    factor = CLUSTERS_FROM if clustered else 2
    fine = np.full((1, *[factor] * model.dimension), model.values[-1], dtype=np.int8)
    coarse = coarsen(fine, source.rule, factor, q=source.q)
    if method != "skild" or polish:
        sweeps = 0 if method == "fill" else SWEEPS_PER_CLUSTERS
        one = tuple([1] * model.dimension)
        sample(Conditional(model, source.rule, factor, 1.0, one), coarse, 0, [0], sweeps)
    if pilot:
        one = tuple([1] * model.dimension)
        read = lambda start, stop: coarse  # noqa: E731
        measured_sweeps(
            dataclasses.replace(source, n=1, shape=one, factor=factor, read=read), 1.0, 0
        )


@click.command()
@click.argument("coarse", type=click.Path(path_type=Path))
@click.option("--factor", type=int, help="How much finer.  [default: what COARSE says]")
@output_option
@click.option(
    "--rule", help="How an array was coarsened: block_mean, majority, decimate, spectral."
)
@click.option("--method", default="skild", show_default=True, help="skild, exact or fill.")
@chain_options
@click.option("--samples-per-input", type=int, default=1, show_default=True)
@click.option("--polish", type=int, default=0, show_default=True, help="Monte Carlo sweeps after.")
@click.option("--sweeps", type=int, help="Of method exact.  [default: 20 autocorrelation times]")
@click.option("--T", "temperature", help="For exact and --polish.  [default: what COARSE says]")
@click.option("--any-system", is_flag=True, help="Refine what the weights were not made for.")
@threads_option
@overwrite_option
@json_option
def command(
    coarse: Path,
    factor: int | None,
    output: Path | None,
    rule: str | None,
    method: str,
    steps: int | None,
    sampler: str | None,
    restarts: int | None,
    samples_per_input: int,
    seed: int,
    checkpoint: Path | None,
    polish: int,
    sweeps: int | None,
    temperature: str | None,
    any_system: bool,
    lambda_start: float | None,
    lambda_end: float | None,
    chunk: int | None,
    device: str,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Refine every lattice of COARSE, from COARSE alone.

    COARSE is a store that `coarsen` wrote, or any Zarr array or .npy file of shape (n, y, x)
    with --rule and --factor: means (floating point) or sums (integers) of blocks for
    block_mean, -1 and +1 for majority and decimate, the field that `coarsen --rule spectral` keeps.
    Coarsening refined spins gives COARSE back, bit for bit; kept modes guide spins, and bind fields
    to rounding.

    Methods: skild, the diffusion model; exact, constrained Monte Carlo with the known
    Hamiltonian (for Ising and Potts models the better and cheaper one), whose autocorrelation
    time is measured first; fill, each block at random.

    \b
    skild-phys refine coarse.zarr --factor 4
    skild-phys refine means.npy --rule block_mean --factor 2 -o refined.zarr
    skild-phys refine coarse.zarr --method exact --sweeps 64 -o oracle.zarr
    """
    from skild_phys.skild.coarse import open_coarse
    from skild_phys.skild.refine import (
        another_system,
        check_skild_fits,
        check_weights_fit,
        refine_store,
    )
    from skild_phys.skild.weights import load_weights, shipped_weights, weights_sha256
    from skild_phys.store import write_timing

    spec = spec_of(click.get_current_context().params)
    weights = load_weights(checkpoint or shipped_weights()) if method == "skild" else None
    spins = weights is None or weights.output == "logits"
    source = open_coarse(coarse, factor, rule, spins=spins)
    warn_of([source])
    if weights:
        check_skild_fits(source)
        if checkpoint is None and source.attrs.get("model") is None:
            note = (
                f"note: {coarse.name} does not say of what system it is; the shipped weights are of"
            )
            say(f"{note} the critical 2D Ising model", err=True)
    heat = temperature_of(source, spec, temperature)
    warnings = []
    if weights:
        system = source.attrs | {"temperature": heat}
        if not any_system:
            check_weights_fit(weights, system, coarse)
        elif differs := another_system(weights, system):
            warnings = [f"{coarse.name} {differs}"]
    minded = warnings_of(source.attrs) + warnings
    total = source.n * samples_per_input
    with announced("compiling the kernels (first run only) ..."):
        compile_kernels(source, method, polish, pilot=method == "exact" and sweeps is None)

    def write(path: Path) -> dict[str, Any]:
        # An output that exists may be one to go on with; the store itself decides.
        check_output(path, overwrite=True, inputs=[coarse])
        with progress_bar("refining", total) as advance, interruptible() as stop:
            return refine_store(
                source,
                path,
                spec,
                weights,
                temperature=heat,
                weights_sha256=weights_sha256(weights) if weights else None,
                extra_attrs=provenance("torch") | ({"warnings": minded} if minded else {}),
                threads=threads,
                device=device,
                chunk=chunk,
                overwrite=overwrite,
                progress=advance,
                stop=stop,
            )

    kind = "refined" if method == "skild" else method
    times = f"x{source.factor:g}"
    default = beside(coarse, f"{kind}-{times}", without=f"-coarse-{times}")
    output, result = fill(output, default, write)
    each = result["seconds"] / result["refined"] if result["refined"] else None
    if each is not None:
        write_timing(output, each)
    if result.get("misfit", 0.0) > POOR_MISFIT:
        warnings.append("the misfit is large: is the input of the system that the weights are of?")
    warn(warnings)
    found = {"path": str(output), **result, "seconds_per_lattice": each, "method": method}
    found["warnings"] = warnings
    return answer(found, _report(found, source, total), as_json, output)


def spec_of(given: Mapping[str, Any]) -> RefineSpec:
    """Return what the parameters of the command ask for; raises BadInput."""
    from skild_phys.skild.refine import RefineSpec

    if given["chunk"] is not None:
        check_whole("--chunk", given["chunk"])
    check_device(given["device"])
    own = {one.name for one in dataclasses.fields(RefineSpec)}
    known = {name: value for name, value in given.items() if name in own}
    spec = RefineSpec(**known | {"sampler": given["sampler"] or "stochastic"})
    unused: tuple[str, ...] = () if spec.method == "exact" else ("sweeps",)
    if spec.method != "skild":
        unused += ("steps", "restarts", "checkpoint", "lambda_start", "lambda_end")
    for name in unused:
        if given[name] is not None:
            option = "--" + name.replace("_", "-")
            accepted = f"nothing: method {spec.method} does not use it"
            raise BadInput(option, str(given[name]), accepted)
    return spec


def temperature_of(source: CoarseInput, spec: RefineSpec, given: str | None) -> float | None:
    """Return the temperature that is given, or the source's own; raises BadInput."""
    from skild_phys.models import parse_temperature
    from skild_phys.skild.oracle import hamiltonian_of

    if given is None:
        known: float | None = source.attrs.get("temperature")
        return known
    if spec.method != "exact" and not spec.polish:
        raise BadInput("--T", given, "no temperature: only exact and --polish use one")
    return parse_temperature(given, hamiltonian_of(source, "--method", spec.method))


def _report(found: dict[str, Any], source: CoarseInput, total: int) -> str:
    before, after = (" x ".join(map(str, shape)) for shape in (source.shape, source.fine_shape))
    each = found["seconds_per_lattice"]
    if each is None:
        return f"was complete already: {total} lattices of {after}"
    lines = [
        f"{total} lattices of {after} from {source.n} of {before}, method"
        f" {found['method']}, {each:.3g} s a lattice"
    ]
    if "tau_int" in found:
        lines.append(f"tau {found['tau_int']:.3g} sweeps, {found['sweeps']} sweeps a lattice")
    if "misfit" in found:
        lines.append(f"coarsened again they are off the input by {found['misfit']:.2g} of its rms")
    elif source.rule.ties and source.tie_seed is None:
        lines.append("coarsened again they give the input, up to ties that it does not explain")
    else:
        lines.append("coarsened again they give the input, every block")
    return "\n".join(lines)
