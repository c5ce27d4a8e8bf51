"""Weights on disk: one safetensors file with the network, its spectrum and how it came about.

Nothing in the file is executed. The SHA-256 in the header covers every tensor and the rest of
the header, and the whole file is checked against it before a number is used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skild_phys.errors import BadInput, WeightsError
from skild_phys.files import write_bytes_atomically
from skild_phys.skild.network import NetworkConfig, UNet
from skild_phys.skild.spectrum import Spectrum

FORMAT = "skild-phys weights 1"
HEADER_KEY = "skild-phys"
OUTPUTS = ("logits", "v")


@dataclass(frozen=True)
class Weights:
    """A trained denoiser and what it was trained for.

    Attributes
    ----------
    tensors : the network's parameters by name.
    network : its shape.
    spectrum : P(kappa) of the data; part of the process, so part of the weights.
    output : 'logits' (spins) or 'v' (continuous fields).
    lambda_range : the lambdas seen in training, (smallest, largest).
    system : model, temperature and lattice size of the training data.
    training : the record of the run.
    """

    tensors: dict[str, Tensor]
    network: NetworkConfig
    spectrum: Spectrum
    output: str
    lambda_range: tuple[float, float]
    system: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)

    def build(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> UNet:
        """Return the network in evaluation mode, its body in `dtype` (as stored if None)."""
        network = UNet(self.network)
        network.load_state_dict(self.tensors)
        # The angles of the embedding of log lambda stay in float32: bfloat16 has 3 digits.
        frequencies = network.frequencies.to(device)
        network.to(device, dtype or next(iter(self.tensors.values())).dtype)
        network.frequencies = frequencies
        return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def content_sha256(record: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a record, less its entry 'sha256', and of named tensors on the CPU.

    What is hashed is the record as JSON with sorted keys, then name, dtype, shape and bytes of
    each tensor in order of name.
    """
    rest = {key: value for key, value in record.items() if key != "sha256"}
    digest = hashlib.sha256((json.dumps(rest, sort_keys=True) + "\n").encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _record(weights: Weights) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "network": asdict(weights.network),
        "spectrum": asdict(weights.spectrum),
        "output": weights.output,
        "lambda_range": list(weights.lambda_range),
        "system": weights.system,
        "training": weights.training,
    }


def weights_sha256(weights: Weights) -> str:
    """Return the SHA-256 that stands in the file of `weights`: of its record and tensors."""
    return content_sha256(_record(weights), weights.tensors)


def save_weights(path: str | Path, weights: Weights) -> str:
    """Write `weights` to `path` atomically and return their SHA-256."""
    sha = weights_sha256(weights)
    # One key: safetensors writes several in no fixed order, and equal weights are equal bytes.
    header = {HEADER_KEY: json.dumps(_record(weights) | {"sha256": sha}, sort_keys=True)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in weights.tensors.items()}
    write_bytes_atomically(path, save(tensors, metadata=header))
    return sha


def load_weights(path: str | Path) -> Weights:
    """Read and verify weights; raises WeightsError naming file and fault."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        record = json.loads(header.get(HEADER_KEY, "{}"))
    except ValueError:
        record = {}
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a weights file of this program ({FORMAT})")
    if content_sha256(record, tensors) != record.get("sha256"):
        raise WeightsError(f"{path}: does not match the SHA-256 in its header; it was altered")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor '{name}' holds numbers that are not finite")
    try:
        shape: dict[str, Any] = record["network"]
        network = NetworkConfig(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}  # type: ignore[arg-type]
        )
        table = record["spectrum"]
        spectrum = Spectrum(tuple(table["kappa"]), tuple(table["power"]), table["zero_scale"])
        low, high = record["lambda_range"]
        weights = Weights(
            tensors,
            network,
            spectrum,
            record["output"],
            (low, high),
            record["system"],
            record["training"],
        )
        expected = UNet(network).state_dict()
    except (BadInput, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: the record in its header is incomplete ({error})") from None
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in tensors.items()}:
        raise WeightsError(f"{path}: the tensors do not fit the network the header describes")
    if weights.output not in OUTPUTS:
        raise WeightsError(f"{path}: output '{weights.output}' is unknown; expected {OUTPUTS}")
    return weights


def shipped_weights(name: str = "ising2d") -> Path:
    """Return the path of the weights that come with the package."""
    path = Path(str(resources.files("skild_phys.skild").joinpath(f"weights/{name}.safetensors")))
    if not path.is_file():
        raise WeightsError(f"{path}: the shipped weights are missing from this installation")
    return path
