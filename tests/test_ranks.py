"""A run on two processes (gloo) is the run on one; what it cannot share it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import SCHEDULE, image_store, photographs

from skild_phys.errors import BadInput, Interrupted
from skild_phys.skild.data import ImageLattices, _StoreSource
from skild_phys.skild.ncsnpp import NcsnppConfig
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.train import Ranks, Trainer, train
from skild_phys.skild.weights import load_weights

RECIPE = """
output = "v"
data = "images"
side = 16
basis = "dct"
symmetries = ["mirror"]
spectrum = "channels"
weighting = "scales"
steps = 6
batch = 8
accumulate = 2
save_every = 2
spectrum_batches = 2
warmup = 2
learning_rate = 1e-2
precision = "float32"
[lambdas]
kind = "geometric"
low = 0.01
high = 200.0
[network]
patch = 2
channels = [8]
blocks = [1]
"""
NETWORK = NcsnppConfig(width=8, multipliers=(1, 2), blocks=1, side=16, attention=(8,), dropout=0.2)
CONFIG = Recipe(
    output="v", basis="dct", symmetries=("mirror",), steps=6, batch=8, accumulate=2, save_every=2,
    spectrum_batches=2, warmup=2, data="images", side=16, lambdas=SCHEDULE, network=NETWORK,
    couplings_reach=0, precision="float32",
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> ImageLattices:
    return ImageLattices(image_store(tmp_path / "i.zarr", photographs(22)))


def on_two(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the training of `folder` on two processes that torchrun starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = (
        f"torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {port}"
    )
    command = "skild_phys train i.zarr --config r.toml --threads 1"
    words = [sys.executable, "-m", *torchrun.split(), "-m", *command.split(), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)


def test_two_processes_are_one(tmp_path: Path, images: ImageLattices) -> None:
    """The same weights up to float32's rounding: rms 3e-6 after six of Adam's steps of 0.01.

    Planted, seen to fail: gradients that stay with their process; both processes see one part.
    """
    (tmp_path / "r.toml").write_text(RECIPE)
    ended = on_two(tmp_path, "-o", "two.safetensors")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("two.safetensors") == 1
    words = [sys.executable, "-m", "skild_phys", "train", "i.zarr", "--config", "r.toml",
             "--threads", "1", "-o", "one.safetensors"]  # fmt: skip
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    one, two = (load_weights(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    missing = torch.cat([(two.tensors[k] - v).ravel() for k, v in one.tensors.items()])
    assert float(missing.square().mean().sqrt()) < 3e-5
    rows = [(tmp_path / f"{name}.loss.csv").read_text().splitlines()[-1].split(",")
            for name in ("one", "two")]  # fmt: skip
    assert [float(x) for x in rows[0][:4]] == pytest.approx(
        [float(x) for x in rows[1][:4]], rel=1e-4
    )


def test_the_first_process_measures_and_both_end(tmp_path: Path) -> None:
    """Planted, seen to fail: an end that the other process is not told of, which goes on alone."""
    image_store(tmp_path / "i.zarr", photographs(70))
    ends = 'quality_every = 2\nuntil = "loss=9"\n'
    (tmp_path / "r.toml").write_text(RECIPE.replace("[lambdas]", f"{ends}[lambdas]"))
    ended = on_two(tmp_path, "-o", "two.safetensors")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("ended at step 2: until loss=9") == 1
    assert ended.stderr.count("step 2: held-out loss") == 1
    rows = (tmp_path / "two.quality.csv").read_text().splitlines()
    assert (rows[0], len(rows)) == ("step,loss", 2)


def test_parts_of_a_batch_make_the_whole(tmp_path: Path, images: ImageLattices) -> None:
    """Accumulated or not, the gradient is that of the batch; noise is named by the place in it."""
    torch.set_num_threads(1)
    config = replace(CONFIG, network=replace(NETWORK, dropout=0.0))
    trained = []
    for parts in (1, 2, 4):
        run = Trainer(replace(config, accumulate=parts), _StoreSource(images, 1))
        losses = [run.train_step() for _ in range(3)]
        trained.append((losses, run.network.state_dict()["enter.weight"]))
    for losses, weights in trained[1:]:
        assert losses == pytest.approx(trained[0][0], rel=1e-5)
        assert weights.numpy() == pytest.approx(trained[0][1].numpy(), abs=1e-5)


def test_stopped_with_dropout_and_taken_up_again(tmp_path: Path, images: ImageLattices) -> None:
    """To the same bytes: the masks of dropout are named by the step, not by what ran before."""
    torch.set_num_threads(1)
    whole = Trainer(CONFIG, _StoreSource(images, 1))
    train(whole, tmp_path / "whole")
    part = Trainer(CONFIG, _StoreSource(images, 1))
    with pytest.raises(Interrupted, match="step 3"):
        train(part, tmp_path / "part", stop=lambda: part.step == 3)
    torch.rand(100)
    part = Trainer.resume(tmp_path / "part", CONFIG, _StoreSource(images, 1))
    train(part, tmp_path / "part")
    for name, tensor in whole.weights({}).tensors.items():
        assert torch.equal(tensor, part.weights({}).tensors[name])
    assert [row[:4] for row in whole.log] == [row[:4] for row in part.log]
    other = Trainer(replace(CONFIG, network=replace(NETWORK, dropout=0.0)), _StoreSource(images, 1))
    train(other, tmp_path / "other")
    assert other.log[-1][1] != whole.log[-1][1]


def test_each_process_reads_its_part(images: ImageLattices) -> None:
    whole, first, second = (_StoreSource(images, 4) for _ in range(3))
    for _ in range(7):
        batch = whole.next(6)
        assert np.array_equal(first.next(6, slice(0, 3)), batch[:3])
        assert np.array_equal(second.next(6, slice(3, 6)), batch[3:])
    assert first.state()["place"].tolist() == whole.state()["place"].tolist()


def test_what_cannot_be_shared_is_refused(images: ImageLattices) -> None:
    with pytest.raises(BadInput, match="batch: 8"):
        Trainer(CONFIG, _StoreSource(images, 1), ranks=Ranks(0, 3))
    with pytest.raises(BadInput, match="on several processes"):
        Trainer(Recipe(side=16), _StoreSource(images, 1), ranks=Ranks(0, 2))
    with pytest.raises(BadInput, match="accumulate: 3"):
        replace(CONFIG, accumulate=3)
