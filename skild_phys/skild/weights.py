"""Weights on disk: one safetensors file with the network, its spectrum and how it came about.

Weights and checkpoints are named tensors, and a record in the header; nothing in them is executed.
One SHA-256 covers every tensor and the record, and is checked before a number is used. A record
without an entry, of an earlier version, has its default.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skild_phys.errors import BadInput, WeightsError
from skild_phys.files import parse_json, write_bytes_atomically
from skild_phys.skild.chain import SCHEDULES, TIMES, USUAL, Schedule, Tuning
from skild_phys.skild.equations import Process
from skild_phys.skild.levels import coarser_grids
from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig, from_published, read_published
from skild_phys.skild.networks import OUTPUTS, SYMMETRIES, Network, NetworkConfig, network_dtype
from skild_phys.skild.recipe import NETWORKS, Recipe, as_record, from_table
from skild_phys.skild.response import Response
from skild_phys.skild.spectrum import Spectrum, spectrum_from_record
from skild_phys.skild.spins import Couplings

FAR = 1e12  # lambda to which weights with a grid for every scale are good: any
_FORMAT = "skild-phys weights 6"
_KEY = "skild-phys"


def _content_sha256(record: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a record (sorted JSON, less its entry 'sha256') and named tensors.

    Of each tensor, in order of name: name, dtype, shape and bytes.
    """
    rest = {key: value for key, value in record.items() if key != "sha256"}
    digest = hashlib.sha256((json.dumps(rest, sort_keys=True) + "\n").encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(
    path: str | Path, key: str, record: dict[str, Any], tensors: dict[str, Tensor]
) -> str:
    """Write tensors, and `record` under `key` of the header, atomically; return the SHA-256."""
    sha = _content_sha256(record, tensors)
    # One key: safetensors writes several in no fixed order, and equal weights are equal bytes.
    header = {key: json.dumps(record | {"sha256": sha}, sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes_atomically(path, save(tensors, metadata=header))
    return sha


def read_tensors(
    path: str | Path, key: str, kind: str, form: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_tensors` wrote, checked; raises WeightsError naming file and fault.

    `kind` is what the file should be, in words, `form` the `format` of its record.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such {kind}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable {kind} ({error})") from None
    try:
        record = parse_json(header[key], finite=False)
    except (LookupError, ValueError):
        record = None
    # Checkpoints of before have their format beside the record.
    if not isinstance(record, dict) or record.get("format", header.get("format")) != form:
        raise WeightsError(f"{path}: not a {kind} of this version ({form})")
    if _content_sha256(record, tensors) != record.get("sha256"):
        raise WeightsError(f"{path}: does not match the SHA-256 in its header; it was altered")
    return record, tensors


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained denoiser and what it was trained for.

    Attributes
    ----------
    tensors : the network's parameters by name.
    network : its shape; None where the mean field of spins is all there is.
    spectrum : P(kappa) of the data; part of the process, so part of the weights.
    output : of `networks.OUTPUTS`.
    lambda_range : the lambdas the weights are good for, (smallest, largest): those seen in
        training, and all smaller ones where the mean field works alone.
    system : model, temperature and lattice size of the training data.
    training : the record of the run.
    basis : 'dft' or 'dct'.
    couplings : pair couplings of the mean field; spins only.
    network_from : the lambda below which spins are left to the mean field alone.
    symmetries : what the data are taken to be symmetric under (`networks.SYMMETRIES`).
    channels : of images; 0 for lattices.
    cutoff : kappa_c of the process; None for the lowest wave number above zero.
    schedule : along which lambda was drawn, and chains take their steps, on the lattice; None for
        a grid for every octave.
    tuning : numbers that suit the system.
    dimension : of the lattice.
    window : lambda over the square of the spacing, smallest and largest, that a grid serves; None
        for one grid, the lattice, at every lambda.
    responses : what rules that are not linear make of the data, by name, for the grids.
    """

    tensors: dict[str, Tensor]
    network: NetworkConfig | NcsnppConfig | None
    spectrum: Spectrum
    output: str
    lambda_range: tuple[float, float]
    system: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    basis: str = "dft"
    couplings: Couplings = field(default_factory=Couplings)
    network_from: float = 0.0
    symmetries: tuple[str, ...] = SYMMETRIES
    channels: int = 0
    cutoff: float | None = None
    schedule: Schedule | None = None
    tuning: Tuning = USUAL
    dimension: int = 2
    window: tuple[float, float] | None = None
    responses: Mapping[str, Response] = field(default_factory=dict)

    @classmethod
    def of(
        cls, recipe: Recipe, tensors: dict[str, Tensor], spectrum: Spectrum,
        couplings: Couplings, channels: int, system: dict[str, Any], training: dict[str, Any],
        responses: Mapping[str, Response] = MappingProxyType({}), dimension: int = 2,
    ) -> Weights:  # fmt: skip
        """Return weights of what `recipe` describes."""
        c = recipe
        # Below network_from the spin denoiser has no trainable part.
        all_below = c.output == "logits" and c.lambda_min <= c.network_from
        reach = (0.0 if all_below else c.lambda_min, FAR)
        if c.lambdas is not None:
            low, high = c.lambdas(np.array([1.0 / TIMES, 1.0]))
            reach = (float(low), float(high))
        return cls(
            tensors, c.network, spectrum, c.output, reach, system, training, c.basis, couplings,
            c.network_from, c.symmetries, channels, c.kappa_c, c.lambdas, c.tuning,
            dimension=dimension, responses=responses,
            window=(c.window[0], c.window[1]) if c.over_grids else None,
        )  # fmt: skip

    def check_fit(
        self, attrs: Mapping[str, Any], where: Path, any_system: bool = False
    ) -> list[str]:
        """Raise WeightsError where samples with these attributes are of another model or T.

        With `any_system` return it as a warning.
        """
        model, temperature = attrs.get("model"), attrs.get("temperature")
        own, known = self.system.get("model"), self.system.get("temperature")
        differs = ""
        if model is not None and own not in (None, model):
            differs = f"is of model {model}, the weights are of {own}"
        elif (
            temperature is not None
            and known is not None
            and (abs(temperature / known - 1.0) > self.tuning.same_temperature)
        ):
            differs = f"is at T = {temperature:.6g}, the weights are of T = {known:.6g}"
        if differs and not any_system:
            advice = "refine with any_system=True takes it all the same"
            raise WeightsError(f"{where}: {differs}; {advice}")
        return [f"{where.name} {differs}"] if differs else []

    def process(
        self, shape: tuple[int, ...], device: torch.device | str = "cpu",
        grid: tuple[int, ...] | None = None,
    ) -> Process:  # fmt: skip
        """Return the forward process of these weights for fields of `shape`, or on its `grid`."""
        return Process(self.spectrum, shape, device, self.basis, self.cutoff, grid)

    def grids(
        self, shape: tuple[int, ...], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Process, float]]:
        """Yield processes on the grids of a lattice, itself first, and the lambda each goes to."""
        yield self.process(shape, device), 0.0
        if self.window is not None:
            for grid, spacing in coarser_grids(shape, self.basis):
                yield self.process(shape, device, grid), self.window[0] * spacing**2

    def evaluations(
        self, shape: tuple[int, ...], lambdas: NDArray[np.float64]
    ) -> tuple[int, float]:
        """Return how many evaluations of a chain are on the lattice, and what all cost.

        That is the work of the network in units of one evaluation on the lattice, by its own sites,
        those behind its first convolution.
        """
        network, window = self.network, self.window or (math.inf, math.inf)
        patch, fields = getattr(network, "patch", 1), getattr(network, "field_patch", 0)
        ratio = patch / fields if fields and self.output == "logits" else 1.0
        lattice, cost = 0, 0.0
        coarser = [(grid, window[0] * s**2) for grid, s in coarser_grids(shape, self.basis)]
        for lam in lambdas.tolist():
            above = [grid for grid, low in coarser if lam > low]
            lattice += not above
            if above:
                cost += math.prod(above[-1]) / math.prod(shape) * ratio ** len(shape)
            else:
                cost += self.output != "logits" or lam >= self.network_from
        return lattice, 0.0 if network is None else round(cost, 3)

    def build(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Network:
        """Return the network in evaluation mode, its body in `dtype` (None: `network_dtype`)."""
        network = self._untrained()
        network.load_state_dict(self.tensors)
        network.to(device).cast(dtype or network_dtype(device))
        layout = getattr(network, "memory_format", torch.channels_last)
        return network.to(memory_format=layout).eval()  # type: ignore[call-overload, no-any-return]

    def _untrained(self) -> Network:
        if self.network is None:
            raise BadInput("checkpoint", "weights without a network", "weights with one")
        channels = max(1, self.channels)
        grids = self.window is not None
        return self.network.build(
            self.output, self.basis, channels, self.schedule, self.dimension, grids
        )


_LATE = {"tuning": USUAL, "dimension": 2, "window": None, "responses": {}}
"""Entries of a record that are left out where they are as usual."""


def _record(weights: Weights) -> dict[str, Any]:
    """Return what the header holds: all but the tensors, and what is as usual of late entries."""
    record = {name: as_record(value) for name, value in vars(weights).items() if name != "tensors"}
    for name, usual in _LATE.items():
        if getattr(weights, name) == usual:
            del record[name]
    return record | {"format": _FORMAT, "spectrum": weights.spectrum.record()}


_READ: dict[str, Callable[[Any], Any]] = {
    "network": lambda table: table and from_table(_known(table), NETWORKS, "network"),
    "spectrum": spectrum_from_record,
    "lambda_range": lambda pair: (float(pair[0]), float(pair[1])),
    "couplings": Couplings.from_record,
    "network_from": float,
    "window": lambda pair: pair and (float(pair[0]), float(pair[1])),
    "responses": lambda table: {k: Response.from_record(v) for k, v in table.items()},
    "symmetries": tuple,
    "channels": int,
    "schedule": lambda table: table and SCHEDULES[table["kind"]](**table),
    "tuning": lambda table: from_table(table, {}, "tuning", USUAL),
}
"""How entries of a record are read that are no plain numbers or texts."""


def _known(network: dict[str, Any]) -> dict[str, Any]:
    """Return a table without what version 0.1 wrote of a network that had no bands of waves."""
    return {k: v for k, v in network.items() if (k, v) != ("waves", 0)}


@functools.lru_cache(maxsize=4)
def weights_sha256(weights: Weights) -> str:
    """Return the SHA-256 that stands in the file of `weights`; the last few are kept."""
    return _content_sha256(_record(weights), weights.tensors)


def save_weights(path: str | Path, weights: Weights) -> str:
    """Write `weights` to `path` atomically and return their SHA-256."""
    return write_tensors(path, _KEY, _record(weights), weights.tensors)


def load_weights(path: str | Path) -> Weights:
    """Read and verify weights; raises WeightsError naming file and fault."""
    record, tensors = read_tensors(path, _KEY, "weights file", _FORMAT)
    if not (record.get("window") or record.get("schedule")):
        raise WeightsError(f"{path}: of version 0.1, with one grid for all scales; train anew")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor '{name}' holds numbers that are not finite")
    try:
        entries = {key: value for key, value in record.items() if key not in ("format", "sha256")}
        weights = Weights(tensors, **{k: _READ.get(k, lambda x: x)(v) for k, v in entries.items()})
        if weights.output not in OUTPUTS:
            raise ValueError(f"output '{weights.output}' is none of {', '.join(OUTPUTS)}")
        expected = {} if weights.network is None else weights._untrained().state_dict()
    except (BadInput, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: the record in its header is incomplete ({error})") from None
    if "converted" in weights.training and weights.output == "eps":
        accepted = "version 0.1 misread the output of published networks; convert them again"
        raise WeightsError(f"{path}: converted from '{weights.training['converted']}': {accepted}")
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in tensors.items()}:
        raise WeightsError(f"{path}: the tensors do not fit the network the header describes")
    return weights


def shipped_weights(name: str = "ising2d") -> Path:
    """Return the path of the weights that come with the package."""
    path = Path(str(resources.files("skild_phys.skild").joinpath(f"weights/{name}.safetensors")))
    if not path.is_file():
        raise WeightsError(f"{path}: the shipped weights are missing from this installation")
    return path


def published_weights(path: Path, config: Recipe, preset: str) -> Weights:
    """Return weights from a file of the published code (`read_published`), of the recipe `config`.

    There eps_k, standard normal, is the network's output after a DCT that is 2/L of a sum of
    cosines along each axis; the last layer divides by side / 2, and white noise is of variance 1.

    Raises BadInput unless `config`, of `preset`, is the paper's; WeightsError if `path` is none of
    its networks.
    """
    lam, law = config.lambdas, config.paper_spectrum
    channels = 3 if config.data == "images" else 1
    with torch.device("meta"):
        network = config.network.build(config.output, config.basis, channels, lam)
    if lam is None or law is None or config.output != "white_eps" or type(network) is not Ncsnpp:
        accepted = "a recipe of ncsnpp with the paper's spectrum and output, white_eps"
        raise BadInput("preset", preset, accepted)
    tensors = from_published(network, read_published(path))
    for end in ("weight", "bias"):
        tensors[f"leave.{end}"] = tensors[f"leave.{end}"] * (2.0 / law.side)
    images = config.data == "images"
    system = {"model": "images" if images else config.model, "temperature": None}
    return Weights.of(
        config, tensors, law, Couplings(), channels if images else 0,
        system | {"side": config.side}, {"converted": path.name},
    )  # fmt: skip
