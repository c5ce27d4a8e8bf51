"""A compact U-Net conditioned on log lambda.

Fully convolutional behind a pixel-unshuffle, with circular padding on a torus; every normalization
acts on the channels of one site, never across the lattice, so that what the network has learnt on
one lattice size holds on every other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput

LOWEST, HIGHEST = 0.1, 4.5
"""Centres of the first and the last band of `_Waves`, in radians a site. What is longer than the
first, the longest wave of the lattices of 64^2 that the shipped weights have seen, is as it is."""
QUIET = 0.01
"""Size of an input below which `_Waves` does not tell it from silence."""
MARGIN = 32
"""Sites by which a torus is extended where its sides do not fit the levels."""
PADDING = {"dft": "circular", "dct": "replicate"}
"""What a convolution sees beyond an edge, by basis."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network. `channels` and `blocks` have one entry a level, finest first.

    `patch` is the side of the pixel-unshuffle, `embedding` the width of what says lambda, and
    `waves` how many bands of wave numbers have gains of their own (`_Waves`); 0 for none.
    """

    patch: int = 4
    channels: tuple[int, ...] = (96, 192)
    blocks: tuple[int, ...] = (2, 3)
    embedding: int = 128
    waves: int = 0
    kind: str = "unet"

    def __post_init__(self) -> None:
        """Raise BadInput unless a network of this shape can be built."""
        for name in ("patch", "embedding"):
            if getattr(self, name) < 1:
                raise BadInput(name, getattr(self, name), "a whole number from 1 on")
        if self.waves < 0:
            raise BadInput("waves", self.waves, "a whole number from 0 on")
        for name in ("channels", "blocks"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise BadInput(name, list(values), "a list of whole numbers from 1 on")
        if len(self.channels) != len(self.blocks):
            raise BadInput(
                "blocks", list(self.blocks), f"{len(self.channels)} numbers, as in channels"
            )

    @property
    def multiple(self) -> int:
        """Lattice sides divisible by this need no extension."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class _Conv(nn.Conv2d):
    """3 x 3 convolution, padded by the mode `beyond`."""

    def __init__(self, inputs: int, outputs: int, beyond: str, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride=stride)
        self.beyond = beyond

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), mode=self.beyond))


def _site_norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of each site."""
    y = x.permute(0, 2, 3, 1)
    return F.layer_norm(y, y.shape[-1:]).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Residual block; log lambda scales and shifts the normalized input."""

    def __init__(self, inputs: int, outputs: int, embedding: int, beyond: str) -> None:
        super().__init__()
        self.first = _Conv(inputs, outputs, beyond)
        self.second = _Conv(outputs, outputs, beyond)
        self.condition = nn.Linear(embedding, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.condition(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(_site_norm(x)))
        h = F.silu(torch.addcmul(shift, _site_norm(h), 1 + scale))
        out: Tensor = self.skip(x) + self.second(h)
        return out


class _Level(nn.ModuleList):
    """Blocks at one resolution, one after the other."""

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            h = block(h, embedding)
        return h


class _Waves(nn.Module):
    """Isotropic filters of the inputs on a torus: gains of bands of wave numbers.

    A gain of each band and pair of input and output depends on lambda and on how large the inputs
    are: their mean squares, and the logarithms of these and of their mean sizes, which tell few
    large numbers from many small ones (known sites from majorities). Between the centres of bands,
    which lie evenly in log kappa, gains are interpolated. Convolutions can do the same, but are
    slow to learn what the few longest waves need.
    """

    def __init__(self, bands: int, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.bands, self.outputs = bands, outputs
        self.look = nn.Linear(embedding + 3 * inputs, 64)
        self.gains = nn.Linear(64, bands * inputs * outputs)
        nn.init.zeros_(self.gains.weight)
        nn.init.zeros_(self.gains.bias)

    def _bands(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return the weight of each band at each mode, (bands, Ly, Lx // 2 + 1)."""
        height, width = shape[-2:]
        ky = 2.0 * math.pi * torch.fft.fftfreq(height, device=device)
        kx = 2.0 * math.pi * torch.fft.rfftfreq(width, device=device)
        kappa = torch.hypot(ky[:, None], kx).clamp(min=LOWEST)
        place = (kappa / LOWEST).log() / math.log(HIGHEST / LOWEST)
        centres = torch.arange(self.bands, device=device)[:, None, None]
        return (1.0 - (place * (self.bands - 1) - centres).abs()).clamp(min=0.0)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        square, size = x.square().mean((-2, -1)), x.abs().mean((-2, -1))
        loud = [square, 0.5 * (square + QUIET**2).log(), (size + QUIET).log()]
        seen = F.silu(self.look(torch.cat([embedding, torch.cat(loud, 1).to(embedding.dtype)], 1)))
        gains = self.gains(seen).float().unflatten(1, (self.outputs, x.shape[1], self.bands))
        bands, modes = self._bands(x.shape, x.device), torch.fft.rfft2(x)
        total = torch.zeros((), device=x.device)
        for i in range(x.shape[1]):
            filters = torch.einsum("nob,byx->noyx", gains[:, :, i], bands)
            total = total + filters * modes[:, None, i]
        out: Tensor = torch.fft.irfft2(total, s=x.shape[-2:])
        return out


def on_multiples(
    x: Tensor, multiple: int, periodic: bool
) -> tuple[Tensor, tuple[slice | EllipsisType, ...]]:
    """Return `x` (..., Ly, Lx) with sides that are multiples, and what crops it again.

    A torus goes on as it is, with a margin of MARGIN sites; open edges repeat the last site.
    """
    if not (x.shape[-2] % multiple or x.shape[-1] % multiple):
        return x, (...,)
    crop: list[slice | EllipsisType] = [...]
    for axis in (-2, -1):
        side = x.shape[axis]
        margin = MARGIN if periodic and side % multiple else 0
        long = -(-(side + 2 * margin) // multiple) * multiple
        place = torch.arange(-margin, long - margin, device=x.device)
        place = place % side if periodic else place.clamp(max=side - 1)
        x = x.index_select(axis, place)
        crop.append(slice(margin, margin + side))
    return x, tuple(crop)


class UNet(nn.Module):
    """Map `inputs` numbers a site to `outputs` numbers a site.

    Call with `x` (n, inputs, Ly, Lx) float32 and `lam` (n,) float32; returns
    (n, outputs, Ly, Lx) float32. The first output of each of `channels` has the inputs of its
    channel added to it with weights that depend on lambda alone, those named in `waved` filtered
    inputs (`_Waves`). Inputs are in groups of `channels`. Sides that are no
    multiple of `config.multiple` are extended to the next one, on a torus with a margin of 32
    sites, and cropped again.
    """

    def __init__(
        self,
        config: NetworkConfig,
        inputs: int = 1,
        outputs: int = 1,
        basis: str = "dft",
        waved: Sequence[int] = (0,),
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.outputs, self.periodic = config, outputs, basis == "dft"
        self.channels = channels
        self.waved = list(waved)
        pixels, width, beyond = config.patch**2, config.channels, PADDING[basis]
        self.frequencies: Tensor
        self.register_buffer(
            "frequencies", math.pi * 2.0 ** torch.linspace(-5.0, 1.0, 32), persistent=False
        )
        self.embed = nn.Sequential(nn.Linear(64, config.embedding), nn.SiLU())
        self.enter = _Conv(inputs * pixels, width[0], beyond)
        self.leave = nn.Conv2d(width[0], outputs * pixels, 1)
        self.direct = nn.Linear(config.embedding, inputs // channels)
        self.level = nn.Linear(config.embedding, outputs)
        levels = range(len(width))

        def level(first: int, i: int, n: int) -> _Level:
            widths = [first] + [width[i]] * (n - 1)
            return _Level(_Block(w, width[i], config.embedding, beyond) for w in widths)

        self.down = nn.ModuleList(level(width[i], i, n) for i, n in enumerate(config.blocks))
        self.shrink = nn.ModuleList(_Conv(width[i], width[i + 1], beyond, 2) for i in levels[:-1])
        self.grow = nn.ModuleList(nn.Conv2d(width[i + 1], width[i], 1) for i in levels[:-1])
        self.up = nn.ModuleList(level(2 * width[i], i, n) for i, n in enumerate(config.blocks[:-1]))
        self.waves = None
        if config.waves:
            if not self.periodic:
                raise BadInput("waves", config.waves, f"0 in basis {basis}")
            self.waves = _Waves(config.waves, inputs, len(self.waved), config.embedding)
        for linear in (self.leave, self.direct, self.level):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        dtype = self.leave.weight.dtype
        angles = torch.log(lam)[:, None] * self.frequencies
        embedding = F.silu(self.embed(torch.cat([angles.sin(), angles.cos()], 1).to(dtype)))
        extended, crop = on_multiples(x, self.config.multiple, self.periodic)
        out = self._body(extended, embedding)[crop]
        if self.waves is None:
            return out
        filtered = torch.zeros_like(out)
        filtered[:, self.waved] = self.waves(x, embedding)
        return out + filtered

    def _body(self, x: Tensor, embedding: Tensor) -> Tensor:
        dtype = self.leave.weight.dtype
        h = F.pixel_unshuffle(x, self.config.patch).to(dtype)
        h = self.enter(h.contiguous(memory_format=torch.channels_last))
        kept = []
        for level, blocks in enumerate(self.down):
            h = blocks(h, embedding)
            if level < len(self.shrink):
                kept.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[level](h), scale_factor=2, mode="nearest")
            h = torch.cat([h, kept[level]], dim=1)
            h = self.up[level](h, embedding)
        h = self.leave(F.silu(_site_norm(h))).float()
        out = F.pixel_shuffle(h, self.config.patch)
        out = out + self.level(embedding).float()[:, :, None, None]
        direct = self.direct(embedding).float()[:, :, None, None, None]
        grouped = x.reshape(len(x), -1, self.channels, *x.shape[-2:])
        passed = (direct * grouped).sum(dim=1)
        return torch.cat([out[:, : self.channels] + passed, out[:, self.channels :]], dim=1)
