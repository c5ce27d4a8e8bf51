"""Coarse-graining of lattices: integer rules for spins, linear operators for fields.

A block is the factor x factor square of sites whose corner (0, 0) is a multiple of the factor.
Block means, decimation and the spectral cut are all "filter, then keep every b-th site", so
that in the orthonormal DFT each is y(K) = (1/b) sum over k = K mod (Ly/b, Lx/b) of h(k) x(k):
a sum over the alias set of K, with a transfer function h of its own. Hence A Sigma A^T is
diagonal in K for every Sigma that is diagonal in k, and no solver is needed.
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
"""The name of the variable that holds the coarse lattice, by rule."""

_LARGEST_BLOCK = 181  # 181^2 is the last block sum that int16 holds


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


def coarse_shape(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return (Ly, Lx) / factor; raises BadInput unless `factor` >= 2 divides both sides."""
    factor = check_factor(factor)
    if any(side == 0 or side % factor for side in shape):
        raise BadInput("--factor", factor, f"a divisor of both sides of {shape[0]} x {shape[1]}")
    return shape[0] // factor, shape[1] // factor


def stored_scale(rule: str, factor: int) -> float:
    """Return what a stored coarse number is multiplied by: 1 / factor^2 for block sums, else 1.

    Raises BadInput where int16 would not hold the sums of a block.
    """
    if rule != "block_mean":
        return 1.0
    if factor > _LARGEST_BLOCK:
        raise BadInput("--factor", factor, f"at most {_LARGEST_BLOCK} for block means")
    return 1.0 / factor**2


def _totals(values: NDArray[Any], factor: int, dtype: type) -> NDArray[Any]:
    """Return block totals; adding strided slices is many times faster than sum over two axes."""
    rows: NDArray[Any] = values[..., ::factor, :].astype(dtype)
    for i in range(1, factor):
        rows += values[..., i::factor, :]
    totals = rows[..., ::factor].copy()
    for i in range(1, factor):
        totals += rows[..., i::factor]
    return totals


def block_sums(spins: NDArray[np.int8], factor: int) -> NDArray[np.int32]:
    """Return the sums over factor x factor blocks of `spins` (..., Ly, Lx), as int32."""
    coarse_shape((spins.shape[-2], spins.shape[-1]), factor)
    return _totals(spins, factor, np.int32)


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
    spins : (n, Ly, Lx) int8 of +-1.
    rule : one of RULES.
    factor : side of a block; a whole number of at least 2 that divides Ly and Lx.
    tie_seed, sample_ids : name the fair coins that decide ties of `majority` (`tie_coins`);
        `sample_ids` defaults to 0 .. n-1.

    Returns
    -------
    (n, Ly / factor, Lx / factor): `block_mean` int16 block sums (mean = sum / factor^2),
    `majority` int8 signs of the block sums, `decimate` int8 spins of the sites (0, 0) of the
    blocks, `spectral` float32 field (`Spectral`).

    Raises
    ------
    BadInput : for an unknown rule or a factor that cannot be used.
    """
    check_rule(rule)
    shape = (spins.shape[-2], spins.shape[-1])
    coarse = coarse_shape(shape, factor)
    if rule == "decimate":
        return np.ascontiguousarray(spins[:, ::factor, ::factor])
    if rule == "spectral":
        return Spectral(shape, factor).apply(spins.astype(np.float64)).astype(np.float32)
    if rule == "block_mean":
        stored_scale(rule, factor)
        return block_sums(spins, factor).astype(np.int16)
    sums = block_sums(spins, factor)
    signs = np.sign(sums).astype(np.int8)
    if factor % 2 == 0:
        ids = np.arange(len(spins)) if sample_ids is None else sample_ids
        signs = np.where(signs == 0, tie_coins(tie_seed, ids, coarse), signs)
    return signs


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's output for the states `bits` (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def tie_coins(
    tie_seed: int, sample_ids: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> NDArray[np.int8]:
    """Return one fair coin a block, the same whenever and in whatever order it is asked for.

    A coin is a bit of a keyed hash of (tie_seed, sample id, y, x) and depends on nothing else.

    Parameters
    ----------
    tie_seed : a whole number in 0 .. 2^64 - 1.
    sample_ids : (n,) whole numbers >= 0, the identities of the samples.
    shape : (Ly, Lx) of the coarse lattices.

    Returns
    -------
    (n, Ly, Lx) int8 of +-1.
    """
    if isinstance(tie_seed, bool) or not isinstance(tie_seed, numbers.Integral):
        raise BadInput("--tie-seed", tie_seed, "a whole number in 0 .. 2^64 - 1")
    if not 0 <= tie_seed < 2**64:
        raise BadInput("--tie-seed", tie_seed, "a whole number in 0 .. 2^64 - 1")
    key = _mix(np.array([int(tie_seed)], dtype=np.uint64))
    samples = _mix(key ^ np.asarray(sample_ids).astype(np.uint64))
    rows = _mix(samples[:, None] ^ np.arange(shape[0], dtype=np.uint64))
    sites = _mix(rows[:, :, None] ^ np.arange(shape[1], dtype=np.uint64))
    return np.where(sites >> np.uint64(63), 1, -1).astype(np.int8)


class Operator(ABC):
    """A linear coarse-graining A of real fields on a torus; float64 in, float64 out.

    Fields have any leading batch dimensions. A constant field keeps its value.

    Parameters
    ----------
    shape : (Ly, Lx) of the fine fields.
    factor : side b of a block; a whole number of at least 2 that divides Ly and Lx.

    Attributes
    ----------
    transfer : (Ly, Lx // 2 + 1) complex, h(k) of the module's docstring (rfft2 layout).
    """

    def __init__(self, shape: tuple[int, int], factor: int) -> None:
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


def operator(rule: str, shape: tuple[int, int], factor: int) -> Operator:
    """Return the linear operator of `rule`; raises BadInput for `majority`, which has none."""
    if rule not in OPERATORS:
        raise BadInput("--rule", rule, "a linear rule: " + ", ".join(OPERATORS))
    return OPERATORS[rule](shape, factor)
