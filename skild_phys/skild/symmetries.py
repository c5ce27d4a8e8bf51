"""Symmetries of the data, and a network that sees each configuration through one of its own.

Whatever the network does that the physics does not is averaged out along the chain instead of
adding up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skild_phys.skild.streams import Streams

Network = Callable[[Tensor, Tensor], Tensor]


SYMMETRIES = ("shift", "flip", "turn", "sign")
"""What a lattice is taken to be symmetric under: translations, reflections of an axis, quarter
turns (of square lattices), and a change of sign of the field."""


MIRROR = "mirror"
"""What a photograph may be taken to be symmetric under: left for right."""


class _Look(NamedTuple):
    """A symmetry of the lattice and of the field, and its inverse; (channels, Ly, Lx)."""

    shift: tuple[int, int]
    axes: list[int]
    turn: bool
    sign: float

    def there(self, field: Tensor) -> Tensor:
        view = torch.roll(field, self.shift, (1, 2)).flip(self.axes) * self.sign
        return view.transpose(1, 2) if self.turn else view

    def back(self, field: Tensor, odd: Tensor) -> Tensor:
        view = (field.transpose(1, 2) if self.turn else field).flip(self.axes)
        if self.sign < 0:
            view = view * (1.0 - 2.0 * odd)[:, None, None]
        return torch.roll(view, (-self.shift[0], -self.shift[1]), (1, 2))


def _look(stream: Streams, shape: tuple[int, ...], symmetries: Sequence[str]) -> _Look:
    # Always the same numbers are drawn, whatever they are used for.
    shift = (int(stream.noise.integers(shape[0])), int(stream.noise.integers(shape[1])))
    flip_y, flip_x, turn, negate = (bool(i) for i in stream.noise.integers(2, size=4))
    axes = [axis for axis, flip in ((1, flip_y), (2, flip_x)) if flip and "flip" in symmetries]
    if flip_x and MIRROR in symmetries and "flip" not in symmetries:
        axes = [2]
    return _Look(
        shift if "shift" in symmetries else (0, 0),
        axes,
        turn and shape[0] == shape[1] and "turn" in symmetries,
        -1.0 if negate and "sign" in symmetries else 1.0,
    )


def see_through_symmetries(
    network: Network,
    features: Tensor,
    lam: Tensor,
    streams: Sequence[Streams],
    symmetries: Sequence[str],
    odd: Sequence[bool],
) -> Tensor:
    """Return the network's outputs, each lattice looked at through a symmetry of its own.

    `odd` says which outputs change sign with the field; every feature does.
    """
    looks = [_look(stream, tuple(features.shape[-2:]), symmetries) for stream in streams]
    signs = torch.tensor(odd, dtype=torch.float32, device=features.device)
    views = torch.stack([look.there(one) for look, one in zip(looks, features, strict=True)])
    outputs = network(views, lam)
    return torch.stack([look.back(one, signs) for look, one in zip(looks, outputs, strict=True)])
