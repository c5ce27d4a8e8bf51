"""Weights on disk: one safetensors file with the network, its spectrum and how it came about.

A record without an entry, of an earlier version, has its default.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput, WeightsError
from skild_phys.skild.chain import (
    ERASED,
    SCHEDULES,
    TIMES,
    USUAL,
    Schedule,
    Tuning,
    starting_lambda,
)
from skild_phys.skild.equations import Process
from skild_phys.skild.networks import (
    NETWORKS,
    OUTPUTS,
    SYMMETRIES,
    AnyNetworkConfig,
    Network,
    make_network,
    network_dtype,
)
from skild_phys.skild.records import (
    as_record,
    changed,
    content_sha256,
    from_table,
    read_tensors,
    write_tensors,
)
from skild_phys.skild.spectrum import Spectrum, spectrum_from_record
from skild_phys.skild.spins import Couplings, couplings_from_record

_FORMAT = "skild-phys weights 6"
_KEY = "skild-phys"


_START_SEES, _NOISE_SEES = 0.35, 0.2
"""Most of the power of a wave that may be left where a chain starts: of a coarse lattice's finest
one for refining (the paper's chains by 4: 0.30), of the longest one for what starts from noise."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained denoiser and what it was trained for.

    Attributes
    ----------
    tensors : the network's parameters by name.
    network : its shape; None where the mean field of spins is all there is.
    spectrum : P(kappa) of the data; part of the process, so part of the weights.
    output : 'logits' (spins); 'v', 'eps', 'white_eps' or 'x0' (continuous fields).
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
    schedule : along which lambda was drawn, and chains take their steps; None for log-uniform.
    tuning : numbers that suit the system.
    dimension : of the lattice.
    """

    tensors: dict[str, Tensor]
    network: AnyNetworkConfig | None
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

    def lambdas(
        self, start: float, end: float | None, steps: int | None, restarts: int = 0
    ) -> NDArray[np.float64]:
        """Return the lambdas of a chain (`Tuning.lambdas`, or steps equal in t of `schedule`).

        `end` None is `tuning.lambda_end`, or the smallest that the weights have seen where they
        have a schedule; so many steps as it has are taken if `steps` is None. Raises BadInput if
        the chain leaves what was seen in training.
        """
        low, high = self.lambda_range
        if end is None:
            end = max(self.tuning.lambda_end, low) if self.schedule is None else low
        if not (low <= end < start <= high and end > 0):
            accepted = f"{low:.3g} <= end < start <= {high:.3g}, what the weights have seen"
            wrong = start > high or start <= low
            option, value = ("lambda_start", start) if wrong else ("lambda_end", end)
            raise BadInput(option, value, accepted)
        if self.schedule is None:
            return self.tuning.lambdas(start, end, steps, restarts)
        if restarts:
            raise BadInput("restarts", restarts, "0 for weights with a schedule of their own")
        if steps is None:
            t = self.schedule.inverse(np.array([start, end]))
            steps = 1 + max(1, round(TIMES * float(t[0] - t[1])))
        return self.schedule.lambdas(start, end, steps)

    @property
    def usual_sampler(self) -> str:
        """Return the sampler that chains take if none is asked for.

        The paper's for weights as in the paper; the flow of probability for other fields with a
        schedule, whose spectrum need not be that of the data.
        """
        if self.schedule is None:
            return "stochastic"
        return "ancestral" if self.output in ("eps", "white_eps") else "angle2"

    def largest_lambda(self, lowest: float) -> float:
        """Return where a chain from noise starts: where no wave is left, `lowest` the longest.

        Or at the largest lambda that the weights have seen, or the end of their schedule; raises
        BadInput if most of the longest wave is left there: weights for super-resolution.
        """
        high = self.lambda_range[1]
        longest = lowest if self.cutoff is None else self.cutoff
        if self.schedule is not None and math.exp(-(longest**2) * high) > _NOISE_SEES:
            accepted = "weights that begin with noise: these begin with an image, coarse or true"
            raise BadInput("checkpoint", f"lambda up to {high:.3g}", accepted)
        return min(high, ERASED / lowest**2) if self.schedule is None else high

    def refining_lambda(self, factor: float) -> float:
        """Return where chains that refine by `factor` start, as far as the weights have seen.

        Raises BadInput if the coarse lattice's finest wave is still to be seen there. A cutoff
        above it, as of white noise, erases it sooner.
        """
        high = self.lambda_range[1]
        lowest = math.sqrt(math.log(1.0 / _START_SEES) / high)  # what may have been seen of it
        if max(math.pi / factor, self.cutoff or 0.0) < lowest:
            accepted = f"at most {math.pi / lowest:.2g}, which these weights were trained for"
            raise BadInput("factor", factor, accepted)
        return min(starting_lambda(factor), high)

    def warnings(self, shape: tuple[int, ...], start: float) -> list[str]:
        """Return what to mind of fields of `shape` that chains from noise at lambda `start` make.

        By the sides that the weights were trained on, if they are known, and by how much of the
        longest-wavelength modes is still to be seen at `start`.
        """
        known = self.system.get("shape") or [self.system.get("side")] * 2
        found = []
        if None not in known and list(shape) != list(known):
            one, other = (" x ".join(map(str, sides)) for sides in (shape, known))
            found.append(
                f"{one} from noise by weights trained on {other}: at other sizes statistics are"
                " biased, energy, susceptibility and U4 among them"
            )
        erased = float(self.process(shape).kappa2.min()) * start
        if self.schedule is None and erased < 0.999 * ERASED:
            found.append(
                f"chains start from noise at lambda = {start:.4g}, where the longest-wavelength"
                f" modes still keep {math.exp(-erased):.2g} of their power: these are wrong"
            )
        return found

    def differs(self, attrs: Mapping[str, Any]) -> str | None:
        """Return how lattices differ from these in model or temperature; None for not at all."""
        model, temperature = attrs.get("model"), attrs.get("temperature")
        own, known = self.system.get("model"), self.system.get("temperature")
        if model is not None and own not in (None, model):
            return f"is of model {model}, the weights are of {own}"
        if temperature is None or known is None:
            return None
        far = abs(temperature / known - 1.0) > self.tuning.same_temperature
        return f"is at T = {temperature:.6g}, the weights are of T = {known:.6g}" if far else None

    def check_fit(self, attrs: Mapping[str, Any], where: Path) -> None:
        """Raise WeightsError where lattices with these attributes are of another system."""
        if differs := self.differs(attrs):
            advice = "refine with any_system=True takes it all the same"
            raise WeightsError(f"{where}: {differs}; {advice}")

    def process(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Process:
        """Return the forward process of these weights for fields of `shape`."""
        return Process(self.spectrum, shape, device, self.basis, self.cutoff)

    def make_network(self) -> Network:
        """Return an untrained network of the shape of these weights."""
        if self.network is None:
            raise BadInput("checkpoint", "weights without a network", "weights with one")
        return make_network(
            self.network,
            self.output,
            self.basis,
            max(1, self.channels),
            self.schedule,
            self.dimension,
        )

    def build(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Network:
        """Return the network in evaluation mode, its body in `dtype` (None: `network_dtype`)."""
        network = self.make_network()
        network.load_state_dict(self.tensors)
        network.to(device).cast(dtype or network_dtype(device))
        return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _record(weights: Weights) -> dict[str, Any]:
    """Return what the header holds: all but the tensors, and what is as usual of late entries."""
    record = {name: as_record(value) for name, value in vars(weights).items() if name != "tensors"}
    for name, usual in (("tuning", USUAL), ("dimension", 2)):
        if getattr(weights, name) == usual:
            del record[name]
    return record | {"format": _FORMAT, "spectrum": weights.spectrum.record()}


@functools.lru_cache(maxsize=4)
def weights_sha256(weights: Weights) -> str:
    """Return the SHA-256 that stands in the file of `weights`; the last few are kept."""
    return content_sha256(_record(weights), weights.tensors)


def save_weights(path: str | Path, weights: Weights) -> str:
    """Write `weights` to `path` atomically and return their SHA-256."""
    return write_tensors(path, _KEY, _record(weights), weights.tensors)


def load_weights(path: str | Path) -> Weights:
    """Read and verify weights; raises WeightsError naming file and fault."""
    record, tensors = read_tensors(path, _KEY, "weights file", _FORMAT)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor '{name}' holds numbers that are not finite")
    try:
        fields = {key: value for key, value in record.items() if key not in ("format", "sha256")}
        for key, read in _READ.items():
            if key in fields:
                fields[key] = read(fields[key])
        if fields["output"] not in OUTPUTS:
            raise ValueError(f"output '{fields['output']}' is none of {', '.join(OUTPUTS)}")
        weights = Weights(tensors, **fields)
        expected = {} if weights.network is None else weights.make_network().state_dict()
    except (BadInput, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: the record in its header is incomplete ({error})") from None
    if "converted" in weights.training and weights.output == "eps":
        accepted = "version 0.1 misread the output of published networks; convert them again"
        raise WeightsError(f"{path}: converted from '{weights.training['converted']}': {accepted}")
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in tensors.items()}:
        raise WeightsError(f"{path}: the tensors do not fit the network the header describes")
    return weights


_READ: dict[str, Callable[[Any], Any]] = {
    "network": lambda table: table and from_table(table, NETWORKS, "network"),
    "spectrum": spectrum_from_record,
    "lambda_range": lambda pair: (float(pair[0]), float(pair[1])),
    "couplings": couplings_from_record,
    "network_from": float,
    "symmetries": tuple,
    "channels": int,
    "schedule": lambda table: table and SCHEDULES[table["kind"]](**table),
    "tuning": lambda table: changed(USUAL, table, "tuning"),
}
"""How entries of a record are read that are no plain numbers or texts."""


def shipped_weights(name: str = "ising2d") -> Path:
    """Return the path of the weights that come with the package."""
    path = Path(str(resources.files("skild_phys.skild").joinpath(f"weights/{name}.safetensors")))
    if not path.is_file():
        raise WeightsError(f"{path}: the shipped weights are missing from this installation")
    return path
