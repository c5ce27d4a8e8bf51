"""Swendsen-Wang updates, Phys. Rev. Lett. 58, 86 (1987): Ising and Potts models.

Every bond between equal neighbours is taken with p = 1 - exp(-dE / T), and every cluster of the
bonds gets a value of its own, all values being as likely. 32 random bits decide a bond, and a
state of the Potts model: both probabilities are exact to 2^-32.

Values lie in planes of bits, one for Ising spins, and a plane in words of 64 sites: bit x % 64 of
word x // 64 of a row stands for site x, and what is left of the last word is ignored. So are bonds:
words decide which are taken and which close a loop. Clusters are joined of runs, the sites of a
row that bonds along x hold together, about half as many as there are sites. Runs are numbered in
reading order, so that the run of a site is found by counting the bits of a word that start one. A
parent never stands behind its child in the forest of runs (Rem's algorithm with splicing; Patwary,
Blair and Manne, SEA 2010), so that one pass over the runs gives every cluster its value, which is
then spread over the sites, again a word at a time.

Indices are unsigned, because Numba looks at each signed one for a negative value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numpy.typing import NDArray

from skild_phys.kernels import I32, I64, data_of, intrinsic, load, popcount, spread
from skild_phys.models.base import neighbour_rows
from skild_phys.rng import BITS_BLOCK, VECTOR, Lanes, fill_bits
from skild_phys.simulation.wolff import bond_threshold

_SITES = 64
_BYTE = ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, _SITES)
_HALVES = ir.VectorType(I32, 2 * VECTOR.count)
_NONE, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
_6, _32, _63 = np.uint64(6), np.uint64(32), np.uint64(63)


# -- instructions -----------------------------------------------------------------------------


@intrinsic
def _draw_words(typingctx, state, threshold, out, count):  # type: ignore[no-untyped-def]
    """Fill out[:count] with words of bits, each set with probability threshold / 2^32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        state, threshold, out, count = data_of(context, builder, signature, args)
        limit, random = spread(builder, threshold, _HALVES), Lanes(builder, state)
        with cgutils.for_range(builder, count) as loop:
            word = I64(0)
            for first in range(0, _SITES, _HALVES.count):
                bits = builder.bitcast(random.next(), _HALVES)
                below = builder.icmp_unsigned("<", bits, limit)
                part = builder.zext(builder.bitcast(below, ir.IntType(_HALVES.count)), I64)
                word = builder.or_(word, builder.shl(part, I64(first)))
            builder.store(word, builder.gep(out, [loop.index]))
        random.save()
        return context.get_dummy_value()

    return types.void(state, threshold, out, types.int64), codegen


@intrinsic
def _changes(typingctx, values, first, mask):  # type: ignore[no-untyped-def]
    """Return a word: bit i says whether values[first + i] and the next differ by bits of `mask`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, first, mask = data_of(context, builder, signature, args)
        before = load(builder, data, first, _BYTES)
        after = load(builder, data, builder.add(first, I64(1)), _BYTES)
        unlike = builder.and_(builder.xor(after, before), spread(builder, mask, _BYTES))
        return builder.bitcast(builder.icmp_unsigned("!=", unlike, ir.Constant(_BYTES, None)), I64)

    return types.uint64(values, types.uint64, types.uint8), codegen


def _emit_parity(builder: Any, word: Any) -> Any:
    """Emit the word whose bit i is the parity of the bits 0 .. i of `word`."""
    for step in (1, 2, 4, 8, 16, 32):
        word = builder.xor(word, builder.shl(word, I64(step)))
    return word


def _emit_expand(builder: Any, word: Any, mask: Any) -> Any:
    """Emit bit i of `word` at the place of the i-th bit set in `mask`, and 0 elsewhere.

    H. S. Warren, Hacker's Delight, 2nd ed., sections 7-4 and 7-5: bits move by 1, 2, 4, ... 32
    places, and the parity of how many gaps lie below a bit says which of the moves it makes.
    """
    moves, kept = [], mask
    gaps = builder.shl(builder.not_(mask), I64(1))
    for step in (1, 2, 4, 8, 16, 32):
        odd = _emit_parity(builder, gaps)
        move = builder.and_(odd, kept)
        kept = builder.or_(builder.xor(kept, move), builder.lshr(move, I64(step)))
        gaps = builder.and_(gaps, builder.not_(odd))
        moves.append((step, move))
    for step, move in reversed(moves):
        moved = builder.and_(builder.shl(word, I64(step)), move)
        word = builder.or_(builder.and_(word, builder.not_(move)), moved)
    return builder.and_(word, mask)


@intrinsic
def _spread_changes(typingctx, changes, starts):  # type: ignore[no-untyped-def]
    """Return the values of 64 sites where bit i of `changes` is the change at the i-th start."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _emit_parity(builder, _emit_expand(builder, *args))

    return types.uint64(types.uint64, types.uint64), codegen


# -- clusters ---------------------------------------------------------------------------------


class Runs(NamedTuple):
    """Bonds of a lattice, and the runs that those along x make; room that sweeps work in.

    Attributes
    ----------
    before : (rows, axes) int64, the row before each row along every axis but x.
    starts : (rows, words) uint64, sites without a bond to the site before them, and the first of
        every row.
    closed : (rows,) uint64, whether the first site of a row has a bond to the last.
    joined : (axes, rows, words) uint64, sites with a bond to the row before.
    number : (rows, words) uint64, how many runs start before each word.
    parent : (sites,) uint32, of each run; its own for the first run of a cluster.
    first : (sites + 1,) uint32, the first site of each run (`list_starts`).
    taken : random words, of one bit a possible bond.
    todo : (4, width + 1) uint32.
    """

    before: NDArray[np.int64]
    starts: NDArray[np.uint64]
    closed: NDArray[np.uint64]
    joined: NDArray[np.uint64]
    number: NDArray[np.uint64]
    parent: NDArray[np.uint32]
    first: NDArray[np.uint32]
    taken: NDArray[np.uint64]
    todo: NDArray[np.uint32]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Runs:
        """Return room for a lattice."""
        before = np.ascontiguousarray(neighbour_rows(shape)[:, ::2])
        (rows, axes), width = before.shape, shape[-1]
        sites, words = rows * width, -(-width // _SITES)
        return cls(
            before,
            starts=np.empty((rows, words), np.uint64),
            closed=np.empty(rows, np.uint64),
            joined=np.empty((axes, rows, words), np.uint64),
            number=np.empty((rows, words), np.uint64),
            parent=np.empty(sites, np.uint32),
            first=np.empty(sites + 1, np.uint32),
            taken=np.empty(2 * (sites * len(shape) // 128) + 4, np.uint64),
            todo=np.empty((4, width + 1), np.uint32),
        )


@njit(cache=True, nogil=True)
def _word_at(bits, first):  # type: ignore[no-untyped-def]
    """Return the 64 bits of a string of bits from bit `first` on."""
    k, shift = first >> _6, first & _63
    return (bits[k] >> shift) | ((bits[k + _ONE] << _ONE) << (_63 - shift))


@njit(cache=True, nogil=True)
def _join_equal(planes, width, into):  # type: ignore[no-untyped-def]
    """Take the bonds between equal neighbours whose bits of `into.taken` are set."""
    rows, words = into.starts.shape
    last, first = np.uint64(width - 1) & _63, _NONE
    for r in range(rows):
        for axis in range(-1, into.before.shape[1]):
            for w in range(words):
                unlike = _NONE
                for p in range(planes.shape[0]):
                    word = planes[p, r, w]
                    if axis >= 0:
                        near = planes[p, into.before[r, axis], w]
                    elif w > 0:
                        near = (word << _ONE) | (planes[p, r, w - 1] >> _63)
                    else:
                        near = (word << _ONE) | ((planes[p, r, words - 1] >> last) & _ONE)
                    unlike |= word ^ near
                inside = _ALL if w < words - 1 else _ALL >> (_63 - last)
                bonds = inside & ~unlike & _word_at(into.taken, first + np.uint64(_SITES * w))
                if axis >= 0:
                    into.joined[axis, r, w] = bonds
                else:
                    into.starts[r, w] = inside & ~bonds
            first += np.uint64(width)
        into.closed[r] = ~into.starts[r, 0] & _ONE
        into.starts[r, 0] |= _ONE


@njit(cache=True, nogil=True)
def _unite(parent, x, y):  # type: ignore[no-untyped-def]
    """Join the trees of x and y, both uint64; the smaller root stays."""
    px, py = np.uint64(parent[x]), np.uint64(parent[y])
    while px != py:
        if px > py:
            parent[x] = py
            if x == px:
                break
            x = px
            px = np.uint64(parent[x])
        else:
            parent[y] = px
            if y == py:
                break
            y = py
            py = np.uint64(parent[y])


@njit(cache=True, nogil=True)
def _unite_near_roots(parent, x, y):  # type: ignore[no-untyped-def]
    """Do as `_unite`, faster where two steps up from x and y nearly always lead to roots."""
    one = parent[np.uint64(parent[x])]
    two = parent[np.uint64(parent[y])]
    # No branch asks which of them is the smaller.
    child = np.uint64(max(one, two))
    if parent[child] == child:
        parent[child] = min(one, two)
    else:
        _unite(parent, child, np.uint64(min(one, two)))


@njit(cache=True, nogil=True, inline="always")
def _unite_rows(of, axis, r, fresh):  # type: ignore[no-untyped-def]
    """Unite the runs that bonds between row r and the row before it along an axis join.

    Those of a `fresh` row are roots without children: the first bond of each gives it a parent.
    """
    near, parent, todo = of.before[r, axis], of.parent, of.todo
    firsts, further, carry, last = _NONE, _NONE, _NONE, _ALL
    for w in range(of.starts.shape[1]):
        own, other, bonds = of.starts[r, w], of.starts[near, w], of.joined[axis, r, w]
        # A bond beside a bond closes a loop where neither row starts a run.
        left = bonds & (own | other | ~((bonds << _ONE) | carry))
        carry = bonds >> _63
        while left != _NONE:
            upto = left ^ (left - _ONE)
            left &= left - _ONE
            run = of.number[r, w] + popcount(own & upto) - _ONE
            beside = of.number[near, w] + popcount(other & upto) - _ONE
            # Written to both lists, kept in one: a branch would be taken at random.
            first = np.uint64(fresh & (run != last))
            last = run
            todo[0, firsts], todo[1, firsts] = run, beside
            todo[2, further], todo[3, further] = run, beside
            firsts += first
            further += first ^ _ONE
    for k in range(firsts):
        parent[np.uint64(todo[0, k])] = parent[np.uint64(parent[np.uint64(todo[1, k])])]
    for k in range(further):
        _unite_near_roots(parent, np.uint64(todo[2, k]), np.uint64(todo[3, k]))


@njit(cache=True, nogil=True)
def _label(of):  # type: ignore[no-untyped-def]
    """Make `parent` a forest of runs whose trees are the clusters; return how many runs."""
    rows, words = of.starts.shape
    axes = of.before.shape[1]
    count = _NONE
    for r in range(rows):
        for w in range(words):
            of.number[r, w] = count
            count += popcount(of.starts[r, w])
        for run in range(of.number[r, 0], count):
            of.parent[run] = run
        for axis in range(axes):
            if of.before[r, axis] < r:
                _unite_rows(of, axis, r, axis == 0)
    # The bonds round the edges of the lattice waited until both of their runs had labels.
    for r in range(rows):
        for axis in range(axes):
            if of.before[r, axis] > r:
                _unite_rows(of, axis, r, False)
        if of.closed[r] != _NONE:
            following = of.number[r + 1, 0] if r + 1 < rows else count
            _unite(of.parent, of.number[r, 0], following - _ONE)
    return count


@njit(cache=True, nogil=True)
def label_runs(planes, width, into, threshold, state, draws):  # type: ignore[no-untyped-def]
    """Draw the bonds of a lattice, label its clusters, and return how many runs they are made of.

    Parameters
    ----------
    planes : (planes, rows, words) uint64 (`pack_planes`) of a lattice `width` sites wide.
    into : `Runs` of the lattice.
    threshold : uint32; a bond between equal values is taken with probability threshold / 2^32.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    draws : words of random bits to draw; 0 to keep those that there are.
    """
    _draw_words(state, threshold, into.taken, draws)
    _join_equal(planes, width, into)
    return _label(into)


@njit(cache=True, nogil=True)
def list_starts(of, width):  # type: ignore[no-untyped-def]
    """Write the first site of each run to `of.first`, and the number of sites after them."""
    run, starts = _NONE, of.starts
    for r in range(starts.shape[0]):
        for w in range(starts.shape[1]):
            left, site = starts[r, w], np.uint64(r * width + _SITES * w)
            while left != _NONE:
                of.first[run] = site + popcount(left ^ (left - _ONE)) - _ONE
                left &= left - _ONE
                run += _ONE
    of.first[run] = starts.shape[0] * width


# -- sweeps -----------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _redraw(planes, of, count, q, drawn, values):  # type: ignore[no-untyped-def]
    """Give every cluster a value of its own: a bit if q = 0, else a state 0 .. q - 1.

    That of a run is number first[run] of the random bits, or 32 bits, of `drawn`. `values` is room
    for the number of runs and 65 more.
    """
    halves = drawn.view(np.uint32)
    values[0] = 0
    for run in range(count):
        here, k = run + _ONE, np.uint64(of.first[run])
        if q == 0:
            values[here] = (drawn[k >> _6] >> (k & _63)) & _ONE
        else:
            values[here] = (np.uint64(halves[k]) * np.uint64(q)) >> _32
        # A parent stands before its child and has its value already; a root keeps its own.
        values[here] = values[np.uint64(of.parent[run]) + _ONE]
    begin, first = of.starts.reshape(-1), of.number.reshape(-1)
    for plane in range(planes.shape[0]):
        words, mask = planes[plane].reshape(-1), np.uint8(1 << plane)
        for w in range(words.size):
            words[w] = _changes(values, first[w], mask)
        for w in range(words.size):
            words[w] = _spread_changes(words[w], begin[w])
        carry = _NONE
        for w in range(words.size):
            words[w] ^= carry
            carry = _NONE - (words[w] >> _63)


@njit(cache=True, nogil=True)
def _sweeps(planes, width, runs, q, threshold, state, sweeps):  # type: ignore[no-untyped-def]
    rows, axes = runs.before.shape
    sites = rows * width
    # Stores pin what is drawn: of Ising squares a bit for each run, else what its first site has.
    by_run = q == 0 and axes == 1
    bonds = 2 * sites // 64 + 2 if by_run else 2 * -(-sites * (axes + 1) // 128)
    needed = sites // 2 + 1 if q else sites // 64 + (not by_run or sites % 64 != 0)
    drawn = np.empty(-(-needed // BITS_BLOCK) * BITS_BLOCK, np.uint64)
    values = np.empty(sites + 65, np.uint8)
    for run in range(sites):
        runs.first[run] = run
    for _ in range(sweeps):
        count = label_runs(planes, width, runs, threshold, state, bonds)
        if not by_run:
            list_starts(runs, width)
        fill_bits(state, drawn)
        _redraw(planes, runs, count, q, drawn, values)


def pack_planes(values: NDArray[Any], bits: Iterable[int] = (0,)) -> NDArray[np.uint64]:
    """Return bits of bytes (..., rows, width) as words, (..., planes, rows, words) uint64."""
    masks = np.array([1 << bit for bit in bits], np.uint8)[:, None, None]
    held = values.view(np.uint8)[..., None, :, :] & masks
    packed = np.packbits(held, axis=-1, bitorder="little")
    words = np.zeros((*packed.shape[:-1], -(-values.shape[-1] // _SITES)), dtype="<u8")
    words.view(np.uint8)[..., : packed.shape[-1]] = packed
    return words


def _unpacked(planes: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Return the values (rows, width) whose bits `planes` (planes, rows, words) are."""
    bits = np.unpackbits(planes.view(np.uint8), axis=-1, count=width, bitorder="little")
    weights = np.arange(len(planes), dtype=np.uint8)[:, None, None]
    values: NDArray[np.uint8] = np.bitwise_or.reduce(bits << weights)
    return values


def swendsen_wang(
    spins: NDArray[np.int8],
    temperature: float,
    state: NDArray[np.uint64],
    sweeps: int,
    q: int = 0,
) -> None:
    """Make `sweeps` Swendsen-Wang sweeps on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) or (Lz, Ly, Lx) int8, C-contiguous, every side from 2 on: +-1, or 0 .. q - 1.
    temperature : in J / k_B.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many; each draws all bonds and all clusters anew.
    q : states of the Potts model; 0 for the Ising model.
    """
    threshold = np.uint32(bond_threshold(1.0 if q else 2.0, temperature))
    rows = spins.reshape(-1, spins.shape[-1])
    planes = pack_planes(rows, range((q - 1).bit_length())) if q else pack_planes(rows > 0)
    _sweeps(planes, spins.shape[-1], Runs.of(spins.shape), q, threshold, state, sweeps)
    values = _unpacked(planes, spins.shape[-1]).view(np.int8)
    rows[:] = values if q else 2 * values - 1
