"""`skild-phys bench measure`: what measuring costs here, beside the least that it could."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import announced, check_threads, json_option, threads_option
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput

if TYPE_CHECKING:
    from skild_phys.measurement.bench import MeasureSpeed


@click.command("measure")
@click.option("--L", "side", type=int, default=256, show_default=True, help="Side of the lattices.")
@click.option("-n", "count", type=int, default=1000, show_default=True, help="Lattices.")
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
@threads_option
@json_option
def command(
    side: int,
    count: int,
    runs: int,
    gibibytes: tuple[float, ...],
    folder: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time the measurement of critical Ising lattices in a store.

    S(k) and G(r) at all separations beside reading the store and one batched real FFT; the
    four-point function beside one pass over memory for each of its terms.

    \b
    skild-phys bench measure
    skild-phys bench measure --memory 1 --memory 4
    """
    from skild_phys.measurement.bench import critical_store, measure_speed, peak_memory

    for option, value, least in (("--L", side, 4), ("-n", count, 2), ("--runs", runs, 1)):
        if value < least:
            raise BadInput(option, value, f"a whole number of at least {least}")
    if any(not 0 < size < 1e4 for size in gibibytes):
        raise BadInput("--memory", min(gibibytes), "gibibytes above 0")
    if folder is not None and not folder.is_dir():
        raise BadInput("--folder", str(folder), "a directory")
    workers = check_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder) as place, announced("measuring ..."):
        store = critical_store(Path(place) / "critical.zarr", side, count, workers)
        peaks = peak_memory(store, Path(place), gibibytes, workers)
        speed = measure_speed(store, workers, runs, peaks)
    say(json.dumps(_plain(speed))) if as_json else _print(speed)


def _plain(speed: MeasureSpeed) -> dict[str, Any]:
    return {
        "shape": list(speed.shape),
        "lattices": speed.lattices,
        "threads": speed.threads,
        "seconds": {
            "read": speed.read,
            "transform": speed.transform,
            "two_point": speed.two_point,
            "memory_pass": speed.memory_pass,
            "four_point": speed.four_point,
            "everything": speed.everything,
        },
        "two_point_ratio": speed.two_point_ratio,
        "four_point_sides": speed.sides,
        "four_point_ratio": speed.four_point_ratio,
        "peak_memory_mib": {f"{size:g}": peak for size, peak in speed.peaks.items()},
    }


def _print(speed: MeasureSpeed) -> None:
    size = " x ".join(map(str, speed.shape))
    say(f"{speed.lattices} lattices of {size}, {speed.threads} threads, seconds")
    lines = (
        ("reading the store", speed.read, ""),
        ("one batched real FFT (float64)", speed.transform, ""),
        ("S(k) and G(r), with reading", speed.two_point, f"{speed.two_point_ratio:.2f}x of both"),
        ("one pass over memory, one thread", speed.memory_pass, ""),
        (
            f"four-point function, {speed.sides} sides, one thread",
            speed.four_point,
            f"{speed.four_point_ratio:.2f} passes a term",
        ),
        ("every observable, with errors", speed.everything, ""),
    )
    for name, seconds, note in lines:
        say(f"  {name:42} {seconds:9.3g}  {note}".rstrip())
    for gibibytes, peak in speed.peaks.items():
        say(f"peak memory of measuring {gibibytes:g} GiB of spins: {peak:.0f} MiB")
