"""Small images, stores of them, and untrained weights, for tests of the image benchmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.skild.chain import SCHEDULES, Schedule
from skild_phys.skild.networks import NetworkConfig
from skild_phys.skild.spectrum import PowerLaw, Spectrum
from skild_phys.skild.weights import Weights
from skild_phys.store import LatticeStore, create_store, open_store

SPECTRUM = PowerLaw(0.3, 1.05, 0.01)
SMALL = NetworkConfig(patch=2, channels=(8, 8), blocks=(1, 1), embedding=16)
SCHEDULE = SCHEDULES["geometric"](0.01, 200.0)


def image_weights(
    output: str = "v",
    channels: int = 3,
    spectrum: Spectrum = SPECTRUM,
    schedule: Schedule | None = SCHEDULE,
    std: float = 0.0,
) -> Weights:
    """Return weights: untrained (v = 0, exact for Gaussian fields), or random of `std`.

    Without a schedule they have a grid for every scale.
    """
    torch.manual_seed(3)
    network = SMALL.build(output, "dct", channels, schedule, 2, schedule is None)
    for parameter in network.parameters() if std else ():
        torch.nn.init.normal_(parameter, std=std)
    tensors = {k: v.detach() for k, v in network.state_dict().items()}
    plain = Weights(tensors, SMALL, spectrum, output, (0.01, 200.0), {"model": "images"})
    plain = (
        replace(plain, window=(0.7, 2.8), lambda_range=(0.01, 1e12)) if schedule is None else plain
    )
    return replace(plain, basis="dct", symmetries=("mirror",), channels=channels, schedule=schedule)


def photographs(n: int, side: int = 16, channels: int = 3, seed: int = 1) -> NDArray[np.uint8]:
    """Return smooth 8-bit images (n, channels, side, side)."""
    noise = np.random.default_rng(seed).standard_normal((n, channels, side, side))
    y, x = np.mgrid[:side, :side] / side
    wave = np.sin(5.0 * x + noise[:, :1, :1, :1]) * np.cos(3.0 * y + noise[:, 1:2, :1, :1])
    return np.clip(127.5 + 70.0 * wave + 12.0 * noise, 0, 255).astype(np.uint8)


def image_store(path: Path, images: NDArray[np.uint8], tests: int = 0) -> LatticeStore:
    """Return a store of images, the last `tests` of them for testing, in chunks of 4."""
    n, channels, height, width = images.shape
    split = np.zeros(n, np.int8)
    split[n - tests :] = 1
    with create_store(
        path, field="image", n_samples=n, shape=(height, width), chunk=4, channels=channels,
        attrs={"dataset": "test"}, variables=("label", "split"),
    ) as writer:  # fmt: skip
        writer.commit({"image": images, "label": np.arange(n, dtype=np.int32) % 3, "split": split})
    return open_store(path)
