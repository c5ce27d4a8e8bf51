"""Finite-size scaling: crossings, exponents and data collapse, from stores of several sizes.

Each size is reweighted to the temperatures around those it was simulated at (`reweighting`).
xi / L and U4 of two sizes cross near Tc. Exponents are read off where U4 has one and the same
value for every size, which removes Tc, and most of its uncertainty, from them:

    dU4/dT, d(xi/L)/dT ~ L^(1/nu);    chi, S(2 pi j / L) ~ L^(2 - eta).

(Where xi / L has one value, chi / S(2 pi / L) is a function of L alone, and the two would say the
same.) A collapse fits one function of (T - Tc) L^(1/nu) to the curves of all sizes. Every error
is a jackknife over bins in time order of each size; sizes are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, least_squares
from scipy.stats import chi2 as chi2_law

from skild_phys.errors import BadInput
from skild_phys.lattice.exact import EXPONENTS
from skild_phys.measure.lattices import Lattices, hamiltonian
from skild_phys.measure.reweighting import effective_share, free_energies, log_weights
from skild_phys.measure.rows import rows_of
from skild_phys.measure.statistics import collect
from skild_phys.measure.system import System

Array = NDArray[np.float64]

BINS = 40
"""Bins of each size, unless told."""

_FEWEST_POINTS = 8
_GRID = 33  # temperatures of a curve, between which a cubic spline interpolates
_LEAST_BETWEEN = 0.9  # between runs the share may fall to a tenth of that at the ends
_SHARE = 0.3  # of a run's samples that weights must still make use of at the ends of a curve
_LARGEST_K = 0.3  # rad / lattice constant, on the smallest lattice; above, S(k) feels the lattice
_DEGREE = 4  # of the polynomial that the curves collapse on
_COLLAPSE_POINTS = 9  # of each size
_REACH = 1.2  # largest |x| of a collapse, in units of the shortest curve's


@dataclass(frozen=True)
class Number:
    """A value with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Crossing:
    """Where `observable` of two sizes is equal; NaN where the curves do not meet."""

    observable: str
    sides: tuple[int, int]
    temperature: Number
    height: Number


@dataclass(frozen=True)
class Exponent:
    """An exponent from a straight line through logarithms, ln y = a + b ln L.

    Attributes
    ----------
    name, source : `nu` or `eta`, and what it was read off.
    number : value and error.
    chi2, dof, p : of the line; NaN for two sizes, which always lie on one.
    """

    name: str
    source: str
    number: Number
    chi2: float
    dof: int
    p: float


@dataclass(frozen=True)
class Collapse:
    """What makes the curves of all sizes one function of (T - Tc) L^(1/nu); eta for chi only."""

    observable: str
    temperature: Number
    nu: Number
    eta: Number | None


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
        return _jackknife(self.values[name])


@dataclass(frozen=True)
class Scaling:
    """What stores of several sizes say together; temperatures in J / k_B.

    Attributes
    ----------
    model : of the stores.
    curves : one a size, the smallest first.
    level : the value of U4 at which exponents are read off.
    crossings, exponents, collapses : what was found.
    temperature : Tc, the best crossing; NaN if no curves cross.
    published : temperature, nu and eta, as far as they are known.
    points : `slope` and `chi`, what exponents are from: (label, logarithms by size, errors).
    """

    model: str
    curves: tuple[Curve, ...]
    level: float
    crossings: tuple[Crossing, ...]
    exponents: tuple[Exponent, ...]
    collapses: tuple[Collapse, ...]
    temperature: Number
    published: dict[str, float]
    points: dict[str, list[tuple[str, Array, Array]]]

    def best(self, name: str) -> Exponent:
        """Return the combined estimate of `nu` or `eta` from all sizes."""
        return next(e for e in self.exponents if e.name == name and e.source == COMBINED)


COMBINED = "combined"
CROSSING = ("binder_cumulant", "xi_over_l")
"""Dimensionless, so that their slopes have no correction 1 / L^(1/nu), as that of ln chi has."""


def scaling(
    stores: Sequence[Lattices],
    *,
    bins: int = BINS,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Scaling:
    """Analyse stores of one model at two sizes or more.

    Parameters
    ----------
    stores : lattices with equal sides, of one model with a temperature; several temperatures
        of a size are joined. Curves reach as far from these as the samples allow.
    bins : of each size, in time order.
    threads, progress : as in `dataset.measure`.

    Raises
    ------
    BadInput : fewer than two sizes, several models, lattices that are not squares or cubes or
        have no Hamiltonian, more bins than samples, or curves that do not reach one another.
    """
    by_side = _by_side(stores, bins)
    model = hamiltonian(stores[0])
    if model is None:
        raise ValueError("no Hamiltonian")
    lowest = int(min(by_side) * _LARGEST_K / (2 * np.pi))
    curves = tuple(
        _curve(side, by_side[side], bins, max(lowest, 1), threads, progress)
        for side in sorted(by_side)
    )
    crossings = tuple(_crossing(name, a, b) for name in CROSSING for a, b in pairwise(curves))
    level = _common_level(curves, crossings)
    at_level = [_at_level(curve, level) for curve in curves]
    published = {"temperature": model.critical_temperature}
    published |= dict(zip(("nu", "eta"), EXPONENTS.get(model.name, ())))
    return Scaling(
        model.name,
        curves,
        level,
        crossings,
        _exponents(curves, at_level, lowest),
        _collapses(curves, crossings),
        _best_crossing(crossings),
        published,
        {
            "slope": _points(at_level, {"U4": "slope_binder_cumulant", "xi/L": "slope_xi_over_l"}),
            "chi": _points(at_level, {"chi": "log_susceptibility", "S(2 pi/L)": "log_power_1"}),
        },
    )


def _points(
    at_level: Sequence[dict[str, Array]], names: dict[str, str]
) -> list[tuple[str, Array, Array]]:
    return [
        (
            label,
            np.array([values[name][0] for values in at_level]),
            np.array([float(_jackknife(values[name])) for values in at_level]),
        )
        for label, name in names.items()
    ]


# -- curves -----------------------------------------------------------------------------------


def _by_side(stores: Sequence[Lattices], bins: int) -> dict[int, list[Lattices]]:
    found: dict[int, list[Lattices]] = {}
    first = hamiltonian(stores[0]) if stores else None
    for store in stores:
        model, temperature = hamiltonian(store), store.attrs.get("temperature")
        if model is None or not isinstance(temperature, float | int):
            raise BadInput("STORE", str(store.path), "lattices of a Hamiltonian at a temperature")
        if first is not None and model.name != first.name:
            raise BadInput("STORE", str(store.path), f"lattices of {first.name}, as the first ones")
        if len(set(store.shape)) != 1:
            size = "x".join(map(str, store.shape))
            raise BadInput("STORE", str(store.path), f"lattices with equal sides, not {size}")
        if not 2 <= bins <= store.n_samples:
            raise BadInput("--bins", bins, f"2 to {store.n_samples}, the lattices of {store.path}")
        if any(
            store.path.resolve() == other.path.resolve() for other in stores if other is not store
        ):
            raise BadInput("STORE", str(store.path), "every store once")
        found.setdefault(store.shape[0], []).append(store)
    if len(found) < 2:
        names = ", ".join(store.path.name for store in stores)
        raise BadInput("STORES", names, "lattices of two sizes or more")
    return found


@dataclass(frozen=True)
class _Samples:
    """Of every lattice of one size: total energy, run, bin, and averages (n, ...)."""

    energy: Array
    run: NDArray[np.int64]
    bin: NDArray[np.int64]
    averages: Array
    beta: Array


def _samples(
    stores: Sequence[Lattices],
    bins: int,
    lowest: int,
    threads: int,
    progress: Callable[[int], None] | None,
) -> _Samples:
    """Read m^2, m^4 and S at the lowest wave numbers of every lattice; bins are in time order."""
    energy, run, bin_of, averages, beta = [], [], [], [], []
    for number, store in enumerate(stores):
        system, n = System.of(store), store.n_samples
        found = collect(
            store, system, np.arange(n), n,
            needed=("energy", "moments", "along_k"), threads=threads, progress=progress,
        ).rows  # fmt: skip
        energy.append(found["energy"][:, 0] * system.sites)
        averages.append(np.hstack([found["moments"][:, 2:], found["along_k"][:, : lowest + 1]]))
        bin_of.append(_bins_of(store, bins))
        run.append(np.full(n, number))
        beta.append(1.0 / system.temperature)
    return _Samples(
        np.concatenate(energy),
        np.concatenate(run),
        np.concatenate(bin_of),
        np.concatenate(averages),
        np.array(beta),
    )


def _bins_of(store: Lattices, bins: int) -> NDArray[np.int64]:
    """Return the bin of each lattice, in time order; refinements of one parent share theirs."""
    rows = rows_of(store, store.n_samples)
    if bins > rows.size:
        raise BadInput("--bins", bins, f"2 to {rows.size}, the parents of {store.path}")
    order = np.arange(rows.size)
    if rows.chains is not None:
        order = np.lexsort((rows.chains.draw, rows.chains.chain))
    of_row = np.empty(rows.size, dtype=np.int64)
    of_row[order] = np.arange(rows.size) * bins // rows.size
    return of_row[rows.label]


def _curve(
    side: int,
    stores: Sequence[Lattices],
    bins: int,
    lowest: int,
    threads: int,
    progress: Callable[[int], None] | None,
) -> Curve:
    samples = _samples(stores, bins, lowest, threads, progress)
    shift = samples.energy.mean()
    energy = samples.energy - shift
    runs = len(samples.beta)
    count = np.bincount(samples.run, minlength=runs).astype(np.float64)
    free = free_energies(energy, samples.beta, count)
    temperature = _reach(side, energy, samples.beta, count, free)
    means = []
    for left_out in range(-1, bins):
        kept = samples.bin != left_out
        number = np.bincount(samples.run[kept], minlength=runs).astype(np.float64)
        own = free_energies(energy[kept], samples.beta, number, free)
        weights = np.exp(log_weights(energy[kept], samples.beta, number, own, 1 / temperature))
        means.append(weights @ samples.averages[kept] / weights.sum(axis=1, keepdims=True))
    values = _observables(np.array(means), side)
    finite = np.all([np.isfinite(v).all(axis=0) for v in values.values()], axis=0)
    if finite.sum() < _FEWEST_POINTS:
        raise BadInput("STORES", f"lattices of L = {side}", "more of them, that differ")
    inside = np.flatnonzero(finite)
    if len(inside) != inside[-1] - inside[0] + 1:
        raise BadInput("STORES", f"lattices of L = {side}", "more of them, nearer to Tc")
    return Curve(
        side,
        len(energy),
        tuple(sorted(float(t) for t in 1.0 / samples.beta)),
        temperature[inside],
        {name: v[:, inside] for name, v in values.items()},
    )


def _observables(means: Array, side: int) -> dict[str, Array]:
    m2, m4, zero, *powers = np.moveaxis(means, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.sqrt(zero / powers[0] - 1) / (2 * np.sin(np.pi / side))
        found = {
            "binder_cumulant": 1 - m4 / (3 * m2**2),
            "xi_over_l": length / side,
            "log_susceptibility": np.log(zero),
        }
        return found | {f"log_power_{j}": np.log(power) for j, power in enumerate(powers, 1)}


def _reach(side: int, energy: Array, beta: Array, count: Array, free: Array) -> Array:
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
            raise BadInput("STORES", texts, "temperatures so near that they overlap")
    return np.linspace(1.0 / ends[0], 1.0 / ends[1], _GRID)


# -- crossings --------------------------------------------------------------------------------


def _jackknife(values: Array) -> Array:
    """Return the error from (1 + bins, ...) values, the first of all samples."""
    bins = len(values) - 1
    return np.asarray(np.sqrt((bins - 1) * values[1:].var(axis=0)))


def _over_sizes(values: Sequence[Array]) -> Number:
    """Return a function of several sizes from its values (1 + bins,), one size jackknifed each."""
    total = sum(float(_jackknife(v)) ** 2 for v in values)
    return Number(float(values[0][0]), math.sqrt(total))


def _crossing(name: str, small: Curve, large: Curve) -> Crossing:
    """Return where two curves meet; bins move the crossing by the difference over its slope."""
    nothing = Number(math.nan, math.nan)
    sides = (small.side, large.side)
    low = max(small.temperature[0], large.temperature[0])
    high = min(small.temperature[-1], large.temperature[-1])
    if not low < high:
        return Crossing(name, sides, nothing, nothing)
    a, b = small.spline(name), large.spline(name)
    grid = np.linspace(low, high, 4 * _GRID)
    difference = a(grid)[0] - b(grid)[0]
    changes = np.flatnonzero(np.diff(np.sign(difference)) != 0)
    if not len(changes):
        return Crossing(name, sides, nothing, nothing)
    middle = changes[np.argmin(np.abs(changes - 2 * _GRID))]
    root = float(brentq(lambda t: a(t)[0] - b(t)[0], grid[middle], grid[middle + 1]))
    slope_a, slope_b = a(root, 1)[0], b(root, 1)[0]
    at_a, at_b = a(root), b(root)
    moved = (
        root - (at_a - at_b[0]) / (slope_a - slope_b),
        root - (at_a[0] - at_b) / (slope_a - slope_b),
    )
    heights = (at_b[0] + slope_b * (moved[0] - root), at_a[0] + slope_a * (moved[1] - root))
    return Crossing(name, sides, _over_sizes(moved), _over_sizes(heights))


def _best_crossing(crossings: Sequence[Crossing]) -> Number:
    """Return the crossing of xi / L of the two largest sizes that have one.

    It converges faster than that of U4, whose amplitude of the leading correction is larger.
    """
    for name in reversed(CROSSING):
        found = [
            c for c in crossings if c.observable == name and math.isfinite(c.temperature.value)
        ]
        if found:
            return found[-1].temperature
    return Number(math.nan, math.nan)


def _common_level(curves: Sequence[Curve], crossings: Sequence[Crossing]) -> float:
    """Return a value of U4 that every curve takes: the height of a crossing, or the middle."""
    ends = [curve.values["binder_cumulant"][0][[0, -1]] for curve in curves]
    low, high = max(min(e) for e in ends), min(max(e) for e in ends)
    if not low < high:
        texts = [f"{min(e):.3g} .. {max(e):.3g} (L = {c.side})" for c, e in zip(curves, ends)]
        accepted = "temperatures nearer to one another, and to Tc"
        raise BadInput("STORES", f"U4 of {', '.join(texts)}", accepted)
    heights = [c.height.value for c in crossings if c.observable == "binder_cumulant"]
    inside = [h for h in heights if low < h < high]
    return inside[-1] if inside else 0.5 * (low + high)


# -- exponents --------------------------------------------------------------------------------


def _at_level(curve: Curve, level: float) -> dict[str, Array]:
    """Return logarithms, (1 + bins,), where U4 = level: of slopes, chi and S(k)."""
    rows = len(curve.values["binder_cumulant"])
    cumulant = curve.spline("binder_cumulant")
    low, high = curve.temperature[0], curve.temperature[-1]
    found: dict[str, list[float]] = {}
    for row in range(rows):

        def off(t: float, row: int = row) -> float:
            return float(cumulant(t)[row]) - level

        # A bin that is left out may move the end of a curve past the level: the spline goes on.
        room = 0.2 * (high - low)
        try:
            t = float(brentq(off, low - room, high + room))
        except ValueError:
            raise BadInput(
                "STORES", f"U4 of L = {curve.side}", "more samples, nearer to Tc"
            ) from None
        for name in CROSSING:
            slope = abs(float(curve.spline(name)(t, 1)[row]))
            found.setdefault(f"slope_{name}", []).append(math.log(slope))
        for name in curve.values:
            if name.startswith("log_"):
                found.setdefault(name, []).append(float(curve.spline(name)(t)[row]))
    return {name: np.array(values) for name, values in found.items()}


@dataclass(frozen=True)
class _Line:
    """The slope b of y = a + b ln L, for the values of all samples and of each size's bins."""

    slope: list[Array]
    chi2: float
    dof: int


def _line(sides: Array, values: Sequence[Array]) -> _Line:
    """Fit a line by weighted least squares; the weights are those of all samples throughout."""
    x = np.log(sides)
    error = np.array([float(_jackknife(v)) for v in values])
    weight = 1.0 / np.maximum(error, 1e-300) ** 2
    centre = (weight * x).sum() / weight.sum()
    scale = weight * (x - centre) / (weight * (x - centre) ** 2).sum()
    full = np.array([v[0] for v in values])
    slopes = []
    for i, v in enumerate(values):
        slopes.append((scale * full).sum() + scale[i] * (v - v[0]))
    slope = float(slopes[0][0])
    intercept = (weight * (full - slope * x)).sum() / weight.sum()
    chi2 = float((weight * (full - intercept - slope * x) ** 2).sum())
    return _Line(slopes, chi2, len(sides) - 2)


_TURNED: dict[str, Callable[[Array], Array]] = {"nu": lambda b: 1.0 / b, "eta": lambda b: 2.0 - b}
"""Exponent -> what it is of the slope of a line."""


def _exponents(
    curves: Sequence[Curve], at_level: Sequence[dict[str, Array]], lowest: int
) -> tuple[Exponent, ...]:
    """Return each exponent by every line, combined, and combined without the smallest sizes."""
    sides = np.array([float(curve.side) for curve in curves])
    sources = {
        "nu": {"slope of U4": "slope_binder_cumulant", "slope of xi/L": "slope_xi_over_l"},
        "eta": {"chi": "log_susceptibility"}
        | {f"S(k = {2 * j} pi/L)": f"log_power_{j}" for j in range(1, lowest + 1)},
    }
    found = []
    for name, of in sources.items():
        for first in range(len(curves) - 1):
            lines = {
                source: _line(sides[first:], [values[key] for values in at_level[first:]])
                for source, key in of.items()
            }
            numbers = [[_TURNED[name](b) for b in line.slope] for line in lines.values()]
            if not first:
                for (source, line), values in zip(lines.items(), numbers):
                    p = float(chi2_law.sf(line.chi2, line.dof)) if line.dof else math.nan
                    chi2 = line.chi2 if line.dof else math.nan
                    number = _over_sizes(values)
                    found.append(Exponent(name, source, number, chi2, line.dof, p))
            source = COMBINED + (f", L >= {sides[first]:.0f}" if first else "")
            found.append(Exponent(name, source, _combined(numbers), math.nan, 0, math.nan))
    return tuple(found)


def _combined(numbers: Sequence[Sequence[Array]]) -> Number:
    """Return the mean of several estimates by size and bin, weighted by their covariance.

    Weights below 0, which estimates that are nearly the same would get, are left out.
    """
    sizes = [np.stack(of_size) for of_size in zip(*numbers)]  # (estimates, 1 + bins) of a size
    covariance = np.zeros((len(numbers), len(numbers)))
    for values in sizes:
        moved = values[:, 1:] - values[:, 1:].mean(axis=1, keepdims=True)
        bins = moved.shape[1]
        covariance += (bins - 1.0) / bins * (moved @ moved.T)
    kept = np.arange(len(numbers))
    while True:
        inverse = np.linalg.pinv(covariance[np.ix_(kept, kept)])
        weight = inverse.sum(axis=1) / inverse.sum()
        if (weight >= 0).all():
            break
        kept = np.delete(kept, weight.argmin())
    return _over_sizes([np.asarray(weight @ values[kept]) for values in sizes])


# -- collapse ---------------------------------------------------------------------------------


def _collapses(curves: Sequence[Curve], crossings: Sequence[Crossing]) -> tuple[Collapse, ...]:
    start = _best_crossing(crossings).value
    if not math.isfinite(start):
        return ()
    return tuple(
        _collapse(name, curves, start)
        for name in ("binder_cumulant", "xi_over_l", "log_susceptibility")
    )


def _collapse(name: str, curves: Sequence[Curve], start: float) -> Collapse:
    """Fit Tc, nu, and for chi eta, so that the curves are one polynomial in (T - Tc) L^(1/nu)."""
    with_eta = name == "log_susceptibility"
    sides = np.array([float(c.side) for c in curves])
    # Each curve is used to where the shortest of them ends, seen from the crossing.
    reach = _REACH * min(
        float(np.abs(c.temperature[[0, -1]] - start).min()) * c.side for c in curves
    )
    points = [
        np.linspace(
            max(c.temperature[0], start - reach / c.side),
            min(c.temperature[-1], start + reach / c.side),
            _COLLAPSE_POINTS,
        )
        for c in curves
    ]
    values = [c.spline(name)(t) for c, t in zip(curves, points)]
    error = np.concatenate([_jackknife(v) for v in values])
    t = np.concatenate(points)
    side = np.repeat(sides, _COLLAPSE_POINTS)

    def residual(p: Array, y: Array) -> Array:
        x = (t - start * (1.0 + p[0])) * side ** p[1]
        x = x / np.abs(x).max()
        shifted = y - (2.0 - p[2]) * np.log(side) if with_eta else y
        basis = np.polynomial.chebyshev.chebvander(x, _DEGREE)
        if with_eta:
            # The amplitude of chi is a function of T, whatever the size.
            basis = np.column_stack([basis, (t - start) / np.ptp(t)])
        basis /= error[:, np.newaxis]
        coefficients = np.linalg.lstsq(basis, shifted / error, rcond=None)[0]
        return np.asarray(basis @ coefficients - shifted / error)

    def fit(y: Array, first: Array) -> Array:
        return np.asarray(least_squares(residual, first, args=(y,), x_scale="jac").x)

    full = np.concatenate([v[0] for v in values])
    best = fit(full, np.array([0.0, 1.0, 0.25] if with_eta else [0.0, 1.0]))
    found = []
    for i, v in enumerate(values):
        of_size = [best]
        for row in v[1:]:
            y = full.copy()
            y[i * _COLLAPSE_POINTS : (i + 1) * _COLLAPSE_POINTS] = row
            of_size.append(fit(y, best))
        found.append(np.array(of_size))
    temperature = _over_sizes([start * (1.0 + p[:, 0]) for p in found])
    nu = _over_sizes([1.0 / p[:, 1] for p in found])
    eta = _over_sizes([p[:, 2] for p in found]) if with_eta else None
    return Collapse(name, temperature, nu, eta)
