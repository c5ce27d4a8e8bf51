# ruff: noqa: RUF009
"""The options of a training run: a frozen dataclass read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput, check_whole
from skild_phys.files import read_toml
from skild_phys.skild.chain import SCHEDULES, USUAL, Schedule, Tuning
from skild_phys.skild.ncsnpp import NcsnppConfig
from skild_phys.skild.networks import MIRROR, OUTPUTS, SYMMETRIES, NetworkConfig
from skild_phys.skild.spectrum import BASES, KINDS, PaperSpectrum

NETWORKS: dict[str, type[NetworkConfig] | type[NcsnppConfig]] = {
    "unet": NetworkConfig,
    "ncsnpp": NcsnppConfig,
}
"""The dataclass of a network's shape, which builds it, by `kind`."""
_TABLES: dict[str, Any] = {
    "network": NETWORKS,
    "lambdas": SCHEDULES,
    "paper_spectrum": {"paper": PaperSpectrum},
    "tuning": {},
}
"""Keys whose values are tables: the dataclasses that these are read as, by `kind`."""
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "least": ("from {:g} on", operator.ge),
    "above": ("above {:g}", operator.gt),
    "below": ("below {:g}", operator.lt),
    "most": ("up to {:g}", operator.le),
}


def _key(default: Any, text: str, late: bool = False, **limits: Any) -> Any:
    """Return a field of a recipe: its default, what it is, and what it may be.

    `limits`: `choices` of a text, or of every text of a list; `least`, a whole number; `above`,
    `below`, `most`, of a number.
    """
    metadata = {"help": text, **limits} | ({"late": True} if late else {})
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and for how long."""

    # fmt: off
    output: str = _key("logits",
        "'logits' for spins; 'v', 'eps', 'white_eps' or 'x0' for continuous fields",
        choices=tuple(OUTPUTS))
    data: str = _key("lattices",
        "'lattices', or 'images', which have channels and are `side` pixels wide and high",
        choices=("lattices", "images"))
    basis: str = _key("dft",
        "'dft' for periodic lattices, 'dct' for fields with open edges", choices=tuple(BASES))
    symmetries: tuple[str, ...] = _key(SYMMETRIES,
        "symmetries of the data: 'shift', 'flip', 'turn', 'sign'; of images 'mirror', left for "
        "right", choices=(*SYMMETRIES, MIRROR))
    model: str = _key("ising2d", "model of the running simulation, where no store is given")
    temperature: str = _key("Tc",
        "temperature of the simulation: a number, Tc or a multiple such as 1.05Tc")
    side: int = _key(64, "side of the simulated lattice, or of the images", least=2)
    clusters: int = _key(0,
        "Wolff clusters between two samples of one chain; 0 takes the number that `simulate` "
        "takes for side and temperature", least=0)
    spectrum_batches: int = _key(64,
        "batches that spectrum and pair couplings are measured on, before the first step; of a "
        "store no more than there are", least=1)
    spectrum: str = _key("radial",
        "'radial', 'torus', 'power_law' or 'modes'; of images also 'channels'; 'white', or "
        "'paper', whose fit is the table [paper_spectrum]",
        choices=(*KINDS, "channels", "white", "paper"))
    cutoff: float = _key(-1.0,
        "kappa_c in radians per site; below 0 for the lowest wave number above zero")
    weighting: str = _key("flat",
        "of the loss of fields: 'flat', the mean square, or 'scales', every scale alike",
        choices=("flat", "scales"))
    couplings_reach: int = _key(2,
        "largest distance along an axis of the pair couplings in the mean field of spins; 0 for "
        "none", least=0)
    network_from: float = _key(0.0,
        "lambda below which the spin denoiser has no trainable part", least=0.0)
    lambda_min: float = _key(0.006,
        "smallest lambda of training without a table [lambdas], in sites squared; the largest is "
        "the end of the `window`", above=0.0)
    coarse_share: float = _key(0.5,
        "share of the samples of each grid that are given their coarse configurations; fields on "
        "the lattice itself are given none", least=0.0, below=1.0)
    targets: str = _key("auto",
        "of spins, 'spins', or 'conditional': their means given all the others, with a fraction "
        "of the noise, right where pair couplings within `couplings_reach` explain the data; "
        "'auto' takes these unless the data show more", choices=("auto", "spins", "conditional"))
    initial: str = _key("", "SHA-256 of the weights that the run starts from; none if empty")
    steps: int = _key(10_000, "optimizer steps", least=1)
    batch: int = _key(32, "samples per step", least=1)
    learning_rate: float = _key(1e-3, "of AdamW", above=0.0)
    warmup: int = _key(300, "steps of the linear rise of the learning rate", least=0)
    weight_decay: float = _key(0.01, "of AdamW", least=0.0)
    beta2: float = _key(0.99, "of AdamW", above=0.0, below=1.0)
    accumulate: int = _key(1,
        "parts that a batch goes through the network in, one after the other", least=1)
    clip: float = _key(1.0, "largest norm of a gradient; larger ones are clipped", above=0.0)
    schedule: str = _key("constant-decay",
        "of the learning rate: 'constant-decay' (constant, then linear to 0 over the last "
        "`decay_fraction` of the steps), 'cosine' or 'constant'",
        choices=("constant-decay", "cosine", "constant"))
    decay_fraction: float = _key(0.4, "see `schedule`", above=0.0, most=1.0)
    ema: float = _key(0.999,
        "decay per step of the averaged weights, which are the ones that are kept; less in the "
        "first steps", above=0.0, below=1.0)
    precision: str = _key("auto",
        "of the network's arithmetic, 'bf16' (autocast; float32 weights, spectra and fields) or "
        "'float32'; 'auto' is bf16 where the machine has instructions for it",
        choices=("auto", "bf16", "float32"))
    seed: int = _key(0, "seed of weights, noise and data", least=0)
    save_every: int = _key(250,
        "steps between checkpoints, at most; they are written about every 8 seconds unless that "
        "takes more than 3% of the time", least=1)
    sample_every: int = _key(0, "steps between grids of samples, of images; 0 for none", least=0)
    network: NetworkConfig | NcsnppConfig = _key(NetworkConfig(),
        "shape of the network: the table [network]")
    lambdas: Schedule | None = _key(None,
        "the schedule that lambda follows instead of the log-uniform one, of fields: the table "
        "[lambdas]; chains take their steps along it")
    paper_spectrum: PaperSpectrum | None = _key(None, "the fit of `spectrum` 'paper'")
    coarse_factors: tuple[int, ...] = _key((2, 4, 8),
        "factors of the coarse configurations of `coarse_share`, as far as they divide the sides",
        late=True, least=2)
    pairings: int = _key(4,
        "random pairings that conditional targets under block sums are averaged over: with 4 "
        "their noise is half that of one", late=True, least=1)
    draft_weight: float = _key(0.1,
        "weight of the network's own draft in the loss of spins", late=True, least=0.0)
    window: tuple[float, ...] = _key((0.7, 2.8),
        "lambda over the square of a grid's spacing, from and to, that the grid serves", late=True)
    sites: int = _key(4_096,
        "over grids, sites that the network has for a grid in one step, after its first "
        "convolution: samples x sites of each; further samples of a batch are for coarser grids",
        late=True, least=1)
    field_weight: float = _key(0.0,
        "weight of the coarser grids' losses beside the lattice's; 0 for 0.05 beside spins, whose "
        "cross-entropy has a small gradient, and 1 beside fields", late=True, least=0.0)
    shapes: tuple[int, ...] = _key((),
        "further lattices that the simulation makes, Ly, Lx, Ly, Lx and so on; each step has one "
        "of them in turn, as many as have the sites of a batch", late=True)
    quality_every: int = _key(-1,
        "steps between measurements of the averaged network beside held-out samples; 0 for none, "
        "below 0 for 2% of `steps`, 250 at least", late=True, least=-1)
    quality_samples: int = _key(0,
        "refinements, and as many configurations from noise, that are measured; 0 for what takes "
        "3 to 5% of the time", late=True, least=0)
    until: str = _key("",
        "figures of quality and their limits, such as 'refined_energy=0.02, generated_U4=0.05': "
        "the run ends once each is as near to 0, its standard error included. `schedule` knows "
        "only `steps`: take 'constant'", late=True)
    plateau: int = _key(0,
        "measurements without a smaller held-out loss after which the run ends; 0 for none. "
        "As for `until`, a 'constant' `schedule` suits it", late=True, least=0)
    tuning: Tuning = _key(USUAL,
        "numbers of the chain and the spin denoiser: the table [tuning]", late=True)
    # fmt: on

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), field.metadata)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        lambdas, spins = self.lambdas, self.output == "logits"
        paper = (self.spectrum == "paper") == (self.paper_spectrum is not None)
        cutoff = getattr(lambdas, "cutoff", self.cutoff)
        shifted = self.basis == "dct" and "shift" in self.symmetries
        window = len(self.window) == 2 and self.lambda_min < self.window[1]
        window = window and 0 < 4 * self.window[0] <= self.window[1] * (1 + 1e-9)  # no gaps
        shapes = len(self.shapes) % 2 == 0 and min(self.shapes, default=2) >= 2
        for right, name, value, accepted in (
            (not spins or self.basis == "dft", "basis", self.basis, "dft for spins"),
            (not (spins and lambdas), "[lambdas]", getattr(lambdas, "kind", None),
             "none for spins, whose lambda is log-uniform"),
            (not spins or self.weighting == "flat", "weighting", self.weighting, "flat, for spins"),
            (paper, "spectrum", self.spectrum, "'paper' with a table [paper_spectrum]"),
            (cutoff == self.cutoff, "cutoff", self.cutoff, f"{cutoff}, as in [lambdas]"),
            (lambdas or self.cutoff, "cutoff", self.cutoff,
             "above 0, or below it for the lowest wave number"),
            (self.batch % self.accumulate == 0, "accumulate", self.accumulate,
             f"a divisor of the batch, {self.batch}"),
            (lambdas or not isinstance(self.network, NcsnppConfig), "network", "ncsnpp",
             "unet, or ncsnpp with a table [lambdas]"),
            (not shifted, "symmetries", list(self.symmetries),
             "symmetries without 'shift' in the basis dct, whose edges are open"),
            (self.quality_every != 0 or not self.until, "until", self.until,
             "none where quality_every = 0"),
            (self.quality_every != 0 or not self.plateau, "plateau", self.plateau,
             "0 where quality_every = 0"),
            (window or lambdas, "window", list(self.window),
             "two numbers, 0 < from <= to / 4, and lambda_min < to"),
            (shapes, "shapes", list(self.shapes), "pairs of sides from 2 on: Ly, Lx, Ly, Lx"),
            (not (lambdas and self.shapes), "shapes", list(self.shapes), "none with [lambdas]"),
            (lambdas or self.output in ("logits", "v"), "output", self.output,
             "logits or v without a table [lambdas]"),
            (lambdas or self.accumulate == 1, "accumulate", self.accumulate,
             "1 without a table [lambdas]"),
            (lambdas or not self.sample_every, "sample_every", self.sample_every,
             "0 without a table [lambdas]"),
        ):  # fmt: skip
            if not right:
                raise BadInput(name, value, accepted)
        _ = self.limits
        for part in (lambdas, self.paper_spectrum, self.network):
            side = getattr(part, "side", self.side)
            if side != self.side:
                raise BadInput("side", side, f"{self.side}, the side of the recipe")

    @property
    def over_grids(self) -> bool:
        """Whether every octave of lambda has a grid of its own: without a schedule of lambda."""
        return self.lambdas is None

    @property
    def kappa_c(self) -> float | None:
        """The cutoff; None for the lowest wave number above zero."""
        return None if self.cutoff < 0 else self.cutoff

    @property
    def measured_every(self) -> int:
        """Steps between measurements of quality; 0 for none."""
        return max(250, self.steps // 50) if self.quality_every < 0 else self.quality_every

    @property
    def limits(self) -> dict[str, float]:
        """The figures of `until` and their limits; raises BadInput."""
        found: dict[str, float] = {}
        for text in filter(None, map(str.strip, self.until.split(","))):
            name, _, limit = (part.strip() for part in text.partition("="))
            try:
                found[name] = float(limit)
            except ValueError:
                found[name] = math.nan
            if not found[name] > 0.0:
                raise BadInput("until", text, "NAME=LIMIT with a limit above 0")
        return found


Recipe.__doc__ = f"{Recipe.__doc__}\n\nAttributes\n----------\n" + "\n".join(
    f"{field.name} : {field.metadata['help']}." for field in dataclasses.fields(Recipe)
)


def _check(name: str, value: Any, limits: Any) -> None:
    """Raise BadInput unless a value is within the limits of its field (`_key`)."""
    choices = limits.get("choices")
    for one in () if choices is None else value if isinstance(value, tuple) else (value,):
        if one not in choices:
            raise BadInput(name, one, " or ".join(choices))
    if isinstance(value, tuple) and limits.keys() & _BOUNDS.keys():
        for one in value:
            _check(name, one, limits)
    if isinstance(value, int | float):
        bounds = [
            (text.format(limits[key]), holds(value, limits[key]))
            for key, (text, holds) in _BOUNDS.items()
            if key in limits
        ]
        kind = "whole number" if isinstance(value, int) else "number"
        finite = isinstance(value, int) or math.isfinite(value)
        if not (finite and all(held for _, held in bounds)):
            raise BadInput(name, value, f"a {kind} {', '.join(text for text, _ in bounds)}".strip())


def _preset(name: Any, option: str) -> Path:
    folder = Path(str(resources.files("skild_phys.skild").joinpath("presets")))
    known = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if not isinstance(name, str) or name not in known:
        raise BadInput(option, name, " or ".join(known))
    return known[name]


def read_recipe(source: str | Path, option: str | None = None, **changes: Any) -> Recipe:
    """Return the recipe in a TOML file (Path) or of a preset by name (str).

    A file may name a preset that it builds on (`preset = "ising2d"`); what it does not name, in
    tables too, is the preset's. `changes` other than None go on top. An unknown key is an error
    that names the nearest known one. Raises BadInput, which names `option` where that is what says
    the recipe.
    """
    path = source if isinstance(source, Path) else _preset(source, option or "preset")
    table = read_toml(path, option or "config")
    built_on = table.pop("preset", None)
    base = Recipe()
    if built_on is not None:
        base = read_recipe(_preset(built_on, "preset"), option)
    recipe: Recipe = from_table(table, {}, path.name, base)
    wanted = {key: value for key, value in changes.items() if value is not None}
    result: Recipe = dataclasses.replace(recipe, **wanted)
    return result


def as_record(value: Any) -> Any:
    """Return a dataclass, or several by name, as a dictionary, less late fields as by default.

    Records of before lack these: equal weights have equal SHA-256, whatever version wrote them.
    """
    if isinstance(value, Mapping):
        return {name: as_record(one) for name, one in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    own = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        field.name: as_record(one)
        for field, one in own.items()
        if "late" not in field.metadata or one != field.default
    }


def from_table(table: dict[str, Any], kinds: dict[str, Any], where: str, base: Any = None) -> Any:
    """Return a table as the dataclass, of `kinds`, that its `kind` names.

    Where `base` is of that kind, or there are no `kinds`, it is `base` with the values of the table
    in place of its own. Raises BadInput that names `where` and the key, and the nearest known one.
    """
    kind = table.get("kind", getattr(base, "kind", next(iter(kinds), "")))
    if kinds and kind not in kinds:
        raise BadInput(f"{where}: kind", kind, " or ".join(kinds))
    if base is not None and (not kinds or base.kind == kind):
        own = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        return dataclasses.replace(base, **_values(own, table, where))
    own = {}
    for field in dataclasses.fields(kinds[kind]):
        required = field.default is dataclasses.MISSING
        if required and field.name not in table:
            raise BadInput(f"{where}: {field.name}", None, "a value")
        own[field.name] = {"int": 0, "float": 0.0}[str(field.type)] if required else field.default
    return kinds[kind](**own | _values(own, table, where))


def _values(own: dict[str, Any], table: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a table, of the types of `own`."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in own:
            near = difflib.get_close_matches(key, own, 1)
            hint = f"'{near[0]}'?" if near else "one of " + ", ".join(own)
            raise BadInput(where, key, f"a known key: {hint}")
        if key not in _TABLES:
            values[key] = _value(value, own[key], where, key)
        elif isinstance(value, dict):
            values[key] = from_table(value, _TABLES[key], f"{where} [{key}]", own[key])
        else:
            raise BadInput(f"{where}: {key}", value, f"a table [{key}]")
    return values


def _value(value: Any, default: Any, where: str, key: str) -> Any:
    """Return a value of a table as the type of `default`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    if isinstance(default, tuple):
        kind = type(default[0]) if default else int
        if isinstance(value, list) and kind is float:
            value = [float(item) if type(item) is int else item for item in value]
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return tuple(value)
        words = {int: "whole numbers", float: "numbers", str: "texts in quotes"}
        accepted = f"a list of {words[kind]}"
    elif isinstance(default, dict):
        if isinstance(value, dict):
            return {name: _value(one, 0.0, f"{where} {key}", name) for name, one in value.items()}
        accepted = "a table of numbers"
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
        accepted = "true or false"
    elif isinstance(default, int):
        if whole:
            return value
        accepted = "a whole number"
    elif isinstance(default, float):
        if number:
            return float(value)
        accepted = "a number"
    else:
        if isinstance(value, str) or (key == "temperature" and number):
            return str(value)
        accepted = "a text in quotes"
    raise BadInput(f"{where}: {key}", value, accepted)
