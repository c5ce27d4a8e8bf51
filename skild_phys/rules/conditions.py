"""What a coarse lattice says of spins: their means under it, and samples that obey it.

Sites are independent with given logits; means and samples are those of that distribution
conditioned on the coarse lattice, exactly where spins can have its values. Where they cannot
(`KeptModes`), a field is added to the logits, and samples have block sums that are near.

Training (`targets`) has less noise if a spin is replaced by its mean given all the others (Rao and
Blackwell): where the pair couplings say all about the data that is tanh of the field of X_t and
of the others.
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

from skild_phys.rules.operators import Operator, from_blocks, to_blocks
from skild_phys.rules.sampling import (
    BY_CHANCE,
    block_means,
    rounded_sums,
    sample_blocks,
    sample_sites,
)


class Constraint(ABC):
    """A condition on a batch of spin lattices, (n, *shape)."""

    holds_sums = False
    """Whether spins are sampled with the sums of their blocks held."""

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Return E[s] (n, *shape) of spins with `logits` under the condition."""

    def alone(self, like: Tensor) -> Tensor:
        """Return E[s] under the condition and nothing else; shape and device of `like`."""
        return self.means(torch.zeros_like(like))

    def slope(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Return `gradient` times d means / d logits, for training: near it where not exact."""
        return 0.5 * (1.0 - means * means) * gradient

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        """Return E[s] (n, *shape) given all other spins of `x0` and the condition, or `x0`.

        `field` (n, *shape) is that of X_t and the other spins, `by_site` (n or 1, *shape) the
        couplings by the displacement between two sites.
        """
        return x0

    @abstractmethod
    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        """Return what is sampled from: logits (n, *shape) and their condition.

        What is decided by chance before there are spins is decided, by the generator `states`.
        """


class Settled(Constraint):
    """A condition that spins can meet exactly, and are sampled under."""

    @abstractmethod
    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        """Return configuration `i` (*shape) int8 sampled from `logits` under the condition."""

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

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        return sample_sites(logits, None, state)


class Blocks(Settled):
    """The sum of every block, or its sign: `raw` (n, Ly / b, Lx / b), or of another dimension.

    `ties` decide the sign of a sum of zero (0: not known).
    """

    def __init__(
        self,
        raw: NDArray[Any],
        factor: int,
        majority: bool = False,
        ties: NDArray[np.int8] | None = None,
    ) -> None:
        self.raw, self.factor, self.majority, self.ties = raw, factor, majority, ties
        self.holds_sums = not majority

    def _of(self, i: int) -> tuple[NDArray[Any], int, bool, NDArray[np.int8] | None]:
        return self.raw[i], self.factor, self.majority, None if self.ties is None else self.ties[i]

    def means(self, logits: Tensor) -> Tensor:
        arrays = list(enumerate(logits.detach().cpu().numpy()))

        def of(one: tuple[int, NDArray[np.float32]]) -> NDArray[np.float32]:
            return block_means(one[1], *self._of(one[0]))

        if len(arrays) == 1:
            return torch.from_numpy(of(arrays[0])[None]).to(logits.device)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            means = list(pool.map(of, arrays))
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

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        """Where a block's majority is held, a spin on which it hangs cannot change.

        Where its sum is held, two spins that differ change places: the sites are paired at
        random, alike in every block, and the means are averaged over `pairings`.
        """
        d, b = x0.dim() - 1, self.factor
        spins, field = (to_blocks(one, b, d) for one in (x0, field))
        if self.majority:
            signs = torch.from_numpy(self.raw.astype(np.float32)).to(x0.device)
            found = _held_by_majority(spins, field, signs.flatten(1)[..., None])
        else:
            place = torch.cartesian_prod(*[torch.arange(b)] * d).reshape(-1, d)
            found, half = torch.zeros_like(spins), b**d // 2
            for _ in range(pairings):
                order = torch.randperm(b**d, generator=random)
                i, j = order[:half], order[half : 2 * half]
                apart = (place[i] - place[j]) % torch.tensor(x0.shape[1:])
                pull = by_site[(slice(None), *apart.T)][:, None]
                found += _exchanged(spins, field, pull, i, j) / pairings
        return torch.as_tensor(from_blocks(found, tuple(x0.shape[1:]), b))

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        return sample_blocks(logits, *self._of(i), state)


def _held_by_majority(spins: Tensor, field: Tensor, signs: Tensor) -> Tensor:
    others = (spins.sum(-1, keepdim=True) - spins) * signs
    # How likely the block's sign is with this spin along it and against it: 0, 1/2 or 1.
    along, against = (0.5 * (1.0 + torch.sign(others + own)) for own in (1.0, -1.0))
    odds = (2.0 * field * signs).clamp(-60.0, 60.0)
    along, against = along * torch.sigmoid(odds), against * torch.sigmoid(-odds)
    return (along - against) / (along + against) * signs


def _exchanged(spins: Tensor, field: Tensor, pull: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return E[s] of sites i and j given their sum and all others; `pull` is their coupling."""
    apart, found = spins[..., i] - spins[..., j], spins.clone()
    # The field of the others: what the two do to each other is no part of it.
    change = 0.5 * (apart - apart.abs() * torch.tanh(field[..., i] - field[..., j] + pull * apart))
    found[..., i] -= change
    found[..., j] += change
    return found


class Sites(Settled):
    """The spins of one site of every block, `raw`: the one at (at, at, ..) of it."""

    def __init__(self, raw: NDArray[Any], factor: int, device: torch.device, at: int = 0) -> None:
        self.raw = raw
        self.every: Any = (..., *[slice(at, None, factor)] * (raw.ndim - 1))
        self.known = torch.from_numpy(raw.astype(np.float32)).to(device)

    def means(self, logits: Tensor) -> Tensor:
        m = torch.tanh(0.5 * logits)
        m[self.every] = self.known
        return m

    def draw(self, logits: NDArray[np.float32], i: int, state: NDArray[np.uint64]) -> NDArray[Any]:
        known = np.zeros(logits.shape, dtype=np.int8)
        known[self.every] = self.raw[i]
        return sample_sites(logits, known, state)

    def targets(
        self, x0: Tensor, field: Tensor, by_site: Tensor, random: torch.Generator, pairings: int = 4
    ) -> Tensor:
        means = torch.tanh(field)
        means[self.every] = x0[self.every]
        return means


class KeptModes(Constraint):
    """The modes inside the coarse box, as the operator's coarse field `values`.

    Spins cannot hold real numbers exactly. The mean does; a sample rounds each block's share of it
    to a sum that spins can have, up or down by chance, and is made given these sums, in all its
    parts: a sum rounded anew at each part, and a mean held to the coarse field against what other
    parts have become, cost an energy of +0.02 (lambda = 0.2) to +0.08.
    """

    holds_sums, by_chance = True, BY_CHANCE
    _STEPS, _STEPS_OF_SAMPLE, _RATE = 3, 8, 1.8
    """Of the ascent to the tilt, which goes on from one mean to the next; _RATE is below
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
        self.tilt = self._better(logits, self._STEPS)
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
            before, tilt = tilt, ahead + self._RATE * missing
        return tilt

    def settled(
        self, logits: Tensor, states: Sequence[NDArray[np.uint64]]
    ) -> tuple[Tensor, Settled]:
        tilted = logits + self._better(logits, self._STEPS_OF_SAMPLE)
        lattices = zip(tilted.cpu().numpy(), states, strict=True)
        sums = np.stack(
            [rounded_sums(one, self.factor, self.by_chance, state) for one, state in lattices]
        )
        return tilted, Blocks(sums, self.factor)
