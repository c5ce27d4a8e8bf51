"""`skild-phys images`, and train and generate on images, as a user meets them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Call, files_of
from image_helpers import image_store, image_weights, photographs
from PIL import Image
from safetensors.torch import load_file, save_file

from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.train import LOG
from skild_phys.skild.weights import load_weights, save_weights
from skild_phys.store import open_store

RECIPE = """
output = "v"
data = "images"
side = 16
basis = "dct"
symmetries = ["mirror"]
spectrum = "channels"
weighting = "scales"
steps = 4
batch = 4
save_every = 2
sample_every = 4
spectrum_batches = 2
[lambdas]
kind = "geometric"
low = 0.01
high = 200.0
[network]
patch = 2
channels = [8]
blocks = [1]
"""
PUBLISHED = Path(__file__).parent / "data" / "ncsnpp_reference.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of PNG files in classes, and a recipe."""
    for i, image in enumerate(photographs(12, 20)):
        place = tmp_path / "photos" / ("test" if i % 3 == 0 else "train") / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, -1)).save(place / f"{i}.png")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def test_from_a_folder_to_scores(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """prepare, spectrum, train, generate, coarsen, refine, evaluate: each on what the last made."""
    monkeypatch.chdir(folder)
    code, out, err = call("images", "prepare", "imagenet", "--size", 16, "--from", "photos",
                          "-o", "i.zarr", "--json")  # fmt: skip
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["train"], answer["test"], answer["shape"]) == (8, 4, [16, 16])
    assert call("spectrum", "i.zarr", "-o", "s.png")[0] == 0
    words = ["train", "i.zarr", "--config", "r.toml", "-o", "w.safetensors", "--threads", 1]
    code, out, err = call(*words, "--json")
    assert code == 0, err
    weights = load_weights(folder / "w.safetensors")
    assert (weights.channels, weights.basis, weights.system["images"]) == (3, "dct", 8)
    rows = list(csv.reader((folder / "w.loss.csv").open()))
    assert tuple(rows[0]) == LOG
    assert (len(rows), rows[1][0]) == (2, "4")
    grid = Image.open(folder / "w.samples" / "0000004.png")
    assert grid.size == (6 * 34 - 2, 6 * 34 - 2)

    words = ["generate", "--checkpoint", "w.safetensors", "--shape", "16x20", "-n", 3]
    code, out, err = call(*words, "--steps", 4, "-o", "g.zarr")
    assert code == 0, err
    samples = open_store(folder / "g.zarr")
    assert (samples.field, samples.channels, samples.shape) == ("image", 3, (16, 20))
    assert samples.attrs["sampler"] == "angle3"
    words = ["generate", "--checkpoint", "w.safetensors", "--truth", "i.zarr", "--split", "test",
             "--factor", 2, "--steps", 4, "-o", "p.zarr"]  # fmt: skip
    assert call(*words)[0] == 0
    assert open_store(folder / "p.zarr").variable("parent").tolist() == [8, 9, 10, 11]

    words = ["images", "coarsen", "i.zarr", "--split", "test", "--factor", 2, "-o", "l.zarr"]
    assert call(*words)[0] == 0
    words = ["images", "refine", "l.zarr", "--checkpoint", "w.safetensors", "--steps", 4]
    code, out, err = call(*words, "-o", "r.zarr", "--json")
    assert code == 0, err
    assert json.loads(out)["misfit"] < 0.3
    before = files_of(folder / "r.zarr")
    assert call(*words, "-o", "r.zarr")[0] == 0
    assert files_of(folder / "r.zarr") == before
    for made in ("r.zarr", "p.zarr"):
        words = ["images", "evaluate", made, "--against", "i.zarr", "--scores", "psnr,ssim"]
        code, out, err = call(*words, "--json")
        assert code == 0, err
        assert [score["name"] for score in json.loads(out)] == ["psnr", "ssim"]
    code, out, _ = call("images", "evaluate", "r.zarr", "--against", "i.zarr", "--low", "l.zarr")
    assert "consistency" in out


def test_what_a_recipe_costs(call: Call) -> None:
    """121 M parameters is what the paper's networks for 128 and 256 have."""
    code, out, _ = call("images", "info", "imagenet128-4x", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["parameters"] == pytest.approx(121e6, rel=0.005)
    assert answer["step_flops"] == 3 * 256 * answer["forward_flops"]
    twice = json.loads(call("images", "info", "imagenet128-4x", "--gpu-tflops", 494.5, "--json")[1])
    assert twice["gpu_hours"] == pytest.approx(2 * answer["gpu_hours"])
    small = call("images", "info", "cifar10-small")[1]
    assert "1.5 M" in small


def test_operations_are_counted(call: Call) -> None:
    """A network of three known convolutions and a linear layer: 2 operations a product."""
    from skild_phys.images.spec import cost
    from skild_phys.skild.chain import SCHEDULES
    from skild_phys.skild.networks import NetworkConfig
    from skild_phys.skild.recipe import Recipe

    network = NetworkConfig(patch=2, channels=(8,), blocks=(1,), embedding=16)
    config = Recipe(
        output="eps", basis="dct", symmetries=("mirror",), network=network,
        lambdas=SCHEDULES["geometric"](0.01, 200.0),
    )  # fmt: skip
    found = cost(config, (16, 16), 3)
    convolutions = 8 * 8 * (9 * 12 * 8 + 2 * 9 * 8 * 8 + 8 * 12)
    linears = 64 * 16 + 16 * 16 + 16 * 1 + 16 * 3
    assert found["forward_flops"] == 2 * (convolutions + linears)


def test_published_weights_are_converted_and_generate(tmp_path: Path, call: Call) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'preset = "cifar10-loglinear"\n[network]\nwidth = 8\nmultipliers = [1, 2]\nblocks = 1\n'
        "attention = [16]\n"
    )
    given = load_file(PUBLISHED)
    torch.save({"step": 1, "model": given}, tmp_path / "theirs.pth")
    code, _, err = call("images", "convert", tmp_path / "theirs.pth", "--preset", recipe,
                        "-o", tmp_path / "w.safetensors")  # fmt: skip
    assert code == 0, err
    network = load_weights(tmp_path / "w.safetensors").build(dtype=torch.float32)
    with torch.no_grad():
        found = network.at_time(given["input"], given["time"])  # type: ignore[operator, union-attr]
    assert 16 * found.numpy() == pytest.approx(given["output"].numpy(), abs=1e-4)
    words = ["generate", "--checkpoint", tmp_path / "w.safetensors", "--L", 8, "--steps", 3]
    assert call(*words, "-o", tmp_path / "g.zarr")[0] == 0
    assert open_store(tmp_path / "g.zarr").attrs["sampler"] == "ancestral"
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    code, _, err = call("images", "convert", tmp_path / "other.safetensors", "--preset", recipe,
                        "-o", tmp_path / "x.safetensors")  # fmt: skip
    assert (code, "all_modules.0" in err) == (2, True)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("images prepare cifar10 -o x.zarr", "missing option --from"),
        ("images prepare cifar10 --from nowhere -o x.zarr", "--from: 'nowhere'"),
        ("images prepare imagenet --from photos -o x.zarr", "missing option --size"),
        ("images prepare imagenet --download --size 16 -o x.zarr", "--download"),
        ("images coarsen i.zarr --factor 1 -o x.zarr", "--factor: 1.0"),
        ("images coarsen i.zarr --factor 2 --rule max -o x.zarr", "--rule: 'max'"),
        ("images coarsen i.zarr --factor 2 --split dev -o x.zarr", "--split: 'dev'"),
        ("images refine i.zarr --rule area -o x.zarr --checkpoint w", "missing option --factor"),
        ("images refine i.zarr --factor 2 -o x.zarr --checkpoint w", "missing option --rule"),
        ("images refine i.zarr --factor 2 --rule area -o x.zarr", "missing option --checkpoint"),
        ("images refine l.zarr --factor 3 -o x.zarr", "--factor: 3.0"),
        ("images refine l.zarr -n 50 -o x.zarr", "-n: 50"),
        ("images refine l.zarr --method bicubic --steps 3 -o x.zarr", "--steps: '3'"),
        ("images info nothing", "PRESET: 'nothing'"),
        ("images info nowhere.toml", "PRESET: 'nowhere.toml'"),
        ("images info cifar10 --gpu-tflops 0", "--gpu-tflops: 0.0"),
        ("images info cifar10 --shape 4", "--shape: '4'"),
        ("images info cifar10 --utilization 2", "--utilization: 2.0"),
        ("images evaluate i.zarr --scores fid", "missing option --against"),
        ("images evaluate i.zarr --scores fid --against i.zarr --weights .", "not found in"),
        ("images evaluate i.zarr --weights nowhere", "--weights: 'nowhere'"),
        ("images evaluate i.zarr --split test", "--split: 'test'"),
        ("images evaluate i.zarr -n 99", "-n: 99"),
        ("images convert w --preset cifar10-small -o x", "--preset: 'cifar10-small'"),
        ("generate --checkpoint w.safetensors --L 8 --split test -o x.zarr", "--split: 'test'"),
        ("train i.zarr --preset ising2d -o x", "STORE: 'i.zarr'"),
        ("train i.zarr --preset cifar10 -o x", "STORE: 'images of 16 x 16'"),
        ("train --preset cifar10 -o x", "missing argument STORE"),
        ("images refine s.zarr --factor 2 --rule area --method bicubic -o x.zarr", "not images"),
        ("images refine l.zarr --checkpoint sr.safetensors -o x.zarr", "--factor: 2"),
        ("generate --checkpoint sr.safetensors --L 16 -o x.zarr", "--checkpoint: 'lambda up to"),
        ("images evaluate i.zarr --against t.zarr --scores psnr", "no parents"),
        ("images evaluate m.zarr --against t.zarr --scores psnr", "comes from"),
        ("refine i.zarr --factor 2 --rule majority -o x.zarr", "images refine"),
        ("measure i.zarr", "image"),
        ("coarsen i.zarr --factor 2 -o x.zarr", "image"),
    ],
)
def test_one_line_for_what_cannot_be(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch, words: str,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    image_store(folder / "i.zarr", photographs(6), tests=2)
    assert call("images", "coarsen", "i.zarr", "--factor", 2, "-o", "l.zarr")[0] == 0
    save_weights(folder / "w.safetensors", image_weights())
    if "sr.safetensors" in words:
        short = image_weights(schedule=SCHEDULES["geometric"](0.01, 0.2))
        save_weights(
            folder / "sr.safetensors", replace(short, lambda_range=(0.01, 0.2), cutoff=0.0)
        )
    if "t.zarr" in words:
        image_store(folder / "t.zarr", photographs(6, seed=8), tests=2)
    if "m.zarr" in words:
        assert call("images", "refine", "l.zarr", "--method", "bicubic", "-o", "m.zarr")[0] == 0
    if "s.zarr" in words:
        assert call("simulate", "--L", 16, "-n", 2, "--T", "Tc", "-o", "s.zarr")[0] == 0
    before = files_of(folder)
    code, out, err = call(*words.split())
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert files_of(folder) == before
