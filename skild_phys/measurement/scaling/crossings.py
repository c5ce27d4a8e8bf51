"""Where curves of two sizes cross, and a level that all of them reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from skild_phys.errors import BadInput
from skild_phys.measurement.scaling.curves import Curve
from skild_phys.measurement.scaling.fits import NOTHING, Number, jackknife_error, over_sizes
from skild_phys.measurement.system import Array

CROSSING = ("binder_cumulant", "xi_over_l")
"""Dimensionless, so that their slopes have no correction 1 / L^(1/nu), as that of ln chi has."""

_FINE = 128  # points between which a change of sign is looked for


@dataclass(frozen=True)
class Crossing:
    """Where `observable` of two sizes is equal; NaN where the curves do not meet."""

    observable: str
    sides: tuple[int, int]
    temperature: Number
    height: Number


def crossing_of(name: str, small: Curve, large: Curve) -> Crossing:
    """Return where two curves meet; bins move the crossing by the difference over its slope."""
    sides = (small.side, large.side)
    low = max(small.temperature[0], large.temperature[0])
    high = min(small.temperature[-1], large.temperature[-1])
    if not low < high:
        return Crossing(name, sides, NOTHING, NOTHING)
    a, b = small.spline(name), large.spline(name)
    grid = np.linspace(low, high, _FINE)
    difference = a(grid)[0] - b(grid)[0]
    changes = np.flatnonzero(np.diff(np.sign(difference)) != 0)
    if not len(changes):
        return Crossing(name, sides, NOTHING, NOTHING)
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
    return Crossing(name, sides, over_sizes(moved), over_sizes(heights))


def _clearest(z: Array, changes: NDArray[np.int64]) -> int:
    """Return the change of sign with the clearest difference on both sides, up to the next ones.

    Where both curves are flat, noise crosses zero as well.
    """
    parts = np.split(np.abs(z), changes + 1)
    peaks = [float(part.max()) for part in parts]
    return int(changes[np.argmax([min(pair) for pair in pairwise(peaks)])])


def best_crossing(crossings: Sequence[Crossing]) -> Number:
    """Return the crossing of xi / L of the two largest sizes that have one.

    It converges faster than that of U4, whose amplitude of the leading correction is larger.
    """
    for name in reversed(CROSSING):
        found = [
            c for c in crossings if c.observable == name and math.isfinite(c.temperature.value)
        ]
        if found:
            return found[-1].temperature
    return NOTHING


def common_level(curves: Sequence[Curve], crossings: Sequence[Crossing]) -> float:
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
