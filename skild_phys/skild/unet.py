"""A compact U-Net conditioned on log lambda, for lattices of two or three dimensions.

Fully convolutional behind a pixel-unshuffle, with circular padding on a torus; every normalization
acts on the channels of one site, never across the lattice, so that what the network has learnt on
one lattice size holds on every other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput, check_whole
from skild_phys.skild.records import LATE

Beyond = Literal["circular", "replicate", "zeros"]
"""What a convolution sees beyond an edge."""
_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_MEMORY = {2: torch.channels_last, 3: torch.channels_last_3d}
_PADDING: dict[str, Beyond] = {"dft": "circular", "dct": "replicate"}
_QUIET = 0.01  # size of an input below which `_Waves` does not tell it from silence
_MARGIN = 32  # sites by which a torus is extended where its sides do not fit the levels


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network. `channels` and `blocks` have one entry per level, finest first.

    Attributes
    ----------
    patch : side of the pixel-unshuffle.
    embedding : width of the embedding of log lambda.
    waves : bands of wave numbers with gains of their own (`_Waves`); 0 for none.
    waves_from, waves_to : centres of the first and the last band, in radians per site. The first is
        the lowest wave number of the lattices of 64^2 that the shipped weights were trained on,
        the last lies above every wave number of the square lattice.
    """

    patch: int = 4
    channels: tuple[int, ...] = (96, 192)
    blocks: tuple[int, ...] = (2, 3)
    embedding: int = 128
    waves: int = 0
    waves_from: float = field(default=0.1, metadata=LATE)
    waves_to: float = field(default=4.5, metadata=LATE)
    kind: str = "unet"

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("embedding", 1), ("waves", 0)):
            check_whole(name, getattr(self, name), least)
        for name in ("channels", "blocks"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise BadInput(name, list(values), "a list of whole numbers from 1 on")
        if len(self.channels) != len(self.blocks):
            accepted = f"{len(self.channels)} numbers, as in channels"
            raise BadInput("blocks", list(self.blocks), accepted)
        if not 0 < self.waves_from < self.waves_to < math.inf:
            raise BadInput("waves_from", self.waves_from, "a number above 0, below waves_to")

    @property
    def multiple(self) -> int:
        """Lattice sides divisible by this need no extension."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    def build(
        self, inputs: int, outputs: int, basis: str, filtered: Sequence[int], channels: int,
        dimension: int, schedule: object,
    ) -> UNet:  # fmt: skip
        """Return an untrained network of this shape."""
        return UNet(self, inputs, outputs, basis, filtered, channels, dimension)


def _by_site(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` (n, c) so that they broadcast over the sites of `like`."""
    return values.reshape(*values.shape, *[1] * (like.dim() - 2))


def _site_norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of each site."""
    y = x.movedim(1, -1)
    return F.layer_norm(y, y.shape[-1:]).movedim(-1, 1)


def _unshuffled(x: Tensor, patch: int) -> Tensor:
    """Return (n, c, sides) as (n, c patch^d, sides / patch): `pixel_unshuffle` in d dimensions."""
    d = x.dim() - 2
    split = x.reshape(*x.shape[:2], *(k for side in x.shape[2:] for k in (side // patch, patch)))
    order = (0, 1, *range(3, 3 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    return split.permute(order).flatten(1, 1 + d)


def _shuffled(x: Tensor, patch: int) -> Tensor:
    """Return (n, c patch^d, sides) as (n, c, sides patch): the inverse of `_unshuffled`."""
    d = x.dim() - 2
    split = x.reshape(len(x), -1, *[patch] * d, *x.shape[2:])
    order = (0, 1, *(k for i in range(d) for k in (2 + d + i, 2 + i)))
    return split.permute(order).reshape(len(x), -1, *(side * patch for side in x.shape[2:]))


def _conv3(
    inputs: int, outputs: int, dimension: int, beyond: Beyond, stride: int = 1
) -> nn.Conv2d | nn.Conv3d:
    return _CONV[dimension](inputs, outputs, 3, stride, padding=1, padding_mode=beyond)


class _Block(nn.Module):
    """Residual block; log lambda scales and shifts the normalized input."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dimension: int, beyond: Beyond
    ) -> None:
        super().__init__()
        self.first = _conv3(inputs, outputs, dimension, beyond)
        self.second = _conv3(outputs, outputs, dimension, beyond)
        self.condition = nn.Linear(embedding, 2 * outputs)
        one = _CONV[dimension]
        self.skip = one(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = _by_site(self.condition(embedding), x).chunk(2, dim=1)
        h = self.first(F.silu(_site_norm(x)))
        h = F.silu(torch.addcmul(shift, _site_norm(h), 1 + scale))
        out: Tensor = self.skip(x) + self.second(h)
        return out


class _Waves(nn.Module):
    """Isotropic filters of the inputs on a torus: gains of bands of wave numbers.

    A gain of each band and pair of input and output depends on lambda and on how large the inputs
    are: their mean squares, and the logarithms of these and of their mean sizes, which tell few
    large numbers from many small ones (known sites from majorities). Between the centres of bands,
    which lie evenly in log kappa, gains are interpolated. Convolutions can do the same, but are
    slow to learn what the lowest few wave numbers need.
    """

    def __init__(self, config: NetworkConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.config, self.outputs = config, outputs
        self.look = nn.Linear(config.embedding + 3 * inputs, 64)
        self.gains = nn.Linear(64, config.waves * inputs * outputs)
        nn.init.zeros_(self.gains.weight)
        nn.init.zeros_(self.gains.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        c, axes, sides = self.config, tuple(range(2, x.dim())), x.shape[2:]
        waves = [2.0 * math.pi * torch.fft.fftfreq(n, device=x.device) for n in sides[:-1]]
        waves.append(2.0 * math.pi * torch.fft.rfftfreq(sides[-1], device=x.device))
        kappa = functools.reduce(torch.hypot, torch.meshgrid(*waves, indexing="ij"))
        at = (kappa.clamp(min=c.waves_from) / c.waves_from).log()
        at = at / math.log(c.waves_to / c.waves_from)
        centres = torch.arange(c.waves, device=x.device).reshape(-1, *[1] * len(sides))
        bands = (1.0 - (at * (c.waves - 1) - centres).abs()).clamp(min=0.0)
        square, size = x.square().mean(axes), x.abs().mean(axes)
        loud = [square, 0.5 * (square + _QUIET**2).log(), (size + _QUIET).log()]
        seen = F.silu(self.look(torch.cat([embedding, torch.cat(loud, 1).to(embedding.dtype)], 1)))
        gains = self.gains(seen).float().unflatten(1, (self.outputs, x.shape[1], c.waves))
        modes = torch.fft.rfftn(x, dim=axes)
        total = torch.zeros((), device=x.device)
        for i in range(x.shape[1]):
            filters = torch.einsum("nob,b...->no...", gains[:, :, i], bands)
            total = total + filters * modes[:, None, i]
        out: Tensor = torch.fft.irfftn(total, s=sides, dim=axes)
        return out


def on_multiples(
    x: Tensor, multiple: int, periodic: bool
) -> tuple[Tensor, tuple[slice | EllipsisType, ...]]:
    """Return `x` (n, c, *sides) with sides that are multiples, and what crops it again.

    A torus goes on as it is, with a margin of 32 sites; open edges repeat the last site.
    """
    crop: list[slice | EllipsisType] = [...]
    if not any(side % multiple for side in x.shape[2:]):
        return x, tuple(crop)
    for axis, side in enumerate(x.shape[2:], 2):
        margin = _MARGIN if periodic and side % multiple else 0
        long = -(-(side + 2 * margin) // multiple) * multiple
        at = torch.arange(-margin, long - margin, device=x.device)
        x = x.index_select(axis, at % side if periodic else at.clamp(max=side - 1))
        crop.append(slice(margin, margin + side))
    return x, tuple(crop)


class UNet(nn.Module):
    """Map `inputs` numbers per site to `outputs` numbers per site.

    Call with `x` (n, inputs, *sides) float32 and `lam` (n,) float32; returns (n, outputs, *sides)
    float32. The first output of each of `channels` has the inputs of its channel added to it with
    weights that depend on lambda alone, those named in `waved` filtered inputs (`_Waves`). Inputs
    are in groups of `channels`. Sides that are no multiple of `config.multiple` are extended to
    the next one, on a torus with a margin of 32 sites, and cropped again.
    """

    def __init__(
        self,
        config: NetworkConfig,
        inputs: int = 1,
        outputs: int = 1,
        basis: str = "dft",
        filtered: Sequence[int] = (0,),
        channels: int = 1,
        dimension: int = 2,
    ) -> None:
        super().__init__()
        if dimension not in _CONV:
            raise BadInput("dimension", dimension, " or ".join(map(str, _CONV)))
        self.config, self.outputs, self.periodic = config, outputs, basis == "dft"
        self.channels, self.filtered, self.memory_format = (
            channels,
            list(filtered),
            _MEMORY[dimension],
        )
        sites, width, one = config.patch**dimension, config.channels, _CONV[dimension]
        conv3 = functools.partial(_conv3, dimension=dimension, beyond=_PADDING[basis])
        self.frequencies: Tensor
        self.register_buffer(
            "frequencies", math.pi * 2.0 ** torch.linspace(-5.0, 1.0, 32), persistent=False
        )
        self.embed = nn.Sequential(nn.Linear(64, config.embedding), nn.SiLU())
        self.enter = conv3(inputs * sites, width[0])
        self.leave = one(width[0], outputs * sites, 1)
        self.direct = nn.Linear(config.embedding, inputs // channels)
        self.level = nn.Linear(config.embedding, outputs)
        levels = range(len(width))

        def level(first: int, i: int, n: int) -> nn.ModuleList:
            more = (width[i], config.embedding, dimension, _PADDING[basis])
            return nn.ModuleList(_Block(w, *more) for w in [first] + [width[i]] * (n - 1))

        self.down = nn.ModuleList(level(width[i], i, n) for i, n in enumerate(config.blocks))
        self.shrink = nn.ModuleList(conv3(width[i], width[i + 1], stride=2) for i in levels[:-1])
        self.grow = nn.ModuleList(one(width[i + 1], width[i], 1) for i in levels[:-1])
        self.up = nn.ModuleList(level(2 * width[i], i, n) for i, n in enumerate(config.blocks[:-1]))
        if config.waves and not self.periodic:
            raise BadInput("waves", config.waves, f"0 in basis {basis}")
        self.waves = _Waves(config, inputs, len(self.filtered)) if config.waves else None
        for linear in (self.leave, self.direct, self.level):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        dtype = self.leave.weight.dtype
        angles = torch.log(lam)[:, None] * self.frequencies
        embedding = F.silu(self.embed(torch.cat([angles.sin(), angles.cos()], 1).to(dtype)))
        wide, crop = on_multiples(x, self.config.multiple, self.periodic)
        h = _unshuffled(wide, self.config.patch).to(dtype)
        h, kept = self.enter(h.contiguous(memory_format=self.memory_format)), []
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                h = block(h, embedding)
            if level < len(self.shrink):
                kept.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[level](h), scale_factor=2, mode="nearest")
            h = torch.cat([h, kept[level]], dim=1)
            for block in self.up[level].children():
                h = block(h, embedding)
        h = _shuffled(self.leave(F.silu(_site_norm(h))).float(), self.config.patch)
        out = h + _by_site(self.level(embedding).float(), wide)
        grouped = wide.reshape(len(x), -1, self.channels, *wide.shape[2:])
        passed = (_by_site(self.direct(embedding).float(), grouped) * grouped).sum(dim=1)
        out = torch.cat([out[:, : self.channels] + passed, out[:, self.channels :]], dim=1)[crop]
        if self.waves is None:
            return out
        waves = torch.zeros_like(out)
        waves[:, self.filtered] = self.waves(x, embedding)
        return out + waves

    def cast(self, dtype: torch.dtype) -> UNet:
        """Cast all but the angles of the embedding of log lambda: bfloat16 has 3 digits."""
        frequencies = self.frequencies
        self.to(dtype)
        self.frequencies = frequencies
        return self
