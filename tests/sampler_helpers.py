"""Samples of the kernels, and what they must be distributed like: enumeration, strips, Kaufman."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from skild_phys.models import MODELS, Model, Update
from skild_phys.models.base import equal_bonds
from skild_phys.models.ising import ISING_2D
from skild_phys.models.potts import Potts
from skild_phys.rules import RULES
from skild_phys.simulation.conditional import Conditional
from skild_phys.simulation.spec import get_update

Array = NDArray[np.float64]
Lattices = NDArray[np.int8]
Advance = Callable[[Lattices, Model, float, NDArray[np.uint64], int], object]

ISING, ISING_3D = MODELS["ising2d"], MODELS["ising3d"]
TC, TC_3D = ISING.critical_temperature, ISING_3D.critical_temperature
# e(Tc) and C(Tc) per site (Kaufman, Phys. Rev. 76, 1232, 1949).
KAUFMAN = {
    8: (-1.4915891074, 1.1455592),
    16: (-1.4530648528, 1.4987050),
    32: (-1.4336584661, 1.8467676),
    64: (-1.4239383898, 2.1922114),
    128: (-1.4190762721, 2.5363313),
    256: (-1.4166449542, 2.8797863),
}


def states(model: Model) -> int:
    """Return q of a Potts model, 2 of Ising's."""
    return len(model.values)


def bond_cost(model: Model) -> float:
    """Return what it costs, in J, to break a bond."""
    return 1.0 if isinstance(model, Potts) else 2.0


# -- samples ----------------------------------------------------------------------------------


def sample(
    algorithm: str,
    model: Model,
    shape: tuple[int, ...],
    temperature: float,
    every: int,
    count: int,
    seed: int = 1,
    *,
    advance: Advance | None = None,
    start: Lattices | None = None,
    burn: int | None = None,
    record: Callable[[Lattices], NDArray[Any]] = np.copy,
) -> NDArray[Any]:
    """Return lattices (draws, replicas, ...) of at least `count` samples, `every` updates apart.

    `advance` replaces the kernel's, to plant a fault. The chain starts cold, or from `start`,
    and burns in for `burn` updates, by default the time of 20 draws. Of each draw `record` says
    what is kept, by default a copy of the lattices.
    """
    kernel: Update = get_update(algorithm, model)
    step = advance or kernel.advance
    lattices = np.full((kernel.replicas, *shape), model.values[-1], dtype=np.int8)
    if start is not None:
        lattices[:] = start
    rng = kernel.stream(seed)
    draws = -(-count // kernel.replicas)
    step(lattices, model, temperature, rng, 20 * every if burn is None else burn)
    out: list[NDArray[Any]] = []
    for _ in range(draws):
        step(lattices, model, temperature, rng, every)
        out.append(record(lattices))
    return np.stack(out)


def hot(shape: tuple[int, ...], model: Model, seed: int = 1) -> Lattices:
    """Return a random lattice."""
    values = np.array(model.values, dtype=np.int8)
    return values[np.random.default_rng(seed).integers(0, len(values), shape)]


# -- enumeration ------------------------------------------------------------------------------


def configurations(model: Model, shape: tuple[int, ...]) -> Lattices:
    """Return every lattice, (q^N, ...): number n has the digits of n, slowest site first."""
    q, sites = states(model), math.prod(shape)
    number = np.arange(q**sites, dtype=np.int64)
    digits = number[:, None] // q ** np.arange(sites - 1, -1, -1) % q
    return np.array(model.values, dtype=np.int8)[digits].reshape(-1, *shape)


def numbers(model: Model, lattices: Lattices) -> NDArray[np.int64]:
    """Return the number of each lattice (..., sites of it) in `configurations`."""
    q = states(model)
    digits = np.searchsorted(np.array(model.values), lattices.reshape(*_outer(model, lattices), -1))
    return digits @ q ** np.arange(digits.shape[-1] - 1, -1, -1)


def levels(model: Model, lattices: Lattices) -> NDArray[np.int64]:
    """Return a number for (E, M) of each lattice; Potts: (E, occupation of the commonest, of 0)."""
    sites = model.sites(lattices)
    bonds = equal_bonds(lattices, model.dimension)
    counts = [(lattices == v).sum(axis=model.axes, dtype=np.int64) for v in model.values]
    most = np.max(counts, axis=0) if isinstance(model, Potts) else 0
    return np.asarray((bonds * (sites + 1) + most) * (sites + 1) + counts[0])


def _outer(model: Model, lattices: Lattices) -> tuple[int, ...]:
    return lattices.shape[: lattices.ndim - model.dimension]


@functools.lru_cache(maxsize=8)
def _enumerated(
    name: str, shape: tuple[int, ...], whole: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return the cell of every configuration, the cells, and the energy of each configuration."""
    model = MODELS[name]
    lattices = configurations(model, shape)
    found = np.arange(len(lattices)) if whole else levels(model, lattices)
    cells, which = np.unique(found, return_inverse=True)
    return cells, which, -bond_cost(model) * equal_bonds(lattices, model.dimension)


def p_value(model: Model, lattices: Lattices, temperature: float, whole: bool = False) -> float:
    """Return the chi-square p value of independent lattices against full enumeration.

    The cells are the levels of `levels`, or every configuration by itself (`whole`); those with
    fewer than 20 expected are pooled.
    """
    shape = lattices.shape[-model.dimension :]
    cells, which, energy = _enumerated(model.name, shape, whole)
    weight = np.exp(-(energy - energy.min()) / temperature)
    found = numbers(model, lattices) if whole else levels(model, lattices)
    observed = np.bincount(np.searchsorted(cells, found.ravel()), minlength=len(cells))
    expected = np.bincount(which, weight / weight.sum(), minlength=len(cells)) * found.size
    return chi_square(observed, expected)


def chi_square(observed: NDArray[Any], expected: Array, least: float = 20.0) -> float:
    """Return Pearson's p; cells are merged, rarest first, until each expects at least `least`."""
    order = np.argsort(expected, kind="stable")
    cell, label, held = np.empty(len(order), dtype=int), 0, 0.0
    for k, amount in enumerate(expected[order]):
        cell[k] = label
        held += amount
        if held >= least:
            label, held = label + 1, 0.0
    cell[cell == label] = max(label - 1, 0)  # what is left over joins the last cell
    seen, want = np.bincount(cell, observed[order]), np.bincount(cell, expected[order])
    if len(want) == 1:
        return 1.0
    return float(scipy.stats.chi2.sf(((seen - want) ** 2 / want).sum(), len(want) - 1))


# -- energies ---------------------------------------------------------------------------------


def energies_by_axis(model: Model, lattices: Lattices) -> Array:
    """Return the energy per site of the bonds along each axis, slowest first, (..., d)."""
    equal = [(lattices == np.roll(lattices, 1, axis)).mean(axis=model.axes) for axis in model.axes]
    bonds = np.stack(equal, axis=-1)
    return -bonds if isinstance(model, Potts) else 1.0 - 2.0 * bonds


# -- strips -----------------------------------------------------------------------------------


def strip_energy(model: Model, shape: tuple[int, ...], temperature: float) -> Array:
    """Return the exact energies per site of a long torus, of its bonds along x and of the others.

    `shape` ends with the long side; the cross section is enumerated and the partition function is
    the trace of a power of the transfer matrix, exp(-H of a section / T) exp(-H between / T).
    """
    *cross, length = shape
    if model.dimension == 2:
        sections = configurations(model, (1, cross[0])).reshape(-1, cross[0])
        inside = (sections == np.roll(sections, 1, axis=1)).sum(axis=1)
    else:
        square = configurations(ISING, tuple(cross))
        sections, inside = square.reshape(len(square), -1), equal_bonds(square, 2)
    between = (sections[:, None] == sections[None]).sum(axis=-1)
    k = bond_cost(model) / temperature
    matrix = np.exp(k * (inside[:, None] - inside.max() + between - between.max()))
    power = np.linalg.matrix_power(matrix / np.abs(matrix).sum(), length - 1)
    whole = float(np.trace(power @ matrix))
    means = [np.trace(power @ (matrix * part)) / whole for part in (between, inside[:, None])]
    bonds = np.array(means) / math.prod(cross)
    if isinstance(model, Potts):
        return -bonds
    return np.array([1.0, model.dimension - 1.0]) - 2.0 * bonds


# -- errors -----------------------------------------------------------------------------------


def bin_means(values: Array, bins: int = 50) -> Array:
    """Return the means of independent bins of a series (draws, replicas), (bins,).

    Of one chain: of `bins` stretches of time. Of several: of each replica.
    """
    if values.ndim == 2 and values.shape[1] > 1:
        means: Array = values.mean(axis=0)
        return means
    values = values.ravel()
    return np.asarray(values[: len(values) // bins * bins].reshape(bins, -1).mean(axis=1))


def deviation(values: Array, exact: float) -> float:
    """Return (mean - exact) / error of a series (draws, replicas), from the scatter of its bins."""
    means = bin_means(values)
    return float((means.mean() - exact) / (means.std(ddof=1) / np.sqrt(len(means))))


def specific_heat_deviation(energy: Array, sites: int, temperature: float, exact: float) -> float:
    """Return the same for C = N (<e^2> - <e>^2) / T^2, by jackknife over the bins."""
    first, second = bin_means(energy), bin_means(energy**2)
    bins = len(first)
    left_out = (second.sum() - second) / (bins - 1) - ((first.sum() - first) / (bins - 1)) ** 2
    values = np.append(left_out, second.mean() - first.mean() ** 2) * sites / temperature**2
    error = np.sqrt((bins - 1) / bins * ((values[:-1] - values[:-1].mean()) ** 2).sum())
    return float((values[-1] - exact) / error)


def difference(a: Array, b: Array) -> float:
    """Return the difference of the means of two series in standard errors."""
    means = [bin_means(values) for values in (a, b)]
    variance = sum(m.var(ddof=1) / len(m) for m in means)
    return float((means[0].mean() - means[1].mean()) / math.sqrt(variance))


EXACT = tuple(rule.name for rule in RULES.values() if rule.exact)


def conditional(
    coarse: NDArray[Any], rule: str, factor: int, temperature: float, model: Model = ISING_2D
) -> Conditional:
    """Return the distribution that coarse lattices (n, ...) restrict."""
    return Conditional(model, rule, factor, temperature, coarse.shape[-model.dimension :])
