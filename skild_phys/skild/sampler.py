"""The reverse process for spins: denoise, draw x0 within the constraint, bridge to the next lambda.

Every lattice has its own random streams, so what it becomes does not depend on which others
are computed beside it. Each network call sees the lattice through a random symmetry of the
torus (shift, flips, transposition, spin flip): whatever the network does that the physics does
not is averaged out along the chain instead of adding up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import Interrupted
from skild_phys.lattice.coarsen import Operator
from skild_phys.rng import generator, kernel_state
from skild_phys.skild.network import UNet
from skild_phys.skild.process import Process

Stop = Callable[[], bool]
Draw = Callable[[NDArray[np.float32], int, NDArray[np.uint64]], NDArray[np.int8]]
"""(logits of one lattice, its place in the batch, its generator state) -> spins."""


def _never() -> bool:
    return False


@dataclass
class Streams:
    """The random streams of one lattice: Gaussian noise, and the state of the drawing kernel."""

    noise: np.random.Generator
    state: NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, *key: int) -> Streams:
        """Return the streams named `key` under `seed`.

        Branches 0 and 1 of a key are those of the constrained Monte Carlo, which may follow.
        """
        return cls(generator(seed, *key, 2), kernel_state(seed, *key, 3))


def white_noise(streams: Sequence[Streams], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Return standard normal fields (n, Ly, Lx) float32, one stream a field."""
    fields = [s.noise.standard_normal(shape, dtype=np.float32) for s in streams]
    return torch.from_numpy(np.stack(fields)).to(device)


class _Look(NamedTuple):
    """A symmetry of the square torus and of the spins, and its inverse."""

    shift: tuple[int, int]
    axes: list[int]
    turn: bool
    sign: float

    def there(self, field: Tensor) -> Tensor:
        view = torch.roll(field, self.shift, (0, 1)).flip(self.axes) * self.sign
        return view.T if self.turn else view

    def back(self, field: Tensor) -> Tensor:
        view = (field.T if self.turn else field).flip(self.axes) * self.sign
        return torch.roll(view, (-self.shift[0], -self.shift[1]), (0, 1))


def _seen_through_symmetries(
    network: UNet, xt: Tensor, lam: Tensor, streams: Sequence[Streams]
) -> Tensor:
    """Return the logits, each lattice looked at through a symmetry from its own stream."""
    shape, square = xt.shape[-2:], xt.shape[-1] == xt.shape[-2]
    looks: list[_Look] = []
    for stream in streams:
        shift = (int(stream.noise.integers(shape[0])), int(stream.noise.integers(shape[1])))
        flip_y, flip_x, turn, negate = (bool(i) for i in stream.noise.integers(2, size=4))
        axes = [axis for axis, flip in enumerate((flip_y, flip_x)) if flip]
        looks.append(_Look(shift, axes, turn and square, -1.0 if negate else 1.0))
    views = torch.stack([look.there(field) for look, field in zip(looks, xt, strict=True)])
    logits = network(views, lam)
    return torch.stack([look.back(field) for look, field in zip(looks, logits, strict=True)])


def sample_spins(
    network: UNet,
    process: Process,
    start: Tensor,
    lambdas: NDArray[np.float64],
    draw: Draw,
    streams: Sequence[Streams],
    stop: Stop = _never,
) -> NDArray[np.int8]:
    """Run the reverse process down `lambdas` and return spins (n, Ly, Lx) int8.

    Parameters
    ----------
    network : gives logits; one call for each lambda.
    process : of the fields' shape, on the network's device.
    start : (n, Ly, Lx) fields X at lambdas[0].
    lambdas : decreasing; after the last one x0 is drawn and returned as it is.
    draw : draws one lattice from its logits under the constraint.
    streams : one a lattice.
    stop : asked before each call; raises Interrupted once it says so.
    """
    xt = start
    spins = np.empty(start.shape, dtype=np.int8)
    for step, lam in enumerate(lambdas):
        if stop():
            raise Interrupted("interrupted")
        at = torch.full((len(xt),), float(lam), device=xt.device)
        logits = _seen_through_symmetries(network, xt, at, streams).cpu().numpy()
        for i, stream in enumerate(streams):
            spins[i] = draw(logits[i], i, stream.state)
        if step + 1 == len(lambdas):
            break
        x0 = torch.from_numpy(spins.astype(np.float32)).to(xt.device)
        noise = white_noise(streams, process.shape, xt.device)
        xt = process.bridge(xt, x0, float(lam), float(lambdas[step + 1]), noise)
    return spins


def sample_fields(
    network: UNet,
    process: Process,
    start: Tensor,
    lambdas: NDArray[np.float64],
    operator: Operator,
    values: NDArray[np.float64],
    variances: NDArray[np.float64],
    streams: Sequence[Streams],
    stop: Stop = _never,
) -> NDArray[np.float32]:
    """Run the reverse process for continuous fields and return (n, Ly, Lx) float32.

    The network gives v in whitened coordinates, and with it the mean of x0. Each step draws x0
    from a Gaussian about it with the variance that is still open, Sigma = (1 - abar) P,
    conditioned on A x0 = y (draw, then correct by Sigma: Matheron's rule), and bridges down;
    the last x0 is the answer. Exact for Gaussian fields at any number of steps.
    """
    xt = start
    x0 = start
    for step, lam in enumerate(lambdas):
        if stop():
            raise Interrupted("interrupted")
        at = torch.full((len(xt),), float(lam), device=xt.device)
        v = _seen_through_symmetries(network, xt, at, streams)
        mean = process.x0_from_velocity(xt, v, at)
        spread = process.forward(
            torch.zeros_like(xt), at, white_noise(streams, process.shape, xt.device)
        )
        guess = (mean + spread).double().cpu().numpy()
        sigma = -np.expm1(-process.kappa2.double().cpu().numpy() * lam) * variances
        corrected = operator.correct(guess, values, sigma)
        x0 = torch.from_numpy(corrected.astype(np.float32)).to(xt.device)
        if step + 1 < len(lambdas):
            noise = white_noise(streams, process.shape, xt.device)
            xt = process.bridge(xt, x0, float(lam), float(lambdas[step + 1]), noise)
    return x0.cpu().numpy()
