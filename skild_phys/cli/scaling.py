"""`skild-phys scaling`: Tc and exponents from stores of several sizes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import (
    announced,
    check_threads,
    claim_output,
    json_option,
    overwrite_option,
    progress_bar,
    threads_option,
    warn,
    warn_of,
)
from skild_phys.cli.terminal import say, show
from skild_phys.errors import BadInput
from skild_phys.files import whole_directory, write_text_atomically

if TYPE_CHECKING:
    from skild_phys.measurement.scaling import Number, Omega, Quality, Scaling

FIGURE, TABLE, JSON = "scaling", "scaling.csv", "scaling.json"


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Directory for the figure, a CSV of all curves and exponents, and JSON.",
)
@click.option(
    "--bins", type=int, default=40, show_default=True, help="Jackknife bins of each size."
)
@click.option(
    "--window",
    type=float,
    help="Largest abs(T / Tc - 1) L^(1/nu) of the points of a collapse.  [default: the widest of "
    "1, 0.7, 0.5, 0.35 with p >= 0.1]",
)
@click.option(
    "--omega",
    help="Add fits with corrections L^-OMEGA (such as 1.75), or 'fit' to fit omega.",
)
@threads_option
@overwrite_option
@json_option
def command(
    stores: tuple[Path, ...],
    output: Path | None,
    bins: int,
    window: float | None,
    omega: str | None,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find Tc and the exponents by finite-size scaling of stores of two sizes or more.

    Each size is reweighted around the temperatures it was simulated at (several of a size are
    joined). xi/L and the Binder cumulant U4 of two sizes cross near Tc. Where U4 has one value for
    all sizes, slopes of both give nu, chi and S(k) eta and gamma/nu, abs(m) beta/nu and the
    specific heat alpha/nu; and curves are collapsed in a window around Tc. A few thousand lattices
    of each size, near Tc, are needed. Every fit has its chi^2; poor ones (p < 0.01) get a warning.
    Exponents are also given without the smallest sizes: where they drift, corrections to scaling
    matter, which --omega fits.

    \b
    for L in 32 64 128; do skild-phys simulate --L $L --T Tc -n 8000 -o L$L.zarr; done
    skild-phys scaling L32.zarr L64.zarr L128.zarr -o scaling/
    """
    from skild_phys.measurement.scaling import scaling
    from skild_phys.store import open_lattices

    opened = [open_lattices(path) for path in stores]
    warn_of(opened)
    if output is not None:
        if output.suffix:
            raise BadInput("-o", str(output), "a directory")
        claim_output(output, overwrite=overwrite, inputs=stores, directory=True)
    with progress_bar("measuring", sum(s.n_samples for s in opened)) as advance:
        found = scaling(
            opened, bins=bins, window=window, omega=_omega(omega),
            threads=check_threads(threads), progress=advance,
        )  # fmt: skip
    if output is not None:
        with announced("drawing ..."), whole_directory(output) as folder:
            _write(found, folder)
    warn(found.warnings())
    if as_json:
        say(json.dumps(as_plain(found), allow_nan=False))
    else:
        _print(found)
        if output is not None:
            say(str(output / f"{FIGURE}.png"))


def _omega(text: str | None) -> Omega:
    if text is None or text == "fit":
        return text
    try:
        return float(text)
    except ValueError:
        raise BadInput("--omega", text, "a positive number, or fit") from None


def _number(number: Number | None) -> dict[str, float | None]:
    from skild_phys.measurement.report import to_plain

    plain: dict[str, float | None] = to_plain(
        {"value": number.value, "error": number.error} if number else {}
    )
    return plain


def as_plain(found: Scaling) -> dict[str, Any]:
    """Return the analysis in plain types."""
    from skild_phys.measurement.report import to_plain

    plain: dict[str, Any] = to_plain(
        {
            "model": found.model,
            "sizes": [
                {
                    "L": curve.side,
                    "lattices": curve.samples,
                    "simulated": list(curve.simulated),
                    "reach": [curve.temperature[0], curve.temperature[-1]],
                }
                for curve in found.curves
            ],
            "temperature": _number(found.temperature),
            "published": found.published,
            "level": found.level,
            "crossings": [
                {
                    "observable": c.observable,
                    "L": list(c.sides),
                    "temperature": _number(c.temperature),
                    "height": _number(c.height),
                }
                for c in found.crossings
            ],
            "exponents": [
                {
                    "name": e.name,
                    "source": e.source,
                    **_number(e.number),
                    **asdict(e.quality),
                    "omega": _number(e.omega),
                }
                for e in found.exponents
            ],
            "collapses": [
                {
                    "observable": c.observable,
                    "temperature": _number(c.temperature),
                    "nu": _number(c.nu),
                    "eta": _number(c.eta),
                    "window": c.window,
                    **asdict(c.quality),
                    "omega": _number(c.omega),
                }
                for c in found.collapses
            ],
            "warnings": found.warnings(),
        }
    )
    return plain


def _write(found: Scaling, output: Path) -> None:
    import pandas as pd

    from skild_phys.plots import save_figure, scaling_figure

    lines = [
        {
            "L": curve.side,
            "temperature": t,
            "observable": name,
            "value": values[0, i],
            "err": error,
        }
        for curve in found.curves
        for name, values in curve.values.items()
        for i, (t, error) in enumerate(zip(curve.temperature, curve.error(name)))
    ]
    write_text_atomically(output / TABLE, pd.DataFrame(lines).to_csv(index=False))
    text = json.dumps(as_plain(found), indent=1, allow_nan=False)
    write_text_atomically(output / JSON, f"{text}\n")
    save_figure(scaling_figure(found), output / FIGURE)


def _print(found: Scaling) -> None:
    from rich.table import Table

    from skild_phys.measurement.report import with_error
    from skild_phys.measurement.scaling import NAMES, POOR

    for curve in found.curves:
        low, high = curve.temperature[0], curve.temperature[-1]
        say(
            f"{found.model}, L = {curve.side}: {curve.samples} lattices, reweighted "
            f"between T = {low:.5g} and {high:.5g}"
        )

    def shown(number: Number | None) -> str:
        if number is None:
            return ""
        return with_error(number.value, number.error) or "no crossing in reach"

    def judged(quality: Quality) -> tuple[str, str]:
        if not quality.dof:
            return "", ""
        poor = "  poor" if quality.p < POOR else ""
        return f"{quality.chi2:.2g} / {quality.dof}", f"{quality.p:.2g}{poor}"

    def table(*headings: str, left: int) -> Table:
        made = Table(*headings[:left], box=None, pad_edge=False)
        for heading in headings[left:]:
            made.add_column(heading, justify="right")
        return made

    quality = ("omega", "chi^2 / dof", "p")
    crossings = table("crossing of", "L", "T (J / k_B)", "height", left=2)
    for c in found.crossings:
        sides = " and ".join(map(str, c.sides))
        crossings.add_row(NAMES[c.observable], sides, shown(c.temperature), shown(c.height))
    exponents = table("exponent", "from", "value", *quality, left=2)
    for e in found.exponents:
        exponents.add_row(e.name, e.source, shown(e.number), shown(e.omega), *judged(e.quality))
    collapses = table("collapse of", "window", "T (J / k_B)", "nu", "eta", *quality, left=1)
    for one in found.collapses:
        numbers = map(shown, (one.temperature, one.nu, one.eta, one.omega))
        name = NAMES[one.observable]
        collapses.add_row(name, f"{one.window:g}", *numbers, *judged(one.quality))
    for part in (crossings, exponents, collapses):
        say("")
        show(part, 120)
    known = ", ".join(
        f"{'Tc' if name == 'temperature' else name} = {value:.7g}"
        for name, value in found.published.items()
    )
    say(f"\npublished: {known}")
