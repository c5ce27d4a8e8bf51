"""Super-resolution: images from low-resolution ones alone, by the chain of `refine`.

Low-resolution images are A x = R x C^T: R and C act along the two axes, averages over the area of
each coarse pixel, or the bicubic kernel stretched over it (antialiasing), both for any two sizes.
They are matrices in the DCT-II too, so a fine image is moved onto A x = y in the metric Sigma of
its modes by a few conjugate gradients, x + Sigma A^T (A Sigma A^T)^-1 (y - A x).
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.files import AnyPath, printable
from skild_phys.images.datasets import image_plan
from skild_phys.images.spec import ImageRefineSpec
from skild_phys.rng import Streams, input_seed
from skild_phys.runner import GPU_BATCH, Filled, Run, fill_store, padded
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import ImageLattices, fields_of, pixels_of
from skild_phys.skild.equations import Correct, Stop
from skild_phys.skild.generate import image_batch
from skild_phys.skild.skild import Skild, built, chain_record
from skild_phys.skild.spectrum import cosines
from skild_phys.skild.weights import Weights
from skild_phys.store import Lattices, streams_at

_Array = NDArray[np.float64]

TOLERANCE, MOST = 1e-9, 60
"""Conjugate gradients end at this norm of the residual over that of y, in the metric of the
preconditioner, or after so many steps."""
_ROUNDS, _HALF_A_LEVEL = 30, 0.5 / 127.5
"""How often at most what is beyond black and white is cut off and made good elsewhere, and how far
beyond is left to the rounding to 8 bits."""


def _area(distance: _Array, scale: float) -> _Array:
    """Return the share of each fine pixel that lies in a coarse one, by centres' distance."""
    return ((0.5 * (scale + 1.0) - np.abs(distance)).clip(0.0, 1.0)).clip(max=min(scale, 1.0))


def _bicubic(distance: _Array, scale: float) -> _Array:
    """Return Keys' cubic with a = -1/2, stretched by `scale`."""
    x = np.abs(distance) / scale
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


RULES: dict[str, Callable[[_Array, float], _Array]] = {"area": _area, "bicubic": _bicubic}


def _resampling(rule: str, fine: int, coarse: int) -> _Array:
    """Return the matrix (coarse, fine) float64 of `rule` along one axis; its rows sum to 1.

    Beyond the edges there is nothing: weights there are left out, as Pillow does.
    """
    scale = fine / coarse
    centres = (np.arange(coarse) + 0.5) * scale - 0.5
    distance = np.asarray(centres[:, None] - np.arange(fine), dtype=np.float64)
    weights = RULES[rule](distance, max(scale, 1.0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _enlarged(images: _Array, shape: tuple[int, int]) -> _Array:
    """Return images (..., ly, lx) resampled to the larger `shape` by the bicubic kernel."""
    rows, columns = (_resampling("bicubic", *s) for s in zip(images.shape[-2:], shape, strict=True))
    return np.asarray(rows @ images @ columns.T)


def _scaled(shape: tuple[int, int], factor: float, finer: bool) -> tuple[int, int]:
    """Return sides `factor` times those of `shape`, or less by it, rounded; raises BadInput."""
    if not 1.0 < factor <= 64.0:
        raise BadInput("factor", factor, "a number above 1, up to 64")
    height, width = (round(side * factor if finer else side / factor) for side in shape)
    if not finer and min(height, width) < 2:
        raise BadInput("factor", factor, f"one that leaves sides of 2 or more of {shape}")
    return height, width


class LowResolution:
    """The operator A from images of `fine` sides to `coarse` ones, and the correction by it.

    Parameters
    ----------
    rule : of RULES.
    fine, coarse : (Ly, Lx) and (ly, lx).
    """

    def __init__(self, rule: str, fine: tuple[int, int], coarse: tuple[int, int]) -> None:
        if rule not in RULES:
            raise BadInput("rule", rule, " or ".join(RULES))
        self._rows, self._columns = (_resampling(rule, *sides) for sides in zip(fine, coarse))
        self._fine = [cosines(side).numpy() for side in fine]
        self._coarse = [cosines(side).numpy() for side in coarse]
        self._y, self._x = self._rows @ self._fine[0].T, self._columns @ self._fine[1].T
        self._y2, self._x2 = (self._coarse[0] @ self._y) ** 2, (self._coarse[1] @ self._x) ** 2

    def apply(self, images: _Array) -> _Array:
        """Return A x for images (..., Ly, Lx)."""
        return np.asarray(self._rows @ images @ self._columns.T)

    def misfit(self, images: NDArray[Any], low: NDArray[Any]) -> _Array:
        """Return the mean square of A x - y of fields (n, channels, ...), in 8-bit levels, (n,)."""
        missing = 127.5 * (self.apply(images.astype(np.float64)) - low)
        return np.asarray((missing**2).mean((1, 2, 3)))

    def correct(self, images: _Array, low: _Array, sigma: _Array) -> _Array:
        """Return images (..., Ly, Lx) moved onto A x = `low` (..., ly, lx), to TOLERANCE.

        Parameters
        ----------
        sigma : (Ly, Lx), how uncertain each mode of the DCT-II is, or of each channel
            (channels, Ly, Lx).
        """

        def seen(z: _Array) -> _Array:
            return np.asarray(self._y @ (sigma * (self._y.T @ z @ self._x)) @ self._x.T)

        diagonal = self._y2 @ sigma @ self._x2.T
        # What nothing uncertain is seen by stays: the mean, where it is never erased (cutoff 0).
        open_ = diagonal > 1e-12 * diagonal.max((-2, -1), keepdims=True)
        inverse = np.where(open_, 1.0 / np.where(open_, diagonal, 1.0), 0.0)
        gy, gx = self._coarse

        def preconditioned(r: _Array) -> _Array:
            return np.asarray(gy.T @ (inverse * (gy @ r @ gx.T)) @ gx)

        def dot(a: _Array, b: _Array) -> _Array:
            return np.asarray((a * b).sum((-2, -1), keepdims=True))

        missing = low - self.apply(images)
        z, direction = np.zeros_like(missing), preconditioned(missing)
        gain = dot(missing, direction)
        least = TOLERANCE**2 * dot(low, preconditioned(low))
        for _ in range(MOST):
            going = gain > least
            if not going.any():
                break
            image = seen(direction)
            # An image that is there stays: what would move it is rounding.
            step = np.where(going, gain / np.where(going, dot(direction, image), 1.0), 0.0)
            z, missing = z + step * direction, missing - step * image
            towards = preconditioned(missing)
            before, gain = gain, np.where(going, dot(missing, towards), 0.0)
            direction = towards + gain / np.where(going, before, 1.0) * direction
        modes = sigma * (self._y.T @ z @ self._x)
        return np.asarray(images + self._fine[0].T @ modes @ self._fine[1])


class _ImageRefiner:
    """Weights at work on low-resolution images of one shape."""

    def __init__(
        self,
        weights: Weights,
        spec: ImageRefineSpec,
        low: tuple[int, int],
        high: tuple[int, int],
        device: str = "cpu",
    ) -> None:
        self.weights, self.high, self.device = weights, high, device
        self.sampler: Any = spec.sampler_for(weights)
        self.operator = LowResolution(spec.rule or "area", high, low)
        self.lambdas = spec.refining_images(weights, spec.factor or high[0] / low[0], high)

    @property
    def skild(self) -> Skild:
        return built(self.weights, self.high, self.device, self.sampler)

    def __call__(
        self, low: NDArray[np.float32], streams: Sequence[Streams], stop: Stop = lambda: False
    ) -> NDArray[Any]:
        """Return fields (n, channels, Ly, Lx) for low-resolution fields (n, channels, ly, lx)."""
        skild, correct = self.skild, self._correct(low)
        with torch.inference_mode():
            start = skild.from_condition(correct, float(self.lambdas[0]), streams)
            return skild.run(start, self.lambdas, streams, correct=correct, stop=stop)

    def _correct(self, low: NDArray[np.float32]) -> Correct:
        turned = self.skild.process.basis.turned
        known = turned(torch.from_numpy(low.astype(np.float64))).numpy()

        def correct(fields: Tensor, sigma: _Array) -> Tensor:
            # A acts on each channel alike, so on directions of channels too.
            wide = turned(fields.double().cpu()).numpy()
            moved = torch.from_numpy(self.operator.correct(wide, known, sigma))
            return turned(moved, back=True).float().to(fields.device)

        return correct

    def within(self, made: NDArray[Any], low: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return fields within [-1, 1] that A x = y holds for as well as it can.

        Intensities beyond are cut off and what is missing is made good, by turns: projections
        onto two convex sets.
        """
        process, correct = self.skild.process, self._correct(low)
        sigma = process.sine(float(self.lambdas[-1])).double() ** 2 * process.power
        fields = torch.from_numpy(np.asarray(made, dtype=np.float32))
        for _ in range(_ROUNDS):
            inside = fields.clamp(-1.0, 1.0)
            if float((fields - inside).abs().max()) < _HALF_A_LEVEL:
                break
            fields = correct(inside, sigma.cpu().numpy())
        return np.asarray(fields.clamp(-1.0, 1.0).numpy())


def coarsen_images(
    images: ImageLattices, output: AnyPath, rule: str, factor: float, run: Run
) -> Filled:
    """Write the low-resolution images A x, as 8-bit images, into the store `output`.

    Raises Interrupted once `run.stop` says so; what was committed stays.
    """
    shape = _scaled(images.shape, factor, finer=False)
    make = functools.partial(_coarsened, LowResolution(rule, images.shape, shape), images.first)
    attrs = {"rule": rule, "factor": factor, "fine_shape": list(images.shape)}
    attrs |= {"parent_store": printable(images.path.name), "parent_sha256": images.digest()}
    attrs |= {"truth_sha256": images.identity(), **run.attrs}
    plan = image_plan(len(images), (images.channels, *shape), attrs, ("parent",))
    return fill_store(output, plan, make, run, batch=plan.chunk, given=images.read)


def _coarsened(
    operator: LowResolution, first: int, index: NDArray[np.int64], fields: NDArray[Any], *,
    stop: Stop,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    low = pixels_of(operator.apply(fields.astype(np.float64)))
    return {"image": low, "parent": first + index}


def refine_images(
    low: Lattices,
    output: AnyPath,
    spec: ImageRefineSpec,
    weights: Weights | None,
    run: Run,
    *,
    n_samples: int | None = None,
) -> tuple[Filled, float | None]:
    """Make images from the first `n_samples` of `low` (None: all) into the store `output`.

    Returns
    -------
    What was done, and the misfit: rms of A x - y in 8-bit intensities, of the images as they are
    stored; None where all were there.
    """
    if low.field != "image":
        raise StoreError(f"{low.path}: holds '{low.field}', not images")
    spec = spec.settled(low)
    factor, rule = float(spec.factor or 0), str(spec.rule)
    n = low.n_samples if n_samples is None else check_whole("n", n_samples, 1, low.n_samples)
    sides = (low.shape[0], low.shape[1])
    shape, own = _scaled(sides, factor, finer=True), low.attrs.get("fine_shape")
    if own is not None and low.attrs.get("factor") == factor:
        shape = (int(own[0]), int(own[1]))
    streams = streams_at(output, run.overwrite)
    attrs: dict[str, Any] = {
        "method": spec.method, "rule": rule, "factor": factor, "seed": spec.seed,
        "parent_store": printable(low.path.name), "parent_sha256": low.digest(),
        "truth_sha256": low.attrs.get("truth_sha256"), "streams": streams, **run.attrs,
    }  # fmt: skip
    refiner: _ImageRefiner | None = None
    if spec.method == "skild":
        if weights is None:
            raise BadInput("checkpoint", None, "weights of images for method skild")
        if not weights.channels or weights.basis != "dct":
            accepted = "weights of images, in the basis dct"
            raise BadInput("checkpoint", "weights of lattices", accepted)
        if weights.channels != low.channels:
            held = f"weights of {weights.channels} channels"
            raise BadInput("checkpoint", held, f"{low.channels}")
        refiner = _ImageRefiner(weights, spec, sides, shape, run.device)
        attrs |= chain_record(weights, shape, refiner.lambdas, refiner.sampler, run.device)
    ids = low.variable("parent") if "parent" in low.variables else np.arange(low.n_samples)
    batch = image_batch((low.channels, *shape), run.device)
    seed = input_seed(streams, spec.seed, low.n_samples, low.read)
    make = _Refine(refiner, LowResolution(rule, shape, sides), shape, ids, batch, seed)
    plan = replace(
        image_plan(n, (low.channels, *shape), attrs, ("parent",)),
        chunk=run.chunk or max(4 * batch, 0 if run.device == "cpu" else GPU_BATCH),
    )
    filled = fill_store(output, plan, make, run, batch=batch, given=low.read)
    squares = filled.besides.get("misfit")
    return filled, None if squares is None else float(np.sqrt(np.mean(squares)))


@dataclass(frozen=True)
class _Refine:
    """Makes images of low-resolution pixels; without a refiner it interpolates."""

    refiner: _ImageRefiner | None
    judge: LowResolution
    shape: tuple[int, int]
    ids: NDArray[Any]
    batch: int
    seed: int

    def __call__(
        self, index: NDArray[np.int64], pixels: NDArray[np.uint8], *, stop: Stop
    ) -> dict[str, NDArray[Any]]:
        full, fields = padded(index, self.batch), fields_of(pixels)
        given = fields[full - index[0]]
        made: NDArray[Any]
        if self.refiner is None:
            made = _enlarged(given.astype(np.float64), self.shape)
        else:
            streams = [Streams.of(self.seed, i) for i in full.tolist()]
            made = self.refiner.within(self.refiner(given, streams, stop), given)
        images = pixels_of(made)[: len(index)]
        squares = self.judge.misfit(fields_of(images), fields)
        return {"image": images, "parent": self.ids[index], "misfit": squares}


_GAP, _PAPER = 2, 255  # pixels between images, and their grey
_SAMPLES = 36
_STEPS = {"ancestral": 100, "stochastic": 40, "angle3": 20}


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


def sample_grid(
    weights: Weights, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> bytes:
    """Return a PNG of _SAMPLES fields from noise, always the same noise, in _STEPS evaluations.

    The sampler is the usual one of the weights.
    """
    sampler = str(Chain().sampler_for(weights))
    skild = Skild.of(weights, shape, device, sampler)
    lambdas = Chain(_STEPS[sampler]).generating(weights, shape, None)
    streams = [Streams.of(0, i) for i in range(_SAMPLES)]
    fields = np.asarray(
        skild.run(skild.from_noise(float(lambdas[0]), streams), lambdas, streams), np.float32
    )
    buffer = io.BytesIO()
    grid(pixels_of(fields if fields.ndim == 4 else fields[:, None]), zoom=2).save(buffer, "png")
    return buffer.getvalue()
