"""What every coarse-graining rule says of itself; sites that go together are blocks of b^d.

A block is the square (in 3D the cube) of factor^d sites whose corner (0, 0) is a multiple of the
factor. The variables of a store name what sites hold: `spins`, `states` (of q), `field`.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.plugins import load_plugins, look_up, one_of

if TYPE_CHECKING:
    from skild_phys.rules.conditions import Constraint
    from skild_phys.rules.moves import Moves

Array: TypeAlias = NDArray[np.float64]
Raw: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Ties: TypeAlias = NDArray[np.int8] | None

RULES: dict[str, Rule] = {}
"""The rules by name; `RULES["mine"] = Mine()`, or an entry point of the group
`skild_phys.rules`, adds one."""

_DEFAULT = "block_mean"

# -- blocks -------------------------------------------------------------------------------------


def coarse_shape(shape: Shape, factor: int) -> Shape:
    """Return the sides / factor; raises BadInput unless `factor` >= 2 divides each of them."""
    factor = check_whole("factor", factor, 2)
    if any(side == 0 or side % factor for side in shape):
        sides = "both sides" if len(shape) == 2 else "all sides"
        raise BadInput("factor", factor, f"a divisor of {sides} of {' x '.join(map(str, shape))}")
    return tuple(side // factor for side in shape)


@functools.cache
def corners(factor: int, dimension: int, at: int = 0) -> Any:
    """Return the index of the site (at, at, ..) of every block, of arrays and tensors."""
    return (..., *[slice(at, None, factor)] * dimension)


def to_blocks(fine: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return what the sites of every block hold, (blocks, factor^d), both in C order."""
    d = fine.ndim
    split = fine.reshape([n for side in fine.shape for n in (side // factor, factor)])
    order = (*range(0, 2 * d, 2), *range(1, 2 * d, 2))
    return np.ascontiguousarray(split.transpose(order).reshape(-1, factor**d))


class Operator(ABC):
    """A linear coarse-graining A of real fields on a torus; float64 in, float64 out.

    "Filter, then keep every b-th site": in the orthonormal DFT y(K) = b^(-d/2) sum over k = K mod
    (sides / b) of h(k) x(k), a sum over the alias set of K with a transfer function h, a product
    over the axes. Hence A Sigma A^T is diagonal in K for every Sigma that is diagonal in k, and no
    solver is needed. A constant field keeps its value. Fields have any leading dimensions.

    Parameters
    ----------
    shape : sides of the fine fields, (Ly, Lx) or (Lz, Ly, Lx), each a multiple of `factor`.
    factor : side b of a block.

    Attributes
    ----------
    coarse : sides of the coarse fields.
    transfer : (.., Ly, Lx // 2 + 1) complex, h(k) (rfftn layout).
    """

    def __init__(self, shape: Shape, factor: int) -> None:
        self.coarse = coarse_shape(shape, factor)
        self.shape, self.factor = shape, int(factor)
        self._axes = tuple(range(-len(shape), 0))
        self._corners = corners(self.factor, len(shape))
        each = [self.filter(side) for side in shape]
        each[-1] = each[-1][: shape[-1] // 2 + 1]
        self.transfer = functools.reduce(np.multiply.outer, each)

    @abstractmethod
    def filter(self, side: int) -> NDArray[np.complex128]:
        """Return h along one axis, in FFT order."""

    def _filtered(self, fields: Array, transfer: NDArray[np.complex128]) -> Array:
        modes = np.fft.rfftn(fields, axes=self._axes) * transfer
        return np.fft.irfftn(modes, s=self.shape, axes=self._axes)

    def apply(self, x: Array) -> Array:
        """Return A x, (..., *coarse), of `x` (..., *shape)."""
        return np.ascontiguousarray(self._filtered(x, self.transfer)[self._corners])

    def adjoint(self, y: Array) -> Array:
        """Return A^T y, (..., *shape), of `y` (..., *coarse)."""
        x = np.zeros((*y.shape[: -len(self.shape)], *self.shape))
        x[self._corners] = y
        return self._filtered(x, self.transfer.conj())

    @staticmethod
    def whole(half: Array, shape: Shape) -> Array:
        """Return what modes of `rfftn` have, (.., *modes), for all modes of `fftn`."""
        mirror = np.arange(1, (shape[-1] + 1) // 2)[::-1]
        opposite = [-np.arange(side) % side for side in shape[:-1]]
        mirrored: Any = (..., *np.ix_(*opposite, mirror))
        return np.concatenate([half, half[mirrored]], axis=-1)

    def correct(self, x: Array, y: Array, sigma: Array) -> Array:
        """Return x + Sigma A^T (A Sigma A^T)^-1 (y - A x): the mean of N(x, Sigma) given A x = y.

        In Fourier modes: y - A x at k modulo the coarse sides, times Sigma(k) conj(h(k)) b^(d/2) /
        sum over the alias set of |h|^2 Sigma. Where an alias set has no variance nothing moves.

        Parameters
        ----------
        x : (..., *shape) fields; y : (..., *coarse) their coarse values.
        sigma : (.., Ly, Lx // 2 + 1) variances >= 0 of the rfftn modes, equal for k and -k.

        Returns
        -------
        (..., *shape), with A of it equal to `y` to rounding wherever `sigma` lets it be.
        """
        b, d = self.factor, len(self.shape)
        missing = np.fft.fftn(y - self.apply(x), axes=self._axes, norm="ortho")
        scaled = np.asarray(sigma, dtype=np.float64) / max(float(np.max(sigma)), 1e-300)
        seen = np.abs(self.transfer) ** 2 * scaled
        split = [part for side in self.coarse for part in (b, side)]
        total = self.whole(seen, self.shape).reshape(split).sum(axis=tuple(range(0, 2 * d, 2)))
        unit = math.sqrt(float(b**d))
        inverse = np.divide(unit, total, out=np.zeros_like(total), where=total > 1e-200)
        columns, copies = np.arange(seen.shape[-1]) % self.coarse[-1], (*[b] * (d - 1), 1)
        inverse, missing = (np.tile(m[..., columns], copies) for m in (inverse, missing))
        modes = scaled * self.transfer.conj() * inverse * missing
        return x + np.fft.irfftn(modes, s=self.shape, axes=self._axes, norm="ortho")


@functools.lru_cache(maxsize=8)
def _built(kind: type[Operator], shape: Shape, factor: int) -> Operator:
    return kind(shape, factor)


# -- ties ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TieBreak:
    """What decides ties: a keyed hash of (seed, sample id, [z,] y, x), and of nothing else.

    The same whenever and in whatever order it is asked for.
    """

    seed: int
    """In 0 .. 2^64 - 1."""
    ids: NDArray[np.integer[Any]]
    """(n,) whole numbers >= 0, the identities of the samples."""

    def __post_init__(self) -> None:
        check_whole("tie_seed", self.seed, 0, 2**64 - 1)

    def _hashes(self, shape: Shape) -> NDArray[np.uint64]:
        key = _mix(np.array([int(self.seed)], dtype=np.uint64))
        bits = _mix(key ^ np.asarray(self.ids).astype(np.uint64))
        for side in shape:
            bits = _mix(bits[..., None] ^ np.arange(side, dtype=np.uint64))
        return bits

    def signs(self, shape: Shape) -> NDArray[np.int8]:
        """Return +1 or -1 for each block, (n, *shape) int8, with probability 1/2 each."""
        return np.where(self._hashes(shape) >> np.uint64(63), 1, -1).astype(np.int8)

    def priorities(self, shape: Shape, q: int) -> NDArray[np.int8]:
        """Return a random permutation of 0 .. q-1 for each block, (n, q, *shape) int8.

        Among tied states the one of largest priority is a fair choice.
        """
        bits = self._hashes(shape)
        # A hash of different numbers by a one-to-one function: no two keys are equal.
        keys = np.stack([_mix(bits ^ np.uint64(state)) for state in range(q)], axis=1)
        ranks = np.zeros(keys.shape, dtype=np.int8)
        for state in range(q):
            ranks += keys[:, state, None] < keys
        return ranks


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's output for the states `bits` (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


# -- rules --------------------------------------------------------------------------------------


class Rule(ABC):
    """A coarse-graining rule: all that the package needs to know of one.

    A rule of one's own gives `reduce` or `linear`, and what else it can.

    Attributes
    ----------
    name : by which commands and stores call it.
    stores : variable of a fine store -> variable of the coarse one; what is missing is refused.
    ties : whether ties need a tie-break (`tie_seed`).
    suffix : of the names of coarse stores, if other than the name.
    linear : class of the operator that the rule is on fields; None if it is not linear.
    binds : whether refined spins coarse-grain to the coarse values again, bit for bit.
    exact : whether there are Monte Carlo moves that keep the coarse values.
    end_lambda : where a chain of spins ends; None for where the weights say.
    shown : whether training gives a part of its samples what coarse configurations by it say.
    """

    name: ClassVar[str]
    stores: ClassVar[Mapping[str, str]]
    linear: ClassVar[type[Operator] | None] = None
    ties: ClassVar[bool] = False
    binds: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    suffix: ClassVar[str | None] = None
    end_lambda: ClassVar[float | None] = None
    shown: ClassVar[bool] = False

    def variable(self, kind: str) -> str:
        """Return the variable that holds what becomes of `kind` (spins, states, field); BadInput
        for what this rule does not coarse-grain."""
        if kind not in self.stores:
            able = [rule.name for rule in RULES.values() if kind in rule.stores]
            what = {"states": "Potts states", "field": "fields"}.get(kind, kind)
            raise BadInput("rule", self.name, f"{one_of(able)} for {what}")
        return self.stores[kind]

    def scale(self, kind: str, factor: int, dimension: int) -> float:
        """Return what a stored coarse number is multiplied by; 1 unless counted."""
        return 1.0

    def coarsen(
        self,
        fine: NDArray[Any],
        factor: int,
        *,
        q: int = 0,
        dimension: int | None = None,
        ties: TieBreak | None = None,
    ) -> NDArray[Any]:
        """Coarse-grain samples to the numbers that a coarse store keeps.

        Parameters
        ----------
        fine : (n, Ly, Lx) or (n, Lz, Ly, Lx): int8 spins +-1, int8 states 0 .. q-1, or real
            fields, with components (n, k, ..) if `dimension` says so.
        factor : side of a block; a whole number of at least 2 that divides every side.
        q : number of states; 0 for spins and fields.
        dimension : of the lattice, its last axes; None for all but the first.
        ties : the tie-break; by default of seed 0 and samples 0 .. n-1.

        Raises
        ------
        BadInput : for samples that the rule is not for, or a factor that cannot be used.
        """
        d = fine.ndim - 1 if dimension is None else dimension
        kind = _kind_of(fine, q)
        self.variable(kind)
        coarse_shape(fine.shape[-d:], factor)
        self.scale(kind, factor, d)
        return self.reduce(fine, factor, d, q, ties or TieBreak(0, np.arange(len(fine))))

    def reduce(self, fine: Raw, factor: int, dimension: int, q: int, ties: TieBreak) -> Raw:
        """Return what `coarsen` does, of checked arguments; by the operator if not overridden."""
        found = self.operator(fine.shape[-dimension:], factor).apply(fine.astype(np.float64))
        if self.stores[_kind_of(fine, q)] == "field":
            return found.astype(np.float32)
        return np.rint(found).astype(np.int8)

    def agrees(
        self, fine: Raw, raw: Raw, factor: int, q: int, ties: TieBreak | None
    ) -> NDArray[np.bool_]:
        """Return where `fine` coarse-grains to `raw`; without a tie-break where it may."""
        return np.asarray(self.coarsen(fine, factor, q=q, ties=ties) == raw)

    def read(self, values: Raw, factor: int, dimension: int, where: str) -> Raw:
        """Return a user's own numbers as a coarse store of spins would keep them.

        StoreError, naming `where`, for what the rule cannot make of spins.
        """
        if self.variable("spins") == "field":
            return values.astype(np.float32)
        if not np.isin(values, (-1, 1)).all():
            raise StoreError(
                f"{where}: holds fields, not spins of -1 and +1 (from 0 and 1: 2*s.astype('i1')-1);"
                " to refine fields takes weights of fields"
            )
        return values.astype(np.int8)

    def operator(self, shape: Shape, factor: int) -> Operator:
        """Return the linear operator A that the rule is on fields of `shape`; BadInput if none."""
        if self.linear is not None:
            return _built(self.linear, tuple(shape), check_whole("factor", factor, 2))
        linear = [rule.name for rule in RULES.values() if "field" in rule.stores]
        raise BadInput("rule", self.name, "a linear rule: " + ", ".join(linear))

    def proxy(self, shape: Shape, factor: int) -> Operator:
        """Return the operator by which the start of a chain is moved: A, or what is near it."""
        return self.operator(shape, factor)

    def values(self, raw: Raw, seen: Operator, power: Array) -> Array:
        """Return what `seen` (`proxy`) gave where a store keeps `raw`; `power` as in `correct`."""
        return np.asarray(raw, dtype=np.float64)

    def condition(self, raw: Raw, shape: Shape, factor: int, ties: Ties, device: Any) -> Constraint:
        """Return the condition that coarse values `raw` are on spins of `shape`, for SKILD.

        `ties` (n, *coarse shape) are the tie-breaks, 0 where they are not known; None where no
        tie is. `device` is PyTorch's. `rules.conditions` has conditions to choose from.
        """
        raise BadInput("rule", self.name, "a rule with a condition on spins")

    def moves(self, shape: Shape, factor: int, values: tuple[int, ...], coupling: float) -> Moves:
        """Return the moves that keep coarse values; arguments of `rules.moves.Moves`."""
        able = one_of(rule.name for rule in RULES.values() if rule.exact)
        raise BadInput("rule", self.name, f"{able} (rules that bind spins)")


def _kind_of(values: NDArray[Any], q: int) -> str:
    """Return the variable that samples would be stored as: field, states or spins."""
    return "field" if values.dtype.kind == "f" else "states" if q else "spins"


def get_rule(rule: str | Rule | None) -> Rule:
    """Return the rule of that name (None: block means), or the rule itself; raises BadInput."""
    if isinstance(rule, Rule):
        return rule
    name = _DEFAULT if rule is None else rule
    return RULES.get(name) or look_up(RULES, "skild_phys.rules", "rule", name)


def all_rules() -> dict[str, Rule]:
    """Return every rule, those of installed packages among them."""
    return load_plugins(RULES, "skild_phys.rules")
