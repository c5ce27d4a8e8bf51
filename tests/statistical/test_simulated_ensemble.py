"""The whole loop: burn-in, measured spacing and draws together do not bias the ensemble.

Many short simulations with default settings, each with a seed of its own, so that what adapts to
the chains (when burn-in ends, how far samples are apart) is different in each. Null hypothesis:
their mean energy and energy^2 are Kaufman's, from cold and from hot starts; the means of whole
simulations are independent, so |z| < 4 fails once in 15,000 seeds. Seeds are fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sampler_helpers import ISING, KAUFMAN, TC, Array
from store_helpers import simulate

from skild_phys.executors import Executor
from skild_phys.simulation import chain
from skild_phys.simulation.chain import Samples, Unit, draw
from skild_phys.simulation.spec import SimulationSpec

pytestmark = pytest.mark.statistical


class Here(Executor):
    """Runs work at once, in this thread."""

    at_once, remote = 1, False

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*args, **options))
        return done


HERE = Here(lambda: False)


def simulated(spec: SimulationSpec) -> list[Samples]:
    """Return the samples of every unit, drawn as `simulate` draws them."""
    settled, units = chain.burn_in(spec.with_stint(), HERE)
    return [
        draw(settled, number, ready, 0, list(settled.stretches(number, 0, spec.n_samples)))
        for number, ready in enumerate(units)
    ]


def means(algorithm: str, start: str, runs: int, n_samples: int, first: int = 0) -> Array:
    """Return the mean e and e^2 of simulations at L = 8, Tc, (runs, 2)."""
    out = np.empty((runs, 2))
    for i in range(runs):
        spec = SimulationSpec(8, TC, n_samples, algorithm=algorithm, start=start, seed=first + i)
        energy = np.concatenate([samples.energy for samples in simulated(spec)])
        out[i] = energy.mean(), (energy**2).mean()
    return out


def z_scores(found: Array) -> Array:
    """Return (mean - exact) / error of e and e^2."""
    energy, heat = KAUFMAN[8]
    exact = np.array([energy, energy**2 + heat * TC**2 / 64])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    return np.asarray((found.mean(axis=0) - exact) / error)


@pytest.mark.parametrize("start", ["cold", "hot"])
@pytest.mark.parametrize(
    ("algorithm", "runs", "n_samples"),
    [
        ("wolff", 40, 40),
        ("swendsen-wang", 40, 40),
        ("metropolis", 20, 40),
        ("multispin", 30, 64),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("wolff", 1200, 4),
                ("swendsen-wang", 1200, 4),
                ("metropolis", 600, 4),
                ("multispin", 400, 64),
            )
        ),
    ],
)
def test_many_short_simulations_have_kaufmans_energy(
    algorithm: str, runs: int, n_samples: int, start: str
) -> None:
    assert np.abs(z_scores(means(algorithm, start, runs, n_samples))).max() < 4


def test_simulations_that_do_not_burn_in_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: the first samples are taken two updates after the start."""

    def none(spec: SimulationSpec, run: Executor) -> Any:
        units = [Unit.start(spec, number) for number in range(spec.units)]
        return dataclasses.replace(spec, every=1, burn_in=0), units

    monkeypatch.setattr(chain, "burn_in", none)
    assert np.abs(z_scores(means("swendsen-wang", "hot", 100, 4))).max() > 10


def test_simulations_stopped_by_their_state_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: samples are taken only while the energy is low, else an update later."""
    right = chain._advancing

    def until_low(spec: Any, unit: Any, stop: Any) -> Any:
        advance = right(spec, unit, stop)

        def wrong(updates: int) -> None:
            advance(updates)
            for _ in range(3):
                if ISING.energy(unit.configurations)[0] > -1.5:
                    advance(1)

        return wrong

    monkeypatch.setattr(chain, "_advancing", until_low)
    assert z_scores(means("swendsen-wang", "cold", 30, 40))[0] < -10


def test_simulate_draws_the_same_samples(tmp_path: Path) -> None:
    for algorithm in ("swendsen-wang", "multispin"):
        spec = SimulationSpec(8, TC, 128, algorithm=algorithm, seed=3, stint=1)
        store = simulate(spec, tmp_path / f"{algorithm}.zarr", threads=1)
        mine = np.empty(128)
        for number, samples in enumerate(simulated(spec)):
            places = [i for a, b in spec.stretches(number, 0, 128) for i in range(a, b)]
            mine[places] = samples.energy
        np.testing.assert_array_equal(store.variable("energy"), mine)


def pilot_taus(algorithm: str, side: int, pilots: int) -> NDArray[np.float64]:
    """Return tau of the energy as each of several pilots at Tc measures it."""
    found = []
    for seed in range(pilots):
        spec = SimulationSpec(side, TC, 1, algorithm=algorithm, seed=1000 + seed)
        work = chain._BurnIn(spec, HERE, lambda text: None, {}, lambda arrays: None)
        work.pilot()
        found.append(work.tau()[0][0])
    return np.array(found)


@pytest.mark.parametrize(
    ("algorithm", "tau", "error"), [("swendsen-wang", 4.9, 0.4), ("wolff", 5.8, 0.4)]
)
def test_pilot_measures_the_autocorrelation_time(algorithm: str, tau: float, error: float) -> None:
    """Null: tau of the energy at L = 64, Tc is 4.9(4) sweeps, 5.8(4) clusters; |z| < 4.

    Of the mean of 16 pilots; one pilot by itself knows tau to about a quarter.
    """
    found = pilot_taus(algorithm, 64, 16)
    spread = found.std(ddof=1)
    assert abs(found.mean() - tau) < 4 * np.hypot(error, spread / np.sqrt(len(found)))
    assert spread < 0.4 * tau
