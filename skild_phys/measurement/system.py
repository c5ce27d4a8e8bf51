"""What an observable is given: the system of the configurations, and a slice of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.models import Model, find_model
from skild_phys.store import Lattices

T = TypeVar("T")
Array = NDArray[np.float64]
Shape = tuple[int, ...]
Offsets = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class System:
    """The system that configurations are of.

    Attributes
    ----------
    shape : sides of the lattice, x last.
    field : `spins`, `states` or `field`, what a site holds.
    q : number of Potts states; 0 for spins and fields.
    model : the Hamiltonian that gives an energy; None if there is none.
    temperature : in J / k_B; NaN if it is not known.
    offsets : sets of four sites for the four-point function, besides squares.
    seed : of the bonds of FK clusters.
    components : numbers per site of a field; with k > 1 a sample is an array (k, *shape).
    """

    shape: Shape
    field: str
    q: int = 0
    model: Model | None = None
    temperature: float = math.nan
    offsets: tuple[Offsets, ...] = ()
    seed: int = 0
    components: int = 1

    @classmethod
    def of(cls, lattices: Lattices, *, offsets: tuple[Offsets, ...] = (), seed: int = 0) -> System:
        """Return the system of a store; a coarse one has no Hamiltonian."""
        model = hamiltonian(lattices)
        temperature = lattices.attrs.get("temperature") if model is not None else None
        known = float(temperature) if isinstance(temperature, float | int) else math.nan
        kind = lattices.field if lattices.field in ("spins", "states") else "field"
        for one in offsets:
            _check_offsets(np.array(one, dtype=np.int64), lattices.shape)
        components = lattices.layout.components
        return cls(lattices.shape, kind, lattices.q, model, known, offsets, seed, components)

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


class Slice:
    """A few configurations, and what several statistics of them are made of.

    Attributes
    ----------
    system : of the lattices.
    values : (n, *shape): spins and states int8, fields float64 in physical units; of fields with
        k components (n, k, *shape).
    index : (n,) int64, their samples.
    raw : the same as stored.
    total, squares : sums over the configurations of S(k) and S(k)^2, in the layout of rfftn; zero
        until the structure factor has been asked for.
    """

    def __init__(
        self,
        system: System,
        values: NDArray[Any],
        index: NDArray[np.int64],
        raw: NDArray[Any] | None = None,
    ) -> None:
        self.system, self.values, self.index = system, values, index
        self.raw = values if raw is None else raw
        layout = (*system.shape[:-1], system.shape[-1] // 2 + 1)
        self.total, self.squares = np.zeros(layout), np.zeros(layout)
        self._kept: dict[Callable[[Any], Any], Any] = {}

    def once(self, compute: Callable[[Slice], T]) -> T:
        """Return `compute(self)`, which is called the first time only."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        kept: T = self._kept[compute]
        return kept

    def has(self, compute: Callable[[Slice], Any]) -> bool:
        """Return whether `compute` was called already."""
        return compute in self._kept

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of an array that are the lattice's: the last ones."""
        return tuple(range(-self.system.dimension, 0))

    @property
    def components(self) -> NDArray[Any]:
        """The fields whose products are correlated, (components, n, *shape).

        Of Potts states sqrt(q / (q - 1)) (delta(s, a) - 1 / q), a = 0 .. q - 1: summed over a,
        s(0) s(x) is (q delta(s_0, s_x) - 1) / (q - 1), 1 for equal states and 0 in the mean for
        independent ones. At q = 2 that is Ising's product of spins.
        """
        if self.system.q:
            return np.stack([*self.each_component()])
        several = self.system.components > 1
        return np.moveaxis(self.values, 1, 0) if several else self.values[np.newaxis]

    def each_component(self) -> Iterator[NDArray[Any]]:
        """Yield `components` one by one, so that Potts states need memory for one only."""
        q = self.system.q
        if not q:
            yield from self.components
        for a in range(q):
            field = (self.values == a) - 1.0 / q
            field *= math.sqrt(q / (q - 1.0))
            yield field


def _check_offsets(offsets: NDArray[np.int64], shape: Shape) -> None:
    """Raise BadInput unless `offsets` (4, d) are four sites for a lattice of `shape`."""
    if offsets.shape != (4, len(shape)):
        wanted = f"four sites of {len(shape)} whole numbers each"
        raise BadInput("offsets", str(offsets.tolist()), wanted)
    if len({tuple(site) for site in offsets % np.array(shape)}) < 4:
        raise BadInput("offsets", str(offsets.tolist()), "four different sites of the torus")


def hamiltonian(lattices: Lattices) -> Model | None:
    """Return the model whose energies a store has; None of a coarse one, or a field of spins.

    Raises StoreError if its configurations cannot be of the model that it names.
    """
    coarse = "factor" in lattices.attrs and "method" not in lattices.attrs
    if coarse or lattices.field not in ("spins", "states", "field"):
        return None
    known = find_model(lattices.attrs) if lattices.field == "field" else None
    if lattices.field == "field" and (known is None or known.field != "field"):
        return None  # a field that was made of spins
    return lattices.model()
