"""Metropolis updates of 64 Ising lattices at once, one in each bit of a word, every one exact.

A bit that is set is a spin up. The energy of a flip is counted for all 64 replicas by bitwise
adders; whether each flips is decided with random bits of its own. A uniform number below a
threshold is found bit by bit from the top: bit j of it is one plane of 64 random bits, one for
each replica, and a replica is decided by the first bit in which its number and its threshold
differ. After n planes a share 2^-n of the replicas is undecided, so about a dozen planes decide
eight words; the others are drawn only where they are needed. Thresholds have 64 bits: the
acceptance is exact to 2^-53, the rounding of exp. The replicas share nothing but the order of
the sites.

Same order of updates, and same acceptance, as `metropolis`.
"""

from __future__ import annotations

import functools
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
from skild_phys.rng import LANES, VECTOR, emit_next
from skild_phys.simulation.checkerboard import (
    MARGIN,
    close_row,
    merge,
    places_near,
    rows_beside,
    split,
    sublattices,
)
from skild_phys.simulation.metropolis import acceptance

REPLICAS = 64

_BITS = 64  # of a threshold
_PLANES = 12  # always drawn; one step in eight needs more
_ZERO = constant(VECTOR, 0)
_WIDE = ir.IntType(64 * LANES)


def _pair(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the sum of two bits as (ones, twos)."""
    return builder.xor(a, b), builder.and_(a, b)


def _classes_2d(builder: Any, unlike: list[Any]) -> list[Any]:
    """Return where 2 or more, 1, 0 of four neighbours are unlike: h <= 0, h = 2, h = 4."""
    (x, a), (y, b) = _pair(builder, *unlike[:2]), _pair(builder, *unlike[2:])
    ones, both = _pair(builder, x, y)
    many = builder.or_(builder.or_(a, b), both)
    return [many, builder.and_(ones, builder.not_(many)), builder.not_(builder.or_(ones, many))]


def _classes_3d(builder: Any, unlike: list[Any]) -> list[Any]:
    """Return where 3 or more, 2, 1, 0 of six neighbours are unlike: h <= 0, h = 2, 4, 6."""
    (x, a), (y, b), (z, c) = (_pair(builder, *unlike[i : i + 2]) for i in (0, 2, 4))
    half, carry = _pair(builder, x, y)
    ones, more = _pair(builder, half, z)
    (p, q), (r, s) = _pair(builder, a, b), _pair(builder, c, builder.or_(carry, more))
    twos, four = _pair(builder, p, r)
    four = builder.or_(builder.or_(q, s), four)
    no_ones, no_twos = builder.not_(ones), builder.not_(builder.or_(twos, four))
    two = builder.and_(builder.and_(no_ones, twos), builder.not_(four))
    one, none = builder.and_(ones, no_twos), builder.and_(no_ones, no_twos)
    many = builder.not_(builder.or_(two, builder.or_(one, none)))
    return [many, two, one, none]


@intrinsic
def _update(typingctx, mine, other, state, planes, inside, site, side, column, starts):  # type: ignore[no-untyped-def]
    """Update the LANES sites from `site` on, each in 64 replicas.

    `planes` (64, classes): bit j of the threshold of every class, spread over a word; `inside` a
    word for each column of a row, all of whose bits are set if it has sites. What stands beside
    the sites is no spin: it stays as it is, and has no say in how many planes are drawn, so that
    one call or many make the same of them.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        mine, other, state, planes, inside, *place = data_of(context, builder, signature, args)
        near = places_near(builder, *place)
        spins = load(builder, mine, place[0], VECTOR)
        unlike = [builder.xor(spins, load(builder, other, n, VECTOR)) for n in near]
        kinds = (_classes_2d if len(near) == 4 else _classes_3d)(builder, unlike)

        def plane(number: Any, held: list[Any]) -> list[Any]:
            accepted, undecided, *lanes = held
            bits, after = emit_next(builder, tuple(lanes))
            threshold = _ZERO
            for i, kind in enumerate(kinds):
                index = builder.add(builder.mul(number, I64(len(kinds))), I64(i))
                word = spread(builder, builder.load(builder.gep(planes, [index])), VECTOR)
                threshold = builder.or_(threshold, builder.and_(kind, word))
            below = builder.and_(undecided, builder.and_(threshold, builder.not_(bits)))
            equal = builder.not_(builder.xor(bits, threshold))
            return [builder.or_(accepted, below), builder.and_(undecided, equal), *after]

        undecided = load(builder, inside, place[2], VECTOR)
        held = [_ZERO, undecided, *load_lanes(builder, state, VECTOR)]
        for number in range(_PLANES):
            held = plane(I64(number), held)
        accepted, _, *lanes = _while_undecided(builder, plane, held)
        store(builder, builder.xor(spins, accepted), mine, place[0])
        store_lanes(builder, tuple(lanes), state)
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, types.int64)
    return types.void(mine, other, state, planes, inside, *kinds, starts), codegen


def _while_undecided(builder: Any, plane: Any, held: list[Any]) -> list[Any]:
    """Emit a loop that draws further planes until every replica of every lane is decided."""
    start = builder.block
    head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    number = builder.phi(I64)
    number.add_incoming(I64(_PLANES), start)
    values = [builder.phi(value.type) for value in held]
    for phi, value in zip(values, held):
        phi.add_incoming(value, start)
    left = builder.icmp_unsigned("!=", builder.bitcast(values[1], _WIDE), ir.Constant(_WIDE, 0))
    more = builder.icmp_signed("<", number, I64(_BITS))
    builder.cbranch(builder.and_(left, more), body, end)
    builder.position_at_end(body)
    for phi, value in zip(values, plane(number, values)):
        phi.add_incoming(value, builder.block)
    number.add_incoming(builder.add(number, I64(1)), builder.block)
    builder.branch(head)
    builder.position_at_end(end)
    return values


@njit(cache=True, nogil=True)
def _sweeps(parts, shape, beside, parity, planes, inside, state, sweeps):  # type: ignore[no-untyped-def]
    width, half = parts.shape[2], shape[-1] // 2
    for step in range(2 * sweeps):
        part = step & 1
        mine, other = parts[part], parts[1 - part]
        for r in range(mine.shape[0]):
            side = 1 if (parity[r] + part) & 1 else -1
            starts = rows_beside(beside, r, width, shape)
            for j in range(MARGIN, MARGIN + half, LANES):
                _update(mine, other, state, planes, inside, r * width + j, side, j, starts)
            close_row(mine[r], half)


@njit(cache=True, nogil=True)
def pack(spins, words):  # type: ignore[no-untyped-def]
    """Put 64 lattices (64, sites) int8 of +-1 into the bits of `words` (sites,), in place."""
    words[:] = np.uint64(0)
    for replica in range(spins.shape[0]):
        lattice = spins[replica]
        shift = np.uint64(replica)
        for site in range(words.size):
            words[site] |= np.uint64(lattice[site] > 0) << shift


@njit(cache=True, nogil=True)
def unpack(words, spins):  # type: ignore[no-untyped-def]
    """Write the bits of `words` (sites,) to 64 lattices (64, sites) int8 of +-1, in place."""
    for replica in range(spins.shape[0]):
        lattice = spins[replica]
        shift = np.uint64(replica)
        for site in range(words.size):
            bit = (words[site] >> shift) & np.uint64(1)
            lattice[site] = np.int8(2) * np.int8(bit) - np.int8(1)


@functools.lru_cache(maxsize=16)
def bit_planes(probabilities: tuple[float, ...]) -> NDArray[np.uint64]:
    """Return the binary digits of probabilities below 1, (64, n) uint64: all bits set or none."""
    whole = [int(p * 2.0**_BITS) for p in probabilities]
    digits = [[(w >> (_BITS - 1 - j)) & 1 for w in whole] for j in range(_BITS)]
    return np.array(digits, dtype=np.uint64) * np.uint64(2**64 - 1)


def multispin(
    spins: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    """Make `sweeps` Metropolis sweeps of 64 Ising lattices on a torus, in place.

    Parameters
    ----------
    spins : (64, Ly, Lx) or (64, Lz, Ly, Lx) int8 of +-1, C-contiguous, every side even.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each updates every site of every lattice once.
    """
    shape = spins.shape[1:]
    words = np.empty(spins[0].size, dtype=np.uint64)
    rows, parity = words.reshape(-1, shape[-1]), row_parity(shape)
    planes = bit_planes(tuple(acceptance(temperature, 2 * len(shape)).tolist()))
    parts, half = sublattices(shape, np.uint64), shape[-1] // 2
    inside = np.zeros(parts.shape[2], dtype=np.uint64)
    inside[MARGIN : MARGIN + half] = ~np.uint64(0)
    lattices = spins.reshape(REPLICAS, -1)
    pack(lattices, words)
    split(rows, parity, parts)
    beside = neighbour_rows(shape)
    _sweeps(parts, shape, beside, parity, planes, inside, state, sweeps)
    merge(parts, parity, rows)
    unpack(words, lattices)
