"""Coarse-graining of lattices: integer rules for spins and states, linear operators for fields.

A block is the square (in 3D the cube) of factor^d sites whose corner (0, 0) is a multiple of the
factor. The operators are of 2D fields. Block means, decimation and the spectral cut are all
"filter, then keep every b-th site", so that in the orthonormal DFT each is y(K) = (1/b) sum over
k = K mod (Ly/b, Lx/b) of h(k) x(k): a sum over the alias set of K, with a transfer function h of
its own. Hence A Sigma A^T is diagonal in K for every Sigma that is diagonal in k, and no solver
is needed.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput

Array = NDArray[np.float64]

RULES = ("block_mean", "majority", "decimate", "spectral")
FIELDS = {
    "block_mean": "block_sum",
    "majority": "spins",
    "decimate": "spins",
    "spectral": "field",
}
"""The name of the variable that holds the coarse lattice of spins, by rule; of fields a field."""

STATE_FIELDS = {"block_mean": "state_count", "majority": "states", "decimate": "states"}
"""The same for Potts states; `spectral` is of numbers, which states are not."""

_MOST_SITES = 2**15 - 1  # the last block sum that int16 holds


def check_rule(rule: str) -> str:
    """Return `rule`; raises BadInput if it is none of RULES."""
    if rule not in RULES:
        raise BadInput("--rule", rule, ", ".join(RULES[:-1]) + f" or {RULES[-1]}")
    return rule


def check_factor(factor: Any) -> int:
    """Return `factor` as an int; raises BadInput unless it is a whole number of at least 2."""
    if isinstance(factor, bool) or not isinstance(factor, numbers.Integral) or factor < 2:
        raise BadInput("--factor", factor, "a whole number of at least 2")
    return int(factor)


def coarse_field(rule: str, q: int = 0, dimension: int = 2, *, real: bool = False) -> str:
    """Return the name of the variable that holds what `rule` makes of spins (q = 0) or q states.

    Of `real` fields it is a field. Raises BadInput for a rule that is none of RULES, for
    `spectral` of states or in 3D, and for `majority` of fields.
    """
    if real and check_rule(rule) == "majority":
        raise BadInput("--rule", rule, "block_mean, decimate or spectral for fields: no signs")
    if check_rule(rule) == "spectral" and (q or dimension != 2):
        what = "Potts states" if q else f"{dimension}D lattices"
        raise BadInput("--rule", rule, " or ".join(STATE_FIELDS) + f" for {what}")
    if real:
        return "field"
    return STATE_FIELDS[rule] if q else FIELDS[rule]


def coarse_shape(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the sides / factor; raises BadInput unless `factor` >= 2 divides each of them."""
    factor = check_factor(factor)
    if any(side == 0 or side % factor for side in shape):
        sides = "both sides" if len(shape) == 2 else "all sides"
        raise BadInput("--factor", factor, f"a divisor of {sides} of {' x '.join(map(str, shape))}")
    return tuple(side // factor for side in shape)


def stored_scale(rule: str, factor: int, dimension: int = 2) -> float:
    """Return what a stored coarse number is multiplied by: 1 / factor^d for block means, else 1.

    Raises BadInput where int16 would not hold the sums of a block.
    """
    if rule != "block_mean":
        return 1.0
    if factor**dimension > _MOST_SITES:
        largest = int(_MOST_SITES ** (1.0 / dimension))
        raise BadInput("--factor", factor, f"at most {largest} for block means")
    return 1.0 / float(factor**dimension)


def _totals(values: NDArray[Any], factor: int, dtype: type, dimension: int = 2) -> NDArray[Any]:
    """Return block totals over the last axes; adding strided slices is many times faster than
    a sum over several axes."""
    totals: NDArray[Any] = values
    for axis in range(-dimension, 0):
        parts = [_every(totals, axis, i, factor) for i in range(factor)]
        totals = parts[0].astype(dtype)
        for part in parts[1:]:
            totals += part
    return totals


def _every(values: NDArray[Any], axis: int, start: int, step: int) -> NDArray[Any]:
    """Return values[..., start::step, ...] along `axis`, counted from the end."""
    index: Any = (..., slice(start, None, step), *[slice(None)] * (-1 - axis))
    part: NDArray[Any] = values[index]
    return part


def corners(lattices: NDArray[Any], factor: int, dimension: int) -> NDArray[Any]:
    """Return the site (0, 0) of every block, a copy."""
    index: Any = (..., *[slice(None, None, factor)] * dimension)
    return np.ascontiguousarray(lattices[index])


def block_sums(spins: NDArray[np.int8], factor: int, dimension: int = 2) -> NDArray[np.int32]:
    """Return the sums over blocks of `spins` (..., Ly, Lx) or (..., Lz, Ly, Lx), as int32."""
    coarse_shape(spins.shape[-dimension:], factor)
    return _totals(spins, factor, np.int32, dimension)


def state_counts(
    states: NDArray[np.int8], q: int, factor: int, dimension: int = 2
) -> NDArray[np.int16]:
    """Return how many sites of each block are in each state, (n, q, Ly / factor, Lx / factor).

    Parameters
    ----------
    states : (n, Ly, Lx) int8 of 0 .. q-1, or of as many axes as `dimension` says.
    """
    coarse_shape(states.shape[-dimension:], factor)
    stored_scale("block_mean", factor, dimension)
    counts = [_totals(states == state, factor, np.int16, dimension) for state in range(q)]
    return np.stack(counts, axis=1)


def coarsen_spins(
    spins: NDArray[np.int8],
    rule: str,
    factor: int,
    *,
    tie_seed: int = 0,
    sample_ids: NDArray[np.integer[Any]] | None = None,
) -> NDArray[Any]:
    """Coarse-grain spin lattices to the numbers a coarse store keeps.

    Parameters
    ----------
    spins : (n, Ly, Lx) or (n, Lz, Ly, Lx) int8 of +-1.
    rule : one of RULES.
    factor : side of a block; a whole number of at least 2 that divides every side.
    tie_seed, sample_ids : name the fair coins that decide ties of `majority` (`tie_coins`);
        `sample_ids` defaults to 0 .. n-1.

    Returns
    -------
    (n, Ly / factor, Lx / factor), and so in 3D: `block_mean` int16 block sums (mean = sum /
    factor^d), `majority` int8 signs of the block sums, `decimate` int8 spins of the sites (0, 0)
    of the blocks, `spectral` float32 field (`Spectral`, 2D).

    Raises
    ------
    BadInput : for an unknown rule, a factor that cannot be used, or `spectral` in 3D.
    """
    shape = spins.shape[1:]
    coarse_field(rule, 0, len(shape))
    coarse = coarse_shape(shape, factor)
    if rule == "decimate":
        return corners(spins, factor, len(shape))
    if rule == "spectral":
        return coarsen_fields(spins, rule, factor)
    if rule == "block_mean":
        stored_scale(rule, factor, len(shape))
        return block_sums(spins, factor, len(shape)).astype(np.int16)
    sums = block_sums(spins, factor, len(shape))
    signs = np.sign(sums).astype(np.int8)
    if factor % 2 == 0:
        ids = np.arange(len(spins)) if sample_ids is None else sample_ids
        signs = np.where(signs == 0, tie_coins(tie_seed, ids, coarse), signs)
    return signs


def coarsen_states(
    states: NDArray[np.int8],
    q: int,
    rule: str,
    factor: int,
    *,
    tie_seed: int = 0,
    sample_ids: NDArray[np.integer[Any]] | None = None,
) -> NDArray[Any]:
    """Coarse-grain Potts lattices to the numbers a coarse store keeps.

    Parameters
    ----------
    states : (n, Ly, Lx) int8 of 0 .. q-1.
    q : number of states.
    rule, factor : as for `coarsen_spins`.
    tie_seed, sample_ids : name the priorities that decide ties of `majority`
        (`tie_priorities`); `sample_ids` defaults to 0 .. n-1.

    Returns
    -------
    `block_mean` (n, q, Ly / factor, Lx / factor) int16, the number of a block's sites in each
    state; `majority` (n, Ly / factor, Lx / factor) int8, the commonest state of each block, of
    several the one of largest priority; `decimate` int8 states of the sites (0, 0).

    Raises
    ------
    BadInput : for an unknown rule, `spectral`, or a factor that cannot be used.
    """
    coarse_field(rule, q)
    shape = states.shape[1:]
    coarse = coarse_shape(shape, factor)
    if rule == "decimate":
        return corners(states, factor, len(shape))
    counts = state_counts(states, q, factor, len(shape))
    if rule == "block_mean":
        return counts
    ids = np.arange(len(states)) if sample_ids is None else sample_ids
    order = counts.astype(np.int32) * q + tie_priorities(tie_seed, ids, coarse, q)
    commonest: NDArray[np.int8] = order.argmax(axis=1).astype(np.int8)
    return commonest


def coarsen_fields(fields: NDArray[Any], rule: str, factor: int) -> NDArray[np.float32]:
    """Coarse-grain real fields, (n, Ly, Lx) or (n, Lz, Ly, Lx), to float32.

    `block_mean` gives the means of blocks, `decimate` the values at their sites (0, 0), `spectral`
    the field of `Spectral`. Raises BadInput for `majority`, and as `coarsen_spins` does.
    """
    shape = fields.shape[1:]
    coarse_field(rule, 0, len(shape), real=True)
    coarse_shape(shape, factor)
    wide = fields.astype(np.float64)
    if rule == "decimate":
        kept = corners(wide, factor, len(shape))
    elif rule == "spectral":
        kept = Spectral(shape, factor).apply(wide)
    else:
        kept = _totals(wide, factor, np.float64, len(shape)) / factor ** len(shape)
    return kept.astype(np.float32)


def coarsen_lattices(
    lattices: NDArray[Any],
    q: int,
    rule: str,
    factor: int,
    *,
    tie_seed: int = 0,
    sample_ids: NDArray[np.integer[Any]] | None = None,
) -> NDArray[Any]:
    """Coarse-grain what a store holds: states if q > 0, fields if floating-point, or spins."""
    if lattices.dtype.kind == "f":
        return coarsen_fields(lattices, rule, factor)
    if q:
        return coarsen_states(lattices, q, rule, factor, tie_seed=tie_seed, sample_ids=sample_ids)
    return coarsen_spins(lattices, rule, factor, tie_seed=tie_seed, sample_ids=sample_ids)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's output for the states `bits` (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _block_hashes(
    tie_seed: int, sample_ids: NDArray[np.integer[Any]], shape: tuple[int, ...]
) -> NDArray[np.uint64]:
    """Return 64 bits a block, (n, *shape): a keyed hash of (tie_seed, sample id, [z,] y, x)."""
    if isinstance(tie_seed, bool) or not isinstance(tie_seed, numbers.Integral):
        raise BadInput("--tie-seed", tie_seed, "a whole number in 0 .. 2^64 - 1")
    if not 0 <= tie_seed < 2**64:
        raise BadInput("--tie-seed", tie_seed, "a whole number in 0 .. 2^64 - 1")
    key = _mix(np.array([int(tie_seed)], dtype=np.uint64))
    bits = _mix(key ^ np.asarray(sample_ids).astype(np.uint64))
    for side in shape:
        bits = _mix(bits[..., None] ^ np.arange(side, dtype=np.uint64))
    return bits


def tie_coins(
    tie_seed: int, sample_ids: NDArray[np.integer[Any]], shape: tuple[int, ...]
) -> NDArray[np.int8]:
    """Return one fair coin a block, the same whenever and in whatever order it is asked for.

    A coin is a bit of a keyed hash of (tie_seed, sample id, [z,] y, x), and of nothing else.

    Parameters
    ----------
    tie_seed : a whole number in 0 .. 2^64 - 1.
    sample_ids : (n,) whole numbers >= 0, the identities of the samples.
    shape : (Ly, Lx) or (Lz, Ly, Lx) of the coarse lattices.

    Returns
    -------
    (n, *shape) int8 of +-1.
    """
    bits = _block_hashes(tie_seed, sample_ids, shape)
    return np.where(bits >> np.uint64(63), 1, -1).astype(np.int8)


def tie_priorities(
    tie_seed: int, sample_ids: NDArray[np.integer[Any]], shape: tuple[int, ...], q: int
) -> NDArray[np.int8]:
    """Return a random order of the q states for each block, named as the coins of `tie_coins`.

    Every order is equally likely, so that among any tied states the one of largest priority is
    a fair draw.

    Parameters
    ----------
    tie_seed, sample_ids, shape : as for `tie_coins`.
    q : number of states.

    Returns
    -------
    (n, q, *shape) int8: at each block a permutation of 0 .. q-1, the priority of each state.
    """
    bits = _block_hashes(tie_seed, sample_ids, shape)
    # A hash of different numbers by a one-to-one function: no two keys are equal.
    keys = np.stack([_mix(bits ^ np.uint64(state)) for state in range(q)], axis=1)
    ranks = np.zeros(keys.shape, dtype=np.int8)
    for state in range(q):
        ranks += keys[:, state, None] < keys
    return ranks


class Operator(ABC):
    """A linear coarse-graining A of real fields on a torus; float64 in, float64 out.

    Fields have any leading batch dimensions. A constant field keeps its value.

    Parameters
    ----------
    shape : (Ly, Lx) of the fine fields; BadInput for any other dimension.
    factor : side b of a block; a whole number of at least 2 that divides Ly and Lx.

    Attributes
    ----------
    transfer : (Ly, Lx // 2 + 1) complex, h(k) of the module's docstring (rfft2 layout).
    """

    def __init__(self, shape: tuple[int, ...], factor: int) -> None:
        if len(shape) != 2:
            accepted = f"2D lattices, not {len(shape)}D"
            raise BadInput("lattice", " x ".join(map(str, shape)), accepted)
        self.coarse = coarse_shape(shape, factor)
        self.shape = shape
        self.factor = int(factor)
        y, x = self._transfer(shape[0]), self._transfer(shape[1])
        self.transfer = y[:, None] * x[None, : shape[1] // 2 + 1]

    @abstractmethod
    def _transfer(self, side: int) -> NDArray[np.complex128]:
        """Return h along one axis, in FFT order; the operators are products over the axes."""

    def _filter(self, fields: Array, transfer: NDArray[np.complex128]) -> Array:
        return np.fft.irfft2(np.fft.rfft2(fields) * transfer, s=self.shape)

    def apply(self, x: Array) -> Array:
        """Return A x, shape (..., Ly / b, Lx / b), of `x` (..., Ly, Lx)."""
        kept = self._filter(x, self.transfer)[..., :: self.factor, :: self.factor]
        return np.ascontiguousarray(kept)

    def adjoint(self, y: Array) -> Array:
        """Return A^T y, shape (..., Ly, Lx), of `y` (..., Ly / b, Lx / b)."""
        sparse = np.zeros(y.shape[:-2] + self.shape)
        sparse[..., :: self.factor, :: self.factor] = y
        return self._filter(sparse, self.transfer.conj())

    def correction_weights(self, sigma: Array) -> NDArray[np.complex128]:
        """Return W(k) = Sigma(k) conj(h(k)) b / sum over the alias set of |h|^2 Sigma.

        `correct` adds W(k) times the orthonormal DFT of y - A x at k mod (Ly/b, Lx/b). Zero where
        an alias set has no variance: there nothing may move.
        """
        (ly, lx), b = self.coarse, self.factor
        scaled = np.asarray(sigma, dtype=np.float64) / max(float(np.max(sigma)), 1e-300)
        seen = np.abs(self.transfer) ** 2 * scaled
        mirror = np.arange(1, (self.shape[1] + 1) // 2)[::-1]
        flipped = seen[-np.arange(self.shape[0]) % self.shape[0]][:, mirror]
        whole = np.concatenate([seen, flipped], axis=1)
        total = whole.reshape(b, ly, b, lx).sum(axis=(0, 2))
        inverse = np.divide(b, total, out=np.zeros_like(total), where=total > 1e-200)
        columns = np.arange(self.transfer.shape[1]) % lx
        whole = np.tile(inverse, (b, 1))[:, columns]
        weights: NDArray[np.complex128] = scaled * self.transfer.conj() * whole
        return weights

    def correct(self, x: Array, y: Array, sigma: Array) -> Array:
        """Return x + Sigma A^T (A Sigma A^T)^-1 (y - A x): the mean of N(x, Sigma) given A x = y.

        Parameters
        ----------
        x : (..., Ly, Lx) fields; y : (..., Ly / b, Lx / b) their coarse values.
        sigma : (Ly, Lx // 2 + 1) variances >= 0 of the rfft2 modes, equal for k and -k.

        Returns
        -------
        (..., Ly, Lx), with A of it equal to `y` to rounding wherever `sigma` lets it be.
        """
        (_, lx), b = self.coarse, self.factor
        missing = np.fft.fft2(y - self.apply(x), norm="ortho")
        columns = np.arange(self.transfer.shape[1]) % lx
        spread = np.concatenate([missing[..., columns]] * b, axis=-2)
        modes = self.correction_weights(sigma) * spread
        return x + np.fft.irfft2(modes, s=self.shape, norm="ortho")


class BlockMean(Operator):
    """The mean over each b x b block; A A^T = 1 / b^2."""

    def _transfer(self, side: int) -> NDArray[np.complex128]:
        angles = 2.0 * np.pi * np.fft.fftfreq(side)
        phases = np.exp(1j * np.outer(angles, np.arange(self.factor)))
        transfer: NDArray[np.complex128] = phases.mean(axis=1)
        return transfer

    def apply(self, x: Array) -> Array:
        """Return the block means, shape (..., Ly / b, Lx / b)."""
        means: Array = _totals(x, self.factor, np.float64) / self.factor**2
        return means

    def adjoint(self, y: Array) -> Array:
        """Return `y` / b^2 on every site of its block."""
        b = self.factor
        return np.repeat(np.repeat(y / b**2, b, axis=-2), b, axis=-1)


class Decimate(Operator):
    """The value at site (0, 0) of each block; A A^T = 1."""

    def _transfer(self, side: int) -> NDArray[np.complex128]:
        return np.ones(side, dtype=np.complex128)

    def apply(self, x: Array) -> Array:
        """Return the kept sites, shape (..., Ly / b, Lx / b)."""
        return np.ascontiguousarray(x[..., :: self.factor, :: self.factor])

    def adjoint(self, y: Array) -> Array:
        """Return `y` on the kept sites and 0 elsewhere."""
        x = np.zeros(y.shape[:-2] + self.shape)
        x[..., :: self.factor, :: self.factor] = y
        return x


class Spectral(Operator):
    """The modes inside the coarse box, with amplitude 1 / b; A A^T = 1 / b^2.

    In the orthonormal DFT y(K) = x(K) / b for |K| below the coarse Nyquist mode. For an even
    coarse side the fine modes +-side/2 meet in the one coarse Nyquist mode; each enters with
    weight 1 / sqrt 2 (an axis), so that A A^T is the same for every mode and white noise
    coarse-grains to white noise.
    """

    def _transfer(self, side: int) -> NDArray[np.complex128]:
        edge = side // self.factor
        twice = 2 * np.abs(np.rint(np.fft.fftfreq(side) * side))
        inside = np.where(twice < edge, 1.0, np.where(twice == edge, 0.5**0.5, 0.0))
        return inside.astype(np.complex128)


OPERATORS: dict[str, type[Operator]] = {
    "block_mean": BlockMean,
    "decimate": Decimate,
    "spectral": Spectral,
}


def operator(rule: str, shape: tuple[int, ...], factor: int) -> Operator:
    """Return the linear operator of `rule`; raises BadInput for `majority`, which has none."""
    if rule not in OPERATORS:
        raise BadInput("--rule", rule, "a linear rule: " + ", ".join(OPERATORS))
    return OPERATORS[rule](shape, factor)
