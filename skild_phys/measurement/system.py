"""What estimators know of a system, and a slice of its lattices with what they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from skild_phys.measurement import clusters, four_point, shells, structure_factor, two_point
from skild_phys.measurement.lattices import hamiltonian
from skild_phys.measurement.shells import Array
from skild_phys.models import Model
from skild_phys.store import Lattices

T = TypeVar("T")
Offsets = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class System:
    """What lattices are of.

    Attributes
    ----------
    shape : (Ly, Lx) or (Lz, Ly, Lx).
    field : `spins`, `states` or `field`, what a site holds.
    q : number of Potts states; 0 for spins and fields.
    model : the Hamiltonian that gives an energy; None if there is none.
    temperature : in J / k_B; NaN if it is not known.
    offsets : sets of four sites for the four-point function, besides squares.
    seed : of the bonds of FK clusters.
    """

    shape: tuple[int, ...]
    field: str
    q: int = 0
    model: Model | None = None
    temperature: float = math.nan
    offsets: tuple[Offsets, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, lattices: Lattices, *, offsets: tuple[Offsets, ...] = (), seed: int = 0) -> System:
        """Return the system of some lattices; coarse ones have no Hamiltonian."""
        model = hamiltonian(lattices)
        temperature = lattices.attrs.get("temperature") if model is not None else None
        known = float(temperature) if isinstance(temperature, float | int) else math.nan
        kind = lattices.field if lattices.field in ("spins", "states") else "field"
        for one in offsets:
            four_point.check_offsets(np.array(one, dtype=np.int64), lattices.shape)
        return cls(lattices.shape, kind, lattices.q, model, known, offsets, seed)

    @property
    def sites(self) -> int:
        """Number of sites."""
        return math.prod(self.shape)

    @property
    def bond(self) -> float:
        """What it costs to break a bond, in J (`Model.bond`); NaN where bonds are not all."""
        bond = self.model.bond if self.model is not None else None
        return math.nan if bond is None else bond

    @property
    def dimension(self) -> int:
        """Dimension of the lattice."""
        return len(self.shape)

    @property
    def sides(self) -> NDArray[np.int64]:
        """Sides of the squares of the four-point function."""
        return four_point.square_sides(self.shape)


class _kept(Generic[T]):
    """A property that is computed once.

    `functools.cached_property` of Python 3.11 holds one lock for all instances, so that no two
    threads would ever transform lattices at a time.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__
        self.name = compute.__name__

    def __get__(self, instance: Any, owner: type) -> T:
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value


class Slice:
    """A few lattices, and what several statistics of them are made of.

    Attributes
    ----------
    system : of the lattices.
    values : (n, *shape): spins and states int8, fields float64 in physical units.
    index : (n,) int64, their samples.
    total, squares : sums over the lattices of S(k) and S(k)^2, in the layout of rfftn; zero
        until `folded` has been asked for.
    """

    def __init__(self, system: System, values: NDArray[Any], index: NDArray[np.int64]) -> None:
        self.system, self.values, self.index = system, values, index
        layout = (*system.shape[:-1], system.shape[-1] // 2 + 1)
        self.total, self.squares = np.zeros(layout), np.zeros(layout)

    @_kept
    def folded(self) -> Array:
        """S(k) of each lattice, folded by its reflections."""
        return structure_factor.folded_structure_factor(
            self._components, self.system.dimension, self.total, self.squares
        )

    @_kept
    def _components(self) -> NDArray[Any]:
        if not self.system.q:
            return self.values
        return structure_factor.potts_components(self.values, self.system.q)

    def along_k(self) -> Array:
        """Return S along the longest axes, (n, L // 2 + 1)."""
        if "folded" in self.__dict__:
            return structure_factor.longest_axes_of(self.folded, self.system.shape)
        return structure_factor.along_longest_axes(self._components, self.system.shape)

    @_kept
    def correlation(self) -> Array:
        """G of each lattice at the folded separations."""
        return two_point.folded_two_point(self.folded, self.system.shape)

    @_kept
    def geometric(self) -> clusters.Clusters:
        """Clusters of equal neighbours."""
        return clusters.geometric_clusters(self.values, self.system.dimension)

    @_kept
    def fk(self) -> clusters.Clusters:
        """Fortuin-Kasteleyn clusters."""
        system = self.system
        return clusters.fk_clusters(
            self.values,
            system.dimension,
            system.temperature,
            system.bond,
            seed=system.seed,
            index=self.index,
        )

    @_kept
    def order(self) -> Array:
        """Mean of the field over each lattice, (n, 1), or of each Potts component, (n, q)."""
        axes = tuple(range(1, self.values.ndim))
        if not self.system.q:
            return np.asarray(self.values.mean(axis=axes, dtype=np.float64))[:, np.newaxis]
        q = self.system.q
        shares = [(self.values == a).mean(axis=axes, dtype=np.float64) for a in range(q)]
        return np.stack([math.sqrt(q / (q - 1.0)) * (s - 1.0 / q) for s in shares], axis=-1)

    def over_wave_shells(self) -> Array:
        """Return S averaged over shells of |k|, (n, shells)."""
        return shells.wave_shells(self.system.shape).average(self.folded)

    def over_distances(self) -> Array:
        """Return G averaged over shells of r, (n, shells)."""
        return shells.distance_shells(self.system.shape).average(self.correlation)
