"""`skild-phys refine`: fine configurations from coarse ones alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import announced
from skild_phys.methods import Method, Refined, all_methods, method_of, refine
from skild_phys.runner import Run
from skild_phys.skild.chain import Chain

if TYPE_CHECKING:
    from skild_phys.skild.coarse import CoarseInput

_METHODS = all_methods()


@click.command()
@click.argument("coarse", type=cli.PATH)
@click.option("--factor", type=int, help="How much finer.  [default: that of COARSE]")
@cli.output_option()
@click.option(
    "--rule", help="How an array was coarsened: block_mean, majority, decimate, spectral."
)
@click.option("--method", default="skild", show_default=True, help=f"{', '.join(_METHODS)}.")
@cli.options_from(Chain)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@click.option(
    "--samples-per-input", type=int, default=1, show_default=True, help="For each coarse one."
)
@cli.options_from(*_METHODS.values(), skip=[one.name for one in dataclasses.fields(Chain)])
@cli.result_options()
def command(
    coarse: Path,
    factor: int | None,
    output: Path | None,
    rule: str | None,
    seed: int,
    samples_per_input: int,
    run: Run,
    **given: Any,
) -> dict[str, Any]:
    """Refine every configuration of COARSE, from COARSE alone.

    COARSE is a store that `coarsen` wrote, or any Zarr array or .npy file of shape (n, y, x)
    with --rule and --factor: means (floating point) or sums (integers) of blocks for
    block_mean, -1 and +1 for majority and decimate, the low-pass field of spectral.
    Coarsening refined spins gives COARSE back, bit for bit; a low-pass field guides spins, and
    binds fields to rounding.

    Methods: skild, the diffusion model; exact, constrained Monte Carlo with the known
    Hamiltonian (for Ising and Potts models the better and cheaper one), whose autocorrelation
    time is measured first; fill, each block at random.

    \b
    skild-phys refine coarse.zarr --factor 4
    skild-phys refine means.npy --rule block_mean --factor 2 -o refined.zarr
    skild-phys refine coarse.zarr --method exact --sweeps 64 -o exact.zarr
    """
    from skild_phys.skild.coarse import open_coarse
    from skild_phys.store import write_timing

    method = named_method(given)
    source = open_coarse(coarse, factor, rule, spins=method.spins)
    cli.warn_of([source])
    checked = method.check(source)
    total = source.n * samples_per_input
    with announced("compiling the kernels (first run only) ..."):
        method.compile(source)
    finer = f"x{source.factor:g}"
    kind = "refined" if method.name == "skild" else method.name
    default = cli.beside(coarse, f"{kind}-{finer}", without=f"-coarse-{finer}")
    output, made = cli.stored(
        "refining", total, output, default,
        lambda path, run: refine(
            source, path, method, run,
            seed=seed, samples_per_input=samples_per_input, checked=checked,
        ),
        run, "torch", inputs=[coarse],
    )  # fmt: skip
    filled, each = made.filled, made.filled.each
    if each is not None:
        write_timing(output, each)
    found = {
        "path": str(output), "samples": total, "refined": filled.made, "seconds": filled.seconds,
        **({} if made.misfit is None else {"misfit": made.misfit}),
        **({k: made.attrs[k] for k in ("tau_int", "sweeps")} if "tau_int" in made.attrs else {}),
        "seconds_per_lattice": each, "method": method.name, "warnings": made.warnings,
    }  # fmt: skip
    return cli.answer(found, _report(made, method, source, total), output)


def named_method(given: Mapping[str, Any]) -> Method:
    """Return the method that the parameters of the command ask for; raises BadInput."""
    names = {one.name for kind in _METHODS.values() for one in dataclasses.fields(kind)}
    return method_of(given["method"], **{name: given[name] for name in names})


def _report(made: Refined, method: Method, source: CoarseInput, total: int) -> str:
    many = f"{total} configurations of {cli.times(source.fine_shape)}"
    each = made.filled.each
    if each is None:
        return f"was complete already: {many}"
    pace = f"method {method.name}, {each:.3g} s per configuration"
    lines = [f"{many} from {source.n} of {cli.times(source.shape)}, {pace}"]
    if "tau_int" in made.attrs:
        tau, sweeps = made.attrs["tau_int"], made.attrs["sweeps"]
        lines.append(f"tau {tau:.3g} sweeps, {sweeps} sweeps per configuration")
    if made.misfit is not None:
        lines.append(f"coarsened again they are off the input by {made.misfit:.2g} of its rms")
    elif source.rule.ties and source.tie_seed is None:
        lines.append("coarsened again they give the input, up to ties that it does not explain")
    else:
        lines.append("coarsened again they give the input, every block")
    return "\n".join(lines)
