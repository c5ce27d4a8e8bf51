"""NCSN++, the paper's backbone (arXiv 2011.13456), and the weights published with it.

Skips are rescaled by 1/sqrt 2, self-attention acts at the sides that the configuration lists, the
input is resampled and added at every level (progressive input, residual), and time is embedded as
sines and cosines of a number of steps. With zero padding it computes what `score_sde_pytorch` does,
whose names number every module in the order in which it is called.
"""

from __future__ import annotations

import functools
import itertools
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput, WeightsError, check_whole
from skild_phys.skild.chain import Schedule
from skild_phys.skild.networks import OUTPUTS, Beyond, Network

_FIR = (1.0, 3.0, 3.0, 1.0)
"""Taps of the filter before and after resampling by 2, along each axis."""
_EPSILON = 1e-6
_HALF = math.sqrt(0.5)
_PADDING: dict[str, Beyond] = {"dft": "circular", "dct": "zeros"}
"""What a convolution sees beyond an edge, by basis; zeros in the published implementation."""


@dataclass(frozen=True)
class NcsnppConfig:
    """Shape of the network.

    Attributes
    ----------
    width : channels of the finest level, a multiple of 4.
    multipliers : channels of each level over `width`, finest first.
    blocks : residual blocks a level on the way down; one more on the way up.
    side, attention : attention acts at the levels where fields of `side` have these sides.
    dropout : of training.
    steps : time is counted in so many steps along the schedule.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2)
    blocks: int = 6
    side: int = 256
    attention: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.0
    steps: int = 1000
    kind: str = "ncsnpp"

    def __post_init__(self) -> None:
        for name in ("blocks", "steps", "side"):
            check_whole(name, getattr(self, name))
        if self.width < 4 or self.width % 4:
            raise BadInput("width", self.width, "a multiple of 4")
        for multiplier in self.multipliers or (0,):
            channels = multiplier * self.width
            if multiplier < 1 or channels % _groups(channels):
                accepted = "whole numbers from 1 on; channels over 128 are multiples of 32"
                raise BadInput("multipliers", list(self.multipliers), accepted)
        if not 0 <= self.dropout < 1:
            raise BadInput("dropout", self.dropout, "a number from 0 to below 1")
        sides = [self.side / 2**level for level in range(len(self.multipliers))]
        if not set(self.attention) <= set(sides):
            accepted = "of " + ", ".join(f"{side:g}" for side in sides)
            raise BadInput("attention", list(self.attention), accepted)

    @functools.cached_property
    def multiple(self) -> int:
        """Sides divisible by this need no extension."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def levels(self) -> list[tuple[int, bool]]:
        """The channels of each level, and whether attention acts there."""
        return [
            (self.width * multiplier, self.side / 2**i in self.attention)
            for i, multiplier in enumerate(self.multipliers)
        ]

    def build(
        self, output: str, basis: str, channels: int = 1, schedule: Schedule | None = None,
        dimension: int = 2, grids: bool = False,
    ) -> Ncsnpp:  # fmt: skip
        """As `NetworkConfig.build`; raises BadInput without a schedule."""
        if schedule is None or dimension != 2 or grids:
            accepted = "unet where [lambdas] name no schedule, or in three dimensions"
            raise BadInput("network", self.kind, accepted)
        inputs, odd, _ = OUTPUTS[output]
        return Ncsnpp(self, inputs * channels, len(odd) * channels, basis, schedule)


def _groups(channels: int) -> int:
    """Return the number of groups that `channels` are normalized in."""
    return max(1, min(channels // 4, 32))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_groups(channels), channels, eps=_EPSILON)


def _started(layer: nn.Conv2d | nn.Linear, zero: bool = False) -> nn.Conv2d | nn.Linear:
    """Return a layer with uniform weights of variance 2 / (inputs + outputs), or zeros."""
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv3(inputs: int, outputs: int, beyond: Beyond, zero: bool = False) -> nn.Module:
    return _started(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=beyond), zero)


def _conv1(inputs: int, outputs: int, zero: bool = False) -> nn.Module:
    return _started(nn.Conv2d(inputs, outputs, 1), zero)


def _padded(x: Tensor, margin: int, beyond: Beyond) -> Tensor:
    return F.pad(x, (margin,) * 4, mode="constant" if beyond == "zeros" else beyond)


def _taps(x: Tensor, gain: float = 1.0) -> Tensor:
    line = torch.tensor(_FIR, dtype=x.dtype, device=x.device) / sum(_FIR)
    return gain * (line[:, None] * line).expand(x.shape[1], 1, -1, -1)


def _halved(x: Tensor, beyond: Beyond) -> Tensor:
    """Return `x` (n, c, Ly, Lx), even sides, filtered and of half the sides."""
    return F.conv2d(_padded(x, 1, beyond), _taps(x), stride=2, groups=x.shape[1])


def _doubled(x: Tensor, beyond: Beyond) -> Tensor:
    """Return `x` (n, c, Ly, Lx) of twice the sides, filtered."""
    wide, taps = _padded(x, 1, beyond), _taps(x, 4.0)
    wide = F.conv_transpose2d(wide, taps, stride=2, padding=1, groups=x.shape[1])
    return wide[..., 2:-2, 2:-2]


def _exact(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which nothing is computed in fewer digits than it has."""
    if x.is_meta:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class _Block(nn.Module):
    """Residual block, which may halve or double the sides; the embedding shifts its middle."""

    def __init__(
        self, c: NcsnppConfig, beyond: Beyond, inputs: int, outputs: int, resample: Any = None
    ) -> None:
        super().__init__()
        self.resample, self.beyond = resample, beyond
        self.norm1, self.conv1 = _norm(inputs), _conv3(inputs, outputs, beyond)
        self.condition = _started(nn.Linear(4 * c.width, outputs))
        self.norm2, self.dropout = _norm(outputs), nn.Dropout(c.dropout)
        self.conv2 = _conv3(outputs, outputs, beyond, zero=True)
        plain = inputs == outputs and resample is None
        self.skip = nn.Identity() if plain else _conv1(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h, self.beyond), self.resample(x, self.beyond)
        h = self.conv1(h) + self.condition(F.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = _HALF * (self.skip(x) + h)
        return out


class _Attention(nn.Module):
    """Self-attention of one head over all sites."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.look, self.leave = _conv1(channels, 3 * channels), _conv1(channels, channels, True)

    def forward(self, x: Tensor) -> Tensor:
        looks = self.look(self.norm(x)).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(*looks.chunk(3, dim=2))
        out: Tensor = _HALF * (x + self.leave(h.transpose(1, 2).reshape(x.shape)))
        return out


class Ncsnpp(Network):
    """The paper's backbone, for images (n, channels, Ly, Lx)."""

    def __init__(
        self, config: NcsnppConfig, inputs: int, outputs: int, basis: str, schedule: Schedule
    ) -> None:
        half = config.width // 2
        spacing = math.log(10_000.0) / max(1, half - 1)
        super().__init__(config, basis, torch.exp(-spacing * torch.arange(half)))
        c, self.schedule, self.beyond = config, schedule, _PADDING[basis]
        block = functools.partial(_Block, c, self.beyond)
        self.embed = nn.Sequential(*(_started(nn.Linear(k * c.width, 4 * c.width)) for k in (1, 4)))
        self.enter = _conv3(inputs, c.width, self.beyond)
        self.down, kept, before, raw = nn.ModuleList(), [c.width], c.width, inputs
        for i, (width, attends) in enumerate(c.levels):
            level, widths = nn.ModuleDict(), [before] + [width] * (c.blocks - 1)
            level["blocks"] = nn.ModuleList(block(w, width) for w in widths)
            looking = c.blocks if attends else 0
            level["attention"] = nn.ModuleList(_Attention(width) for _ in range(looking))
            kept += [width] * c.blocks
            if i + 1 < len(c.levels):
                level["shrink"] = block(width, width, _halved)
                level["raw"] = nn.ModuleDict({"conv": _started(nn.Conv2d(raw, width, 3, 2))})
                kept.append(width)
            before = raw = width
            self.down.append(level)
        first, second = block(before, before), block(before, before)
        self.middle = nn.ModuleList([first, _Attention(before), second])
        self.up = nn.ModuleList()
        for i, (width, attends) in reversed([*enumerate(c.levels)]):
            level, widths = nn.ModuleDict(), [before] + [width] * c.blocks
            level["blocks"] = nn.ModuleList(block(w + kept.pop(), width) for w in widths)
            if attends:
                level["attention"] = _Attention(width)
            if i:
                level["grow"] = block(width, width, _doubled)
            before = width
            self.up.append(level)
        self.norm, self.leave = _norm(before), _conv3(before, outputs, self.beyond, zero=True)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        if lam.is_meta:  # nothing is computed, only counted
            time = lam
        else:
            t = self.schedule.inverse(lam.detach().double().cpu().numpy())
            time = torch.as_tensor(self.config.steps * t, dtype=torch.float32, device=x.device)
        extended, crop = self._extended(x)
        return self.at_time(extended, time)[crop]

    def at_time(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the outputs at `time` (n,), in steps, for sides that need no extension."""
        dtype = next(self.parameters()).dtype
        first, second = self.embed
        embedding = second(F.silu(first(self._sines(time, dtype))))
        x = x.contiguous(memory_format=torch.channels_last)
        with _exact(x):
            h = self.enter(x).to(dtype)
        raw, kept = x.to(dtype), [h]
        level: Any
        for level in self.down:
            for block, attention in itertools.zip_longest(level["blocks"], level["attention"]):
                h = block(h, embedding)
                h = h if attention is None else attention(h)
                kept.append(h)
            if "shrink" in level:
                raw = F.conv2d(_padded(raw, 2, self.beyond), _taps(raw), groups=raw.shape[1])
                raw = h = _HALF * (level["raw"]["conv"](raw) + level["shrink"](h, embedding))
                kept.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, embedding)), embedding)
        for level in self.up:
            for block in level["blocks"]:
                h = block(torch.cat([h, kept.pop()], 1), embedding)
            h = level["attention"](h) if "attention" in level else h
            h = level["grow"](h, embedding) if "grow" in level else h
        with _exact(x):
            out: Tensor = self.leave(F.silu(self.norm(h.float())))
        return out

    def cast(self, dtype: torch.dtype) -> Self:
        """Cast what lies between the ends to `dtype`.

        The ends stay in float32: bfloat16 would round the input by a tenth of the noise that is to
        be told from it at the first steps of the schedule of cifar10.
        """
        for module in (self.embed, self.down, self.middle, self.up):
            module.to(dtype)
        return self


_THEIRS = {
    "": "", "norm": "GroupNorm_0.", "norm1": "GroupNorm_0.", "conv1": "Conv_0.",
    "condition": "Dense_0.", "norm2": "GroupNorm_1.", "conv2": "Conv_1.", "skip": "Conv_2.",
    "conv": "Conv2d_0.",
}  # fmt: skip
"""Layers of a module here, and in the published code."""
_HOLDERS = ("ema", "model", "model_state_dict", "state_dict")


def _modules(network: Ncsnpp) -> Iterator[str]:
    """Yield the names of the modules of `network`, in the order of the published code."""
    level: Any
    yield from ("embed.0", "embed.1", "enter")
    for i, level in enumerate(network.down):
        for j in range(len(level["blocks"])):
            yield f"down.{i}.blocks.{j}"
            if len(level["attention"]):
                yield f"down.{i}.attention.{j}"
        yield from (f"down.{i}.{name}" for name in ("shrink", "raw") if name in level)
    yield from ("middle.0", "middle.1", "middle.2")
    for i, level in enumerate(network.up):
        yield from (f"up.{i}.blocks.{j}" for j in range(len(level["blocks"])))
        yield from (f"up.{i}.{name}" for name in ("attention", "grow") if name in level)
    yield from ("norm", "leave")


def _from_theirs(key: str, module: nn.Module, theirs: dict[str, Tensor]) -> Tensor:
    """Take the tensor `key` of a module out of the published one's; KeyError names what lacks."""
    layer, _, end = key.rpartition(".")
    if isinstance(module, _Attention) and layer != "norm":
        looks = range(3) if layer == "look" else [3]
        if end == "bias":
            return torch.cat([theirs.pop(f"NIN_{i}.b") for i in looks])
        return torch.cat([theirs.pop(f"NIN_{i}.W").T for i in looks])[:, :, None, None]
    return theirs.pop(_THEIRS[layer] + end)


def from_published(network: Ncsnpp, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of `network` from a state_dict of the published NCSN++.

    `network` is of the same width, multipliers, blocks and attention; theirs has 'biggan' blocks
    with FIR resampling, progressive input 'residual', positional embedding. A prefix such as
    `module.` before `all_modules` does no harm, and what lies beside it (`sigmas`) is left out.
    Raises WeightsError that names the first module that does not fit, or a tensor of another shape
    or one too many.
    """
    by_module: dict[int, dict[str, Tensor]] = {}
    for name, tensor in theirs.items():
        if found := re.search(r"all_modules\.(\d+)\.(.+)$", name):
            by_module.setdefault(int(found[1]), {})[found[2]] = tensor
    state: dict[str, Tensor] = {}
    for index, name in enumerate(_modules(network)):
        module = network.get_submodule(name)
        try:
            own = by_module[index]
            state |= {f"{name}.{k}": _from_theirs(k, module, own) for k in module.state_dict()}
        except KeyError as error:
            c = network.config
            raise WeightsError(
                f"all_modules.{index}: {error} does not fit '{name}' of a network with multipliers"
                f" {c.multipliers}, blocks {c.blocks}, attention {c.attention}"
            ) from None
    if len(by_module) > index + 1:
        raise WeightsError(f"all_modules.{max(by_module)}: one module too many for this network")
    for name, tensor in network.state_dict().items():
        shape, expected = tuple(state[name].shape), tuple(tensor.shape)
        if shape != expected:
            raise WeightsError(f"'{name}' has shape {shape}, expected {expected}")
    for index, left in by_module.items():
        if left:
            raise WeightsError(f"all_modules.{index}: '{min(left)}' is no tensor of this network")
    return {name: tensor.detach().float() for name, tensor in state.items()}


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file, or of a PyTorch file that holds no objects.

    Of a file with several, those under 'ema', 'model', 'model_state_dict' or 'state_dict', the
    first that has names; a list of averages (`ema.shadow_params`) takes the names of 'model'.
    Raises WeightsError.
    """
    try:
        if not path.is_file():
            raise OSError("no such file, or a device")
        if path.suffix == ".safetensors":
            return load_file(path)
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path}: holds no tensors alone that can be read ({reason})") from None
    holders = [held.get(name) for name in _HOLDERS] + [held] if isinstance(held, Mapping) else []
    for holder in (one for one in holders if isinstance(one, Mapping)):
        named = (item for item in holder.items() if isinstance(item[0], str))
        tensors = {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}
        if tensors:
            break
    else:
        raise WeightsError(f"{path}: holds no named tensors")
    ema = held.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list):
        return tensors
    names = [name for name in tensors if "all_modules" in name]
    if [tuple(tensors[name].shape) for name in names] != [tuple(x.shape) for x in shadow]:
        raise WeightsError("ema.shadow_params: are not the parameters of 'model', in their order")
    return tensors | dict(zip(names, shadow))
