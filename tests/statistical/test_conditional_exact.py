"""p(fine | coarse) of constrained Monte Carlo against enumeration of every consistent lattice.

H0: the chain's lattices follow exp(-H / T) restricted to the lattices that coarse-grain to the
given one. Reference: all q^N lattices. Two chi-squares a case, over configurations (pooled to an
expectation of at least 10) and over energies; H0 is rejected when either p < 5e-6, hence a false
alarm of 1e-5 a case, 1e-3 for the file, and the seeds are fixed. Samples are 20 sweeps apart (10
redraws of clusters), many times the autocorrelation time of these small lattices. Every planted
fault must give p < 1e-6.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sampler_helpers import EXACT, chi_square, conditional
from scipy.stats import chi2

from skild_phys.models import MODELS
from skild_phys.rng import kernel_state
from skild_phys.rules import TieBreak, coarsen
from skild_phys.rules.base import to_blocks
from skild_phys.rules.moves import Source, _Layout
from skild_phys.simulation import conditional as chains
from skild_phys.simulation.conditional import Conditional, _Chain, sample
from skild_phys.simulation.wolff import wolff

pytestmark = pytest.mark.statistical

MODEL = MODELS["ising2d"]
TC = MODEL.critical_temperature
TIE_SEED, SAMPLE = 4, 17
DRAWS = 10_000
Lattices = NDArray[np.int8]


@functools.cache
def every_lattice(name: str, shape: tuple[int, ...]) -> tuple[Lattices, NDArray[np.int64]]:
    """Return all lattices, one for each code sum s_i q^i, and their energies."""
    model, size = MODELS[name], math.prod(shape)
    q = len(model.values)
    states = np.arange(q**size)[:, None] // q ** np.arange(size) % q
    every = np.array(model.values, dtype=np.int8)[states].reshape(-1, *shape)
    return every, np.rint(model.energy(every) * size).astype(int)


class Case:
    """A coarse lattice, and the exact distribution of the fine ones given it."""

    def __init__(
        self,
        rule: str,
        shape: tuple[int, ...],
        factor: int,
        seed: int,
        known: bool = True,
        name: str = "ising2d",
    ) -> None:
        self.model = model = MODELS[name]
        self.rule, self.shape, self.factor = rule, shape, factor
        every, levels = every_lattice(name, shape)
        self.q = len(model.values) if model.field == "states" else 0
        ids = np.full(len(every), SAMPLE)
        self.every = lambda: every
        coarse = coarsen(every, rule, factor, q=self.q, tie_seed=TIE_SEED, sample_ids=ids)
        truth = int(np.random.default_rng(seed).integers(len(every)))
        self.coarse: NDArray[Any] = coarse[truth]
        half = tuple(side // factor for side in shape)
        one = np.array([SAMPLE])
        self.ties = (
            TieBreak(TIE_SEED, one).priorities(half, self.q)
            if self.q
            else TieBreak(TIE_SEED, one).signs(half)
        )[0]
        fits, share = coarse == self.coarse, np.ones(len(every))
        if not known:
            self.ties = np.zeros_like(self.ties)
            fits, share = self._open_ties(every)
        self.codes = np.flatnonzero(fits.reshape(len(every), -1).all(axis=1))
        self.levels = levels[self.codes]
        weight = np.exp(-(self.levels - self.levels.min()) / model.critical_temperature)
        weight *= share[self.codes]
        self.law = weight / weight.sum()

    def _open_ties(self, every: Lattices) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return where the coarse value is among the commonest, and 1 / (states tied), overall."""
        if self.q:
            counts = coarsen(every, "block_mean", self.factor, q=self.q)
            mine = np.take_along_axis(counts, self.coarse[None, None].astype(np.int64), axis=1)
            tied = (counts == mine).sum(axis=1)
            fits = mine[:, 0] == counts.max(axis=1)
        else:
            sums = coarsen(every, "block_mean", self.factor)
            tied, fits = 1 + (sums == 0), sums * self.coarse >= 0
        return fits, (1.0 / tied).reshape(len(every), -1).prod(axis=1)

    def at(self, temperature: float) -> Conditional:
        shape = tuple(side // self.factor for side in self.shape)
        return Conditional(self.model, self.rule, self.factor, temperature, shape)

    def chain(
        self, seed: int, temperature: float | None = None, ties: Lattices | None = None
    ) -> _Chain:
        law = self.at(temperature or self.model.critical_temperature)
        (given,) = law.read(self.coarse[None], (self.ties if ties is None else ties)[None])
        planes = law.fill(given, kernel_state(seed, 0))
        return _Chain(law, given, planes, Source.of(planes.shape[1], seed, 1))

    def p_of_chain(self, chain: _Chain, draws: int = DRAWS, sweeps: int = 20) -> float:
        """Twice the smaller p of the chain's samples."""
        chain.advance(2 * sweeps)
        size = math.prod(self.shape)
        cells = np.empty((draws, size), dtype=np.int8)
        for k in range(draws):
            chain.advance(sweeps)
            cells[k] = chain.planes.ravel()
        power = len(self.model.values) ** np.arange(size).reshape(self.shape)
        return self.p_of_codes(cells.astype(np.int64) @ to_blocks(power, self.factor).T.ravel())

    def p_value(self, samples: Lattices) -> float:
        """The same of lattices."""
        lowest, step = self.model.values[0], self.model.values[1] - self.model.values[0]
        states = (samples.reshape(len(samples), -1).astype(np.int64) - lowest) // step
        return self.p_of_codes(states @ len(self.model.values) ** np.arange(states.shape[1]))

    def p_of_codes(self, codes: NDArray[np.int64]) -> float:
        """0 where a configuration is not consistent."""
        where = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        if np.any(self.codes[where] != codes):
            return 0.0
        counts = np.bincount(where, minlength=len(self.codes))
        n = counts.sum()
        _, level = np.unique(self.levels, return_inverse=True)
        by_energy = chi_square(np.bincount(level, counts), n * np.bincount(level, self.law), 10)
        return min(1.0, 2 * min(chi_square(counts, n * self.law, 10), by_energy))


class System(NamedTuple):
    name: str
    shape: tuple[int, ...]
    factor: int
    seed: int


SYSTEMS = [
    System("ising2d", (4, 4), 2, 1),
    System("ising2d", (4, 4), 2, 2),
    System("ising2d", (4, 4), 4, 3),
    System("ising2d", (3, 6), 3, 4),
    System("ising2d", (2, 8), 2, 5),
    System("ising2d", (6, 2), 2, 6),
    System("ising3d", (2, 2, 4), 2, 1),
    System("ising3d", (4, 2, 2), 2, 2),
    System("potts2", (4, 4), 2, 3),
    System("potts3", (2, 4), 2, 3),
    System("potts3", (3, 3), 3, 2),
    System("potts3", (6, 2), 2, 3),
    System("potts4", (4, 2), 2, 5),
    System("potts8", (2, 2), 2, 5),
]
CLUSTERED = [SYSTEMS[i] for i in (0, 3, 4, 6, 9, 10, 12)]
TIED = [SYSTEMS[i] for i in (0, 1, 6, 9, 12)]
pytest_ids = {"ids": lambda system: "-".join(map(str, (system.name, *system.shape, system.factor)))}


def case_of(rule: str, system: System, known: bool = True) -> Case:
    return Case(rule, system.shape, system.factor, system.seed, known, system.name)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("system", SYSTEMS, **pytest_ids)
def test_law_is_the_exact_one(rule: str, system: System) -> None:
    case = case_of(rule, system)
    assert case.p_of_chain(case.chain(system.seed)) > 1e-5


@pytest.fixture
def clusters_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case, int], _Chain]:
    """Return a function that makes a chain of nothing but redraws of the clusters."""
    monkeypatch.setattr(chains, "CLUSTERS_FROM", 2)
    monkeypatch.setattr(chains, "SWEEPS_PER_CLUSTERS", 1)

    def build(case: Case, seed: int, **options: Any) -> _Chain:
        chain = case.chain(seed, **options)
        chain._move = lambda sweeps: None
        return chain

    return build


@pytest.mark.parametrize("rule", ["majority", "decimate"])
@pytest.mark.parametrize("system", CLUSTERED, **pytest_ids)
def test_clusters_alone_have_the_exact_law(
    rule: str, system: System, clusters_alone: Callable[..., _Chain]
) -> None:
    case = case_of(rule, system)
    assert case.p_of_chain(clusters_alone(case, 3), sweeps=10) > 1e-5


@pytest.mark.parametrize("system", TIED, **pytest_ids)
def test_clusters_weigh_ties_of_unknown_outcome(
    system: System, clusters_alone: Callable[..., _Chain]
) -> None:
    case = case_of("majority", system, known=False)
    assert case.p_of_chain(clusters_alone(case, 3), sweeps=10) > 1e-5
    known = case_of("majority", system)
    assert case.p_of_chain(clusters_alone(known, 3), sweeps=10) < 1e-6


@pytest.mark.parametrize("rule", ["majority", "decimate"])
def test_clusters_five_per_cent_off_are_seen(
    rule: str, clusters_alone: Callable[..., _Chain]
) -> None:
    case = Case(rule, (4, 4), 2, 1)
    wrong = clusters_alone(case, 3, temperature=TC / 1.05)
    assert case.p_of_chain(wrong, 40_000, sweeps=10) < 1e-6


INDEPENDENT = [SYSTEMS[i] for i in (0, 6, 9)]


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("system", INDEPENDENT, **pytest_ids)
def test_independent_chains_of_the_driver(rule: str, system: System) -> None:
    """The same, for one lattice from each of 5,000 short chains: a fill and 60 sweeps."""
    case, n = case_of(rule, system), 5_000
    temperature = case.model.critical_temperature
    coarse, ties = (np.repeat(a[None], n, axis=0) for a in (case.coarse, case.ties))
    for sweeps, passes in ((60, True), (0, False)):  # the random fill alone is not the law
        samples = sample(
            conditional(coarse, rule, 2, temperature, case.model),
            coarse,
            8,
            np.arange(n),
            sweeps,
            ties,
        )
        p = case.p_value(samples)
        assert p > 1e-5 if passes else p < 1e-6


FAULTY = [SYSTEMS[i] for i in (0, 6, 9)]


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("system", FAULTY, **pytest_ids)
def test_five_per_cent_in_beta_is_seen(rule: str, system: System) -> None:
    case = case_of(rule, system)
    wrong = case.chain(6, temperature=case.model.critical_temperature / 1.05)
    assert case.p_of_chain(wrong, 60_000) < 1e-6


def with_layout(case: Case, change: Callable[[_Layout], _Layout]) -> _Chain:
    """Return a chain whose kernels get a wrong geometry."""
    chain = case.chain(5)
    law = chain.target
    law.moves.layout = change(law.moves.layout)
    (given,) = law.read(case.coarse[None], case.ties[None])
    planes = law.fill(given, kernel_state(5, 0))
    return _Chain(law, given, planes, Source.of(planes.shape[1], 5, 1))


def _within(layout: _Layout) -> _Layout:
    bonds = layout.bonds
    return layout._replace(bonds=np.where(bonds < 0, ~bonds, bonds).astype(np.int32))


GEOMETRY_FAULTS: dict[str, Callable[[_Layout], _Layout]] = {
    "blocks that interact are moved at once": lambda layout: layout._replace(
        colour=np.zeros_like(layout.colour)
    ),
    "the bond of two that change places counts as gained": lambda layout: layout._replace(
        place=3 * layout.place
    ),
    "bonds end at the edge of a block": _within,
}


@pytest.mark.parametrize("fault", GEOMETRY_FAULTS)
def test_wrong_geometry_is_seen(fault: str) -> None:
    case = Case("block_mean", (4, 4), 2, 1)
    assert case.p_of_chain(with_layout(case, lambda layout: layout._replace())) > 1e-5
    assert case.p_of_chain(with_layout(case, GEOMETRY_FAULTS[fault])) < 1e-6


@pytest.mark.parametrize("system", TIED, **pytest_ids)
def test_ties_of_unknown_outcome_have_their_share(system: System) -> None:
    """Sweeps, and independent fills relaxed; ties of full weight, or none, must be seen."""
    case, n = case_of("majority", system, known=False), 3_000
    assert case.p_of_chain(case.chain(system.seed)) > 1e-5
    coarse, ties = (np.repeat(a[None], n, axis=0) for a in (case.coarse, case.ties))
    temperature = case.model.critical_temperature
    for given in (ties, None):
        samples = sample(
            conditional(coarse, "majority", 2, temperature, case.model),
            coarse,
            8,
            np.arange(n),
            60,
            given,
        )
        assert case.p_value(samples) > 1e-5
    for wins in (True, False):
        assert case.p_of_chain(case.chain(7, ties=decided(case, wins))) < 1e-6


def decided(case: Case, wins: bool) -> Lattices:
    """Return ties that all go to the coarse value, or all against it."""
    if not case.q:
        return (case.coarse if wins else -case.coarse).astype(np.int8)
    numbers = np.arange(case.q).reshape(-1, *[1] * case.coarse.ndim)
    shifted = (numbers - case.coarse[None]) % case.q
    return (-shifted if wins else shifted).astype(np.int8)


@pytest.mark.parametrize("system", TIED, **pytest_ids)
@pytest.mark.parametrize("wins", [True, False])
def test_ties_treated_wrongly_are_seen(system: System, wins: bool) -> None:
    """Ties allowed everywhere, or nowhere."""
    case = case_of("majority", system)
    assert case.p_of_chain(case.chain(7, ties=decided(case, wins))) < 1e-6


@pytest.mark.parametrize("q", [0, 3])
def test_fill_of_unknown_ties(q: int) -> None:
    """H0: of 2x2 blocks, a tie of k states is 1 / k as likely; false alarm 1e-5."""
    model = MODELS[f"potts{q}" if q else "ising2d"]
    top = np.full((200, 200), model.values[-1], np.int8)
    target = conditional(top, "majority", 2, 1.0, model)
    (given,) = target.read(top[None], None)
    fine = target.moves.configuration(target.fill(given, kernel_state(3)))
    count = np.stack([coarsen(fine[None] == value, "block_mean", 2)[0] for value in model.values])
    mine, tied = count[-1].ravel(), (count == count.max(axis=0)).sum(axis=0).ravel()
    assert (mine == count.max(axis=0).ravel()).all()
    full = dict.fromkeys(itertools.product(range(5), range(1, 5)), 0)
    for block in itertools.product(range(len(model.values)), repeat=4):
        counts = np.bincount(block, minlength=len(model.values))
        if counts[-1] == counts.max():
            full[counts[-1], int((counts == counts[-1]).sum())] += 1
    kinds = [kind for kind, number in full.items() if number]
    seen = np.array([np.count_nonzero((mine == m) & (tied == k)) for m, k in kinds])
    assert seen.sum() == mine.size
    for power, passes in ((1, True), (0, False)):
        want = np.array([full[kind] / kind[1] ** power for kind in kinds])
        want *= seen.sum() / want.sum()
        p = chi2.sf(((seen - want) ** 2 / want).sum(), len(kinds) - 1)
        assert p > 1e-5 if passes else p < 1e-6


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize(
    ("factor", "side", "n", "sweeps"), [(4, 16, 2000, 100), (3, 12, 2000, 60), (12, 24, 250, 250)]
)
def test_the_ensemble_stays_where_it_is(
    rule: str, factor: int, side: int, n: int, sweeps: int
) -> None:
    """Lattices of the Gibbs ensemble, drawn anew given their coarse lattices, are of it again.

    H0: the mean energy does not change; reference: the lattices themselves (Wolff), paired.
    |z| < 4.5 (false alarm 7e-6 each); 20% in beta must give |z| > 6.
    """
    state = kernel_state(11)
    spins = np.ones((side, side), dtype=np.int8)
    fine = np.empty((n, side, side), dtype=np.int8)
    wolff(spins, TC, state, 200)
    for k in range(n):
        wolff(spins, TC, state, 12)
        fine[k] = spins
    ids = np.arange(n)
    coarse = coarsen(fine, rule, factor, sample_ids=ids)
    coins = TieBreak(0, ids).signs(coarse.shape[1:])
    for temperature, passes in [(TC, True), (TC / 1.2, False)]:
        again = sample(
            conditional(coarse, rule, factor, temperature), coarse, 3, ids, sweeps, coins
        )
        change = MODEL.energy(again) - MODEL.energy(fine)
        z = change.mean() / change.std() * n**0.5
        assert abs(z) < 4.5 if passes else abs(z) > 6, (temperature, z)
