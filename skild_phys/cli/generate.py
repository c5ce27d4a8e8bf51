"""`skild-phys generate`: configurations from noise, or from the forward marginal of a truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skild_phys.cli import options as cli
from skild_phys.errors import BadInput
from skild_phys.methods import SKILD, weights_of
from skild_phys.runner import Run
from skild_phys.skild.chain import Chain


@click.command()
@click.option("--L", "side", type=int, help="Side of squares, or of cubes.")
@click.option("--shape", help="Sides instead of --L, such as 96x128.")
@click.option("--samples", "-n", type=int, help="Configurations.  [default: 100; with --truth all]")
@cli.output_option()
@cli.options_from(Chain, into="chain")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every stream.")
@cli.options_from(SKILD, only=["checkpoint"])
@click.option(
    "--truth",
    type=cli.PATH,
    help="The paper's protocol: start from these configurations, erased and noised as for"
    " --factor.",
)
@click.option("--factor", type=int, help="With --truth: where a refinement by it would start.")
@click.option("--split", help="With --truth of images: train or test.  [default: all of them]")
@cli.result_options()
def command(
    side: int | None, shape: str | None, checkpoint: Path | None, truth: Path | None,
    output: Path | None, chain: Chain, run: Run, **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Generate configurations with the weights that `refine` uses: its process, another start.

    From noise a chain starts on the coarsest grid, where no mode is left, and goes on to finer
    ones: any size, by one network. At aspect ratios beyond those that the weights were trained on
    (the shipped ones: 1 and 2) the longest waves are biased: a warning is printed and stored.
    Weights with a schedule of lambda have one grid, and warn of every other size.

    With --truth and --factor each chain starts from the forward marginal of one true configuration,
    as in the paper. That start holds more of the truth than any coarse configuration does: it is
    for evaluation.

    \b
    skild-phys generate --L 64
    skild-phys generate --truth fine.zarr --factor 4 -o marginal.zarr
    """
    from skild_phys.skild.generate import Generation
    from skild_phys.skild.weights import shipped_weights

    if side is not None and shape is not None:
        raise BadInput("L", side, "a side, or --shape")
    weights = weights_of(checkpoint)
    size = side if shape is None else cli.parse_sides("shape", shape, 2, weights.dimension)
    what = Generation(weights, chain, L=size, truth=truth, **given)
    n, sides = what.n_samples, what.shape
    if truth is None:
        name = (checkpoint or shipped_weights()).stem
        default = Path(f"{name}-{cli.shape_name(sides)}-generated.zarr")
    else:
        factor = given["factor"]
        default = cli.beside(truth, f"generated-x{factor}" if factor else "generated")
    inputs = [] if truth is None else [truth]
    output, (filled, minded) = cli.stored(
        "generating", n, output, default, what.run, run, "torch", inputs=inputs
    )
    each = filled.each
    pace = "was complete already" if each is None else f"{each:.3g} s per configuration"
    found = {
        "path": str(output), "samples": n, "generated": filled.made, "seconds": filled.seconds,
        "warnings": minded, "seconds_per_lattice": each,
    }  # fmt: skip
    return cli.answer(found, f"{n} configurations of {cli.times(sides)}, {pace}", output)
