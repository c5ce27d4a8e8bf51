"""Fine lattices from coarse ones alone: SKILD, the exact conditional Monte Carlo, a random fill.

Every refined sample is named by its index in the output, (input index) x samples_per_input +
replica; its random streams follow from that name, the seed and the input (`streams.input_seed`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, OutputTaken, StoreError, WeightsError
from skild_phys.files import printable
from skild_phys.rules import RULES
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.equations import make_step
from skild_phys.skild.networks import arithmetic
from skild_phys.skild.oracle import (
    Lattices,
    Method,
    hamiltonian_of,
    measured_sweeps,
    model_of,
    model_of_values,
    monte_carlo,
    polished,
)
from skild_phys.skild.produce import produce
from skild_phys.skild.schedule import (
    chain_record,
    check_restarts,
    starting_lambda,
    usual_restarts,
)
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import Torus
from skild_phys.skild.streams import Streams, input_seed
from skild_phys.skild.weights import Weights
from skild_phys.store import open_store, sides, streams_at

METHODS = ("skild", "exact", "fill")
TEMPERATURE_TOLERANCE = 0.005
"""Largest relative distance from the weights' temperature that is refined without being told."""


@dataclass(frozen=True)
class RefineSpec:
    """How to refine.

    Attributes
    ----------
    method : 'skild'; 'exact' (constrained Monte Carlo of the known Hamiltonian, a random fill
        followed by `sweeps` sweeps); 'fill' (each block at random, no model).
    steps : denoiser calls a lattice; None for as many as the start asks for
        (`schedule.restarting_lambdas`).
    sampler : of `equations.STEPS`.
    restarts : how often the chain goes back up (`schedule.restarting_lambdas`); None for 2, or
        0 with few steps or another sampler than `stochastic`.
    samples_per_input : fine lattices for each coarse one.
    seed : of all random numbers.
    polish : constrained Monte Carlo sweeps after SKILD.
    sweeps : of method 'exact'; None to measure their number (`simulate.conditional.pilot`).
    lambda_start, lambda_end : ends of the chain; None for the defaults of `schedule`.
    """

    method: str = "skild"
    steps: int | None = None
    sampler: str = "stochastic"
    restarts: int | None = None
    samples_per_input: int = 1
    seed: int = 0
    polish: int = 0
    sweeps: int | None = None
    lambda_start: float | None = None
    lambda_end: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInput("--method", self.method, " or ".join(METHODS))
        least = {"steps": 1, "samples_per_input": 1, "seed": 0, "polish": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                option = "--" + name.replace("_", "-")
                raise BadInput(option, value, f"a whole number of at least {low}")
        make_step(self.sampler)
        usual_restarts(self.restarts, self.steps, self.sampler)
        if self.sweeps is not None and self.sweeps < 0:
            raise BadInput("--sweeps", self.sweeps, "a whole number of at least 0")
        if self.polish and self.method != "skild":
            raise BadInput("--polish", self.polish, "0, unless the method is skild")


def another_system(weights: Weights, attrs: dict[str, Any]) -> str | None:
    """Return how `attrs` differ from the weights in model or temperature; None for not at all."""
    system = weights.system
    model, temperature = attrs.get("model"), attrs.get("temperature")
    if model is not None and system.get("model") not in (None, model):
        return f"is of model {model}, the weights are of {system['model']}"
    if temperature is not None and system.get("temperature") is not None:
        distance = abs(temperature / system["temperature"] - 1.0)
        if distance > TEMPERATURE_TOLERANCE:
            return (
                f"is at T = {temperature:.6g}, the weights are of T = {system['temperature']:.6g}"
            )
    return None


def check_weights_fit(weights: Weights, attrs: dict[str, Any], where: Path) -> None:
    """Raise WeightsError if `attrs` are of `another_system`."""
    if differs := another_system(weights, attrs):
        raise WeightsError(f"{where}: {differs}; refine --any-system takes it all the same")


def check_skild_fits(coarse: CoarseInput) -> None:
    """Raise BadInput unless the method `skild` can refine such lattices: 2D spins or fields."""
    if coarse.q or len(coarse.shape) != 2:
        held = f"Potts states (q = {coarse.q})" if coarse.q else f"{len(coarse.shape)}D lattices"
        accepted = f"exact or fill: skild refines 2D spins and fields, {coarse.path} is of {held}"
        raise BadInput("--method", "skild", accepted)


def lambdas_of(weights: Weights, coarse: CoarseInput, spec: RefineSpec) -> NDArray[np.float64]:
    start = spec.lambda_start
    if start is None:
        # Farther out than the coarse Nyquist mode asks for only as far as the weights have seen.
        rule, tuning = coarse.rule, weights.tuning
        scale = tuning.start_scale.get(rule.name, rule.start_scale)
        wanted = starting_lambda(coarse.factor, scale)
        start = max(starting_lambda(coarse.factor), min(wanted, weights.lambda_range[1]))
    end = spec.lambda_end
    if end is None and weights.output == "logits":
        own = weights.tuning.rule_end.get(coarse.rule.name, coarse.rule.end_lambda)
        end = None if own is None else max(own, weights.lambda_range[0])
    restarts = usual_restarts(spec.restarts, spec.steps, spec.sampler, weights.tuning)
    lambdas = weights.lambdas(start, end, spec.steps, restarts)
    check_restarts(lambdas, spec.restarts, weights.tuning)
    return lambdas


class SkildMethod:
    """The method `skild` for one coarse input: weights, a constraint and a chain of lambdas."""

    def __init__(
        self,
        weights: Weights,
        coarse: CoarseInput,
        spec: RefineSpec,
        device: str = "cpu",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if weights.basis != Torus.name:
            raise BadInput("--checkpoint", f"weights in the basis {weights.basis}", Torus.name)
        self.coarse, self.spec, self.stop = coarse, spec, stop
        self.skild = Skild.of(weights, coarse.fine_shape, device, spec.sampler)
        self.lambdas = lambdas_of(weights, coarse, spec)

    def __call__(self, raw: Lattices, index: Sequence[int], coins: Lattices | None) -> Lattices:
        streams = [Streams.of(self.spec.seed, i) for i in index]
        rule, factor = self.coarse.rule, self.coarse.factor
        return self.skild.refine(raw, rule, factor, self.lambdas, streams, coins, self.stop)


def check_method(
    coarse: CoarseInput, spec: RefineSpec, temperature: float | None, *, fields: bool = False
) -> None:
    """Raise BadInput unless what `spec` asks for can refine `coarse`; lattices are not read.

    `fields` says that the weights of method skild give real numbers. Their own limits, such as
    the lambdas that they were trained on, are not looked at.
    """
    exact = " or ".join(rule.name for rule in RULES.values() if rule.exact)
    if spec.method == "skild":
        check_skild_fits(coarse)
        if fields:
            coarse.rule.operator(coarse.fine_shape, coarse.factor)
        if spec.polish and (fields or not coarse.rule.exact):
            accepted = f"0, unless spins are refined by {exact}"
            raise BadInput("--polish", spec.polish, accepted)
    elif not coarse.rule.exact:
        raise BadInput("rule", coarse.rule.name, f"{exact} for {spec.method}")
    if spec.method == "exact" or spec.polish:
        option = ("--polish", spec.polish) if spec.polish else ("--method", spec.method)
        hamiltonian_of(coarse, *option)
        if temperature is None:
            raise BadInput("--T", None, "the temperature: the input does not say it")


def build_method(
    coarse: CoarseInput,
    spec: RefineSpec,
    weights: Weights | None,
    temperature: float | None = None,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Method:
    """Return the function that refines raw coarse lattices of `coarse` as `spec` says.

    `temperature` (J / k_B) is needed by method exact and by a polish. The function raises
    Interrupted soon after `stop` says so.
    """
    check_method(
        coarse, spec, temperature, fields=weights is not None and weights.output != "logits"
    )
    if spec.method == "skild":
        if weights is None:
            raise BadInput("--checkpoint", None, "weights for method skild")
        skild = SkildMethod(weights, coarse, spec, device, stop)
        if not spec.polish:
            return skild
    # A fill makes no moves: any temperature does.
    heat = 1.0 if temperature is None else temperature
    if spec.method == "skild":
        return polished(coarse, skild, heat, spec.seed, spec.polish, stop)
    if spec.method == "exact" and spec.sweeps is None:
        spec = replace(spec, sweeps=measured_sweeps(coarse, heat, spec.seed, stop).sweeps)
    return monte_carlo(coarse, spec.method, heat, spec.seed, spec.sweeps or 0, stop)


def refine_store(
    coarse: CoarseInput,
    output: str | Path,
    spec: RefineSpec,
    weights: Weights | None,
    *,
    temperature: float | None = None,
    weights_sha256: str | None = None,
    extra_attrs: dict[str, Any] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    chunk: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Refine every lattice of `coarse` into the store `output`, commit by commit.

    An unfinished output of the same parameters is gone on with. Raises Interrupted once `stop`
    says so, with what was committed complete.

    Returns
    -------
    {"samples": in the store, "seconds": wall time of this call, "refined": by this call};
    {"tau_int", "sweeps"} of method exact where they were measured; "misfit" of what is not
    bound exactly (fields, and spins by `spectral`), rms of A x - y over rms of y.
    """
    seed, streams = spec.seed, streams_at(output, overwrite)
    fields = spec.method == "skild" and weights is not None and weights.output != "logits"
    check_method(coarse, spec, temperature, fields=fields)
    spec = replace(spec, seed=input_seed(streams, seed, coarse.n, coarse.read))
    there = {} if overwrite else _attributes_at(output)
    spec, tau = _with_sweeps(coarse, spec, temperature, there, output, stop)
    method = build_method(coarse, spec, weights, temperature, device, stop)
    copies, total = spec.samples_per_input, coarse.n * spec.samples_per_input
    name = "field" if fields else "states" if coarse.q else "spins"
    attrs = _attributes(coarse, spec, weights, weights_sha256, temperature, device)
    attrs |= {"seed": seed} | ({} if streams is None else {"streams": streams})
    attrs |= (extra_attrs or {}) | ({} if tau is None else {"tau_int": tau})
    scalars, bound = _scalars(coarse, fields), not fields and coarse.rule.binds
    misfits: list[NDArray[np.float64]] = []

    def make(index: Sequence[int]) -> Lattices:
        inputs = [i // copies for i in index]
        raw = np.stack([_one(coarse, i) for i in inputs])
        return method(raw, index, coarse.ties(inputs))

    def extra(fine: Lattices, index: NDArray[np.int64]) -> dict[str, Lattices]:
        inputs = index // copies
        if bound:
            _check_consistent(coarse, fine, inputs)
        else:
            misfits.append(_misfit(coarse, fine, inputs))
        arrays = {"parent": coarse.ids[inputs]}
        arrays |= {key: values[inputs] for key, values in coarse.series.items()}
        return arrays | {key: measure(fine) for key, measure in scalars.items()}

    began = time.perf_counter()
    refined = produce(
        output,
        make,
        field=name,
        n_samples=total,
        shape=coarse.fine_shape,
        chunk=chunk or max(1, min(1024, 2**19 // math.prod(coarse.fine_shape))),
        attrs=attrs,
        extra=extra,
        variables=(*scalars, "parent", *coarse.series),
        q=coarse.q,
        overwrite=overwrite,
        threads=threads,
        device=device,
        progress=progress,
        stop=stop,
    )
    result = {"samples": total, "refined": refined, "seconds": time.perf_counter() - began}
    if misfits:
        missing, given = np.sum(misfits, axis=0)
        result["misfit"] = math.sqrt(missing / max(given, 1e-300))
    return result | ({} if tau is None else {"tau_int": tau, "sweeps": spec.sweeps or 0})


def _attributes_at(output: str | Path) -> dict[str, Any]:
    """Return the attributes of a store that lies at `output`; {} if none does."""
    try:
        return open_store(output).attrs
    except StoreError:
        return {}  # `create_store` will find fault with what is there


def _with_sweeps(
    coarse: CoarseInput,
    spec: RefineSpec,
    temperature: float | None,
    there: dict[str, Any],
    output: str | Path,
    stop: Callable[[], bool],
) -> tuple[RefineSpec, float | None]:
    """Return `spec` with the number of sweeps measured, and tau, where method exact has none.

    A store that lies `there` has both if it is one to resume: the same pilot gave them.
    """
    if spec.method != "exact" or spec.sweeps is not None or temperature is None:
        return spec, None
    if {"tau_int", "sweeps"} <= there.keys():
        return replace(spec, sweeps=there["sweeps"]), there["tau_int"]
    if there:
        accepted = "a store made with the same parameters: there no tau was measured"
        raise OutputTaken("-o", str(output), f"{accepted} (--overwrite starts afresh)")
    pilot = measured_sweeps(coarse, temperature, spec.seed, stop)
    return replace(spec, sweeps=pilot.sweeps), pilot.tau


def _scalars(coarse: CoarseInput, fields: bool) -> dict[str, Callable[[Lattices], Lattices]]:
    """Return what is kept of each lattice besides itself; no energy without its Hamiltonian."""
    if fields:
        return {}
    model = model_of(coarse)
    if model is None:
        return {"magnetization": model_of_values(coarse).order_parameter}
    return {"energy": model.energy, "magnetization": model.order_parameter}


def _given(coarse: CoarseInput, inputs: NDArray[np.int64]) -> Lattices:
    """Return the raw coarse lattices `inputs`, a rising stretch of indices."""
    given: Lattices = coarse.read(int(inputs[0]), int(inputs[-1]) + 1)[inputs - inputs[0]]
    return given


def _misfit(coarse: CoarseInput, fine: Lattices, inputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums of squares of A x - y, and of y."""
    operator = coarse.rule.operator(coarse.fine_shape, coarse.factor)
    values = coarse.rule.values(_given(coarse, inputs), operator, np.empty(0))
    seen = operator.apply(fine.astype(np.float64))
    return np.array([np.square(seen - values).sum(), np.square(values).sum()])


def _check_consistent(coarse: CoarseInput, fine: Lattices, inputs: NDArray[np.int64]) -> None:
    """Raise RuntimeError unless the lattices coarse-grain to their input, every number of it."""
    given, ties = _given(coarse, inputs), coarse.tie_break(inputs)
    if not coarse.rule.agrees(fine, given, coarse.factor, coarse.q, ties).all():
        raise RuntimeError("refined lattices do not coarse-grain to their input")


_HELD = threading.local()


def _one(coarse: CoarseInput, i: int) -> Lattices:
    """Return coarse lattice `i`; each thread keeps the last stretch it read."""
    held = getattr(_HELD, "stretch", None)
    key = (id(coarse), i // 64)
    if held is None or held[0] != key:
        start = i // 64 * 64
        held = (key, coarse.read(start, min(start + 64, coarse.n)))
        _HELD.stretch = held
    lattice: Lattices = held[1][i % 64]
    return lattice


def _attributes(
    coarse: CoarseInput,
    spec: RefineSpec,
    weights: Weights | None,
    weights_sha256: str | None,
    temperature: float | None,
    device: str,
) -> dict[str, Any]:
    kept: dict[str, Any] = {k: coarse.attrs[k] for k in ("model", "couplings") if k in coarse.attrs}
    attrs: dict[str, Any] = {
        **kept,
        "L": sides(coarse.fine_shape),
        "temperature": temperature,
        "method": spec.method,
        "rule": coarse.rule.name,
        "factor": coarse.factor,
        "seed": spec.seed,
        "samples_per_input": spec.samples_per_input,
        "parent_store": printable(coarse.path.name),
        "parent_sha256": coarse.digest,
    }
    if coarse.rule.ties:
        attrs["tie_seed"] = coarse.tie_seed
    if spec.method == "skild" and weights is not None:
        lambdas = lambdas_of(weights, coarse, spec)
        attrs |= {"polish": spec.polish, "weights_sha256": weights_sha256, "sampler": spec.sampler}
        attrs |= chain_record(lambdas) | {"arithmetic": arithmetic(device)}
    if spec.method == "exact":
        attrs["sweeps"] = spec.sweeps
    return {k: v for k, v in attrs.items() if v is not None}
