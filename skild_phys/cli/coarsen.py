"""`skild-phys coarsen`: a coarse store from a fine one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import (
    answer,
    interruptible,
    json_option,
    output_option,
    overwrite_option,
    progress_bar,
    provenance,
    warn_of,
)
from skild_phys.cli.outputs import beside, fill
from skild_phys.files import check_output

if TYPE_CHECKING:
    from skild_phys.store import LatticeStore


@click.command()
@click.argument("fine", type=click.Path(path_type=Path))
@click.option(
    "--factor", type=int, default=4, show_default=True, help="Side of a block; divides the lattice."
)
@output_option
@click.option(
    "--rule",
    default="block_mean",
    show_default=True,
    help="block_mean, majority, decimate or spectral.",
)
@click.option(
    "--tie-seed", type=int, help="Coins of majority's ties.  [default: those of FINE, or 0]"
)
@overwrite_option
@json_option
def command(
    fine: Path,
    factor: int,
    output: Path | None,
    rule: str,
    tie_seed: int | None,
    overwrite: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Coarse-grain every lattice of FINE.

    Rules: block_mean keeps the exact sum of each block; majority its sign, ties to a fair coin
    that --tie-seed names (a refined FINE has the coins of its ancestor); decimate the spin at
    each block's corner; spectral the modes inside the coarse box (2D only). Of Potts states,
    block_mean counts how many sites of a block are in each, majority keeps the commonest; real
    fields have block means, decimated values and modes. FINE is a store, or any .npy file or Zarr
    array (n, [z,] y, x). Run again, the same command goes on with an unfinished store.

    \b
    skild-phys coarsen fine.zarr
    skild-phys coarsen fine.zarr --factor 2 --rule majority -o signs.zarr
    """
    from skild_phys.rules import get_rule
    from skild_phys.simulation.coarsening import coarsen_store
    from skild_phys.store import open_lattices

    chosen = get_rule(rule)
    source = open_lattices(fine)
    warn_of([source])

    def write(path: Path) -> LatticeStore:
        # An output that exists may be one to go on with; the store itself decides.
        check_output(path, overwrite=True, inputs=[fine])
        with progress_bar("coarsening", source.n_samples) as advance, interruptible() as stop:
            return coarsen_store(
                source,
                path,
                rule,
                factor,
                tie_seed=tie_seed,
                overwrite=overwrite,
                attrs=provenance(),
                stop=stop,
                progress=advance,
            )

    kind = chosen.suffix or chosen.name
    output, store = fill(output, beside(fine, f"{kind}-x{factor}"), write)
    result = {
        "path": str(output),
        "samples": store.n_samples,
        "rule": rule,
        "factor": factor,
        "shape": list(store.shape),
    }
    before, after = (" x ".join(map(str, shape)) for shape in (source.shape, store.shape))
    text = f"{store.n_samples} lattices, {before} to {after} by {rule}"
    return answer(result, text, as_json, output)
