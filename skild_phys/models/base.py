"""What a lattice model says of itself: sites, bonds, energy, symmetries, updates."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

import skild_phys.kernels  # noqa: F401
from skild_phys.errors import BadInput
from skild_phys.plugins import load_plugins
from skild_phys.rng import kernel_state, next_u64, normal

Array: TypeAlias = NDArray[np.float64]
State: TypeAlias = NDArray[np.uint64]
_Symmetry: TypeAlias = tuple[int, ...] | Callable[[NDArray[Any]], NDArray[Any]]


MODELS: dict[str, Model] = {}
"""Every model by its name; `MODELS["mine"] = model` adds one, as does an entry point of the group
`skild_phys.models`."""

LARGEST_SIDE = {2: 2**15, 3: 2**10}
"""By dimension; what memory and int32 counts of sites hold."""


class Bond(NamedTuple):
    """A bond of every site to the one at `offset` from it, slowest axis first; `strength` in J."""

    offset: tuple[int, ...]
    strength: float = 1.0


@dataclass(frozen=True)
class Update:
    """A Markov chain update that leaves the Gibbs distribution of a model invariant.

    Attributes
    ----------
    advance : (configurations (replicas, ...), model, T, generator state, updates): changes
        configurations and state in place. How many updates one call makes must not matter.
    name : by which commands and stores call it.
    unit : what one update is called: `cluster` or `sweep`.
    stream : (seed, *key) -> generator state: `rng.kernel_state` (4,), or `rng.lane_state`.
    replicas : chains that advance together.
    local : whether it updates site by site; autocorrelations then grow as L^2.17.
    even_sides : whether sides must be even, as for a checkerboard.
    pace : nanoseconds per update and site, roughly; says only how often a run looks up.
    """

    advance: Callable[[NDArray[Any], Any, float, State, int], object]
    name: str = ""
    unit: str = "sweep"
    stream: Callable[..., State] = kernel_state
    replicas: int = 1
    local: bool = True
    even_sides: bool = False
    pace: float = 10.0


def _one_lattice(function: Any, x: NDArray[Any], *more: Any) -> None:
    """Call a plain update (lattice, model, T, generator state, updates) as an `Update.advance`."""
    function(x[0], *more)


@dataclass(frozen=True)
class Model(ABC):
    """A Hamiltonian on a periodic lattice; J = k_B = 1.

    A subclass gives `energy` and `order_parameter`; fields that it adds, which need defaults, are
    the parameters of its Hamiltonian. An instance is handed to `skild_phys.simulate`, or put
    into `MODELS` under its name. A lattice two sites wide has two bonds between each pair of
    neighbours along that axis, one each way round.

    Attributes
    ----------
    name : by which commands and stores call it.
    dimension : of the lattice: 2 (y, x) or 3 (z, y, x).
    values : what a site may hold, as int8; none for real numbers.
    field : the variable that holds configurations: `spins` (+-1), `states` (0 .. q - 1) or
        `field` (real numbers).
    critical_temperature : in J / k_B; NaN if there is none, or it is not known.
    symmetries : what may be done to every site at once without a cost in energy, the identity
        among them. For discrete values tuples as long as `values`, what each of them becomes;
        else functions of an array, such as `numpy.positive` and `numpy.negative`. None by
        default: samples are then stored as the updates leave them.
    bond : energy, in J, that breaking a bond between equal values costs, if the Hamiltonian is a
        sum over `bonds` of such terms and nothing else; None (the default) for any other.
        Fortuin-Kasteleyn clusters and exact conditional sampling need it.
    dtype : of a site: int8 of discrete values, float64 or float32 of a `field`.
    components : numbers per site; with k > 1 a configuration is an array (k, Ly, Lx).
    bonds : half of the bonds of a site, by default to the nearest neighbour along each axis.
    updates : by name, `Update` or plain functions (configuration, model, T, generator state,
        updates) that change both in place; the first is the default. Models with a `bond` have
        others besides (`simulation.spec.ALGORITHMS`).
    source : where the critical temperature is from.
    """

    name: str
    dimension: int
    values: tuple[int, ...] = ()
    field: str = "field"
    critical_temperature: float = math.nan
    symmetries: tuple[_Symmetry, ...] = ()
    bond: float | None = None
    dtype: str = "int8"
    components: int = 1
    bonds: tuple[Bond, ...] = ()
    updates: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.bonds:
            unit = np.eye(self.dimension, dtype=int)[::-1].tolist()
            object.__setattr__(self, "bonds", tuple(Bond(tuple(offset)) for offset in unit))
        known = {
            name: dataclasses.replace(update, name=name)
            if isinstance(update, Update)
            else Update(functools.partial(_one_lattice, update), name)
            for name, update in self.updates.items()
        }
        object.__setattr__(self, "updates", known)

    @abstractmethod
    def energy(self, lattices: NDArray[Any]) -> Array:
        """Return the energy per site, in J, of (..., Ly, Lx) or (..., Lz, Ly, Lx)."""

    @abstractmethod
    def order_parameter(self, lattices: NDArray[Any]) -> Array:
        """Return the order parameter per site, of the same shapes."""

    def cold(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return configurations (replicas, ...) whose sites are all equal, to start from."""
        return np.full(shape, self.values[-1] if self.values else 0, dtype=self.dtype)

    def random(self, shape: tuple[int, ...], state: State) -> NDArray[Any]:
        """Return configurations (replicas, ...) of independent sites, to start from.

        Each of `values` is as likely; real numbers are normal. `state` (4,) advances in place.
        """
        lattices = np.empty(shape, dtype=self.dtype)
        values = np.array(self.values, dtype=self.dtype)
        _fill(lattices.reshape(-1), values, state)
        return lattices

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the Hamiltonian besides J: fields that a subclass adds."""
        common = {f.name for f in dataclasses.fields(Model)}
        added = [f.name for f in dataclasses.fields(self) if f.name not in common]
        return {name: getattr(self, name) for name in added}

    @property
    def nearest(self) -> bool:
        """Whether the bonds are those to nearest neighbours, of strength 1."""
        return all(b.strength == 1.0 and sum(map(abs, b.offset)) == 1 for b in self.bonds)

    @property
    def q(self) -> int:
        """The number of Potts states; 0 for spins and real numbers."""
        return len(self.values) if self.field == "states" else 0

    @property
    def even(self) -> bool:
        """Whether a change of sign of all values is a symmetry."""
        return (tuple(-value for value in self.values) or np.negative) in self.symmetries

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of an array that are the lattice's: the last `dimension`."""
        return tuple(range(-self.dimension, 0))

    def sites(self, lattices: NDArray[Any]) -> int:
        """Return the number of sites of one configuration."""
        return math.prod(lattices.shape[-self.dimension :])

    def site_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one configuration: components first if there are several."""
        return (self.components, *shape) if self.components > 1 else shape

    def turned(self, number: int, lattices: NDArray[Any]) -> NDArray[Any]:
        """Return configurations under symmetry `number`."""
        symmetry = self.symmetries[number]
        if callable(symmetry):
            return symmetry(lattices)
        becomes = np.zeros(256, dtype=np.int8)
        becomes[np.array(self.values, dtype=np.int8).view(np.uint8)] = symmetry
        return becomes.take(lattices.view(np.uint8))


@njit(cache=True, nogil=True)
def _fill(flat, values, state):  # type: ignore[no-untyped-def]
    for site in range(flat.size):
        if values.size:
            bits = next_u64(state) >> np.uint64(32)
            flat[site] = values[np.int64((bits * np.uint64(values.size)) >> np.uint64(32))]
        else:
            flat[site] = normal(state)


def find_model(attrs: Mapping[str, Any]) -> Model | None:
    """Return the model that attributes of samples name, with its parameters; None if unknown."""
    if "model" not in attrs:
        return None
    name, known = str(attrs["model"]), attrs.get("couplings")
    model = MODELS.get(name) or load_plugins(MODELS, "skild_phys.models").get(name)
    if model is None or not isinstance(known, Mapping) or not model.parameters:
        return model
    return dataclasses.replace(model, **{k: v for k, v in known.items() if k in model.parameters})


def get_model(name: str) -> Model:
    """Return the model called `name`; raises BadInput naming the known ones."""
    model = find_model({"model": name})
    if model is None:
        raise BadInput("model", name, ", ".join(MODELS))
    return model


def parse_temperature(text: str | float, model: Model) -> float:
    """Return a temperature in J / k_B from a number, `Tc`, or a multiple such as `1.05Tc`."""
    match = re.fullmatch(r"\s*([0-9.eE+-]*?)\s*\*?\s*(T_?c)?\s*", str(text))
    tc, value = model.critical_temperature, math.nan
    if match is not None and any(match.groups()):
        with contextlib.suppress(ValueError):
            value = float(match[1] or 1.0) * (tc if match[2] else 1.0)
    if not (math.isfinite(value) and value > 0):
        multiples = ", Tc, or a multiple such as 1.05Tc" if math.isfinite(tc) else ""
        raise BadInput("T", str(text), f"a positive number{multiples}")
    return value


def row_parity(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the parity of y (2D) or y + z (3D) of every row of a lattice (..., Lx)."""
    return np.asarray(np.indices(shape[:-1]).sum(axis=0).ravel() % 2)


@functools.lru_cache(maxsize=16)
def neighbour_sites(
    shape: tuple[int, ...], offsets: tuple[tuple[int, ...], ...] | None = None
) -> NDArray[np.int64]:
    """Return the sites beside each site, numbered in C order, (sites, 2 n) int64.

    By offset (default: the nearest neighbours, the fastest axis first): there, and as far back.
    """
    number, axes = np.arange(math.prod(shape)).reshape(shape), tuple(range(len(shape)))
    steps = [
        np.array(offset) * sign
        for offset in offsets or np.eye(len(shape), dtype=int)[::-1]
        for sign in (-1, 1)
    ]
    table = np.stack([np.roll(number, step, axes).ravel() for step in steps], axis=1)
    table.flags.writeable = False
    return table


@functools.lru_cache(maxsize=16)
def neighbour_rows(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the rows beside each row, (rows, 2 (d - 1)) int64: before and after, by axis."""
    back = -np.eye(len(shape) - 1, dtype=int)
    return neighbour_sites(shape[:-1], tuple(map(tuple, back.tolist())))


@njit(cache=True, nogil=True)
def _equal_bonds(rows, before, out):  # type: ignore[no-untyped-def]
    count, height, width = rows.shape
    for n in range(count):
        total = np.int64(0)
        for r in range(height):
            row = rows[n, r]
            same = np.int64(row[0] == row[width - 1])
            for x in range(1, width):
                same += np.int64(row[x] == row[x - 1])
            for axis in range(before.shape[1]):
                near = rows[n, before[r, axis]]
                for x in range(width):
                    same += np.int64(row[x] == near[x])
            total += same
        out[n] = total


def equal_bonds(lattices: NDArray[np.int8], dimension: int) -> NDArray[np.int64]:
    """Return how many bonds of each configuration join two equal values.

    Parameters
    ----------
    lattices : (..., Ly, Lx) or (..., Lz, Ly, Lx) int8, with `dimension` bonds per site.

    Returns
    -------
    (...) int64.
    """
    shape = lattices.shape[-dimension:]
    rows = np.ascontiguousarray(lattices).reshape(-1, math.prod(shape[:-1]), shape[-1])
    out = np.empty(len(rows), dtype=np.int64)
    _equal_bonds(rows, np.ascontiguousarray(neighbour_rows(shape)[:, ::2]), out)
    return out.reshape(lattices.shape[:-dimension])
