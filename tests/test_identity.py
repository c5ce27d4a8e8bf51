"""Parts that were joined: numbers that `xarray.concat` leaves out, samples that are there twice."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import skild_phys as sp
from skild_phys.errors import BadInput, StoreError
from skild_phys.measurement.compare import compare
from skild_phys.store.identity import WITHOUT_PARENT, _copies, _digests, copied, whole_numbers

ONCE = pytest.mark.filterwarnings("ignore:.*copies of others")
SCALARS = ("chain", "draw")


@pytest.fixture(scope="module")
def runs() -> tuple[xr.Dataset, xr.Dataset]:
    """Two runs of four chains with autocorrelation, which differ in their seed."""
    given = {"L": 16, "T": "Tc", "samples": 400, "algorithm": "metropolis", "threads": 1}
    a, b = (sp.simulate(seed=s, every=2, burn_in=200, **given) for s in (1, 2))
    return a, b


def energy(data: object) -> tuple[float, float, float]:
    found = sp.measure(data, only="energy")
    return tuple(float(found[f"energy{end}"]) for end in ("", "_err", "_n_eff"))


def renumbered(data: xr.Dataset) -> xr.Dataset:
    return data.assign(chain=data.chain + 100)


def test_runs_that_were_joined_are_chains_of_their_own(
    runs: tuple[xr.Dataset, xr.Dataset],
) -> None:
    """What chains of different numbers give, to rounding.

    Planted, seen to fail: `Rows.of` that takes equal numbers for one chain.
    """
    a, b = runs
    expected = energy(xr.concat([a, renumbered(b)], "sample"))
    assert energy(xr.concat([a, b], "sample")) == pytest.approx(expected, rel=1e-9)
    by_chain = xr.concat([a, b], "sample").sortby("chain")
    assert energy(by_chain) == pytest.approx(expected, rel=1e-9)


def test_chains_that_are_missing(runs: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> None:
    """A part without chain and draw is one chain: the error differs by its few seams alone.

    It was 2.5 times as large. Planted, seen to fail: NaN as one chain at one draw.
    """
    a, b = runs
    half = xr.concat([a, b.drop_vars(SCALARS)], "sample")
    assert np.isnan(half.chain).sum() == 400
    value, error, n_eff = energy(xr.concat([a, b], "sample"))
    found = energy(half)
    assert found[0] == pytest.approx(value)
    assert found[1] == pytest.approx(error, rel=0.15)
    assert found[2] == pytest.approx(n_eff, rel=0.3)
    coarse = sp.coarsen(half, 4)
    assert coarse.chain.values[400:].tolist() == [4] * 400
    assert coarse.draw.values[400:].tolist() == list(range(400))
    sp.save(half, tmp_path / "half.zarr")
    assert energy(tmp_path / "half.zarr") == found
    three = xr.concat([b.drop_vars(SCALARS), a, b.drop_vars("draw")], "sample")
    chain = whole_numbers(Path(), {k: three[k].values for k in SCALARS})["chain"]
    assert np.unique(chain).tolist() == [0, 1, 2, 3, 4, 5]


def test_parents_that_are_missing(runs: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Lattices beside their refinements share a row with them, by chain and draw.

    Planted, seen to fail: NaN as one parent.
    """
    few = runs[0].isel(sample=slice(0, 20))
    refined = sp.refine(sp.coarsen(few, 4), method="exact", sweeps=10, threads=1)
    mix = xr.concat([few, refined], "sample")
    by_hand = xr.concat([few.assign(parent=("sample", np.arange(20))), refined], "sample")
    assert energy(mix) == energy(by_hand)
    report = sp.compare(runs[0], mix, no_figures=True)
    assert report.comparison.stores[0].lattices == 40
    assert sp.coarsen(mix, 4).parent.values.tolist() == 2 * list(range(20))
    alone = mix.drop_vars(SCALARS)
    parent = whole_numbers(Path(), {"parent": alone.parent.values})["parent"]
    assert parent.tolist() == [WITHOUT_PARENT + i for i in range(20)] + list(range(20))
    assert energy(alone)[2] == pytest.approx(40, rel=0.5)


@ONCE
def test_samples_that_are_there_twice_count_once(runs: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Planted, seen to fail: copies that are never found (n_eff twice as large)."""
    a, b = runs
    part = {"sample": slice(100, 300)}
    once = energy(a)
    for joined in (
        [a, a],
        [a, a, a],
        [a.isel(sample=slice(0, 300)), a.isel(sample=slice(200, 400))],
        [a, renumbered(a)],
        [a, a.isel(part)],
    ):
        with pytest.warns(UserWarning, match=r"samples are copies of others: each is counted once"):
            assert energy(xr.concat(joined, "sample")) == once
    both = xr.concat([a, b], "sample")
    assert energy(xr.concat([a, b, a.isel(part)], "sample")) == energy(both)
    assert energy(xr.concat([a, a], "sample").sortby("draw"))[2] == pytest.approx(once[2])
    assert sp.coarsen(xr.concat([a, a], "sample"), 4).sizes["sample"] == 400
    values = a.spins.values
    assert energy_of_array(np.concatenate([values, values[50:]])) == energy_of_array(values)


def energy_of_array(values: np.ndarray) -> tuple[float, float]:
    found = sp.measure(values, only="energy", model="ising2d", temperature="Tc")
    return float(found.energy), float(found.energy_err)


@pytest.mark.parametrize("algorithm", ["metropolis", "swendsen-wang", "multispin"])
def test_chance_makes_no_copies(algorithm: str) -> None:
    """Small lattices, frozen ones, two seeds joined: what repeats by chance stays.

    30 data sets, each false with a probability below 1e-6. Planted, seen to fail: every sample
    that equals an earlier one of its chain and draw.
    """
    for side, heat in itertools.product((2, 4, 8), (0.5, 1.0, 1.5, "Tc", 4.0)):
        given = {"L": side, "T": heat, "samples": 512, "every": 1, "burn_in": 20, "start": "hot"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            two = [
                sp.simulate(algorithm=algorithm, seed=seed, threads=1, **given) for seed in (1, 2)
            ]
            sp.measure(xr.concat(two, "sample"), only="energy")
            sp.measure(np.concatenate([one.spins.values for one in two]), only="abs_magnetization")


def test_chance_makes_no_copies_of_states_drawn_at_will() -> None:
    """With few states or many, with or without positions; 400 sets, each false below 1e-6."""
    rng = np.random.default_rng(3)
    for states, n in itertools.product((3, 30, 1000, 100_000), (20, 1000)):
        for _ in range(50):
            digest = rng.integers(0, states, n).astype(np.uint64)
            chain, draw = np.arange(n) % 2, np.arange(n) // 4  # each place twice
            assert not _copies(digest).any()
            assert not _copies(digest, chain, draw).any()


def test_numbers_that_cannot_be_used(runs: tuple[xr.Dataset, xr.Dataset]) -> None:
    a, b = (run.isel(sample=slice(0, 20)) for run in runs)
    for name, value, words in (
        ("chain", 0.5, "variable 'chain': 0.5 is no whole number"),
        ("draw", -1, "variable 'draw': -1 is no whole number"),
        ("parent", 1e30, r"variable 'parent': 1e\+30 is no whole number"),
        ("label", np.nan, "variable 'label': 20 samples have none"),
    ):
        wrong = a.assign({name: ("sample", np.full(20, value))})
        for use in (energy, lambda data: sp.coarsen(data, 4)):
            with pytest.raises(StoreError, match=words):
                use(wrong)
    mixed = xr.concat([a, b], "sample").isel(sample=np.random.default_rng(1).permutation(40))
    with pytest.raises(StoreError, match="no order tells their runs apart"):
        energy(mixed)
    lacking = xr.concat([a, b.drop_vars("energy")], "sample")
    with pytest.warns(UserWarning, match="not all samples have 'energy': left out"):
        assert sp.coarsen(lacking, 4).sizes["sample"] == 40


def test_stores_that_share_samples(tmp_path: Path) -> None:
    """Two jobs with the default seed, of 40 and 60 samples.

    Planted, seen to fail: stores that are the same only if their paths are.
    """
    given = {"T": "Tc", "every": 2, "burn_in": 50, "threads": 1}
    names = {"a": (16, 40, 0), "b": (16, 60, 0), "other": (16, 40, 1), "small": (8, 40, 0)}
    for name, (side, samples, seed) in names.items():
        sp.simulate(L=side, samples=samples, seed=seed, output=tmp_path / name, **given)
    a, b, other, small = (sp.store.open_store(tmp_path / name) for name in names)
    from skild_phys.measurement.scaling import scaling

    with pytest.raises(BadInput, match=r"samples of its own .*: 40 are those of"):
        scaling([small, a, b], bins=4)
    notes = compare(a, [b, other]).stores[0].notes
    assert any(note.startswith("40 of its samples are the truth's own") for note in notes)
    assert len(compare(a, [other]).stores[0].notes) == 1
    sp.save(sp.open_dataset(tmp_path / "a"), tmp_path / "copy")
    same = compare(a, [sp.store.open_store(tmp_path / "copy")]).stores[0]
    assert same.notes == ("this is the truth itself",)
    assert not copied(a).any()
    assert len(np.unique(_digests(b))) == 60


def test_inputs_of_refinements_may_repeat(runs: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Only what is measured counts once. Planted, seen to fail: 20 refinements of 40 inputs."""
    few = runs[0].isel(sample=slice(0, 20))
    coarse = sp.coarsen(few, 2, rule="decimate")
    twice = np.tile(coarse.spins.values, (2, 1, 1))
    given = {"method": "fill", "threads": 1}
    for data in (twice, xr.Dataset({"spins": (("sample", "y", "x"), twice)})):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            refined = sp.refine(data, 2, rule="decimate", **given)
        assert np.array_equal(refined.spins[:, ::2, ::2], twice)
        assert refined.parent.values.tolist() == list(range(40))
    bare = few[["spins"]]
    with pytest.warns(UserWarning, match="20 of 40 samples are copies of others"):
        report = sp.compare(xr.concat([bare, bare], "sample"), runs[1], no_figures=True)
    assert report.comparison.truth.lattices == 20
