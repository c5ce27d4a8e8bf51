"""Chains of p(fine | coarse), and the functions that draw lattices with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import Interrupted
from skild_phys.models import MODELS, Model
from skild_phys.rng import kernel_state
from skild_phys.simulation.conditional.blocks import States, join, split
from skild_phys.simulation.conditional.clusters import cluster_free, cluster_majority
from skild_phys.simulation.conditional.draws import Source, build_source, threshold
from skild_phys.simulation.conditional.exchange import exchange
from skild_phys.simulation.conditional.flip import flip_free, flip_majority
from skild_phys.simulation.conditional.law import Given, Law
from skild_phys.simulation.conditional.votes import build_votes

CLUSTERS_FROM = 12
"""Smallest factor at which clusters are redrawn between sweeps of single sites, for decimation and
majority: below they cost about what they bring, at 16 they save from a factor of 1.4 (majority,
Ising) to 20 (decimation, Potts q = 3). For block means the signs of the clusters inside a block,
redrawn at their total, were tried at factors 8 and 16: no gain, what is slow are the others."""

SWEEPS_PER_CLUSTERS = 4
"""Sweeps before every redraw of the clusters; from 2 to 8 the cost of a lattice is the same."""

_SITES_PER_CALL = 1 << 24  # a fraction of a second, so that Ctrl-C is heard between calls
_ROOMS = 3  # planes of scratch space that the kernels ask for

ISING_2D = MODELS["ising2d"]
Move = Callable[[int], None]
Stop = Callable[[], bool]


class Chain:
    """A Markov chain that leaves a law invariant, at one lattice.

    Parameters
    ----------
    planes : (P, n) int8 states to start from; copied.
    source : random numbers of this chain alone.
    """

    def __init__(self, law: Law, given: Given, planes: States, source: Source) -> None:
        self.law = law
        blocks = planes.shape[1]
        self.cells = np.zeros((law.sites + _ROOMS) * blocks, dtype=np.int8)
        self.cells[: planes.size] = planes.ravel()
        self._sweeps = 0
        self._move, self._redraw = self._moves(given, planes, source)

    def _moves(self, given: Given, planes: States, source: Source) -> tuple[Move, Move | None]:
        """Return what makes so many sweeps, and what redraws the clusters so often, or None."""
        law, cells, q = self.law, self.cells, self.law.states
        layout, thresholds = law.layout, law.thresholds
        bond = threshold(-math.expm1(-law.coupling))
        redraw: Move | None = None
        if law.rule == "block_mean":
            return lambda k: exchange(cells, layout, q > 2, thresholds, source, k), None
        if law.rule == "decimate":
            move = lambda k: flip_free(cells, layout, q, thresholds, source, k)  # noqa: E731
            redraw = lambda k: cluster_free(cells, layout, q, bond, source, k)  # noqa: E731
        else:
            votes = build_votes(planes, given.values, given.priority)
            move = lambda k: flip_majority(cells, layout, votes, q, thresholds, source, k)  # noqa: E731
            redraw = lambda k: cluster_majority(cells, layout, votes, q, bond, source, k)  # noqa: E731
        return move, redraw if law.factor >= CLUSTERS_FROM else None

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
        """Return the lattice as it is now, of the model's values."""
        law = self.law
        planes = self.cells[: -_ROOMS * math.prod(law.shape)].reshape(law.sites, -1)
        return law.decode(join(planes, law.shape, law.factor))


def never() -> bool:
    """Return False: what does not stop a run."""
    return False


def fill_chain(law: Law, given: Given, seed: int, sample: int, *, pilot: bool = False) -> Chain:
    """Return a chain at a random fill, with the streams of sample `sample`."""
    kind = "pilot " if pilot else ""
    planes = law.fill(given, kernel_state(seed, f"{kind}fill", sample))
    source = build_source(planes.shape[1], seed, f"{kind}sweeps", sample)
    return Chain(law, given, planes, source)


def run(chain: Chain, sweeps: int, stop: Stop) -> None:
    """Make `sweeps` sweeps; raises Interrupted within a fraction of a second of `stop`."""
    at_once = max(1, _SITES_PER_CALL // (chain.law.sites * math.prod(chain.law.shape)))
    for start in range(0, sweeps, at_once):
        if stop():
            raise Interrupted("stopped")
        chain.advance(min(at_once, sweeps - start))


def sample_conditional(
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    temperature: float,
    seed: int,
    sample_ids: NDArray[np.integer[Any]],
    sweeps: int,
    ties: NDArray[np.int8] | None = None,
    stop: Stop = never,
    *,
    model: Model = ISING_2D,
) -> States:
    """Draw one fine lattice for every coarse lattice: a random fill, then constrained sweeps.

    The law is p(fine | coarse) of `model` as `sweeps` grows; each lattice has its own chain and
    streams, so that the result does not depend on the batch.

    Parameters
    ----------
    coarse_raw : (n, *shape) stored coarse numbers, `shape` (ly, lx) or (lz, ly, lx): int16 block
        sums, int8 spins or states; for block_mean of Potts states int16 counts (n, q, *shape).
    rule : block_mean, majority or decimate.
    factor : side of a block, at least 2.
    temperature : in J / k_B.
    seed, sample_ids : lattice i uses the streams (seed; sample_ids[i], ..); `sample_ids` (n,).
    sweeps : sweeps a lattice, as the package's head defines them.
    ties : what decides ties of `majority`: (n, *shape) int8 coins (`coarsen.tie_coins`), for Potts
        states (n, q, *shape) priorities (`coarsen.tie_priorities`); 0 where it is not known, which
        is the default.
    stop : asked every fraction of a second.
    model : whose Gibbs law.

    Returns
    -------
    (n, *sides) int8 of the model's values, sides = factor x shape.

    Raises
    ------
    BadInput : for `spectral`, a bad factor or temperature, or values that no block has.
    Interrupted : once `stop` says so.
    """
    law, givens = _task(coarse_raw, rule, factor, temperature, ties, model)
    fine = np.empty((len(givens), *(side * factor for side in law.shape)), dtype=np.int8)
    for k, given in enumerate(givens):
        chain = fill_chain(law, given, seed, int(sample_ids[k]))
        run(chain, sweeps, stop)
        fine[k] = chain.lattice()
    return fine


def relax(
    lattices: States,
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    temperature: float,
    seed: int,
    sample_ids: NDArray[np.integer[Any]],
    sweeps: int,
    ties: NDArray[np.int8] | None = None,
    stop: Stop = never,
    *,
    model: Model = ISING_2D,
) -> States:
    """Return `lattices` (n, *sides) after constrained sweeps from where they stand.

    Arguments as in `sample_conditional`; the streams are (seed; sample_ids[i], 1). Raises
    ValueError if a lattice is not consistent with its coarse one.
    """
    law, givens = _task(coarse_raw, rule, factor, temperature, ties, model)
    planes = [split(lattice, factor) for lattice in law.encode(lattices)]
    if not all(law.holds(p, given) for p, given in zip(planes, givens)):
        raise ValueError("lattices do not coarse-grain to the given ones")
    moved = np.empty(lattices.shape, dtype=np.int8)
    for k, given in enumerate(givens):
        source = build_source(planes[k].shape[1], seed, "relaxation", int(sample_ids[k]))
        chain = Chain(law, given, planes[k], source)
        run(chain, sweeps, stop)
        moved[k] = chain.lattice()
    return moved


def random_fill(
    coarse_raw: NDArray[Any],
    rule: str,
    factor: int,
    state: NDArray[np.uint64],
    ties: NDArray[np.int8] | None = None,
    *,
    model: Model = ISING_2D,
) -> States:
    """Return one lattice drawn uniformly from those consistent with one coarse lattice.

    Blocks that k states tie for the top of, by an order that is not known, count 1 / k.

    Parameters
    ----------
    coarse_raw, rule, factor, ties, model : one lattice's, as in `sample_conditional`, without the
        first axis.
    state : (4,) uint64 generator state; advanced in place.

    Returns
    -------
    int8 of the model's values, `factor` times the coarse sides.

    Raises
    ------
    BadInput : for the rule `spectral`, a bad factor, or values that no block has.
    """
    given_ties = None if ties is None else ties[None]
    law, (given,) = _task(coarse_raw[None], rule, factor, 1.0, given_ties, model)
    return law.decode(join(law.fill(given, state), law.shape, factor))


def _task(
    coarse: NDArray[Any],
    rule: str,
    factor: int,
    temperature: float,
    ties: NDArray[np.int8] | None,
    model: Model,
) -> tuple[Law, list[Given]]:
    shape = tuple(int(side) for side in coarse.shape[-model.dimension :])
    law = Law(model, rule, factor, temperature, shape)
    return law, law.read(coarse, ties)
