"""Lattices from noise, and the paper's protocol: the process of `refine` from another start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errors import BadInput, check_whole, warn
from skild_phys.files import AnyPath, printable
from skild_phys.models import MODELS
from skild_phys.models.base import LARGEST_SIDE
from skild_phys.rng import STREAMS, Streams, system_seed
from skild_phys.runner import GPU_BATCH, Filled, Run, fill_store
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import ImageLattices, pixels_of
from skild_phys.skild.equations import Stop
from skild_phys.skild.skild import built, chain_record
from skild_phys.skild.weights import Weights, weights_sha256
from skild_phys.store import Lattices, Plan, Source, open_lattices, sides, streams_at

_CPU_NUMBERS = 2**16
"""Of images that make a batch on a CPU: of 32 x 32 pixels of 3 channels there are 21."""


def image_batch(shape: tuple[int, ...], device: str) -> int:
    """Return how many images (channels, Ly, Lx) go through a network at once."""
    return max(1, _CPU_NUMBERS // math.prod(shape)) if device == "cpu" else GPU_BATCH


def padded(index: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Return indices filled up to `batch` with the last: the size of a batch changes roundings."""
    return np.concatenate([index, np.repeat(index[-1:], batch - len(index))])


def opened_truth(truth: Source, split: str | None, weights: Weights) -> Lattices | ImageLattices:
    """Return true lattices, which must be what the weights are of; raises BadInput."""
    store = open_lattices(truth, repeats=True)
    wanted = "image" if weights.channels else "spins" if weights.output == "logits" else "field"
    if len(store.shape) != 2 or store.field != wanted or store.channels != weights.channels:
        many = f" of {weights.channels} channels" if weights.channels else ""
        raise BadInput("truth", str(store.path), f"a store of 2D '{wanted}'{many}")
    if weights.channels:
        return ImageLattices(store, split)
    weights.check_fit(store.attrs, store.path)
    return store


def start_of(
    L: int | Sequence[int] | None,
    samples: int | None,
    truth: Lattices | ImageLattices | None,
    factor: int | None,
    chain: Chain,
    split: str | None = None,
) -> tuple[tuple[int, int], int]:
    """Return the sides and the number of samples that are asked for; raises BadInput."""
    if samples is not None:
        check_whole("samples", samples)
    if split is not None and not isinstance(truth, ImageLattices):
        raise BadInput("split", split, "none without truth= of images")
    if truth is None:
        if factor is not None:
            raise BadInput("factor", factor, "a factor only with truth=")
        if L is None:
            raise BadInput("L", None, "a side, or sides (Ly, Lx)")
        both = (L, L) if not isinstance(L, Sequence) else tuple(L)
        if len(both) != 2:
            raise BadInput("L", L, "a side, or sides (Ly, Lx)")
        for side in both:
            check_whole("L", side, 2, LARGEST_SIDE[2])
        return (int(both[0]), int(both[1])), samples or 100
    if L is not None:
        raise BadInput("L", L, "no size with truth=, whose size it is")
    if (factor is None and chain.lambda_start is None) or (factor is not None and factor < 2):
        raise BadInput("factor", factor, "a whole number of at least 2 with truth=")
    if samples is not None and samples > truth.n_samples:
        raise BadInput("samples", samples, f"at most {truth.n_samples}, what {truth.path} holds")
    return (truth.shape[0], truth.shape[1]), samples or truth.n_samples


def generate(
    output: AnyPath | None,
    chain: Chain,
    weights: Weights,
    n_samples: int,
    shape: tuple[int, int],
    run: Run,
    *,
    seed: int = 0,
    truth: Lattices | ImageLattices | None = None,
    factor: int | None = None,
) -> tuple[Filled, list[str]]:
    """Generate `n_samples` lattices into the store `output`, or into memory.

    From pure noise, or, with `truth` and `factor`, by the paper's protocol: each chain starts from
    the forward marginal of its truth at the lambda where refinement by `factor` would start.
    That start knows more of the truth than a coarse lattice does; it is for evaluation.

    Returns
    -------
    What was done, and what is to be minded (`Weights.warnings`), an attribute of the store too.
    """
    check_whole("seed", seed, 0)
    sha256, sampler = weights_sha256(weights), chain.sampler_for(weights)
    lambdas, minded = chain.generating(weights, shape, factor)
    minded = minded if truth is None else []
    streams = STREAMS if output is None else streams_at(output, run.overwrite)
    attrs: dict[str, Any] = {
        **{k: v for k, v in weights.system.items() if k in ("model", "temperature") and v},
        "L": sides(shape),
        "method": "generate" if truth is None else "forward_marginal",
        "seed": seed,
        "streams": streams,
        "warnings": minded or None,
        **chain_record(weights, lambdas, sampler, run.device),
        **run.attrs,
    }
    if truth is not None:
        attrs |= {"parent_store": printable(truth.path.name), "parent_sha256": truth.digest()}
        attrs |= {"factor": factor}
        if isinstance(truth, ImageLattices):
            attrs["truth_sha256"] = truth.identity()
    batch = image_batch((weights.channels, *shape), run.device) if weights.channels else 1
    make = _Generate(
        weights, lambdas, shape, sampler, run.device,
        system_seed(streams, seed, sha256, *shape), batch,
        None if truth is None else getattr(truth, "first", 0), getattr(truth, "scale", 1.0),
    )  # fmt: skip
    usual = max(1, min(1024, 2**19 // math.prod(shape))) if not weights.channels else 4 * batch
    plan = Plan(
        field=make.field,
        channels=weights.channels,
        n_samples=n_samples,
        shape=shape,
        chunk=run.chunk or usual,
        attrs={k: v for k, v in attrs.items() if v is not None},
        variables=make.scalars,
    )
    group = batch if run.device == "cpu" else GPU_BATCH
    given = None if truth is None else truth.read
    filled = fill_store(output, plan, make, run, batch=group, given=given)
    for text in minded:
        warn(text)
    return filled, minded


@dataclass(frozen=True)
class _Generate:
    """Makes samples from noise, or from truths; `first` is the number of the first truth."""

    weights: Weights
    lambdas: NDArray[np.float64]
    shape: tuple[int, int]
    sampler: Any
    device: str
    seed: int
    batch: int
    first: int | None
    scale: float

    @property
    def field(self) -> str:
        spins = self.weights.output == "logits"
        return "image" if self.weights.channels else "spins" if spins else "field"

    @property
    def scalars(self) -> tuple[str, ...]:
        known = self.field == "spins" and str(self.weights.system.get("model")) in MODELS
        parent = () if self.first is None else ("parent",)
        return (*parent, *(("energy", "magnetization") if known else ()))

    def __call__(
        self, index: NDArray[np.int64], *truths: NDArray[Any], stop: Stop
    ) -> dict[str, NDArray[Any]]:
        skild = built(self.weights, self.shape, self.device, self.sampler)
        full = padded(index, self.batch) if self.batch > 1 else index
        streams = [Streams.of(self.seed, i) for i in full.tolist()]
        with torch.inference_mode():
            if truths:
                known = truths[0][full - index[0]].astype(np.float32) * np.float32(self.scale)
                y = skild.from_fields(torch.from_numpy(known), float(self.lambdas[0]), streams)
            else:
                y = skild.from_noise(streams)
            made: NDArray[Any] = skild.run(y, self.lambdas, streams, stop=stop)[: len(index)]
        field = self.field
        arrays = {field: pixels_of(np.asarray(made, np.float32)) if field == "image" else made}
        if self.first is not None:
            arrays["parent"] = self.first + index
        if "energy" in self.scalars:
            model = MODELS[str(self.weights.system["model"])]
            arrays |= {"energy": model.energy(made), "magnetization": model.order_parameter(made)}
        return arrays
