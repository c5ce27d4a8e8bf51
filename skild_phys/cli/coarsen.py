"""`skild-phys coarsen`: a coarse store from a fine one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skild_phys.cli import options as cli
from skild_phys.runner import Run


@click.command()
@click.argument("fine", type=cli.PATH)
@click.option(
    "--factor", type=int, default=4, show_default=True, help="Side of a block; divides the sides."
)
@cli.output_option()
@click.option(
    "--rule", help="block_mean, majority, decimate, spectral, or your own.  [default: block_mean]"
)
@click.option(
    "--tie-seed", type=int, help="Seed of majority's tie-breaks.  [default: that of FINE, or 0]"
)
@cli.result_options("threads chunk overwrite dask")
def command(
    fine: Path, factor: int, output: Path | None, rule: str | None, tie_seed: int | None, run: Run
) -> dict[str, Any]:
    """Coarse-grain every configuration of FINE.

    Rules: block_mean keeps the exact sum of each block; majority its sign, ties by a fair tie-break
    that --tie-seed names (a refined FINE has the tie-breaks of its ancestor); decimate the spin at
    each block's corner; spectral the Fourier modes inside the coarse box. For Potts states,
    block_mean counts how many sites of a block are in each, majority keeps the commonest; real
    fields have block means, decimated values and Fourier modes. FINE is a store, or any .npy file
    or Zarr array (n, [z,] y, x). Run again, the same command resumes an unfinished store.

    \b
    skild-phys coarsen fine.zarr
    skild-phys coarsen fine.zarr --factor 2 --rule majority -o signs.zarr
    """
    from skild_phys.rules import get_rule
    from skild_phys.simulation.coarsening import coarsen
    from skild_phys.store import open_lattices

    chosen = get_rule(rule)
    source = open_lattices(fine)
    cli.warn_of([source])
    kind = chosen.suffix or chosen.name
    output, filled = cli.stored(
        "coarsening", source.n_samples, output, cli.beside(fine, f"{kind}-x{factor}"),
        lambda path, run: coarsen(source, path, chosen, factor, run, tie_seed=tie_seed),
        run, inputs=[fine],
    )  # fmt: skip
    n, shape = filled.lattices.n_samples, filled.lattices.shape
    found = {"path": str(output), "samples": n, "rule": chosen.name, "factor": factor}
    text = f"{n} configurations, {cli.times(source.shape)} to {cli.times(shape)} by {chosen.name}"
    return cli.answer(found | {"shape": list(shape)}, text, output)
