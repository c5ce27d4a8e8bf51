"""`skild-phys bench`: how fast the package is on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import bench_measure, bench_refine
from skild_phys.cli.options import announced, json_option, progress_bar
from skild_phys.cli.terminal import say, show

if TYPE_CHECKING:
    from skild_phys.simulation.bench import Result, Speed
    from skild_phys.simulation.timing import Load, Scaling, Tau, Timing

_WIDTH = 160  # of a table that goes to a file
_CLEARLY = 1.2  # times as many independent configurations as the default makes
_AGREES = 4.0  # standard errors from the exact energy that are no reason to doubt


@click.group()
def command() -> None:
    """Measure speed on this machine.

    \b
    skild-phys bench simulate
    skild-phys bench refine
    skild-phys bench measure
    """


command.add_command(bench_refine.command, "refine")
command.add_command(bench_measure.command, "measure")


@command.command()
@click.option(
    "--L", "side", default="256", show_default=True, help="Side of the lattice, or 256x128."
)
@click.option(
    "--T", "temperature", default="Tc", show_default=True, help="J/k_B: a number, Tc or 1.05Tc."
)
@click.option(
    "--model", default="ising2d", show_default=True, help="ising2d, ising3d, potts2 .. potts8."
)
@click.option("--runs", type=int, default=5, show_default=True, help="Runs, of which the median.")
@click.option("--seconds", type=float, default=0.5, show_default=True, help="Length of a run.")
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Measure mcising and peapods too."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@json_option
def simulate(
    side: str,
    temperature: str,
    model: str,
    runs: int,
    seconds: float,
    peers: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Time every update of a model on one thread, the default on several, and other packages.

    Also measures autocorrelation times: an algorithm is worth the independent configurations it
    makes a second, 1 / (2 tau_int t), t the time of an update, with the larger tau_int of energy
    and M^2. Lattices are in equilibrium before anything is timed.

    \b
    skild-phys bench simulate
    skild-phys bench simulate --model ising3d --L 64 --no-peers --json
    """
    from skild_phys.models import get_model, parse_temperature
    from skild_phys.simulation.bench import Setting, bench, load_kernels, steps
    from skild_phys.simulation.spec import parse_shape

    known = get_model(model)
    setting = Setting(
        model,
        parse_shape(side, known),
        parse_temperature(temperature, known),
        runs=runs,
        seconds=seconds,
        seed=seed,
    )
    with announced("compiling the kernels (first run only) ..."):
        loads = load_kernels(setting)
    done = 0
    with progress_bar("measuring", steps(setting, peers)) as advance:

        def note(text: str) -> None:
            nonlocal done
            advance(min(done, 1), text)
            done += 1

        result = bench(setting, loads, with_peers=peers, note=note)
        advance(1)
    if as_json:
        say(json.dumps(_plain(result), allow_nan=False))
    else:
        _print(result)


def _plain(result: Result) -> dict[str, Any]:
    """Return a result as what JSON can hold; tau is in updates of one lattice."""
    setting = result.setting
    return {
        "model": setting.model,
        "shape": list(setting.shape),
        "temperature": setting.temperature,
        "runs": setting.runs,
        "seconds": setting.seconds,
        "seed": setting.seed,
        "cores": os.cpu_count(),
        "default": setting.default,
        "fastest": result.fastest,
        "cluster_size": result.cluster_size,
        "algorithms": [_plain_speed(speed) for speed in result.speeds],
        "threads": [
            {
                "algorithm": setting.default,
                "threads": scaling.threads,
                **_plain_timing("samples_per_second", scaling.rate),
                **_plain_timing("speedup", scaling.speedup),
            }
            for scaling in result.scaling
        ],
        "peers": [_plain_speed(speed) | _plain_peer(speed) for speed in result.peers],
        "peers_missing": result.missing,
    }


def _plain_timing(name: str, timing: Timing) -> dict[str, Any]:
    return {name: timing.median, f"{name}_runs": list(timing.runs)}


def _plain_speed(speed: Speed) -> dict[str, Any]:
    plain = {
        "algorithm": speed.algorithm,
        "work": speed.work,
        **_plain_timing("nanoseconds", speed.nanoseconds),
        "update_seconds": speed.update_seconds,
        "independent_per_second": speed.independent,
    }
    if speed.load is not None:
        plain |= {"load_seconds": speed.load.seconds, "compiled": speed.load.compiled}
    if speed.tau is not None:
        plain |= {
            "tau_energy": speed.tau.time[0],
            "tau_energy_error": speed.tau.error[0],
            "tau_magnetization_squared": speed.tau.time[1],
            "tau_magnetization_squared_error": speed.tau.error[1],
            "tau_shape": list(speed.tau.shape),
            "tau_factor": speed.tau.factor,
        }
    return plain


def _plain_peer(speed: Speed) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "package": speed.package,
        "version": speed.version,
        "own_cluster_size": speed.own_cluster_size,
    }
    if speed.check is not None:
        plain["check"] = {**vars(speed.check), "deviation_sigma": speed.check.sigmas}
    return plain


def _print(result: Result) -> None:
    setting = result.setting
    shape = " x ".join(map(str, setting.shape))
    say(
        f"{setting.model} {shape} at T = {setting.temperature:.6g}, one thread, "
        f"median of {setting.runs} runs of about {setting.seconds:g} s\n"
    )
    show(_table(result), _WIDTH)
    for line in _scaling(result.scaling, setting.default):
        say(line)
    for line in _footnotes(result):
        say(f"  {line}")


def _table(result: Result) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "per", "ns", "min .. max", "first call", "tau E", "tau M^2", "independent/s"):
        table.add_column(name, justify="left" if name in ("", "per") else "right", no_wrap=True)
    table.add_column("")
    for speed in [*result.speeds, *result.peers]:
        own = speed.load is not None
        table.add_row(
            speed.algorithm if own else f"{speed.package} {speed.version} {speed.algorithm}",
            speed.work,
            _short(speed.nanoseconds.median),
            _range(speed.nanoseconds),
            _first_call(speed.load),
            *(_times(speed.tau) if own else ("", "")),
            _rate(speed),
            "<- auto" if own and speed.algorithm == result.setting.default else "",
        )
    return table


def _range(timing: Timing) -> str:
    return f"{_short(min(timing.runs))} .. {_short(max(timing.runs))}"


def _short(value: float) -> str:
    """Return three digits, without an exponent where a number has more before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def _first_call(load: Load | None) -> str:
    if load is None:
        return ""
    return f"{load.seconds:.2g} s ({'compiled' if load.compiled else 'cached'})"


def _times(tau: Tau | None) -> tuple[str, str]:
    """Return tau of E and of M^2 in updates; ~ marks what was scaled up."""
    from skild_phys.measurement.report import with_error

    if tau is None:
        return "", ""
    if tau.factor != 1.0:
        return f"~{_short(tau.time[0])}", f"~{_short(tau.time[1])}"
    return with_error(tau.time[0], tau.error[0]), with_error(tau.time[1], tau.error[1])


def _rate(speed: Speed) -> str:
    if speed.independent is None or speed.tau is None:
        return ""
    return ("~" if speed.tau.factor != 1.0 else "") + _short(speed.independent)


def _scaling(scaling: list[Scaling], algorithm: str) -> Iterator[str]:
    """Yield the lines on threads."""
    yield f"\nsamples two autocorrelation times apart, {algorithm}:"
    for found in scaling:
        line = f"  {found.threads} thread{'s' if found.threads > 1 else ''}  "
        line += f"{_short(found.rate.median)}/s ({_range(found.rate)})"
        if found.threads > 1:
            line += f", {found.speedup.median:.2f}x of one ({_range(found.speedup)})"
        yield line
    yield ""


def _footnotes(result: Result) -> Iterator[str]:
    setting = result.setting
    rates = {speed.algorithm: speed.independent or 0.0 for speed in result.speeds}
    if rates[result.fastest] > _CLEARLY * rates[setting.default]:
        yield f"auto picks {setting.default}, but {result.fastest} is the fastest here"
    yield f"a Wolff cluster has {_short(result.cluster_size)} spins on average; tau is in updates"
    for speed in result.speeds:
        if speed.tau is not None and speed.tau.factor != 1.0:
            small = " x ".join(map(str, speed.tau.shape))
            yield (
                f"~ tau measured on {small}, times {speed.tau.factor:.3g}: it grows as L^2.17, "
                "up to the correlation length"
            )
            break
    if any(algorithm.local for algorithm in setting.algorithms):
        yield "the sign of M, which E and M^2 do not see, lasts longer under single-site updates"
    else:
        yield "single-site updates need even sides"
    yield from _peer_notes(result)


def _peer_notes(result: Result) -> Iterator[str]:
    if result.peers:
        yield "independent/s of other packages: with the tau measured here"
    for package in dict.fromkeys(speed.package for speed in result.peers):
        speeds = [speed for speed in result.peers if speed.package == package]
        if any(speed.own_cluster_size for speed in speeds):
            yield f"{package} does not say how large its clusters are; taken as large as ours"
        checks = {s.algorithm: s.check for s in speeds if s.check is not None}
        for algorithm, check in checks.items():
            if abs(check.sigmas) > _AGREES:
                yield (
                    f"{package} {algorithm}: energy {check.energy:.5f} +- {check.error:.5f} at "
                    f"L = {check.side}, exact {check.exact:.5f} ({check.sigmas:+.1f} sigma)"
                )
        agree = [n for n, check in checks.items() if abs(check.sigmas) <= _AGREES]
        if agree:
            side = next(iter(checks.values())).side
            yield f"{package} {', '.join(agree)}: energy at L = {side} agrees with Kaufman's"
    for package, reason in result.missing.items():
        yield f"{package} {reason}"
