"""The whole analysis of stores of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from skild_phys.lattice.exact import EXPONENTS
from skild_phys.measurement.lattices import hamiltonian
from skild_phys.measurement.scaling.collapse import Collapse, collapses_of
from skild_phys.measurement.scaling.crossings import (
    CROSSING,
    Crossing,
    best_crossing,
    common_level,
    crossing_of,
)
from skild_phys.measurement.scaling.curves import Curve, Number, by_side, curve_of, jackknife_error
from skild_phys.measurement.scaling.exponents import COMBINED, Exponent, at_level_of, exponents_of
from skild_phys.measurement.shells import Array
from skild_phys.store import Lattices

BINS = 40
"""Bins of each size, unless told."""

_LARGEST_K = 0.3  # rad / lattice constant, on the smallest lattice; above, S(k) feels the lattice


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
    sizes = by_side(stores, bins)
    model = hamiltonian(stores[0])
    if model is None:
        raise ValueError("no Hamiltonian")
    lowest = int(min(sizes) * _LARGEST_K / (2 * np.pi))
    curves = tuple(
        curve_of(side, sizes[side], bins, max(lowest, 1), threads, progress)
        for side in sorted(sizes)
    )
    crossings = tuple(crossing_of(name, a, b) for name in CROSSING for a, b in pairwise(curves))
    level = common_level(curves, crossings)
    at_level = [at_level_of(curve, level) for curve in curves]
    published = {"temperature": model.critical_temperature}
    published |= dict(zip(("nu", "eta"), EXPONENTS.get(model.name, ())))
    return Scaling(
        model.name,
        curves,
        level,
        crossings,
        exponents_of(curves, at_level, lowest),
        collapses_of(curves, crossings),
        best_crossing(crossings),
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
            np.array([float(jackknife_error(values[name])) for values in at_level]),
        )
        for label, name in names.items()
    ]
