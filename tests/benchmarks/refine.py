"""`skild-phys bench refine`: where the time and memory of a refinement go.

The parts are timed by a `Clock` around the network, the mean field and the constraint: what is no
longer where it was is an error, not a zero.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import skild_phys as sp
from skild_phys.cli.options import answer, result_options
from skild_phys.cli.terminal import announced, say
from skild_phys.errors import BadInput, check_whole
from skild_phys.runner import Run

from . import peak
from .timing import Clock, seconds_of

if TYPE_CHECKING:
    from skild_phys.methods import SKILD, Method
    from skild_phys.skild.coarse import CoarseInput

_PARTS = ("network", "mean field", "constraint")
_MEMORY_SIDES = (512, 1024, 2048)


@click.command("refine")
@click.option("--L", "side", type=int, default=128, show_default=True, help="Side of the lattices.")
@click.option("--factor", type=int, default=4, show_default=True)
@click.option("--rule", default="block_mean", show_default=True)
@click.option(
    "--steps", type=int, help="Denoiser evaluations per configuration.  [default: as refine]"
)
@click.option(
    "-n", "--samples", "count", type=int, default=8, show_default=True, help="Lattices; the median."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights.  [default: shipped]")
@click.option("--memory", is_flag=True, help="Also the peak memory at L = 512, 1024, 2048.")
@result_options("threads")
def command(
    side: int, factor: int, rule: str, count: int, checkpoint: Path | None, memory: bool,
    run: Run, **chain: int | None,
) -> None:  # fmt: skip
    """Time the refinement of critical Ising configurations, split into its parts.

    The parts are timed on one thread; then all threads refine into a store, by SKILD and by the
    exact conditional Monte Carlo with its measured number of sweeps.

    \b
    skild-phys bench refine --json
    skild-phys bench refine --steps 5
    skild-phys bench refine --L 256 --memory
    """
    from skild_phys.methods import SKILD, Exact
    from skild_phys.skild.coarse import open_coarse

    check_whole("n", count)
    if factor < 2:
        raise BadInput("factor", factor, "a whole number from 2 on")
    if side < 2 * factor or side % factor:
        raise BadInput("L", side, f"a multiple of the factor {factor}")
    method = SKILD(checkpoint=checkpoint, steps=chain["steps"])
    with tempfile.TemporaryDirectory() as place:
        fine, path = Path(place) / "fine.zarr", Path(place) / "coarse.zarr"
        sp.simulate("ising2d", L=side, T="Tc", samples=count, seed=1, output=fine)
        sp.coarsen(fine, factor, rule=rule, output=path)
        coarse = open_coarse(path, factor, rule)
        with announced("compiling the kernels (first run only) ..."):
            method.compile(coarse)
            Exact().compile(coarse)
        with announced("measuring ..."):
            speed = _measured(coarse, method, run.cores)
    peaks = {}
    for large in _MEMORY_SIDES if memory else ():
        words = [sys.executable, peak.__file__, "refine", str(large), "4"]
        peaks[str(large)] = float(subprocess.check_output(words, text=True))
    found = {"rule": rule, "factor": factor, **speed, "peak_memory_mib": peaks}
    answer(found, lambda: _print(found))


def _measured(coarse: CoarseInput, method: SKILD, threads: int) -> dict[str, Any]:
    """Return what `method` costs on the lattices of `coarse`; seconds are for one of a full batch.

    `parts` divide the median of one thread, without the store: the network, the mean field, the
    constraint (means under it, and draws), and the rest (transforms of the steps, noise).
    """
    import torch

    from skild_phys.methods import Exact
    from skild_phys.rules.conditions import Blocks, KeptModes, Sites
    from skild_phys.runner import Run
    from skild_phys.skild.skild import built
    from skild_phys.skild.spins import MeanField

    shape, clock = coarse.fine_shape, Clock()
    lambdas = method.refining(method.weights, coarse.rule, coarse.factor, shape)
    sampler = method.prepare(coarse, 0, Run(), {}).sampler
    coins, batch = coarse.ties(slice(None)), method.batch(coarse, "cpu")

    def refine_from(first: int) -> None:
        index = range(first, min(first + batch, coarse.n))
        ties = None if coins is None else coins[index.start : index.stop]
        sampler(coarse.read(index.start, index.stop), index, ties, lambda: False)

    sampler_name: Any = method.sampler_for(method.weights)
    denoiser: Any = built(method.weights, shape, "cpu", sampler_name).denoiser
    network = getattr(denoiser.network, "func", denoiser.network)  # one for the grids of all scales
    timed: list[tuple[str, object, str]] = [("network", network, "forward")]
    timed += [("mean field", MeanField, name) for name in ("likelihood", "iterate", "given")]
    timed += [
        ("constraint", kind, name)
        for kind in (Blocks, Sites, KeptModes)
        for name in ("means", "settled", "draw")
        if name in vars(kind)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        refine_from(0)
        firsts = range(0, coarse.n, batch)
        walls = [seconds_of(partial(refine_from, i)) / batch for i in firsts]
        with clock.around(timed):
            total = sum(seconds_of(partial(refine_from, i)) for i in firsts)
    finally:
        torch.set_num_threads(before)
    missing = [part for part in _PARTS if not clock.calls[part]]
    on_lattice, evaluations = method.weights.evaluations(shape, lambdas)
    if missing and evaluations:
        raise RuntimeError(f"never called: {', '.join(missing)}")
    one_thread = statistics.median(walls)
    parts = {part: one_thread * clock.seconds[part] / total for part in _PARTS}
    exact = coarse.rule.exact
    return {
        "shape": list(coarse.fine_shape),
        "denoiser_calls": len(lambdas),
        "on_the_lattice": on_lattice,
        "network_evaluations": evaluations,
        "seconds_per_lattice": _into_store(coarse, method, threads),
        "threads": threads,
        "seconds_one_thread": one_thread,
        "parts": parts | {"the rest": one_thread - sum(parts.values())},
        "exact_seconds_per_lattice": (_into_store(coarse, Exact(), threads) if exact else None),
    }


def _into_store(coarse: CoarseInput, method: Method, threads: int) -> float:
    from skild_phys.methods import refine

    with tempfile.TemporaryDirectory() as folder:
        done = refine(coarse, Path(folder) / "r.zarr", method, Run(threads=threads))
    return done.filled.seconds / coarse.n


def _print(found: dict[str, Any]) -> None:
    size, one_thread = " x ".join(map(str, found["shape"])), found["seconds_one_thread"]
    say(f"{size}, {found['rule']} {found['factor']}x, {found['denoiser_calls']} denoiser calls,")
    say(f"{found['on_the_lattice']} of them on the lattice; the network works as in")
    say(f"{found['network_evaluations']:.3g} evaluations on the lattice")
    say(f"one thread     {one_thread:8.4f} s a lattice, of which")
    for part, seconds in found["parts"].items():
        say(f"  {part:12} {seconds:8.4f} s  {100 * seconds / one_thread:3.0f}%")
    say(f"{found['threads']} threads      {found['seconds_per_lattice']:8.4f} s, into a store")
    if found["exact_seconds_per_lattice"] is not None:
        say(f"exact          {found['exact_seconds_per_lattice']:8.4f} s a lattice, into a store")
    for side, mib in found["peak_memory_mib"].items():
        say(f"peak memory    {mib:8.0f} MiB at {side} x {side}")
