"""Training: one file read from top to bottom, and a run that goes on exactly where it stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skild_phys import __version__
from skild_phys.errors import BadInput, Interrupted, WeightsError
from skild_phys.files import write_bytes_atomically
from skild_phys.skild.config import TrainConfig
from skild_phys.skild.network import UNet
from skild_phys.skild.process import Process
from skild_phys.skild.source import Source
from skild_phys.skild.spectrum import Spectrum, fit_spectrum, mode_power
from skild_phys.skild.weights import Weights, content_sha256

CHECKPOINT_FORMAT = "skild-phys checkpoint 2"


def measure_spectrum(source: Source, batches: int, batch: int) -> Spectrum:
    """Measure and smooth the power spectrum of `batches` batches of a source's lattices."""
    power = np.mean([mode_power(source.next(batch)) for _ in range(batches)], axis=0)
    if not 0 < power.mean() < math.inf:
        raise BadInput("STORE", float(power.mean()), "lattices whose mean square is above 0")
    return fit_spectrum(power, source.shape)


def symmetry(lattices: Tensor, random: torch.Generator) -> Tensor:
    """Apply one random symmetry of the square torus and of the spins to a batch (n, Ly, Lx)."""
    height, width = lattices.shape[-2:]
    draw = torch.randint(0, 2**30, (6,), generator=random).tolist()
    lattices = torch.roll(lattices, (draw[0] % height, draw[1] % width), (1, 2))
    if draw[2] % 2:
        lattices = lattices.flip(1)
    if draw[3] % 2:
        lattices = lattices.flip(2)
    if draw[4] % 2 and height == width:
        lattices = lattices.transpose(1, 2)
    return -lattices if draw[5] % 2 else lattices


def loss_per_lattice(
    output: Tensor, x0: Tensor, noise: Tensor, lam: Tensor, process: Process, kind: str
) -> Tensor:
    """Return the loss of each lattice, (n,).

    Logits: cross-entropy in nats a site, -ln p(s) with p(+) = 1 / (1 + exp(-logit)).
    v: mean square error a site of v = cos(theta) eps - sin(theta) Y_0 in whitened coordinates.
    """
    if kind == "logits":
        return F.softplus(-x0 * output).mean(dim=(1, 2))
    return (output - process.velocity(x0, noise, lam)).square().mean(dim=(1, 2))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate at `step`: linear warm-up, then constant-then-linear-decay or a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    left = (config.steps - step) / max(1.0, config.decay_fraction * config.steps)
    return config.learning_rate * warm * min(1.0, left)


class Trainer:
    """The state of a run and its one step.

    Everything a step depends on is in `save`: weights, EMA, optimizer, generator, place in the
    data. A run that was killed and resumed ends in the same bytes (CPU, same thread count).
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        spectrum: Spectrum | None = None,
        device: str = "cpu",
    ):
        torch.manual_seed(config.seed)
        self.config, self.source, self.device = config, source, torch.device(device)
        self.spectrum = spectrum or measure_spectrum(source, config.spectrum_batches, config.batch)
        self.process = Process(self.spectrum, source.shape, self.device)
        self.network = UNet(config.network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(config.ema),  # type: ignore[no-untyped-call]
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.random = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.seconds = 0.0
        self.log: list[tuple[int, float, float]] = []
        self.window = (0.0, 0)
        """Sum and number of the losses since the last line of `log`."""

    def _lambdas(self, n: int) -> Tensor:
        """Draw lambda log-uniformly, stratified over the batch; a share of it far out."""
        c = self.config
        u = (torch.arange(n) + torch.rand(n, generator=self.random)) / n
        near, far = math.log(c.lambda_far / c.lambda_min), math.log(c.lambda_max / c.lambda_far)
        split = 1.0 - c.far_share
        log_lam = torch.where(
            u < split, u / split * near, near + (u - split) / max(c.far_share, 1e-9) * far
        )
        return (math.log(c.lambda_min) + log_lam).exp()

    def train_step(self) -> float:
        """Take one step; return the batch's mean loss."""
        c = self.config
        began = time.perf_counter()
        lattices = torch.from_numpy(np.asarray(self.source.next(c.batch), dtype=np.float32))
        x0 = symmetry(lattices, self.random).contiguous().to(self.device)
        lam = self._lambdas(c.batch).to(self.device)
        noise = torch.randn(x0.shape, generator=self.random).to(self.device)
        xt = self.process.forward(x0, lam, noise)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, c)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.precision == "bf16"):
            output = self.network(xt, lam)
        loss = loss_per_lattice(output.float(), x0, noise, lam, self.process, c.output).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), c.clip)
        self.optimizer.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        self.seconds += time.perf_counter() - began
        return float(loss.detach())

    def weights(self, system: dict[str, Any]) -> Weights:
        """Return the averaged network with its record, in bfloat16, which inference runs in."""
        c = self.config
        tensors = {
            k: v.detach().to("cpu", torch.bfloat16) for k, v in self.ema.module.state_dict().items()
        }
        record = {
            "config": dataclasses.asdict(c),
            "steps": self.step,
            "lattices": self.step * c.batch,
            "loss": [list(row) for row in self.log[-1:]],
            "version": __version__,
            "torch": torch.__version__.split("+")[0],
        }
        reach = (c.lambda_min, c.lambda_max)
        return Weights(tensors, c.network, self.spectrum, c.output, reach, system, record)

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
            "config": dataclasses.asdict(self.config),
            "source": self.source.identity(),
            "spectrum": dataclasses.asdict(self.spectrum),
        }
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        write_checkpoint(path, record, tensors)

    @classmethod
    def resume(
        cls, path: Path, config: TrainConfig, source: Source, device: str = "cpu"
    ) -> Trainer:
        """Take up the run saved at `path`; WeightsError if it is damaged or another run's."""
        record, tensors = read_checkpoint(path)
        try:
            _same_run(path, record, config, source)
            table = record["spectrum"]
            spectrum = Spectrum(tuple(table["kappa"]), tuple(table["power"]), table["zero_scale"])
            trainer = cls(config, source, spectrum, device)
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
        self.log = [(int(step), loss, rate) for step, loss, rate in record["log"]]
        total, count = record["window"]
        self.window = (float(total), int(count))


def write_checkpoint(path: Path, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a record and named tensors to `path` atomically, under one SHA-256."""
    record = record | {"sha256": content_sha256(record, tensors)}
    header = {"format": CHECKPOINT_FORMAT, "record": json.dumps(record)}
    write_bytes_atomically(path, save(tensors, metadata=header))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_checkpoint` wrote, verified; raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        record = json.loads(header["record"])
        whole = content_sha256(record, tensors) == record["sha256"]
    except (SafetensorError, OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from None
    if header.get("format") != CHECKPOINT_FORMAT:
        raise WeightsError(f"{path}: not a checkpoint of this version ({CHECKPOINT_FORMAT})")
    if not whole:
        raise WeightsError(f"{path}: does not match the SHA-256 in its header; it was altered")
    return record, tensors


def _same_run(path: Path, record: dict[str, Any], config: TrainConfig, source: Source) -> None:
    """Raise WeightsError unless a checkpoint's configuration and data are these."""
    for saved, mine in (
        (record["config"], dataclasses.asdict(config)),
        (record["source"], source.identity()),
    ):
        mine = json.loads(json.dumps(mine))
        for key in sorted(set(saved) | set(mine)):
            if saved.get(key) != mine.get(key):
                raise WeightsError(
                    f"{path}: belongs to a run with {key} = {saved.get(key)}, not {mine.get(key)};"
                    " --overwrite begins anew"
                )


def train(
    trainer: Trainer,
    checkpoint: Path,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    log_every: int = 50,
) -> None:
    """Run `trainer` to its last step, saving every `config.save_every` steps.

    `stop` is asked after each step; when it says so the run is saved and Interrupted is raised.
    Every `log_every` steps (step, mean loss since, learning rate) goes to `trainer.log`.
    """
    while trainer.step < trainer.config.steps:
        loss = trainer.train_step()
        total, count = trainer.window[0] + loss, trainer.window[1] + 1
        trainer.window = (total, count)
        progress(trainer.step, loss)
        if trainer.step % log_every == 0 or trainer.step == trainer.config.steps:
            trainer.log.append(
                (trainer.step, total / count, learning_rate(trainer.step - 1, trainer.config))
            )
            trainer.window = (0.0, 0)
        if trainer.step % trainer.config.save_every == 0 or trainer.step == trainer.config.steps:
            trainer.save(checkpoint)
        elif stop():
            trainer.save(checkpoint)
            raise Interrupted(
                f"saved at step {trainer.step} in {checkpoint};"
                " the same command, without --overwrite, goes on from there"
            )
