"""Swendsen-Wang sweeps of the two-dimensional Ising model on words of 64 sites.

A spin is a bit of a word, set for +1, and so is a bond: words decide which bonds are taken and
which of them close a loop. Clusters are joined of runs, the sites of a row that bonds along x
hold together, about half as many as there are sites. Runs are numbered in reading order, so the
run of a site is found by counting the bits of a word that start one. A new run that a bond joins
to the row before is a root without children, which just gets a parent; only its further bonds
are general unions. The value of a run is then spread over its sites, again a word at a time.

Bit x % 64 of word x // 64 of a row stands for site x; what is left of the last word is ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from skild_phys.rng import BITS_BLOCK, VECTOR, emit_next, fill_bits
from skild_phys.simulation.union_find import unite, unite_near_roots
from skild_phys.vectors import (
    I32,
    I64,
    data_of,
    intrinsic,
    load,
    load_lanes,
    popcount,
    spread,
    store_lanes,
)

_SITES = 64
_BYTES = ir.VectorType(ir.IntType(8), _SITES)
_HALVES = ir.VectorType(I32, 2 * VECTOR.count)
_NONE, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
_6, _63, _64 = np.uint64(6), np.uint64(63), np.uint64(64)


# -- instructions -----------------------------------------------------------------------------


@intrinsic
def _draw_word(typingctx, state, threshold):  # type: ignore[no-untyped-def]
    """Return 64 random bits, each set with probability threshold / 2^32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        held, threshold = data_of(context, builder, signature, args)
        limit = spread(builder, threshold, _HALVES)
        lanes = load_lanes(builder, held, VECTOR)
        word = I64(0)
        for first in range(0, _SITES, _HALVES.count):
            bits, lanes = emit_next(builder, lanes)
            below = builder.icmp_unsigned("<", builder.bitcast(bits, _HALVES), limit)
            part = builder.zext(builder.bitcast(below, ir.IntType(_HALVES.count)), I64)
            word = builder.or_(word, builder.shl(part, I64(first)))
        store_lanes(builder, lanes, held)
        return word

    return types.uint64(state, threshold), codegen


@intrinsic
def _changes(typingctx, values, first):  # type: ignore[no-untyped-def]
    """Return a word, bit i of which says that values[first + i + 1] is not values[first + i]."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, first = data_of(context, builder, signature, args)
        before = load(builder, data, first, _BYTES)
        after = load(builder, data, builder.add(first, I64(1)), _BYTES)
        return builder.bitcast(builder.icmp_unsigned("!=", after, before), I64)

    return types.uint64(values, types.uint64), codegen


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


# -- a sweep ----------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _word_at(bits, first):  # type: ignore[no-untyped-def]
    """Return the 64 bits of a string of bits from bit `first` on."""
    k, shift = first >> _6, first & _63
    return (bits[k] >> shift) | ((bits[k + _ONE] << _ONE) << (_63 - shift))


@njit(cache=True, nogil=True)
def _draw_bonds(spins, width, before, threshold, state, taken, starts, joined, closed):  # type: ignore[no-untyped-def]
    """Draw all bonds.

    `starts` (height, words) says which sites have no bond to the site before them, the first of
    a row always; `joined` (height, words) which have one to the row before; `closed` (height,)
    whether the first site of a row has one to the last. `taken` is room for 2 height width bits.
    """
    height, words = spins.shape
    for k in range(taken.size):
        taken[k] = _draw_word(state, threshold)
    last = np.uint64(width - 1) & _63
    for r in range(height):
        row, near = spins[r], spins[before[r]]
        carry = (row[words - 1] >> last) & _ONE
        for w in range(words):
            inside = _ALL if w < words - 1 else _ALL >> (_63 - last)
            first = np.uint64(2 * r * width + _SITES * w)
            unlike = row[w] ^ ((row[w] << _ONE) | carry)
            carry = row[w] >> _63
            starts[r, w] = inside & (unlike | ~_word_at(taken, first))
            first += np.uint64(width)
            joined[r, w] = inside & ~(row[w] ^ near[w]) & _word_at(taken, first)
        closed[r] = ~starts[r, 0] & _ONE
        starts[r, 0] |= _ONE


@njit(cache=True, nogil=True)
def _list_bonds(starts, joined, runs, r, near, todo):  # type: ignore[no-untyped-def]
    """List pairs of runs that bonds between row r and row `near` join.

    The first bond of each run of row r goes to todo[0] and todo[1], a further one to todo[2] and
    todo[3]; returns how many there are of either.
    """
    firsts, further, carry, last = _NONE, _NONE, _NONE, _ALL
    for w in range(starts.shape[1]):
        own, other, bonds = starts[r, w], starts[near, w], joined[r, w]
        # A bond beside a bond closes a loop where neither row starts a run.
        left = bonds & (own | other | ~((bonds << _ONE) | carry))
        carry = bonds >> _63
        while left != _NONE:
            upto = left ^ (left - _ONE)
            left &= left - _ONE
            run = runs[r, w] + popcount(own & upto) - _ONE
            beside = runs[near, w] + popcount(other & upto) - _ONE
            # Written to both lists, kept in one: a branch would be taken at random.
            again = np.uint64(run == last)
            last = run
            todo[0, firsts], todo[1, firsts] = run, beside
            todo[2, further], todo[3, further] = run, beside
            firsts += again ^ _ONE
            further += again
    return firsts, further


@njit(cache=True, nogil=True)
def _label(starts, joined, closed, before, runs, parent, todo):  # type: ignore[no-untyped-def]
    """Make `parent` a forest of runs whose trees are the clusters; return how many runs.

    `runs` (height, words) is set to how many runs start before each word; `todo` is room for
    4 (width + 1) numbers.
    """
    height, words = starts.shape
    count = _NONE
    for r in range(height):
        for w in range(words):
            runs[r, w] = count
            count += popcount(starts[r, w])
        for run in range(runs[r, 0], count):
            parent[run] = run
        if before[r] < r:
            firsts, further = _list_bonds(starts, joined, runs, r, before[r], todo)
            for k in range(firsts):
                parent[np.uint64(todo[0, k])] = parent[np.uint64(parent[np.uint64(todo[1, k])])]
            for k in range(further):
                unite_near_roots(parent, np.uint64(todo[2, k]), np.uint64(todo[3, k]))
    # The bonds round the edges of the lattice waited until both of their runs had labels.
    for r in range(height):
        if before[r] > r:
            firsts, further = _list_bonds(starts, joined, runs, r, before[r], todo)
            for k in range(firsts):
                unite(parent, np.uint64(todo[0, k]), np.uint64(todo[1, k]))
            for k in range(further):
                unite(parent, np.uint64(todo[2, k]), np.uint64(todo[3, k]))
        if closed[r] != _NONE:
            following = runs[r + 1, 0] if r + 1 < height else count
            unite(parent, runs[r, 0], following - _ONE)
    return count


@njit(cache=True, nogil=True)
def _redraw(starts, runs, parent, count, drawn, values, spins):  # type: ignore[no-untyped-def]
    """Give every cluster a value of its own, one of the random bits `drawn` a run.

    `values` is room for the number of runs and 65 more.
    """
    values[0] = 0
    for run in range(count):
        # A parent stands before its child and has its value already; a root keeps its own.
        here = run + _ONE
        values[here] = (drawn[run >> _6] >> (run & _63)) & _ONE
        values[here] = values[np.uint64(parent[run]) + _ONE]
    words, begin, first = spins.reshape(-1), starts.reshape(-1), runs.reshape(-1)
    for k in range(words.size):
        words[k] = _changes(values, first[k])
    for k in range(words.size):
        words[k] = _spread_changes(words[k], begin[k])
    carry = _NONE
    for k in range(words.size):
        words[k] ^= carry
        carry = _NONE - (words[k] >> _63)


@njit(cache=True, nogil=True)
def _sweeps(spins, width, before, threshold, state, sweeps):  # type: ignore[no-untyped-def]
    height = spins.shape[0]
    sites = height * width
    starts, joined = np.empty(spins.shape, np.uint64), np.empty(spins.shape, np.uint64)
    runs, closed = np.empty(spins.shape, np.uint64), np.empty(height, np.uint64)
    # A word more than the bonds need: `_word_at` looks at the next one.
    taken = np.empty(2 * sites // _SITES + 2, np.uint64)
    drawn = np.empty(-(-sites // (_SITES * BITS_BLOCK)) * BITS_BLOCK, np.uint64)
    parent, todo = np.empty(sites, np.uint32), np.empty((4, width + 1), np.uint32)
    values = np.empty(sites + _SITES + 1, np.uint8)
    for _ in range(sweeps):
        _draw_bonds(spins, width, before, threshold, state, taken, starts, joined, closed)
        count = _label(starts, joined, closed, before, runs, parent, todo)
        fill_bits(state, drawn)
        _redraw(starts, runs, parent, count, drawn, values, spins)


def pack(spins: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Return spins (height, width) of +-1 as words (height, ceil(width / 64))."""
    bits = np.packbits(spins > 0, axis=1, bitorder="little")
    out = np.zeros((len(spins), -(-spins.shape[1] // _SITES)), dtype="<u8")
    out.view(np.uint8)[:, : bits.shape[1]] = bits
    return out


def unpack(words: NDArray[np.uint64], spins: NDArray[np.int8]) -> None:
    """Write what `pack` packed into `spins`."""
    width = spins.shape[1]
    bits = np.unpackbits(words.view(np.uint8), axis=1, count=width, bitorder="little")
    np.multiply(bits.view(np.int8), 2, out=spins)
    spins -= 1


def swendsen_wang_runs(
    spins: NDArray[np.int8],
    threshold: np.uint32,
    before: NDArray[np.int64],
    state: NDArray[np.uint64],
    sweeps: int,
) -> None:
    """Make `sweeps` Swendsen-Wang sweeps of the Ising model on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) int8 of +-1, C-contiguous, both sides from 2 on.
    threshold : a bond between equal spins is taken with probability threshold / 2^32.
    before : (Ly,) the row that each row has bonds to.
    state : (4, 8) uint64 generator state (`rng.lane_state`); advanced in place.
    sweeps : how many.
    """
    words = pack(spins)
    _sweeps(words, spins.shape[1], before, threshold, state, sweeps)
    unpack(words, spins)
