"""Images side by side, as PNG."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from skild_phys.rng import Streams
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import pixels_of
from skild_phys.skild.skild import Skild
from skild_phys.skild.weights import Weights

_GAP, _PAPER = 2, 255  # pixels between images, and their grey


def grid(images: NDArray[np.uint8], columns: int | None = None, zoom: int = 1) -> Image.Image:
    """Return images (n, channels, Ly, Lx), 1 or 3 channels, in rows of `columns`.

    None is about as many columns as rows; each pixel becomes `zoom` x `zoom`.
    """
    n, _, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // columns)
    height, width = height * zoom + _GAP, width * zoom + _GAP
    sheet = np.full((rows * height - _GAP, columns * width - _GAP, 3), _PAPER, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        large = image.repeat(zoom, axis=1).repeat(zoom, axis=2)
        sheet[top : top + height - _GAP, left : left + width - _GAP] = np.moveaxis(large, 0, -1)
    return Image.fromarray(sheet)


_SAMPLES = 36
_STEPS = {"ancestral": 100, "stochastic": 40, "angle2": 20}


def sample_grid(
    weights: Weights, shape: tuple[int, int], device: torch.device | str = "cpu"
) -> bytes:
    """Return a PNG of _SAMPLES fields from noise, always the same noise, in _STEPS calls.

    The sampler is the usual one of the weights.
    """
    sampler = str(Chain().sampler_for(weights))
    skild = Skild.of(weights, shape, device, sampler)
    lambdas = Chain(_STEPS[sampler]).generating(weights, shape, None)
    streams = [Streams.of(0, i) for i in range(_SAMPLES)]
    fields = np.asarray(skild.run(skild.from_noise(streams), lambdas, streams), np.float32)
    buffer = io.BytesIO()
    grid(pixels_of(fields if fields.ndim == 4 else fields[:, None]), zoom=2).save(buffer, "png")
    return buffer.getvalue()
