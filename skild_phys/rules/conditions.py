"""What a coarse lattice says of spins: their means under it, and draws that obey it.

Sites are independent with given logits; means and draws are those of that law conditioned on the
coarse lattice, exactly for the integer rules. `spectral`, whose real numbers spins cannot hold
exactly, adds a field with the kept modes to the logits, and draws with block sums that are near.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.operators import Operator
from skild_phys.rules.sampling import (
    BY_CHANCE,
    block_means,
    rounded_sums,
    sample_blocks,
    sample_sites,
)

Lattices = NDArray[Any]


class Constraint(ABC):
    """A condition on a batch of spin lattices, (n, *shape)."""

    holds_sums = False
    """Whether spins are drawn with the sums of their blocks held."""

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Return E[s] (n, *shape) of spins with `logits` under the condition."""

    def alone(self, like: Tensor) -> Tensor:
        """Return E[s] under the condition and nothing else; shape and device of `like`."""
        return self.means(torch.zeros_like(like))

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Return `gradient` times d means / d logits, for training: near it where not exact."""
        return 0.5 * (1.0 - means * means) * gradient

    @abstractmethod
    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        """Return the law that lattices are drawn from: logits (n, *shape) and their condition.

        What a draw decides by chance before it has spins is decided, by the generator `states`,
        which move on.
        """


class Settled(Constraint):
    """A condition that spins can meet exactly, and are drawn under."""

    @abstractmethod
    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> Lattices:
        """Return lattice `i` (*shape) int8 drawn from `logits` under the condition."""

    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        return logits, self


class _Means(torch.autograd.Function):
    """`Constraint.means` with `Constraint.slope` for its gradient."""

    @staticmethod
    def forward(context: Any, logits: Tensor, constraint: Constraint) -> Tensor:
        means = constraint.means(logits)
        context.constraint = constraint
        context.save_for_backward(means)
        return means

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (means,) = context.saved_tensors
        return context.constraint.slope(means, gradients[0]), None


def differentiable_means(constraint: Constraint, logits: Tensor) -> Tensor:
    """Return `constraint.means(logits)`, through which gradients flow."""
    means: Tensor = _Means.apply(logits, constraint)  # type: ignore[no-untyped-call]
    return means


class Free(Settled):
    """No condition."""

    def means(self, logits: Tensor) -> Tensor:
        return torch.tanh(0.5 * logits)

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> Lattices:
        return sample_sites(logits, None, state)


class Blocks(Settled):
    """The sum of every b x b block, or its sign: `raw` (n, Ly / b, Lx / b).

    `coins` decide the sign of a sum of zero (0: not known).
    """

    def __init__(
        self,
        raw: Lattices,
        factor: int,
        majority: bool = False,
        coins: NDArray[np.int8] | None = None,
    ) -> None:
        self.raw, self.factor, self.majority, self.coins = raw, factor, majority, coins
        self.holds_sums = not majority

    def _coins(self, i: int) -> NDArray[np.int8] | None:
        return None if self.coins is None else self.coins[i]

    def means(self, logits: Tensor) -> Tensor:
        lattices = logits.detach().cpu().numpy()

        def of(i: int) -> NDArray[np.float32]:
            return block_means(lattices[i], self.raw[i], self.factor, self.majority, self._coins(i))

        if len(lattices) == 1:
            means = [of(0)]
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                means = list(pool.map(of, range(len(lattices))))
        return torch.from_numpy(np.stack(means)).to(logits.device)

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        if self.majority:
            return super().slope(means, gradient)
        split = [n for side in means.shape[1:] for n in (side // self.factor, self.factor)]
        own = (0.5 * (1.0 - means * means)).reshape(-1, *split)
        pulled = own * gradient.reshape(own.shape)
        inside = tuple(range(2, own.dim(), 2))
        # A block's sum is fixed: what all its sites have in common moves nothing.
        common = pulled.sum(inside, keepdim=True) / (own.sum(inside, keepdim=True) + 1e-6)
        return (pulled - own * common).reshape(means.shape)

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> Lattices:
        coins, raw = self._coins(i), self.raw[i]
        return sample_blocks(logits, raw, self.factor, self.majority, coins, state)


class Sites(Settled):
    """The spins of the sites (0, 0) of the blocks, `raw`."""

    def __init__(self, raw: Lattices, factor: int, device: torch.device) -> None:
        self.raw = raw
        self.every: Any = (..., *[slice(None, None, factor)] * (raw.ndim - 1))
        self.known = torch.from_numpy(raw.astype(np.float32)).to(device)

    def means(self, logits: Tensor) -> Tensor:
        m = torch.tanh(0.5 * logits)
        m[self.every] = self.known
        return m

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> Lattices:
        known = np.zeros(logits.shape, dtype=np.int8)
        known[self.every] = self.raw[i]
        return sample_sites(logits, known, state)


class KeptModes(Constraint):
    """The modes inside the coarse box, as the operator's coarse field `values`.

    Spins cannot hold real numbers exactly. The mean does; a draw rounds each block's share of it to
    a sum that spins can have, up or down by chance, and is made given these sums, in all its parts:
    a sum rounded anew at each part, and a mean held to the coarse field against what other parts
    have become, cost an energy of +0.02 (lambda = 0.2) to +0.08.
    """

    holds_sums, by_chance = True, BY_CHANCE
    STEPS, STEPS_OF_DRAW, RATE = 3, 8, 1.8
    """Of the ascent to the tilt, which goes on from one mean to the next; RATE is below
    2 / (1/2), where it must converge."""

    def __init__(self, values: NDArray[np.float64], kept: Operator, device: torch.device) -> None:
        self.factor, self.shape = kept.factor, kept.shape
        self.transfer = torch.from_numpy(kept.transfer.real.copy()).float().to(device)
        wanted = kept.adjoint(values) * kept.factor ** len(kept.shape)
        self.wanted = torch.from_numpy(wanted.astype(np.float32)).to(device)
        # Where the last means were found the next ones are near.
        self.tilt = torch.zeros_like(self.wanted)

    def _kept(self, fields: Tensor) -> Tensor:
        """Return b^d A^T A of fields, the projection onto what the coarse field says.

        Not a filter: for an even coarse side the modes +-side/2 are seen by their sum alone.
        """
        every: Any = (..., *[slice(None, None, self.factor)] * len(self.shape))
        sparse = torch.zeros_like(fields)
        sparse[every] = self._filtered(fields)[every]
        sites = float(self.factor ** len(self.shape))
        return sites * self._filtered(sparse)

    def _filtered(self, fields: Tensor) -> Tensor:
        axes = tuple(range(-len(self.shape), 0))
        modes = torch.fft.rfftn(fields, dim=axes) * self.transfer
        kept: Tensor = torch.fft.irfftn(modes, s=self.shape, dim=axes)
        return kept

    def means(self, logits: Tensor) -> Tensor:
        self.tilt = self._better(logits, self.STEPS)
        return torch.tanh(0.5 * (logits + self.tilt))

    def alone(self, like: Tensor) -> Tensor:
        # The shipped network has not seen this rule.
        return torch.zeros_like(like)

    def _better(self, logits: Tensor, steps: int) -> Tensor:
        """Return the tilt after `steps` of accelerated ascent (Nesterov)."""
        before = tilt = self.tilt
        for step in range(steps):
            ahead = tilt + step / (step + 3.0) * (tilt - before)
            missing = self.wanted - self._kept(torch.tanh(0.5 * (logits + ahead)))
            before, tilt = tilt, ahead + self.RATE * missing
        return tilt

    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        tilted = logits + self._better(logits, self.STEPS_OF_DRAW)
        lattices = zip(tilted.cpu().numpy(), states, strict=True)
        sums = np.stack(
            [rounded_sums(one, self.factor, self.by_chance, state) for one, state in lattices]
        )
        return tilted, Blocks(sums, self.factor)
