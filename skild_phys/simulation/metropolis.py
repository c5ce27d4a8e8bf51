"""Metropolis updates of the Ising model in checkerboard order, J. Chem. Phys. 21, 1087 (1953).

One sublattice after the other: its sites have no bonds among themselves, so that they can be
updated at once, each with a proposal of its own and 32 random bits of its own. Every update leaves
the Gibbs distribution as it is, and with it their sequence; that all configurations are reached is
the work of `checkerboard.LAZINESS`. The acceptance is a threshold for 32 bits: off by less than
2^-32.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from skild_phys.kernels import (
    I64,
    constant,
    data_of,
    intrinsic,
    load,
    load_lanes,
    spread,
    store,
    store_lanes,
)
from skild_phys.models.base import neighbour_rows, row_parity
from skild_phys.rng import VECTOR, emit_next
from skild_phys.simulation.checkerboard import (
    LAZINESS,
    MARGIN,
    close_row,
    merge,
    places_near,
    rows_beside,
    split,
    sublattices,
)

_SITES = 16
"""Sites that one step of the eight lanes gives 32 bits to."""

_SPINS = ir.VectorType(ir.IntType(8), _SITES)
_BITS = ir.VectorType(ir.IntType(32), _SITES)


def acceptance(temperature: float, neighbours: int) -> NDArray[np.float64]:
    """Return the probability that a spin flips, (neighbours // 2 + 1,) float64.

    Entry 0 belongs to h = s * (sum of the neighbours) <= 0, entry i to h = 2 i; the flip costs
    2 h, in J, and is accepted with (1 - LAZINESS) min(1, exp(-2 h / T)).
    """
    h = np.arange(0, neighbours + 1, 2)
    p: NDArray[np.float64] = (1.0 - LAZINESS) * np.exp(-2.0 * h / temperature)
    return p


@intrinsic
def _update(typingctx, mine, other, state, limits, site, side, column, starts):  # type: ignore[no-untyped-def]
    """Update the _SITES sites from `site` on, by the thresholds `limits` by field."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        mine, other, state, limits, *place = data_of(context, builder, signature, args)
        near = places_near(builder, *place)
        spins = load(builder, mine, place[0], _SPINS)
        around = functools.reduce(builder.add, [load(builder, other, n, _SPINS) for n in near])
        h = builder.mul(spins, around)
        limit = spread(builder, builder.load(limits), _BITS)
        for i in range(1, len(near) // 2 + 1):
            entry = spread(builder, builder.load(builder.gep(limits, [I64(i)])), _BITS)
            costs = builder.icmp_signed("==", h, constant(_SPINS, 2 * i))
            limit = builder.select(costs, entry, limit)
        words, lanes = emit_next(builder, load_lanes(builder, state, VECTOR))
        store_lanes(builder, lanes, state)
        accepted = builder.icmp_unsigned("<", builder.bitcast(words, _BITS), limit)
        flipped = builder.sub(constant(_SPINS, 0), spins)
        store(builder, builder.select(accepted, flipped, spins), mine, place[0])
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, types.int64)
    return types.void(mine, other, state, limits, *kinds, starts), codegen


@njit(cache=True, nogil=True)
def _sweeps(parts, shape, beside, parity, limits, state, sweeps):  # type: ignore[no-untyped-def]
    width, half = parts.shape[2], shape[-1] // 2
    for step in range(2 * sweeps):
        part = step & 1
        mine, other = parts[part], parts[1 - part]
        for r in range(mine.shape[0]):
            side = 1 if (parity[r] + part) & 1 else -1
            starts = rows_beside(beside, r, width, shape)
            for j in range(MARGIN, MARGIN + half, _SITES):
                _update(mine, other, state, limits, r * width + j, side, j, starts)
            close_row(mine[r], half)


def metropolis(
    spins: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    """Make `sweeps` Metropolis sweeps of the Ising model on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8 of +-1, C-contiguous, every side even.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each updates every site once.
    """
    shape = spins.shape
    rows, parity = spins.reshape(-1, shape[-1]), row_parity(shape)
    limits = (acceptance(temperature, 2 * len(shape)) * 2.0**32).astype(np.uint32)
    parts = sublattices(shape, np.int8)
    split(rows, parity, parts)
    _sweeps(parts, shape, neighbour_rows(shape), parity, limits, state, sweeps)
    merge(parts, parity, rows)
