"""Finite-size scaling: crossings, exponents and data collapse, from stores of several sizes.

Each size is reweighted to the temperatures around those it was simulated at (`curves`). xi / L and
U4 of two sizes cross near Tc. Exponents are read off where U4 has one and the same value for every
size, which removes Tc, and most of its uncertainty, from them:

    dU4/dT, d(xi/L)/dT ~ L^(1/nu);    chi, S(2 pi j / L) ~ L^(2 - eta) = L^(gamma/nu);
    |m| ~ L^(-beta/nu);               C ~ a + b L^(alpha/nu).

(Where xi / L has one value, chi / S(2 pi / L) is a function of L alone, and the two would give the
same.) A collapse fits one function of (T - Tc) L^(1/nu) to the curves of all sizes in a window
around Tc. Every fit has its chi^2, and may have a correction L^-omega. Every error is a jackknife
over bins in time order of each size; sizes are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from skild_phys.errors import BadInput
from skild_phys.measurement.curves import CROSSING, Curve, by_side, jackknife_error
from skild_phys.measurement.fits import (
    COMBINED,
    Collapse,
    Exponent,
    Number,
    Omega,
    collapses_of,
    exponents_of,
)
from skild_phys.measurement.rows import collect, workers
from skild_phys.measurement.system import Array, hamiltonian
from skild_phys.measurement.tables import to_plain
from skild_phys.models import Model
from skild_phys.models.exact import EXPONENTS
from skild_phys.store import Lattices

NAMES = {"binder_cumulant": "U4", "xi_over_l": "xi/L", "log_susceptibility": "chi"}
"""Curves that cross or collapse -> what tables call them."""

POOR = 0.01
"""Probability of chi^2 below which a fit is called poor."""

_FINE = 128  # points between which a change of sign is looked for
_LARGEST_K = 0.3  # rad / lattice constant, on the smallest lattice; above, S(k) feels the lattice


@dataclass(frozen=True)
class Crossing:
    """Where `observable` of two sizes is equal; NaN where the curves do not meet."""

    observable: str
    sides: tuple[int, int]
    temperature: Number
    height: Number


@dataclass(frozen=True)
class Scaling:
    """The analysis of stores of several sizes; temperatures in J / k_B.

    Attributes
    ----------
    model : of the stores.
    curves : one a size, the smallest first.
    level : the value of U4 at which exponents are read off.
    crossings, exponents, collapses : what was found.
    temperature : Tc, the best crossing; NaN if no curves cross.
    published : temperature and exponents, as far as they are known.
    at_level : of each size, name -> (1 + bins,): logarithms where U4 has that value.
    """

    model: str
    curves: tuple[Curve, ...]
    level: float
    crossings: tuple[Crossing, ...]
    exponents: tuple[Exponent, ...]
    collapses: tuple[Collapse, ...]
    temperature: Number
    published: dict[str, float]
    at_level: tuple[dict[str, Array], ...]

    def best(self, name: str) -> Exponent:
        """Return the estimate of an exponent from all sizes and, if there are several, lines."""
        known = [e for e in self.exponents if e.name == name]
        return next((e for e in known if e.source == COMBINED), known[0])

    def warnings(self) -> list[str]:
        """Return what must be known before a number is used: fits that are poor."""
        fits = [(f"{e.name} from {e.source}", e.quality) for e in self.exponents]
        fits += [(f"collapse of {NAMES[c.observable]}", c.quality) for c in self.collapses]
        found = [
            f"{what}: chi^2 = {q.chi2:.3g} for {q.dof} degrees of freedom (p = {q.p:.2g}): "
            "its error does not hold"
            for what, q in fits
            if q.p < POOR
        ]
        return found if self.collapses else [*found, "no curves cross: no Tc and no collapse"]

    def summary(self) -> dict[str, Any]:
        """Return the analysis in plain types, ready for JSON."""
        sizes = [
            {
                "L": c.side, "lattices": c.samples, "simulated": c.simulated,
                "reach": [c.temperature[0], c.temperature[-1]],
            }
            for c in self.curves
        ]  # fmt: skip
        found = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("curves", "at_level")
        }
        plain: dict[str, Any] = to_plain(
            _plain(found) | {"sizes": sizes, "warnings": self.warnings()}
        )
        return plain


def _plain(value: Any) -> Any:
    """Return dataclasses as dictionaries: numbers and qualities among their owner's keys."""
    if is_dataclass(value):
        found: dict[str, Any] = {}
        for key, own in ((f.name, getattr(value, f.name)) for f in fields(value)):
            if key in ("number", "quality"):
                found |= _plain(own)
            else:
                found["L" if key == "sides" else key] = {} if own is None else _plain(own)
        return found
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, tuple) else value


def scaling(
    stores: Sequence[Lattices],
    *,
    bins: int = 40,
    window: float | None = None,
    omega: Omega = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Scaling:
    """Analyse stores of one model at two sizes or more; see `skild_phys.scaling`.

    Raises
    ------
    BadInput : fewer than two sizes, several models, lattices that are not squares or cubes or
        have no Hamiltonian, more bins than samples, or curves that do not reach one another; a
        window or omega that is not positive; fewer sizes than a correction has unknowns.
    """
    if not (window is None or 0 < window < math.inf):
        raise BadInput("window", window, "a positive number")
    positive = not isinstance(omega, str) and (omega is None or 0 < omega < math.inf)
    if not (positive or omega == "fit"):
        raise BadInput("omega", omega, "a positive number, or fit")
    sizes = by_side(stores, bins)
    model = hamiltonian(stores[0])
    if model is None:
        raise ValueError("no Hamiltonian")
    unknown = 4 if omega == "fit" else 3
    if omega is not None and len(sizes) < unknown:
        raise BadInput("omega", omega, f"{unknown} sizes or more")
    lowest = int(min(sizes) * _LARGEST_K / (2 * np.pi))
    with workers(threads) as at_work:
        read = partial(collect, at_work=at_work, progress=progress)
        curves = tuple(
            Curve.of(side, sizes[side], bins, max(lowest, 1), read) for side in sorted(sizes)
        )
    crossings = tuple(_crossing(name, a, b) for name in CROSSING for a, b in pairwise(curves))
    level = _common_level(curves, crossings)
    # That of xi / L, of the two largest sizes that have one: it converges faster than that of U4,
    # whose amplitude of the leading correction is larger.
    met = [c.temperature for c in crossings if math.isfinite(c.temperature.value)]
    temperature = met[-1] if met else Number(math.nan, math.nan)
    near = temperature.value if met else model.critical_temperature
    at_level = tuple(curve.at_level(level, near) for curve in curves)
    exponents = exponents_of(curves, at_level, lowest, omega)
    collapses = collapses_of(curves, temperature.value, exponents, window, omega) if met else ()
    return Scaling(
        model.name, curves, level, crossings, exponents, collapses, temperature,
        _published(model), at_level,
    )  # fmt: skip


def _published(model: Model) -> dict[str, float]:
    """Return Tc and, where nu and eta are known, what hyperscaling makes of them."""
    published = {"temperature": model.critical_temperature}
    if model.name in EXPONENTS:
        (nu, eta), d = EXPONENTS[model.name], model.dimension
        published |= {"nu": nu, "eta": eta, "beta/nu": (d - 2 + eta) / 2}
        published |= {"gamma/nu": 2 - eta, "alpha/nu": 2 / nu - d}
    return published


def _crossing(name: str, small: Curve, large: Curve) -> Crossing:
    """Return where two curves meet; bins move the crossing by the difference over its slope."""
    sides = (small.side, large.side)
    low = max(small.temperature[0], large.temperature[0])
    high = min(small.temperature[-1], large.temperature[-1])
    a, b = small.spline(name), large.spline(name)
    grid = np.linspace(low, high, _FINE)
    difference = a(grid)[0] - b(grid)[0]
    changes = np.flatnonzero(np.diff(np.sign(difference)) != 0)
    if not (low < high and len(changes)):
        return Crossing(name, sides, Number(math.nan, math.nan), Number(math.nan, math.nan))
    error = np.hypot(jackknife_error(a(grid)), jackknife_error(b(grid)))
    middle = _clearest(difference / np.maximum(error, 1e-300), changes)
    root = float(brentq(lambda t: a(t)[0] - b(t)[0], grid[middle], grid[middle + 1]))
    slope_a, slope_b = a(root, 1)[0], b(root, 1)[0]
    at_a, at_b = a(root), b(root)
    moved = (
        root - (at_a - at_b[0]) / (slope_a - slope_b),
        root - (at_a[0] - at_b) / (slope_a - slope_b),
    )
    heights = (at_b[0] + slope_b * (moved[0] - root), at_a[0] + slope_a * (moved[1] - root))
    return Crossing(name, sides, Number.of(moved), Number.of(heights))


def _clearest(z: Array, changes: NDArray[np.int64]) -> int:
    """Return the change of sign with the clearest difference on both sides, up to the next ones.

    Where both curves are flat, noise crosses zero as well.
    """
    peaks = [float(part.max()) for part in np.split(np.abs(z), changes + 1)]
    return int(changes[np.argmax([min(pair) for pair in pairwise(peaks)])])


def _common_level(curves: Sequence[Curve], crossings: Sequence[Crossing]) -> float:
    """Return a value of U4 that every curve takes: the height of a crossing, or the middle."""
    ends = [curve.values["binder_cumulant"][0][[0, -1]] for curve in curves]
    low, high = max(min(e) for e in ends), min(max(e) for e in ends)
    if not low < high:
        texts = [f"{min(e):.3g} .. {max(e):.3g} (L = {c.side})" for c, e in zip(curves, ends)]
        accepted = "temperatures nearer to one another, and to Tc"
        raise BadInput("stores", f"U4 of {', '.join(texts)}", accepted)
    heights = [c.height.value for c in crossings if c.observable == "binder_cumulant"]
    inside = [h for h in heights if low < h < high]
    return inside[-1] if inside else 0.5 * (low + high)
