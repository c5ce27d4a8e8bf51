"""Samplers with a planted fault are rejected at p < 1e-6 by the tests of `test_samplers.py`.

Null hypothesis, reference and cells as there, with as many samples as there. Faults are planted
by giving a kernel a wrong table, a wrong neighbour or a wrong parity, or by compiling it anew
around a wrong adder or a wrong union; the same tests pass with what was replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit
from numpy.typing import NDArray
from sampler_helpers import ISING, ISING_3D, TC, TC_3D, Advance, hot, p_value, sample
from test_samplers import correlation_scores

from skild_phys import rng as streams
from skild_phys.kernels import constant
from skild_phys.models import MODELS, Model
from skild_phys.models.base import neighbour_rows, row_parity
from skild_phys.rng import VECTOR, below, emit_next, next_u64
from skild_phys.simulation import metropolis, swendsen_wang, wolff
from skild_phys.simulation.metropolis import LAZINESS
from skild_phys.simulation.spec import get_update

pytestmark = pytest.mark.statistical

Patch = Callable[[pytest.MonkeyPatch], None]
RUNS = ("_label", "label_runs", "_sweeps")
WORDS = ("_sweeps_of_words",)


# -- faults of the loop around a kernel -------------------------------------------------------


def warmer(algorithm: str, model: Model, factor: float = 1.01) -> Advance:
    """Return a kernel at beta + 1%."""
    kernel = get_update(algorithm, model)
    return lambda x, model, t, rng, n: kernel.advance(x, model, t / factor, rng, n)


def until_flipped(x: Any, model: Model, t: float, rng: Any, n: int) -> None:
    """Flip Wolff clusters until n N spins have been flipped."""
    flipped = 0
    while flipped < n * x[0].size:
        flipped += wolff.wolff(x[0], t, rng, 1)


def while_cold(x: Any, model: Model, t: float, rng: Any, n: int) -> None:
    """Make n sweeps of Swendsen-Wang, and further ones while the energy is above average."""
    swendsen_wang.swendsen_wang(x[0], t, rng, n)
    for _ in range(3):
        if model.energy(x[0]) > -1.5:
            swendsen_wang.swendsen_wang(x[0], t, rng, 1)


@njit
def _open_wolff(spins, threshold, state, clusters):
    side = spins.shape[0]
    stack = np.empty(spins.size, np.int32)
    for _ in range(clusters):
        seed = below(state, spins.size)
        old = spins[seed // side, seed % side]
        spins[seed // side, seed % side] = -old
        stack[0] = seed
        top = 1
        while top > 0:
            top -= 1
            y, x = stack[top] // side, stack[top] % side
            for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                inside = 0 <= v < side and 0 <= u < side
                if inside and spins[v, u] == old and next_u64(state) >> 32 < threshold:
                    spins[v, u] = -old
                    stack[top] = v * side + u
                    top += 1


@njit
def _open_metropolis(spins, table, state, sweeps):
    side = spins.shape[0]
    for _ in range(sweeps * spins.size):
        site = below(state, spins.size)
        y, x = site // side, site % side
        h = 0
        for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
            if 0 <= v < side and 0 <= u < side:
                h += spins[y, x] * spins[v, u]
        if h <= 0 or next_u64(state) >> 11 < table[h]:
            spins[y, x] = -spins[y, x]


def open_wolff(x: Any, model: Model, t: float, rng: Any, n: int) -> None:
    """Flip Wolff clusters that do not grow across the boundary."""
    _open_wolff(x[0], wolff.bond_threshold(2.0, t), rng, n)


def open_metropolis(x: Any, model: Model, t: float, rng: Any, n: int) -> None:
    """Make Metropolis sweeps of a lattice whose boundary is open."""
    table = (np.exp(-2.0 * np.arange(5) / t) * 2.0**53).astype(np.uint64)
    words = np.ascontiguousarray(rng[:, 0])
    _open_metropolis(x[0], table, words, n)
    rng[:, 0] = words


# -- faults inside a kernel -------------------------------------------------------------------


def wrong_bond(module: Any, factor: float = 0.98) -> Patch:
    """Take bonds with a probability 2% too small."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = wolff.bond_threshold
        patch.setattr(
            module, "bond_threshold", lambda cost, t: np.uint64(int(right(cost, t)) * factor)
        )

    return plant


def wrong_acceptance(module: Any, change: Callable[[NDArray[np.float64]], None]) -> Patch:
    """Change the table of acceptance probabilities."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = module.acceptance

        def wrong(*arguments: Any) -> NDArray[np.float64]:
            table = right(*arguments)
            change(table)
            return np.asarray(table)

        patch.setattr(module, "acceptance", wrong)

    return plant


def lazy_uphill_only(table: NDArray[np.float64]) -> None:
    """Refuse at random what costs energy, but not the way back."""
    table[0] = 1.0 - 1e-9
    table[1:] *= 1.0 - LAZINESS


def lazier_uphill(table: NDArray[np.float64]) -> None:
    """Refuse 5% more of what costs energy."""
    table[1:] *= 0.95


def never_lazy(table: NDArray[np.float64]) -> None:
    """Do without LAZINESS."""
    table *= (1.0 - 1e-9) / table[0]


def wrong_boundary(module: Any) -> Patch:
    """Let the first and the last row see the row inside twice, and not each other."""

    def wrong(shape: tuple[int, ...]) -> NDArray[np.int64]:
        rows = neighbour_rows(shape).copy()
        rows[0], rows[-1] = rows[0, 1], rows[-1, 0]
        return rows

    return lambda patch: patch.setattr(module, "neighbour_rows", wrong)


def open_rows(patch: pytest.MonkeyPatch) -> None:
    """Unite nothing across the boundary: a bond of the first row leads to itself."""

    def wrong(shape: tuple[int, ...]) -> NDArray[np.int64]:
        rows = neighbour_rows(shape).copy()
        rows[0, 0] = 0
        return rows

    patch.setattr(swendsen_wang, "neighbour_rows", wrong)


def wrong_parity(module: Any) -> Patch:
    """Shift the checkerboard of every other row."""
    return lambda patch: patch.setattr(module, "row_parity", lambda shape: 0 * row_parity(shape))


def anew(module: Any, names: tuple[str, ...], lanes: Any = None, **changed: Any) -> Patch:
    """Compile loops of a module anew, around changed parts that are not seen once compiled.

    `lanes` replaces the step of the generator that is compiled into them.
    """

    def plant(patch: pytest.MonkeyPatch) -> None:
        if lanes is not None:
            patch.setattr(streams, "emit_next", lanes)
        for name, value in changed.items():
            patch.setattr(module, name, value)
        for name in names:
            patch.setattr(module, name, njit(nogil=True)(getattr(module, name).py_func))

    return plant


@njit
def _unite_nothing(parent, x, y):
    return


def lost_bonds(name: str) -> Patch:
    """Let a union of Swendsen-Wang's runs do nothing.

    `_unite` is that of bonds along x round the edge, `_unite_near_roots` that of a run's further
    bonds and of those round the other edge.
    """

    def plant(patch: pytest.MonkeyPatch) -> None:
        anew(swendsen_wang, RUNS, **{name: _unite_nothing})(patch)

    return plant


def _no_carry_2d(builder: Any, unlike: list[Any]) -> list[Any]:
    """Lose the carry of the second pair.

    Losing that of x + y instead would go unseen, rightly: two unlike in different pairs remain so
    when the spin flips, and refusing such flips, which cost nothing, keeps the balance.
    """
    (x, a), (y, _) = metropolis._pair(builder, *unlike[:2]), metropolis._pair(builder, *unlike[2:])
    ones, both = metropolis._pair(builder, x, y)
    many = builder.or_(a, both)
    one = builder.and_(ones, builder.not_(many))
    return [many, one, builder.not_(builder.or_(ones, many))]


def _no_carry_3d(builder: Any, unlike: list[Any]) -> list[Any]:
    kinds = multispin_classes_3d(builder, unlike)
    return [builder.or_(kinds[0], kinds[1]), constant(VECTOR, 0), *kinds[2:]]


multispin_classes_3d = metropolis._classes_3d


def _shared_bits(builder: Any, state: Any) -> Any:
    """Give replica 1 the random bits of replica 0."""
    bits, after = emit_next(builder, state)
    low = builder.and_(bits, constant(VECTOR, 1))
    kept = builder.and_(bits, constant(VECTOR, ~2))
    return builder.or_(kept, builder.shl(low, constant(VECTOR, 1))), after


def _shared_lanes(builder: Any, state: Any) -> Any:
    """Give the second lane, so the second site of a step, the random bits of the first."""
    bits, after = emit_next(builder, state)
    first = [ir.Constant(ir.IntType(32), i) for i in (0, 0, 2, 3, 4, 5, 6, 7)]
    kind = ir.VectorType(ir.IntType(32), 8)
    return builder.shuffle_vector(bits, bits, ir.Constant(kind, first)), after


@dataclass(frozen=True)
class Fault:
    """A sampler with a fault: what is sampled, as in `test_samplers.py`, and what is wrong."""

    algorithm: str
    temperature: float
    every: int
    count: int
    advance: Advance | None = None
    plant: Patch | None = None
    model: Model = ISING
    shape: tuple[int, ...] = (4, 4)
    whole: bool = False


POTTS_3 = MODELS["potts3"]
T_3 = POTTS_3.critical_temperature
wolff_at_tc = functools.partial(Fault, "wolff", TC, 13)
sw_at_tc = functools.partial(Fault, "swendsen-wang", TC, 22)
metropolis_hot = functools.partial(Fault, "metropolis", 3.5, 15)
multispin_at_tc = functools.partial(Fault, "multispin", TC, 210)
cubic = functools.partial(Fault, temperature=TC_3D, model=ISING_3D, shape=(2, 2, 4))
potts_at_tc = functools.partial(Fault, temperature=T_3, every=40, model=POTTS_3, shape=(3, 3))
potts_hot = functools.partial(Fault, "metropolis", 1.5 * T_3, 31, model=POTTS_3)

FAULTS = {
    "wolff, beta + 1%": wolff_at_tc(200_000, warmer("wolff", ISING)),
    "wolff, open boundary": wolff_at_tc(20_000, open_wolff),
    "wolff, p 2% too small": wolff_at_tc(50_000, plant=wrong_bond(wolff)),
    "wolff, stopped at 2 N flips": Fault("wolff", TC, 2, 20_000, until_flipped),
    "wolff, Potts, p 2% too small": potts_at_tc("wolff", count=40_000, plant=wrong_bond(wolff)),
    "wolff, 3D, p 2% too small": cubic("wolff", every=19, count=60_000, plant=wrong_bond(wolff)),
    "swendsen-wang, beta + 1%": sw_at_tc(200_000, warmer("swendsen-wang", ISING)),
    "swendsen-wang, open boundary": sw_at_tc(20_000, plant=open_rows),
    "swendsen-wang, p 2% too small": sw_at_tc(50_000, plant=wrong_bond(swendsen_wang)),
    "swendsen-wang, no bonds along x round the edge": sw_at_tc(20_000, plant=lost_bonds("_unite")),
    "swendsen-wang, one bond a run": sw_at_tc(20_000, plant=lost_bonds("_unite_near_roots")),
    "swendsen-wang, stopped when cold": sw_at_tc(20_000, while_cold),
    "swendsen-wang, Potts, p 2% too small": potts_at_tc(
        "swendsen-wang", count=40_000, plant=wrong_bond(swendsen_wang)
    ),
    "swendsen-wang, 3D, p 2% too small": cubic(
        "swendsen-wang", every=19, count=60_000, plant=wrong_bond(swendsen_wang)
    ),
    "metropolis, beta + 1%": metropolis_hot(200_000, warmer("metropolis", ISING)),
    "metropolis, open boundary": Fault("metropolis", 3.5, 30, 20_000, open_metropolis),
    "metropolis, mirrors at the boundary": metropolis_hot(
        40_000, plant=wrong_boundary(metropolis)
    ),
    "metropolis, shifted parity": metropolis_hot(20_000, plant=wrong_parity(metropolis)),
    "metropolis, lazy uphill only": metropolis_hot(
        100_000, plant=wrong_acceptance(metropolis, lazy_uphill_only)
    ),
    "metropolis, never lazy": Fault(
        "metropolis", 50.0, 41, 40_000, shape=(2, 4), whole=True,
        plant=wrong_acceptance(metropolis, never_lazy),
    ),
    "multispin, beta + 1%": multispin_at_tc(400_000, warmer("multispin", ISING)),
    "multispin, mirrors at the boundary": multispin_at_tc(
        100_000, plant=wrong_boundary(metropolis)
    ),
    "multispin, shifted parity": multispin_at_tc(100_000, plant=wrong_parity(metropolis)),
    "multispin, lazy uphill only": multispin_at_tc(
        200_000, plant=wrong_acceptance(metropolis, lazy_uphill_only)
    ),
    "multispin, never lazy": Fault(
        "multispin", 50.0, 41, 200_000, shape=(2, 4), whole=True,
        plant=wrong_acceptance(metropolis, never_lazy),
    ),
    "multispin, an adder without a carry": multispin_at_tc(
        100_000, plant=anew(metropolis, WORDS, _classes_2d=_no_carry_2d)
    ),
    "multispin, 3D, an adder without a carry": cubic(
        "multispin", every=31, count=100_000,
        plant=anew(metropolis, WORDS, _classes_3d=_no_carry_3d),
    ),
    "multispin, sites that share their bits": Fault(
        "multispin", 3.5, 15, 100_000,
        plant=anew(metropolis, WORDS, lanes=_shared_lanes),
    ),
    "potts metropolis, beta + 2%": potts_hot(
        100_000, warmer("metropolis", POTTS_3, 1.02), shape=(2, 4)
    ),
    "potts metropolis, mirrors at the boundary": potts_hot(
        60_000, plant=wrong_boundary(metropolis), shape=(4, 2)
    ),
    "potts metropolis, shifted parity": potts_hot(
        40_000, plant=wrong_parity(metropolis), shape=(2, 4)
    ),
    "potts metropolis, 5% lazier uphill": potts_hot(
        80_000, plant=wrong_acceptance(metropolis, lazier_uphill), shape=(2, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    if fault.plant:
        fault.plant(monkeypatch)
    lattices = sample(
        fault.algorithm, fault.model, fault.shape, fault.temperature, fault.every, fault.count,
        seed=3, advance=fault.advance,
    )  # fmt: skip
    assert p_value(fault.model, lattices, fault.temperature, fault.whole) < 1e-6


def test_replicas_that_share_random_bits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas from different starts, with the same bits: as `test_replicas_are_independent`.

    Each of them by itself is sound.
    """
    anew(metropolis, WORDS, lanes=_shared_bits)(monkeypatch)
    start = np.stack([hot((4, 4), ISING, seed) for seed in range(64)])
    lattices = sample("multispin", ISING, (4, 4), 3.5, 15, 64 * 5000, seed=6, start=start)
    assert p_value(ISING, lattices[:, [1]], 3.5) > 1e-4
    assert correlation_scores(ISING.energy(lattices))[0] > 20


def test_kernels_compiled_anew_are_sound_without_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    anew(metropolis, WORDS)(monkeypatch)
    lattices = sample("multispin", ISING, (4, 4), 3.5, 15, 400_000, seed=3)
    assert p_value(ISING, lattices, 3.5) > 1e-4
    anew(swendsen_wang, RUNS)(monkeypatch)
    lattices = sample("swendsen-wang", ISING, (4, 4), TC, 22, 20_000, seed=3)
    assert p_value(ISING, lattices, TC) > 1e-4
