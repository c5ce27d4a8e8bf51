from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from skild_phys.rng import kernel_state
from skild_phys.simulate.wolff import bond_threshold, wolff

TC = 2.269185314213022
GOLDEN = (5976, "871b0682d356f9656d7c5dc6c653b6c04a5dede8f99f73b1ac3d0fef5c4db440")


def test_bytes_are_pinned() -> None:
    spins, state = np.ones((16, 12), dtype=np.int8), kernel_state(1, 2)
    flipped = wolff(spins, TC, state, 50)
    digest = hashlib.sha256(spins.tobytes() + state.tobytes()).hexdigest()
    assert (flipped, digest) == GOLDEN


def test_one_call_or_many() -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = np.ones((9, 9), dtype=np.int8), kernel_state(3)
        flipped = sum(wolff(spins, 2.5, state, clusters) for clusters in calls)
        results.append((flipped, spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("temperature", [0.1, 1.0, TC, 10.0, 1e6])
def test_bond_probability(temperature: float) -> None:
    p = -math.expm1(-2.0 / temperature)
    assert int(bond_threshold(temperature)) / 2.0**64 == pytest.approx(p, rel=1e-12)


def test_cold_lattices_flip_as_one_and_hot_ones_site_by_site() -> None:
    spins, state = np.ones((8, 8), dtype=np.int8), kernel_state(0)
    assert wolff(spins, 0.05, state, 1) == 64
    assert (spins == -1).all()
    assert wolff(spins, 1e9, state, 10) == 10


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (3, 5), (2, 9)])
def test_any_torus_keeps_spins(shape: tuple[int, int]) -> None:
    spins = np.ones(shape, dtype=np.int8)
    wolff(spins, 2.0, kernel_state(4), 200)
    assert np.isin(spins, (-1, 1)).all()
