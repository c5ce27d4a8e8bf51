"""`skild-phys images`: the paper's image benchmarks, with the same SKILD."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli.options import (
    answer,
    check_device,
    claim_output,
    json_option,
    options_from,
    output_option,
    overwrite_option,
    parse_sides,
    stored,
)
from skild_phys.cli.outputs import beside, free
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.skild.recipe import Recipe


@click.group()
def command() -> None:
    """Image benchmarks: data sets, low resolution, scores.

    train and generate take images as they take lattices:

    \b
    skild-phys images prepare cifar10 --from cifar-10-binary.tar.gz -o cifar10.zarr
    skild-phys train cifar10.zarr --preset cifar10 -o weights.safetensors
    skild-phys generate --checkpoint weights.safetensors --L 32 -n 64 -o samples.zarr
    """


@command.command()
@click.argument("dataset", type=click.Choice(["cifar10", "imagenet"]))
@click.option(
    "--from", "where", type=click.Path(path_type=Path), metavar="DIR|ARCHIVE",
    help="CIFAR-10's binary version, or images as [train|test/]CLASS/NAME.",
)  # fmt: skip
@click.option("--size", type=int, help="Side to resize and crop to (imagenet), such as 128.")
@click.option("--download", is_flag=True, help="Fetch CIFAR-10 (170 MB), checked by its SHA-256.")
@output_option
@options_from(Run, skip=("device", "chunk", "dask"))
@json_option
def prepare(
    dataset: str,
    where: Path | None,
    size: int | None,
    download: bool,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Images into a store: 8-bit, with class and split.

    Training images come first. Those of folders are put in a random order, the same every time.
    imagenet: any folder of images, resized and cropped as ADM prepares ImageNet.
    """
    from skild_phys.images.datasets import download_cifar10, names_of, opened, read_files
    from skild_phys.images.datasets import prepare as prepare_store

    if download:
        if dataset != "cifar10" or where is not None:
            raise BadInput("--download", "set", "cifar10 without --from")
    elif where is None:
        raise BadInput("--from", None, "a folder or an archive, or --download")
    elif dataset == "imagenet" and not where.is_dir():
        raise BadInput("--from", str(where), "a folder; an archive of so many images: unpack it")
    source = download_cifar10() if where is None else where
    with opened(source) as folder:
        files = read_files(dataset, folder, size)
        output, store = stored(
            "preparing", files.n, output, Path(f"{dataset}{size or ''}.zarr"),
            lambda path, run: prepare_store(
                files, path, replace(run, attrs={"dataset": dataset, **run.attrs})
            ),
            given, inputs=[where] if where else [],
        )  # fmt: skip
    tests = int(files.split.sum())
    result = {
        "path": str(output), "images": files.n, "train": files.n - tests, "test": tests,
        "channels": store.channels, "shape": list(store.shape), "classes": list(files.classes),
    }  # fmt: skip
    height, width = store.shape
    text = f"{files.n - tests} images to train on, {tests} to test, {width} x {height}"
    answer(result, f"{text}, {names_of(files.classes)}", as_json, output)


@command.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--factor", type=float, default=4.0, show_default=True, help="Of the sides, such as 4 or 2.5."
)
@click.option("--rule", default="area", show_default=True, help="area, or bicubic (antialiased).")
@click.option("--split", help="train or test.  [default: all of them]")
@output_option
@options_from(Run, skip=("device", "chunk", "dask"))
@json_option
def coarsen(
    images: Path,
    factor: float,
    rule: str,
    split: str | None,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Low-resolution images, 8-bit, from the store IMAGES."""
    from skild_phys.images.refine import coarsen_images
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import open_lattices

    fine = ImageLattices(open_lattices(images), split)
    kind = "coarse" if rule == "area" else rule
    output, filled = stored(
        "coarsening", fine.n_samples, output, beside(images, f"{kind}-x{factor:g}"),
        lambda path, run: coarsen_images(fine, path, rule, factor, run), given, inputs=[images],
    )  # fmt: skip
    store = filled.lattices
    height, width = store.shape
    result = {"path": str(output), "images": store.n_samples, "shape": [height, width]}
    text = f"{store.n_samples} images of {width} x {height} by {rule}, factor {factor:g}"
    answer(result, text, as_json, output)


@command.command()
@click.argument("low", type=click.Path(path_type=Path))
@click.option("--factor", type=float, help="Of the sides.  [default: what LOW was coarsened by]")
@click.option("--rule", help="How LOW came about: area or bicubic.  [default: what LOW says]")
@click.option("--method", default="skild", show_default=True, help="skild or bicubic.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of images.")
@click.option("-n", "n_samples", type=int, help="Images.  [default: all of them]")
@click.option("--steps", type=int, help="Network calls an image.  [default: by the weights]")
@click.option("--sampler", help="As in generate.  [default: by the weights]")
@click.option("--lambda-start", type=float, help="Where it starts, in pixels squared.")
@click.option("--lambda-end", type=float, help="Where its last network call is.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every stream.")
@output_option
@options_from(Run, skip=("chunk",))
@json_option
def refine(
    low: Path,
    factor: float | None,
    rule: str | None,
    method: str,
    checkpoint: Path | None,
    n_samples: int | None,
    steps: int | None,
    sampler: str | None,
    lambda_start: float | None,
    lambda_end: float | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Super-resolution: finer images from the store LOW alone.

    Any factor above 1, any sides; made coarse again the images give LOW back, up to their 8 bits.

    \b
    skild-phys images coarsen photos.zarr --factor 4 -o low.zarr
    skild-phys images refine low.zarr --checkpoint weights.safetensors -o fine.zarr
    """
    from skild_phys.images.refine import ImageRefineSpec, refine_images
    from skild_phys.skild.equations import make_step
    from skild_phys.skild.weights import load_weights
    from skild_phys.store import open_lattices

    Run(**given)
    store = open_lattices(low)
    known: dict[str, Any] = {"factor": factor, "rule": rule}
    for name, told in known.items():
        # Of images that were refined, these say how, not how they were made coarse.
        own = None if "method" in store.attrs else store.attrs.get(name)
        if told is None and own is None:
            raise BadInput(name, None, f"a {name}: {low} does not say its own")
        if told is not None and own is not None and told != own:
            raise BadInput(name, told, f"{own}, by which {low} was coarsened")
        known[name] = own if told is None else told
    if n_samples is not None and not 1 <= n_samples <= store.n_samples:
        raise BadInput("-n", n_samples, f"1 to {store.n_samples}, what {low} holds")
    if method == "bicubic":
        unused: dict[str, Any] = {
            "--checkpoint": checkpoint,
            "--steps": steps,
            "--sampler": sampler,
        }
        unused |= {"--lambda-start": lambda_start, "--lambda-end": lambda_end}
        for option, value in unused.items():
            if value is not None:
                raise BadInput(option, str(value), "nothing: method bicubic does not use it")
    weights = None
    if method == "skild":
        if checkpoint is None:
            raise BadInput("--checkpoint", None, "weights of images")
        weights = load_weights(checkpoint)
        sampler = sampler or weights.usual_sampler
        make_step(sampler)
    spec = ImageRefineSpec(
        float(known["factor"]), str(known["rule"]), method, steps, sampler or "stochastic", seed,
        lambda_start, lambda_end,
    )  # fmt: skip
    total = n_samples or store.n_samples

    kind = "refined" if method == "skild" else method
    times = f"x{spec.factor:g}"
    default = beside(low, f"{kind}-{times}", without=f"-coarse-{times}")
    output, (filled, off) = stored(
        "refining", total, output, default,
        lambda path, run: refine_images(store, path, spec, weights, run, n_samples=n_samples),
        given, "torch", inputs=[low],
    )  # fmt: skip
    each = filled.each
    pace = "was complete already" if each is None else f"{each:.3g} s per image"
    misfit = "" if off is None else f", A x = y within {off:.2g} levels"
    result: dict[str, Any] = {"samples": total, "refined": filled.made}
    result |= {"seconds": filled.seconds} | ({} if off is None else {"misfit": off})
    found = {"path": str(output), **result, "seconds_per_image": each}
    answer(found, f"{total} images, method {method}, {pace}{misfit}", as_json, output)


@command.command()
@click.argument("preset")
@click.option("--shape", help="LYxLX.  [default: that of the preset]")
@click.option("--gpu-tflops", type=float, help="Of one GPU, dense bf16.  [default: 989, an H100]")
@click.option("--utilization", type=float, help="Share of it that is reached.  [default: 0.35]")
@json_option
def info(
    preset: str,
    shape: str | None,
    gpu_tflops: float | None,
    utilization: float | None,
    as_json: bool,
) -> None:
    """What PRESET costs: parameters, operations, memory, and hours of one GPU.

    Nothing is computed: hours are operations over what the GPU is taken to reach.
    """
    from skild_phys.images.cost import H100_TFLOPS, UTILIZATION, cost

    config = _recipe(preset, "PRESET")
    sides = parse_sides("--shape", shape, 8) if shape else (config.side, config.side)
    channels = 3 if config.data == "images" else 1
    tflops = H100_TFLOPS if gpu_tflops is None else gpu_tflops
    share = UTILIZATION if utilization is None else utilization
    if not 0 < tflops < float("inf"):
        raise BadInput("--gpu-tflops", tflops, "a number above 0")
    if not 0 < share <= 1:
        raise BadInput("--utilization", share, "a number above 0, up to 1")
    found = cost(config, sides, channels)
    result = {
        "preset": preset, "shape": list(sides), "parameters": found.parameters,
        "forward_flops": found.forward, "step_flops": found.step,
        "activation_bytes": found.activations, "state_bytes": found.state,
        "steps": config.steps, "batch": config.batch, "training_flops": found.training,
        "gpu_hours": found.gpu_hours(tflops, share), "gpu_tflops": tflops, "utilization": share,
        "seconds_1000_calls": found.sampling_seconds(1000, tflops, share),
    }  # fmt: skip
    height, width = sides
    hours = f"{result['gpu_hours']:.0f}" if found.training > 1e18 else f"{result['gpu_hours']:.2g}"
    rows = (
        ("fields", f"{width} x {height}, {channels} channels"),
        ("parameters", f"{found.parameters / 1e6:.1f} M"),
        ("one call", f"{found.forward / 1e9:.1f} GFLOP a field"),
        ("one step", f"{found.step / 1e12:.3g} TFLOP, batch {config.batch}, with its gradient"),
        ("memory", f"{found.state / 2**30:.2f} GiB, and {found.activations / 2**20:.0f} MiB a field"
         " in float32, half of that in bf16"),
        ("the run", f"{config.steps} steps, {found.training:.2g} FLOP:"
         f" {hours} hours of a GPU of {tflops:g} TFLOP/s"
         f" at {share:.0%}"),
        ("1000 calls", f"{result['seconds_1000_calls']:.2g} s a field there"),
    )  # fmt: skip
    answer(result, "\n".join(f"{name:>10}  {value}" for name, value in rows), as_json)


def _recipe(name: str, option: str) -> Recipe:
    """Return a recipe by the name of a preset, or of a file NAME.toml."""
    from skild_phys.skild.recipe import read_recipe

    return read_recipe(Path(name) if name.endswith(".toml") else name, option=option)


@command.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="Truths, or the set to compare with."
)
@click.option("--split", help="Of AGAINST: train or test.  [default: all of it]")
@click.option(
    "--scores",
    help="Of fid, is, frechet, psnr, ssim, ms-ssim, lpips, musiq, clip-iqa, by commas."
    "  [default: psnr,ssim of images that have truths, else fid,is]",
)
@click.option("--low", type=click.Path(path_type=Path), help="What IMAGES were refined from.")
@click.option("-n", "n_samples", type=int, help="The first so many.  [default: all of them]")
@click.option(
    "--weights", type=click.Path(path_type=Path),
    help="Folder with weights of the scores' networks.  [default: PyTorch's cache]",
)  # fmt: skip
@click.option("--features", type=click.Path(path_type=Path), help="VGG16's weights, for frechet.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, for fid and is.")
@json_option
def evaluate(
    images: Path,
    against: Path | None,
    split: str | None,
    scores: str | None,
    low: Path | None,
    n_samples: int | None,
    weights: Path | None,
    features: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Scores of the store IMAGES, by the libraries that define them (extra 'images').

    fid and is: torch-fidelity; psnr, ssim, ms-ssim: torchmetrics; lpips; musiq and clip-iqa: pyiqa,
    whose licence is non-commercial (extra 'quality'). frechet is the same distance as fid, of the
    features of VGG16: good for comparing runs with one another, and never called FID. Weights
    are not fetched: a message says which file is missing, and where it is.

    \b
    skild-phys images evaluate samples.zarr --against cifar10.zarr --split train --scores fid,is
    skild-phys images evaluate fine.zarr --against photos.zarr --low low.zarr --scores psnr,lpips
    """
    from skild_phys.images.evaluate import evaluate as judge
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import open_lattices

    check_device(device)
    mine = ImageLattices(open_lattices(images))
    if n_samples is not None and not 1 <= n_samples <= mine.n_samples:
        raise BadInput("-n", n_samples, f"1 to {mine.n_samples}, what {images} holds")
    if weights is not None and not weights.is_dir():
        raise BadInput("--weights", str(weights), "a folder")
    if split is not None and against is None:
        raise BadInput("--split", split, "--against beside it")
    usual = "psnr,ssim" if mine.store.has("parent") else "fid,is"
    names = [word.strip().lower() for word in (scores or usual).split(",")]
    found = judge(
        mine, names, None if against is None else ImageLattices(open_lattices(against), split),
        n=n_samples, weights=weights, features=features, device=device,
        low=None if low is None else ImageLattices(open_lattices(low)),
    )  # fmt: skip
    if as_json:
        rows = [score.__dict__ for score in found]
        for row in rows:
            # The PSNR of equal images is infinite, which JSON has no word for.
            row["value"] = row["value"] if math.isfinite(row["value"]) else None
        say(json.dumps(rows, allow_nan=False))
        return
    for score in found:
        error = "" if score.error is None else f" +- {score.error:.2g}"
        paper = "" if score.paper is None else f"   paper: {score.paper:g}"
        say(f"{score.name}  {score.value:.5g}{error}  ({score.n} images){paper}")


@command.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--preset", required=True, help="Recipe that they were trained by, such as cifar10.")
@output_option
@overwrite_option
@json_option
def convert(
    weights: Path, preset: str, output: Path | None, overwrite: bool, as_json: bool
) -> None:
    """Weights of the published NCSN++ for this program.

    WEIGHTS is a safetensors file, or a PyTorch file of a state_dict (`all_modules.0.weight`, ...)
    that is read without unpickling objects. Process and schedule are those of PRESET, whose
    spectrum must be the paper's.
    """
    from skild_phys.skild.convert import published_weights
    from skild_phys.skild.weights import save_weights

    config = _recipe(preset, "--preset")
    output = output or free(beside(weights, "converted", ".safetensors"), overwrite)
    claim_output(output, overwrite=overwrite, inputs=[weights])
    made = published_weights(weights, config, preset)
    sha = save_weights(output, made)
    found = {"weights": str(output), "sha256": sha, "tensors": len(made.tensors)}
    answer(found, f"sha256 {sha:.16}  {len(made.tensors)} tensors", as_json, output)
