"""Observables of one size over temperature, by reweighting, with jackknife bins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from skild_phys.errorbars import bins_in_time
from skild_phys.errors import BadInput
from skild_phys.measurement.measure import Statistics, rows_of
from skild_phys.measurement.observables.thermodynamics import energy as energies
from skild_phys.measurement.observables.thermodynamics import moments
from skild_phys.measurement.observables.two_point import along_k
from skild_phys.measurement.scaling.fits import jackknife_error
from skild_phys.measurement.scaling.reweighting import effective_share, free_energies, log_weights
from skild_phys.measurement.system import Array, System, hamiltonian
from skild_phys.store import Lattices, shared

CROSSING = ("binder_cumulant", "xi_over_l")
"""Dimensionless, so that their slopes have no correction 1 / L^(1/nu), as that of ln chi has."""

_FEWEST_POINTS = 8
_GRID = 33  # least temperatures of a curve, between which a cubic spline interpolates
_STEP = 0.25  # most between these, in units of 1 / beta that the energy fluctuates by in one run
_LEAST_BETWEEN = 0.9  # between runs the share may fall to a tenth of that at the ends
_SHARE = 0.3  # of a run's samples that weights must still make use of at the ends of a curve


@dataclass(frozen=True)
class Curve:
    """Observables of one size over temperature, of all samples and with each bin left out.

    Attributes
    ----------
    side, samples : L, and how many lattices.
    simulated : temperatures that were simulated.
    temperature : (n,) temperatures in J / k_B.
    values : name -> (1 + bins, n); row 0 is of all samples.
    """

    side: int
    samples: int
    simulated: tuple[float, ...]
    temperature: Array
    values: dict[str, Array]
    _splines: dict[str, CubicSpline] = field(default_factory=dict, compare=False)

    def spline(self, name: str) -> CubicSpline:
        """Return the interpolation of an observable, with values (1 + bins,)."""
        if name not in self._splines:
            self._splines[name] = CubicSpline(self.temperature, self.values[name], axis=1)
        return self._splines[name]

    def error(self, name: str) -> Array:
        """Return the jackknife error over the bins, (n,)."""
        return jackknife_error(self.values[name])


def by_side(stores: Sequence[Lattices], bins: int) -> dict[int, list[Lattices]]:
    """Return the stores by their side; raises BadInput for what cannot be scaled."""
    found: dict[int, list[Lattices]] = {}
    first = hamiltonian(stores[0]) if stores else None
    for store in stores:
        model, temperature = hamiltonian(store), store.attrs.get("temperature")
        if model is None or not isinstance(temperature, float | int):
            accepted = "lattices of a Hamiltonian at a temperature ('skild_phys.save' records both)"
            raise BadInput("stores", str(store.path), accepted)
        if first is not None and model.name != first.name:
            raise BadInput(
                "stores", str(store.path), f"lattices of {first.name}, as the first ones"
            )
        if len(set(store.shape)) != 1:
            size = "x".join(map(str, store.shape))
            raise BadInput("stores", str(store.path), f"lattices with equal sides, not {size}")
        if not 2 <= bins <= store.n_samples:
            raise BadInput("bins", bins, f"2 to {store.n_samples}, the lattices of {store.path}")
        before = found.setdefault(store.shape[0], [])
        for other in before:
            if temperature != other.attrs["temperature"]:
                continue
            if store.digest() == other.digest():
                raise BadInput("stores", str(store.path), "every store once")
            if n := shared(other, store):
                accepted = f"samples of its own (another --seed): {n} are those of {other.path}"
                raise BadInput("stores", str(store.path), accepted)
        before.append(store)
    if len(found) < 2:
        names = ", ".join(store.path.name for store in stores)
        raise BadInput("stores", names, "lattices of two sizes or more")
    return found


def _samples(
    stores: Sequence[Lattices], bins: int, lowest: int, read: Callable[..., Statistics]
) -> tuple[Array, NDArray[np.int64], NDArray[np.int64], Array]:
    """Return total energy (J), run, bin (in time order) and averages of every sample.

    The averages are |m|, m^2, m^4 and S at wave numbers 0 .. `lowest` along an axis.
    """
    parts = []
    for number, store in enumerate(stores):
        system, n = System.of(store), store.n_samples
        found = read(store, system, np.arange(n), n, needed=(energies, moments, along_k)).rows
        energy = found["energy"][:, 0] * system.sites
        averages = np.hstack([found["moments"][:, 1:], found["along_k"][:, : lowest + 1]])
        rows = rows_of(store, n)  # refinements of one parent share theirs
        if bins > rows.size:
            raise BadInput("bins", bins, f"2 to {rows.size}, the parents of {store.path}")
        bin_of = bins_in_time(rows.size, bins, rows.chains)[rows.label]
        parts.append((energy, np.full(n, number), bin_of, averages))
    energy, run, bin_of, averages = (np.concatenate(column) for column in zip(*parts))
    return energy, run, bin_of, averages


def curve_of(
    side: int,
    stores: Sequence[Lattices],
    bins: int,
    lowest: int,
    read: Callable[..., Statistics],
) -> Curve:
    """Return the curve of one size; `lowest` is how many wave numbers it knows S(k) at."""
    beta = np.array([1.0 / System.of(store).temperature for store in stores])
    energy, run, bin_of, averages = _samples(stores, bins, lowest, read)
    energy = energy - energy.mean()
    runs = len(beta)
    count = np.bincount(run, minlength=runs).astype(np.float64)
    free = free_energies(energy, beta, count)
    widest = max(float(energy[run == k].std()) for k in range(runs))
    temperature = _reach(side, energy, beta, count, free, widest)
    averages = np.column_stack([averages, energy, energy**2])
    means = []
    for left_out in range(-1, bins):
        kept = bin_of != left_out
        number = np.bincount(run[kept], minlength=runs).astype(np.float64)
        own = free_energies(energy[kept], beta, number, free)
        weights = np.exp(log_weights(energy[kept], beta, number, own, 1 / temperature))
        means.append(weights @ averages[kept] / weights.sum(axis=1, keepdims=True))
    values = _observables(np.array(means), side, stores[0].shape, temperature)
    finite = np.all([np.isfinite(v).all(axis=0) for v in values.values()], axis=0)
    inside = np.flatnonzero(finite)
    if len(inside) < _FEWEST_POINTS:
        raise BadInput("stores", f"lattices of L = {side}", "more of them, that differ")
    if len(inside) != inside[-1] - inside[0] + 1:
        raise BadInput("stores", f"lattices of L = {side}", "more of them, nearer to Tc")
    simulated = tuple(sorted(float(t) for t in 1.0 / beta))
    curves = {name: v[:, inside] for name, v in values.items()}
    return Curve(side, len(energy), simulated, temperature[inside], curves)


def _observables(
    means: Array, side: int, shape: Sequence[int], temperature: Array
) -> dict[str, Array]:
    abs_m, m2, m4, zero, *powers, energy, squared = np.moveaxis(means, -1, 0)
    sites = math.prod(shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.sqrt(zero / powers[0] - 1) / (2 * np.sin(np.pi / side))
        found = {
            "binder_cumulant": 1 - m4 / (3 * m2**2),
            "xi_over_l": length / side,
            "log_susceptibility": np.log(zero),
            "log_connected_susceptibility": np.log(sites * (m2 - abs_m**2)),
            "log_abs_magnetization": np.log(abs_m),
            "specific_heat": (squared - energy**2) / (sites * temperature**2),
        }
        return found | {f"log_power_{j}": np.log(power) for j, power in enumerate(powers, 1)}


def _reach(
    side: int, energy: Array, beta: Array, count: Array, free: Array, widest: float
) -> Array:
    """Return temperatures as far out as weights still use `_SHARE` of a run's samples."""
    least = _SHARE / len(np.unique(beta))

    def used(inverse: float) -> float:
        logs = log_weights(energy, beta, count, free, np.array([inverse]))
        return float(effective_share(np.exp(logs))[0]) - least

    ends = []
    spread = 1.0 / max(float(energy.std()), 1e-12)
    for start, sign in ((float(beta.max()), 1.0), (float(beta.min()), -1.0)):
        step = 0.1 * spread
        while used(start + sign * step) > 0 and step < 0.5 * start:
            step *= 1.5
        low, high = start, start + sign * step
        ends.append(brentq(used, low, high) if used(low) > 0 > used(high) else high)
    for cold, hot in pairwise(np.unique(1.0 / beta)):
        middle = 0.5 * (1.0 / cold + 1.0 / hot)
        if used(middle) < -_LEAST_BETWEEN * least:
            texts = f"energies of L = {side} at T = {cold:.5g} and {hot:.5g}"
            raise BadInput("stores", texts, "temperatures so near that they overlap")
    number = math.ceil(abs(ends[0] - ends[1]) * widest / _STEP)
    return np.linspace(1.0 / ends[0], 1.0 / ends[1], max(number, _GRID))
