"""`skild-phys spectrum`: the power spectrum of a store or array, as the process takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skild_phys.cli import options as cli
from skild_phys.errors import BadInput
from skild_phys.files import write_bytes_atomically
from skild_phys.runner import Run


@click.command()
@click.argument("store", type=cli.PATH)
@click.option(
    "--kind",
    default="radial",
    show_default=True,
    help="radial, torus (with factors of the longest wavelengths), power_law (the paper's fit) or"
    " modes (each on its own, one size).",
)
@click.option("--basis", help="dft (torus) or dct (open edges).  [default: dft, of images dct]")
@cli.output_option("Figure: FILE.png or FILE.pdf.")
@cli.result_options("overwrite")
def command(
    store: Path, kind: str, basis: str | None, output: Path | None, run: Run
) -> dict[str, Any]:
    """Measure P(kappa) = E|X|^2 of STORE and fit it, as `train` does.

    STORE is a store of this program, or any .npy or Zarr array (n, y, x). Of images it is the mean
    over channels, intensities being -1 to 1, and of the images to train on where they are split.
    kappa is in radians per site; standard errors are those of independent samples. The fit is the
    `spectrum` of a recipe; --json prints it whole.

    \b
    skild-phys spectrum fine.zarr
    skild-phys spectrum fine.zarr --kind power_law -o spectrum.png
    """
    from skild_phys.measurement.tables import to_plain
    from skild_phys.plots.measurement import spectrum_figure
    from skild_phys.plots.style import figure_bytes
    from skild_phys.skild.measured import SpectrumFit
    from skild_phys.store import open_lattices

    if output is not None:
        if output.suffix not in (".png", ".pdf"):
            raise BadInput("output", str(output), "FILE.png or FILE.pdf")
        cli.claim_output(output, overwrite=run.overwrite, inputs=[store])
    lattices = open_lattices(store, "field")
    cli.warn_of([lattices])
    found = SpectrumFit.of(lattices, kind, basis)
    if output is not None:
        figure = spectrum_figure(found.shells, found.values, kind)
        write_bytes_atomically(output, figure_bytes(figure, output.suffix[1:]))
    sides = cli.times(lattices.shape)
    head = f"{store}  {found.shells.n} configurations of {sides}, basis {found.shells.basis.name}"
    text = [head, found.text(), *([] if output is None else [f"figure: {output}"])]
    return cli.answer(to_plain(found.record()), "\n".join(text))
