"""p(fine | coarse): what is given, checked, and put as the kernels take it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.models import Model
from skild_phys.models.potts import Potts
from skild_phys.rules import check_factor
from skild_phys.simulation.conditional.blocks import Layout, States, build_layout
from skild_phys.simulation.conditional.draws import metropolis
from skild_phys.simulation.conditional.fill import fill_counts, fill_free, fill_majority
from skild_phys.simulation.conditional.votes import build_votes, count_states, majority_holds

CONDITIONAL_RULES = ("block_mean", "majority", "decimate")

_MOST_SITES = 2**15 - 1  # counts of a block are int16
_RANDOM_MOVES, _MOVES_IN_TURN = 31 / 32, 3 / 4


@dataclass(frozen=True)
class Given:
    """One coarse lattice in states 0 .. q - 1, n blocks in a row.

    Attributes
    ----------
    values : (q, n) int64 counts for block_mean, else (n,) int8 winners or kept states.
    priority : (q, n) int8, for majority.
    """

    values: NDArray[Any]
    priority: NDArray[np.int8]


@dataclass(frozen=True)
class Law:
    """The Gibbs law of `model` at `temperature` (J / k_B) restricted by one coarse lattice.

    Raises BadInput for a rule that does not bind spins, a factor or a temperature that cannot be,
    ValueError for a model that is no sum over nearest-neighbour bonds.

    Attributes
    ----------
    rule : one of CONDITIONAL_RULES.
    factor : side of a block, at least 2.
    shape : sides of the coarse lattices, (ly, lx) or (lz, ly, lx).
    """

    model: Model
    rule: str
    factor: int
    temperature: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.rule not in CONDITIONAL_RULES:
            accepted = ", ".join(CONDITIONAL_RULES) + " (rules that bind spins)"
            raise BadInput("--rule", self.rule, accepted)
        if check_factor(self.factor) ** self.model.dimension > _MOST_SITES:
            largest = int(_MOST_SITES ** (1 / self.model.dimension))
            raise BadInput("--factor", self.factor, f"at most {largest}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BadInput("--T", self.temperature, "a positive number")
        if len(self.shape) != self.model.dimension or min(self.shape) < 1:
            raise ValueError(f"{self.model.name} has no coarse lattices of shape {self.shape}")
        if self.model.bond is None:
            raise ValueError(f"{self.model.name} is not a sum over bonds of nearest neighbours")

    @property
    def states(self) -> int:
        """Number of states of a site."""
        return len(self.model.values)

    @property
    def sites(self) -> int:
        """Number of sites of a block."""
        return int(self.factor**self.model.dimension)

    @cached_property
    def layout(self) -> Layout:
        """The blocks."""
        return build_layout(self.shape, self.factor)

    @cached_property
    def coupling(self) -> float:
        """Energy of a bond between unequal neighbours over that between equal ones, over T."""
        return (self.model.bond or 0.0) / self.temperature

    @cached_property
    def thresholds(self) -> tuple[np.uint32, ...]:
        """Acceptance of the rule's move; for two states in steps of two bonds lost."""
        sites, even = (2, _RANDOM_MOVES) if self.rule == "block_mean" else (1, _MOVES_IN_TURN)
        step = 2 if self.states == 2 else 1
        return metropolis(step * self.coupling, sites * 2 * self.model.dimension // step, even)

    def read(self, coarse: NDArray[Any], ties: NDArray[np.int8] | None) -> list[Given]:
        """Return coarse lattices (arguments as in `sample_conditional`) as the kernels take them.

        Raises BadInput unless some fine lattice has these values, ValueError for another shape.
        """
        counted = self.rule == "block_mean"
        q = (self.states,) if isinstance(self.model, Potts) else ()
        expected = (len(coarse), *(q if counted else ()), *self.shape)
        if coarse.shape != expected:
            raise ValueError(f"coarse lattices have shape {coarse.shape}, not {expected}")
        values = self._counts(coarse) if counted else self._coded(coarse)
        priority = self._priorities(len(coarse), q, ties)
        return [Given(v, p) for v, p in zip(values, priority)]

    def _counts(self, coarse: NDArray[Any]) -> NDArray[np.int64]:
        n, size = len(coarse), self.sites
        raw = coarse.astype(np.int64)
        if isinstance(self.model, Potts):
            counts = raw.reshape(n, self.states, -1)
            fits = (counts >= 0).all() and (counts.sum(axis=1) == size).all()
        else:
            raw = raw.reshape(n, -1)
            counts = np.stack([(size - raw) // 2, (size + raw) // 2], axis=1)
            fits = not ((np.abs(raw) > size) | ((raw - size) % 2 != 0)).any()
        if not fits:
            what = "counts" if isinstance(self.model, Potts) else "sums"
            accepted = f"a factor whose {size} spins have these block {what}"
            raise BadInput("--factor", self.factor, accepted)
        return counts

    def _coded(self, coarse: NDArray[Any]) -> States:
        values = self.model.values
        if not np.isin(coarse, values).all():
            held = "+-1" if values == (-1, 1) else f"{values[0]} .. {values[-1]}"
            accepted = f"a rule whose coarse values are these; they are not {held}"
            raise BadInput("--rule", self.rule, accepted)
        return self.encode(coarse).reshape(len(coarse), -1)

    def _priorities(
        self, n: int, q: tuple[int, ...], ties: NDArray[np.int8] | None
    ) -> NDArray[np.int8]:
        blocks = math.prod(self.shape)
        if ties is None:
            return np.zeros((n, self.states, blocks), dtype=np.int8)
        if ties.shape != (n, *q, *self.shape):
            raise ValueError(f"ties have shape {ties.shape}, not {(n, *q, *self.shape)}")
        if q:
            return ties.reshape(n, self.states, blocks)
        coins = ties.reshape(n, blocks)
        return np.stack([coins < 0, coins > 0], axis=1).astype(np.int8)

    def encode(self, lattices: NDArray[Any]) -> States:
        """Return the states 0 .. q - 1 of what a store holds."""
        lowest, step = self.model.values[0], self.model.values[1] - self.model.values[0]
        return ((lattices.astype(np.int8) - lowest) // step).astype(np.int8)

    def decode(self, states: States) -> States:
        """Return what a store holds of states 0 .. q - 1."""
        lowest, step = self.model.values[0], self.model.values[1] - self.model.values[0]
        return (states * np.int8(step) + np.int8(lowest)).astype(np.int8)

    def fill(self, given: Given, state: NDArray[np.uint64]) -> States:
        """Return planes (P, n) drawn uniformly from the consistent ones."""
        planes = np.empty((self.sites, math.prod(self.shape)), dtype=np.int8)
        if self.rule == "block_mean":
            fill_counts(planes, given.values, state)
        elif self.rule == "majority":
            fill_majority(planes, given.values, given.priority, state)
        else:
            fill_free(planes, given.values, self.states, state)
        return planes

    def holds(self, planes: States, given: Given) -> bool:
        """Return whether planes (P, n) coarse-grain to what is given."""
        if self.rule == "decimate":
            return bool(np.array_equal(planes[0], given.values))
        if self.rule == "majority":
            return majority_holds(build_votes(planes, given.values, given.priority))
        return bool(np.array_equal(count_states(planes, self.states), given.values))
