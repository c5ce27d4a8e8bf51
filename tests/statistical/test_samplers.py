"""Every kernel draws from the Gibbs distribution: chi-square against full enumeration.

Null hypothesis of each test: the samples are independent, with the probabilities of full
enumeration. The cells are the levels (E, M), for Potts (E, occupation of the commonest state, of
state 0), or every configuration by itself; cells with fewer than 20 expected are pooled. Samples
are at least ten integrated autocorrelation times apart, those of the slowest of E, M and the
occupation of the commonest state: measured with 20,000 samples for every case, in updates

    4 x 4, T = 2, Tc, 3.5   wolff 0.8, 1.0, 1.2   swendsen-wang 2.1, 2.0, 1.3
                            metropolis, multispin 82, 21, 1.5 (M changes its sign)

and at high temperature 16 sweeps for Metropolis (1 / (4 LAZINESS)), 6.5 clusters for Wolff. Sides
of two have double bonds, odd sides are for cluster updates only. A sound sampler is rejected at
p < 1e-4, so once in 10^4 seeds; seeds are fixed. The faults that must be seen are planted in
`test_sampler_faults.py`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from sampler_helpers import ISING, ISING_3D, TC, TC_3D, p_value, sample, states

from skild_phys.models import MODELS, Model
from skild_phys.models.base import equal_bonds
from skild_phys.rng import lane_state
from skild_phys.simulation.swendsen_wang import swendsen_wang

pytestmark = pytest.mark.statistical

CLUSTER, LOCAL = ("wolff", "swendsen-wang"), ("metropolis", "multispin")

# algorithm, shape, T, updates between samples, samples
SQUARE = [
    *(("wolff", (4, 4), t, 13, 120_000) for t in (2.0, TC, 3.5)),
    *(("swendsen-wang", (4, 4), t, 22, 50_000) for t in (2.0, TC, 3.5)),
    *(
        ("multispin", (4, 4), t, every, count)
        for t, every, count in ((2.0, 820, 100_000), (TC, 210, 400_000), (3.5, 15, 400_000))
    ),
    *(
        ("metropolis", (4, 4), t, every, count)
        for t, every, count in ((2.0, 820, 15_000), (TC, 210, 30_000), (3.5, 15, 60_000))
    ),
    ("wolff", (4, 4), 50.0, 65, 50_000),
    ("swendsen-wang", (4, 4), 1e6, 5, 100_000),
    ("multispin", (4, 4), 50.0, 41, 400_000),
    ("multispin", (4, 4), 1e6, 161, 400_000),
    ("metropolis", (4, 4), 1e6, 161, 20_000),
]
RECTANGLES = [
    *((a, s, TC, 22, 30_000) for a in CLUSTER for s in ((2, 2), (2, 4), (3, 3), (3, 4))),
    *(("multispin", s, TC, 160, 100_000) for s in ((2, 2), (2, 4), (8, 2))),
    *(("metropolis", s, TC, 160, 30_000) for s in ((2, 2), (4, 2), (2, 8))),
]
CUBIC = [
    *((a, s, TC_3D, 19, 40_000) for a in CLUSTER for s in ((2, 2, 2), (2, 2, 4), (3, 2, 2))),
    *(("multispin", s, TC_3D, 31, 200_000) for s in ((2, 2, 2), (2, 2, 4), (4, 2, 2))),
    *(("metropolis", s, TC_3D, 31, 40_000) for s in ((2, 2, 2), (2, 4, 2))),
]
# algorithm, q, shape, T / Tc, updates between samples, samples
POTTS = [
    *((a, 2, (3, 4), 1.0, 25, 30_000) for a in CLUSTER),
    *((a, 3, (3, 3), 1.0, 40, 30_000) for a in CLUSTER),
    *((a, 3, (2, 4), 3.0, 20, 30_000) for a in CLUSTER),
    *((a, 4, (2, 4), 1.0, 55, 30_000) for a in CLUSTER),
    *((a, 5, (2, 3), 1.0, 75, 30_000) for a in CLUSTER),
    *((a, 8, (2, 2), 1.0, 100, 30_000) for a in CLUSTER),
    ("metropolis", 2, (2, 4), 1.0, 90, 30_000),
    ("metropolis", 3, (2, 2), 1.0, 130, 30_000),
    ("metropolis", 3, (2, 4), 1.0, 260, 20_000),
    ("metropolis", 4, (4, 2), 1.2, 260, 20_000),
    ("metropolis", 5, (2, 2), 1.2, 260, 20_000),
    ("metropolis", 8, (2, 2), 1.2, 400, 15_000),
    ("metropolis", 3, (2, 4), 10.0, 20, 30_000),
]


def check(model: Model, case: tuple[str, tuple[int, ...], float, int, int], seed: int) -> None:
    algorithm, shape, temperature, every, count = case
    lattices = sample(algorithm, model, shape, temperature, every, count, seed)
    assert p_value(model, lattices, temperature) > 1e-4
    if 20 * states(model) ** math.prod(shape) < count:
        assert p_value(model, lattices, temperature, whole=True) > 1e-4


@pytest.mark.parametrize("case", SQUARE + RECTANGLES, ids=str)
def test_ising_counts_agree_with_enumeration(
    case: tuple[str, tuple[int, ...], float, int, int],
) -> None:
    check(ISING, case, seed=2)


@pytest.mark.parametrize("case", CUBIC, ids=str)
def test_cubic_ising_counts_agree_with_enumeration(
    case: tuple[str, tuple[int, ...], float, int, int],
) -> None:
    check(ISING_3D, case, seed=3)


@pytest.mark.parametrize("case", POTTS, ids=str)
def test_potts_counts_agree_with_enumeration(
    case: tuple[str, int, tuple[int, ...], float, int, int],
) -> None:
    algorithm, q, shape, relative, every, count = case
    model = MODELS[f"potts{q}"]
    temperature = relative * model.critical_temperature
    check(model, (algorithm, shape, temperature, every, count), seed=4)


# -- the replicas of a multispin word ---------------------------------------------------------


def correlation_scores(series: NDArray[np.float64]) -> tuple[float, float]:
    """Return max |z| of the correlation of any two columns, and the p value of sum z^2."""
    n, columns = series.shape
    r = np.corrcoef(series.T)[np.triu_indices(columns, 1)]
    z = np.arctanh(np.clip(r, -0.999, 0.999)) * math.sqrt(n - 3)
    return float(np.abs(z).max()), float(scipy.stats.chi2.sf((z**2).sum(), len(z)))


@pytest.mark.parametrize(("t", "every"), [(2.0, 820), (TC, 210), (3.5, 15)])
def test_each_replica_by_itself_agrees_with_enumeration(t: float, every: int) -> None:
    """Null as above, for each of the 64; Bonferroni: the smallest p is below 1e-4 / 64 once in
    10^4 seeds, and so often a Kolmogorov-Smirnov test finds the 64 values not uniform."""
    lattices = sample("multispin", ISING, (4, 4), t, every, 64 * 4000, seed=5)
    values = [p_value(ISING, lattices[:, [r]], t) for r in range(64)]
    assert min(values) > 1e-4 / 64
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("t", "every"), [(TC, 210), (3.5, 15), (50.0, 41)])
def test_replicas_are_independent(t: float, every: int) -> None:
    """Null: no correlation between the energies, or M, or M^2, of any two of the 64 replicas.

    2,016 pairs: |z| > 5.6 in one of them, or a sum of squares at p < 1e-4, once in 10^4 seeds.
    """
    lattices = sample("multispin", ISING, (4, 4), t, every, 64 * 5000, seed=6)
    magnetization = ISING.order_parameter(lattices)
    for series in (ISING.energy(lattices), magnetization, magnetization**2):
        largest, p = correlation_scores(series)
        assert largest < 5.6
        assert p > 1e-4


def test_sites_of_a_vector_are_independent_at_infinite_temperature() -> None:
    """Null: at T = 1e6 the spins of a lattice are independent: no correlation of any two sites.

    64 sites, 2,016 pairs; false alarms as above. Lanes that share random bits would show.
    """
    for algorithm, count in (("wolff", 4000), ("swendsen-wang", 4000), ("metropolis", 4000)):
        every = 641 if algorithm == "wolff" else 321
        lattices = sample(algorithm, ISING, (2, 32), 1e6, every, count, seed=7)
        largest, p = correlation_scores(lattices.reshape(count, -1).astype(float))
        assert largest < 5.6, algorithm
        assert p > 1e-4, algorithm


# -- one update by itself ---------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 2, 3])
@pytest.mark.parametrize("algorithm", CLUSTER)
def test_transitions_of_cluster_updates_balance_in_detail(algorithm: str, q: int) -> None:
    """Null: pi(a) P(a -> b) = pi(b) P(b -> a) for every two configurations of a 2 x 2 torus.

    The flows a -> b and b -> a among successive lattices of a chain are then equal on average
    and, given their sum, binomial with 1/2. Bonferroni over the pairs: once in 10^4 seeds.
    """
    model = MODELS[f"potts{q}"] if q else ISING
    t = model.critical_temperature
    lattices = sample(algorithm, model, (2, 2), t, 1, 120_000, seed=8)
    values = np.array(model.values)
    q = len(values)
    number = np.searchsorted(values, lattices.reshape(len(lattices), -1)) @ q ** np.arange(4)
    flow = np.zeros((q**4, q**4), dtype=np.int64)
    np.add.at(flow, (number[:-1], number[1:]), 1)
    there, back = flow[np.triu_indices(q**4, 1)], flow.T[np.triu_indices(q**4, 1)]
    some = there + back >= 50
    z = (there - back)[some] / np.sqrt((there + back)[some])
    assert np.abs(z).max() < scipy.stats.norm.isf(0.5e-4 / some.sum())


@pytest.mark.parametrize("q", [0, 3])
def test_swendsen_wang_transitions_are_those_of_its_definition(q: int) -> None:
    """Null: from a given lattice the next one has the probability that sums over all bonds give.

    A 2 x 2 torus, 8 bonds; chi-square over the configurations reached, once in 10^4 seeds.
    """
    model = MODELS[f"potts{q}"] if q else ISING
    t = model.critical_temperature
    kernel = [(0, 1), (0, 1), (2, 3), (2, 3), (0, 2), (0, 2), (1, 3), (1, 3)]
    n = len(model.values)
    for begin in ((0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 1)):
        p = -math.expm1(-(1.0 if q else 2.0) / t)
        wanted = np.zeros(n**4)
        for taken in itertools.product((0, 1), repeat=8):
            weight, label = 1.0, list(range(4))
            for (a, b), bond in zip(kernel, taken):
                equal = begin[a] == begin[b]
                weight *= (p if bond else 1.0 - p) if equal else float(not bond)
                if bond and equal:
                    old, new = label[b], label[a]
                    label = [new if x == old else x for x in label]
            roots = sorted(set(label))
            for values in itertools.product(range(n), repeat=len(roots)):
                digits = [values[roots.index(x)] for x in label]
                wanted[np.dot(digits, n ** np.arange(4))] += weight / n ** len(roots)
        assert wanted.sum() == pytest.approx(1.0)
        found = _from(model, begin, t, 20_000)
        counts = np.bincount(found, minlength=n**4)
        assert not counts[wanted == 0].any()
        hit = wanted > 0
        assert scipy.stats.chisquare(counts[hit], wanted[hit] * counts.sum()).pvalue > 1e-4


def _from(model: Model, begin: tuple[int, ...], t: float, count: int) -> NDArray[np.int64]:
    values = np.array(model.values, dtype=np.int8)
    first, state = values[list(begin)].reshape(2, 2), lane_state(9)
    out = np.empty((count, 4), dtype=np.int8)
    for i in range(count):
        spins = first.copy()
        swendsen_wang(spins, t, state, 1, 0 if model is ISING else len(values))
        out[i] = spins.ravel()
    return np.asarray(np.searchsorted(values, out) @ len(values) ** np.arange(4))


def test_energies_are_counted_bond_by_bond() -> None:
    """The reference itself: levels of a 2 x 2 torus with double bonds, counted by hand."""
    up = np.ones((2, 2), dtype=np.int8)
    one = up.copy()
    one[0, 0] = -1
    assert [int(equal_bonds(s, 2)) for s in (up, one)] == [8, 4]
