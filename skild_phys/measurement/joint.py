"""Functions of model and truth together that are no differences: ratios, distances of patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skild_phys.errorbars import Estimate, Means
from skild_phys.measurement.dataset import Variables, add_estimate
from skild_phys.measurement.observables import Observable, observables
from skild_phys.measurement.patterns import fold_patterns, kl_divergence, total_variation
from skild_phys.measurement.shells import Array
from skild_phys.measurement.statistics import Statistics

_NOISE = "patterns_tv_noise"
RATIOS = {
    "structure_factor_ratio": ("structure_factor", "radial"),
    "two_point_axis_ratio": ("two_point_axis", "axis"),
    "two_point_diagonal_ratio": ("two_point_diagonal", "diagonal"),
    "two_point_radial_ratio": ("two_point_radial", "distance"),
}
"""Name of a ratio model / truth -> the observable, and the statistic that its mean is."""


@dataclass(frozen=True)
class Joint:
    """A function of the means of model and truth together that is not a difference."""

    name: str
    long_name: str
    dim: str
    needs: tuple[str, ...]
    function: Callable[[Means, Means], Array]

    @property
    def labelled(self) -> Observable:
        """The observable that names it in a dataset."""
        return Observable(
            self.name, self.long_name, "1", self.dim, self.needs, lambda means, system: np.zeros(0)
        )


def _ratio_of(statistic: str) -> Callable[[Means, Means], Array]:
    def ratio(model: Means, truth: Means) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(model[statistic] / truth[statistic])

    return ratio


def joint_functions(found: Statistics, reference: Statistics) -> list[Joint]:
    """Return the functions that two sets of statistics, of a model and the truth, allow."""
    sites = float(found.system.sites)
    windows = min(int(s.count.sum()) for s in (found, reference)) * sites
    known = {o.name: o for o in observables(found.system)}

    def variation(model: Means, truth: Means) -> Array:
        return total_variation(fold_patterns(model["patterns"]), fold_patterns(truth["patterns"]))

    def difference(model: Means, truth: Means) -> Array:
        return fold_patterns(model["patterns"]) - fold_patterns(truth["patterns"])

    def divergence(model: Means, truth: Means) -> Array:
        p, q = fold_patterns(truth["patterns"]), fold_patterns(model["patterns"])
        return kl_divergence(p, q, 0.5 / windows)

    functions = [
        Joint(
            name,
            f"{known[of].long_name}, over the truth's",
            known[of].dim,
            (statistic,),
            _ratio_of(statistic),
        )
        for name, (of, statistic) in RATIOS.items()
    ]
    if "patterns" in found.rows and "patterns" in reference.rows:
        functions += [
            Joint("patterns_tv", "total variation of 3x3 patterns", "", ("patterns",), variation),
            Joint(
                _NOISE,
                "total variation of 3x3 patterns that noise alone would give",
                "",
                ("patterns",),
                difference,
            ),
            Joint(
                "patterns_kl",
                "Kullback-Leibler divergence of 3x3 patterns, truth from model",
                "",
                ("patterns",),
                divergence,
            ),
        ]
    return functions


def add_joint(data: Variables, joint: Joint, found: Estimate) -> None:
    """Put the estimate of a joint function among the variables."""
    if joint.name == _NOISE:
        # The mean of |x| for a Gaussian x of standard deviation sigma is sigma sqrt(2 / pi).
        noise = np.asarray(found.error.sum() / np.sqrt(2 * np.pi))
        unknown = np.asarray(np.nan)
        found = Estimate(noise, unknown, unknown, unknown, unknown)
    add_estimate(data, joint.labelled, found)
