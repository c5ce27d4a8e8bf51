"""`skild-phys images`: the paper's image benchmarks, with the same SKILD."""

from __future__ import annotations

import json
from pathlib import Path

import click

from skild_phys.cli.options import (
    check_threads,
    interruptible,
    json_option,
    output_option,
    overwrite_option,
    progress_bar,
    provenance,
    threads_option,
)
from skild_phys.errors import BadInput
from skild_phys.files import check_output


@click.group()
def command() -> None:
    """Image benchmarks: data sets, low resolution, scores.

    Images are trained on and generated and generate with the commands of lattices:

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
@threads_option
@overwrite_option
@json_option
def prepare(
    dataset: str,
    where: Path | None,
    size: int | None,
    download: bool,
    output: Path,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Images into a store: 8-bit, with class and split.

    Training images come first. Those of folders are put in a random order, the same every time.
    imagenet: any folder of images, resized and cropped as ADM prepares ImageNet.
    """
    from skild_phys.images.datasets import download_cifar10, names_of, opened, read_files
    from skild_phys.images.datasets import prepare as write

    if download:
        if dataset != "cifar10" or where is not None:
            raise BadInput("--download", "set", "cifar10 without --from")
    elif where is None:
        raise BadInput("--from", "none", "a folder or an archive, or --download")
    check_output(output, overwrite=True, inputs=[where] if where else [])
    threads = check_threads(threads)
    where = download_cifar10() if where is None else where
    with opened(where) as folder:
        files = read_files(dataset, folder, size)
        with progress_bar("preparing", files.n) as advance, interruptible() as stop:
            store = write(
                files, output, attrs={"dataset": dataset, **provenance()}, overwrite=overwrite,
                threads=threads, progress=advance, stop=stop,
            )  # fmt: skip
    tests = int(files.split.sum())
    answer = {
        "path": str(output), "images": files.n, "train": files.n - tests, "test": tests,
        "channels": store.channels, "shape": list(store.shape), "classes": list(files.classes),
    }  # fmt: skip
    height, width = store.shape
    click.echo(
        json.dumps(answer)
        if as_json
        else f"{output}  {files.n - tests} images to train on, {tests} to test,"
        f" {width} x {height}, {names_of(files.classes)}"
    )
