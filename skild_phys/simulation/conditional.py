"""Exact conditional Monte Carlo: a lattice model given its coarse configuration.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the configurations
whose coarse-graining is the given one. The moves are the rule's (`rules.moves`). From
`CLUSTERS_FROM` on, every fourth sweep of single sites is followed by a redraw of the clusters of
Swendsen and Wang.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import ROUNDING, Array, Chains, integrated_autocorrelation_time
from skild_phys.errors import BadInput, Interrupted, check_whole
from skild_phys.models import Model
from skild_phys.models.base import equal_bonds
from skild_phys.rng import kernel_state
from skild_phys.rules import Rule, get_rule
from skild_phys.rules.moves import Given, Moves, Source, States

CLUSTERS_FROM = 12
"""Smallest factor at which clusters are redrawn between sweeps of single sites, for decimation and
majority: below they cost about what they bring, at 16 they save from a factor of 1.4 (majority,
Ising) to 20 (decimation, Potts q = 3). For block means the signs of
the clusters inside a block, redrawn at their total, were tried at 8 and 16 without gain."""

SWEEPS_PER_CLUSTERS = 4
"""Sweeps before every redraw of the clusters; from 2 to 8 a configuration costs the same."""

_SITES_PER_CALL = 1 << 24  # a fraction of a second, so that Ctrl-C is heard between calls
_ROOMS = 3  # planes of scratch space that the kernels ask for
_MOST_SITES = 2**15 - 1  # counts of a block are int16

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Conditional:
    """p(fine | coarse): the Gibbs distribution of a model restricted by one coarse configuration.

    `temperature` in J / k_B; `shape` (ly, lx) or (lz, ly, lx) of the coarse configurations. Raises
    BadInput for a rule without moves, a factor or a temperature that cannot be, ValueError for a
    model that is no sum over nearest-neighbour bonds.
    """

    model: Model
    rule: str | Rule
    factor: int
    temperature: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        d = self.model.dimension
        if check_whole("factor", self.factor, 2) ** d > _MOST_SITES:
            raise BadInput("factor", self.factor, f"at most {int(_MOST_SITES ** (1 / d))}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BadInput("T", self.temperature, "a positive number")
        if len(self.shape) != d or min(self.shape) < 1:
            raise ValueError(f"{self.model.name} has no coarse lattices of shape {self.shape}")
        if self.model.bond is None or not self.model.nearest:
            raise ValueError(f"{self.model.name} is not a sum over bonds of nearest neighbours")
        _ = self.moves

    @cached_property
    def moves(self) -> Moves:
        """The moves that leave the distribution invariant."""
        coupling = (self.model.bond or 0.0) / self.temperature
        return get_rule(self.rule).moves(self.shape, self.factor, self.model.values, coupling)

    @property
    def sites(self) -> int:
        """Number of sites of a configuration."""
        return int(self.factor**self.model.dimension) * math.prod(self.shape)

    def pilot_chains(self, n: int) -> int:
        """Return on how many of `n` coarse configurations `measure_sweeps` runs its pilot."""
        return max(1, min(n, _MOST_CHAINS, _SITES // self.sites))

    def read(self, coarse: NDArray[Any], ties: NDArray[np.int8] | None) -> list[Given]:
        """Return coarse configurations (n, ...) and their ties as the moves take them.

        Raises BadInput unless some configuration has these values, ValueError for another shape.
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
            priority[:] = signs if q else np.concatenate([signs < 0, signs > 0], axis=1)
        return [Given(*one) for one in zip(self.moves.read(coarse), priority)]

    def fill(self, given: Given, state: NDArray[np.uint64]) -> States:
        """Return planes (P, n) sampled uniformly from the consistent ones."""
        planes = np.empty((self.factor**self.model.dimension, math.prod(self.shape)), np.int8)
        self.moves.fill(planes, given, state)
        return planes

    def chain(self, given: Given, seed: int, sample: int, kind: str = "") -> _Chain:
        """Return a chain at a random fill, with the streams of sample `sample`."""
        planes = self.fill(given, kernel_state(seed, f"{kind}fill", sample))
        source = Source.of(planes.shape[1], seed, f"{kind}sweeps", sample)
        return _Chain(self, given, planes, source)


class _Chain:
    """A Markov chain that leaves `target` invariant, from a copy of `planes` (P, n) on."""

    def __init__(self, target: Conditional, given: Given, planes: States, source: Source) -> None:
        self.target = target
        self.cells = np.zeros(planes.size + _ROOMS * planes.shape[1], dtype=np.int8)
        self.planes: States = self.cells[: planes.size].reshape(planes.shape)
        self.planes[:] = planes
        self._sweeps = 0
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

    def run(self, sweeps: int, stop: Stop) -> None:
        """Make `sweeps` sweeps; raises Interrupted within a fraction of a second of `stop`."""
        at_once = max(1, _SITES_PER_CALL // self.target.sites)
        for start in range(0, sweeps, at_once):
            if stop():
                raise Interrupted("stopped")
            self.advance(min(at_once, sweeps - start))

    def configuration(self) -> NDArray[np.int8]:
        """Return the configuration as it is now, of the model's values."""
        return self.target.moves.configuration(self.planes)


def sample(
    target: Conditional,
    coarse: NDArray[Any],
    seed: int,
    ids: Sequence[int] | NDArray[np.integer[Any]],
    sweeps: int,
    ties: NDArray[np.int8] | None = None,
    stop: Stop = lambda: False,
    start: States | None = None,
) -> States:
    """Sample one configuration for every coarse one: a random fill, or `start`, then sweeps.

    They follow `target` as `sweeps` grows; each has its own chain and streams, so that the result
    does not depend on the batch.

    Parameters
    ----------
    coarse : (n, *shape) stored coarse numbers: int16 block sums, int8 spins or states; for block
        means of Potts states int16 counts (n, q, *shape).
    seed, ids : sample i uses the streams (seed; ids[i], ..); `ids` (n,).
    ties : (n, *shape) int8 signs, for Potts states (n, q, *shape) priorities (`rules.TieBreak`);
        0, the default, where they are not known.
    stop : asked every fraction of a second; raises Interrupted.
    start : (n, *sides) int8 configurations; ValueError unless they have the coarse values.

    Returns
    -------
    (n, *sides) int8 of the model's values, sides = factor x shape.
    """
    givens, moves = target.read(coarse, ties), target.moves
    begun = [None] * len(givens) if start is None else [moves.planes(one) for one in start]
    for given, planes in zip(givens, begun, strict=True):
        if planes is not None and not moves.holds(planes, given):
            raise ValueError("lattices do not coarse-grain to the given ones")
    found = []
    for number, given, planes in zip(map(int, ids), givens, begun, strict=True):
        if planes is None:
            chain = target.chain(given, seed, number)
        else:
            source = Source.of(planes.shape[1], seed, "relaxation", number)
            chain = _Chain(target, given, planes, source)
        chain.run(sweeps, stop)
        found.append(chain.configuration())
    return np.stack(found)


# -- how many sweeps a configuration needs --------------------------------------------------------

_TAUS = 20
"""Sweeps over the largest tau: what is left of the random fill is of order exp(-20)."""

_LEAST_SWEEPS = 32

_SITES = 2**18  # of all chains of a pilot together, at most; at least one configuration
_MOST_CHAINS = 8
_RECORDS = 512
_TAUS_MEASURED = 50  # in the second half
_MOST_SWEEPS = 2**17
_MOST_BLOCKS = 128  # per chain; more add cost, hardly precision


def _record(chain: _Chain, weight: NDArray[np.float32]) -> tuple[list[float], NDArray[np.float32]]:
    """Return (bonds and mean squares of a configuration, moments of its blocks).

    The moments (q - 1, d + 1, blocks) are `weight` (d + 1, P) times where each state but one is.
    """
    some = chain.planes[:, :: -(-chain.planes.shape[1] // _MOST_BLOCKS)]
    states = np.arange(chain.target.moves.states - 1, dtype=np.int8)
    moments = weight @ (some == states[:, None, None]).astype(np.float32)
    squares = np.square(moments, dtype=np.float64).mean(axis=(0, 2))
    bonds = float(equal_bonds(chain.configuration(), len(squares) - 1))
    return [bonds, float(squares[:-1].mean()), float(squares[-1])], moments


def _tau(series: Array) -> float:
    """Return the largest tau of series (records, .., observables), one standard error up.

    Every series has a mean of its own, given its coarse configuration.
    """
    records, observables = len(series), series.shape[-1]
    centred = series - series.mean(axis=0)
    # What a constraint holds fixed is off its mean by rounding alone, which is correlated for ever.
    centred[np.abs(centred) <= ROUNDING * np.abs(series)] = 0.0
    rows = centred.reshape(records, -1, observables).swapaxes(0, 1)
    chain, draw = np.indices(rows.shape[:2]).reshape(2, -1)
    found = integrated_autocorrelation_time(rows.reshape(-1, observables), Chains(chain, draw))
    return float((found.tau + found.error).max())


def measure_sweeps(
    target: Conditional, givens: Sequence[Given], seed: int, stop: Stop = lambda: False
) -> tuple[float, int]:
    """Return the largest tau, in sweeps and one standard error up, and the sweeps it asks for.

    A few chains, of the first `Conditional.pilot_chains` coarse configurations, run until
    their second half is long against every autocorrelation time seen in it. Watched are, block by
    block, what moves slowly inside a block (how unequal its halves are along each axis, and for
    majority and decimation its total), and of each configuration the energy and the mean squares of
    these. The pilot has streams of its own, "pilot fill" and "pilot sweeps", and depends on its
    arguments alone, so that a run that is resumed finds the same number.
    """
    chains = [target.chain(given, seed, i, "pilot ") for i, given in enumerate(givens)]
    layout = target.moves.layout
    halves = np.sign(2 * layout.place.T + 1 - layout.factor)  # upper less lower, along each axis
    weight = np.vstack([halves, np.ones(halves.shape[1])]).astype(np.float32)
    records: list[list[tuple[list[float], NDArray[np.float32]]]] = []
    sweeps, stride = 0, 1
    while True:
        while len(records) < _RECORDS:
            for chain in chains:
                chain.run(stride, stop)
            sweeps += stride
            records.append([_record(chain, weight) for chain in chains])
        half = records[_RECORDS // 2 :]
        wholes = np.array([[scalars for scalars, _ in row] for row in half])
        blocks = np.array([[moments for _, moments in row] for row in half], dtype=np.float64)
        tau = max(_tau(wholes), _tau(np.moveaxis(blocks, -2, -1)))
        if tau * _TAUS_MEASURED <= _RECORDS / 2 or sweeps >= _MOST_SWEEPS:
            break
        records, stride = records[1::2], 2 * stride
    tau = float(f"{tau * stride:.3g}")
    return tau, max(_LEAST_SWEEPS, math.ceil(_TAUS * tau))
