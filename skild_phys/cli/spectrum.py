"""`skild-phys spectrum`: the power spectrum of a store or array, as the process takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from skild_phys.cli.options import claim_output, json_option, overwrite_option, warn_of
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput
from skild_phys.files import write_bytes_atomically

if TYPE_CHECKING:
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import Lattices

ROWS = 12


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    default="radial",
    show_default=True,
    help="radial, power_law (the paper's fit) or modes (each on its own, one lattice size).",
)
@click.option("--basis", help="dft (torus) or dct (open edges).  [default: dft, of images dct]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Figure: FILE.png or FILE.pdf."
)
@overwrite_option
@json_option
def command(
    store: Path, kind: str, basis: str | None, output: Path | None, overwrite: bool, as_json: bool
) -> None:
    """Measure P(kappa) = E|X|^2 of STORE and fit it, as `train` does.

    STORE is a store of this program, or any .npy or Zarr array (n, y, x). Of images it is the mean
    over channels, intensities being -1 to 1, and of the images to train on where they are split.
    kappa is in radians per
    site; errors are those of independent lattices. The fit is the `spectrum` of a recipe; --json
    prints it whole.

    \b
    skild-phys spectrum fine.zarr
    skild-phys spectrum fine.zarr --kind power_law -o spectrum.png
    """
    from skild_phys.plots import figure_bytes, spectrum_figure
    from skild_phys.skild.measured import fit_spectrum, measure_shells
    from skild_phys.skild.spectrum import make_basis

    lattices = _open(store)
    shape = (lattices.shape[0], lattices.shape[1])
    if shape == (1, 1):
        raise BadInput("STORE", str(store), "lattices of two sites or more")
    basis = basis or ("dct" if lattices.channels else "dft")
    modes = make_basis(basis, shape)
    if output is not None:
        if output.suffix not in (".png", ".pdf"):
            raise BadInput("-o", str(output), "FILE.png or FILE.pdf")
        claim_output(output, overwrite=overwrite, inputs=[store])
    batches = (
        lattices.read(*span).astype(np.float64) * lattices.scale for span in lattices.batches()
    )
    measured = measure_shells(batches, modes)
    fitted = fit_spectrum(measured.power, modes, kind)
    values = measured.over_shells(fitted.variances(modes))
    if output is not None:
        figure = spectrum_figure(measured, values, kind)
        write_bytes_atomically(output, figure_bytes(figure, output.suffix[1:]))
    if as_json:
        answer = {"lattices": measured.n, "basis": basis, "spectrum": fitted.record()}
        shells = {
            "kappa": measured.kappa.tolist(),
            "power": measured.mean.tolist(),
            "power_err": measured.error.tolist(),
            "fit": values.tolist(),
        }
        say(json.dumps(answer | {"shells": shells}))
        return
    say(f"{store}  {measured.n} lattices of {shape[0]} x {shape[1]}, basis {basis}")
    say(f"{'kappa':>9}  {'P':>11}  {'error':>9}  {kind:>11}")
    chosen = np.unique(np.linspace(0, measured.kappa.size - 1, ROWS).round().astype(int))
    for i in chosen:
        say(
            f"{measured.kappa[i]:9.4f}  {measured.mean[i]:11.5g}  {measured.error[i]:9.2g}"
            f"  {values[i]:11.5g}"
        )
    if kind == "power_law":
        record = fitted.record()
        say("P = {amplitude:.5g} (kappa^2 + {k0_squared:.4g})^-{alpha:.5g}".format(**record))
    if output is not None:
        say(f"figure: {output}")


def _open(path: Path) -> Lattices | ImageLattices:
    """Return lattices that have a 2D spectrum; raises BadInput for others."""
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import open_lattices

    lattices = open_lattices(path, "field")
    warn_of([lattices])
    if lattices.field == "image":
        return ImageLattices(lattices, "train" if lattices.has("split") else None)
    if lattices.q or len(lattices.shape) != 2:
        raise BadInput("STORE", str(path), "2D lattices of numbers")
    return lattices
