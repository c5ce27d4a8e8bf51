"""Correlations of a fresh simulation against the theory of the critical torus.

Null hypothesis: on 64 x 64 (and 48 x 96) lattices at Tc the exact averages are those of theory.
The tests are of chi^2 with the full covariance (Hotelling's law), and fail by chance in 1e-4
each. Theory is a scaling limit: at r >= 4 and 12,000 lattices its own error is below the
statistical one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TC
from store_helpers import simulate

from skild_phys.errorbars import jackknife
from skild_phys.measurement.agreement import Agreement, agreement_of
from skild_phys.measurement.observables import Observable, chosen
from skild_phys.measurement.observables.four_point import square_sides
from skild_phys.measurement.rows import Rows, Statistics, collect
from skild_phys.measurement.system import System
from skild_phys.measurement.theory import theory
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store

pytestmark = pytest.mark.statistical
SAMPLES = 12000
LINES = ("connected_four_point", "two_point_axis", "two_point_diagonal", "two_point_radial")


class Ensemble:
    """Simulated lattices, reduced to rows."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        simulate(SimulationSpec(shape, TC, SAMPLES, seed=80), path)
        store = open_store(path)
        self.system, self.rows = System.of(store), Rows.of(store, 4096)
        self.known = theory(self.system)
        self.observables = {o.name: o for o in chosen(self.system)}
        names = (*LINES, "structure_factor", "susceptibility", "correlation_length_ratio")
        needed = [self.observables[name] for name in names]
        self.found: Statistics = collect(store, self.system, needed, self.rows)

    def judge(self, name: str, places: np.ndarray, against: np.ndarray | None = None) -> Agreement:
        """Return the agreement of an observable with theory at some places."""
        observable: Observable = self.observables[name]
        exact = np.ravel(self.known[name].value if against is None else against)

        def off(means: dict[str, np.ndarray]) -> np.ndarray:
            values = np.asarray(observable(means, self.system))
            return (values if observable.dims else values[..., np.newaxis]) - exact

        residual = jackknife(
            off, self.found.needed(observable), chains=self.rows.chains, influence=True
        )
        return agreement_of(residual, places)


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return Ensemble(tmp_path_factory.mktemp("torus") / "square.zarr", (64, 64))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return Ensemble(tmp_path_factory.mktemp("torus") / "wide.zarr", (48, 96))


def places(name: str, ensemble: Ensemble) -> np.ndarray:
    """Sides 4, 8 .. of squares, distances 4, 8 .. 24 of pairs."""
    if name == "connected_four_point":
        return np.flatnonzero(square_sides(ensemble.system.shape) >= 4)
    return np.array([4, 6, 8, 12, 16, 24])


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("which", ["square", "wide"])
def test_correlations_from_four_sites_on(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    ensemble = request.getfixturevalue(which)
    assert ensemble.judge(name, places(name, ensemble)).p > 1e-4


@pytest.mark.parametrize("which", ["square", "wide"])
def test_structure_factor_and_what_follows(which: str, request: pytest.FixtureRequest) -> None:
    ensemble = request.getfixturevalue(which)
    assert ensemble.judge("structure_factor", np.array([0, 1, 2, 4, 8, 16])).p > 1e-4
    for name in ("susceptibility", "correlation_length_ratio"):
        assert ensemble.judge(name, np.array([0])).p > 1e-4


def _infinite(ensemble: Ensemble) -> np.ndarray:
    """Planted: the correlations of the infinite plane, without the torus."""
    return np.asarray(0.70338 * np.maximum(np.arange(33), 1.0) ** -0.25)


def _one_percent(ensemble: Ensemble) -> np.ndarray:
    """Planted: an amplitude 1% off."""
    return np.asarray(1.01 * ensemble.known["two_point_axis"].value)


@pytest.mark.parametrize("fault", [_infinite, _one_percent])
def test_planted_theories_are_rejected(
    square: Ensemble, fault: Callable[[Ensemble], np.ndarray]
) -> None:
    name = "two_point_axis"
    assert square.judge(name, places(name, square), fault(square)).p < 1e-6
