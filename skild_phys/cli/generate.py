"""`skild-phys generate`: lattices from noise, or from the forward marginal of a truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import (
    LARGEST_SIDE,
    answer,
    chain_options,
    check_device,
    interruptible,
    json_option,
    output_option,
    overwrite_option,
    parse_sides,
    progress_bar,
    provenance,
    threads_option,
    warn,
)
from skild_phys.cli.outputs import beside, fill, shape_name
from skild_phys.errors import BadInput, check_whole
from skild_phys.files import check_output

if TYPE_CHECKING:
    from skild_phys.skild.data import ImageLattices
    from skild_phys.skild.weights import Weights
    from skild_phys.store import Lattices


@click.command()
@click.option("--L", "side", type=int, help="Side of square lattices.")
@click.option("--shape", help="LYxLX instead of --L, such as 96x128.")
@click.option(
    "-n",
    "--samples",
    "n_samples",
    type=int,
    help="Lattices.  [default: 100; with --truth all of it]",
)
@output_option
@chain_options
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="The paper's protocol: start from these lattices, erased and noised as --factor says.",
)
@click.option("--factor", type=int, help="With --truth: where a refinement by it would start.")
@click.option("--split", help="With --truth of images: train or test.  [default: all of them]")
@threads_option
@overwrite_option
@json_option
def command(
    side: int | None,
    shape: str | None,
    n_samples: int | None,
    output: Path | None,
    steps: int | None,
    sampler: str | None,
    restarts: int | None,
    seed: int,
    checkpoint: Path | None,
    truth: Path | None,
    factor: int | None,
    split: str | None,
    lambda_start: float | None,
    lambda_end: float | None,
    chunk: int | None,
    device: str,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
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
    from skild_phys.skild.generate import GenerateSpec, generate_store
    from skild_phys.skild.weights import load_weights, shipped_weights, weights_sha256

    for option, value in (("--chunk", chunk), ("-n", n_samples)):
        if value is not None:
            check_whole(option, value)
    check_device(device)
    weights = load_weights(checkpoint or shipped_weights())
    sampler = sampler or weights.usual_sampler
    spec = GenerateSpec(steps, sampler, restarts or 0, seed, lambda_start, lambda_end)
    source: Lattices | ImageLattices | None = None
    if split is not None and not (weights.channels and truth is not None):
        raise BadInput("--split", split, "none without --truth of images")
    if truth is None:
        if factor is not None:
            raise BadInput("--factor", factor, "a factor only with --truth")
        sides = _sides(side, shape)
        n_samples = n_samples or 100
    else:
        if side is not None or shape is not None:
            raise BadInput("--L", side or shape, "no size with --truth, whose size it is")
        if (factor is None and lambda_start is None) or (factor is not None and factor < 2):
            raise BadInput("--factor", factor, "a whole number of at least 2 with --truth")
        source = _truth(truth, split, weights)
        sides = (source.shape[0], source.shape[1])
        if n_samples is not None and n_samples > source.n_samples:
            raise BadInput("-n", n_samples, f"at most {source.n_samples}, what {truth} holds")
        n_samples = n_samples or source.n_samples

    def write(path: Path) -> dict[str, Any]:
        check_output(path, overwrite=True, inputs=[truth] if truth else [])
        with progress_bar("generating", n_samples) as advance, interruptible() as stop:
            return generate_store(
                path,
                spec,
                weights,
                n_samples,
                sides,
                truth=source,
                factor=factor,
                weights_sha256=weights_sha256(weights),
                extra_attrs=provenance("torch"),
                threads=threads,
                device=device,
                chunk=chunk,
                overwrite=overwrite,
                progress=advance,
                stop=stop,
            )

    if truth is None:
        of = (checkpoint or shipped_weights()).stem
        default = Path(f"{of}-{shape_name(sides)}-generated.zarr")
    else:
        default = beside(truth, f"generated-x{factor}" if factor else "generated")
    output, result = fill(output, default, write)
    warn(result["warnings"])
    each = result["seconds"] / result["generated"] if result["generated"] else None
    size = " x ".join(map(str, sides))
    pace = "was complete already" if each is None else f"{each:.3g} s a lattice"
    found = {"path": str(output), **result, "seconds_per_lattice": each}
    return answer(found, f"{n_samples} lattices of {size}, {pace}", as_json, output)


def _truth(path: Path, split: str | None, weights: Weights) -> Lattices | ImageLattices:
    """Return the truths of the store `path`, which must be what the weights are of."""
    from skild_phys.skild.data import ImageLattices
    from skild_phys.skild.refine import check_weights_fit
    from skild_phys.store import open_lattices

    store = open_lattices(path, repeats=True)
    wanted = "image" if weights.channels else "spins" if weights.output == "logits" else "field"
    if len(store.shape) != 2 or store.field != wanted or store.channels != weights.channels:
        many = f" of {weights.channels} channels" if weights.channels else ""
        raise BadInput("--truth", str(path), f"a store of 2D '{wanted}'{many}")
    if weights.channels:
        return ImageLattices(store, split)
    check_weights_fit(weights, store.attrs, path)
    return store


def _sides(side: int | None, shape: str | None) -> tuple[int, int]:
    """Return (Ly, Lx) of --L or --shape; raises BadInput unless exactly one says it."""
    if (side is None) == (shape is None):
        raise BadInput("--L", side, "a side, or --shape")
    if shape is not None:
        return parse_sides("--shape", shape, 2)
    check_whole("--L", side, 2, LARGEST_SIDE)
    return side or 0, side or 0
