"""Super-resolution: images from low-resolution ones alone, by the chain that refines lattices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.files import AnyPath, printable
from skild_phys.images.datasets import image_plan
from skild_phys.images.lowres import LowResolution, coarse_shape, enlarged, fine_shape
from skild_phys.images.spec import ImageRefineSpec
from skild_phys.rng import Streams, input_seed
from skild_phys.runner import GPU_BATCH, Filled, Run, fill_store
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import ImageLattices, fields_of, pixels_of
from skild_phys.skild.equations import Correct, Stop
from skild_phys.skild.generate import image_batch, padded
from skild_phys.skild.skild import Skild, built, chain_record, white_noise
from skild_phys.skild.spectrum import turned
from skild_phys.skild.weights import Weights
from skild_phys.store import Lattices, streams_at

_ROUNDS, _HALF_A_LEVEL = 30, 0.5 / 127.5
# Of cutting off what is beyond black and white and making good what that takes away, at most; and
# what 8 bits do not tell from it.


class ImageRefiner:
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
        chain = Chain(
            spec.steps, spec.sampler, lambda_start=spec.lambda_start, lambda_end=spec.lambda_end
        )
        self.sampler = str(chain.sampler_for(weights))
        self.operator = LowResolution(spec.rule or "area", high, low)
        self.lambdas = chain.refining_images(weights, spec.factor or high[0] / low[0])

    @property
    def skild(self) -> Skild:
        return built(self.weights, self.high, self.device, self.sampler)

    def __call__(
        self, low: NDArray[np.float32], streams: Sequence[Streams], stop: Stop = lambda: False
    ) -> NDArray[Any]:
        """Return fields (n, channels, Ly, Lx) for low-resolution fields (n, channels, ly, lx)."""
        skild, correct = self.skild, self._correct(low)
        with torch.inference_mode():
            shape = (low.shape[1], *skild.shape)
            prior = skild.process.gaussian(white_noise(streams, shape, skild.device))
            power = skild.process.power.cpu().numpy()
            start = skild.from_fields(correct(prior, power), float(self.lambdas[0]), streams)
            return skild.run(start, self.lambdas, streams, correct=correct, stop=stop)

    def _correct(self, low: NDArray[np.float32]) -> Correct:
        mixing = self.skild.process.basis.mixing
        known = turned(mixing, torch.from_numpy(low.astype(np.float64))).numpy()

        def correct(fields: Tensor, sigma: NDArray[np.float64]) -> Tensor:
            # A acts on each channel alike, so on directions of channels too.
            wide = turned(mixing, fields.double().cpu()).numpy()
            moved = torch.from_numpy(self.operator.correct(wide, known, sigma))
            return turned(mixing, moved, back=True).float().to(fields.device)

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
    shape = coarse_shape(images.shape, factor)
    operator = LowResolution(rule, images.shape, shape)
    attrs = {"rule": rule, "factor": factor, "fine_shape": list(images.shape)}
    attrs |= {"parent_store": printable(images.path.name), "parent_sha256": images.digest()}
    attrs |= {"truth_sha256": images.identity(), **run.attrs}

    def make(
        index: NDArray[np.int64], fields: NDArray[Any], *, stop: Stop
    ) -> dict[str, NDArray[Any]]:
        low = pixels_of(operator.apply(fields.astype(np.float64)))
        return {"image": low, "parent": images.first + index}

    plan = image_plan(images.n_samples, (images.channels, *shape), attrs, ("parent",))
    return fill_store(output, plan, make, run, batch=plan.chunk, given=images.read)


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
    shape = fine_shape(sides, factor)
    own = low.attrs.get("fine_shape")
    if own is not None and low.attrs.get("factor") == factor:
        shape = (int(own[0]), int(own[1]))
    streams = streams_at(output, run.overwrite)
    attrs: dict[str, Any] = {
        "method": spec.method, "rule": rule, "factor": factor, "seed": spec.seed,
        "parent_store": printable(low.path.name), "parent_sha256": low.digest(),
        "truth_sha256": low.attrs.get("truth_sha256"), "streams": streams, **run.attrs,
    }  # fmt: skip
    refiner: ImageRefiner | None = None
    if spec.method == "skild":
        if weights is None:
            raise BadInput("checkpoint", None, "weights of images for method skild")
        _check_weights(weights, low)
        refiner = ImageRefiner(weights, spec, sides, shape, run.device)
        attrs |= chain_record(weights, refiner.lambdas, refiner.sampler, run.device)
    ids = low.variable("parent") if low.has("parent") else np.arange(low.n_samples)
    batch = image_batch((low.channels, *shape), run.device)
    make = _Refine(
        refiner, LowResolution(rule, shape, sides), shape, ids, batch,
        input_seed(streams, spec.seed, low.n_samples, low.read),
    )  # fmt: skip
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

    refiner: ImageRefiner | None
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
            made = enlarged("bicubic", given.astype(np.float64), self.shape)
        else:
            streams = [Streams.of(self.seed, i) for i in full.tolist()]
            made = self.refiner.within(self.refiner(given, streams, stop), given)
        images = pixels_of(made)[: len(index)]
        missing = 127.5 * (self.judge.apply(fields_of(images).astype(np.float64)) - fields)
        squares = (missing**2).mean((1, 2, 3))
        return {"image": images, "parent": self.ids[index], "misfit": squares}


def _check_weights(weights: Weights, images: Lattices) -> None:
    """Raise BadInput or StoreError unless `weights` are of images with these channels."""
    if not weights.channels or weights.basis != "dct":
        raise BadInput("checkpoint", "weights of lattices", "weights of images, in the basis dct")
    if weights.channels != images.channels:
        raise BadInput(
            "checkpoint", f"weights of {weights.channels} channels", f"{images.channels}"
        )
