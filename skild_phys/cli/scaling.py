"""`skild-phys scaling`: Tc and exponents from stores of several sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import announced, progress_bar, say, show
from skild_phys.errors import BadInput, warn
from skild_phys.files import whole_directory, write_text_atomically
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.measurement.scaling import Scaling


@click.command()
@click.argument("stores", nargs=-1, required=True, type=cli.PATH)
@cli.output_option("Directory for the figure, a CSV of all curves and exponents, and JSON.")
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
    "--omega", help="Add fits with corrections L^-OMEGA (such as 1.75), or 'fit' to fit omega."
)
@cli.result_options("threads overwrite")
def command(
    stores: tuple[Path, ...],
    output: Path | None,
    bins: int,
    window: float | None,
    omega: str | None,
    run: Run,
) -> dict[str, Any]:
    """Find Tc and the exponents by finite-size scaling of stores of two sizes or more.

    Each size is reweighted around the temperatures it was simulated at (several of a size are
    joined). xi/L and the Binder cumulant U4 of two sizes cross near Tc. Where U4 has one value for
    all sizes, slopes of both give nu, chi and S(k) eta and gamma/nu, abs(m) beta/nu and the
    specific heat alpha/nu; and curves are collapsed in a window around Tc. A few thousand samples
    of each size, near Tc, are needed. Every fit has its chi^2; poor ones (p < 0.01) get a warning.
    Exponents are also given without the smallest sizes: where they drift, corrections to scaling
    matter, which --omega fits.

    \b
    for L in 32 64 128; do skild-phys simulate --L $L --T Tc -n 8000 -o L$L.zarr; done
    skild-phys scaling L32.zarr L64.zarr L128.zarr -o scaling/
    """
    import pandas as pd

    from skild_phys.measurement.scaling import scaling
    from skild_phys.plots.measurement import scaling_figure
    from skild_phys.plots.style import save_figure
    from skild_phys.store import open_lattices

    opened = [open_lattices(path) for path in stores]
    cli.warn_of(opened)
    if output is not None:
        if output.suffix:
            raise BadInput("output", str(output), "a directory")
        cli.claim_output(output, overwrite=run.overwrite, inputs=stores, directory=True)
    with progress_bar("measuring", sum(s.n_samples for s in opened)) as advance:
        found = scaling(
            opened, bins=bins, window=window, omega=_omega(omega),
            threads=run.cores, progress=advance,
        )  # fmt: skip
    if output is not None:
        with announced("drawing ..."), whole_directory(output) as folder:
            lines = [
                {"L": curve.side, "temperature": t, "observable": name, "value": v, "err": error}
                for curve in found.curves
                for name, values in curve.values.items()
                for t, v, error in zip(curve.temperature, values[0], curve.error(name))
            ]
            write_text_atomically(folder / "scaling.csv", pd.DataFrame(lines).to_csv(index=False))
            text = json.dumps(found.summary(), indent=1, allow_nan=False)
            write_text_atomically(folder / "scaling.json", f"{text}\n")
            save_figure(scaling_figure(found), folder / "scaling")
    for text in found.warnings():
        warn(text)
    figure = None if output is None else output / "scaling.png"
    return cli.answer(found.summary(), lambda: _print(found), figure)


def _omega(text: str | None) -> float | str | None:
    if text is None or text == "fit":
        return text
    try:
        return float(text)
    except ValueError:
        raise BadInput("omega", text, "a positive number, or fit") from None


def _print(found: Scaling) -> None:
    from skild_phys.measurement.scaling import NAMES, POOR
    from skild_phys.measurement.tables import with_error

    for curve in found.curves:
        low, high = curve.temperature[0], curve.temperature[-1]
        say(
            f"{found.model}, L = {curve.side}: {curve.samples} configurations, reweighted "
            f"between T = {low:.5g} and {high:.5g}"
        )

    def shown(*numbers: Any) -> list[str]:
        texts = (n and (with_error(n.value, n.error) or "no crossing in reach") for n in numbers)
        return [text or "" for text in texts]

    def judged(fit: Any) -> list[str]:
        q = fit.quality
        poor = "  poor" if q.p < POOR else ""
        return [f"{q.chi2:.2g} / {q.dof}", f"{q.p:.2g}{poor}"] if q.dof else ["", ""]

    quality = ("omega", "chi^2 / dof", "p")
    crossings = [
        [NAMES[c.observable], " and ".join(map(str, c.sides)), *shown(c.temperature, c.height)]
        for c in found.crossings
    ]
    exponents = [[e.name, e.source, *shown(e.number, e.omega), *judged(e)] for e in found.exponents]
    collapses = [
        [
            NAMES[c.observable], f"{c.window:g}", *shown(c.temperature, c.nu, c.eta, c.omega),
            *judged(c),
        ]
        for c in found.collapses
    ]  # fmt: skip
    for headings, lines, left in (
        (("crossing of", "L", "T (J / k_B)", "height"), crossings, 2),
        (("exponent", "from", "value", *quality), exponents, 2),
        (("collapse of", "window", "T (J / k_B)", "nu", "eta", *quality), collapses, 1),
    ):
        say("")
        show(headings, lines, left=left)
    known = ", ".join(f"{n} = {v:.7g}" for n, v in found.published.items())
    say(f"\npublished: {known.replace('temperature', 'Tc')}")
