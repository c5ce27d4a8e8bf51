"""Configurations from noise, and the paper's protocol: the chain of `refine` from another start."""

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
from skild_phys.models import MODELS, Model
from skild_phys.models.base import LARGEST_SIDE
from skild_phys.rng import STREAMS, Streams, system_seed
from skild_phys.runner import GPU_BATCH, Filled, Run, fill_store, lattice_batch, padded
from skild_phys.skild.chain import Chain
from skild_phys.skild.data import ImageLattices, pixels_of
from skild_phys.skild.equations import Stop
from skild_phys.skild.skild import built, chain_record
from skild_phys.skild.weights import Weights
from skild_phys.store import Lattices, Plan, Source, open_lattices, sides, streams_at

_CPU_NUMBERS = 2**16
"""Of images that make a batch on a CPU: of 32 x 32 pixels of 3 channels there are 21."""


def image_batch(shape: tuple[int, ...], device: str) -> int:
    """Return how many images (channels, Ly, Lx) go through a network at once."""
    return max(1, _CPU_NUMBERS // math.prod(shape)) if device == "cpu" else GPU_BATCH


class Generation:
    """What is to be generated: from noise or, with a truth, by the paper's protocol.

    There each chain starts from the forward marginal of its truth at the lambda where refinement by
    `factor` would start. That start holds more of the truth than a coarse configuration; it is for
    evaluation.

    Parameters
    ----------
    L : side, or sides (Ly, Lx) or (Lz, Ly, Lx), from noise.
    samples : how many; None for 100, or all of `truth`.
    truth : what the weights are of. `split` of its images: train or test.

    Attributes
    ----------
    shape, n_samples : what follows of these.

    Raises
    ------
    BadInput, WeightsError for another system, and what opening `truth` raises.
    """

    def __init__(
        self,
        weights: Weights,
        chain: Chain,
        *,
        L: int | Sequence[int] | None = None,
        samples: int | None = None,
        seed: int = 0,
        truth: Source | None = None,
        factor: int | None = None,
        split: str | None = None,
    ) -> None:
        self.weights, self.chain, self.factor = weights, chain, factor
        self.seed = check_whole("seed", seed, 0)
        if samples is not None:
            check_whole("samples", samples)
        self.truth = None if truth is None else _opened(truth, split, weights)
        if split is not None and not isinstance(self.truth, ImageLattices):
            raise BadInput("split", split, "none without truth= of images")
        if self.truth is None:
            if factor is not None:
                raise BadInput("factor", factor, "a factor only with truth=")
            d = weights.dimension
            own = tuple(L) if isinstance(L, Sequence) else (L,) * d
            if L is None or len(own) != d:
                raise BadInput("L", L, f"a side, or {d} sides, as the weights are of {d}D")
            self.shape = tuple(check_whole("L", side, 2, LARGEST_SIDE[d]) for side in own)
            self.n_samples = samples or 100
            return
        if L is not None:
            raise BadInput("L", L, "no size with truth=, whose size it is")
        if (factor is None and chain.lambda_start is None) or (factor is not None and factor < 2):
            raise BadInput("factor", factor, "a whole number of at least 2 with truth=")
        most = self.truth.n_samples
        if samples is not None and samples > most:
            raise BadInput("samples", samples, f"at most {most}, what {self.truth.path} holds")
        self.shape = tuple(self.truth.shape)
        self.n_samples = samples or most

    def run(self, output: AnyPath | None, run: Run) -> tuple[Filled, list[str]]:
        """Generate into the store `output`, or into memory.

        Returns
        -------
        What was done, and warnings, which the store keeps too.
        """
        weights, truth, shape = self.weights, self.truth, self.shape
        sampler = self.chain.sampler_for(weights)
        lambdas = self.chain.generating(weights, shape, self.factor)
        warnings = _warnings(weights, shape) if truth is None else []
        record = chain_record(weights, shape, lambdas, sampler, run.device)
        streams = STREAMS if output is None else streams_at(output, run.overwrite)
        attrs: dict[str, Any] = {
            **{k: v for k, v in weights.system.items() if k in ("model", "temperature") and v},
            "L": sides(shape),
            "method": "generate" if truth is None else "forward_marginal",
            "seed": self.seed,
            "streams": streams,
            "warnings": warnings or None,
            **record,
            **run.attrs,
        }
        if truth is not None:
            attrs |= {"parent_store": printable(truth.path.name), "parent_sha256": truth.digest()}
            attrs |= {"factor": self.factor}
        if isinstance(truth, ImageLattices):
            attrs |= {"truth_sha256": truth.identity()}
        batch, usual = lattice_batch(shape), max(1, min(1024, 2**19 // math.prod(shape)))
        if weights.channels:
            batch = image_batch((weights.channels, *shape), run.device)
            usual = 4 * batch
        make = _Generate(
            weights, lambdas, shape, sampler, run.device,
            system_seed(streams, self.seed, record["weights_sha256"], *shape), batch,
            None if truth is None else getattr(truth, "first", 0), getattr(truth, "scale", 1.0),
        )  # fmt: skip
        plan = Plan(
            field=_field(weights),
            channels=weights.channels,
            n_samples=self.n_samples,
            shape=shape,
            chunk=run.chunk or usual,
            attrs={k: v for k, v in attrs.items() if v is not None},
            variables=(
                *(() if truth is None else ("parent",)),
                *(("energy", "magnetization") if make.model else ()),
            ),
        )
        group = batch if run.device == "cpu" else GPU_BATCH
        given = None if truth is None else truth.read
        filled = fill_store(output, plan, make, run, batch=group, given=given)
        for text in warnings:
            warn(text)
        return filled, warnings


def _field(weights: Weights) -> str:
    return "image" if weights.channels else "spins" if weights.output == "logits" else "field"


def _opened(truth: Source, split: str | None, weights: Weights) -> Lattices | ImageLattices:
    store, wanted = open_lattices(truth, repeats=True), _field(weights)
    d, channels = weights.dimension, weights.channels
    if (len(store.shape), store.field, store.channels) != (d, wanted, channels):
        many = f" of {channels} channels" if channels else ""
        raise BadInput("truth", str(store.path), f"a store of {d}D '{wanted}'{many}")
    if store.layout.components > 1:
        raise BadInput("truth", str(store.path), "a store of fields of one number per site")
    if channels:
        return ImageLattices(store, split)
    weights.check_fit(store.attrs, store.path)
    return store


def _warnings(weights: Weights, shape: tuple[int, ...]) -> list[str]:
    """Return what to mind of fields from noise, by the sides that the weights were trained on."""
    known = weights.system.get("shape") or [weights.system.get("side")] * len(shape)
    found = []
    if weights.window is None and None not in known and list(shape) != list(known):
        one, other = (" x ".join(map(str, sides)) for sides in (shape, known))
        found.append(
            f"{one} from noise by weights trained on {other}: at other sizes statistics are"
            " biased, energy, susceptibility and U4 among them"
        )
    tori = getattr(weights.spectrum, "tori", ())
    alone = len(tori) == 1 and not weights.training.get("config", {}).get("shapes")
    if weights.window and alone and list(shape) != list(known):
        found.append(
            f"{' x '.join(map(str, shape))} from noise by weights trained on"
            f" {' x '.join(map(str, known))} alone: the spectrum of its longest waves is that of a"
            " critical point"
        )
    longest = max((ratios[-1] for ratios, _ in tori), default=0)
    if longest and max(shape) > 1.1 * longest * min(shape):
        found.append(
            f"{' x '.join(map(str, shape))} from noise by weights trained on aspect ratios"
            f" up to {longest:g}: the longest waves, and all that depends on them, are biased"
        )
    return found


@dataclass(frozen=True)
class _Generate:
    """Makes samples from noise, or from truths; `first` is the number of the first truth."""

    weights: Weights
    lambdas: NDArray[np.float64]
    shape: tuple[int, ...]
    sampler: Any
    device: str
    seed: int
    batch: int
    first: int | None
    scale: float

    @property
    def model(self) -> Model | None:
        """The model that energies are of."""
        spins = _field(self.weights) == "spins"
        return MODELS.get(str(self.weights.system.get("model"))) if spins else None

    def __call__(
        self, index: NDArray[np.int64], *truths: NDArray[Any], stop: Stop
    ) -> dict[str, NDArray[Any]]:
        skild = built(self.weights, self.shape, self.device, self.sampler)
        full = padded(index, self.batch)
        streams = [Streams.of(self.seed, i) for i in full.tolist()]
        with torch.inference_mode():
            if truths:
                known = truths[0][full - index[0]].astype(np.float32) * np.float32(self.scale)
                y = skild.from_fields(torch.from_numpy(known), float(self.lambdas[0]), streams)
            else:
                y = skild.from_noise(float(self.lambdas[0]), streams)
            made: NDArray[Any] = skild.run(y, self.lambdas, streams, stop=stop)[: len(index)]
        field, model = _field(self.weights), self.model
        arrays = {field: pixels_of(np.asarray(made, np.float32)) if field == "image" else made}
        if self.first is not None:
            arrays["parent"] = self.first + index
        if model is not None:
            arrays |= {"energy": model.energy(made), "magnetization": model.order_parameter(made)}
        return arrays
