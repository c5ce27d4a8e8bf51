"""The options of a training run: a frozen dataclass read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput
from skild_phys.files import read_toml
from skild_phys.skild.equations import OUTPUTS
from skild_phys.skild.ncsnpp import NcsnppConfig
from skild_phys.skild.networks import NETWORKS, AnyNetworkConfig
from skild_phys.skild.schedule import SCHEDULES, Schedule, VariancePreserving
from skild_phys.skild.spectrum import BASES, KINDS, PaperSpectrum
from skild_phys.skild.symmetries import MIRROR, SYMMETRIES
from skild_phys.skild.unet import NetworkConfig

SPECTRA = (*KINDS, "channels", "white", "paper")


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and for how long.

    Attributes
    ----------
    output : 'logits' for spins; 'v', 'eps', 'white_eps' or 'x0' for continuous fields.
    data : 'lattices', or 'images', which have channels and are `side` pixels a side.
    basis : 'dft' for periodic lattices, 'dct' for fields with open edges.
    symmetries : what the data are taken to be symmetric under: 'shift', 'flip', 'turn', 'sign'
        (`symmetries.SYMMETRIES`); for images 'mirror', left and right.
    model, temperature, side : of the running simulation that gives the lattices (temperature
        as on the command line: a number, Tc or a multiple of it); ignored for a store of lattices.
    clusters : Wolff clusters between two lattices of one chain; 0 takes the number that
        `simulate.expected.default_every` finds for side and temperature.
    spectrum_batches : batches measured for the spectrum, and the pair couplings of spins,
        before the first step; of a store, no more than there are.
    spectrum : 'radial', 'power_law' or 'modes' (`spectrum.KINDS`); of images also 'channels'
        (`spectrum.ChannelSpectra`); 'white', or 'paper', whose fit is `paper_spectrum`.
    cutoff : kappa_c in radians per site; below 0 for the lowest wave number above zero.
    weighting : of the loss of fields: 'flat', the mean square, or 'scales'
        (`equations.scale_weights`).
    couplings_reach : largest distance along an axis of the pair couplings in the mean field of
        spins; 0 for none.
    network_from : lambda below which spins are left to the mean field alone.
    lambda_min, lambda_far, lambda_max, far_share : lambda is drawn log-uniformly in [min, far],
        and for a share `far_share` of the batch in [far, max], which generation from noise visits,
        and refinement by a factor of 8 from majorities or decimated spins.
    lambdas : the schedule that lambda follows instead, t being a multiple of 1 / TIMES; chains
        take their steps along it. Of fields only.
    coarse_share : share of each batch of spins that knows its coarse lattices (block means,
        majority, decimation, by 2, 4 or 8): the mean field then runs under them.
    targets : of spins, 'spins', or 'conditional': their means given all the others, a fraction of
        the noise, right where pair couplings within `couplings_reach` say all about the data;
        'auto' takes these unless the data show more (`measured.beyond_pairs`).
    wave_weight : of spins, how much their long waves count beside the cross-entropy a site
        (`targets.wave_slope`).
    trained : 'all' of the network, or its 'waves' alone (`network.waves` bands), quickly: the rest
        stays as it began (`train --from`).
    initial : SHA-256 of the weights that the run starts from; none if empty.
    steps, batch, learning_rate, warmup, weight_decay, beta2, clip : of AdamW; gradients are
        clipped.
    accumulate : parts that a batch goes through the network in, one after the other.
    schedule, decay_fraction : of the learning rate: 'constant-decay' (constant, then linear to 0
        over the last `decay_fraction` of the steps), 'cosine' or 'constant'.
    ema : decay a step of the averaged weights, which are the ones that are kept; less in the first
        steps (`train.averaged`).
    precision : of the network's arithmetic, 'bf16' (autocast; float32 weights, spectra and
        fields) or 'float32'; 'auto' is bf16 where the machine has instructions for it.
    seed : of weights, noise and data.
    save_every : steps between checkpoints, at most; they are written about every 8 seconds anyway
        unless that takes long (`train.next_save`).
    sample_every : steps between grids of samples, of images; 0 for none.
    network : shape of the network.
    paper_spectrum : the fit of `spectrum` 'paper'.
    """

    output: str = "logits"
    data: str = "lattices"
    basis: str = "dft"
    symmetries: tuple[str, ...] = SYMMETRIES
    model: str = "ising2d"
    temperature: str = "Tc"
    side: int = 64
    clusters: int = 0
    spectrum_batches: int = 64
    spectrum: str = "radial"
    cutoff: float = -1.0
    weighting: str = "flat"
    couplings_reach: int = 2
    network_from: float = 0.0
    lambda_min: float = 0.006
    lambda_far: float = 40.0
    lambda_max: float = 1000.0
    far_share: float = 0.1
    coarse_share: float = 0.5
    targets: str = "auto"
    wave_weight: float = 0.0
    trained: str = "all"
    initial: str = ""
    steps: int = 10_000
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.01
    beta2: float = 0.99
    accumulate: int = 1
    clip: float = 1.0
    schedule: str = "constant-decay"
    decay_fraction: float = 0.4
    ema: float = 0.999
    precision: str = "auto"
    seed: int = 0
    save_every: int = 250
    sample_every: int = 0
    network: AnyNetworkConfig = field(default_factory=NetworkConfig)
    lambdas: Schedule | None = None
    paper_spectrum: PaperSpectrum | None = None

    def __post_init__(self) -> None:
        choices = {
            "output": OUTPUTS,
            "data": ("lattices", "images"),
            "basis": tuple(BASES),
            "spectrum": SPECTRA,
            "weighting": ("flat", "scales"),
            "targets": ("auto", "spins", "conditional"),
            "trained": ("all", "waves"),
            "schedule": ("constant-decay", "cosine", "constant"),
            "precision": ("auto", "bf16", "float32"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadInput(name, getattr(self, name), " or ".join(allowed))
        for name in self.symmetries:
            if name not in (*SYMMETRIES, MIRROR):
                raise BadInput("symmetries", name, " or ".join((*SYMMETRIES, MIRROR)))
        if self.output == "logits" and self.basis != "dft":
            raise BadInput("basis", self.basis, "dft for spins")
        if self.output == "logits" and self.lambdas is not None:
            raise BadInput(
                "[lambdas]", self.lambdas.kind, "none for spins, whose lambda is log-uniform"
            )
        if (self.spectrum == "paper") != (self.paper_spectrum is not None):
            raise BadInput("spectrum", self.spectrum, "'paper' with a table [paper_spectrum]")
        if self.output == "logits" and (self.accumulate > 1 or self.weighting != "flat"):
            name = "accumulate" if self.accumulate > 1 else "weighting"
            raise BadInput(
                name, getattr(self, name), f"{1 if name == 'accumulate' else 'flat'}, for spins"
            )
        if isinstance(self.lambdas, VariancePreserving) and self.lambdas.cutoff != self.cutoff:
            raise BadInput("cutoff", self.cutoff, f"{self.lambdas.cutoff}, as in [lambdas]")
        for part in (self.lambdas, self.paper_spectrum, self.network):
            if getattr(part, "side", self.side) != self.side:
                accepted = f"{self.side}, the side of the recipe"
                raise BadInput("side", getattr(part, "side", None), accepted)
        if self.batch % self.accumulate:
            raise BadInput("accumulate", self.accumulate, f"a divisor of the batch, {self.batch}")
        if isinstance(self.network, NcsnppConfig) and self.lambdas is None:
            raise BadInput("network", "ncsnpp", "unet, or ncsnpp with a table [lambdas]")
        if self.basis == "dct" and "shift" in self.symmetries:
            accepted = "symmetries without 'shift' in the basis dct, whose edges are open"
            raise BadInput("symmetries", list(self.symmetries), accepted)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise BadInput(name, getattr(self, name), f"a whole number from {least} on")
        if self.seed >= 2**63:
            raise BadInput("seed", self.seed, "a whole number below 2^63")
        for name, (accepted, holds) in _RANGES.items():
            if not (math.isfinite(getattr(self, name)) and holds(getattr(self, name))):
                raise BadInput(name, getattr(self, name), accepted)
        if self.trained == "waves" and not getattr(self.network, "waves", 0):
            raise BadInput("trained", "waves", "all where network.waves = 0")
        if not 0 < self.lambda_min < self.lambda_far < self.lambda_max < math.inf:
            raise BadInput("lambda_min", self.lambda_min, "lambda_min < lambda_far < lambda_max")


_LEAST = {
    "steps": 1,
    "batch": 1,
    "side": 2,
    "clusters": 0,
    "spectrum_batches": 1,
    "couplings_reach": 0,
    "save_every": 1,
    "sample_every": 0,
    "accumulate": 1,
    "warmup": 0,
    "seed": 0,
}
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("a positive number", lambda x: x > 0),
    "weight_decay": ("a number from 0 on", lambda x: x >= 0),
    "beta2": ("a number between 0 and 1", lambda x: 0 < x < 1),
    "clip": ("a positive number", lambda x: x > 0),
    "cutoff": ("a number", lambda x: True),
    "ema": ("a number between 0 and 1", lambda x: 0 < x < 1),
    "wave_weight": ("a number from 0 on", lambda x: x >= 0),
    "coarse_share": ("a number from 0 to below 1", lambda x: 0 <= x < 1),
    "far_share": ("a number from 0 to below 1", lambda x: 0 <= x < 1),
    "network_from": ("a number from 0 on", lambda x: x >= 0),
    "decay_fraction": ("a number above 0, up to 1", lambda x: 0 < x <= 1),
}


def _value(value: Any, default: Any, where: str, key: str) -> Any:
    """Return a TOML value as the type of `default`; raises BadInput naming file and key."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    if key in _TABLES:
        if isinstance(value, dict):
            return _table_value(value, default, f"{where} [{key}]", _TABLES[key])
        accepted = f"a table [{key}]"
    elif isinstance(default, tuple):
        kind = type(default[0]) if default else int
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return tuple(value)
        accepted = "a list of whole numbers" if kind is int else "a list of texts in quotes"
    elif isinstance(default, int):
        if whole:
            return value
        accepted = "a whole number"
    elif isinstance(default, float):
        if number:
            return float(value)
        accepted = "a number"
    else:
        if isinstance(value, str):
            return value
        if key == "temperature" and number:
            return str(value)
        accepted = "a text in quotes"
    raise BadInput(f"{where}: {key}", value, accepted)


_TABLES: dict[str, dict[str, Any]] = {
    "network": NETWORKS,
    "lambdas": SCHEDULES,
    "paper_spectrum": {"paper": PaperSpectrum},
}
"""Keys whose values are tables: the dataclasses that these are read as, by `kind`."""
_LIKE: dict[Any, Any] = {"int": 0, "float": 0.0}


def _table_value(table: dict[str, Any], default: Any, where: str, kinds: dict[str, Any]) -> Any:
    """Return a TOML table as the dataclass that its `kind` names, changed from `default`."""
    kind = table.get("kind", getattr(default, "kind", next(iter(kinds))))
    if kind not in kinds:
        raise BadInput(f"{where}: kind", kind, " or ".join(kinds))
    if default is not None and default.kind == kind:
        return _changed(default, table, where)
    like = {f.name: f for f in dataclasses.fields(kinds[kind])}
    for name, one in like.items():
        if name not in table and one.default is dataclasses.MISSING:
            raise BadInput(f"{where}: {name}", None, "a value")
    empty = {
        name: _LIKE[one.type] if one.default is dataclasses.MISSING else one.default
        for name, one in like.items()
    }
    return kinds[kind](**empty | _values(empty, table, where))


def _changed(base: Any, table: dict[str, Any], where: str) -> Any:
    """Return the dataclass `base` with the values of a TOML table in place of its own."""
    own = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    return dataclasses.replace(base, **_values(own, table, where))


def _values(own: dict[str, Any], table: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a TOML table, of the types of `own`; raises BadInput."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in own:
            near = difflib.get_close_matches(key, own, 1)
            hint = f"'{near[0]}'?" if near else "one of " + ", ".join(own)
            raise BadInput(where, key, f"a known key: {hint}")
        values[key] = _value(value, own[key], where, key)
    return values


def _preset(name: Any, option: str | None = None) -> Path:
    folder = Path(str(resources.files("skild_phys.skild").joinpath("presets")))
    known = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if not isinstance(name, str) or name not in known:
        raise BadInput(option or "--preset", name, " or ".join(known))
    return known[name]


def _read(path: Path, option: str | None) -> Recipe:
    table = read_toml(path, option or "--config")
    built_on = table.pop("preset", None)
    base = Recipe() if built_on is None else _read(_preset(built_on, "--preset"), option)
    config: Recipe = _changed(base, table, path.name)
    return config


def read_recipe(source: str | Path, option: str | None = None, **changes: Any) -> Recipe:
    """Return the configuration in a TOML file (Path) or of a preset by name (str).

    A file may name a preset it builds on (`preset = "ising2d"`); what it does not name, in
    tables too, is the preset's. `changes` other than None go on top. An unknown key is an error
    that names the nearest known one. Raises BadInput, which names `option` where that is what says
    the recipe.
    """
    config = _read(source if isinstance(source, Path) else _preset(source, option), option)
    result: Recipe = dataclasses.replace(
        config, **{k: v for k, v in changes.items() if v is not None}
    )
    return result
