"""The options of a training run: a frozen dataclass read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput
from skild_phys.skild.network import NetworkConfig


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, on what, and for how long.

    Attributes
    ----------
    output : 'logits' for spins, 'v' for continuous fields.
    model, temperature, side : of the running simulation that gives the lattices (temperature
        as on the command line: a number, Tc or a multiple of it); ignored for a store.
    clusters : Wolff clusters between two lattices of one chain.
    spectrum_batches : batches measured for P(kappa) before the first step.
    lambda_min, lambda_far, lambda_max : lambda is drawn log-uniformly in [min, far], and for a
        `far_share` of the batch in [far, max], which only generation from noise visits.
    steps, batch, learning_rate, warmup, weight_decay, clip : of AdamW; gradients are clipped.
    schedule : 'constant-decay' (constant, then linear to 0 over the last `decay_fraction`)
        or 'cosine'.
    ema : decay a step of the averaged weights, which are the ones that are kept.
    precision : 'bf16' (autocast; float32 weights, spectra and fields) or 'float32'.
    seed : of weights, noise and data.
    save_every : steps between checkpoints.
    network : shape of the network.
    """

    output: str = "logits"
    model: str = "ising2d"
    temperature: str = "Tc"
    side: int = 64
    clusters: int = 6
    spectrum_batches: int = 64
    lambda_min: float = 0.006
    lambda_far: float = 40.0
    lambda_max: float = 1000.0
    far_share: float = 0.1
    steps: int = 10_000
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: str = "constant-decay"
    decay_fraction: float = 0.4
    ema: float = 0.999
    precision: str = "bf16"
    seed: int = 0
    save_every: int = 250
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        choices = {
            "output": ("logits", "v"),
            "schedule": ("constant-decay", "cosine"),
            "precision": ("bf16", "float32"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadInput(name, getattr(self, name), " or ".join(allowed))
        for name in ("steps", "batch", "side", "clusters", "spectrum_batches", "save_every"):
            if getattr(self, name) < 1:
                raise BadInput(name, getattr(self, name), "a whole number of at least 1")
        if not 0 < self.lambda_min < self.lambda_far < self.lambda_max:
            raise BadInput("lambda_min", self.lambda_min, "lambda_min < lambda_far < lambda_max")


def _from_table(cls: type[Any], table: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"'{near[0]}'?" if near else "one of " + ", ".join(fields)
            raise BadInput(where, key, f"a known key: {hint}")
        if isinstance(value, dict):
            value = _from_table(NetworkConfig, value, f"{where} [{key}]")
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise BadInput(where, str(error), "values of the documented types") from None


def read_config(source: str | Path, **changes: Any) -> TrainConfig:
    """Return the configuration in a TOML file or of a preset by name, with `changes` on top.

    A file may name a preset it builds on (`preset = "ising2d"`). An unknown key is an error
    that names the nearest known one.
    """
    path = Path(source)
    if not path.suffix:
        path = Path(str(resources.files("skild_phys.skild").joinpath(f"presets/{source}.toml")))
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.toml"))
            raise BadInput("--preset", str(source), " or ".join(known))
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput("--config", str(path), f"a readable TOML file ({error})") from None
    if "preset" in table:
        base = read_config(str(table.pop("preset")))
        own = _from_table(TrainConfig, table, path.name)
        config = dataclasses.replace(base, **{key: getattr(own, key) for key in table})
    else:
        config = _from_table(TrainConfig, table, path.name)
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None})
