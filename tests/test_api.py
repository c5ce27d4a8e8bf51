"""The Python API: the same numbers, errors and stores as the commands, with Datasets between."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import exit_code

import skild_phys as sp
from skild_phys.errors import BadInput, InputWarning, Interrupted, StoreError
from skild_phys.runner import Run
from skild_phys.simulation.ensemble import simulate
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.skild.weights import load_weights, shipped_weights
from skild_phys.store import LatticeStore, open_store


def saved(data: xr.Dataset, path: Path) -> LatticeStore:
    sp.save(data, path)
    return open_store(path)


@pytest.fixture(scope="module")
def fine() -> xr.Dataset:
    return sp.simulate("ising2d", L=16, T="Tc", samples=12, seed=3, threads=1)


def test_what_the_commands_make_is_what_the_functions_make(
    fine: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, and nothing on stdout."""
    coarse = sp.coarsen(fine, 2, rule="majority", tie_seed=5)
    refined = sp.refine(coarse, 2, steps=3, seed=4)
    assert capsys.readouterr().out == ""
    words = (
        "simulate --L 16 --T Tc -n 12 --seed 3 -o fine.zarr",
        "coarsen fine.zarr --factor 2 --rule majority --tie-seed 5 -o coarse.zarr",
        "refine coarse.zarr --steps 3 --seed 4 -o refined.zarr",
    )
    for line in words:
        command = [str(tmp_path / w) if w.endswith(".zarr") else w for w in line.split()]
        assert exit_code(*command) == 0
    for name, data in (("fine", fine), ("coarse", coarse), ("refined", refined)):
        there = sp.open_dataset(tmp_path / f"{name}.zarr")
        assert set(there.data_vars) == set(data.data_vars)
        for variable in there.data_vars:
            assert np.array_equal(there[variable], data[variable])


def test_names_may_hold_anything(tmp_path: Path) -> None:
    """'::' is no URL, bytes need not be UTF-8. Planted, seen to fail: a path where Zarr's store
    goes (GroupNotFoundError), names that NetCDF, HTML and CSV cannot encode."""
    name = os.fsdecode(b"a::b\xff")
    at = {key: tmp_path / f"{key}{name}.zarr" for key in ("fine", "coarse", "refined", "made")}
    sp.simulate(L=8, T="Tc", samples=4, every=1, burn_in=0, output=at["fine"])
    sp.coarsen(at["fine"], 2, output=at["coarse"])
    sp.refine(at["coarse"], method="fill", output=at["refined"])
    made = sp.generate(truth=at["fine"], factor=2, steps=2, output=at["made"])
    made.to_netcdf(tmp_path / "made.nc", engine="scipy")
    inputs = (at["fine"], at["refined"])
    report = sp.compare(*inputs, coarse=at["coarse"], output=tmp_path / f"report{name}")
    assert "compare" in report.html
    for suffix in ("", ".zarr"):
        assert exit_code("measure", at["fine"], "-o", tmp_path / f"m{name}{suffix}") == 0


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate", "spectral"])
def test_a_dataset_that_was_not_changed_is_its_store(
    fine: xr.Dataset, tmp_path: Path, rule: str
) -> None:
    """The digest shows it: children keep their parents, and are compared with them one by one."""
    made = sp.coarsen(fine, 2, rule=rule, output=tmp_path / "a.zarr")
    again = saved(made, tmp_path / "b.zarr")
    assert again.digest() == open_store(tmp_path / "a.zarr").digest()
    assert again.variables == open_store(tmp_path / "a.zarr").variables
    assert again.attrs["couplings"] == {"J": 1.0}  # a text in the Dataset


def test_children_of_an_opened_store_are_the_stores(tmp_path: Path) -> None:
    """So that a Dataset and the path of its store make the same store, which either finishes.

    Planted, seen to fail: the name and the digest of the Dataset in memory.
    """
    at = {name: tmp_path / f"{name}.zarr" for name in ("fine", "coarse", "refined", "made")}
    fine = sp.simulate(L=8, T="Tc", samples=4, every=2, burn_in=10, output=at["fine"])
    coarse = sp.coarsen(fine, 2, output=at["coarse"])
    sp.refine(coarse, method="fill", output=at["refined"])
    sp.generate(truth=fine, factor=2, steps=2, output=at["made"])
    for child, parent in (("coarse", "fine"), ("refined", "coarse"), ("made", "fine")):
        attrs = open_store(at[child]).attrs
        assert attrs["parent_store"] == at[parent].name
        assert attrs["parent_sha256"] == open_store(at[parent]).digest()
    sp.coarsen(at["fine"], 2, output=at["coarse"])  # is done: nothing is refused
    with pytest.raises(BadInput, match="apart from the input"):
        sp.coarsen(fine, 2, output=at["fine"], overwrite=True)
    changed = fine.assign(spins=-fine["spins"])
    assert np.array_equal(sp.coarsen(changed, 2)["block_sum"], -coarse["block_sum"])


def test_fields_in_memory_keep_their_parents() -> None:
    """Nothing but a digest shows whose children fields are."""
    fine = sp.coarsen(np.random.default_rng(1).normal(size=(4, 16, 16)), 2)
    assert "parent_sha256" in sp.coarsen(fine, 2).attrs


def test_potts_states_and_their_counts_go_through(tmp_path: Path) -> None:
    states = sp.simulate("potts3", L=(8, 12), T="Tc", samples=4, every=2, burn_in=10)
    assert states["states"].shape == (4, 8, 12)
    counts = sp.coarsen(states, 2)
    again = saved(counts, tmp_path / "b.zarr")
    assert again.q == 3
    assert np.array_equal(again.read(0, 4) * again.scale, counts["state_count"])
    back = sp.refine(counts, method="fill")
    assert np.array_equal(sp.coarsen(back, 2)["state_count"], counts["state_count"])


def test_a_part_of_a_dataset_is_refined_alone(fine: xr.Dataset) -> None:
    coarse = sp.coarsen(fine, 2)
    part = coarse.isel(sample=slice(3, 6))
    made = sp.refine(part, method="exact", sweeps=4)
    assert made.sizes["sample"] == 3
    assert made["parent"].values.tolist() == [3, 4, 5]
    means = made["spins"].coarsen(y=2, x=2).mean()
    assert np.array_equal(means, part["block_sum"])


def test_compare_pairs_models_with_their_truth(fine: xr.Dataset, tmp_path: Path) -> None:
    coarse = sp.coarsen(fine, 2)
    models = [sp.refine(coarse, method="fill", seed=seed) for seed in (1, 2)]
    report = sp.compare(fine, *models, coarse=coarse, output=tmp_path / "report", no_figures=True)
    assert [m.name for m in report.comparison.stores] == ["fill", "fill 2"]
    assert all(m.paired for m in report.comparison.stores)
    assert "fill 2: 12 samples against 12 of the truth" in repr(report)
    assert set(report.table["model"]) == {"fill", "fill 2"}
    assert report.html == (tmp_path / "report" / "report.html").read_text()
    assert report._repr_html_().startswith("<iframe srcdoc=")
    named = sp.compare(fine, *models, names=["one", "two"], no_figures=True)
    assert [m.name for m in named.comparison.stores] == ["one", "two"]
    with pytest.raises(BadInput, match="2 different names"):
        sp.compare(fine, *models, names=["one", "one"])
    for bad in ("a/b", "", "../x", "<b>"):
        with pytest.raises(BadInput, match="letters"):
            sp.compare(fine, *models, names=["one", bad])
    lost = sp.compare(fine.isel(sample=slice(4, 8)), models[0], no_figures=True)
    assert "note: unpaired errors" in repr(lost)


def test_models_are_called_like_their_files(fine: xr.Dataset, tmp_path: Path) -> None:
    """Planted, seen to fail: how they were made, "fill" and "fill 2"; names lost on paths."""
    coarse = sp.coarsen(fine, 2)
    models = [
        sp.refine(coarse, method="fill", seed=i, output=tmp_path / f"{name}.zarr")
        for i, name in enumerate(("one", "two"))
    ]
    report = sp.compare(fine, *models, no_figures=True)
    assert [m.name for m in report.comparison.stores] == ["one", "two"]
    assert report.comparison.name == "truth"
    paths = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    named = sp.compare(fine, *paths, names=["a", "b c"], no_figures=True)
    assert [m.name for m in named.comparison.stores] == ["a", "b c"]


def test_no_model_is_lost_for_its_name(fine: xr.Dataset, tmp_path: Path) -> None:
    """Planted, seen to fail: inputs in a dict by name (one model for three, none called coarse)."""
    coarse = sp.coarsen(fine, 2)
    (tmp_path / "other").mkdir()
    files = ("a.zarr", "a 2.zarr", "other/a.zarr", "coarse.zarr")
    models = [
        sp.refine(coarse, method="fill", seed=i, output=tmp_path / name)
        for i, name in enumerate(files)
    ]
    report = sp.compare(fine, *models, coarse=coarse, no_figures=True)
    assert [m.name for m in report.comparison.stores] == ["a", "a 2", "a 3", "coarse"]
    energies = [float(m.data["energy"]) for m in report.comparison.stores]
    assert energies == pytest.approx([float(m["energy"].mean()) for m in models])


def test_numpys_integers_are_whole_numbers(fine: xr.Dataset) -> None:
    """Planted, seen to fail: only Python's int."""
    whole = np.int64(1)
    found = sp.measure(fine, only="energy", errors="bootstrap", seed=whole, threads=whole)
    assert found.identical(sp.measure(fine, only="energy", errors="bootstrap", seed=1, threads=1))
    assert type(SimulationSpec(8, 2.0, 4, seed=whole).seed) is int
    with pytest.raises(BadInput, match="threads: True"):
        sp.measure(fine, threads=True)


def test_a_measurement_as_a_tidy_table(fine: xr.Dataset) -> None:
    """One line per observable and distance; to_dataframe is the product of all dimensions."""
    found = sp.measure(fine)
    lines = sp.table(found).set_index("observable")
    assert len(lines) < 1500
    assert lines.loc["energy", "value"] == float(found["energy"])
    sides = lines.loc["connected_four_point"]
    assert sides["at"].tolist() == found["side"].values.tolist()
    assert sides["err"].tolist() == found["connected_four_point_err"].values.tolist()
    report = sp.compare(fine, fine, no_figures=True)
    assert sp.table(report).equals(report.table)


def test_a_run_with_output_resumes(tmp_path: Path) -> None:
    where = tmp_path / "fine.zarr"
    first = sp.simulate(L=8, T=2.0, samples=4, every=1, burn_in=1, output=where)
    assert int(first.sizes["sample"]) == 4
    again = sp.simulate(L=8, T=2.0, samples=4, every=1, burn_in=1, output=where)
    assert np.array_equal(first["spins"], again["spins"])
    with pytest.raises(BadInput, match=r"2\.5"):
        sp.simulate(L=8, T=2.5, samples=4, every=1, burn_in=1, output=where)


def test_errors_are_those_of_the_command(fine: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^factor: 5 is not accepted"):
        sp.coarsen(fine, 5)
    with pytest.raises(BadInput, match=r"^L: 'wide' is not accepted"):
        sp.simulate(L="wide", T="Tc", samples=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        sp.simulate(L=8, T="Tc", samples=1, colour=3)
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument 'colour'"):
        sp.train(fine, output=tmp_path / "w.safetensors", preset="ising2d", colour=3)
    with pytest.raises(BadInput, match=r"^names: 'a,b' is not accepted"):
        sp.compare(fine, fine, names="a,b")
    with pytest.raises(
        BadInput, match=r"^samples: 'many' is not accepted; expected a whole number"
    ):
        sp.simulate(L=8, T="Tc", samples="many")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no such file"):
        sp.coarsen(tmp_path / "nothing.zarr", 2)
    with pytest.raises(StoreError, match="not a coarse store"):
        sp.refine(fine, 2)
    with pytest.raises(BadInput, match=r"^factor: 2\.5 is not accepted; expected a whole"):
        sp.coarsen(fine, 2.5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="factor: True"):
        sp.coarsen(fine, True)
    for broken, message in (
        (fine["spins"] * 0.3, "'spins': samples .* hold -?0.3"),
        (fine["spins"].where(fine["spins"] > 0), "'spins': samples .* missing values"),
        (fine["spins"].astype(object), "'spins' is object"),
        (fine["spins"] * 1000.0, "'spins': .* hold -?1000.0"),
        (fine["spins"].rename(y="row"), "'spins': its axes"),
        (fine["spins"].isel(x=slice(0, 0)), "a sample or more"),
    ):
        with pytest.raises(StoreError, match=message):
            sp.coarsen(fine.drop_vars("spins").assign(spins=broken), 2)
    sp.coarsen(fine.assign_attrs(note="{no JSON"), 2)
    with pytest.raises(BadInput, match="attribute note"):
        sp.save(fine.assign_attrs(note=object()), tmp_path / "note.zarr")
    with pytest.raises(StoreError, match="rule= and factor="):
        sp.refine(xr.Dataset({"block_sum": (("sample", "y", "x"), np.ones((1, 2, 2)))}), 2)
    with pytest.raises(StoreError, match="dataset: holds energy"):
        sp.coarsen(fine[["energy"]], 2)
    with pytest.raises(StoreError, match="a sample or more"):
        sp.coarsen(fine.isel(sample=slice(0, 0)), 2)
    zeros = fine.assign(spins=fine["spins"] * np.int8(0))
    with pytest.raises((BadInput, StoreError), match="spins"):
        sp.coarsen(zeros, 2)


def test_a_part_of_a_torus_is_no_torus(fine: xr.Dataset) -> None:
    coarse = sp.coarsen(fine, 2)
    for part, use in (
        (fine.isel(x=slice(0, 8)), lambda d: sp.coarsen(d, 2)),
        (fine.isel(y=slice(0, 8)), sp.measure),
        (coarse.isel(y=slice(0, 4), x=slice(0, 4)), lambda d: sp.refine(d, method="fill")),
    ):
        with pytest.raises(BadInput, match="a part is no torus"):
            use(part)
        whole = part.assign_attrs()
        del whole.attrs["L"]
        use(whole)


def test_a_temperature_is_a_positive_number(fine: xr.Dataset) -> None:
    for wrong in ("zzz", [2.0], 0.0, -1.0, True):
        with pytest.raises(BadInput, match=r"temperature: .* a positive number"):
            sp.coarsen(fine.assign_attrs(temperature=wrong), 2)


def test_axes_of_what_is_measured_go_by_their_names() -> None:
    data = sp.simulate(L=(4, 16), T=1.5, samples=8, every=1, burn_in=5)
    assert data.attrs["L"] == [4, 16]
    assert sp.coarsen(data, 2).attrs["L"] == [2, 8]
    assert sp.refine(sp.coarsen(data, 2), method="fill").attrs["L"] == [4, 16]
    one, two = (sp.measure(d, only=["two_point_axis"]) for d in (data, data.transpose("x", ...)))
    assert one.equals(two)
    other = (
        data.drop_vars("energy").rename(y="row", x="column").transpose("row", "column", "sample")
    )
    assert one["two_point_axis"].equals(
        sp.measure(other, only=["two_point_axis"])["two_point_axis"]
    )


def test_axes_go_by_their_names_and_scales_by_rule_and_factor() -> None:
    """Transposed, or without what xarray remembers of the file, a Dataset is what it was."""
    fine = sp.simulate(L=(8, 16), T="Tc", samples=2, every=1, burn_in=5)
    coarse = sp.coarsen(fine, 2)
    turned = coarse.transpose("x", "sample", "y").drop_encoding() * 1
    turned.attrs = coarse.attrs
    one, two = (sp.refine(data, 2, method="fill", seed=1) for data in (coarse, turned))
    assert two["spins"].dims == ("sample", "y", "x")
    assert np.array_equal(one["spins"], two["spins"])


def test_datasets_are_written_by_xarray_too(fine: xr.Dataset, tmp_path: Path) -> None:
    fine.to_netcdf(tmp_path / "f.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "f.nc", engine="scipy") as again:
        there = sp.coarsen(again.load(), 2)
    assert np.array_equal(there["block_sum"], sp.coarsen(fine, 2)["block_sum"])


@pytest.mark.parametrize("seed", [2**31 - 1, 2**31, 2**63, 2**64 + 1, 2**200])
def test_seeds_of_any_size_survive_netcdf(seed: int, tmp_path: Path) -> None:
    """Planted, seen to fail: integers as they are, which NetCDF refuses from 2^31 on."""
    fine = sp.simulate(L=8, T="Tc", samples=2, seed=seed, every=1, burn_in=1)
    fine.to_netcdf(tmp_path / "fine.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "fine.nc", engine="scipy") as again:
        store = saved(again.load(), tmp_path / "again.zarr")
    assert store.attrs["seed"] == seed


def test_arrays_are_coarsened_and_compared(fine: xr.Dataset) -> None:
    """Integers are spins; what was refined from an array descends from it."""
    spins = fine["spins"].values
    coarse = sp.coarsen(spins, 4)
    assert np.array_equal(coarse["block_sum"], sp.coarsen(fine, 4)["block_sum"])
    turned = sp.coarsen(fine["spins"].transpose("x", "y", "sample"), 4)
    assert np.array_equal(coarse["block_sum"], turned["block_sum"])
    refined = sp.refine(coarse, method="fill")
    means = coarse["block_sum"].transpose("x", "y", "sample")
    known = {"rule": "block_mean", "method": "fill"}
    again = sp.refine(means, 4, **known)["spins"].coarsen(y=4, x=4).mean()
    assert np.array_equal(again, coarse["block_sum"])
    report = sp.compare(spins, refined, coarse=coarse, no_figures=True)
    assert report.comparison.stores[0].paired
    assert sp.coarsen(spins * 0.5, 2, rule="spectral")["field"].shape == (len(spins), 8, 8)
    with pytest.raises(StoreError, match="a single configuration is"):
        sp.coarsen(spins[0], 2)


def test_arrays_are_refined_and_measured() -> None:
    spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (3, 8, 8))
    made = sp.refine(spins, 2, rule="decimate", method="fill")
    assert np.array_equal(made["spins"][:, ::2, ::2], spins)
    found = sp.measure(spins, only="energy, U4", errors="jackknife", model="ising2d", temperature=2)
    assert {"energy", "binder_cumulant"} <= set(found)
    with pytest.raises(BadInput, match="threads"):
        sp.measure(spins, threads=0)


def test_interrupted_in_memory_nothing_is_said_to_be_kept() -> None:
    with pytest.raises(Interrupted, match="nothing is kept without output="):
        simulate(SimulationSpec(8, 2.0, 2), None, Run(stop=lambda: True))


def test_importing_is_quick() -> None:
    """No torch, numba, xarray or click before they are needed."""
    code = "import skild_phys, sys; print({'torch', 'numba', 'xarray', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_weights_are_trained_from_python(fine: xr.Dataset, tmp_path: Path) -> None:
    made = sp.train(fine, preset="ising2d", steps=1, batch=2, output=tmp_path / "w.safetensors")
    drawn = sp.generate(L=8, samples=2, checkpoint=made, steps=2)
    assert drawn["spins"].shape == (2, 8, 8)
    assert float(sp.measure(drawn, only="U4")["binder_cumulant"]) < 1.0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda f: sp.simulate(L=8, T="Tc", chians=2), TypeError, "unexpected .*'chians'"),
        (lambda f: sp.simulate(L=8, T="Tc", help=True), TypeError, "'help'"),
        (lambda f: sp.simulate(L=8, T="Tc", samples=2, n=3), TypeError, "unexpected .*'n'"),
        (lambda f: sp.simulate(L=8, T="Tc", output=3), BadInput, "output: 'int'.* a path"),
        (lambda f: sp.simulate(L=None, T="Tc"), BadInput, "missing L: expected a side"),
        (lambda f: sp.simulate(L=8, T="Tc", threads=10**30), BadInput, "threads: .*1 to 4096"),
        (lambda f: sp.simulate(L=8, T="Tc", chains=[1, 2]), BadInput, "chains: .*a whole number"),
        (lambda f: sp.simulate(L=8, T="Tc", burn_in=-1), BadInput, "burn_in: -1 is not"),
        (lambda f: sp.coarsen(None, 2), TypeError, "fine: .*not NoneType"),
        (lambda f: sp.coarsen("none.zarr", 2), StoreError, "none.zarr: no such"),
        (lambda f: sp.refine(f, lambda_start="x"), BadInput, "lambda_start: .* a number"),
        (lambda f: sp.refine(f, checkpoint=3), TypeError, "checkpoint: expected weights or a path"),
        (lambda f: sp.generate(), BadInput, "missing L: "),
        (lambda f: sp.train(f, output="w", preset="no"), BadInput, "preset: 'no'"),
        (lambda f: sp.compare(f), BadInput, "missing stores"),
        (lambda f: sp.measure(f, threads="x"), BadInput, "threads: 'x'"),
        (lambda f: sp.measure(f, errors="x"), BadInput, "errors: 'x'"),
    ],
)  # fmt: skip
def test_errors_name_parameters_of_python(
    fine: xr.Dataset, call: Callable[[xr.Dataset], object], kind: type[Exception], message: str
) -> None:
    """And no frame of click is seen. Planted, seen to fail: `call` by `click`'s own main."""
    with pytest.raises(kind, match=f"^{message}" if kind is BadInput else message) as raised:
        call(fine)
    assert "--" not in str(raised.value).partition("expected")[0]
    assert not any("click" in str(entry.path) for entry in raised.traceback)


def test_errors_survive_other_processes() -> None:
    """Planted, seen to fail: arguments of `BadInput` that pickle does not give back."""
    error = pickle.loads(pickle.dumps(BadInput("L", 10**300, "less")))
    assert str(error).startswith("L: 1000")
    assert len(str(error)) < 300


def test_weights_go_where_their_paths_do(fine: xr.Dataset) -> None:
    """Planted, seen to fail: 'File name too long' for `str(weights)`."""
    coarse = sp.coarsen(fine, 2)
    made = [
        sp.refine(coarse, checkpoint=given, steps=2)
        for given in (shipped_weights(), load_weights(shipped_weights()))
    ]
    assert np.array_equal(made[0]["spins"], made[1]["spins"])
    assert made[0].attrs["weights_sha256"] == made[1].attrs["weights_sha256"]


def test_attributes_that_no_store_can_have_leave_nothing_behind(tmp_path: Path) -> None:
    """Planted, seen to fail: attributes that are checked when a store is read only.

    What cannot be opened again was written, and stayed.
    """
    spins = xr.Dataset({"spins": (("sample", "y", "x"), np.ones((3, 4, 4), dtype=np.int8))})
    for name, value, accepted in (
        ("every", 2.0, "a whole number from 0 on"),
        ("start", 0, "a text"),
        ("factor", 0.5, "a number from 1 on"),
        ("seed", 10**399, "at most 1023 bits"),
        ("mine", 10**5000, "at most 1023 bits"),
        ("mine", [float("nan")], "a number, a text, or a list"),
    ):
        with pytest.raises(BadInput, match=f"attribute {name}: .* expected {accepted}"):
            sp.save(spins.assign_attrs({name: value}), tmp_path / "mine.zarr")
        assert not (tmp_path / "mine.zarr").exists()
    with pytest.raises(BadInput, match="seed: 'of 1326 bits' is not accepted"):
        sp.simulate(L=8, T="Tc", samples=2, seed=10**399, every=1, burn_in=1, threads=1)


def test_a_warning_points_to_the_line_that_called_the_package(fine: xr.Dataset) -> None:
    coarse = sp.coarsen(fine.drop_attrs(deep=False), 4)
    with pytest.warns(InputWarning, match="names no model") as caught:
        sp.refine(coarse, steps=2)
    assert caught[0].filename == __file__


def test_warnings_survive_netcdf(tmp_path: Path) -> None:
    """Planted, seen to fail: lists of texts as they are, which NetCDF 3 cannot hold."""
    made = sp.generate(L=8, samples=2, steps=2, threads=1)
    many = made.assign_attrs(warnings=json.dumps(["one", "[two"]), mine="[no list")
    store = saved(many, tmp_path / "many.zarr")
    assert store.attrs["warnings"] == ["one", "[two"]
    sp.open_dataset(tmp_path / "many.zarr").to_netcdf(tmp_path / "made.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "made.nc", engine="scipy") as again:
        copy = saved(again.load(), tmp_path / "again.zarr")
    assert copy.attrs["warnings"] == store.attrs["warnings"]
    assert copy.attrs["mine"] == "[no list"


def test_a_data_array_is_its_dataset() -> None:
    """Its name, its coordinates and its own numbers come along.

    Planted, seen to fail: DataArrays as `.npy` files, Potts states coarsened as a field.
    """
    given = {"L": 8, "T": "Tc", "samples": 8, "every": 2, "burn_in": 10, "threads": 1}
    potts = sp.simulate("potts3", **given)
    assert "state_count" in sp.coarsen(potts["states"], 2)
    fine = sp.simulate(**given)
    alone = fine.set_coords(["chain", "draw"])["spins"]
    coarse = sp.coarsen(fine, 2)
    for array in (alone, alone.rename("mine")):
        found = sp.coarsen(array, 2)
        assert all(found[name].equals(coarse[name]) for name in ("block_sum", "chain", "draw"))
    field = alone.astype(float).rename("field")
    assert "field" in sp.coarsen(field, 2)
    sums = (coarse["block_sum"] * 4).astype(int).drop_encoding().rename("sums")
    for data in (sums, sums.to_dataset()):
        refined = sp.refine(data, 2, rule="block_mean", method="fill")
        assert np.array_equal(sp.coarsen(refined, 2)["block_sum"], coarse["block_sum"])
