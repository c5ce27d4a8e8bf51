"""Exact conditional Monte Carlo: a lattice model given its coarse lattice.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the configurations
whose coarse-graining is the given one. The moves are the rule's (`rules.moves`). From
`CLUSTERS_FROM` on, every fourth sweep of single sites is followed by a redraw of the clusters of
Swendsen and Wang (`rules.moves`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errorbars import ROUNDING, Array, Chains, integrated_autocorrelation_time
from skild_phys.errors import BadInput, Interrupted
from skild_phys.models import Model
from skild_phys.rng import kernel_state
from skild_phys.rules import Rule, check_factor, get_rule
from skild_phys.rules.moves import (
    Given,
    Moves,
    Source,
    States,
    build_layout,
    build_source,
    join,
    moved,
    split,
)

CLUSTERS_FROM = 12
"""Smallest factor at which clusters are redrawn between sweeps of single sites, for decimation and
majority: below they cost about what they bring, at 16 they save from a factor of 1.4 (majority,
Ising) to 20 (decimation, Potts q = 3). For block means the signs of the clusters inside a block,
redrawn at their total, were tried at factors 8 and 16: no gain, what is slow are the others."""

SWEEPS_PER_CLUSTERS = 4
"""Sweeps before every redraw of the clusters; from 2 to 8 the cost of a lattice is the same."""

_SITES_PER_CALL = 1 << 24  # a fraction of a second, so that Ctrl-C is heard between calls
_ROOMS = 3  # planes of scratch space that the kernels ask for
_MOST_SITES = 2**15 - 1  # counts of a block are int16

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Conditional:
    """p(fine | coarse): the Gibbs distribution of a model restricted by one coarse lattice.

    Raises BadInput for a rule without moves, a factor or a temperature that cannot be, ValueError
    for a model that is no sum over nearest-neighbour bonds.

    Attributes
    ----------
    model : the Hamiltonian.
    rule : of the coarse-graining, or its name.
    factor : side of a block, at least 2.
    temperature : in J / k_B.
    shape : sides of the coarse lattices, (ly, lx) or (lz, ly, lx).
    """

    model: Model
    rule: str | Rule
    factor: int
    temperature: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if check_factor(self.factor) ** self.model.dimension > _MOST_SITES:
            largest = int(_MOST_SITES ** (1 / self.model.dimension))
            raise BadInput("factor", self.factor, f"at most {largest}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BadInput("T", self.temperature, "a positive number")
        if len(self.shape) != self.model.dimension or min(self.shape) < 1:
            raise ValueError(f"{self.model.name} has no coarse lattices of shape {self.shape}")
        if self.model.bond is None or not self.model.nearest:
            raise ValueError(f"{self.model.name} is not a sum over bonds of nearest neighbours")
        _ = self.moves

    @cached_property
    def moves(self) -> Moves:
        """The moves that leave the distribution invariant."""
        layout = build_layout(self.shape, self.factor)
        bond = self.model.bond or 0.0
        return get_rule(self.rule).moves(layout, self.model.values, bond / self.temperature)

    @property
    def sites(self) -> int:
        """Number of sites of a configuration."""
        return int(self.factor**self.model.dimension) * math.prod(self.shape)

    def read(self, coarse: NDArray[Any], ties: NDArray[np.int8] | None) -> list[Given]:
        """Return coarse lattices (n, ...) and their ties as the moves take them.

        Raises BadInput unless some fine lattice has these values, ValueError for another shape.
        """
        n, values, rule = len(coarse), self.model.values, get_rule(self.rule)
        q = (len(values),) if self.model.field == "states" else ()
        stored = rule.variable(self.model.field)
        expected = (n, *(q if stored == "state_count" else ()), *self.shape)
        if coarse.shape != expected:
            raise ValueError(f"coarse lattices have shape {coarse.shape}, not {expected}")
        if stored == self.model.field and not np.isin(coarse, values).all():
            held = "+-1" if values == (-1, 1) else f"{values[0]} .. {values[-1]}"
            accepted = f"a rule whose coarse values are these; they are not {held}"
            raise BadInput("rule", rule.name, accepted)
        blocks = math.prod(self.shape)
        priority = np.zeros((n, len(values), blocks), dtype=np.int8)
        if ties is not None:
            if ties.shape != (n, *q, *self.shape):
                raise ValueError(f"ties have shape {ties.shape}, not {(n, *q, *self.shape)}")
            signs = ties.reshape(n, -1, blocks)
            priority = signs if q else np.concatenate([signs < 0, signs > 0], axis=1)
        pairs = zip(self.moves.read(coarse), priority.astype(np.int8))
        return [Given(one, order) for one, order in pairs]

    def fill(self, given: Given, state: NDArray[np.uint64]) -> States:
        """Return planes (P, n) sampled uniformly from the consistent ones."""
        layout = self.moves.layout
        planes = np.empty((len(layout.place), layout.ahead.shape[1]), dtype=np.int8)
        self.moves.fill(planes, given, state)
        return planes


class Chain:
    """A Markov chain that leaves a conditional distribution invariant, at one configuration.

    Parameters
    ----------
    planes : (P, n) int8 states to start from; copied.
    source : random numbers of this chain alone.
    """

    def __init__(self, target: Conditional, given: Given, planes: States, source: Source) -> None:
        self.target = target
        self.cells = np.zeros(planes.size + _ROOMS * planes.shape[1], dtype=np.int8)
        self.cells[: planes.size] = planes.ravel()
        self._shape, self._sweeps = planes.shape, 0
        self._move, redraw = target.moves.start(given, planes, self.cells, source)
        self._redraw = redraw if target.factor >= CLUSTERS_FROM else None

    def advance(self, sweeps: int) -> None:
        """Make `sweeps` sweeps; in how many calls does not matter."""
        if self._redraw is None:
            self._move(sweeps)
            return
        while sweeps:
            count = min(sweeps, SWEEPS_PER_CLUSTERS - self._sweeps % SWEEPS_PER_CLUSTERS)
            self._move(count)
            self._sweeps += count
            sweeps -= count
            if self._sweeps % SWEEPS_PER_CLUSTERS == 0:
                self._redraw(1)

    def lattice(self) -> NDArray[np.int8]:
        """Return the configuration as it is now, of the model's values."""
        planes = self.cells[: math.prod(self._shape)].reshape(self._shape)
        return self.target.moves.decode(join(planes, self.target.shape, self.target.factor))


def never() -> bool:
    """Return False: what does not stop a run."""
    return False


def fill_chain(
    target: Conditional, given: Given, seed: int, sample: int, *, pilot: bool = False
) -> Chain:
    """Return a chain at a random fill, with the streams of sample `sample`."""
    kind = "pilot " if pilot else ""
    planes = target.fill(given, kernel_state(seed, f"{kind}fill", sample))
    source = build_source(planes.shape[1], seed, f"{kind}sweeps", sample)
    return Chain(target, given, planes, source)


def run(chain: Chain, sweeps: int, stop: Stop) -> None:
    """Make `sweeps` sweeps; raises Interrupted within a fraction of a second of `stop`."""
    at_once = max(1, _SITES_PER_CALL // chain.target.sites)
    for start in range(0, sweeps, at_once):
        if stop():
            raise Interrupted("stopped")
        chain.advance(min(at_once, sweeps - start))


def sample(
    target: Conditional,
    coarse: NDArray[Any],
    seed: int,
    ids: Sequence[int] | NDArray[np.integer[Any]],
    sweeps: int,
    ties: NDArray[np.int8] | None = None,
    stop: Stop = never,
) -> States:
    """Sample one configuration for every coarse lattice: a random fill, then sweeps.

    They follow `target` as `sweeps` grows; each has its own chain and streams, so that the result
    does not depend on the batch.

    Parameters
    ----------
    coarse : (n, *shape) stored coarse numbers: int16 block sums, int8 spins or states; for block
        means of Potts states int16 counts (n, q, *shape).
    seed, ids : sample i uses the streams (seed; ids[i], ..); `ids` (n,).
    ties : what decides ties: (n, *shape) int8 signs, for Potts states (n, q, *shape) priorities
        (`rules.TieBreak`); 0 where it is not known, which is the default.
    stop : asked every fraction of a second.

    Returns
    -------
    (n, *sides) int8 of the model's values, sides = factor x shape.

    Raises
    ------
    BadInput : for values that no block has.
    Interrupted : once `stop` says so.
    """
    found = []
    for number, given in zip(ids, target.read(coarse, ties), strict=True):
        chain = fill_chain(target, given, seed, int(number))
        run(chain, sweeps, stop)
        found.append(chain.lattice())
    return np.stack(found)


def relax(
    target: Conditional,
    fine: States,
    coarse: NDArray[Any],
    seed: int,
    ids: Sequence[int] | NDArray[np.integer[Any]],
    sweeps: int,
    ties: NDArray[np.int8] | None = None,
    stop: Stop = never,
) -> States:
    """Return `fine` (n, *sides) after sweeps from where they stand; arguments as in `sample`.

    Raises ValueError if a configuration does not coarse-grain to the given lattice.
    """
    givens, moves = target.read(coarse, ties), target.moves
    planes = [split(one, target.factor) for one in moves.encode(fine)]
    if not all(moves.holds(one, given) for one, given in zip(planes, givens, strict=True)):
        raise ValueError("lattices do not coarse-grain to the given ones")
    found = np.empty(fine.shape, dtype=np.int8)
    for k, number in enumerate(ids):
        source = build_source(planes[k].shape[1], seed, "relaxation", int(number))
        chain = Chain(target, givens[k], planes[k], source)
        run(chain, sweeps, stop)
        found[k] = chain.lattice()
    return found


_TAUS = 20
"""Sweeps a lattice over the largest tau: what is left of the random fill is of order exp(-20)."""

_LEAST_SWEEPS = 32

_SITES = 2**18  # of all chains of a pilot together, at most; at least one lattice
_MOST_CHAINS = 8
_RECORDS = 512
_TAUS_MEASURED = 50  # in the second half
_MOST_SWEEPS = 2**17
_MOST_BLOCKS = 128  # a chain; more add cost, hardly precision


@dataclass(frozen=True)
class Pilot:
    """The largest tau, in sweeps and one standard error up, and the sweeps that follow from it."""

    tau: float
    sweeps: int


@njit(cache=True, nogil=True)
def _equal_bonds(cells, layout):  # type: ignore[no-untyped-def]
    """Return the number of bonds between equal neighbours."""
    bonds, sides = layout.bonds, layout.sides
    n, positions = np.uint64(layout.ahead.shape[1]), bonds.shape[0]
    total = 0
    for p in range(positions):
        site = np.uint64(p) * n
        for column in range(1, bonds.shape[1], 2):
            other = bonds[p, column]
            if other >= 0:
                up = np.uint64(other) * n
            else:
                up = moved(cells, sides, n, positions, np.uint64(~other) * n, column)
            for i in range(n):
                total += cells[site + i] == cells[up + i]
    return total


@njit(cache=True, nogil=True)
def _block_moments(cells, layout, step, state, moments):  # type: ignore[no-untyped-def]
    """Write of every `step`-th block the sites in `state`, and along each axis upper less lower.

    `moments` (d + 1, blocks) int32: first the differences of the halves, then the total.
    """
    place, n = layout.place, layout.ahead.shape[1]
    d = place.shape[1]
    moments[:] = 0
    for p in range(place.shape[0]):
        for i in range(moments.shape[1]):
            there = np.int32(cells[p * n + i * step] == state)
            for axis in range(d):
                twice = 2 * place[p, axis] + 1
                moments[axis, i] += there * (
                    np.int32(twice > layout.factor) - np.int32(twice < layout.factor)
                )
            moments[d, i] += there


def _record(chain: Chain) -> tuple[list[float], NDArray[np.int32]]:
    """Return (energy and mean squares of a lattice, the moments of its blocks and all states)."""
    moves = chain.target.moves
    d, n = moves.layout.ahead.shape
    step = -(-n // _MOST_BLOCKS)
    moments = np.empty((moves.states - 1, d + 1, -(-n // step)), dtype=np.int32)
    for state in range(moves.states - 1):
        _block_moments(chain.cells, moves.layout, step, state, moments[state])
    squares = (moments.astype(np.float64) ** 2).mean(axis=(0, 2))
    energy = float(_equal_bonds(chain.cells, moves.layout))
    return [energy, float(squares[:-1].mean()), float(squares[-1])], moments


def _tau(series: Array) -> float:
    """Return the largest tau of series (records, .., observables), one standard error up.

    Every series has a mean of its own, given its coarse lattice.
    """
    records, observables = len(series), series.shape[-1]
    centred = series - series.mean(axis=0)
    # What a constraint holds fixed is off its mean by rounding alone, which is correlated for ever.
    centred[np.abs(centred) <= ROUNDING * np.abs(series)] = 0.0
    rows = centred.reshape(records, -1, observables).swapaxes(0, 1)
    chain, draw = np.indices(rows.shape[:2]).reshape(2, -1)
    found = integrated_autocorrelation_time(rows.reshape(-1, observables), Chains(chain, draw))
    return float((found.tau + found.error).max())


def pilot_chains(n: int, target: Conditional) -> int:
    """Return on how many of `n` coarse lattices a pilot runs."""
    return max(1, min(n, _MOST_CHAINS, _SITES // target.sites))


def measure_sweeps(
    target: Conditional, givens: Sequence[Given], seed: int, stop: Stop = never
) -> Pilot:
    """Return the autocorrelation time of chains of `target`, and the sweeps that follow from it.

    Parameters
    ----------
    givens : the first `pilot_chains` coarse lattices (`Conditional.read`).
    seed : lattice i has the streams "pilot fill" and "pilot sweeps" of sample i.
    stop : asked every fraction of a second; raises Interrupted.
    """
    chains = [fill_chain(target, given, seed, i, pilot=True) for i, given in enumerate(givens)]
    records: list[list[tuple[list[float], NDArray[np.int32]]]] = []
    sweeps, stride = 0, 1
    while True:
        while len(records) < _RECORDS:
            for chain in chains:
                run(chain, stride, stop)
            sweeps += stride
            records.append([_record(chain) for chain in chains])
        half = records[_RECORDS // 2 :]
        lattices = np.array([[scalars for scalars, _ in row] for row in half])
        blocks = np.array([[moments for _, moments in row] for row in half], dtype=np.float64)
        tau = max(_tau(lattices), _tau(np.moveaxis(blocks, -2, -1)))
        if tau * _TAUS_MEASURED <= _RECORDS / 2 or sweeps >= _MOST_SWEEPS:
            break
        records, stride = records[1::2], 2 * stride
    tau = float(f"{tau * stride:.3g}")
    return Pilot(tau, max(_LEAST_SWEEPS, math.ceil(_TAUS * tau)))
