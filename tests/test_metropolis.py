"""The checkerboard kernels: one lattice of Ising or Potts (`metropolis`), and 64 (`multispin`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import TC
from numpy.typing import NDArray

from skild_phys.models.base import row_parity
from skild_phys.rng import lane_state
from skild_phys.simulation.metropolis import (
    _MARGIN,
    LAZINESS,
    REPLICAS,
    _bit_planes,
    _merge,
    _neighbours,
    _pack,
    _split,
    _sublattices,
    _unpack,
    acceptance,
    metropolis,
    multispin,
)

Kernel = Callable[[NDArray[np.int8], float, NDArray[np.uint64], int], None]


def three_states(
    lattice: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    metropolis(lattice, temperature, state, sweeps, 3)


KERNELS: dict[str, Kernel] = {
    "metropolis": metropolis,
    "multispin": multispin,
    "potts": three_states,
}
# kernel, shape, T: SHA-256 of the lattice and the generator state after 50 sweeps from all 1.
GOLDEN = {
    ("metropolis", (6, 34), TC): "f77e358a2d475f29264e9e4cd83411d4e7a8f80ff79c2fad0ef8c1d376d1d24b",
    (
        "metropolis",
        (4, 2, 6),
        4.5,
    ): "71201bc662a912260e9e32c12c68a82830f2a0b6e3bcbc7cda5a6762a964e5c2",
    ("multispin", (6, 34), TC): "fb49b00b6d92e83f7c9224f0e620f72c0a1cf003d08409378fff5bd32d0e84cf",
    (
        "multispin",
        (4, 2, 6),
        4.5,
    ): "f0bd9781f6dd1d2d1e42856b20c29e4615ae534daa5ad74253bd38af959c9942",
    ("potts", (6, 34), 1.0): "cba14949f8710fc8db9fbedc1053f9fd734aed5ad205730b88a6ea1c7b7e6f2f",
}


def lattices(kernel: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
    return np.ones((REPLICAS, *shape) if kernel == "multispin" else shape, dtype=np.int8)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_bytes_are_pinned(case: tuple[str, tuple[int, ...], float]) -> None:
    kernel, shape, temperature = case
    spins, state = lattices(kernel, shape), lane_state(1, 2)
    KERNELS[kernel](spins, temperature, state, 50)
    assert hashlib.sha256(spins.tobytes() + state.tobytes()).hexdigest() == GOLDEN[case]


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [(k, s) for k in KERNELS for s in ((4, 6), (2, 40), (2, 4, 6))],
)
def test_one_call_or_many(kernel: str, shape: tuple[int, ...]) -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = lattices(kernel, shape), lane_state(3)
        for sweeps in calls:
            KERNELS[kernel](spins, 2.5, state, sweeps)
        results.append((spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("q", "cost"), [(0, 4), (3, 1)])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0, TC, 10.0, 1e6])
def test_acceptance(temperature: float, dimension: int, q: int, cost: int) -> None:
    wanted = [math.exp(-cost * i / temperature) for i in range(4 * dimension // cost + 1)]
    wanted = wanted[: 2 * dimension + 1]
    found = acceptance(temperature, dimension, q) / (1.0 - LAZINESS)
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_bit_planes_are_the_digits_of_a_probability() -> None:
    p = np.array([0.0, 0.5, 0.75, 1.0 - LAZINESS, math.exp(-8 / TC), 2.0**-64, 1.0 - 2.0**-53])
    planes = _bit_planes(tuple(p.tolist()))
    assert planes.shape == (64, len(p))
    assert set(np.unique(planes).tolist()) == {0, 2**64 - 1}
    for column, value in zip((planes & np.uint64(1)).T.tolist(), p.tolist()):
        total = sum(Fraction(bit, 2 ** (j + 1)) for j, bit in enumerate(column))
        assert total == Fraction(value)


@pytest.mark.parametrize("kernel", KERNELS)
def test_free_flips_are_refused_as_often_as_laziness_says(kernel: str) -> None:
    """At T = 1e9 every flip is free: z of the share that is refused in one sweep, |z| < 4."""
    spins, state = lattices(kernel, (200, 200)), lane_state(5)
    KERNELS[kernel](spins, 1e9, state, 1)
    refused, n = int((spins == 1).sum()), spins.size
    assert abs(refused - n * LAZINESS) < 4 * math.sqrt(n * LAZINESS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_at_zero_temperature_no_cold_lattice_moves(kernel: str) -> None:
    spins = lattices(kernel, (4, 36))
    KERNELS[kernel](spins, 1e-3, lane_state(1), 10)
    assert (spins == 1).all()


@pytest.mark.parametrize("dimension", [2, 3])
def test_each_class_of_neighbours_has_its_own_acceptance(dimension: int) -> None:
    """Share of flips of a spin with u unlike neighbours in one half sweep, both kernels: |z| < 5.

    Random lattices; the even sublattice is updated while the odd one stands still, so that the
    flips of one sweep tell by the neighbours before it.
    """
    shape = (64, 64) if dimension == 2 else (16, 16, 16)
    rng, t = np.random.default_rng(7), 3.0
    start = (2 * rng.integers(0, 2, (REPLICAS, *shape)) - 1).astype(np.int8)
    axes = tuple(range(1, dimension + 1))
    unlike = sum((start != np.roll(start, s, a)).astype(int) for a in axes for s in (1, -1))
    even = np.indices(shape).sum(axis=0) % 2 == 0
    together, single = start.copy(), start.copy()
    multispin(together, t, lane_state(8), 1)
    for number, lattice in enumerate(single):
        metropolis(lattice, t, lane_state(8, number), 1)
    for after in (together, single):
        flipped = (after != start)[:, even]
        for u in range(2 * dimension + 1):
            some = flipped[unlike[:, even] == u]
            p = (1 - LAZINESS) * min(1.0, math.exp(-4 * (dimension - u) / t))
            assert abs(some.sum() - some.size * p) < 5 * math.sqrt(some.size * p * (1 - p)), u


@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (2, 66), (2, 2, 2), (4, 2, 34)])
def test_split_and_merge(shape: tuple[int, ...]) -> None:
    lattice = np.random.default_rng(1).integers(0, 100, shape).astype(np.int8)
    rows, parity = lattice.reshape(-1, shape[-1]), row_parity(shape)
    parts = _sublattices(shape, np.int8)
    _split(rows, parity, parts)
    odd = np.indices(shape).sum(axis=0).reshape(rows.shape) % 2
    half = shape[-1] // 2
    for part in range(2):
        inside = parts[part, :, _MARGIN : _MARGIN + half]
        np.testing.assert_array_equal(inside.ravel(), rows[odd == part])
        np.testing.assert_array_equal(parts[part, :, _MARGIN - 1], inside[:, -1])
        np.testing.assert_array_equal(parts[part, :, _MARGIN + half], inside[:, 0])
    out = np.zeros_like(rows)
    _merge(parts, parity, out)
    np.testing.assert_array_equal(out, rows)


@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (2, 66), (2, 2, 2), (4, 2, 34)])
def test_neighbours_stand_where_they_are_said_to(shape: tuple[int, ...]) -> None:
    """Rows of sublattices that hold the number of each site: those beside are its neighbours."""
    number = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    rows, parity = number.reshape(-1, shape[-1]), row_parity(shape)
    parts = _sublattices(shape, np.int64)
    _split(rows, parity, parts)
    near, half = _neighbours(shape, parity, parts.shape[2]), shape[-1] // 2
    beside = np.stack([np.roll(number, s, a) for a in range(len(shape)) for s in (1, -1)], axis=-1)
    for part in range(2):
        for r, starts in enumerate(near[part]):
            own = parts[part, r, _MARGIN : _MARGIN + half]
            found = [parts[1 - part].ravel()[start : start + half] for start in starts]
            wanted = beside.reshape(-1, 2 * len(shape))[own]
            np.testing.assert_array_equal(np.sort(np.stack(found, axis=1)), np.sort(wanted))


def test_pack_and_unpack() -> None:
    spins = (2 * np.random.default_rng(2).integers(0, 2, (REPLICAS, 30)) - 1).astype(np.int8)
    words = np.full(30, 7, dtype=np.uint64)
    _pack(spins, words)
    bits = (words[None] >> np.arange(REPLICAS, dtype=np.uint64)[:, None]) & np.uint64(1)
    np.testing.assert_array_equal(2 * bits.astype(np.int8) - 1, spins)
    out = np.zeros_like(spins)
    _unpack(words, out)
    np.testing.assert_array_equal(out, spins)


@pytest.mark.parametrize("q", [2, 3, 8])
def test_a_site_is_proposed_each_other_state_as_often(q: int) -> None:
    """At T = 1e9 every proposal is taken but the lazy ones; each state within 4.5 sigma."""
    states = np.zeros((200, 200), dtype=np.int8)
    metropolis(states, 1e9, lane_state(6), 1, q)
    counts = np.bincount(states.ravel(), minlength=q)
    p = (1 - LAZINESS) / (q - 1)
    assert np.abs(counts[1:] - states.size * p).max() < 4.5 * math.sqrt(states.size * p)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(2, 2), (4, 32), (2, 34), (66, 4)])
def test_any_torus_of_even_sides_keeps_its_values(kernel: str, shape: tuple[int, ...]) -> None:
    spins: Any = lattices(kernel, shape)
    KERNELS[kernel](spins, 2.0, lane_state(4), 50)
    wanted = (0, 1, 2) if kernel == "potts" else (-1, 1)
    assert sorted(np.unique(spins).tolist()) == list(wanted)
