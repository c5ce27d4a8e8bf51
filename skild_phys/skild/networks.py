"""Networks: inputs and outputs, the symmetries that fields are seen through, and the U-Net.

A network sees each configuration through a random symmetry of its own (`see_through_symmetries`):
whatever it does that the physics does not is averaged out along the chain instead of adding up.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput, check_whole
from skild_phys.rng import Streams
from skild_phys.skild.chain import Schedule


class _Output(NamedTuple):
    """Inputs and outputs of a network per site and component of a field."""

    inputs: int
    odd: tuple[bool, ...] = (True,)
    """Which outputs change sign with the field."""
    even: int = 0
    """How many inputs, the last, do not: numbers, alike at all sites, of how much is known."""


OUTPUTS = {
    # of spins: draft, trust in the first iteration, field, trust in the second (`spin_logits`)
    "logits": _Output(7, (True, False, True, False), even=2),
    # X_t, what is left of the data, that whitened, what is known beside and that whitened, how much
    # that is of long, middle and short waves (`evaluate_fields`)
    "v": _Output(8, even=3),
    "eps": _Output(1),
    "white_eps": _Output(1),
    "x0": _Output(1),
}
_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


@functools.cache
def network_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where `device` multiplies it in hardware, float32 elsewhere.

    A CPU without such instructions emulates bfloat16, at a fifth of float32's speed (the shipped
    network on an AMD EPYC with AVX2). The two types round differently: what one kind of machine
    refines is another sample of the same distribution than what the other does.
    """
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    # PyTorch before 2.12 may not list what the CPU has.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = any(known.get(name, False) for name in _CPU_INSTRUCTIONS)
    return torch.bfloat16 if fast else torch.float32


@functools.cache
def arithmetic(device: torch.device | str) -> str:
    """Return what decides how a chain rounds: kind of device and type of numbers."""
    return f"{torch.device(device).type} {str(network_dtype(device)).removeprefix('torch.')}"


SYMMETRIES = ("shift", "flip", "turn", "sign")
"""What configurations are taken to be symmetric under: translations, reflections of an axis,
exchange of axes with equal sides (with reflections, quarter turns), change of sign of the field."""
MIRROR = "mirror"
"""What a photograph may be taken to be symmetric under: left for right."""


@functools.cache
def turns(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the orders of axes that leave sides as they are, the given one first."""
    orders = itertools.permutations(range(len(sides)))
    return [order for order in orders if all(sides[i] == side for i, side in zip(order, sides))]


class _Symmetry:
    """A random symmetry of lattice and field, and its inverse; fields are (channels, *shape)."""

    def __init__(
        self, stream: Streams, shape: tuple[int, ...], symmetries: Sequence[str],
        period: Sequence[int] | None,
    ) -> None:  # fmt: skip
        # Always the same numbers are drawn, whatever they are used for.
        by, symmetries = period or (1,) * len(shape), [*symmetries]
        shift = tuple(
            int(stream.noise.integers(n)) // k * k for n, k in zip(shape, by, strict=True)
        )
        if period is not None and "flip" in symmetries:
            symmetries.remove("flip")
        self.axes = axes = tuple(range(1, 1 + len(shape)))
        bits = [bool(i) for i in stream.noise.integers(2, size=len(axes) + 1)]
        turn = int(stream.noise.integers(math.factorial(len(axes))))
        self.shift = shift if "shift" in symmetries else (0,) * len(shape)
        self.flips = [axis for axis in axes if bits[axis - 1] and "flip" in symmetries]
        if MIRROR in symmetries and "flip" not in symmetries and bits[len(axes) - 1]:
            self.flips = [len(axes)]
        able = turns(shape) if "turn" in symmetries else [tuple(range(len(axes)))]
        self.order = [0, *(1 + axis for axis in able[turn % len(able)])]
        self.sign = -1.0 if bits[-1] and "sign" in symmetries else 1.0

    def there(self, field: Tensor, even: int) -> Tensor:
        signs = torch.full((len(field),), self.sign, device=field.device)
        signs[len(field) - even :] = 1.0
        moved = field.roll(self.shift, self.axes).flip(self.flips)
        return (moved * signs.reshape(-1, *[1] * len(self.axes))).permute(self.order)

    def back(self, field: Tensor, odd: Tensor) -> Tensor:
        field = field.permute(np.argsort(self.order).tolist()).flip(self.flips)
        if self.sign < 0:
            field = field * (1.0 - 2.0 * odd).reshape(-1, *[1] * len(self.axes))
        return field.roll(tuple(-step for step in self.shift), self.axes)


def see_through_symmetries(
    network: Callable[[Tensor, Tensor], Tensor],
    streams: Sequence[Streams],
    symmetries: Sequence[str],
    odd: Sequence[bool],
    features: Tensor,
    lam: Tensor,
    even: int = 0,
    period: Sequence[int] | None = None,
) -> Tensor:
    """Return the network's outputs, each configuration seen through a symmetry of its own.

    `features` are (n, inputs, *shape); `odd` marks the outputs that change sign with the field, as
    all but the last `even` features do. With `period`, of blocks along each axis, shifts are
    multiples of it, and nothing is reflected: blocks begin at site 0, where they did in training.
    """
    shape = tuple(features.shape[2:])
    own = [_Symmetry(stream, shape, symmetries, period) for stream in streams]
    signs = torch.tensor(odd, dtype=torch.float32, device=features.device)
    views = torch.stack([one.there(field, even) for one, field in zip(own, features, strict=True)])
    outputs = network(views, lam)
    return torch.stack([one.back(field, signs) for one, field in zip(own, outputs, strict=True)])


Beyond = Literal["circular", "replicate", "zeros"]
"""What a convolution sees beyond an edge."""
_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_MEMORY = {2: torch.channels_last, 3: torch.channels_last_3d}
_PADDING: dict[str, Beyond] = {"dft": "circular", "dct": "replicate"}
_QUIET = 0.01  # number below which `_Told` takes one for 0
_MARGIN = 32  # sites by which a torus is extended where its sides do not fit the levels


class _Wrapped(torch.autograd.Function):
    """A field with a site of the torus beyond each edge: circular padding, with a lean gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        for axis in range(2, x.dim()):
            last = x.shape[axis] - 1
            x = torch.cat([x.narrow(axis, last, 1), x, x.narrow(axis, 0, 1)], axis)
        return x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # type: ignore[override]
        for axis in range(2, slope.dim()):
            side = slope.shape[axis] - 2
            inner = slope.narrow(axis, 1, side).clone(memory_format=torch.preserve_format)
            inner.narrow(axis, 0, 1).add_(slope.narrow(axis, side + 1, 1))
            inner.narrow(axis, side - 1, 1).add_(slope.narrow(axis, 0, 1))
            slope = inner
        return slope


class _Torus2d(nn.Conv2d):
    """A convolution of 3 x 3 sites with circular padding (`_Wrapped`)."""

    def forward(self, x: Tensor) -> Tensor:
        wrapped: Tensor = _Wrapped.apply(x)  # type: ignore[no-untyped-call]
        return F.conv2d(wrapped, self.weight, self.bias, self.stride)


class _Torus3d(nn.Conv3d):
    """The same in three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        wrapped: Tensor = _Wrapped.apply(x)  # type: ignore[no-untyped-call]
        return F.conv3d(wrapped, self.weight, self.bias, self.stride)


class Network(nn.Module):
    """Map numbers per site to numbers per site, given lambda.

    Call with `x` (n, inputs, *sides) float32 and `lam` (n,) float32; returns (n, outputs, *sides)
    float32. Sides that are no multiple of `config.multiple` are extended to the next one, on a
    torus with a margin of 32 sites, and cropped again.
    """

    def __init__(self, config: Any, basis: str, frequencies: Tensor) -> None:
        super().__init__()
        self.config, self.periodic = config, basis == "dft"
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _sines(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        """Return sines and cosines of `time` (n,) at all frequencies."""
        angles = time[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1).to(dtype)

    def cast(self, dtype: torch.dtype) -> Self:
        """Cast what may be of few digits to `dtype`."""
        raise NotImplementedError

    def _extended(self, x: Tensor, multiple: int | None = None) -> tuple[Tensor, tuple[slice, ...]]:
        """Return `x` (n, c, *sides) with sides that are multiples, and what crops it again.

        A torus is repeated; open edges repeat the last site.
        """
        multiple, crop = multiple or self.config.multiple, [slice(None)] * 2
        if not any(side % multiple for side in x.shape[2:]):
            return x, tuple(crop)
        for axis, side in enumerate(x.shape[2:], 2):
            whole = math.lcm(side, multiple)
            if self.periodic and whole <= side + 2 * _MARGIN:  # a torus, some times over
                x = torch.cat([x] * (whole // side), axis)
                crop.append(slice(side))
                continue
            margin = _MARGIN if self.periodic and side % multiple else 0
            long = -(-(side + 2 * margin) // multiple) * multiple
            at = torch.arange(-margin, long - margin, device=x.device)
            x = x.index_select(axis, at % side if self.periodic else at.clamp(max=side - 1))
            crop.append(slice(margin, margin + side))
        return x, tuple(crop)


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a U-Net. `channels` and `blocks` have one entry per level, finest first.

    Attributes
    ----------
    patch : side of the pixel-unshuffle.
    embedding : width of the embedding of log lambda.
    levels : how many grids the network tells apart, the coarser ones being one to it; 0 or 1 for
        none: then it is the same at every scale.
    field_patch : side of the pixel-unshuffle on coarser grids, of networks of spins; 0 for `patch`.
    """

    patch: int = 4
    channels: tuple[int, ...] = (96, 192)
    blocks: tuple[int, ...] = (2, 3)
    embedding: int = 128
    levels: int = field(default=0, metadata={"late": True})
    field_patch: int = field(default=0, metadata={"late": True})
    kind: str = "unet"

    def __post_init__(self) -> None:
        for name, least in (
            ("patch", 1),
            ("embedding", 1),
            ("levels", 0),
            ("field_patch", 0),
        ):
            check_whole(name, getattr(self, name), least)
        for name in ("channels", "blocks"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise BadInput(name, list(values), "a list of whole numbers from 1 on")
        if len(self.channels) != len(self.blocks):
            accepted = f"{len(self.channels)} numbers, as in channels"
            raise BadInput("blocks", list(self.blocks), accepted)

    @functools.cached_property
    def multiple(self) -> int:
        """Sides divisible by this need no extension."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    def build(
        self, output: str, basis: str, channels: int = 1, schedule: Schedule | None = None,
        dimension: int = 2, grids: bool = False,
    ) -> UNet:  # fmt: skip
        """Return an untrained network of this shape for fields of `channels` components.

        Parameters
        ----------
        output, basis : of OUTPUTS, and 'dft' or 'dct'.
        schedule : along which a network counts time that does so in steps.
        dimension : of the lattice.
        grids : whether spins are fields on coarser grids.
        """
        inputs, odd, even = OUTPUTS[output]
        sizes = ((inputs - even) * channels, len(odd) * channels)
        told = (even * channels, grids)
        return UNet(self, *sizes, basis, channels, dimension, told, output == "logits")


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


class _Block(nn.Module):
    """Residual block; log lambda scales and shifts the normalized input."""

    def __init__(
        self, embedding: int, conv3: Callable[..., Any], one: Callable[..., Any],
        inputs: int, outputs: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first, self.second = conv3(inputs, outputs), conv3(outputs, outputs)
        self.condition = nn.Linear(embedding, 2 * outputs)
        self.skip = one(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for zeros in (self.second.weight, self.condition.weight, self.condition.bias):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = _by_site(self.condition(embedding), x).chunk(2, dim=1)
        h = self.first(F.silu(_site_norm(x)))
        h = F.silu(torch.addcmul(shift, _site_norm(h), 1 + scale))
        out: Tensor = self.skip(x) + self.second(h)
        return out


_TORUS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: _Torus2d, 3: _Torus3d}


class _Told(nn.Module):
    """What numbers between 0 and 1 add to the embedding of log lambda."""

    def __init__(self, numbers: int, embedding: int) -> None:
        super().__init__()
        self.look, self.say = nn.Linear(2 * numbers, embedding), nn.Linear(embedding, embedding)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, x: Tensor) -> Tensor:
        numbers = x.mean(tuple(range(2, x.dim())))
        loud = torch.cat([numbers, (numbers + _QUIET).log()], 1).to(self.say.weight.dtype)
        out: Tensor = self.say(F.silu(self.look(loud)))
        return out


class _FieldEnds(nn.Module):
    """How a network of spins takes fields on coarser grids in, and lets their v out."""

    def __init__(
        self, config: NetworkConfig, inputs: int, even: int, conv3: Callable[..., Any],
        one: Callable[..., Any], dimension: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = config.field_patch or config.patch
        sites = self.patch**dimension
        inputs -= even
        self.enter = conv3(inputs * sites, config.channels[0])
        self.leave = one(config.channels[0], sites, 1)
        self.direct = nn.Linear(config.embedding, inputs)
        self.told, self.even = _Told(even, config.embedding), even
        for linear in (self.leave, self.direct):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


class UNet(Network):
    """A compact U-Net conditioned on log lambda, in two or three dimensions.

    Fully convolutional behind a pixel-unshuffle, with circular padding on a torus; normalizations
    act on the channels of one site, never across the lattice: what is learnt on one lattice size
    holds on every other. The first output of each of `channels` has the inputs of its channel added
    to it with weights that depend on lambda alone.
    Of the last inputs, `told[0]` of them, only the means over the sites are looked at, and only if
    there are grids: they join log lambda.
    """

    def __init__(
        self,
        config: NetworkConfig,
        inputs: int = 1,
        outputs: int = 1,
        basis: str = "dft",
        channels: int = 1,
        dimension: int = 2,
        told: tuple[int, bool] = (0, False),
        spins: bool = False,
    ) -> None:
        if dimension not in _CONV:
            raise BadInput("dimension", dimension, " or ".join(map(str, _CONV)))
        super().__init__(config, basis, math.pi * 2.0 ** torch.linspace(-5.0, 1.0, 32))
        self.outputs, self.channels = outputs, channels
        self.patch = config.patch
        self.memory_format = _MEMORY[dimension]
        sites, width, one = config.patch**dimension, config.channels, _CONV[dimension]
        wide = _TORUS[dimension] if basis == "dft" else one
        conv3 = functools.partial(wide, kernel_size=3, padding=1, padding_mode=_PADDING[basis])
        block = functools.partial(_Block, config.embedding, conv3, one)
        self.embed = nn.Sequential(nn.Linear(64, config.embedding), nn.SiLU())
        self.enter = conv3(inputs * sites, width[0])
        self.leave = one(width[0], outputs * sites, 1)
        self.direct = nn.Linear(config.embedding, inputs // channels)
        self.level = nn.Linear(config.embedding, outputs)
        self.number = nn.Embedding(config.levels, config.embedding) if config.levels > 1 else None
        self.even, grids = told
        self.told = _Told(self.even, config.embedding) if grids and self.even else None
        # Of what fields on coarser grids have in place of spins.
        self.field: _FieldEnds | None = None
        if grids and spins:
            fields, _, even = OUTPUTS["v"]
            self.field = _FieldEnds(config, fields, even, conv3, one, dimension)

        def level(first: int, width: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(block(w, width) for w in [first] + [width] * (n - 1))

        pairs = list(itertools.pairwise(width))
        self.down = nn.ModuleList(level(w, w, n) for w, n in zip(width, config.blocks))
        self.shrink = nn.ModuleList(conv3(fine, coarse, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(one(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(level(2 * w, w, n) for w, n in zip(width[:-1], config.blocks))
        for linear in (self.leave, self.direct, self.level):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, lam: Tensor, level: int = 0) -> Tensor:
        field = self.field if level > 0 else None
        ends: Any = self if field is None else field
        dtype, patch = self.leave.weight.dtype, ends.patch
        embedding = self.embed(self._sines(torch.log(lam), dtype))
        if self.number is not None:
            embedding = embedding + self.number.weight[min(level, self.config.levels - 1)]
        x, numbers = x[:, : x.shape[1] - ends.even], x[:, x.shape[1] - ends.even :]
        if ends.told is not None:
            embedding = embedding + ends.told(numbers)
        embedding = F.silu(embedding)
        wide, crop = self._extended(x, patch * 2 ** (len(self.shrink)))
        h = _unshuffled(wide, patch).to(dtype).contiguous(memory_format=self.memory_format)
        h, kept = ends.enter(h), []
        for depth, blocks in enumerate(self.down):
            for block in blocks.children():
                h = block(h, embedding)
            if depth < len(self.shrink):
                kept.append(h)
                h = self.shrink[depth](h)
        for grow, blocks in zip(reversed(self.grow), reversed(self.up)):
            h = F.interpolate(grow(h), scale_factor=2, mode="nearest")
            h = torch.cat([h, kept.pop()], dim=1)
            for block in blocks.children():
                h = block(h, embedding)
        h = _shuffled(ends.leave(F.silu(_site_norm(h))).float(), patch)
        if field is not None:
            passed = _by_site(field.direct(embedding).float(), wide) * wide
            return (h + passed.sum(dim=1, keepdim=True))[crop]
        out = h + _by_site(self.level(embedding).float(), wide)
        grouped = wide.reshape(len(x), -1, self.channels, *wide.shape[2:])
        passed = (_by_site(self.direct(embedding).float(), grouped) * grouped).sum(dim=1)
        return torch.cat([out[:, : self.channels] + passed, out[:, self.channels :]], dim=1)[crop]

    def cast(self, dtype: torch.dtype) -> Self:
        """Cast all but the angles of the embedding of log lambda: bfloat16 has 3 digits."""
        frequencies = self.frequencies
        self.to(dtype)
        self.frequencies = frequencies
        return self
