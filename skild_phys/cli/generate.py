"""`skild-phys generate`: lattices from noise, or from the forward marginal of a truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from skild_phys.cli.options import (
    answer,
    json_option,
    options_from,
    output_option,
    parse_sides,
    stored,
)
from skild_phys.cli.outputs import beside, shape_name
from skild_phys.errors import BadInput
from skild_phys.methods import SKILD, weights_of
from skild_phys.runner import Run
from skild_phys.skild.chain import Chain


@click.command()
@click.option("--L", "side", type=int, help="Side of square lattices.")
@click.option("--shape", help="LYxLX instead of --L, such as 96x128.")
@click.option("--samples", "-n", type=int, help="Lattices.  [default: 100; with --truth all]")
@output_option
@options_from(Chain)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every stream.")
@options_from(SKILD, only=["checkpoint"])
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="The paper's protocol: start from these lattices, erased and noised as --factor says.",
)
@click.option("--factor", type=int, help="With --truth: where a refinement by it would start.")
@click.option("--split", help="With --truth of images: train or test.  [default: all of them]")
@options_from(Run)
@json_option
def command(
    side: int | None,
    shape: str | None,
    samples: int | None,
    output: Path | None,
    seed: int,
    truth: Path | None,
    factor: int | None,
    split: str | None,
    as_json: bool,
    **given: Any,
) -> dict[str, Any]:
    """Generate lattices with the weights that `refine` uses: its process from another start.

    From noise a chain starts where no long-wavelength mode is left, or at the largest lambda of
    the weights (the shipped ones: 4000, enough up to L = 128). At sizes other than those that the
    weights were trained on (the shipped ones: 64 x 64) the ensemble is biased: a warning says so,
    also in the store.

    With --truth and --factor each chain starts from the forward marginal of one true lattice, as
    in the paper. That start knows more of the truth than any coarse lattice does: it is for
    evaluation.

    \b
    skild-phys generate --L 64
    skild-phys generate --truth fine.zarr --factor 4 -o marginal.zarr
    """
    from skild_phys.skild.generate import generate, opened_truth, start_of
    from skild_phys.skild.weights import shipped_weights

    chain = Chain(**{one.name: given.pop(one.name) for one in dataclasses.fields(Chain)})
    if side is not None and shape is not None:
        raise BadInput("L", side, "a side, or --shape")
    size = side if shape is None else parse_sides("shape", shape, 2)
    checkpoint = given.pop("checkpoint")
    Run(**given)
    weights = weights_of(checkpoint)
    source = None if truth is None else opened_truth(truth, split, weights)
    sides, n = start_of(size, samples, source, factor, chain, split)
    of = (checkpoint or shipped_weights()).stem
    default = Path(f"{of}-{shape_name(sides)}-generated.zarr")
    if truth is not None:
        default = beside(truth, f"generated-x{factor}" if factor else "generated")
    output, (filled, minded) = stored(
        "generating", n, output, default,
        lambda path, run: generate(
            path, chain, weights, n, sides, run,
            seed=seed, truth=source, factor=factor,
        ),
        given, "torch", inputs=[truth] if truth else [],
    )  # fmt: skip
    pace = "was complete already" if filled.each is None else f"{filled.each:.3g} s per lattice"
    found = {
        "path": str(output),
        "samples": n,
        "generated": filled.made,
        "seconds": filled.seconds,
        "warnings": minded,
        "seconds_per_lattice": filled.each,
    }
    size_text = " x ".join(map(str, sides))
    return answer(found, f"{n} lattices of {size_text}, {pace}", as_json, output)
