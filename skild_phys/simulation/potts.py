"""Metropolis updates of the Potts model in checkerboard order, square lattice.

As `metropolis` does it for Ising, but that a site is proposed one of its other q - 1 states, each
as likely: a state and an acceptance of 32 random bits each, off by less than 2^-32.
"""

from __future__ import annotations

from typing import Any

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
_BYTE = ir.IntType(8)
_STATES = ir.VectorType(_BYTE, _SITES)
_BITS = ir.VectorType(ir.IntType(32), _SITES)
_PRODUCT = ir.VectorType(I64, _SITES)


def acceptance(temperature: float) -> NDArray[np.float64]:
    """Return the probability to take the proposed state, (5,) float64.

    Entry i belongs to a rise of the energy by i J, entry 0 also to a fall: (1 - LAZINESS)
    min(1, exp(-i / T)).
    """
    p: NDArray[np.float64] = (1.0 - LAZINESS) * np.exp(-np.arange(5) / temperature)
    return p


def _equal(builder: Any, states: Any, near: list[Any]) -> Any:
    """Return minus the number of neighbours in the same state, as bytes."""
    total = constant(_STATES, 0)
    for other in near:
        same = builder.icmp_signed("==", states, other)
        total = builder.add(total, builder.sext(same, _STATES))
    return total


@intrinsic
def _update(typingctx, mine, other, state, limits, q, site, side, column, starts):  # type: ignore[no-untyped-def]
    """Update the _SITES sites from `site` on, by the thresholds `limits` by rise of the energy."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        own, others, words, table, states, *place = data_of(context, builder, signature, args)
        first, places = place[0], places_near(builder, *place)
        old = load(builder, own, first, _STATES)
        near = [load(builder, others, n, _STATES) for n in places]
        chosen, lanes = emit_next(builder, load_lanes(builder, words, VECTOR))
        drawn, lanes = emit_next(builder, lanes)
        store_lanes(builder, lanes, words)
        wide = builder.zext(builder.bitcast(chosen, _BITS), _PRODUCT)
        fewer = spread(builder, builder.sub(states, I64(1)), _PRODUCT)
        step = builder.lshr(builder.mul(wide, fewer), constant(_PRODUCT, 32))
        shifted = builder.add(builder.add(old, builder.trunc(step, _STATES)), constant(_STATES, 1))
        top = spread(builder, builder.trunc(states, _BYTE), _STATES)
        over = builder.icmp_signed(">=", shifted, top)
        new = builder.select(over, builder.sub(shifted, top), shifted)
        rise = builder.sub(_equal(builder, new, near), _equal(builder, old, near))
        limit = spread(builder, builder.load(table), _BITS)
        for i in range(1, len(near) + 1):
            entry = spread(builder, builder.load(builder.gep(table, [I64(i)])), _BITS)
            limit = builder.select(
                builder.icmp_signed("==", rise, constant(_STATES, i)), entry, limit
            )
        accepted = builder.icmp_unsigned("<", builder.bitcast(drawn, _BITS), limit)
        store(builder, builder.select(accepted, new, old), own, first)
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, types.int64, types.int64)
    return types.void(mine, other, state, limits, *kinds, starts), codegen


@njit(cache=True, nogil=True)
def _sweeps(parts, shape, beside, parity, limits, q, state, sweeps):  # type: ignore[no-untyped-def]
    width, half = parts.shape[2], shape[-1] // 2
    for step in range(2 * sweeps):
        part = step & 1
        mine, other = parts[part], parts[1 - part]
        for r in range(mine.shape[0]):
            side = 1 if (parity[r] + part) & 1 else -1
            starts = rows_beside(beside, r, width, shape)
            for j in range(MARGIN, MARGIN + half, _SITES):
                _update(mine, other, state, limits, q, r * width + j, side, j, starts)
            close_row(mine[r], half)


def potts_metropolis(
    states: NDArray[np.int8], q: int, temperature: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    """Make `sweeps` Metropolis sweeps of the q-state Potts model on a torus, in place.

    Parameters
    ----------
    states : (Ly, Lx) int8 of 0 .. q - 1, C-contiguous, both sides even.
    q : number of states, from 2 on.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each updates every site once.
    """
    shape = states.shape
    parity = row_parity(shape)
    limits = (acceptance(temperature) * 2.0**32).astype(np.uint32)
    parts = sublattices(shape, np.int8)
    split(states, parity, parts)
    beside = neighbour_rows(shape)
    _sweeps(parts, shape, beside, parity, limits, np.int64(q), state, sweeps)
    merge(parts, parity, states)
