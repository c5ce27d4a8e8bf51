"""A method of one's own: a function handed to `sp.refine`, recorded by its name, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import skild_phys as sp
from skild_phys.errors import BadInput


def shuffled_blocks(
    coarse: NDArray[np.float64], factor: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Put the right number of up spins into each block, at random sites."""
    sites = factor**2
    fine = np.empty((*coarse.shape, sites), dtype=np.int8)
    for block in np.ndindex(coarse.shape):
        up = round((1 + coarse[block]) / 2 * sites)
        fine[block] = np.where(rng.permutation(sites) < up, 1, -1)
    squares = fine.reshape(*coarse.shape, factor, factor).swapaxes(1, 2)
    return squares.reshape(factor * coarse.shape[0], factor * coarse.shape[1])


def all_up(coarse: NDArray[np.float64], factor: int, rng: object) -> NDArray[np.int8]:
    return np.ones([factor * side for side in coarse.shape], dtype=np.int8)


def test_a_function_refines_in_memory_and_into_a_store(tmp_path: Path) -> None:
    fine = sp.simulate(L=16, T="Tc", samples=6, seed=1)
    coarse = sp.coarsen(fine, 4)
    made = sp.refine(coarse, 4, method=shuffled_blocks, seed=3, samples_per_input=2)
    assert np.array_equal(sp.coarsen(made, 4)["block_sum"][::2], coarse["block_sum"])
    assert made.attrs["method"] == "shuffled_blocks"
    assert {"energy", "magnetization", "parent"} <= set(made.data_vars)
    stored = sp.refine(
        coarse, method=shuffled_blocks, seed=3, samples_per_input=2, output=tmp_path / "r.zarr",
        threads=2, chunk=3,
    )  # fmt: skip
    assert np.array_equal(stored["spins"], made["spins"])
    assert not np.array_equal(made["spins"][0], made["spins"][1])


def test_what_does_not_coarse_grain_to_its_input_is_refused() -> None:
    coarse = sp.coarsen(sp.simulate(L=16, T="Tc", samples=2, seed=1), 4)
    for method, why in (
        (all_up, "coarse-grain to their input"),
        (lambda coarse, factor, rng: coarse, "numbers of shape"),
        (lambda coarse, factor, rng: np.zeros((16, 16)), "configurations of -1, 1"),
    ):
        with pytest.raises(BadInput, match=why):
            sp.refine(coarse, method=method)
