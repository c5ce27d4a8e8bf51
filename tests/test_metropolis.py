from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from skild_phys.rng import kernel_state
from skild_phys.simulate.metropolis import acceptance_thresholds, metropolis

TC = 2.269185314213022
GOLDEN = (283, "2df7c6a5f0883db2e95604bd944e09ecff8de3419271463a9634277b38734918")


def test_bytes_are_pinned() -> None:
    spins, state = np.ones((9, 7), dtype=np.int8), kernel_state(1, 2)
    accepted = metropolis(spins, TC, state, 50)
    digest = hashlib.sha256(spins.tobytes() + state.tobytes()).hexdigest()
    assert (accepted, digest) == GOLDEN


def test_one_call_or_many() -> None:
    results = []
    for calls in ([20], [1] * 20, [7, 0, 13]):
        spins, state = np.ones((5, 5), dtype=np.int8), kernel_state(3)
        accepted = sum(metropolis(spins, 2.5, state, sweeps) for sweeps in calls)
        results.append((accepted, spins.tobytes(), state.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("temperature", [0.1, 1.0, TC, 10.0])
def test_acceptance(temperature: float) -> None:
    table = acceptance_thresholds(temperature).astype(float) / 2.0**64
    wanted = [1, 1, 1, math.exp(-4 / temperature), math.exp(-8 / temperature)]
    np.testing.assert_allclose(table, wanted, rtol=1e-12, atol=2.0**-63)


def test_at_infinite_temperature_everything_is_accepted_and_at_zero_nothing() -> None:
    spins = np.ones((4, 4), dtype=np.int8)
    assert metropolis(spins, 1e300, kernel_state(1), 10) == 160
    spins = np.ones((4, 4), dtype=np.int8)
    assert metropolis(spins, 1e-3, kernel_state(1), 10) == 0


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3, 5), (2, 9)])
def test_any_torus_keeps_spins(shape: tuple[int, int]) -> None:
    spins = np.ones(shape, dtype=np.int8)
    assert metropolis(spins, 2.0, kernel_state(4), 50) > 0
    assert np.isin(spins, (-1, 1)).all()
