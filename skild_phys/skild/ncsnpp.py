"""NCSN++, the paper's backbone (arXiv 2011.13456): residual blocks with _FIR resampling.

Skips are rescaled by 1/sqrt 2, self-attention acts at the sides that the configuration lists, the
input is resampled and added at every level (progressive input, residual), and time is embedded as
sines and cosines of a number of steps. With zero padding and one set of names for another
(`reference`) it computes what the published implementation does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput, check_whole
from skild_phys.skild.chain import Schedule
from skild_phys.skild.unet import Beyond, on_multiples

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
    width : channels of the finest level.
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
        """Raise BadInput unless a network of this shape can be built."""
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

    @property
    def multiple(self) -> int:
        """Sides divisible by this need no extension."""
        return int(2 ** (len(self.multipliers) - 1))

    def attends(self, level: int) -> bool:
        """Return whether there is attention at `level`."""
        return self.side / 2**level in self.attention

    def build(
        self, inputs: int, outputs: int, basis: str, filtered: Sequence[int], channels: int,
        dimension: int, schedule: Schedule | None,
    ) -> Ncsnpp:  # fmt: skip
        """Return an untrained network of this shape; raises BadInput without a schedule."""
        if schedule is None or dimension != 2:
            accepted = "unet where [lambdas] name no schedule, or in three dimensions"
            raise BadInput("network", self.kind, accepted)
        return Ncsnpp(self, inputs, outputs, basis, schedule)


def _groups(channels: int) -> int:
    """Return the number of groups that `channels` are normalized in."""
    return max(1, min(channels // 4, 32))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_groups(channels), channels, eps=_EPSILON)


def _started(layer: nn.Conv2d | nn.Linear, zero: bool = False) -> nn.Conv2d | nn.Linear:
    """Return a layer with uniform weights of variance 2 / (inputs + outputs), or zeros."""
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv3(inputs: int, outputs: int, beyond: Beyond, zero: bool = False) -> nn.Module:
    return _started(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=beyond), zero)


def _conv1(inputs: int, outputs: int, zero: bool = False) -> nn.Module:
    return _started(nn.Conv2d(inputs, outputs, 1), zero)


def _taps(x: Tensor, gain: float) -> Tensor:
    line = torch.tensor(_FIR, dtype=x.dtype, device=x.device) / sum(_FIR)
    return gain * (line[:, None] * line).expand(x.shape[1], 1, -1, -1)


def _beyond(x: Tensor, margin: int, beyond: Beyond) -> Tensor:
    mode = "constant" if beyond == "zeros" else beyond
    return F.pad(x, (margin,) * 4, mode=mode)


def _halved(x: Tensor, beyond: Beyond) -> Tensor:
    """Return `x` (n, c, Ly, Lx), even sides, filtered and of half the sides."""
    return F.conv2d(_beyond(x, 1, beyond), _taps(x, 1.0), stride=2, groups=x.shape[1])


def _doubled(x: Tensor, beyond: Beyond) -> Tensor:
    """Return `x` (n, c, Ly, Lx) of twice the sides, filtered."""
    wide = F.conv_transpose2d(
        _beyond(x, 1, beyond), _taps(x, 4.0), stride=2, padding=1, groups=x.shape[1]
    )
    return wide[..., 2:-2, 2:-2]


def _exact(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which nothing is computed in fewer digits than it has."""
    if x.is_meta:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class _Block(nn.Module):
    """Residual block, which may halve or double the sides; the embedding shifts its middle."""

    def __init__(
        self, c: NcsnppConfig, inputs: int, outputs: int, beyond: Beyond, to: str = ""
    ) -> None:
        super().__init__()
        self.to_sides, self.beyond = to, beyond
        self.norm1, self.conv1 = _norm(inputs), _conv3(inputs, outputs, beyond)
        self.condition = _started(nn.Linear(4 * c.width, outputs))
        self.norm2, self.dropout = _norm(outputs), nn.Dropout(c.dropout)
        self.conv2 = _conv3(outputs, outputs, beyond, zero=True)
        self.skip = _conv1(inputs, outputs) if inputs != outputs or to else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.to_sides:
            resample = _halved if self.to_sides == "half" else _doubled
            h, x = resample(h, self.beyond), resample(x, self.beyond)
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


class _Shrink(nn.Module):
    """The input of the level above, filtered, convolved and of half the sides."""

    def __init__(self, inputs: int, outputs: int, beyond: Beyond) -> None:
        super().__init__()
        self.beyond = beyond
        self.conv = _started(nn.Conv2d(inputs, outputs, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        filtered = F.conv2d(_beyond(x, 2, self.beyond), _taps(x, 1.0), groups=x.shape[1])
        out: Tensor = self.conv(filtered)
        return out


class _Down(nn.Module):
    """A level on the way down: blocks, with attention or not, then half the sides."""

    def __init__(
        self, c: NcsnppConfig, level: int, inputs: int, raw: int, last: bool, beyond: Beyond
    ) -> None:
        super().__init__()
        width = c.width * c.multipliers[level]
        widths = [inputs] + [width] * (c.blocks - 1)
        self.blocks = nn.ModuleList(_Block(c, w, width, beyond) for w in widths)
        looking = c.blocks if c.attends(level) else 0
        self.attention = nn.ModuleList(_Attention(width) for _ in range(looking))
        self.shrink = None if last else _Block(c, width, width, beyond, "half")
        self.raw = None if last else _Shrink(raw, width, beyond)

    def forward(
        self, h: Tensor, raw: Tensor, embedding: Tensor, kept: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            if len(self.attention):
                h = self.attention[i](h)
            kept.append(h)
        if self.shrink is not None and self.raw is not None:
            raw = h = _HALF * (self.raw(raw) + self.shrink(h, embedding))
            kept.append(h)
        return h, raw


class _Up(nn.Module):
    """A level on the way up: blocks that see what was kept, attention, then twice the sides."""

    def __init__(
        self, c: NcsnppConfig, level: int, inputs: int, kept: list[int], beyond: Beyond
    ) -> None:
        super().__init__()
        width = c.width * c.multipliers[level]
        widths = [inputs] + [width] * c.blocks
        self.blocks = nn.ModuleList(_Block(c, w + k, width, beyond) for w, k in zip(widths, kept))
        self.attention = _Attention(width) if c.attends(level) else None
        self.grow = _Block(c, width, width, beyond, "double") if level else None

    def forward(self, h: Tensor, embedding: Tensor, kept: list[Tensor]) -> Tensor:
        for block in self.blocks:
            h = block(torch.cat([h, kept.pop()], 1), embedding)
        if self.attention is not None:
            h = self.attention(h)
        return h if self.grow is None else self.grow(h, embedding)  # type: ignore[no-any-return]


class Ncsnpp(nn.Module):
    """Map `inputs` numbers a site to `outputs` numbers a site.

    Call with `x` (n, inputs, Ly, Lx) float32 and `lam` (n,) float32; returns (n, outputs, Ly, Lx)
    float32. Sides that are no multiple of `config.multiple` are extended and cropped again.
    """

    def __init__(
        self, config: NcsnppConfig, inputs: int, outputs: int, basis: str, schedule: Schedule
    ) -> None:
        super().__init__()
        self.config, self.schedule, self.periodic = config, schedule, basis == "dft"
        beyond, c = _PADDING[basis], config
        half = c.width // 2
        self.frequencies: Tensor
        spacing = math.log(10_000.0) / max(1, half - 1)
        self.register_buffer(
            "frequencies", torch.exp(-spacing * torch.arange(half)), persistent=False
        )
        self.embed = nn.Sequential(*(_started(nn.Linear(k * c.width, 4 * c.width)) for k in (1, 4)))
        self.enter = _conv3(inputs, c.width, beyond)
        levels = range(len(c.multipliers))
        self.down, kept, width, raw = nn.ModuleList(), [c.width], c.width, inputs
        for level in levels:
            last = level == levels[-1]
            self.down.append(_Down(c, level, width, raw, last, beyond))
            width = raw = c.width * c.multipliers[level]
            kept += [width] * (c.blocks + (not last))
        around = [_Block(c, width, width, beyond) for _ in range(2)]
        self.middle = nn.ModuleList([around[0], _Attention(width), around[1]])
        self.up = nn.ModuleList()
        for level in reversed(levels):
            beside = [kept.pop() for _ in range(c.blocks + 1)]
            self.up.append(_Up(c, level, width, beside, beyond))
            width = c.width * c.multipliers[level]
        self.norm, self.leave = _norm(width), _conv3(width, outputs, beyond, zero=True)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        if lam.is_meta:  # nothing is computed, only counted
            time = lam
        else:
            t = self.schedule.inverse(lam.detach().double().cpu().numpy())
            time = torch.as_tensor(self.config.steps * t, dtype=torch.float32, device=x.device)
        extended, crop = on_multiples(x, self.config.multiple, self.periodic)
        return self.at_time(extended, time)[crop]

    def at_time(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the outputs at `time` (n,), in steps, for sides that need no extension."""
        dtype = next(self.parameters()).dtype
        angles = time[:, None] * self.frequencies
        first, second = self.embed
        embedding = second(F.silu(first(torch.cat([angles.sin(), angles.cos()], 1).to(dtype))))
        x = x.contiguous(memory_format=torch.channels_last)
        with _exact(x):
            h = self.enter(x).to(dtype)
        raw = x.to(dtype)
        kept = [h]
        for level in self.down:
            h, raw = level(h, raw, embedding, kept)
        first_block, attention, second_block = self.middle
        h = second_block(attention(first_block(h, embedding)), embedding)
        for level in self.up:
            h = level(h, embedding, kept)
        with _exact(x):
            out: Tensor = self.leave(F.silu(self.norm(h.float())))
        return out

    def cast(self, dtype: torch.dtype) -> Ncsnpp:
        """Cast what lies between the ends to `dtype`.

        The ends stay in float32: bfloat16 would round the input by a tenth of the noise that is to
        be told from it at the first steps of the schedule of cifar10.
        """
        for module in (self.embed, self.down, self.middle, self.up):
            module.to(dtype)
        return self
