"""`skild-phys bench refine`: what a refinement costs here, and what each part of it does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import announced, json_option, threads_option
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, check_whole

if TYPE_CHECKING:
    from skild_phys.skild.bench import RefineSpeed


@click.command("refine")
@click.option("--L", "side", type=int, default=128, show_default=True, help="Side of the lattices.")
@click.option("--factor", type=int, default=4, show_default=True)
@click.option("--rule", default="block_mean", show_default=True)
@click.option("--steps", type=int, help="Denoiser calls a lattice.  [default: as refine]")
@click.option("--restarts", type=int, help="Restarts of a chain.  [default: as refine]")
@click.option("-n", "count", type=int, default=8, show_default=True, help="Lattices; the median.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights.  [default: shipped]")
@click.option("--memory", is_flag=True, help="Also the peak memory at L = 512, 1024, 2048.")
@threads_option
@json_option
def command(
    side: int,
    factor: int,
    rule: str,
    steps: int | None,
    restarts: int | None,
    count: int,
    checkpoint: Path | None,
    memory: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time the refinement of critical Ising lattices, split into its parts.

    The parts are timed on one thread; then all threads refine into a store, by SKILD and by the
    exact conditional Monte Carlo with its measured number of sweeps.

    \b
    skild-phys bench refine --json
    skild-phys bench refine --steps 9 --restarts 1
    skild-phys bench refine --L 256 --memory
    """
    from skild_phys.cli.refine import compile_kernels
    from skild_phys.skild.bench import critical_coarse, peak_memory, refine_speed
    from skild_phys.skild.refine import RefineSpec
    from skild_phys.skild.weights import load_weights, shipped_weights

    check_whole("-n", count)
    if factor < 2:
        raise BadInput("--factor", factor, "a whole number of at least 2")
    if side < 2 * factor or side % factor:
        raise BadInput("--L", side, f"a multiple of the factor {factor}")
    weights = load_weights(checkpoint or shipped_weights())
    spec = RefineSpec(steps=steps, restarts=restarts)
    coarse = critical_coarse(count, side, rule, factor)
    with announced("compiling the kernels (first run only) ..."):
        compile_kernels(coarse, "skild")
        compile_kernels(coarse, "exact", pilot=True)
    with announced("measuring ..."):
        speed = refine_speed(weights, coarse, spec, threads or os.cpu_count() or 1)
        peaks = peak_memory((512, 1024, 2048), 4) if memory else {}
    if as_json:
        say(json.dumps(_plain(speed, rule, factor, peaks)))
    else:
        _print(speed, rule, factor, peaks)


def _plain(speed: RefineSpeed, rule: str, factor: int, peaks: dict[int, float]) -> dict[str, Any]:
    return {
        "shape": list(speed.shape),
        "rule": rule,
        "factor": factor,
        "denoiser_calls": speed.calls,
        "network_calls": speed.network_calls,
        "seconds_per_lattice": speed.store,
        "threads": speed.threads,
        "seconds_one_thread": speed.one_thread,
        "parts": speed.parts,
        "exact_seconds_per_lattice": speed.exact,
        "peak_memory_mib": {str(side): peak for side, peak in peaks.items()},
    }


def _print(speed: RefineSpeed, rule: str, factor: int, peaks: dict[int, float]) -> None:
    size = " x ".join(map(str, speed.shape))
    say(f"{size}, {rule} {factor}x, {speed.calls} denoiser calls, of which")
    say(f"{speed.network_calls} call the network")
    say(f"one thread     {speed.one_thread:8.4f} s a lattice, of which")
    for part, seconds in speed.parts.items():
        say(f"  {part:12} {seconds:8.4f} s  {100 * seconds / speed.one_thread:3.0f}%")
    say(f"{speed.threads} threads      {speed.store:8.4f} s a lattice, into a store")
    if speed.exact is not None:
        say(f"exact          {speed.exact:8.4f} s a lattice, into a store")
    for side, peak in peaks.items():
        say(f"peak memory    {peak:8.0f} MiB at {side} x {side}")
