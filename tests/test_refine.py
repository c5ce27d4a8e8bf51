"""Refinement with untrained weights: what must hold for any network."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import files_of
from skild_helpers import TC, coarse_input, critical_lattices, tiny_weights
from store_helpers import coarsen_store, refine_store

from skild_phys.cli import run
from skild_phys.errors import BadInput, Interrupted, OutputTaken, StoreError, WeightsError
from skild_phys.methods import SKILD, Exact, Fill, Method, Prepared, method_of
from skild_phys.models import MODELS
from skild_phys.rng import Streams, kernel_state
from skild_phys.rules import RULES, TieBreak, coarsen, get_rule
from skild_phys.skild.chain import Tuning
from skild_phys.skild.coarse import CoarseInput, open_coarse
from skild_phys.skild.skild import Skild
from skild_phys.skild.spins import SpinPosterior
from skild_phys.store import create_store, open_store

WEIGHTS = tiny_weights()
SPEC = SKILD(steps=3, checkpoint=WEIGHTS)
FIELDS = SKILD(steps=3, checkpoint=tiny_weights("v"))


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize(("factor", "side"), [(2, 16), (3, 18), (4, 16), (8, 32)])
@pytest.mark.parametrize("method", ["skild", "exact", "fill"])
def test_coarsened_again_it_gives_the_input(
    tmp_path: Path, rule: str, factor: int, side: int, method: str
) -> None:
    coarse = coarse_input(critical_lattices(3, side), rule, factor)
    methods: dict[str, Method] = {"skild": SPEC, "exact": Exact(sweeps=2), "fill": Fill()}
    refine_store(coarse, tmp_path / "r.zarr", methods[method])
    store = open_store(tmp_path / "r.zarr")
    again = coarsen(store.read(0, 3), rule, factor, tie_seed=5)
    assert np.array_equal(again, coarse.read(0, 3))
    assert store.variable("parent").tolist() == [0, 1, 2]


def test_sweeps_are_not_measured_again_for_an_output_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed, or another store. Planted, seen to fail: a pilot before the output is looked at."""
    coarse = coarse_input(critical_lattices(3, 16), "block_mean", 4)

    def refined(name: str, seed: int, sweeps: int | None = None) -> None:
        refine_store(coarse, tmp_path / name, Exact(sweeps=sweeps), seed=seed, threads=1)

    refined("given", 1, sweeps=2)
    refined("measured", 1)
    before = files_of(tmp_path / "measured")
    monkeypatch.setattr("skild_phys.simulation.conditional.measure_sweeps", None)
    refined("measured", 1)
    assert files_of(tmp_path / "measured") == before
    for name, seed in (("given", 1), ("measured", 2)):
        with pytest.raises(OutputTaken):
            refined(name, seed)


@pytest.mark.parametrize(
    ("rule", "factor", "side", "spacing"),
    [
        ("block_mean", 2, 128, 2),
        ("block_mean", 4, 128, 4),
        ("block_mean", 16, 128, 16),
        ("decimate", 4, 128, 16),
        ("decimate", 4, 16, 4),
        ("spectral", 2, 128, 1),
    ],
)
def test_a_chain_starts_on_the_coarsest_grid_of_which_something_is_open(
    rule: str, factor: int, side: int, spacing: int
) -> None:
    """Coarser grids are known, and networks do not learn there. Planted, seen to fail: a share of
    0.25 left open; the end of the window nearer the lattice."""
    lambdas = SPEC.refining(WEIGHTS, RULES[rule], factor, (side, side))
    assert lambdas[0] == pytest.approx(2.8 * spacing**2)


def test_spins_under_a_constraint_are_sampled_below_the_flow_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above `flow_above` their means serve. Planted, seen to fail: flows of free spins alone."""
    seen: list[float] = []
    spins = SpinPosterior.spins

    def noted(self: SpinPosterior) -> np.ndarray:
        seen.append(self.lam)
        return spins(self)

    monkeypatch.setattr(SpinPosterior, "spins", noted)
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    lambdas = SPEC.refining(WEIGHTS, coarse.rule, 4, (16, 16))
    skild = Skild.of(WEIGHTS, (16, 16), sampler="mixed")
    skild.refine(coarse.read(0, 1), coarse.rule, 4, lambdas, [Streams.of(1, 0)])
    assert seen == [lam for lam in lambdas.tolist() if lam <= WEIGHTS.tuning.flow_above]


def test_a_sample_depends_on_nothing_but_its_input_and_name(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(5, 16), "block_mean", 4)
    for name, threads, chunk in (("a", 1, 2), ("b", 2, 2), ("c", 4, 5), ("d", 1, 1)):
        refine_store(coarse, tmp_path / name, SPEC, threads=threads, chunk=chunk)
    lattices = [open_store(tmp_path / name).read(0, 5) for name in "abcd"]
    assert all(np.array_equal(lattices[0], other) for other in lattices[1:])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    refine_store(coarse, tmp_path / "e", SPEC, seed=9)
    assert not np.array_equal(lattices[0], open_store(tmp_path / "e").read(0, 5))


def test_several_samples_an_input_differ_and_know_their_parent(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    refine_store(coarse, tmp_path / "r", SPEC, copies=3)
    store = open_store(tmp_path / "r")
    assert store.variable("parent").tolist() == [0, 0, 0, 1, 1, 1]
    assert len({lattice.tobytes() for lattice in store.read(0, 6)}) == 6


def test_interrupted_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(6, 16), "majority", 2)
    refine_store(coarse, tmp_path / "whole", SPEC, chunk=2)
    calls = iter(range(1000))
    with pytest.raises(Interrupted, match="of 6 samples"):
        refine_store(
            coarse, tmp_path / "part", SPEC, chunk=2, threads=1,
            progress=lambda n: next(calls) and None, stop=lambda: next(calls) > 6,
        )  # fmt: skip
    refine_store(coarse, tmp_path / "part", SPEC, chunk=2)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "part")


def test_an_output_of_other_parameters_is_refused(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    refine_store(coarse, tmp_path / "r", SPEC)
    before = files_of(tmp_path / "r")
    with pytest.raises(BadInput, match="seed"):
        refine_store(coarse, tmp_path / "r", SPEC, seed=1)
    assert files_of(tmp_path / "r") == before


def test_polish_keeps_the_constraint_and_is_recorded(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4)
    spec = replace(SPEC, polish=4)
    refine_store(coarse, tmp_path / "r", spec)
    store = open_store(tmp_path / "r")
    assert store.attrs["polish"] == 4
    assert np.array_equal(coarsen(store.read(0, 2), "block_mean", 4), coarse.read(0, 2))
    with pytest.raises(BadInput, match="T"):
        spec.check(replace(coarse, attrs={"model": "ising2d"}))


@pytest.mark.parametrize("rule", ["block_mean", "decimate", "spectral"])
def test_continuous_fields_meet_the_coarse_field_to_rounding(tmp_path: Path, rule: str) -> None:
    fine = np.random.default_rng(1).normal(size=(2, 16, 24)).astype(np.float32)
    values = get_rule(rule).operator((16, 24), 4).apply(fine.astype(np.float64)).astype(np.float32)
    np.save(tmp_path / "c.npy", values)
    coarse = open_coarse(tmp_path / "c.npy", 4, rule, spins=False)
    refine_store(coarse, tmp_path / "r", FIELDS)
    field = open_store(tmp_path / "r").read(0, 2).astype(np.float64)
    assert np.abs(get_rule(rule).operator((16, 24), 4).apply(field) - values).max() < 1e-4


@pytest.mark.parametrize(("factor", "side"), [(2, 16), (4, 16), (4, 20)])
def test_spins_from_kept_modes_come_near_them(tmp_path: Path, factor: int, side: int) -> None:
    """And the misfit that is reported is that of the store, far below that of a random fill."""
    fine = critical_lattices(3, side)
    coarse = coarse_input(fine, "spectral", factor)
    result = refine_store(coarse, tmp_path / "r", SPEC)
    spins = open_store(tmp_path / "r").read(0, 3)
    assert set(np.unique(spins)) == {-1, 1}
    kept, values = RULES["spectral"].operator((side, side), factor), coarse.read(0, 3)
    left = kept.apply(spins.astype(np.float64)) - values
    misfit = np.sqrt(np.mean(left**2) / np.mean(values.astype(np.float64) ** 2))
    assert result.misfit == pytest.approx(misfit, rel=1e-6)
    assert misfit < 0.5


@pytest.mark.parametrize("sampler", ["ancestral", "angle1", "angle3"])
@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
def test_every_sampler_keeps_the_constraint(tmp_path: Path, sampler: str, rule: str) -> None:
    coarse = coarse_input(critical_lattices(2, 16), rule, 4)
    refine_store(coarse, tmp_path / "r", replace(SPEC, sampler=sampler))
    store = open_store(tmp_path / "r")
    assert store.attrs["sampler"] == sampler
    again = coarsen(store.read(0, 2), rule, 4, tie_seed=5)
    assert np.array_equal(again, coarse.read(0, 2))
    with pytest.raises(BadInput, match="sampler"):
        refine_store(coarse, tmp_path / "r", SPEC)


def test_weights_of_another_system_are_refused() -> None:
    WEIGHTS.check_fit({"model": "ising2d", "temperature": TC * 1.001}, Path("x"))
    with pytest.raises(WeightsError, match="potts"):
        WEIGHTS.check_fit({"model": "potts"}, Path("x"))
    with pytest.raises(WeightsError, match=r"T = 2\.6"):
        WEIGHTS.check_fit({"model": "ising2d", "temperature": 2.6}, Path("x"))


def test_a_users_own_arrays(tmp_path: Path) -> None:
    fine = critical_lattices(3, 16)
    sums = coarsen(fine, "block_mean", 4)
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
    for given in ((4, None), (None, rule)):
        with pytest.raises(StoreError, match="give rule= and factor="):
            open_coarse(tmp_path / "c.npy", *given)


def test_an_unknown_rule_without_a_factor_is_not_asked_for(tmp_path: Path) -> None:
    made = xr.Dataset({"spins": (("sample", "y", "x"), np.ones((1, 4, 4), np.int8))})
    coarse = open_coarse(made.assign_attrs(rule="of their own"), 2, "decimate")
    assert (coarse.rule.name, coarse.factor) == ("decimate", 2)
    with pytest.raises(RuntimeError, match="not read by workers"):
        pickle.loads(pickle.dumps(coarse)).read(0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"polish": -1}, {"sweeps": -1, "method": "exact"}, {"sweeps": 2},
        {"method": "magic"}, {"method": "exact", "polish": 2}, {"sampler": "magic"},
        {"method": "fill", "T": 2.0}, {"method": "exact", "checkpoint": "w.safetensors"},
    ],
)  # fmt: skip
def test_options_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"^{'|'.join(change)}: "):
        method_of(**{"method": "skild"} | change)


def test_numbers_that_cannot_be(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    for change in ({"seed": -1}, {"copies": 0}):
        with pytest.raises(BadInput, match="a whole number from"):
            refine_store(coarse, tmp_path / "r", SPEC, **change)


def test_a_start_the_weights_have_not_seen_is_refused() -> None:
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    with pytest.raises(BadInput, match="lambda_start"):
        replace(SPEC, lambda_start=1e13).check(coarse)


def test_majorities_of_unknown_coins_keep_their_signs(tmp_path: Path) -> None:
    fine = critical_lattices(4, 16)
    signs = coarsen(fine, "majority", 2, tie_seed=1)
    np.save(tmp_path / "signs.npy", signs)
    coarse = open_coarse(tmp_path / "signs.npy", 2, "majority")
    methods: tuple[Method, ...] = (SPEC, Exact(T=TC), Fill())
    for method in methods:
        refine_store(coarse, tmp_path / method.name, method)
        store = open_store(tmp_path / method.name)
        sums = coarsen(store.read(0, 4), "block_mean", 2)
        assert ((np.sign(sums) == signs) | (sums == 0)).all()
        assert (sums == 0).any()
        assert "tie_seed" not in store.attrs


def test_threads_of_the_caller_are_left_as_they_were(tmp_path: Path) -> None:
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    refine_store(coarse, tmp_path / "r", SPEC)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_streams_of_the_network_and_of_a_polish_differ() -> None:
    mine = Streams.of(4, 7).state
    assert all(not np.array_equal(mine, kernel_state(4, 7, branch)) for branch in (0, 1))


KINDS = {"ising3d": (4, 8, 6), "potts3": (8, 12)}
PAIRS = [(name, rule) for name in KINDS for rule in ("block_mean", "majority", "decimate")]


def random_lattices(name: str, n: int, seed: int = 2) -> np.ndarray:
    values = np.array(MODELS[name].values, dtype=np.int8)
    return values[np.random.default_rng(seed).integers(0, len(values), (n, *KINDS[name]))]


def coarse_of(folder: Path, name: str, rule: str) -> tuple[CoarseInput, np.ndarray]:
    """Return the coarse input, by a factor of 2, of a store of 5 lattices, and these."""
    model, fine = MODELS[name], random_lattices(name, 5)
    with create_store(
        folder / "fine.zarr", field=model.field, n_samples=5, shape=KINDS[name], chunk=2,
        attrs={"model": name, "temperature": 1.0}, variables=("parent",),
        q=len(model.values) if model.field == "states" else 0,
    ) as writer:  # fmt: skip
        writer.commit({model.field: fine, "parent": np.array([4, 9, 2, 7, 0])})
    path = folder / "coarse.zarr"
    coarsen_store(open_store(folder / "fine.zarr"), path, rule, 2, tie_seed=6)
    return open_coarse(path, None, None), fine


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_coarse_stores_of_other_models(tmp_path: Path, name: str, rule: str) -> None:
    coarse, fine = coarse_of(tmp_path, name, rule)
    q = 3 if name == "potts3" else 0
    half = tuple(side // 2 for side in KINDS[name])
    assert (coarse.q, coarse.shape, coarse.fine_shape) == (q, half, KINDS[name])
    want = coarsen(fine, rule, 2, q=q, tie_seed=6, sample_ids=coarse.ids)
    assert np.array_equal(coarse.read(0, 5), want)
    inputs = np.array([3, 1])
    ids, unknown = coarse.ids[inputs], replace(coarse, tie_seed=None).ties(inputs)
    assert (unknown is None) is (rule != "majority")
    if unknown is not None:
        known = TieBreak(6, ids).priorities(half, 3) if q else TieBreak(6, ids).signs(half)
        assert np.array_equal(coarse.ties(inputs), known)
        assert unknown.shape == known.shape
        assert unknown.dtype == np.int8
        assert not unknown.any()


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_what_a_method_makes_of_other_models_is_checked_and_kept(
    tmp_path: Path, name: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the truth as the method's answer; one lattice that is not is noticed."""
    coarse, fine = coarse_of(tmp_path, name, rule)
    answer = fine.copy()

    def prepare(*arguments: object) -> Prepared:
        return Prepared(lambda raw, index, coins, stop: answer[list(index)], {})

    monkeypatch.setattr(Fill, "prepare", prepare)
    model = MODELS[name]
    refine_store(coarse, tmp_path / "r.zarr", Fill(), chunk=2)
    store = open_store(tmp_path / "r.zarr")
    assert (store.field, store.shape, store.q) == (model.field, KINDS[name], coarse.q)
    assert np.array_equal(store.read(0, 5), fine)
    assert np.array_equal(store.variable("energy"), model.energy(fine))
    assert np.array_equal(store.variable("magnetization"), model.order_parameter(fine))
    assert np.array_equal(store.variable("parent"), coarse.ids)
    assert store.attrs["L"] == [*KINDS[name]]
    again = coarsen_store(store, tmp_path / "again.zarr", rule, 2)
    assert np.array_equal(again.read(0, 5), coarse.read(0, 5))
    answer[3] = 1
    with pytest.raises(RuntimeError, match="do not coarse-grain to their input"):
        refine_store(coarse, tmp_path / "wrong.zarr", Fill(), chunk=2)


def test_majorities_of_states_may_be_any_that_is_tied_if_no_priority_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, fine = coarse_of(tmp_path, "potts3", "majority")
    counts = coarsen(fine, "block_mean", 2, q=3)
    other = 2 - np.argmax(counts[:, ::-1], axis=1)
    assert (other != coarse.read(0, 5)).any()
    answer = Prepared(lambda raw, index, coins, stop: fine[list(index)], {})
    monkeypatch.setattr(Fill, "prepare", lambda *arguments: answer)
    given = replace(coarse, read=lambda start, stop: other[start:stop].astype(np.int8))
    with pytest.raises(RuntimeError):
        refine_store(given, tmp_path / "a.zarr", Fill())
    unknown = replace(given, tie_seed=None)
    refine_store(unknown, tmp_path / "b.zarr", Fill())
    rarest = np.argmin(counts, axis=1).astype(np.int8)
    wrong = replace(unknown, read=lambda start, stop: rarest[start:stop])
    with pytest.raises(RuntimeError):
        refine_store(wrong, tmp_path / "c.zarr", Fill())


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_skild_refuses_other_models(
    tmp_path: Path, name: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse, _ = coarse_of(tmp_path, name, rule)
    held = {"ising3d": "3D lattices", "potts3": "Potts states"}[name]
    with pytest.raises(BadInput, match=f"method: 'skild' is not accepted; .*{held}"):
        SPEC.check(coarse)
    for more in ([], ["--any-system"]):
        with pytest.raises(SystemExit) as ended:
            run(["refine", str(coarse.path), "-o", str(tmp_path / "r.zarr"), *more])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: --method: 'skild'")
        assert held in err
    assert not (tmp_path / "r.zarr").exists()


def test_the_misfit_of_fields_on_block_sums_is_rounding(tmp_path: Path) -> None:
    """Sums are kept, A x are means. Planted, seen to fail: one compared with the other."""
    coarse = coarse_input(critical_lattices(2, 16), "block_mean", 4, real=True)
    result = refine_store(coarse, tmp_path / "r", FIELDS)
    assert result.misfit < 1e-5


def test_what_no_monte_carlo_can_polish_is_refused(tmp_path: Path) -> None:
    fine = critical_lattices(2, 16)
    for method, rule in ((FIELDS, "block_mean"), (SPEC, "spectral")):
        coarse = coarse_input(fine, rule, 4)
        with pytest.raises(BadInput, match="polish: 1"):
            refine_store(coarse, tmp_path / "r", replace(method, polish=1))
    assert not (tmp_path / "r").exists()


def test_a_store_of_fields_is_no_coarse_lattice_of_spins(tmp_path: Path) -> None:
    field = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)
    options = {"field": "field", "n_samples": 2, "shape": (4, 4), "chunk": 2, "attrs": {}}
    with create_store(tmp_path / "f.zarr", **options, variables=()) as writer:  # type: ignore[arg-type]
        writer.commit({"field": field})
    for rule in ("decimate", "majority"):
        with pytest.raises(StoreError, match="holds fields"):
            open_coarse(tmp_path / "f.zarr", 2, rule)
        assert open_coarse(tmp_path / "f.zarr", 2, rule, spins=False).n == 2


def test_an_output_is_not_gone_on_with_in_other_arithmetic_or_on_another_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, seen to fail: neither kept; the ends of a chain kept only if they were given."""
    coarse = coarse_input(critical_lattices(1, 16), "block_mean", 4)
    refine_store(coarse, tmp_path / "r", SPEC)
    kept = open_store(tmp_path / "r").attrs
    lambdas = SPEC.refining(SPEC.weights, coarse.rule, 4, (16, 16))
    assert (kept["steps"], kept["lambda_start"]) == (3, float(lambdas[0]))
    assert (kept["lambda_end"], kept["arithmetic"].split()[0]) == (0.1, "cpu")
    monkeypatch.setattr("skild_phys.skild.skild.arithmetic", lambda device: "cuda bfloat16")
    with pytest.raises(BadInput, match="arithmetic"):
        refine_store(coarse, tmp_path / "r", SPEC)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="lambda_end"):
        refine_store(coarse, tmp_path / "r", replace(SPEC, lambda_end=0.2))
    later = replace(SPEC, checkpoint=replace(WEIGHTS, tuning=Tuning(lambda_end=0.2)))
    with pytest.raises(BadInput, match="weights_sha256"):
        refine_store(coarse, tmp_path / "r", later)
