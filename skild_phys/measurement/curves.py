"""Observables of one size over temperature, by the multiple-histogram method.

A. M. Ferrenberg and R. H. Swendsen, Phys. Rev. Lett. 63, 1195 (1989), without histograms: M. R.
Shirts and J. D. Chodera, J. Chem. Phys. 129, 124105 (2008). Samples i of energy E_i from runs k
at beta_k, N_k of each, have at beta the weight

    w_i(beta) = exp(-beta E_i) / sum_k N_k exp(f_k - beta_k E_i),

where exp(-f_k) = sum_i w_i(beta_k) makes the free energies f_k consistent. For one run this is
exp(-(beta - beta_k) E_i).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import logsumexp

from skild_phys.errorbars import bins_in_time
from skild_phys.errors import BadInput
from skild_phys.measurement.observables import STATISTICS
from skild_phys.measurement.rows import Rows, Statistics
from skild_phys.measurement.system import Array, System, hamiltonian
from skild_phys.store import Lattices, shared

CROSSING = ("binder_cumulant", "xi_over_l")
"""Dimensionless, so that their slopes have no correction 1 / L^(1/nu), as that of ln chi has."""

_TOLERANCE, _MOST_STEPS = 1e-10, 500  # of the free energies
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
    side, samples : L, and how many configurations.
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

    @classmethod
    def of(
        cls,
        side: int,
        stores: Sequence[Lattices],
        bins: int,
        lowest: int,
        read: Callable[..., Statistics],
    ) -> Curve:
        """Return the curve of one size; `lowest` is how many wave numbers of S(k) it has.

        `read` is `rows.collect`.
        """
        beta = np.array([1.0 / System.of(store).temperature for store in stores])
        runs, parts = len(beta), []
        for number, store in enumerate(stores):
            system, n = System.of(store), store.n_samples
            needed = [STATISTICS[name] for name in ("energy", "moments", "along_k")]
            found = read(store, system, needed).rows
            # |m|, m^2, m^4 and S at wave numbers 0 .. `lowest` along an axis
            averages = np.hstack([found["moments"][:, 1:], found["along_k"][:, : lowest + 1]])
            rows = Rows.of(store, n)  # refinements of one parent share theirs
            size = len(rows.members)
            if bins > size:
                raise BadInput("bins", bins, f"2 to {size}, the parents of {store.path}")
            bin_of = bins_in_time(size, bins, rows.chains)[rows.label]
            energies = found["energy"][:, 0] * system.sites
            parts.append((energies, np.full(n, number), bin_of, averages))
        energy, run, bin_of, averages = (np.concatenate(column) for column in zip(*parts))
        energy = energy - energy.mean()
        count = np.bincount(run, minlength=runs).astype(np.float64)
        free = _free_energies(energy, beta, count)
        widest = max(float(energy[run == k].std()) for k in range(runs))
        temperature = _reach(side, energy, beta, count, free, widest)
        averages = np.column_stack([averages, energy, energy**2])
        means = []
        for left_out in range(-1, bins):
            kept = bin_of != left_out
            left = np.bincount(run[kept], minlength=runs).astype(np.float64)
            own = _free_energies(energy[kept], beta, left, free)
            weights = np.exp(_log_weights(energy[kept], beta, left, own, 1 / temperature))
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
        return cls(side, len(energy), simulated, temperature[inside], curves)

    def spline(self, name: str) -> CubicSpline:
        """Return the interpolation of an observable, with values (1 + bins,)."""
        if name not in self._splines:
            self._splines[name] = CubicSpline(self.temperature, self.values[name], axis=1)
        return self._splines[name]

    def error(self, name: str) -> Array:
        """Return the jackknife error over the bins, (n,)."""
        return jackknife_error(self.values[name])

    def at_level(self, level: float, near: float) -> dict[str, Array]:
        """Return values (1 + bins,) where U4 = level: of logarithms, their slopes, the heat.

        Where U4 of all samples takes that value more than once it is the temperature next to
        `near`; bins move it by how far they move U4, over the slope. Raises BadInput where one
        moves it out of the curve.
        """
        cumulant, t = self.spline("binder_cumulant"), self.temperature
        changes = np.flatnonzero(np.diff(np.sign(cumulant(t)[0] - level)) != 0)
        i = changes[np.argmin(np.abs(t[changes] - near))]
        root = float(brentq(lambda t: float(cumulant(t)[0]) - level, t[i], t[i + 1]))
        moved = root - (cumulant(root) - level) / float(cumulant(root, 1)[0])
        if not (t[0] <= moved.min() and moved.max() <= t[-1]):
            raise BadInput("stores", f"U4 of L = {self.side}", "more samples, nearer to Tc")

        def at(name: str, order: int = 0) -> Array:
            return np.diagonal(self.spline(name)(moved, order)).copy()

        slopes = {f"slope_{name}": np.log(np.abs(at(name, 1))) for name in CROSSING}
        kept = [n for n in self.values if n.startswith("log_") or n == "specific_heat"]
        return slopes | {name: at(name) for name in kept}


def jackknife_error(values: Array) -> Array:
    """Return the error from (1 + bins, ...) values, the first of all samples."""
    return np.asarray(np.sqrt((len(values) - 2) * values[1:].var(axis=0)))


def by_side(stores: Sequence[Lattices], bins: int) -> dict[int, list[Lattices]]:
    """Return the stores by their side; raises BadInput for what cannot be scaled together."""
    found: dict[int, list[Lattices]] = {}
    first = hamiltonian(stores[0]) if stores else None
    for store in stores:
        model, temperature = hamiltonian(store), store.attrs.get("temperature")
        if model is None or not isinstance(temperature, float | int):
            accepted = "lattices of a Hamiltonian at a temperature ('skild_phys.save' records both)"
        elif first is not None and model.name != first.name:
            accepted = f"lattices of {first.name}, as the first ones"
        elif len(set(store.shape)) != 1:
            size = "x".join(map(str, store.shape))
            accepted = f"lattices with equal sides, not {size}"
        elif not 2 <= bins <= store.n_samples:
            raise BadInput("bins", bins, f"2 to {store.n_samples}, the samples of {store.path}")
        else:
            alike = found.setdefault(store.shape[0], [])
            before = (other for other in alike if other.attrs["temperature"] == temperature)
            accepted = next(filter(None, (_in_common(other, store) for other in before)), "")
            alike.append(store)
        if accepted:
            raise BadInput("stores", str(store.path), accepted)
    if len(found) < 2:
        names = ", ".join(store.path.name for store in stores)
        raise BadInput("stores", names, "lattices of two sizes or more")
    return found


def _in_common(one: Lattices, other: Lattices) -> str:
    """Return what would be accepted in place of samples that both stores have, "" for none."""
    if one.digest() == other.digest():
        return "every store once"
    n = shared(one, other)
    return f"samples of its own (another --seed): {n} are those of {one.path}" if n else ""


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
        logs = _log_weights(energy, beta, count, free, np.array([inverse]))
        return float(_effective_share(np.exp(logs))[0]) - least

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


def _free_energies(energy: Array, beta: Array, count: Array, start: Array | None = None) -> Array:
    """Return the free energies f_k of the runs, up to a constant: the first is 0.

    `energy` (n,) are total energies in J of the samples of all runs, `beta` (runs,) and `count`
    (runs,) the inverse temperature of each run and its number of samples.
    """
    f = np.zeros(len(beta)) if start is None else start.copy()
    action = -np.outer(energy, beta) + np.log(count)
    for _ in range(_MOST_STEPS if len(beta) > 1 else 0):
        logs = action + f
        share = np.exp(logs - logs.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)  # of each run in a sample
        total = np.maximum(share.sum(axis=0), 1e-300)
        step = -np.log(total / count)  # the equation itself, which always converges
        curvature = (np.diag(total) - share.T @ share)[1:, 1:]
        newton = np.append(0.0, np.linalg.pinv(curvature) @ (count - total)[1:])
        if np.abs(newton).max() < 1.0:
            step = newton
        f = f + step - step[0]
        if float(np.abs(step - step[0]).max()) < _TOLERANCE:
            break
    return f


def _log_weights(energy: Array, beta: Array, count: Array, free: Array, targets: Array) -> Array:
    """Return ln w_i at each target beta up to a constant each, (targets, n); see the module."""
    log_sum = logsumexp(-np.outer(energy, beta) + free, b=count, axis=1)
    logs = -np.outer(targets, energy) - log_sum
    return np.asarray(logs - logs.max(axis=1, keepdims=True))


def _effective_share(weights: Array) -> Array:
    """Return which share of the samples weights make use of: (sum w)^2 / (n sum w^2)."""
    return np.asarray(weights.sum(axis=-1) ** 2 / (weights.shape[-1] * (weights**2).sum(axis=-1)))
