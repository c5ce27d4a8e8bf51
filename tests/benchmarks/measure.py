"""`skild-phys bench measure`: what measuring costs, beside the least that it could.

That is one Fourier transform, and one pass over memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import scipy.fft

import skild_phys as sp
from skild_phys.cli.options import answer, result_options
from skild_phys.cli.terminal import announced, say
from skild_phys.errors import BadInput
from skild_phys.measurement.observables import STATISTICS
from skild_phys.measurement.observables.four_point import TERMS, four_point_terms, square_sides
from skild_phys.measurement.rows import collect, workers
from skild_phys.measurement.system import System
from skild_phys.runner import Run
from skild_phys.store import LatticeStore, create_store, open_store

from . import peak
from .timing import seconds_of

_TWO_POINT = ("radial", "along_k", "axis", "diagonal", "distance")
"""Statistics of S(k) and of G at all separations: shells, axes, diagonals."""


@click.command("measure")
@click.option("--L", "side", type=int, default=256, show_default=True, help="Side of the lattices.")
@click.option(
    "-n", "--samples", "count", type=int, default=1000, show_default=True, help="Lattices."
)
@click.option("--runs", type=int, default=3, show_default=True, help="Runs, of which the median.")
@click.option(
    "--memory",
    "gibibytes",
    type=float,
    multiple=True,
    help="Also the peak memory of measuring a store of so many GiB of spins; more than once.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where stores are written for a while; a GiB of spins takes 0.1 GiB.  [default: /tmp]",
)
@result_options("threads")
def command(
    side: int,
    count: int,
    runs: int,
    gibibytes: tuple[float, ...],
    folder: Path | None,
    run: Run,
) -> None:
    """Time the measurement of critical Ising configurations in a store.

    S(k) and G(r) at all separations beside reading the store and one batched real FFT; the
    four-point function beside one pass over memory for each of its terms.

    \b
    skild-phys bench measure
    skild-phys bench measure --memory 1 --memory 4
    """
    for option, value, least in (("--L", side, 4), ("-n", count, 2), ("--runs", runs, 1)):
        if value < least:
            raise BadInput(option, value, f"a whole number of at least {least}")
    if any(not 0 < size < 1e4 for size in gibibytes):
        raise BadInput("memory", min(gibibytes), "gibibytes above 0")
    if folder is not None and not folder.is_dir():
        raise BadInput("folder", str(folder), "a directory")
    cores = run.cores
    with tempfile.TemporaryDirectory(dir=folder) as place, announced("measuring ..."):
        path = Path(place) / "critical.zarr"
        sp.simulate("ising2d", L=side, T="Tc", samples=count, seed=1, output=path, threads=cores)
        store = open_store(path)
        peaks = _peaks(store, Path(place), gibibytes, cores)
        found = _measured(store, cores, runs) | {"peak_memory_mib": peaks}
    answer(found, lambda: _print(found))


def _measured(store: LatticeStore, threads: int, runs: int) -> dict[str, Any]:
    """Time the measurement of a store of 2D spins: medians over runs, after a first one.

    The batched transform is one call of SciPy's for all lattices, with as many workers as
    `threads`. It is timed first, while the C library still hands out memory as it likes best.
    Passes over memory and the four-point function run on one thread.
    """
    system, n = System.of(store), store.n_samples
    spins, sides = store.read(0, n), square_sides(system.shape).tolist()
    words = spins.reshape(-1)[: spins.size // 8 * 8].view(np.uint64)
    works: dict[str, Callable[[], object]] = {
        "transform": lambda: scipy.fft.rfft2(spins, workers=threads),
        "read": lambda: [store.read(start, stop) for start, stop in store.batches()],
        "two_point": lambda: collect(
            store, system, [STATISTICS[s] for s in _TWO_POINT], at_work=at_work
        ),
        "memory_pass": lambda: words.sum(),
        "four_point": lambda: four_point_terms(spins, sides),
        "everything": lambda: sp.measure(store.path, threads=threads),
    }  # fmt: skip
    with workers(threads) as at_work:
        took = {
            name: median([seconds_of(work) for _ in range(runs + 1)][1:])
            for name, work in works.items()
        }
    return {
        "shape": list(system.shape),
        "lattices": n,
        "threads": threads,
        "seconds": took,
        "two_point_ratio": took["two_point"] / (took["read"] + took["transform"]),
        "four_point_sides": len(sides),
        "four_point_ratio": took["four_point"] / (len(sides) * len(TERMS)) / took["memory_pass"],
    }


def _peaks(
    store: LatticeStore, folder: Path, gibibytes: Sequence[float], threads: int
) -> dict[str, float]:
    """Return the peak resident memory, in MiB, of measuring stores of so many GiB of spins.

    Their lattices are those of `store`, moved by a vector each, over and over; each store is
    measured by a process of its own.
    """
    found = {}
    for size in gibibytes:
        n = max(round(size * 2**30 / np.prod(store.shape)), 2)
        path = folder / f"{size:g}.zarr"
        with create_store(
            path, field="spins", n_samples=n, shape=store.shape, chunk=store.chunk,
            attrs={k: store.attrs[k] for k in ("model", "temperature")}, variables=(),
        ) as writer:  # fmt: skip
            spins = store.read(0, store.n_samples)
            for start in range(0, n, store.chunk):
                index = np.arange(start, min(start + store.chunk, n))
                moved = np.roll(spins[index % len(spins)], (7 * start, 3 * start), (1, 2))
                writer.commit({"spins": moved})
        command = [sys.executable, peak.__file__, "measure", str(path), str(threads)]
        found[f"{size:g}"] = float(subprocess.check_output(command, text=True))
    return found


def _print(found: dict[str, Any]) -> None:
    size, took = " x ".join(map(str, found["shape"])), found["seconds"]
    say(f"{found['lattices']} lattices of {size}, {found['threads']} threads, seconds")
    sides = f"four-point function, {found['four_point_sides']} sides, one thread"
    for name, key, note in (
        ("reading the store", "read", ""),
        ("one batched real FFT (float64)", "transform", ""),
        ("S(k) and G(r), with reading", "two_point", f"{found['two_point_ratio']:.2f}x of both"),
        ("one pass over memory, one thread", "memory_pass", ""),
        (sides, "four_point", f"{found['four_point_ratio']:.2f} passes a term"),
        ("every observable, with errors", "everything", ""),
    ):  # fmt: skip
        say(f"  {name:42} {took[key]:9.3g}  {note}".rstrip())
    for gibibytes, peak_mib in found["peak_memory_mib"].items():
        say(f"peak memory of measuring {gibibytes} GiB of spins: {peak_mib:.0f} MiB")
