"""How fine configurations are made from coarse ones: SKILD, exact Monte Carlo, a fill, a function.

Every refined sample is named by its index in the output, (input index) x samples_per_input +
replica; its random streams follow from that name, the seed and the input (`rng.input_seed`).
"""

from __future__ import annotations

import functools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted, OutputTaken, StoreError, check_whole, warn
from skild_phys.files import AnyPath, printable
from skild_phys.models import Model, find_model, parse_temperature
from skild_phys.models.ising import ISING_2D, ISING_3D
from skild_phys.models.potts import Potts
from skild_phys.plugins import load_plugins, one_of
from skild_phys.rng import STREAMS, Streams, generator, input_seed
from skild_phys.rules import RULES
from skild_phys.runner import (
    GPU_BATCH,
    Filled,
    Run,
    fill_store,
    lattice_batch,
    option,
    padded,
)
from skild_phys.skild.chain import Chain
from skild_phys.skild.coarse import CoarseInput
from skild_phys.store import Plan, open_store, sides

if TYPE_CHECKING:
    from skild_phys.simulation.conditional import Conditional
    from skild_phys.skild.weights import Weights

Attrs = Mapping[str, Any]
_Fields = NDArray[Any]
_Ties = _Fields | None
_Stop = Callable[[], bool]
Sampler = Callable[[_Fields, Sequence[int], _Ties, _Stop], _Fields]
"""(raw coarse values, indices, tie-breaks, stop) -> fine configurations (n, *shape); picklable."""

Own = Callable[[_Fields, int, np.random.Generator], _Fields]
"""A user's own method: (coarse, factor, rng) -> fine.

Called once per sample. `coarse` (ly, lx) or (lz, ly, lx) float64: means of blocks, signs, spins, or
a field (of Potts states int8 states, or the counts (q, ly, lx) of each in a block). Returns one
configuration, `factor` times its sides: spins of -1 and +1, states, or for coarse fields a field.
"""


class Prepared(NamedTuple):
    """A method at work on one coarse input: the sampler, and what the store records of it."""

    sampler: Sampler
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Method(ABC):
    """A way to refine; a dataclass whose fields are its options.

    Raises BadInput for a value of an option that cannot be.
    """

    name: ClassVar[str]

    @property
    def spins(self) -> bool | None:
        """Whether it makes spins or states, not real fields; None for as the input is."""
        return True

    def check(self, coarse: CoarseInput) -> list[str]:
        """Raise BadInput unless it can refine `coarse`, of which no sample is read.

        Returns warnings that go with the result.
        """
        return []

    @abstractmethod
    def prepare(self, coarse: CoarseInput, seed: int, run: Run, there: Attrs) -> Prepared:
        """Return the sampler for a coarse input that `check` has seen.

        `there` are the attributes of a store that the run may resume.
        """

    def temperature(self, coarse: CoarseInput) -> float | None:
        """Return the temperature (J / k_B) of the samples, as far as it is known."""
        known: float | None = coarse.attrs.get("temperature")
        return known

    def compile(self, coarse: CoarseInput) -> None:  # noqa: B027
        """Compile the kernels that refining `coarse` uses; quick once they are cached."""

    def batch(self, coarse: CoarseInput, device: str) -> int:
        """Return how many samples are made at once."""
        return 1 if device == "cpu" else GPU_BATCH


def _models(coarse: CoarseInput) -> tuple[Model, Model | None]:
    """Return a model of such values, and the one that the input names (2D spins: Ising's)."""
    like = Potts.of(coarse.q) if coarse.q else ISING_2D if len(coarse.shape) == 2 else ISING_3D
    usual = {"model": like.name} if like is ISING_2D else {}
    return like, find_model(usual | coarse.attrs)


def _system(
    coarse: CoarseInput, T: float | str | None, option: str, value: object
) -> tuple[Model, float]:
    """Return the Hamiltonian, of nearest neighbours, and temperature; BadInput names `option`."""
    model, named = _models(coarse)[1], coarse.attrs.get("model")
    if model is None:
        what = "names no model" if named is None else f"is of model {named}, not known here"
        raise BadInput(option, value, f"fill, or a known Hamiltonian: {coarse.path} {what}")
    if model.bond is None or not model.nearest:
        what = f"is of model {model.name}, not a sum over nearest-neighbour bonds alone"
        raise BadInput(option, value, f"fill or skild: {coarse.path} {what}")
    known = coarse.attrs.get("temperature") if T is None else parse_temperature(T, model)
    if known is None:
        raise BadInput("T", None, "the temperature: the input has none")
    return model, float(known)


# -- Monte Carlo -------------------------------------------------------------------------------


def _target(coarse: CoarseInput, model: Model, temperature: float) -> Conditional:
    from skild_phys.simulation.conditional import Conditional

    return Conditional(model, coarse.rule, coarse.factor, temperature, coarse.shape)


def _monte_carlo(
    target: Conditional, seed: int, sweeps: int, first: Sampler | None, raw: _Fields,
    index: Sequence[int], ties: _Ties, stop: _Stop,
) -> _Fields:  # fmt: skip
    """Make constrained sweeps from a random fill, or from what `first` makes."""
    from skild_phys.simulation.conditional import sample

    start = None if first is None else first(raw, index, ties, stop)
    return sample(target, raw, seed, index, sweeps, ties, stop, start)


def _exact_rules() -> str:
    return one_of(rule.name for rule in RULES.values() if rule.exact)


@dataclass(frozen=True)
class Fill(Method):
    """Each block at random, no model."""

    name = "fill"

    def check(self, coarse: CoarseInput) -> list[str]:
        if not coarse.rule.exact:
            raise BadInput("rule", coarse.rule.name, f"{_exact_rules()} for {self.name}")
        return []

    def prepare(self, coarse: CoarseInput, seed: int, run: Run, there: Attrs) -> Prepared:
        # A fill makes no moves: any temperature does.
        target = _target(coarse, _models(coarse)[0], 1.0)
        return Prepared(functools.partial(_monte_carlo, target, seed, 0, None), {})

    def compile(self, coarse: CoarseInput) -> None:
        """Fill one coarse block, for a factor whose moves are the same."""
        from skild_phys.simulation.conditional import CLUSTERS_FROM

        factor, d = CLUSTERS_FROM if coarse.factor >= CLUSTERS_FROM else 2, len(coarse.shape)
        fine = np.full((1, *[factor] * d), _models(coarse)[0].values[-1], dtype=np.int8)
        raw = coarse.rule.coarsen(fine, factor, q=coarse.q)
        one = replace(coarse, n=1, shape=(1,) * d, factor=factor, read=lambda *span: raw)
        self.prepare(one, 0, Run(), {}).sampler(raw, [0], one.ties(slice(1)), lambda: False)


@dataclass(frozen=True)
class Exact(Fill):
    """Constrained Monte Carlo of the known Hamiltonian: a random fill, then sweeps."""

    name = "exact"

    sweeps: int | None = option(None, "For exact.  [default: 20 autocorrelation times]")
    T: float | str | None = option(None, "For exact and --polish.  [default: that of COARSE]")

    def __post_init__(self) -> None:
        if self.sweeps is not None:
            check_whole("sweeps", self.sweeps, 0)

    def temperature(self, coarse: CoarseInput) -> float:
        return _system(coarse, self.T, "method", self.name)[1]

    def check(self, coarse: CoarseInput) -> list[str]:
        super().check(coarse)
        self.temperature(coarse)
        return []

    def prepare(self, coarse: CoarseInput, seed: int, run: Run, there: Attrs) -> Prepared:
        from skild_phys.simulation.conditional import measure_sweeps

        target = _target(coarse, *_system(coarse, self.T, "method", self.name))
        known: dict[str, Any] = {"sweeps": self.sweeps}
        if self.sweeps is None and {"tau_int", "sweeps"} <= there.keys():
            # The same pilot gave them, if the store is one to resume.
            known = {name: there[name] for name in ("sweeps", "tau_int")}
        elif self.sweeps is None and there:
            accepted = "a store made with the same parameters: there no tau was measured"
            raise OutputTaken("sweeps", "measured", f"{accepted} (overwrite=True starts afresh)")
        elif self.sweeps is None:
            first = target.pilot_chains(coarse.n)
            given = target.read(coarse.read(0, first), coarse.ties(slice(first)))
            try:
                tau, sweeps = measure_sweeps(target, given, seed, run.stop)
            except Interrupted:
                text = "interrupted before the first lattice; nothing was changed"
                raise Interrupted(text) from None
            known = {"sweeps": sweeps, "tau_int": tau}
        sampler = functools.partial(_monte_carlo, target, seed, known["sweeps"], None)
        return Prepared(sampler, known)

    def compile(self, coarse: CoarseInput) -> None:
        from skild_phys.simulation.conditional import SWEEPS_PER_CLUSTERS

        sweeps = self.sweeps and SWEEPS_PER_CLUSTERS
        super(Exact, replace(self, T=1.0, sweeps=sweeps)).compile(coarse)


# -- SKILD -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SKILD(Chain, Method):
    """The diffusion model, of spins or fields; `sampler` is a step by name, or one's own."""

    name = "skild"

    checkpoint: AnyPath | Weights | None = option(None, "Weights.  [default: shipped]")
    polish: int = option(0, "Monte Carlo sweeps after.")
    T: float | str | None = None
    any_system: bool = option(False, "Refine what the weights were not made for.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("polish", self.polish, 0)
        if self.T is not None and not self.polish:
            raise BadInput("T", self.T, "no temperature: only exact and polish= use one")

    @functools.cached_property
    def weights(self) -> Weights:
        """The weights, of a file or the shipped ones; raises WeightsError."""
        return weights_of(self.checkpoint)

    @property
    def spins(self) -> bool:
        return self.weights.output == "logits"

    def temperature(self, coarse: CoarseInput) -> float | None:
        if self.polish:
            return _system(coarse, self.T, "polish", self.polish)[1]
        return super().temperature(coarse)

    def check_values(self, coarse: CoarseInput, spins: bool, dimension: int = 2) -> None:
        """Raise BadInput unless weights of `spins`, or else of fields, can refine `coarse`."""
        if coarse.q or len(coarse.shape) != dimension:
            held = (
                f"Potts states (q = {coarse.q})" if coarse.q else f"{len(coarse.shape)}D lattices"
            )
            accepted = (
                f"exact or fill: the weights are of {dimension}D spins or fields,"
                f" {coarse.path} is of {held}"
            )
            raise BadInput("method", self.name, accepted)
        if not spins:
            coarse.rule.operator(coarse.fine_shape, coarse.factor)
            if coarse.read(0, 1).ndim > 1 + dimension:
                held = f"{coarse.path}, of several components"
                raise BadInput("coarse", held, "fields of one number per site")
        if self.polish and not (spins and coarse.rule.exact):
            accepted = f"0, unless spins are refined by {_exact_rules()}"
            raise BadInput("polish", self.polish, accepted)

    def check(self, coarse: CoarseInput) -> list[str]:
        self.check_values(coarse, self.spins, self.weights.dimension)
        system = coarse.attrs | {"temperature": self.temperature(coarse)}
        if self.checkpoint is None and coarse.attrs.get("model") is None:
            text = "names no model; the shipped weights are of the critical 2D Ising model"
            warn(f"{coarse.path.name} {text}")
        self.refining(self.weights, coarse.rule, coarse.factor, coarse.fine_shape)
        return self.weights.check_fit(system, coarse.path, self.any_system)

    def prepare(self, coarse: CoarseInput, seed: int, run: Run, there: Attrs) -> Prepared:
        from skild_phys.skild.skild import chain_record

        if self.weights.basis != "dft":
            raise BadInput("checkpoint", f"weights in the basis {self.weights.basis}", "dft")
        lambdas = self.refining(self.weights, coarse.rule, coarse.factor, coarse.fine_shape)
        sampler: Sampler = functools.partial(self._sample, coarse, lambdas, seed, run.device)
        if self.polish:
            target = _target(coarse, *_system(coarse, self.T, "polish", self.polish))
            sampler = functools.partial(_monte_carlo, target, seed, self.polish, sampler)
        weights, shape = self.weights, coarse.fine_shape
        record = chain_record(weights, shape, lambdas, self.sampler_for(weights), run.device)
        return Prepared(sampler, {"polish": self.polish, **record})

    def _sample(
        self, coarse: CoarseInput, lambdas: NDArray[np.float64], seed: int, device: str,
        raw: _Fields, index: Sequence[int], ties: _Ties, stop: _Stop,
    ) -> _Fields:  # fmt: skip
        from skild_phys.skild.skild import built

        step: Any = self.sampler_for(self.weights)
        skild = built(self.weights, coarse.fine_shape, device, step)
        # The size of a batch changes roundings: it is always the same.
        full = padded(np.arange(len(index)), self.batch(coarse, device))
        streams = [Streams.of(seed, index[i]) for i in full]
        given = None if ties is None else ties[full]
        lattice = (coarse.rule, coarse.factor, lambdas, streams, given, stop)
        return skild.refine(raw[full], *lattice)[: len(index)]

    def batch(self, coarse: CoarseInput, device: str) -> int:
        return lattice_batch(coarse.fine_shape) if device == "cpu" else GPU_BATCH

    def compile(self, coarse: CoarseInput) -> None:
        from skild_phys.rules.conditions import compile_sampling

        compile_sampling()
        if self.polish:
            Exact(self.polish).compile(coarse)


def weights_of(checkpoint: AnyPath | Weights | None) -> Weights:
    """Return weights, from a file if it is one, or the shipped ones; raises WeightsError."""
    from skild_phys.skild.weights import Weights, shipped_weights

    if isinstance(checkpoint, Weights):
        return checkpoint
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        kind = type(checkpoint).__name__
        raise TypeError(f"checkpoint: expected weights or a path, not {kind}")
    path = Path(shipped_weights() if checkpoint is None else checkpoint)
    stat = path.stat() if path.is_file() else None
    return _loaded(path, stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, state: object) -> Weights:
    from skild_phys.skild.weights import load_weights

    return load_weights(path)


# -- methods by name, and of a function --------------------------------------------------------


@dataclass(frozen=True)
class _Function(Method):
    """A user's own function; see `Own`."""

    function: Own

    @property
    def spins(self) -> None:
        return None

    def __post_init__(self) -> None:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if name in METHODS:
            accepted = f"a name other than {one_of(METHODS)}"
            raise BadInput("method", f"a function called {name}", accepted)
        object.__setattr__(self, "name", name)

    def prepare(self, coarse: CoarseInput, seed: int, run: Run, there: Attrs) -> Prepared:
        return Prepared(functools.partial(self._sample, coarse, seed), {})

    def _sample(
        self, coarse: CoarseInput, seed: int, raw: _Fields, index: Sequence[int], *_: Any
    ) -> _Fields:
        if not coarse.q:
            scale = coarse.rule.scale("spins", coarse.factor, len(coarse.shape))
            raw = raw.astype(np.float64) * (scale if raw.dtype.kind == "i" else 1.0)
        fine, what = [], f"what {self.name} returned"
        for i, one in zip(index, raw):
            made = np.asarray(self.function(one, coarse.factor, generator(seed, "noise", i)))
            if made.shape != coarse.fine_shape or made.dtype.kind not in "iuf":
                shown = f"numbers of shape {coarse.fine_shape}, not {made.dtype} {made.shape}"
                raise BadInput("method", what, shown)
            fine.append(made)
        if coarse.real:
            return np.stack(fine).astype(np.float32)
        if not np.isin(fine, allowed := _models(coarse)[0].values).all():
            accepted = f"configurations of {', '.join(map(str, allowed))} alone"
            raise BadInput("method", what, accepted)
        return np.stack(fine).astype(np.int8)


METHODS: dict[str, type[Method]] = {"skild": SKILD, "exact": Exact, "fill": Fill}
"""Methods by name; a dataclass that is added is one for `refine` and the command line too."""


def all_methods() -> dict[str, type[Method]]:
    """Return every method, those of installed packages (`skild_phys.methods`) among them."""
    load_plugins(METHODS, "skild_phys.methods")
    for name, found in METHODS.items():
        METHODS[name] = found if isinstance(found, type) else type(found)
    return METHODS


def method_of(method: str | Own | Method, **options: Any) -> Method:
    """Return a method by its name, or of a user's function; `options` that are None are not given.

    Raises BadInput for an unknown name, and for an option that the method does not use.
    """
    own: set[str] = set()
    if isinstance(method, str):
        if method not in METHODS and method not in all_methods():
            raise BadInput("method", method, one_of(METHODS))
        own, name = {one.name for one in fields(METHODS[method])}, method
    elif isinstance(method, Method) or callable(method):
        method = method if isinstance(method, Method) else _Function(method)
        name = method.name
    else:
        raise BadInput("method", type(method).__name__, f"{one_of(METHODS)}, or a function")
    given = {k: v for k, v in options.items() if v is not None and v is not False}
    for one, value in given.items():
        if one == "T" and one not in own:
            raise BadInput("T", value, "no temperature: only exact and polish= use one")
        if one not in own and not (one == "polish" and value == 0):
            zero = "0" if one == "polish" else "nothing"
            raise BadInput(one, str(value), f"{zero}: method {name} does not use it")
    if isinstance(method, Method):
        return method
    return METHODS[method](**{one: value for one, value in given.items() if one in own})


# -- refinement --------------------------------------------------------------------------------


class Refined(NamedTuple):
    """What `refine` has done.

    Attributes
    ----------
    filled : configurations, how many were made and how long it took.
    attrs : what the store records of the method.
    misfit : of what is not bound exactly (fields, and spins by `spectral`), rms of A x - y over
        rms of y; None for the rest.
    warnings : about the result.
    """

    filled: Filled
    attrs: dict[str, Any]
    misfit: float | None
    warnings: list[str]


def refine(
    coarse: CoarseInput,
    output: AnyPath | None,
    method: Method,
    run: Run,
    *,
    seed: int = 0,
    samples_per_input: int = 1,
    checked: Sequence[str] | None = None,
) -> Refined:
    """Refine every configuration of `coarse` into the store `output`, or into memory.

    A store that the same parameters began is resumed. `checked` is what `method.check` returned, if
    it was called before. Raises BadInput, WeightsError, StoreError, WriteError, and Interrupted;
    what was committed stays.
    """
    copies = check_whole("samples_per_input", samples_per_input)
    check_whole("seed", seed, 0)
    own = list(method.check(coarse) if checked is None else checked)
    there = {} if output is None or run.overwrite else _attributes_at(output)
    streams = there.get("streams") if there else STREAMS
    own_seed = input_seed(streams, seed, coarse.n, coarse.read)
    sampler, known = method.prepare(coarse, own_seed, run, there)
    make = _Refine(coarse, sampler, method.name, copies)
    warnings, carried = coarse.attrs.get("warnings"), ("model", "couplings")
    attrs: dict[str, Any] = {key: coarse.attrs[key] for key in carried if key in coarse.attrs} | {
        "L": sides(coarse.fine_shape),
        "temperature": method.temperature(coarse),
        "method": method.name,
        "rule": coarse.rule.name,
        "factor": coarse.factor,
        "seed": seed,
        "samples_per_input": copies,
        "parent_store": printable(coarse.path.name),
        "parent_sha256": coarse.digest,
        "tie_seed": coarse.tie_seed if coarse.rule.ties else None,
        **known,
        "streams": streams,
        **run.attrs,
        "warnings": [*(warnings if isinstance(warnings, list) else []), *own] or None,
    }
    plan = Plan(
        field=coarse.kind,
        n_samples=coarse.n * copies,
        shape=coarse.fine_shape,
        chunk=run.chunk or max(1, min(1024, 2**19 // math.prod(coarse.fine_shape))),
        attrs={name: value for name, value in attrs.items() if value is not None},
        variables=(*make.scalars, "parent", *coarse.series),
        q=coarse.q,
    )
    batch = method.batch(coarse, run.device)
    filled = fill_store(output, plan, make, run, batch=batch, given=make.given)
    misfit = None
    if "misfit" in filled.besides:
        missing, given = filled.besides["misfit"].sum(axis=0)
        misfit = math.sqrt(missing / max(given, 1e-300))
        if isinstance(method, SKILD) and misfit > method.weights.tuning.poor_misfit:
            own.append("the misfit is large: is the input of the system of the weights?")
    for text in own:
        warn(text)
    return Refined(filled, known, misfit, own)


def _attributes_at(output: AnyPath) -> dict[str, Any]:
    """Return the attributes of a store that lies at `output`; {} if none does."""
    try:
        return open_store(output).attrs
    except StoreError:
        return {}  # `create_store` will find fault with what is there


class _Refine:
    """Makes refined samples with their scalars, and checks that they are of their input."""

    def __init__(self, coarse: CoarseInput, sampler: Sampler, name: str, copies: int) -> None:
        self.coarse, self.sampler, self.name, self.copies = coarse, sampler, name, copies
        self.scalars: dict[str, Callable[[_Fields], _Fields]] = {}
        like, model = _models(coarse)
        if model is not None and not coarse.real:
            self.scalars["energy"] = model.energy
        if not coarse.real:
            self.scalars["magnetization"] = (model or like).order_parameter

    def given(self, first: int, last: int) -> _Fields:
        """Return the raw coarse values of each of the samples first .. last - 1."""
        start = first // self.copies
        raw = self.coarse.read(start, (last - 1) // self.copies + 1)
        return raw if self.copies == 1 else raw[np.arange(first, last) // self.copies - start]

    def __call__(
        self, index: NDArray[np.int64], raw: _Fields, *, stop: _Stop
    ) -> dict[str, NDArray[Any]]:
        coarse, rule, inputs = self.coarse, self.coarse.rule, index // self.copies
        fine = self.sampler(raw, index.tolist(), coarse.ties(inputs), stop)
        arrays = {coarse.kind: fine, "parent": coarse.ids[inputs]}
        if coarse.real or not rule.binds:
            operator = rule.operator(coarse.fine_shape, coarse.factor)
            values = rule.values(raw, operator, np.empty(0))
            seen = operator.apply(fine.astype(np.float64))
            axes = tuple(range(1, values.ndim))
            squares = [np.square(x).sum(axes) for x in (seen - values, values)]
            arrays["misfit"] = np.stack(squares, axis=1)
        elif not rule.agrees(fine, raw, coarse.factor, coarse.q, coarse.tie_break(inputs)).all():
            if self.name in METHODS:
                what = "refined configurations do not coarse-grain to their input"
                raise RuntimeError(f"{self.name}: {what}")
            accepted = "a function whose configurations coarse-grain to their input"
            raise BadInput("method", self.name, accepted)
        arrays |= {key: values[inputs] for key, values in coarse.series.items()}
        return arrays | {key: measure(fine) for key, measure in self.scalars.items()}
