"""Lattices from noise, and the paper's protocol: the process of `refine` from another start."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.files import printable
from skild_phys.models import find_model
from skild_phys.rng import system_seed
from skild_phys.skild.data import ImageLattices, pixels_of
from skild_phys.skild.equations import make_step
from skild_phys.skild.networks import arithmetic
from skild_phys.skild.produce import Lattices, image_batch, produce
from skild_phys.skild.schedule import (
    chain_record,
    check_restarts,
    starting_lambda,
    usual_restarts,
)
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import make_basis
from skild_phys.skild.streams import Streams
from skild_phys.skild.weights import Weights, refining_lambda
from skild_phys.store import Lattices as Input
from skild_phys.store import sides, streams_at


@dataclass(frozen=True)
class GenerateSpec:
    """How to generate.

    Attributes
    ----------
    steps : denoiser calls a lattice; None for as many as the start asks for
        (`schedule.restarting_lambdas`).
    sampler : of `equations.STEPS`.
    restarts : how often the chain goes back up (`schedule.restarting_lambdas`). Where nothing is
        known of a lattice it adds an error instead of removing one.
    seed : of all random numbers, together with the weights and the sides.
    lambda_start, lambda_end : ends of the chain; None for where no wave is left, or the largest
        lambda the weights have seen (from noise), for that of the factor (from a truth), and for
        `Tuning.lambda_end`.
    """

    steps: int | None = None
    sampler: str = "stochastic"
    restarts: int = 0
    seed: int = 0
    lambda_start: float | None = None
    lambda_end: float | None = None

    def __post_init__(self) -> None:
        make_step(self.sampler)
        for name, low in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise BadInput(f"--{name}", value, f"a whole number of at least {low}")


def generate_store(
    output: str | Path,
    spec: GenerateSpec,
    weights: Weights,
    n_samples: int,
    shape: tuple[int, int],
    *,
    truth: Input | ImageLattices | None = None,
    factor: int | None = None,
    weights_sha256: str | None = None,
    extra_attrs: dict[str, Any] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    chunk: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Generate `n_samples` lattices into the store `output`, commit by commit.

    From pure noise, or, with `truth` and `factor`, by the paper's protocol: each chain starts from
    the forward marginal of its truth at the lambda where refinement by `factor` would start.
    That start knows more of the truth than a coarse lattice does; it is for evaluation.

    Returns
    -------
    {"samples": in the store, "seconds": wall time of this call, "generated": by this call,
    "warnings": `Weights.warnings`, which are an attribute of the store too}.
    """
    start = spec.lambda_start
    if start is None and factor is not None:
        start = refining_lambda(weights, factor) if weights.channels else starting_lambda(factor)
    elif start is None:
        start = weights.largest_lambda(make_basis(weights.basis, shape).lowest)
    restarts = usual_restarts(spec.restarts, spec.steps, spec.sampler, weights.tuning)
    lambdas = weights.lambdas(start, spec.lambda_end, spec.steps, restarts)
    check_restarts(lambdas, restarts, weights.tuning)
    warnings = weights.warnings(shape, start) if truth is None else []
    skild = Skild.of(weights, shape, device, spec.sampler)
    stream_rule = streams_at(output, overwrite)
    seed = system_seed(stream_rule, spec.seed, weights_sha256, *shape)
    first = truth.first if isinstance(truth, ImageLattices) else 0
    model = find_model(weights.system) if weights.output == "logits" else None

    def make(index: Sequence[int]) -> Lattices:
        streams = [Streams.of(seed, i) for i in index]
        with torch.inference_mode():
            if truth is None:
                y = skild.from_noise(streams)
            else:
                known = np.concatenate([truth.read(i, i + 1) for i in index]).astype(np.float32)
                known *= np.float32(truth.scale)
                y = skild.from_fields(torch.from_numpy(known), start, streams)
            made = skild.run(y, lambdas, streams, stop=stop)
            return pixels_of(np.asarray(made, np.float32)) if weights.channels else made

    def extra(lattices: Lattices, index: NDArray[np.int64]) -> dict[str, Lattices]:
        known: dict[str, Lattices] = {} if truth is None else {"parent": first + index}
        if model is None:
            return known
        return known | {
            "energy": model.energy(lattices),
            "magnetization": model.order_parameter(lattices),
        }

    attrs: dict[str, Any] = {
        **{k: v for k, v in weights.system.items() if k in ("model", "temperature") and v},
        "L": sides(shape),
        "method": "generate" if truth is None else "forward_marginal",
        "seed": spec.seed,
        "streams": stream_rule,
        "sampler": spec.sampler,
        "weights_sha256": weights_sha256,
        "arithmetic": arithmetic(device),
        "warnings": warnings or None,
        **chain_record(lambdas),
    }
    if truth is not None:
        attrs |= {"parent_store": printable(truth.path.name), "parent_sha256": truth.digest()}
        if isinstance(truth, ImageLattices):
            attrs["truth_sha256"] = truth.identity()
        attrs["factor"] = factor
    batch = image_batch((weights.channels, *shape)) if weights.channels else 1
    usual = max(1, min(1024, 2**19 // math.prod(shape))) if batch == 1 else 4 * batch
    began = time.perf_counter()
    generated = produce(
        output,
        make,
        field="image" if weights.channels else "spins" if weights.output == "logits" else "field",
        channels=weights.channels,
        batch=batch,
        n_samples=n_samples,
        shape=shape,
        chunk=chunk or usual,
        attrs={k: v for k, v in (attrs | (extra_attrs or {})).items() if v is not None},
        extra=extra,
        variables=tuple(extra(np.ones((1, *shape), dtype=np.int8), np.zeros(1, dtype=np.int64))),
        overwrite=overwrite,
        threads=threads,
        device=device,
        progress=progress,
        stop=stop,
    )
    return {
        "samples": n_samples,
        "generated": generated,
        "seconds": time.perf_counter() - began,
        "warnings": warnings,
    }
