"""Symmetries of the data, and a network that sees each configuration through one of its own.

Whatever the network does that the physics does not is averaged out along the chain instead of
adding up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skild_phys.rng import Streams

SYMMETRIES = ("shift", "flip", "turn", "sign")
"""What configurations are taken to be symmetric under: translations, reflections of an axis,
exchange of axes with equal sides (with reflections, quarter turns), change of sign of the field."""
MIRROR = "mirror"
"""What a photograph may be taken to be symmetric under: left for right."""


class _Symmetry(NamedTuple):
    """A symmetry of lattice and field, and its inverse; fields are (channels, *shape)."""

    shift: tuple[int, ...]
    flips: list[int]
    swaps: list[tuple[int, int]]
    sign: float

    def there(self, field: Tensor) -> Tensor:
        field = torch.roll(field, self.shift, tuple(range(1, field.dim()))).flip(self.flips)
        field = field * self.sign
        for swap in self.swaps:
            field = field.transpose(*swap)
        return field

    def back(self, field: Tensor, odd: Tensor) -> Tensor:
        for swap in reversed(self.swaps):
            field = field.transpose(*swap)
        field = field.flip(self.flips)
        if self.sign < 0:
            field = field * (1.0 - 2.0 * odd).reshape(-1, *[1] * len(self.shift))
        return torch.roll(field, tuple(-step for step in self.shift), tuple(range(1, field.dim())))


def _random_symmetry(
    stream: Streams, shape: tuple[int, ...], symmetries: Sequence[str]
) -> _Symmetry:
    # Always the same numbers are drawn, whatever they are used for.
    shift = tuple(int(stream.noise.integers(side)) for side in shape)
    axes = range(1, 1 + len(shape))
    pairs = list(itertools.combinations(axes, 2))
    bits = [bool(i) for i in stream.noise.integers(2, size=len(axes) + len(pairs) + 1)]
    flips = [axis for axis in axes if bits[axis - 1] and "flip" in symmetries]
    if MIRROR in symmetries and "flip" not in symmetries and bits[len(axes) - 1]:
        flips = [len(axes)]
    swaps = [
        (i, j)
        for (i, j), swap in zip(pairs, bits[len(axes) : -1], strict=True)
        if swap and shape[i - 1] == shape[j - 1] and "turn" in symmetries
    ]
    sign = -1.0 if bits[-1] and "sign" in symmetries else 1.0
    return _Symmetry(shift if "shift" in symmetries else (0,) * len(shape), flips, swaps, sign)


def see_through_symmetries(
    network: Callable[[Tensor, Tensor], Tensor],
    streams: Sequence[Streams],
    symmetries: Sequence[str],
    odd: Sequence[bool],
    features: Tensor,
    lam: Tensor,
) -> Tensor:
    """Return the network's outputs, each configuration seen through a symmetry of its own.

    `features` are (n, inputs, *shape); `odd` marks the outputs that change sign with the field, as
    every feature does.
    """
    shape = tuple(features.shape[2:])
    own = [_random_symmetry(stream, shape, symmetries) for stream in streams]
    signs = torch.tensor(odd, dtype=torch.float32, device=features.device)
    views = torch.stack([one.there(field) for one, field in zip(own, features, strict=True)])
    outputs = network(views, lam)
    return torch.stack([one.back(field, signs) for one, field in zip(own, outputs, strict=True)])
