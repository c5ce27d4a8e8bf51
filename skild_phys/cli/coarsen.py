"""`skild-phys coarsen`: a coarse store from a fine one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skild_phys.cli.options import (
    answer,
    json_option,
    options_from,
    output_option,
    stored,
    warn_of,
)
from skild_phys.cli.outputs import beside
from skild_phys.runner import Run


@click.command()
@click.argument("fine", type=click.Path(path_type=Path))
@click.option(
    "--factor", type=int, default=4, show_default=True, help="Side of a block; divides the lattice."
)
@output_option
@click.option(
    "--rule",
    help="block_mean, majority, decimate, spectral, or your own.  [default: block_mean]",
)
@click.option(
    "--tie-seed", type=int, help="Of majority's tie-breaks.  [default: those of FINE, or 0]"
)
@options_from(Run, skip=("device",))
@json_option
def command(
    fine: Path,
    factor: int,
    output: Path | None,
    rule: str | None,
    tie_seed: int | None,
    as_json: bool,
    **given: Any,
) -> dict[str, Any]:
    """Coarse-grain every lattice of FINE.

    Rules: block_mean keeps the exact sum of each block; majority its sign, ties by a fair tie-break
    that --tie-seed names (a refined FINE has the tie-breaks of its ancestor); decimate the spin at
    each block's corner; spectral the modes inside the coarse box. Of Potts states, block_mean
    counts how many sites of a block are in each, majority keeps the commonest; real fields have
    block means, decimated values and modes. FINE is a store, or any .npy file or Zarr array
    (n, [z,] y, x). Run again, the same command resumes an unfinished store.

    \b
    skild-phys coarsen fine.zarr
    skild-phys coarsen fine.zarr --factor 2 --rule majority -o signs.zarr
    """
    from skild_phys.rules import get_rule
    from skild_phys.simulation.coarsening import coarsen
    from skild_phys.store import open_lattices

    chosen = get_rule(rule)
    source = open_lattices(fine)
    warn_of([source])
    kind = chosen.suffix or chosen.name
    output, filled = stored(
        "coarsening", source.n_samples, output, beside(fine, f"{kind}-x{factor}"),
        lambda path, run: coarsen(source, path, chosen, factor, run, tie_seed=tie_seed),
        given, inputs=[fine],
    )  # fmt: skip
    store = filled.lattices
    result = {
        "path": str(output),
        "samples": store.n_samples,
        "rule": chosen.name,
        "factor": factor,
        "shape": list(store.shape),
    }
    before, after = (" x ".join(map(str, shape)) for shape in (source.shape, store.shape))
    text = f"{store.n_samples} lattices, {before} to {after} by {chosen.name}"
    return answer(result, text, as_json, output)
