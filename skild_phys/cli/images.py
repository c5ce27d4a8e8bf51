"""`skild-phys images`: the paper's image benchmarks, with the same SKILD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skild_phys.cli import options as cli
from skild_phys.cli.terminal import say
from skild_phys.errors import BadInput, check_whole
from skild_phys.images.spec import GPU, ImageRefineSpec
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.skild.recipe import Recipe


@click.group()
def command() -> None:
    """Image benchmarks: data sets, low resolution, scores.

    train and generate take images as they take spins:

    \b
    skild-phys images prepare cifar10 --from cifar-10-binary.tar.gz -o cifar10.zarr
    skild-phys train cifar10.zarr --preset cifar10 -o weights.safetensors
    skild-phys generate --checkpoint weights.safetensors --L 32 -n 64 -o samples.zarr
    """


@command.command()
@click.argument("dataset", type=click.Choice(["cifar10", "imagenet"]))
@click.option(
    "--from", "where", type=cli.PATH, metavar="DIR|ARCHIVE",
    help="CIFAR-10's binary version, or images as [train|test/]CLASS/NAME.",
)  # fmt: skip
@click.option("--size", type=int, help="Side to resize and crop to (imagenet), such as 128.")
@click.option("--download", is_flag=True, help="Fetch CIFAR-10 (170 MB), checked by its SHA-256.")
@cli.output_option()
@cli.result_options("threads overwrite")
def prepare(
    dataset: str, where: Path | None, size: int | None, download: bool, output: Path | None,
    run: Run,
) -> None:  # fmt: skip
    """Images into a store: 8-bit, with class and split.

    Training images come first. Those of folders are put in a random order, the same every time.
    imagenet: any folder of images, resized and cropped as ADM prepares ImageNet.
    """
    from skild_phys.images import datasets

    if download:
        if dataset != "cifar10" or where is not None:
            raise BadInput("download", "set", "cifar10 without --from")
    elif where is None:
        raise BadInput("from", None, "a folder or an archive, or --download")
    elif dataset == "imagenet" and not where.is_dir():
        raise BadInput("from", str(where), "a folder; an archive of so many images: unpack it")
    with datasets.image_files(dataset, where, size) as files:
        output, store = cli.stored(
            "preparing", files.n, output, Path(f"{dataset}{size or ''}.zarr"),
            lambda path, run: datasets.prepare(
                files, path, replace(run, attrs={"dataset": dataset, **run.attrs})
            ),
            run, inputs=[where] if where else [],
        )  # fmt: skip
    tests, classes = int(files.split.sum()), len(files.classes)
    found = {
        "path": str(output), "images": files.n, "train": files.n - tests, "test": tests,
        "channels": store.channels, "shape": list(store.shape), "classes": list(files.classes),
    }  # fmt: skip
    height, width = store.shape
    text = f"{files.n - tests} training images, {tests} to test, {width} x {height}"
    cli.answer(found, f"{text}, {classes} class{'es' * (classes > 1)}", output)


@command.command()
@click.argument("images", type=cli.PATH)
@click.option(
    "--factor",
    type=float,
    default=4.0,
    show_default=True,
    help="By which sides shrink, such as 4 or 2.5.",
)
@click.option("--rule", default="area", show_default=True, help="area, or bicubic (antialiased).")
@click.option("--split", help="train or test.  [default: all of them]")
@cli.output_option()
@cli.result_options("threads overwrite dask")
def coarsen(
    images: Path, factor: float, rule: str, split: str | None, output: Path | None,
    run: Run,
) -> None:  # fmt: skip
    """Low-resolution images, 8-bit, from the store IMAGES."""
    from skild_phys.images.refine import coarsen_images
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import open_lattices

    fine = ImageLattices(open_lattices(images), split)
    kind = "coarse" if rule == "area" else rule
    output, filled = cli.stored(
        "coarsening", fine.n_samples, output, cli.beside(images, f"{kind}-x{factor:g}"),
        lambda path, run: coarsen_images(fine, path, rule, factor, run), run, inputs=[images],
    )  # fmt: skip
    (height, width), n = filled.lattices.shape, filled.lattices.n_samples
    found = {"path": str(output), "images": n, "shape": [height, width]}
    cli.answer(found, f"{n} images of {width} x {height} by {rule}, factor {factor:g}", output)


@command.command()
@click.argument("low", type=cli.PATH)
@click.option("--checkpoint", type=cli.PATH, help="Weights of images.")
@click.option("--samples", "-n", "n_samples", type=int, help="Images.  [default: all of them]")
@cli.output_option()
@cli.options_from(ImageRefineSpec, into="spec")
@cli.result_options("threads device overwrite dask")
def refine(
    low: Path, checkpoint: Path | None, n_samples: int | None, output: Path | None,
    spec: ImageRefineSpec, run: Run,
) -> None:  # fmt: skip
    """Super-resolution: finer images from the store LOW alone.

    Any factor above 1, any sides; made coarse again the images give LOW back, up to their 8 bits.

    \b
    skild-phys images coarsen photos.zarr --factor 4 -o low.zarr
    skild-phys images refine low.zarr --checkpoint weights.safetensors -o fine.zarr
    """
    from skild_phys.images.refine import refine_images
    from skild_phys.skild.weights import load_weights
    from skild_phys.store import open_lattices

    store = open_lattices(low)
    spec = spec.settled(store)
    if n_samples is not None:
        check_whole("n", n_samples, 1, store.n_samples)
    if spec.method == "bicubic" and checkpoint is not None:
        raise BadInput("checkpoint", str(checkpoint), "nothing: method bicubic does not use it")
    weights = load_weights(checkpoint) if checkpoint else None
    total, times = n_samples or store.n_samples, f"x{spec.factor:g}"
    kind = "refined" if spec.method == "skild" else spec.method
    output, (filled, off) = cli.stored(
        "refining", total, output, cli.beside(low, f"{kind}-{times}", without=f"-coarse-{times}"),
        lambda path, run: refine_images(store, path, spec, weights, run, n_samples=n_samples),
        run, "torch", inputs=[low],
    )  # fmt: skip
    each = filled.each
    pace = "was complete already" if each is None else f"{each:.3g} s per image"
    misfit = "" if off is None else f", A x = y within {off:.2g} levels"
    found = {
        "path": str(output), "samples": total, "refined": filled.made, "seconds": filled.seconds,
        **({} if off is None else {"misfit": off}), "seconds_per_image": each,
    }  # fmt: skip
    cli.answer(found, f"{total} images, method {spec.method}, {pace}{misfit}", output)


@command.command()
@click.argument("preset")
@click.option("--shape", help="LYxLX.  [default: that of the preset]")
@cli.options_from(GPU, into="gpu")
@cli.result_options("")
def info(preset: str, shape: str | None, gpu: GPU) -> None:
    """What PRESET costs: parameters, operations, memory, and hours of one GPU.

    Nothing is computed: hours are operations over what the GPU is taken to reach.
    """
    from skild_phys.images.spec import cost

    recipe = _recipe(preset, "PRESET")
    height, width = cli.parse_sides("shape", shape, 8) if shape else (recipe.side, recipe.side)
    channels = 3 if recipe.data == "images" else 1
    found = cost(recipe, (height, width), channels)
    training, forward = found["training_flops"], found["forward_flops"]
    hours, sampling = gpu.seconds(training) / 3600, gpu.seconds(1000 * forward)
    result = {
        "preset": preset, "shape": [height, width], **found, "steps": recipe.steps,
        "batch": recipe.batch, "gpu_hours": hours, **vars(gpu), "seconds_1000_calls": sampling,
    }  # fmt: skip
    many = f"{hours:.0f}" if training > 1e18 else f"{hours:.2g}"
    state, kept = found["state_bytes"] / 2**30, found["activation_bytes"] / 2**20
    rows = {
        "fields": f"{width} x {height}, {channels} channels",
        "parameters": f"{found['parameters'] / 1e6:.1f} M",
        "evaluation": f"{forward / 1e9:.1f} GFLOP per field",
        "step": f"{found['step_flops'] / 1e12:.3g} TFLOP, batch {recipe.batch}, with its gradient",
        "memory": f"{state:.2f} GiB, and {kept:.0f} MiB per field in float32, half of that in bf16",
        "run": f"{recipe.steps} steps, {training:.2g} FLOP: {many} hours of a GPU of"
        f" {gpu.gpu_tflops:g} TFLOP/s at {gpu.utilization:.0%}",
        "sampling": f"{sampling:.2g} s per field there, 1000 network evaluations",
    }
    cli.answer(result, "\n".join(f"{name:>10}  {value}" for name, value in rows.items()))


def _recipe(name: str, option: str) -> Recipe:
    """Return a recipe by the name of a preset, or of a file NAME.toml."""
    from skild_phys.skild.recipe import read_recipe

    return read_recipe(Path(name) if name.endswith(".toml") else name, option=option)


@command.command()
@click.argument("images", type=cli.PATH)
@click.option("--against", type=cli.PATH, help="Truths, or the set to compare with.")
@click.option("--split", help="Of AGAINST: train or test.  [default: all of it]")
@click.option(
    "--scores",
    help="Of fid, is, frechet, psnr, ssim, ms-ssim, lpips, musiq, clip-iqa, by commas."
    "  [default: psnr,ssim of images that have truths, else fid,is]",
)
@click.option("--low", type=cli.PATH, help="What IMAGES were refined from.")
@click.option(
    "--samples", "-n", "n_samples", type=int, help="The first so many.  [default: all of them]"
)
@click.option(
    "--weights", type=cli.PATH,
    help="Folder with weights of the scores' networks.  [default: PyTorch's cache]",
)  # fmt: skip
@click.option("--features", type=cli.PATH, help="VGG16's weights, for frechet.")
@cli.result_options("device")
def evaluate(
    images: Path, against: Path | None, split: str | None, scores: str | None, low: Path | None,
    n_samples: int | None, run: Run, **given: Any,
) -> None:  # fmt: skip
    """Scores of the store IMAGES, by the libraries that define them (extra 'images').

    fid and is: torch-fidelity; psnr, ssim, ms-ssim: torchmetrics; lpips; musiq and clip-iqa: pyiqa,
    whose licence is non-commercial (extra 'quality'). frechet is the same distance as fid, of the
    features of VGG16: good for comparing runs with one another, and never called FID. Weights
    are not fetched: a message says which file is missing, and where it is.

    \b
    skild-phys images evaluate samples.zarr --against cifar10.zarr --split train --scores fid,is
    skild-phys images evaluate fine.zarr --against photos.zarr --low low.zarr --scores psnr,lpips
    """
    from skild_phys.images.scores import evaluate as judge
    from skild_phys.measurement.tables import to_plain
    from skild_phys.skild.data import ImageLattices
    from skild_phys.store import open_lattices

    def opened(path: Path | None, split: str | None = None) -> ImageLattices | None:
        return None if path is None else ImageLattices(open_lattices(path), split)

    store = open_lattices(images)
    if n_samples is not None:
        check_whole("n", n_samples, 1, store.n_samples)
    if given["weights"] is not None and not given["weights"].is_dir():
        raise BadInput("weights", str(given["weights"]), "a folder")
    if split is not None and against is None:
        raise BadInput("split", split, "--against beside it")
    usual = "psnr,ssim" if "parent" in store.variables else "fid,is"
    names = [word.strip().lower() for word in (scores or usual).split(",")]
    found = judge(
        ImageLattices(store, n=n_samples), names, opened(against, split),
        low=opened(low), device=run.device, **given,
    )  # fmt: skip
    # The PSNR of equal images is infinite, which JSON has no word for.
    rows = to_plain([vars(one) for one in found])

    def shown() -> None:
        for score in found:
            error = "" if score.error is None else f" +- {score.error:.2g}"
            paper = "" if score.paper is None else f"   paper: {score.paper:g}"
            say(f"{score.name}  {score.value:.5g}{error}  ({score.n} images){paper}")

    cli.answer(rows, shown)


@command.command()
@click.argument("weights", type=cli.PATH)
@click.option("--preset", required=True, help="Recipe that they were trained by, such as cifar10.")
@cli.output_option()
@cli.result_options("overwrite")
def convert(weights: Path, preset: str, output: Path | None, run: Run) -> None:
    """Weights of the published NCSN++ for this program.

    WEIGHTS is a safetensors file, or a PyTorch file of a state_dict (`all_modules.0.weight`, ...)
    that is read without unpickling objects. Process and schedule are those of PRESET, whose
    spectrum must be the paper's.
    """
    from skild_phys.skild.weights import published_weights, save_weights

    recipe = _recipe(preset, "preset")
    output = output or cli.free(cli.beside(weights, "converted", ".safetensors"), run.overwrite)
    cli.claim_output(output, overwrite=run.overwrite, inputs=[weights])
    made = published_weights(weights, recipe, preset)
    sha = save_weights(output, made)
    found = {"weights": str(output), "sha256": sha, "tensors": len(made.tensors)}
    cli.answer(found, f"sha256 {sha:.16}  {len(made.tensors)} tensors", output)
