"""The kernels on real sizes: Kaufman's energy and specific heat, exact strips, one another.

Null hypotheses: the exact values. Errors come from the scatter of 50 bins in time order, or, for
multispin, of the 64 replicas, which are independent; |t| < 4 with 49 degrees of freedom fails
once in 4,700 seeds, and |t| < 4.6, where many are tested at once, once in 30,000. Seeds are fixed.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sampler_helpers import (
    ISING,
    ISING_3D,
    KAUFMAN,
    TC,
    Array,
    Lattices,
    configurations,
    deviation,
    difference,
    energies_by_axis,
    hot,
    sample,
    specific_heat_deviation,
    strip_energy,
)
from test_sampler_faults import until_flipped, wrong_bond, wrong_boundary

from skild_phys.models import MODELS, Model
from skild_phys.models.exact import kaufman_energy, kaufman_specific_heat
from skild_phys.simulation import metropolis, swendsen_wang

pytestmark = pytest.mark.statistical


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# Algorithm, side, updates between draws, draws (all replicas together), draws of burn-in. A bin
# is at least ten tau long: tau of the energy is 1.2 L^0.35 sweeps for Swendsen-Wang, up to 9
# clusters for Wolff, and below 0.4 L^2.17 sweeps for Metropolis.
AT_TC = [
    *(("wolff", side, 6, count, 50) for side, count in ((8, 20_000), (16, 20_000), (32, 15_000))),
    ("wolff", 64, 6, 6_000, 50),
    ("wolff", 128, 8, 2_000, 50),
    *(
        ("swendsen-wang", side, 4, count, 50)
        for side, count in ((8, 20_000), (16, 15_000), (32, 8_000), (64, 4_000), (128, 1_500))
    ),
    ("metropolis", 8, 20, 20_000, 100),
    ("metropolis", 16, 100, 10_000, 100),
    slow("metropolis", 32, 400, 10_000, 100),
    ("multispin", 8, 40, 64 * 600, 100),
    ("multispin", 16, 200, 64 * 200, 100),
    ("multispin", 32, 800, 64 * 60, 40),
    slow("wolff", 256, 10, 10_000, 50),
    slow("swendsen-wang", 256, 4, 10_000, 50),
    slow("metropolis", 64, 2000, 10_000, 40),
    slow("multispin", 64, 4000, 64 * 200, 20),
    slow("multispin", 128, 20_000, 64 * 40, 15),
]


def scores(energy: Array, sites: int, t: float, exact: tuple[float, float]) -> tuple[float, float]:
    """Return the deviations of energies and specific heat from the exact values."""
    return deviation(energy, exact[0]), specific_heat_deviation(energy, sites, t, exact[1])


@pytest.mark.parametrize(("algorithm", "side", "every", "count", "burn"), AT_TC)
def test_energy_and_specific_heat_at_tc_agree_with_kaufman(
    algorithm: str, side: int, every: int, count: int, burn: int
) -> None:
    """Null: Kaufman's values; |t| < 4 each."""
    energy = sample(
        algorithm, ISING, (side, side), TC, every, count, 4, burn=burn * every, record=ISING.energy
    )
    assert np.abs(scores(energy, side**2, TC, KAUFMAN[side])).max() < 4


@pytest.mark.parametrize("t", [2.0, 3.0])
@pytest.mark.parametrize("algorithm", ["wolff", "swendsen-wang", "metropolis", "multispin"])
def test_energy_and_specific_heat_off_tc_agree_with_kaufman(algorithm: str, t: float) -> None:
    """Null: Kaufman's values at L = 64; |t| < 4 each. The correlation length is 2 and 8."""
    every = {"wolff": 40 if t > TC else 4, "swendsen-wang": 4}.get(algorithm, 20)
    count = 64 * 400 if algorithm == "multispin" else 4000
    exact = kaufman_energy(64, t), kaufman_specific_heat(64, t)
    energy = sample(algorithm, ISING, (64, 64), t, every, count, 5, record=ISING.energy)
    assert np.abs(scores(energy, 64**2, t, exact)).max() < 4


@pytest.mark.parametrize("side", [16, slow(32)])
@pytest.mark.parametrize("algorithm", ["wolff", "swendsen-wang", "metropolis"])
def test_two_state_potts_has_kaufmans_energy(algorithm: str, side: int) -> None:
    """Null: (e_Ising(2 T) - 2) / 2 and the specific heat of Ising at 2 T, at Tc; |t| < 4 each."""
    model = MODELS["potts2"]
    every, count = {"metropolis": (side**2 // 3, 8000)}.get(algorithm, (6, 10_000))
    exact = (KAUFMAN[side][0] - 2.0) / 2.0, KAUFMAN[side][1]
    t = model.critical_temperature
    energy = sample(
        algorithm, model, (side, side), t, every, count, 6, burn=60 * every, record=model.energy
    )
    assert np.abs(scores(energy, side**2, t, exact)).max() < 4


# -- strips, by the transfer matrix -----------------------------------------------------------

STRIPS = [
    # Rows longer and shorter than a vector, and whole and broken multiples of it.
    *(
        (algorithm, "ising2d", shape, 1.1)
        for algorithm in ("wolff", "swendsen-wang", "metropolis", "multispin")
        for shape in ((4, 34), (6, 64), (50, 4))
    ),
    *((algorithm, "ising2d", (3, 37), 1.0) for algorithm in ("wolff", "swendsen-wang")),
    *(
        (algorithm, "ising3d", shape, 1.0)
        for algorithm in ("wolff", "swendsen-wang", "metropolis", "multispin")
        for shape in ((2, 4, 34), (2, 20, 4), (20, 4, 2))
    ),
    *((algorithm, "ising3d", (3, 2, 35), 1.0) for algorithm in ("wolff", "swendsen-wang")),
    *(
        (algorithm, name, shape, 1.1)
        for algorithm in ("wolff", "swendsen-wang", "metropolis")
        for name, shape in (("potts3", (4, 34)), ("potts4", (4, 34)), ("potts3", (40, 4)))
    ),
    *((algorithm, "potts8", (2, 38), 1.1) for algorithm in ("wolff", "swendsen-wang")),
    ("metropolis", "potts8", (2, 38), 1.2),
]


def strip_scores(algorithm: str, model: Model, shape: tuple[int, ...], t: float) -> Array:
    """Return the deviations of the energies of a strip's long bonds, and of its others."""
    long = int(np.argmax(shape))
    exact = strip_energy(model, (*(n for n in shape if n != shape[long]), shape[long]), t)
    every = {"wolff": 12, "swendsen-wang": 5}.get(algorithm, 40)
    count = 64 * 300 if algorithm == "multispin" else 6000

    def record(lattices: Lattices) -> Array:
        by_axis = energies_by_axis(model, lattices)
        return np.stack([by_axis[..., long], by_axis.sum(axis=-1) - by_axis[..., long]], axis=-1)

    found = sample(algorithm, model, shape, t, every, count, 7, burn=50 * every, record=record)
    return np.array([deviation(found[..., i], exact[i]) for i in range(2)])


@pytest.mark.parametrize(("algorithm", "name", "shape", "relative"), STRIPS)
def test_energies_of_a_strip_agree_with_the_transfer_matrix(
    algorithm: str, name: str, shape: tuple[int, ...], relative: float
) -> None:
    """Null: the exact energies of the bonds along the strip and across it; |t| < 4.6 each."""
    model = MODELS[name]
    found = strip_scores(algorithm, model, shape, relative * model.critical_temperature)
    assert np.abs(found).max() < 4.6


def test_transfer_matrix_agrees_with_kaufman_and_enumeration() -> None:
    for t in (1.5, TC, 4.0):
        assert strip_energy(ISING, (4, 4), t).sum() == pytest.approx(kaufman_energy(4, t))
        assert strip_energy(ISING, (6, 6), t).sum() == pytest.approx(kaufman_energy(6, t))
        two = strip_energy(MODELS["potts2"], (6, 6), t / 2).sum()
        assert two == pytest.approx((kaufman_energy(6, t) - 2) / 2)
    for model, shape in ((ISING_3D, (2, 2, 4)), (MODELS["potts3"], (2, 4))):
        t = model.critical_temperature
        lattices = configurations(model, shape)
        energy = model.energy(lattices)
        weight = np.exp(-(energy - energy.min()) * model.sites(lattices) / t)
        mean = weight @ energies_by_axis(model, lattices) / weight.sum()
        np.testing.assert_allclose(
            strip_energy(model, shape, t), [mean[-1], mean[:-1].sum()], rtol=1e-10
        )


def special(algorithm: str, every: int, count: int) -> Array:
    """Return p values of the hypothesis that all bonds of a 6 x 38 torus are as often satisfied.

    By axis of the bonds, and by column and row of them. Neighbouring columns are correlated, so
    their covariance is used: Hotelling's T^2.
    """
    lattices = sample(algorithm, ISING, (6, 38), 1.2 * TC, every, count, seed=8)
    x = lattices.reshape(-1, 6, 38)
    bonds = [(x == np.roll(x, 1, axis)).astype(np.float64) for axis in (1, 2)]
    return np.array([hotelling(b.mean(axis=axis)) for b in bonds for axis in (1, 2)])


@pytest.mark.parametrize(
    ("algorithm", "every", "count"),
    [
        ("wolff", 60, 6000),
        ("swendsen-wang", 8, 6000),
        ("metropolis", 60, 6000),
        ("multispin", 60, 64 * 200),
    ],
)
def test_no_column_and_no_row_is_special(algorithm: str, every: int, count: int) -> None:
    """Null: the lattice is the same everywhere, at 1.2 Tc; each of 4 fails once in 10^4 seeds."""
    assert special(algorithm, every, count).min() > 1e-4


def hotelling(rows: Array) -> float:
    """Return the p value that all columns of `rows` (n, columns) have the same mean."""
    apart = np.diff(rows, axis=1)
    n, p = apart.shape
    mean = apart.mean(axis=0)
    square = n * mean @ np.linalg.solve(np.cov(apart.T), mean)
    return float(scipy.stats.f.sf(square * (n - p) / (p * (n - 1)), p, n - p))


# -- one another ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "relative"),
    [
        ("ising3d", (8, 8, 8), 1.0),
        ("ising3d", (4, 6, 34), 1.1),
        ("potts3", (16, 16), 1.0),
        ("potts8", (16, 16), 1.1),
        slow("ising2d", (16, 48), 1.0),
        slow("potts4", (16, 16), 1.0),
        slow("potts5", (16, 16), 1.05),
    ],
)
def test_kernels_agree_with_one_another(name: str, shape: tuple[int, ...], relative: float) -> None:
    """Null: the same energy, energy^2 and M^2 from any two kernels; |z| < 4.6 each."""
    model = MODELS[name]
    t = relative * model.critical_temperature
    plans = {
        "wolff": (12, 5000),
        "swendsen-wang": (7, 5000),
        "metropolis": (150, 4000),
        "multispin": (150, 64 * 100),
    }
    found = {}
    for algorithm, (every, count) in plans.items():
        if algorithm == "multispin" and not name.startswith("ising"):
            continue

        def record(x: Lattices) -> Array:
            return np.stack([model.energy(x), model.energy(x) ** 2, model.order_parameter(x) ** 2])

        x = sample(algorithm, model, shape, t, every, count, 9, burn=50 * every, record=record)
        found[algorithm] = x.transpose(1, 0, 2)
    for a, b in itertools.combinations(found, 2):
        z = [difference(u, v) for u, v in zip(found[a], found[b])]
        assert np.abs(z).max() < 4.6, (a, b, z)


@pytest.mark.parametrize("algorithm", ["wolff", "swendsen-wang", "metropolis", "multispin"])
def test_hot_and_cold_starts_agree(algorithm: str) -> None:
    """Null: the same energy and M^2 at L = 16, Tc, after burn-in; |z| < 4 each."""
    every, count, burn = {
        "wolff": (5, 5000, 50),
        "swendsen-wang": (4, 5000, 50),
        "metropolis": (100, 5000, 50),
        "multispin": (200, 64 * 60, 30),
    }[algorithm]
    found = []
    for number, start in enumerate((None, hot((16, 16), ISING))):
        found.append(
            sample(
                algorithm, ISING, (16, 16), TC, every, count, 10 + number, start=start,
                burn=burn * every,
                record=lambda x: np.stack([ISING.energy(x), ISING.order_parameter(x) ** 2]),
            ).transpose(1, 0, 2)
        )  # fmt: skip
    assert max(abs(difference(a, b)) for a, b in zip(*found)) < 4


# -- planted faults ---------------------------------------------------------------------------


def test_energy_sees_a_state_dependent_stopping_time() -> None:
    energy = sample(
        "wolff", ISING, (16, 16), TC, 2, 20_000, 4, advance=until_flipped, record=ISING.energy
    )
    assert deviation(energy, KAUFMAN[16][0]) < -10


def test_energy_sees_a_bond_probability_half_a_percent_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong_bond(swendsen_wang, 0.995)(monkeypatch)
    energy = sample("swendsen-wang", ISING, (64, 64), 3.0, 4, 4000, 5, record=ISING.energy)
    assert deviation(energy, kaufman_energy(64, 3.0)) > 8


def test_strips_and_rows_see_a_wrong_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_boundary(metropolis)(monkeypatch)
    assert np.abs(strip_scores("metropolis", ISING, (4, 34), 1.1 * TC)).max() > 8
    assert special("metropolis", 60, 8000).min() < 1e-6
