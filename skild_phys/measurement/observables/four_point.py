"""The connected four-point function: on the corners of squares, and at any four offsets.

Terms are averages over all translations of each configuration. Lattices are periodic, of two
dimensions or more.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.kernels import I64, constant, data_of, intrinsic, load, popcount
from skild_phys.measurement.observables.base import LENGTH, Axis, Coordinate, observable, statistic
from skild_phys.measurement.system import Array, Shape, Slice, System

TERMS = ("s1s2s3s4", "s1s2", "s1s4", "s1s3", "s2s4")
"""Last axis of `four_point_terms`; corners in the order o, o + r b, o + r b + r a, o + r a."""

_OFFSET_TERMS = ("1234", "12", "34", "13", "24", "14", "23")
"""Last axis of `_offset_terms`."""

_BYTES = ir.VectorType(ir.IntType(8), 64)


def square_sides(shape: Shape) -> NDArray[np.int64]:
    """Return the sides r = 1, 2, 4 .. of the squares, up to half the shortest edge of `shape`."""
    return 2 ** np.arange((min(shape) // 2).bit_length(), dtype=np.int64)


def four_point_terms(field: NDArray[Any], sides: Sequence[int]) -> Array:
    """Return what the connected four-point function is made of, averaged over each configuration.

    The corners of an r x r square in the plane of axes a and b are s1 = o, s2 = o + r b,
    s3 = o + r a + r b, s4 = o + r a. On a torus s3 s4 and s2 s3 are s1 s2 and s1 s4 moved by r,
    so their averages over translations are the same numbers and five terms are enough.

    Parameters
    ----------
    field : (n, *shape) array; int8 is taken as spins +-1 and counted exactly, 64 sites a word, all
        else as float64.
    sides : the sides r, in lattice constants, 1 <= r < the shortest edge.

    Returns
    -------
    (n, len(sides), planes, 5) float64, the planes yx in 2D, zy, zx, yx in 3D; the last axis as in
    `TERMS`.

    Raises
    ------
    BadInput : a side that does not fit on the lattice, or lattices of one dimension.
    """
    values = np.asarray(field)
    if values.ndim < 3:
        raise BadInput("field", str(values.shape), "an array (configurations, [z,] y, x)")
    n, *edges = values.shape
    for r in sides:
        if not 1 <= r < min(edges):
            raise BadInput("sides", int(r), f"1 to {min(edges) - 1}")
    shape, sites = tuple(edges), math.prod(edges)
    rows = values.reshape(n, -1, shape[-1])
    near = _rows_at(shape, tuple(int(r) for r in sides))
    planes = np.array(list(itertools.combinations(range(len(shape)), 2)), dtype=np.int64)
    lengths = np.asarray(sides, dtype=np.int64)
    found = np.empty((n, len(lengths), len(planes), len(TERMS)))
    if values.dtype == np.int8:
        unequal = np.empty(found.shape, dtype=np.int64)
        _count_unequal(np.ascontiguousarray(rows), lengths, near, planes, unequal)
        return 1.0 - 2.0 * unequal / sites
    _sum_products(np.ascontiguousarray(rows, dtype=np.float64), lengths, near, planes, found)
    return found / sites


def _connected_four_point(terms: Array, system: System | None = None) -> Array:
    """Return G4c(r) from terms averaged over an ensemble, (..., planes, 5) -> (...).

    G4c = <s1 s2 s3 s4> - <s1 s2><s3 s4> - <s1 s3><s2 s4> - <s1 s4><s2 s3>, the observable of
    arXiv 2605.26032, with `four_point_terms` for the terms; the mean over the planes.
    """
    four, along_b, along_a, diagonal, antidiagonal = np.moveaxis(terms, -1, 0)
    found = four - along_b**2 - along_a**2 - diagonal * antidiagonal
    return np.asarray(found.mean(axis=-1))


def _offset_terms(field: NDArray[Any], offsets: NDArray[np.int64]) -> Array:
    """Return the averages that G4c at any four offsets is made of, (n, 7) as in `_OFFSET_TERMS`.

    `field` is as in `four_point_terms`, `offsets` (4, d) are whole numbers in the order of the
    axes: (y, x) or (z, y, x).
    """
    lattices, offsets = np.asarray(field), np.asarray(offsets, dtype=np.int64)
    axes = tuple(range(1, lattices.ndim))
    exact = lattices.dtype == np.int8
    values = lattices if exact else lattices.astype(np.float64, copy=False)
    s = [np.roll(values, tuple(-offset), axes) for offset in offsets]
    found = np.empty((len(lattices), len(_OFFSET_TERMS)))
    for i, term in enumerate(_OFFSET_TERMS):
        product = functools.reduce(np.multiply, [s[int(digit) - 1] for digit in term])
        found[:, i] = product.sum(axis=axes, dtype=np.int64 if exact else np.float64)
    return found / math.prod(lattices.shape[1:])


def _connected_at_offsets(terms: Array, system: System | None = None) -> Array:
    """Return G4c from the mean of `_offset_terms`, (..., 7) -> (...)."""
    four, *pairs = np.moveaxis(terms, -1, 0)
    return np.asarray(four - pairs[0] * pairs[1] - pairs[2] * pairs[3] - pairs[4] * pairs[5])


def _real(system: System) -> bool:
    return not system.q and system.components == 1 and system.dimension > 1


@statistic("four_point", lambda system: _real(system) and min(system.shape) >= 2)
def _four_point(part: Slice) -> Array:
    """Return the terms at every side, (n, sides, planes, 5)."""
    return four_point_terms(part.values, square_sides(part.system.shape).tolist())


@statistic("offsets", lambda system: bool(system.offsets) and _real(system))
def _offsets(part: Slice) -> Array:
    """Return the terms at every set of four sites, (n, sets, 7)."""
    sets = (np.array(one, dtype=np.int64) for one in part.system.offsets)
    return np.stack([_offset_terms(part.values, one) for one in sets], axis=1)


def _names(system: System) -> NDArray[Any]:
    return np.array([" ".join(",".join(map(str, s)) for s in one) for one in system.offsets])


OBSERVABLES = (
    observable(
        "connected_four_point", "1", _four_point, "G4c", judged=True,
        about="connected four-point function on the corners of an r x r square",
        axis=Axis("side", (
            Coordinate("side", lambda s: square_sides(s.shape), "side r of the square", LENGTH),
        )),
    )(_connected_four_point),
    observable(
        "connected_four_point_offsets", "1", _offsets, "G4c(sites)",
        about="connected four-point function at four given sites",
        axis=Axis("offsets", (
            Coordinate("offset", _names, "the four sites, in steps along the axes", "1", "sites"),
        )),
    )(_connected_at_offsets),
)  # fmt: skip


@functools.lru_cache(maxsize=8)
def _rows_at(shape: Shape, sides: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the row at distance r along each axis but the last, (axes, sides, rows)."""
    number = np.arange(math.prod(shape[:-1])).reshape(shape[:-1])
    table = [[np.roll(number, -r, axis).ravel() for r in sides] for axis in range(len(shape) - 1)]
    return np.array(table, dtype=np.int64).reshape(len(shape) - 1, len(sides), -1)


@intrinsic
def _bits_above_zero(typingctx, values, first):  # type: ignore[no-untyped-def]
    """Return a word whose bit i is values[first + i] > 0."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, first = data_of(context, builder, signature, args)
        above = builder.icmp_signed(">", load(builder, data, first, _BYTES), constant(_BYTES, 0))
        return builder.bitcast(above, I64)

    return types.uint64(values, types.uint64), codegen


@njit(cache=True, nogil=True)
def _pack(row, words):  # type: ignore[no-untyped-def]
    """Write the bits (s > 0) of a row into words; what is left of the last one is 0."""
    whole = row.size >> 6
    for w in range(whole):
        words[w] = _bits_above_zero(row, np.uint64(64 * w))
    if whole < words.size:
        word = np.uint64(0)
        for x in range(64 * whole, row.size):
            word |= np.uint64(row[x] > 0) << np.uint64(x & 63)
        words[whole] = word


@njit(cache=True, nogil=True)
def _double(plain, width, twice):  # type: ignore[no-untyped-def]
    """Write a row of bits and the same row behind it, which starts at bit `width`."""
    twice[:] = 0
    first, shift = width >> 6, np.uint64(width & 63)
    for w in range(plain.size):
        twice[w] |= plain[w]
        twice[first + w] |= plain[w] << shift
        if shift != 0:
            twice[first + w + 1] |= plain[w] >> (np.uint64(64) - shift)


@njit(cache=True, nogil=True)
def _turn(twice, r, last, out):  # type: ignore[no-untyped-def]
    """Write the row moved by -r along x into out; `last` masks the bits of its last word."""
    first, shift = r >> 6, np.uint64(r & 63)
    for w in range(out.size):
        low = twice[first + w] >> shift
        high = np.uint64(0)
        if shift != 0:
            high = twice[first + w + 1] << (np.uint64(64) - shift)
        out[w] = low | high
    out[out.size - 1] &= last


@njit(cache=True, nogil=True)
def _count_rows(s1, s2, s3, s4, counts):  # type: ignore[no-untyped-def]
    four, b, a = np.uint64(0), np.uint64(0), np.uint64(0)
    diagonal, antidiagonal = np.uint64(0), np.uint64(0)
    for w in range(s1.size):
        along, opposite = s1[w] ^ s2[w], s3[w] ^ s4[w]
        four += popcount(along ^ opposite)
        b += popcount(along)
        a += popcount(s1[w] ^ s4[w])
        diagonal += popcount(s1[w] ^ s3[w])
        antidiagonal += popcount(s2[w] ^ s4[w])
    counts[0] += four
    counts[1] += b
    counts[2] += a
    counts[3] += diagonal
    counts[4] += antidiagonal


@njit(cache=True, nogil=True)
def _count_unequal(spins, sides, near, planes, counts):  # type: ignore[no-untyped-def]
    """Count, for each term, on how many squares its product is -1."""
    lattices, rows, width = spins.shape
    size = (width + 63) // 64
    last = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 * size - width)
    # One word more than two rows fill: a row that is turned reads up to one word behind its end.
    twice = np.zeros((rows, 2 * size + 1), dtype=np.uint64)
    plain = np.empty((rows, size), dtype=np.uint64)
    turned = np.empty((rows, size), dtype=np.uint64)
    counts[:] = 0
    for n in range(lattices):
        for row in range(rows):
            _pack(spins[n, row], plain[row])
            _double(plain[row], width, twice[row])
        for i in range(sides.size):
            for row in range(rows):
                _turn(twice[row], sides[i], last, turned[row])
            for p in range(planes.shape[0]):
                a, b = planes[p]
                out = counts[n, i, p]
                for row in range(rows):
                    up = near[a, i, row]
                    if b == near.shape[0]:
                        _count_rows(plain[row], turned[row], turned[up], plain[up], out)
                    else:
                        side, far = near[b, i, row], near[b, i, up]
                        _count_rows(plain[row], plain[side], plain[far], plain[up], out)


@njit(cache=True, nogil=True)
def _add_rows(s1, s2, s3, s4, shift, sums):  # type: ignore[no-untyped-def]
    """Add the products of four rows; s2 and s3 are read `shift` sites further along x."""
    width = s1.size
    four, along_b, along_a, diagonal, antidiagonal = 0.0, 0.0, 0.0, 0.0, 0.0
    for x in range(width):
        at = x + shift
        at = at - width if at >= width else at
        b = s1[x] * s2[at]
        four += b * (s3[at] * s4[x])
        along_b += b
        along_a += s1[x] * s4[x]
        diagonal += s1[x] * s3[at]
        antidiagonal += s2[at] * s4[x]
    sums[0] += four
    sums[1] += along_b
    sums[2] += along_a
    sums[3] += diagonal
    sums[4] += antidiagonal


@njit(cache=True, nogil=True)
def _sum_products(field, sides, near, planes, sums):  # type: ignore[no-untyped-def]
    lattices, rows, _ = field.shape
    sums[:] = 0.0
    for n in range(lattices):
        s = field[n]
        for i in range(sides.size):
            for p in range(planes.shape[0]):
                a, b = planes[p]
                out = sums[n, i, p]
                for row in range(rows):
                    up = near[a, i, row]
                    if b == near.shape[0]:
                        _add_rows(s[row], s[row], s[up], s[up], sides[i], out)
                    else:
                        _add_rows(s[row], s[near[b, i, row]], s[near[b, i, up]], s[up], 0, out)
