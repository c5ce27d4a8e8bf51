"""Metropolis updates in checkerboard order, J. Chem. Phys. 21, 1087 (1953): Ising and Potts models.

One sublattice after the other: its sites have no bonds among themselves, so that all are updated
at once, each with a proposal and random bits of its own. Every update leaves the Gibbs distribution
as it is, and with it their sequence; `LAZINESS` sees to it that all configurations are reached.

A lattice (..., Lx) of even sides is a stack of rows, and each sublattice has every other site of a
row: sublattice 0 those whose coordinates sum to an even number. It is an array (rows,
_MARGIN + Lx / 2 + _MARGIN or more): beside its sites it holds copies of the first and the last one,
so that the neighbours of a whole row are slices of the other sublattice.

`multispin` updates 64 replicas of Ising spins, one in each bit of a word. The energy of a flip is
counted for all of them by bitwise adders. A uniform number below a threshold is found bit by bit
from the top: bit j of it is one plane of 64 random bits, one for each replica, and a replica is
decided by the first bit in which its number and its threshold differ. After n planes a share 2^-n
of the replicas is undecided, so about a dozen planes decide eight words; the others are drawn only
where they are needed. The replicas share nothing but the order of the sites.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numpy.typing import NDArray

from skild_phys.kernels import I64, constant, data_of, intrinsic, load, spread, store
from skild_phys.models.base import neighbour_rows, row_parity
from skild_phys.rng import LANES, VECTOR, Lanes

LAZINESS = 2.0**-6
"""Share of the updates that are refused whatever their energy.

Without it updates that cost nothing are always accepted, and going over a sublattice in order is
then periodic: states in which no flip costs energy (2 x 2 blocks of alternating sign) only turn
into one another, and are never reached from outside.
"""
REPLICAS = 64

_MARGIN = 16  # entries beside the sites of a row, on either end; no vector is longer
_SITES = 16  # that one step of the eight lanes gives 32 bits to
_BYTE = ir.IntType(8)
_STATES = ir.VectorType(_BYTE, _SITES)
_BITS = ir.VectorType(ir.IntType(32), _SITES)
_PRODUCT = ir.VectorType(I64, _SITES)
_DIGITS = 64  # of a threshold of `multispin`
_PLANES = 12  # always drawn; one step in eight needs more
_ZERO = constant(VECTOR, 0)
_WIDE = ir.IntType(64 * LANES)


def acceptance(temperature: float, dimension: int, q: int = 0) -> NDArray[np.float64]:
    """Return the probability to accept a proposal that costs E, (1 - LAZINESS) min(1, exp(-E / T)).

    Ising (q = 0): E = 0 or less, 4 J, 8 J, ..., (dimension + 1,) float64. Potts: E = 0 or less, J,
    2 J, ..., (2 dimension + 1,).
    """
    cost = np.arange(2 * dimension + 1) if q else 4.0 * np.arange(dimension + 1)
    p: NDArray[np.float64] = (1.0 - LAZINESS) * np.exp(-cost / temperature)
    return p


# -- the checkerboard -------------------------------------------------------------------------


def _sublattices(shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Return room for the two sublattices of a lattice, (2, rows, width)."""
    width = -(-shape[-1] // (2 * _MARGIN)) * _MARGIN + 2 * _MARGIN
    return np.zeros((2, math.prod(shape[:-1]), width), dtype=dtype)


def _neighbours(shape: tuple[int, ...], parity: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return where the neighbours of every row's sites begin in the other sublattice.

    (2, rows, 2 d) int64, by sublattice, those along x first: of site j of a row they are j of the
    other sublattice (so that the row itself begins there) and j - 1 or j + 1.
    """
    beside = neighbour_rows(shape) * width + _MARGIN
    own = np.arange(len(beside)) * width + _MARGIN
    beyond = [own + np.where((parity + part) & 1, 1, -1) for part in range(2)]
    return np.stack([np.column_stack([own, there, beside]) for there in beyond])


@njit(cache=True, nogil=True, inline="always")
def _close_row(row, half):  # type: ignore[no-untyped-def]
    """Copy the ends of a sublattice's row beside the other end, in place."""
    row[_MARGIN - 1] = row[_MARGIN + half - 1]
    row[_MARGIN + half] = row[_MARGIN]


@njit(cache=True, nogil=True)
def _split(rows, parity, parts):  # type: ignore[no-untyped-def]
    """Spread a configuration (rows, Lx) over its sublattices `parts`, in place."""
    half = rows.shape[1] // 2
    for r in range(rows.shape[0]):
        for part in range(2):
            first = (parity[r] + part) & 1
            target = parts[part, r]
            for j in range(half):
                target[_MARGIN + j] = rows[r, 2 * j + first]
            _close_row(target, half)


@njit(cache=True, nogil=True)
def _merge(parts, parity, rows):  # type: ignore[no-untyped-def]
    """Put a configuration (rows, Lx) together again from its sublattices, in place."""
    half = rows.shape[1] // 2
    for r in range(rows.shape[0]):
        for part in range(2):
            first = (parity[r] + part) & 1
            source = parts[part, r]
            for j in range(half):
                rows[r, 2 * j + first] = source[_MARGIN + j]


@contextlib.contextmanager
def _vectors(
    builder: Any, mine: Any, near: Any, shape: Any, lanes: int
) -> Iterator[tuple[Any, list[Any], Any]]:
    """Emit a loop over `lanes` sites at a time of all rows of a sublattice.

    Yields where the sites stand, where their neighbours stand in the other sublattice, and their
    column. `near` is `_neighbours` of this sublattice.
    """
    *outer, side = (builder.extract_value(shape, i) for i in range(shape.type.count))
    half, rows = builder.lshr(side, I64(1)), functools.reduce(builder.mul, outer)
    steps = builder.sdiv(builder.add(half, I64(lanes - 1)), I64(lanes))
    with cgutils.for_range(builder, rows) as row:
        directions = range(2 * shape.type.count)
        entry = builder.gep(near, [builder.mul(row.index, I64(len(directions)))])
        places = [builder.load(builder.gep(entry, [I64(i)])) for i in directions]
        with cgutils.for_range(builder, steps) as step:
            column = builder.mul(step.index, I64(lanes))
            yield (
                builder.add(places[0], column),
                [builder.add(place, column) for place in places],
                column,
            )
        end = builder.add(places[0], half)
        for source, shift, target in ((end, -1, (places[0], -1)), (places[0], 0, (end, 0))):
            value = builder.load(builder.gep(mine, [builder.add(source, I64(shift))]))
            place = builder.add(target[0], I64(target[1]))
            builder.store(value, builder.gep(mine, [place]))


# -- one configuration ------------------------------------------------------------------------


def _equal(builder: Any, states: Any, around: list[Any]) -> Any:
    """Emit minus the number of neighbours in the same state, as bytes."""
    same = [builder.sext(builder.icmp_signed("==", states, x), _STATES) for x in around]
    return functools.reduce(builder.add, same)


def _other_state(builder: Any, old: Any, q: Any, bits: Any) -> Any:
    """Emit one of the other q - 1 states, each as likely."""
    wide = builder.zext(builder.bitcast(bits, _BITS), _PRODUCT)
    fewer = spread(builder, builder.sub(q, I64(1)), _PRODUCT)
    step = builder.lshr(builder.mul(wide, fewer), constant(_PRODUCT, 32))
    shifted = builder.add(builder.add(old, builder.trunc(step, _STATES)), constant(_STATES, 1))
    top = spread(builder, builder.trunc(q, _BYTE), _STATES)
    over = builder.icmp_signed(">=", shifted, top)
    return builder.select(over, builder.sub(shifted, top), shifted)


@intrinsic
def _update(typingctx, mine, other, near, limits, q, state, shape):  # type: ignore[no-untyped-def]
    """Update a sublattice; `limits` is `acceptance` times 2^32, q None for the Ising model."""
    d, ising = len(shape), isinstance(q, types.NoneType)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        mine, other, near, limits, q, state, shape = data_of(context, builder, signature, args)
        random = Lanes(builder, state)
        lowest, *rest = (
            spread(builder, builder.load(builder.gep(limits, [I64(i)])), _BITS)
            for i in range((d if ising else 2 * d) + 1)
        )
        with _vectors(builder, mine, near, shape, _SITES) as (here, there, _):
            old = load(builder, mine, here, _STATES)
            around = [load(builder, other, place, _STATES) for place in there]
            if ising:
                new, unit = builder.sub(constant(_STATES, 0), old), 2
                cost = builder.mul(old, functools.reduce(builder.add, around))
            else:
                new, unit = _other_state(builder, old, q, random.next()), 1
                cost = builder.sub(_equal(builder, new, around), _equal(builder, old, around))
            limit = lowest
            for i, entry in enumerate(rest, 1):
                costs = builder.icmp_signed("==", cost, constant(_STATES, i * unit))
                limit = builder.select(costs, entry, limit)
            accepted = builder.icmp_unsigned("<", builder.bitcast(random.next(), _BITS), limit)
            store(builder, builder.select(accepted, new, old), mine, here)
        random.save()
        return context.get_dummy_value()

    return types.void(mine, other, near, limits, q, state, shape), codegen


@njit(cache=True, nogil=True)
def _sweeps(parts, near, limits, q, state, shape, sweeps):  # type: ignore[no-untyped-def]
    for step in range(2 * sweeps):
        part = step & 1
        _update(parts[part], parts[1 - part], near[part], limits, q, state, shape)


def metropolis(
    spins: NDArray[np.int8],
    temperature: float,
    state: NDArray[np.uint64],
    sweeps: int,
    q: int = 0,
) -> None:
    """Make `sweeps` Metropolis sweeps on a torus, in place.

    A threshold for 32 random bits decides an acceptance, and 32 others the state that is proposed:
    off by less than 2^-32.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8, C-contiguous, every side even: +-1, or 0 .. q - 1.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each updates every site once.
    q : states of the Potts model; 0 for the Ising model.
    """
    shape = spins.shape
    rows, parity = spins.reshape(-1, shape[-1]), row_parity(shape)
    limits = (acceptance(temperature, len(shape), q) * 2.0**32).astype(np.uint32)
    parts = _sublattices(shape, np.int8)
    near = _neighbours(shape, parity, parts.shape[2])
    _split(rows, parity, parts)
    _sweeps(parts, near, limits, np.int64(q) if q else None, state, shape, sweeps)
    _merge(parts, parity, rows)


# -- 64 configurations ------------------------------------------------------------------------


def _pair(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the sum of two bits as (ones, twos)."""
    return builder.xor(a, b), builder.and_(a, b)


def _classes_2d(builder: Any, unlike: list[Any]) -> list[Any]:
    """Return where 2 or more, 1, 0 of four neighbours are unlike: E <= 0, 4 J, 8 J."""
    (x, a), (y, b) = _pair(builder, *unlike[:2]), _pair(builder, *unlike[2:])
    ones, both = _pair(builder, x, y)
    many = builder.or_(builder.or_(a, b), both)
    return [many, builder.and_(ones, builder.not_(many)), builder.not_(builder.or_(ones, many))]


def _classes_3d(builder: Any, unlike: list[Any]) -> list[Any]:
    """Return where 3 or more, 2, 1, 0 of six neighbours are unlike: E <= 0, 4 J, 8 J, 12 J."""
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
def _update_words(typingctx, mine, other, near, planes, inside, state, shape):  # type: ignore[no-untyped-def]
    """Update a sublattice in 64 replicas.

    `planes` (_DIGITS, classes): bit j of the threshold of every class, spread over a word;
    `inside` a word for each site of a row, all of whose bits are set if there is one. What stands
    beside the sites is no spin: it stays as it is, and does not change how many planes are drawn,
    so that one call or many make the same of them.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        mine, other, near, planes, inside, state, shape = data_of(context, builder, signature, args)
        random = Lanes(builder, state)
        accepted, undecided = (
            cgutils.alloca_once_value(builder, _ZERO)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        with _vectors(builder, mine, near, shape, LANES) as (here, there, column):
            spins = load(builder, mine, here, VECTOR)
            unlike = [builder.xor(spins, load(builder, other, n, VECTOR)) for n in there]
            classes = (_classes_2d if len(unlike) == 4 else _classes_3d)(builder, unlike)

            def compare(plane: Any) -> None:
                first, threshold = builder.mul(plane, I64(len(classes))), _ZERO
                for i, chosen in enumerate(classes):
                    digit = builder.load(builder.gep(planes, [builder.add(first, I64(i))]))
                    digits = builder.and_(chosen, spread(builder, digit, VECTOR))
                    threshold = builder.or_(threshold, digits)
                bits, left = random.next(), builder.load(undecided)
                below = builder.and_(left, builder.and_(threshold, builder.not_(bits)))
                builder.store(builder.or_(builder.load(accepted), below), accepted)
                equal = builder.not_(builder.xor(bits, threshold))
                builder.store(builder.and_(left, equal), undecided)

            builder.store(_ZERO, accepted)
            builder.store(load(builder, inside, column, VECTOR), undecided)
            for plane in range(_PLANES):
                compare(I64(plane))
            with cgutils.for_range(builder, I64(_DIGITS), I64(_PLANES)) as further:
                left = builder.bitcast(builder.load(undecided), _WIDE)
                with builder.if_then(builder.icmp_unsigned("==", left, _WIDE(0)), likely=True):
                    further.do_break()
                compare(further.index)
            store(builder, builder.xor(spins, builder.load(accepted)), mine, here)
        random.save()
        return context.get_dummy_value()

    return types.void(mine, other, near, planes, inside, state, shape), codegen


@njit(cache=True, nogil=True)
def _sweeps_of_words(parts, near, planes, inside, state, shape, sweeps):  # type: ignore[no-untyped-def]
    for step in range(2 * sweeps):
        part = step & 1
        _update_words(parts[part], parts[1 - part], near[part], planes, inside, state, shape)


@njit(cache=True, nogil=True)
def _pack(spins, words):  # type: ignore[no-untyped-def]
    """Put 64 configurations (64, sites) int8 of +-1 into the bits of `words` (sites,), in place."""
    words[:] = np.uint64(0)
    for replica in range(spins.shape[0]):
        chosen = spins[replica]
        shift = np.uint64(replica)
        for site in range(words.size):
            words[site] |= np.uint64(chosen[site] > 0) << shift


@njit(cache=True, nogil=True)
def _unpack(words, spins):  # type: ignore[no-untyped-def]
    """Write the bits of `words` (sites,) to (64, sites) int8 of +-1, in place."""
    for replica in range(spins.shape[0]):
        chosen = spins[replica]
        shift = np.uint64(replica)
        for site in range(words.size):
            bit = (words[site] >> shift) & np.uint64(1)
            chosen[site] = np.int8(2) * np.int8(bit) - np.int8(1)


@functools.lru_cache(maxsize=16)
def _bit_planes(probabilities: tuple[float, ...]) -> NDArray[np.uint64]:
    """Return the binary digits of probabilities below 1, (64, n) uint64: all bits set or none."""
    whole = [int(p * 2.0**_DIGITS) for p in probabilities]
    digits = [[(w >> (_DIGITS - 1 - j)) & 1 for w in whole] for j in range(_DIGITS)]
    return np.array(digits, dtype=np.uint64) * np.uint64(2**64 - 1)


def multispin(
    spins: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    """Do as `metropolis` for 64 Ising configurations at once, (64, Ly, Lx) or (64, Lz, Ly, Lx).

    Thresholds have 64 bits: the acceptance is exact to 2^-53, the rounding of exp.
    """
    shape, replicas = spins.shape[1:], spins.reshape(REPLICAS, -1)
    words = np.empty(replicas.shape[1], dtype=np.uint64)
    rows, parity = words.reshape(-1, shape[-1]), row_parity(shape)
    planes = _bit_planes(tuple(acceptance(temperature, len(shape)).tolist()))
    parts, half = _sublattices(shape, np.uint64), shape[-1] // 2
    near = _neighbours(shape, parity, parts.shape[2])
    inside = np.where(np.arange(half + LANES) < half, ~np.uint64(0), np.uint64(0))
    _pack(replicas, words)
    _split(rows, parity, parts)
    _sweeps_of_words(parts, near, planes, inside, state, shape, sweeps)
    _merge(parts, parity, rows)
    _unpack(words, replicas)
