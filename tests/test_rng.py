from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import scipy.stats
from numba import njit

from skild_phys.rng import (
    BITS_BLOCK,
    KEYS,
    LANES,
    below,
    fill_bits,
    generator,
    kernel_state,
    lane_state,
    next_u64,
    seed_sequence,
    uniform,
)


@njit
def draw_below(state, n, count):
    out = np.empty(count, np.int64)
    for i in range(count):
        out[i] = below(state, n)
    return out


@njit
def draw_uniform(state, count):
    out = np.empty(count)
    for i in range(count):
        out[i] = uniform(state)
    return out


def test_xoshiro_reference_sequence() -> None:
    """First outputs of xoshiro256++ from the state 1, 2, 3, 4, as its authors' C code gives."""
    state = np.array([1, 2, 3, 4], dtype=np.uint64)
    assert [int(next_u64(state)) for _ in range(6)] == [
        41943041,
        58720359,
        3588806011781223,
        3591011842654386,
        9228616714210784205,
        9973669472204895162,
    ]


def test_streams_are_pinned() -> None:
    keys = json.dumps(KEYS, sort_keys=True).encode()
    assert hashlib.sha256(keys).hexdigest()[:16] == "da47eb78c8568fce"
    for named, plain in (
        (("noise", 5), (5, 2)),
        (("pilot sweeps", 5), (5, 6)),
        (("symmetry", 9), (2**32 - 1, 9, 1)),
        (("dropout", 3, 7), (2**32 - 2, 3, 3, 7)),
        (("bonds", 4), (2**32 - 3, 4)),
        (("bootstrap",), ()),
    ):
        np.testing.assert_array_equal(kernel_state(12345, *named), kernel_state(12345, *plain))
    assert kernel_state(12345, 3).tolist() == [
        4737044581125315645,
        8833587680340765926,
        11468384875074714030,
        12133699417485869712,
    ]
    assert generator(7, 1).bit_generator.random_raw(2).tolist() == [
        8865173266238536338,
        1098352469356231332,
    ]


def test_streams_are_named_by_seed_and_key() -> None:
    states = [kernel_state(s, *key) for s in (0, 1) for key in ((), (0,), (1,), (0, 0), (0, 1))]
    assert len({tuple(state.tolist()) for state in states}) == len(states)
    assert seed_sequence(5, 2).spawn_key == (2,)
    np.testing.assert_array_equal(kernel_state(5, 2), kernel_state(5, 2))


@pytest.mark.statistical
@pytest.mark.parametrize("n", [2, 7, 9, 64])
def test_below_is_uniform(n: int) -> None:
    """Null: n equal cells; chi-square, rejected at p < 1e-4; n - 1 cells must be rejected."""
    counts = np.bincount(draw_below(kernel_state(1, n), n, 100_000), minlength=n)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    biased = np.bincount(draw_below(kernel_state(1, n), n, 100_000) * 99 // 100, minlength=n)
    assert scipy.stats.chisquare(biased).pvalue < 1e-6


@pytest.mark.statistical
def test_uniform_is_uniform() -> None:
    """Null: Kolmogorov-Smirnov against [0, 1), rejected at p < 1e-4; its square must be."""
    values = draw_uniform(kernel_state(2), 100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(values**1.02, "uniform").pvalue < 1e-6


def test_lanes_are_eight_generators_side_by_side() -> None:
    state = lane_state(3, 1)
    single = [np.ascontiguousarray(state[:, lane]) for lane in range(LANES)]
    out = np.empty(3 * BITS_BLOCK, dtype=np.uint64)
    fill_bits(state, out[:BITS_BLOCK])
    fill_bits(state, out[BITS_BLOCK:])
    expected = [[int(next_u64(s)) for _ in range(len(out) // LANES)] for s in single]
    np.testing.assert_array_equal(out.reshape(-1, LANES).T, np.array(expected, dtype=np.uint64))
    np.testing.assert_array_equal(state.T, np.stack(single))
