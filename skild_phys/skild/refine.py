"""Fine lattices from coarse ones alone: SKILD, the exact conditional Monte Carlo, a random fill.

Every refined sample is named by its index in the output, (input index) x samples_per_input +
replica; its random streams follow from that name and the seed alone. On a CPU the lattices
are worked on one at a time, each by one thread, so that neither the number of threads nor the
size of a batch can change a rounding; on a GPU in batches.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted, WeightsError
from skild_phys.lattice.coarsen import (
    BlockMean,
    Operator,
    block_sums,
    coarsen_lattices,
    operator,
    state_counts,
)
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.draw import draw_spins
from skild_phys.skild.oracle import (
    Lattices,
    Method,
    measured_sweeps,
    model_of,
    model_of_values,
    monte_carlo,
    polished,
)
from skild_phys.skild.process import Process
from skild_phys.skild.sampler import Streams, sample_fields, sample_spins, white_noise
from skild_phys.skild.schedule import LAMBDA_END, geometric_steps, starting_lambda
from skild_phys.skild.weights import Weights
from skild_phys.store import create_store

METHODS = ("skild", "exact", "fill")
SPIN_RULES = ("block_mean", "majority", "decimate")
TEMPERATURE_TOLERANCE = 0.005
"""Largest relative distance from the weights' temperature that is refined without being told."""

START_SCALE = {"block_mean": 1.0, "spectral": 1.0, "majority": 2.0, "decimate": 2.0}
"""How far past the coarse Nyquist mode a chain starts (`starting_lambda`): signs and single
spins say less about the waves they carry than block means do."""

SHIPPED_SHARPNESS = {"block_mean": 1.04}
"""Sites are drawn one by one from the network's odds, which breaks a few bonds too many; odds
raised to this power make up for some of it. Chosen once, for the shipped weights, on simulated
128^2 lattices refined 4x, that no reported figure uses; 1 for the rules where it does harm."""


@dataclass(frozen=True)
class RefineSpec:
    """How to refine.

    Attributes
    ----------
    method : 'skild'; 'exact' (constrained Monte Carlo of the known Hamiltonian, a random fill
        followed by `sweeps` sweeps); 'fill' (each block at random, no model).
    steps : network calls a lattice.
    samples_per_input : fine lattices for each coarse one.
    seed : of all random numbers.
    polish : constrained Monte Carlo sweeps after SKILD.
    sharpness : number that all logits are multiplied by (`SHIPPED_SHARPNESS`); 1 as trained.
    sweeps : of method 'exact'; None to measure their number (`simulate.conditional.pilot`).
    lambda_start, lambda_end : ends of the chain; None for the defaults of `schedule`.
    """

    method: str = "skild"
    steps: int = 40
    samples_per_input: int = 1
    seed: int = 0
    polish: int = 0
    sharpness: float = 1.0
    sweeps: int | None = None
    lambda_start: float | None = None
    lambda_end: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInput("--method", self.method, " or ".join(METHODS))
        least = {"steps": 1, "samples_per_input": 1, "seed": 0, "polish": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                option = "--" + name.replace("_", "-")
                raise BadInput(option, getattr(self, name), f"a whole number of at least {low}")
        if not 0.1 <= self.sharpness <= 10:
            raise BadInput("--sharpness", self.sharpness, "a number near 1, in 0.1 .. 10")
        if self.sweeps is not None and self.sweeps < 0:
            raise BadInput("--sweeps", self.sweeps, "a whole number of at least 0")
        if self.polish and self.method != "skild":
            raise BadInput("--polish", self.polish, "0, unless the method is skild")


def check_weights_fit(weights: Weights, attrs: dict[str, Any], where: Path) -> None:
    """Raise WeightsError if `attrs` say another model or a temperature far from the weights'."""
    system = weights.system
    model, temperature = attrs.get("model"), attrs.get("temperature")
    if model is not None and system.get("model") not in (None, model):
        raise WeightsError(
            f"{where}: is of model {model}, the weights are of {system['model']};"
            " --any-system refines it all the same"
        )
    if temperature is not None and system.get("temperature") is not None:
        distance = abs(temperature / system["temperature"] - 1.0)
        if distance > TEMPERATURE_TOLERANCE:
            raise WeightsError(
                f"{where}: is at T = {temperature:.6g}, the weights are of"
                f" T = {system['temperature']:.6g}; --any-system refines it all the same"
            )


def check_skild_fits(coarse: CoarseInput) -> None:
    """Raise BadInput unless the method `skild` can refine such lattices: 2D spins or fields."""
    if coarse.q or len(coarse.shape) != 2:
        held = f"Potts states (q = {coarse.q})" if coarse.q else f"{len(coarse.shape)}D lattices"
        accepted = f"exact or fill: skild refines 2D spins and fields, {coarse.path} is of {held}"
        raise BadInput("--method", "skild", accepted)


class Skild:
    """The method `skild` for one coarse input: a network, a process and a schedule."""

    def __init__(
        self,
        weights: Weights,
        coarse: CoarseInput,
        spec: RefineSpec,
        device: str = "cpu",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        check_skild_fits(coarse)
        spins = weights.output == "logits"
        if spins and coarse.rule not in SPIN_RULES:
            raise BadInput("--rule", coarse.rule, " or ".join(SPIN_RULES) + " for spins")
        if not spins and coarse.rule == "majority":
            raise BadInput("--rule", coarse.rule, "a linear rule for continuous fields")
        self.weights, self.coarse, self.spec, self.stop = weights, coarse, spec, stop
        self.device = torch.device(device)
        self.network = weights.build(self.device)
        height, width = coarse.fine_shape
        self.shape = (height, width)
        self.process = Process(weights.spectrum, self.shape, self.device)
        self.variances = weights.spectrum.variances(self.shape)
        self.operator: Operator
        if coarse.rule == "majority":
            self.operator = BlockMean(coarse.fine_shape, coarse.factor)
        else:
            self.operator = operator(coarse.rule, coarse.fine_shape, coarse.factor)
        start, end = spec.lambda_start, spec.lambda_end
        if start is None:
            start = starting_lambda(coarse.factor, START_SCALE[coarse.rule])
        if end is None:
            end = LAMBDA_END
        low, high = weights.lambda_range
        if not low <= end < start <= high:
            accepted = f"{low:.3g} <= end < start <= {high:.3g}, what the weights have seen"
            raise BadInput("--lambda-start", start, accepted)
        self.lambdas = geometric_steps(start, end, spec.steps)

    def _coarse_values(self, raw: Lattices) -> NDArray[np.float64]:
        """Return what the operator should see: means for block sums, scaled signs for majority.

        Block means of fields are stored as they are, in floating point.

        A majority sign stands for a block mean of its size's root mean square.
        """
        if self.coarse.rule == "block_mean" and raw.dtype.kind == "i":
            return raw / float(self.coarse.factor**2)
        if self.coarse.rule == "majority":
            seen = np.abs(self.operator.transfer) ** 2 * self.variances
            double = np.full(seen.shape[1], 2.0)
            double[0] = 1.0
            if self.coarse.fine_shape[1] % 2 == 0:
                double[-1] = 1.0
            mean_square = float((seen * double).sum()) / math.prod(self.coarse.fine_shape)
            return raw * math.sqrt(mean_square)
        return raw.astype(np.float64)

    def __call__(self, raw: Lattices, index: Sequence[int], coins: Lattices | None) -> Lattices:
        streams = [Streams.of(self.spec.seed, i) for i in index]
        shape, rule, factor = self.shape, self.coarse.rule, self.coarse.factor
        values = self._coarse_values(raw)
        with torch.inference_mode():
            field = self.process.gaussian(white_noise(streams, shape, self.device))
            guess = self.operator.correct(field.double().cpu().numpy(), values, self.variances)
            x0 = torch.from_numpy(guess.astype(np.float32)).to(self.device)
            at = torch.full((len(raw),), float(self.lambdas[0]), device=self.device)
            start = self.process.forward(x0, at, white_noise(streams, shape, self.device))
            if self.weights.output == "v":
                return sample_fields(
                    self.network, self.process, start, self.lambdas, self.operator, values,
                    self.variances, streams, self.stop,
                )  # fmt: skip

            def draw(
                logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]
            ) -> NDArray[np.int8]:
                coin = coins[i] if coins is not None else None
                sharp = logits * np.float32(self.spec.sharpness)
                return draw_spins(sharp, rule, raw[i], factor, coin, state)

            return sample_spins(
                self.network, self.process, start, self.lambdas, draw, streams, self.stop
            )


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
    if spec.method == "skild":
        if weights is None:
            raise BadInput("--checkpoint", "none", "weights for method skild")
        skild = Skild(weights, coarse, spec, device, stop)
        if not spec.polish:
            return skild
    if spec.method != "fill" and temperature is None:
        raise BadInput("--T", "none", "the temperature: the input does not say it")
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
    {"samples": in the store, "seconds": wall time of this call, "refined": by this call}; and
    {"tau_int", "sweeps"} of method exact where they were measured.
    """
    spec, tau = _with_sweeps(coarse, spec, temperature, stop)
    method = build_method(coarse, spec, weights, temperature, device, stop)
    copies, total = spec.samples_per_input, coarse.n * spec.samples_per_input
    fields = weights is not None and spec.method == "skild" and weights.output == "v"
    name = "field" if fields else "states" if coarse.q else "spins"
    chunk = chunk or max(1, min(1024, 2**19 // math.prod(coarse.fine_shape)))
    attrs = _attributes(coarse, spec, weights_sha256, temperature) | (extra_attrs or {})
    attrs |= {} if tau is None else {"tau_int": tau}
    threads = threads or os.cpu_count() or 1
    group = 1 if torch.device(device).type == "cpu" else 32
    began, refined = time.perf_counter(), 0

    def work(index: list[int]) -> Lattices:
        inputs = [i // copies for i in index]
        raw = np.stack([_one(coarse, i) for i in inputs])
        coins = None
        if coarse.rule == "majority":
            coins = coarse.coins(coarse.ids[inputs])
        fine = method(raw, index, coins)
        progress(len(index))
        return fine

    scalars = _scalars(coarse, fields)
    threads_before = torch.get_num_threads()
    with (
        contextlib.ExitStack() as cleanup,
        create_store(
            output,
            field=name,
            n_samples=total,
            shape=coarse.fine_shape,
            chunk=chunk,
            attrs=attrs,
            variables=(*scalars, "parent", *coarse.series),
            q=coarse.q,
            overwrite=overwrite,
        ) as writer,
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        cleanup.callback(torch.set_num_threads, threads_before)
        progress(writer.committed)
        while writer.committed < total:
            first = writer.committed
            last = min((first // chunk + 1) * chunk, total)
            groups = [list(range(i, min(i + group, last))) for i in range(first, last, group)]
            parts = _until_stopped([pool.submit(work, index) for index in groups], stop)
            if parts is None:
                raise Interrupted(
                    f"interrupted: {first} of {total} samples are kept in {output};"
                    " the same command, without --overwrite, goes on from there"
                )
            fine = np.concatenate(parts)
            if not fields:
                _check_consistent(coarse, fine, first, copies)
            inputs = np.arange(first, last) // copies
            arrays = {name: fine, "parent": coarse.ids[inputs]}
            arrays |= {key: values[inputs] for key, values in coarse.series.items()}
            writer.commit(arrays | {key: measure(fine) for key, measure in scalars.items()})
            refined += last - first
    result = {"samples": total, "refined": refined, "seconds": time.perf_counter() - began}
    return result | ({} if tau is None else {"tau_int": tau, "sweeps": spec.sweeps or 0})


def _with_sweeps(
    coarse: CoarseInput, spec: RefineSpec, temperature: float | None, stop: Callable[[], bool]
) -> tuple[RefineSpec, float | None]:
    """Return `spec` with the number of sweeps measured, and tau, where method exact has none."""
    if spec.method != "exact" or spec.sweeps is not None or temperature is None:
        return spec, None
    pilot = measured_sweeps(coarse, temperature, spec.seed, stop)
    return replace(spec, sweeps=pilot.sweeps), pilot.tau


def _scalars(coarse: CoarseInput, fields: bool) -> dict[str, Callable[[Lattices], Lattices]]:
    """Return what is kept of each lattice besides itself; no energy without its Hamiltonian."""
    if fields:
        return {}
    model = model_of(coarse)
    if model is None:
        return {"magnetization": model_of_values(coarse).magnetization}
    return {"energy": model.energy, "magnetization": model.magnetization}


def _until_stopped(jobs: list[Future[Lattices]], stop: Callable[[], bool]) -> list[Lattices] | None:
    """Return the results of `jobs`, or None as soon as `stop` says so."""
    try:
        while wait(jobs, timeout=0.1, return_when=FIRST_EXCEPTION).not_done:
            if stop():
                return None
            if any(job.done() and job.exception() for job in jobs):
                break
        return [job.result() for job in jobs]
    except Interrupted:
        return None
    finally:
        for job in jobs:
            job.cancel()


def _check_consistent(coarse: CoarseInput, fine: Lattices, first: int, copies: int) -> None:
    """Raise RuntimeError unless the lattices coarse-grain to their input, every number of it."""
    inputs = np.arange(first, first + len(fine)) // copies
    again = coarsen_lattices(
        fine,
        coarse.q,
        coarse.rule,
        coarse.factor,
        tie_seed=coarse.tie_seed or 0,
        sample_ids=coarse.ids[inputs],
    )
    given = coarse.read(int(inputs[0]), int(inputs[-1]) + 1)[inputs - inputs[0]]
    if coarse.rule == "majority" and coarse.tie_seed is None:
        # What a tie was decided by is not known: the input may say any of what is tied.
        again = np.where(_could_be(coarse, fine, given), given, again)
    if not np.array_equal(again, given):
        raise RuntimeError("refined lattices do not coarse-grain to their input")


def _could_be(coarse: CoarseInput, fine: Lattices, given: Lattices) -> NDArray[np.bool_]:
    """Return where `given` is one of the commonest values of its block."""
    dimension = len(coarse.shape)
    if not coarse.q:
        sums = block_sums(fine, coarse.factor, dimension)
        return np.asarray((sums == 0) | (np.sign(sums) == given))
    counts = state_counts(fine, coarse.q, coarse.factor, dimension)
    of_given = np.take_along_axis(counts, given[:, None].astype(np.int64), axis=1)
    return np.asarray(of_given[:, 0] == counts.max(axis=1))


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
    weights_sha256: str | None,
    temperature: float | None,
) -> dict[str, Any]:
    kept: dict[str, Any] = {k: coarse.attrs[k] for k in ("model", "couplings") if k in coarse.attrs}
    attrs: dict[str, Any] = {
        **kept,
        "L": coarse.fine_shape[-1],
        "temperature": temperature,
        "method": spec.method,
        "rule": coarse.rule,
        "factor": coarse.factor,
        "seed": spec.seed,
        "samples_per_input": spec.samples_per_input,
        "parent_store": coarse.path.name,
        "parent_sha256": coarse.digest,
    }
    if coarse.rule == "majority":
        attrs["tie_seed"] = coarse.tie_seed
    if spec.method == "skild":
        attrs |= {"steps": spec.steps, "polish": spec.polish, "weights_sha256": weights_sha256}
        attrs["sharpness"] = spec.sharpness
        attrs |= {"lambda_start": spec.lambda_start, "lambda_end": spec.lambda_end}
    if spec.method == "exact":
        attrs["sweeps"] = spec.sweeps
    return {k: v for k, v in attrs.items() if v is not None}
