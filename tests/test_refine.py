"""Refinement with untrained weights: what must hold whatever the network says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_of
from skild_helpers import TC, coarse_input, critical_lattices, tiny_weights

from skild_phys.errors import BadInput, Interrupted, StoreError, WeightsError
from skild_phys.lattice.coarsen import block_sums, coarsen_spins, operator
from skild_phys.rng import kernel_state
from skild_phys.skild.coarse import open_coarse
from skild_phys.skild.refine import RefineSpec, build_method, check_weights_fit, refine_store
from skild_phys.skild.sampler import Streams
from skild_phys.store import open_store

WEIGHTS = tiny_weights()
SPEC = RefineSpec(steps=3, seed=8)


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize(("factor", "side"), [(2, 16), (3, 18), (4, 16), (8, 32)])
@pytest.mark.parametrize("method", ["skild", "exact", "fill"])
def test_coarsened_again_it_gives_the_input(
    tmp_path: Path, rule: str, factor: int, side: int, method: str
) -> None:
    coarse = coarse_input(critical_lattices(3, side), rule, factor)
    spec = replace(SPEC, method=method, sweeps=2 if method == "exact" else None)
    refine_store(coarse, tmp_path / "r.zarr", spec, WEIGHTS, temperature=TC)
    store = open_store(tmp_path / "r.zarr")
    again = coarsen_spins(store.read(0, 3), rule, factor, tie_seed=5)
    assert np.array_equal(again, coarse.read(0, 3))
    assert store.variable("parent").tolist() == [0, 1, 2]


def test_a_sample_depends_on_nothing_but_its_input_and_name(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(5, 16), "block_mean", 4)
    for name, threads, chunk in (("a", 1, 2), ("b", 2, 2), ("c", 4, 5), ("d", 1, 1)):
        refine_store(coarse, tmp_path / name, SPEC, WEIGHTS, threads=threads, chunk=chunk)
    lattices = [open_store(tmp_path / name).read(0, 5) for name in "abcd"]
    assert all(np.array_equal(lattices[0], other) for other in lattices[1:])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    refine_store(coarse, tmp_path / "e", replace(SPEC, seed=9), WEIGHTS)
    assert not np.array_equal(lattices[0], open_store(tmp_path / "e").read(0, 5))


def test_several_samples_an_input_differ_and_know_their_parent(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    refine_store(coarse, tmp_path / "r", replace(SPEC, samples_per_input=3), WEIGHTS)
    store = open_store(tmp_path / "r")
    assert store.variable("parent").tolist() == [0, 0, 0, 1, 1, 1]
    assert len({lattice.tobytes() for lattice in store.read(0, 6)}) == 6


def test_interrupted_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(6, 16), "majority", 2)
    refine_store(coarse, tmp_path / "whole", SPEC, WEIGHTS, chunk=2)
    calls = iter(range(1000))
    with pytest.raises(Interrupted, match="of 6 samples"):
        refine_store(
            coarse, tmp_path / "part", SPEC, WEIGHTS, chunk=2, threads=1,
            progress=lambda n: next(calls) and None, stop=lambda: next(calls) > 14,
        )  # fmt: skip
    refine_store(coarse, tmp_path / "part", SPEC, WEIGHTS, chunk=2)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "part")


def test_an_output_of_other_parameters_is_refused(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    refine_store(coarse, tmp_path / "r", SPEC, WEIGHTS)
    before = files_of(tmp_path / "r")
    with pytest.raises(BadInput, match="seed"):
        refine_store(coarse, tmp_path / "r", replace(SPEC, seed=1), WEIGHTS)
    assert files_of(tmp_path / "r") == before


def test_polish_keeps_the_constraint_and_is_recorded(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    spec = replace(SPEC, polish=4)
    refine_store(coarse, tmp_path / "r", spec, WEIGHTS, temperature=TC)
    store = open_store(tmp_path / "r")
    assert store.attrs["polish"] == 4
    assert np.array_equal(coarsen_spins(store.read(0, 2), "block_mean", 4), coarse.read(0, 2))
    with pytest.raises(BadInput, match="--T"):
        build_method(coarse, spec, WEIGHTS, None)


@pytest.mark.parametrize("rule", ["block_mean", "decimate", "spectral"])
def test_continuous_fields_meet_the_coarse_field_to_rounding(tmp_path: Path, rule: str) -> None:
    fine = np.random.default_rng(1).normal(size=(2, 16, 24)).astype(np.float32)
    values = operator(rule, (16, 24), 4).apply(fine.astype(np.float64)).astype(np.float32)
    np.save(tmp_path / "c.npy", values)
    coarse = open_coarse(tmp_path / "c.npy", 4, rule, spins=False)
    refine_store(coarse, tmp_path / "r", SPEC, tiny_weights("v"))
    field = open_store(tmp_path / "r").read(0, 2).astype(np.float64)
    assert np.abs(operator(rule, (16, 24), 4).apply(field) - values).max() < 1e-4


def test_weights_of_another_system_are_refused() -> None:
    check_weights_fit(WEIGHTS, {"model": "ising2d", "temperature": TC * 1.001}, Path("x"))
    with pytest.raises(WeightsError, match="potts"):
        check_weights_fit(WEIGHTS, {"model": "potts"}, Path("x"))
    with pytest.raises(WeightsError, match=r"T = 2\.6"):
        check_weights_fit(WEIGHTS, {"model": "ising2d", "temperature": 2.6}, Path("x"))


def test_a_users_own_arrays(tmp_path: Path) -> None:
    fine = critical_lattices(3, 16)
    sums = coarsen_spins(fine, "block_mean", 4)
    np.save(tmp_path / "means.npy", sums / 16)
    np.save(tmp_path / "sums.npy", sums)
    for name in ("means.npy", "sums.npy"):
        coarse = open_coarse(tmp_path / name, 4, "block_mean")
        assert np.array_equal(coarse.read(0, 3), sums)
        assert coarse.read(0, 3).dtype == np.int16
    np.save(tmp_path / "kept.npy", fine[:, ::2, ::2].astype(np.float64))
    assert np.array_equal(
        open_coarse(tmp_path / "kept.npy", 2, "decimate").read(1, 2), fine[1:2, ::2, ::2]
    )


@pytest.mark.parametrize(
    ("values", "rule", "message"),
    [
        (np.full((1, 4, 4), 0.3), "block_mean", "no mean"),
        (np.full((1, 4, 4), 3), "block_mean", "no sum"),
        (np.full((1, 4, 4), 18), "block_mean", "no sum"),
        (np.zeros((1, 4, 4)), "majority", "-1 and \\+1"),
        (np.full((1, 4, 4), np.nan), "block_mean", "NaN"),
    ],
)
def test_arrays_that_cannot_be_coarse(
    tmp_path: Path, values: np.ndarray, rule: str, message: str
) -> None:
    np.save(tmp_path / "c.npy", values)
    with pytest.raises(StoreError, match=message):
        open_coarse(tmp_path / "c.npy", 4, rule).read(0, 1)
    with pytest.raises(BadInput, match="--rule"):
        open_coarse(tmp_path / "c.npy", 4, None)
    with pytest.raises(BadInput, match="--factor"):
        open_coarse(tmp_path / "c.npy", None, rule)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"samples_per_input": 0}, {"seed": -1}, {"polish": -1}, {"sweeps": -1},
        {"method": "magic"}, {"method": "exact", "polish": 2},
    ],
)  # fmt: skip
def test_options_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        replace(SPEC, **change)  # type: ignore[arg-type]


def test_a_start_the_weights_have_not_seen_is_refused() -> None:
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    with pytest.raises(BadInput, match="--lambda-start"):
        build_method(coarse, replace(SPEC, lambda_start=1e5), WEIGHTS)


def test_majorities_of_unknown_coins_keep_their_signs(tmp_path: Path) -> None:
    fine = critical_lattices(4, 16)
    signs = coarsen_spins(fine, "majority", 2, tie_seed=1)
    np.save(tmp_path / "signs.npy", signs)
    coarse = open_coarse(tmp_path / "signs.npy", 2, "majority")
    for method in ("skild", "exact", "fill"):
        spec = replace(SPEC, method=method)
        refine_store(coarse, tmp_path / method, spec, WEIGHTS, temperature=TC)
        store = open_store(tmp_path / method)
        sums = block_sums(store.read(0, 4), 2)
        assert ((np.sign(sums) == signs) | (sums == 0)).all()
        assert (sums == 0).any()
        assert "tie_seed" not in store.attrs


def test_threads_of_the_caller_are_left_as_they_were(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    refine_store(coarse, tmp_path / "r", SPEC, WEIGHTS)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_streams_of_the_network_and_of_a_polish_differ() -> None:
    mine = Streams.of(4, 7).state
    assert all(not np.array_equal(mine, kernel_state(4, 7, branch)) for branch in (0, 1))
