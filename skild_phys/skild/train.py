"""Training: one file read from top to bottom, and a run that goes on exactly where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skild_phys import __version__
from skild_phys.errors import BadInput, Interrupted, OutputTaken, WeightsError
from skild_phys.files import parse_json, write_bytes_atomically
from skild_phys.rng import seed_sequence
from skild_phys.rules import RULES, Rule
from skild_phys.rules.conditions import Blocks, Constraint, differentiable_means
from skild_phys.skild.data import EVERY, Source
from skild_phys.skild.equations import Process, each, field_target, scale_weights, see_fields
from skild_phys.skild.measured import (
    SIGNIFICANT,
    beyond_pairs,
    fit_channels,
    fit_couplings,
    fit_spectrum,
    measure_shells,
)
from skild_phys.skild.networks import make_network, network_dtype
from skild_phys.skild.ranks import Ranks
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.records import as_record
from skild_phys.skild.schedule import TIMES, starting_lambda
from skild_phys.skild.spectrum import (
    WHITE,
    ChannelSpectra,
    Spectrum,
    make_basis,
    spectrum_from_record,
)
from skild_phys.skild.spins import (
    Couplings,
    Evidence,
    MeanField,
    couplings_from_record,
    half_tanh,
    spin_logits,
)
from skild_phys.skild.symmetries import MIRROR, SYMMETRIES
from skild_phys.skild.targets import (
    exchange_targets,
    majority_targets,
    site_targets,
    spin_surrogate,
    wave_slope,
)
from skild_phys.skild.weights import Weights, content_sha256

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
CHECKPOINT_FORMAT = "skild-phys checkpoint 7"


class Measured(NamedTuple):
    """What is known of the data before the first step."""

    spectrum: Spectrum
    couplings: Couplings
    conditional: bool = False
    """Whether the targets of spins are their means given all the others."""


def measure(source: Source, config: Recipe) -> Measured:
    """Measure the spectrum, and of spins the pair couplings, of the source's first batches.

    No lattice is counted twice, unless all are fewer than a batch: the errors of couplings are over
    independent batches.
    """
    if config.spectrum == "white":
        return Measured(WHITE, Couplings())
    if config.paper_spectrum is not None:
        return Measured(config.paper_spectrum, Couplings())
    basis, count = make_basis(config.basis, source.shape), config.spectrum_batches
    if source.n_samples is not None:
        count = min(count, max(1, source.n_samples // config.batch))
    batches = [source.next(config.batch)]
    count = min(count, 1 + MEASURED // batches[0].nbytes)
    batches += [source.next(config.batch) for _ in range(count - 1)]
    check_sign(batches, config.symmetries)
    if config.spectrum == ChannelSpectra.kind:
        if not source.channels:
            raise BadInput("spectrum", config.spectrum, "another for lattices, without channels")
        return Measured(fit_channels(batches, basis), Couplings())
    spectrum = fit_spectrum(measure_shells(batches, basis).power, basis, config.spectrum)
    couplings = Couplings()
    if config.output == "logits":
        alike = {"flip", "turn"} <= set(config.symmetries)
        couplings = fit_couplings(batches, config.couplings_reach, symmetric=alike)
    conditional = config.targets == "conditional"
    if config.output == "logits" and config.targets == "auto":
        deviations = beyond_pairs(batches, couplings, config.couplings_reach)
        conditional = bool((np.abs(deviations) < SIGNIFICANT).all())
    return Measured(spectrum, couplings, conditional)


def check_sign(batches: Sequence[NDArray[np.generic]], symmetries: Sequence[str]) -> None:
    """Warn if lattices are to be symmetric under a change of sign, and do not look like it.

    That is, of 64 or more, if the mean of all is above half the root mean square of the mean over
    a lattice: 4 standard errors where lattices are independent, as those of one chain are not.
    """
    fields = [np.asarray(batch, dtype=np.float64).reshape(len(batch), -1) for batch in batches]
    means = np.concatenate([batch.mean(axis=1) for batch in fields])
    mean = float(means.mean())
    if "sign" in symmetries and len(means) >= 64 and mean**2 > 0.25 * float((means**2).mean()):
        others = [name for name in symmetries if name != "sign"]
        warnings.warn(
            f"symmetries: {list(symmetries)}, but the mean of the lattices is {mean:.3g}, not 0: "
            f"they are trained on with either sign, unless symmetries = {others}",
            stacklevel=2,
        )


LOG = ("step", "loss", "gradient_norm", "learning_rate", "lattices_per_second")
"""What the rows of `Trainer.log` hold."""


def symmetry(
    lattices: Tensor,
    random: torch.Generator,
    symmetries: Sequence[str] = SYMMETRIES,
    part: slice = EVERY,
    batch: int | None = None,
) -> Tensor:
    """Apply one random symmetry, of those that hold, to a batch (n, ..., Ly, Lx).

    MIRROR is drawn for each on its own; `lattices` are `part` of a batch.
    """
    height, width = lattices.shape[-2:]
    draw = torch.randint(0, 2**30, (6,), generator=random).tolist()
    if "shift" in symmetries:
        lattices = torch.roll(lattices, (draw[0] % height, draw[1] % width), (-2, -1))
    for axis in (-2, -1):
        if draw[4 + axis] % 2 and "flip" in symmetries:
            lattices = lattices.flip(axis)
    if draw[4] % 2 and height == width and "turn" in symmetries:
        lattices = lattices.transpose(-2, -1)
    if MIRROR in symmetries:
        which = torch.rand(batch or len(lattices), generator=random)[part] < 0.5
        which = which.reshape(-1, *[1] * (lattices.dim() - 1))
        lattices = torch.where(which, lattices.flip(-1), lattices)
    return -lattices if draw[5] % 2 and "sign" in symmetries else lattices


def learning_rate(step: int, config: Recipe) -> float:
    """Return the rate at `step`: linear warm-up, then constant-then-linear-decay or a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.learning_rate * warm
    if config.schedule == "cosine":
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    left = (config.steps - step) / max(1.0, config.decay_fraction * config.steps)
    return config.learning_rate * warm * min(1.0, left)


FACTORS = (2, 4, 8)
"""Of the coarse lattices that a part of each batch knows; the rule is drawn by `Rule.shown`."""
REACH = 4.0
"""Up to how many times the lambda where a chain usually starts they are known."""


class Known:
    """A batch whose first lattices are free and whose others know their coarse lattices."""

    def __init__(
        self,
        n_free: int,
        spins: Tensor | None = None,
        rule: Rule | None = None,
        factor: int = 1,
    ) -> None:
        self.n_free, self.rule, self.factor = n_free, rule, factor
        self.bound: Constraint | None = None
        if spins is None or rule is None:
            return
        raw = rule.coarsen(spins.cpu().numpy().astype(np.int8), factor)
        self.bound = rule.condition(raw, tuple(spins.shape[1:]), factor, None, spins.device)

    def reach(self, most: float) -> float:
        """Return the largest lambda at which the coarse lattices are of use, `most` at most."""
        scale = self.rule.start_scale if self.rule else 1.0
        return min(most, REACH * starting_lambda(self.factor, scale))

    def means(self, logits: Tensor) -> Tensor:
        """Return the means of spins with `logits` under what is known of each lattice."""
        if self.bound is None:
            return half_tanh(logits)
        free, rest = logits[: self.n_free], logits[self.n_free :]
        return torch.cat([half_tanh(free), self.bound.means(rest)])

    def differentiable(self, logits: Tensor) -> Tensor:
        """Return `means`, through which gradients flow."""
        if self.bound is None:
            return half_tanh(logits)
        free, rest = logits[: self.n_free], logits[self.n_free :]
        return torch.cat([half_tanh(free), differentiable_means(self.bound, rest)])


MEASURED = 2**31
"""Bytes of lattices that spectrum and couplings are measured on at most."""


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return the running average of a network's weights, to be updated after each step.

    The decay of step n is (1 + n) / (10 + n) at most: a short run is not averaged with the weights
    that it began with.
    """

    def update(average: Any, now: Any, n: Any) -> None:
        least = min(decay, (1.0 + int(n)) / (10.0 + int(n)))
        get_ema_multi_avg_fn(least)(average, now, n)  # type: ignore[no-untyped-call]

    return AveragedModel(network, multi_avg_fn=update)


class Trainer:
    """The state of a run and its one step.

    Everything a step depends on is in `save`: weights, EMA, optimizer, generator, place in the
    data. A run that was killed and resumed ends in the same bytes (CPU, same thread count).
    """

    def __init__(
        self,
        config: Recipe,
        source: Source,
        measured: Measured | None = None,
        device: str = "cpu",
        ranks: Ranks = Ranks(),  # noqa: B008
    ):
        self.config, self.source, self.device = config, source, torch.device(device)
        self.ranks = ranks
        ranks.check(config.batch, config.accumulate)
        if ranks.world > 1 and config.output == "logits":
            raise BadInput("output", "logits", "v, eps or x0 on several processes")
        self.dtype = DTYPES.get(config.precision) or network_dtype(self.device)
        self.measured = measured or measure(source, config)
        self.cutoff = None if config.cutoff < 0 else config.cutoff
        self.process = Process(
            self.measured.spectrum, source.shape, self.device, config.basis, self.cutoff
        )
        self.mean_field = MeanField(self.process, self.measured.couplings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(config.seed, "weights").generate_state(1)[0]))
            network = make_network(
                config.network, config.output, config.basis, max(1, source.channels), config.lambdas
            )
        if config.trained == "waves" and network.waves is not None:
            network.requires_grad_(False)
            network.waves.requires_grad_(True)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shared: nn.Module = self.network
        if ranks.world > 1:
            self.shared = DistributedDataParallel(self.network)
        self.ema = averaged(self.network, config.ema)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
        )
        noise = int(seed_sequence(config.seed, "training").generate_state(1, np.uint64)[0] >> 1)
        self.random = torch.Generator().manual_seed(noise)
        self.step = 0
        self.seconds = 0.0
        self.log: list[tuple[int, float, float, float, float]] = []
        """Step, mean loss and gradient norm since the last row, rate, lattices a second: `LOG`."""
        self.norm = 0.0
        """Of the last step's gradient, before it was clipped."""
        self.window = (0.0, 0.0, 0, 0.0)
        """Since the last row of `log`: sums of losses and norms, steps, seconds."""

    def start_from(self, weights: Weights) -> None:
        """Take the tensors of `weights`, of a network of the same shape, in place of random ones.

        Raises BadInput.
        """
        c = self.config
        for name, theirs, mine in (
            ("network", weights.network, c.network),
            ("output", weights.output, c.output),
            ("basis", weights.basis, c.basis),
        ):
            if theirs != mine:
                raise BadInput("--from", f"weights with {name} = {theirs}", f"{mine}")
        tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
        self.network.load_state_dict(tensors)
        self.ema.module.load_state_dict(tensors)

    def _known(self, x0: Tensor) -> Known:
        """Draw what part of the batch knows its coarse lattices, and by which rule and factor."""
        c, n = self.config, len(x0)
        factors = [b for b in FACTORS if not any(side % b for side in x0.shape[-2:])]
        # The loss that is told is of those that know nothing: one of them there must be.
        known = min(n - 1, round(c.coarse_share * n)) if c.output == "logits" and factors else 0
        if not known:
            return Known(n)
        rules = [rule for rule in RULES.values() for _ in range(rule.shown)]
        rule = rules[int(torch.randint(len(rules), (1,), generator=self.random))]
        factor = factors[int(torch.randint(len(factors), (1,), generator=self.random))]
        return Known(n - known, x0[n - known :], rule, factor)

    def _lambdas(self, known: Known) -> Tensor:
        """Draw lambda log-uniformly, stratified; a share of the free lattices far out.

        Of a lattice that knows its coarse one as far as `Known.reach`.
        """
        c, n = self.config, known.n_free
        u = (torch.arange(n) + torch.rand(n, generator=self.random)) / n
        if c.lambdas is not None:
            t = (torch.floor(TIMES * u.double()) + 1.0).clamp(max=TIMES) / TIMES
            return torch.from_numpy(c.lambdas(t.numpy())).float()
        near, far = math.log(c.lambda_far / c.lambda_min), math.log(c.lambda_max / c.lambda_far)
        split = 1.0 - c.far_share
        log_lam = torch.where(
            u < split, u / split * near, near + (u - split) / max(c.far_share, 1e-9) * far
        )
        if known.bound is not None:
            m = c.batch - n
            u = (torch.arange(m) + torch.rand(m, generator=self.random)) / m
            log_lam = torch.cat([log_lam, u * math.log(known.reach(c.lambda_max) / c.lambda_min)])
        return (math.log(c.lambda_min) + log_lam).exp()

    def _targets(self, evidence: Evidence, x0: Tensor, known: Known) -> Tensor:
        """Return what the means of spins are trained to be (`targets`), (n, Ly, Lx)."""
        if not self.measured.conditional:
            return x0
        targets = site_targets(self.mean_field, evidence, x0)
        rest, b = slice(known.n_free, None), known.factor
        if isinstance(known.bound, Blocks):
            if known.bound.majority:
                signs = torch.from_numpy(known.bound.raw.astype(np.float32)).to(self.device)
                signs = torch.cat([signs.new_ones((known.n_free, *signs.shape[1:])), signs])
                held = majority_targets(self.mean_field, evidence, x0, b, signs)
            else:
                held = exchange_targets(self.mean_field, evidence, x0, b, self.random)
            targets[rest] = held[rest]
        elif known.bound is not None:
            targets[rest, ::b, ::b] = x0[rest, ::b, ::b]
        return targets

    def _sight(self, features: Tensor, lam: Tensor) -> Tensor:
        bf16 = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            outputs: Tensor = self.shared(features, lam)
        return outputs.float()

    def train_step(self) -> float:
        """Take one step; return the batch's mean loss, over all processes."""
        c = self.config
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, c)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._spins_backward() if c.output == "logits" else self._fields_backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), c.clip)
        if not math.isfinite(loss + float(norm)):
            at = f"at step {self.step + 1} the loss is {loss:g}, its gradient {float(norm):g}"
            raise BadInput("learning_rate", c.learning_rate, f"a smaller one: {at}")
        self.optimizer.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        loss, self.norm = self.ranks.mean([loss, float(norm)], self.device)
        self.seconds += time.perf_counter() - began
        return loss

    def _spins_backward(self) -> float:
        """Add up the gradient of a batch of spins; return the cross-entropy of the free ones."""
        c = self.config
        lattices = torch.from_numpy(np.asarray(self.source.next(c.batch), dtype=np.float32))
        x0 = symmetry(lattices, self.random, c.symmetries).contiguous().to(self.device)
        known = self._known(x0)
        lam = self._lambdas(known).to(self.device)
        noise = torch.randn(x0.shape, generator=self.random).to(self.device)
        xt = self.process.forward(x0, lam, noise)
        alone = known.means(torch.zeros_like(x0))
        found = spin_logits(self._sight, self.mean_field, xt, lam, known.differentiable, alone)
        with torch.no_grad():
            targets = self._targets(found.evidence, x0, known)
        minimized = spin_surrogate(found, targets, known.means)
        if c.wave_weight:
            means = known.differentiable(found.logits)
            with torch.no_grad():
                slope = wave_slope(self.process, lam, means - targets)
            minimized = minimized + c.wave_weight * (slope * means).mean()
        minimized.backward()  # type: ignore[no-untyped-call]
        free = slice(known.n_free)
        return float(F.softplus(-x0[free] * found.logits[free].detach()).mean())

    def _fields_backward(self) -> float:
        """Add up the gradient of this process's part of a batch of fields; return its loss.

        The part goes through the network in `accumulate` parts. Masks of dropout are named by the
        step and where a part begins: they are others for another number of parts.
        """
        c, mine = self.config, self.ranks.part(self.config.batch)
        fields = torch.from_numpy(np.asarray(self.source.next(c.batch, mine), dtype=np.float32))
        x0 = symmetry(fields, self.random, c.symmetries, mine, c.batch).contiguous()
        lam = self._lambdas(Known(c.batch))[mine]
        seeds = seed_sequence(c.seed, "loss", self.step).generate_state(c.batch, np.uint64)
        noises = [self._noise(int(seed >> 1), x0.shape[1:]) for seed in seeds[mine]]
        size, total = len(x0) // c.accumulate, 0.0
        for first in range(0, len(x0), size):
            part = slice(first, first + size)
            if getattr(c.network, "dropout", 0.0):
                masks = seed_sequence(c.seed, "dropout", self.step, mine.start + first)
                torch.manual_seed(int(masks.generate_state(1, np.uint64)[0] >> 1))
            last = first + size == len(x0)
            with contextlib.nullcontext() if last else self._unshared():
                loss = self._loss(
                    x0[part].to(self.device), lam[part].to(self.device), torch.stack(noises[part])
                )
                (loss / c.accumulate).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / c.accumulate
        return total

    def _noise(self, seed: int, shape: Sequence[int]) -> Tensor:
        random = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=random, device=self.device)

    def _unshared(self) -> AbstractContextManager[None]:
        """Return a context in which gradients stay with their process."""
        if isinstance(self.shared, DistributedDataParallel):
            return self.shared.no_sync()  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    def _loss(self, x0: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of fields, and white `noise` of their shape."""
        c = self.config
        xt = self.process.forward(x0, lam, noise)
        target = field_target(c.output, self.process, x0, noise, lam)
        missing = see_fields(self._sight, c.output, self.process, xt, lam) - target
        if c.weighting == "flat":
            return missing.square().mean()
        weight = scale_weights(self.process, each(lam, x0))
        weight = weight * torch.as_tensor(self.process.basis.weight).to(weight)
        return (weight * self.process.white(missing).abs().square()).sum() / missing.numel()

    def weights(self, system: dict[str, Any]) -> Weights:
        """Return the averaged network with its record; of spins in bfloat16, half as large."""
        c = self.config
        kept = torch.bfloat16 if c.output == "logits" else torch.float32
        tensors = {k: v.detach().to("cpu", kept) for k, v in self.ema.module.state_dict().items()}
        record = {
            "config": as_record(c),
            "steps": self.step,
            "lattices": self.step * c.batch,
            "loss": [[row[0], row[1], row[3]] for row in self.log[-1:]],
            "targets": "conditional" if self.measured.conditional else "spins",
            "version": __version__,
            "torch": torch.__version__.split("+")[0],
        }
        # Of spins there is nothing to have learnt below network_from.
        all_below = c.output == "logits" and c.lambda_min <= c.network_from
        reach = (0.0 if all_below else c.lambda_min, c.lambda_max)
        if c.lambdas is not None:
            low, high = c.lambdas(np.array([1.0 / TIMES, 1.0]))
            reach = (float(low), float(high))
        return Weights(
            tensors, c.network, self.measured.spectrum, c.output, reach, system, record,
            c.basis, self.measured.couplings, c.network_from, c.symmetries,
            self.source.channels, self.cutoff, c.lambdas,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the whole state of the run to `path`, atomically."""
        tensors: dict[str, Tensor] = {"random": self.random.get_state()}
        for prefix, module in (("network", self.network), ("ema", self.ema)):
            tensors |= {f"{prefix}.{k}": v.detach().cpu() for k, v in module.state_dict().items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v.detach().cpu() for k, v in slot.items()}
        for name, array in self.source.state().items():
            tensors[f"source.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        record = {
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "window": self.window,
            "config": as_record(self.config),
            "source": self.source.identity(),
            "spectrum": self.measured.spectrum.record(),
            "couplings": dataclasses.asdict(self.measured.couplings),
            "conditional": self.measured.conditional,
        }
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        write_checkpoint(path, record, tensors)

    @classmethod
    def resume(
        cls,
        path: Path,
        config: Recipe,
        source: Source,
        device: str = "cpu",
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> Trainer:
        """Take up the run saved at `path`; WeightsError if damaged, OutputTaken if of another."""
        record, tensors = read_checkpoint(path)
        try:
            _same_run(path, record, config, source)
            spectrum = spectrum_from_record(record["spectrum"])
            couplings = couplings_from_record(record["couplings"])
            measured = Measured(spectrum, couplings, bool(record["conditional"]))
            trainer = cls(config, source, measured, device, ranks)
            trainer._restore(record, tensors)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: is no state of this run ({error!r})") from None
        return trainer

    def _restore(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.ema.load_state_dict(part("ema."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part("optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.random.set_state(tensors["random"])
        self.source.restore({k: v.numpy() for k, v in part("source.").items()})
        self.step, self.seconds = int(record["step"]), float(record["seconds"])
        self.log = [(int(row[0]), *map(float, row[1:5])) for row in record["log"]]  # type: ignore[misc]
        total, norms, count, seconds = record["window"]
        self.window = (float(total), float(norms), int(count), float(seconds))


def write_checkpoint(path: Path, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a record and named tensors to `path` atomically, under one SHA-256."""
    record = record | {"sha256": content_sha256(record, tensors)}
    header = {"format": CHECKPOINT_FORMAT, "record": json.dumps(record)}
    write_bytes_atomically(path, save(tensors, metadata=header))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_checkpoint` wrote, verified; raises WeightsError."""
    try:
        if not path.is_file():
            raise OSError("no regular file")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        record = parse_json(header["record"], finite=False)
        whole = content_sha256(record, tensors) == record["sha256"]
    except (SafetensorError, OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from None
    if header.get("format") != CHECKPOINT_FORMAT:
        raise WeightsError(f"{path}: not a checkpoint of this version ({CHECKPOINT_FORMAT})")
    if not whole:
        raise WeightsError(f"{path}: does not match the SHA-256 in its header; it was altered")
    return record, tensors


def _same_run(path: Path, record: dict[str, Any], config: Recipe, source: Source) -> None:
    """Raise OutputTaken unless a checkpoint's configuration and data are these."""
    for saved, mine in (
        (record["config"], as_record(config)),
        (record["source"], source.identity()),
    ):
        mine = json.loads(json.dumps(mine))
        for key in sorted(set(saved) | set(mine)):
            if saved.get(key) != mine.get(key):
                accepted = f"the checkpoint of a run with {key} = {mine.get(key)}"
                there = f"there it is {saved.get(key)} (--overwrite begins anew)"
                raise OutputTaken("-o", str(path), f"{accepted}: {there}")


SAVE_SECONDS = 8.0
"""Between checkpoints: what a kill may cost of a run whose checkpoints are cheap."""


def next_save(began: float, ended: float) -> float:
    """Return when to save again, after a save that lasted so long: it may take 3% of the time."""
    return ended + max(SAVE_SECONDS, 30.0 * (ended - began))


def train(
    trainer: Trainer,
    checkpoint: Path,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    saved: Callable[[], None] = lambda: None,
    log_every: int = 50,
) -> None:
    """Run `trainer` to its last step, saving every `config.save_every` steps and by `next_save`.

    The first step of a run is saved, since what was measured before it may have taken long.
    `stop` is asked after each step; when it says so the run is saved and Interrupted is raised.
    Every `log_every` steps a row goes to `trainer.log`. `saved` is called after each save. Of
    several processes the first one saves.
    """
    ranks, due = trainer.ranks, time.monotonic() + SAVE_SECONDS * (trainer.step > 0)
    while trainer.step < trainer.config.steps:
        before = trainer.seconds
        loss = trainer.train_step()
        total, norms, count, seconds = trainer.window
        total, norms, count = total + loss, norms + trainer.norm, count + 1
        seconds += trainer.seconds - before
        trainer.window = (total, norms, count, seconds)
        progress(trainer.step, loss)
        if trainer.step % log_every == 0 or trainer.step == trainer.config.steps:
            rate = learning_rate(trainer.step - 1, trainer.config)
            pace = count * trainer.config.batch / seconds
            trainer.log.append((trainer.step, total / count, norms / count, rate, pace))
            trainer.window = (0.0, 0.0, 0, 0.0)
        last = trainer.step == trainer.config.steps
        told = [float(stop()), float(ranks.first and time.monotonic() >= due)]
        stopped, in_time = (flag > 0.0 for flag in ranks.mean(told, trainer.device))
        if trainer.step % trainer.config.save_every == 0 or last or stopped or in_time:
            if ranks.first:
                began = time.monotonic()
                trainer.save(checkpoint)
                saved()
                due = next_save(began, time.monotonic())
            ranks.wait()
        if stopped and not last:
            raise Interrupted(
                f"saved at step {trainer.step} in {checkpoint};"
                " the same command, without --overwrite, goes on from there"
            )
