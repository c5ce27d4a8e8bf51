"""How many sweeps a lattice needs: a pilot measures tau on a few, then the number is frozen.

A few chains run until their second half is long against every autocorrelation time seen in it.
Watched are, block by block, what moves slowly inside a block (how unequal its halves are along
each axis, and for majority and decimation its total), and of each lattice the energy and the mean
squares of these. The pilot has streams of its own and depends on the coarse lattices, the
distribution and the seed alone, so that a run that is resumed finds the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.errorbars import ROUNDING, Array, Chains, integrated_autocorrelation_time
from skild_phys.rules.moves import Given
from skild_phys.rules.planes import moved
from skild_phys.simulation.conditional.chains import (
    Chain,
    Conditional,
    Stop,
    fill_chain,
    never,
    run,
)

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
