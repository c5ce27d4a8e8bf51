"""`skild-phys refine` as a user meets it: results, resumption, and refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Call, files_of
from skild_helpers import TC, coarse_input, critical_lattices, tiny_weights
from store_helpers import coarsen_store, refine_store

from skild_phys.methods import SKILD, Exact, Method
from skild_phys.models import MODELS
from skild_phys.rules import block_mean, coarsen, conditions, decimate, majority
from skild_phys.skild.weights import load_weights, save_weights
from skild_phys.store import create_store, open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with tiny weights w.safetensors and coarse stores c.zarr, warm.zarr."""
    save_weights(tmp_path / "w.safetensors", tiny_weights())
    sums = coarsen(critical_lattices(6, 16), "block_mean", 4)
    for name, temperature in (("c.zarr", TC), ("warm.zarr", 1.1 * TC)):
        attrs = {"model": "ising2d", "temperature": temperature, "rule": "block_mean", "factor": 4}
        with create_store(
            tmp_path / name, field="block_sum", n_samples=6, shape=(4, 4), chunk=2,
            attrs=attrs, variables=("parent",), scale=1 / 16,
        ) as writer:  # fmt: skip
            writer.commit({"block_sum": sums, "parent": np.arange(6)})
    return tmp_path


def test_refine_says_what_it_did(folder: Path, call: Call) -> None:
    words = ["refine", folder / "c.zarr", "--factor", 4, "-o", folder / "r.zarr", "--steps", 3]
    words += ["--checkpoint", folder / "w.safetensors", "--json"]
    code, out, err = call(*words)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["samples"] == 6
    store = open_store(folder / "r.zarr")
    assert store.shape == (16, 16)
    sums = open_store(folder / "c.zarr").read(0, 6)
    assert np.array_equal(coarsen(store.read(0, 6), "block_mean", 4), sums)
    before = files_of(folder / "r.zarr")
    assert call(*words)[0] == 0
    assert files_of(folder / "r.zarr") == before


def test_refine_without_options_uses_the_shipped_weights(folder: Path, call: Call) -> None:
    code, out, err = call("refine", folder / "c.zarr", "-o", folder / "r.zarr", "--steps", 2)
    assert code == 0, err
    assert "6 configurations of 16 x 16" in out


def test_what_is_not_there_and_what_is_not_known(folder: Path, call: Call) -> None:
    """A typo is reported; shipped weights on an unknown system come with a warning."""
    for words in ((), ("--factor", 2), ("--rule", "decimate")):
        code, _, err = call("refine", folder / "none.npy", *words, "-o", folder / "r.zarr")
        assert code == 2
        assert "none.npy: no such file" in err
    np.save(folder / "some.npy", np.ones((1, 8, 8), dtype=np.int8))
    words = ("refine", folder / "some.npy", "--rule", "decimate", "--factor", 2, "--steps", 4)
    noted = "some.npy names no model"
    assert noted in call(*words, "-o", folder / "r.zarr")[2]
    own = ("--checkpoint", folder / "w.safetensors")
    assert noted not in call(*words, *own, "-o", folder / "s.zarr")[2]
    assert noted not in call("refine", folder / "c.zarr", "-o", folder / "t.zarr")[2]


def test_weights_refuse_another_temperature_without_any_system(folder: Path, call: Call) -> None:
    words = ["refine", folder / "warm.zarr", "-o", folder / "r.zarr", "--steps", 2]
    words += ["--checkpoint", folder / "w.safetensors"]
    code, _, err = call(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert "T = 2.4961" in err
    assert "--any-system" in err
    assert not (folder / "r.zarr").exists()
    code, _, err = call(*words, "--any-system")
    assert code == 0
    warning = open_store(folder / "r.zarr").attrs["warnings"][0]
    assert "warm.zarr is at T = 2.4961" in warning
    assert f"warning: {warning}" in err
    assert (
        f"warning: r.zarr: {warning}" in call("measure", folder / "r.zarr", "--only", "energy")[2]
    )


BAD = [
    (["--factor", "2"], "--factor"),
    (["--factor", "0"], "--factor"),
    (["--factor", "1.5"], "--factor"),
    (["--rule", "majority"], "--rule"),
    (["--method", "magic"], "--method"),
    (["--sampler", "magic"], "--sampler"),
    (["--steps", "0"], "--steps"),
    (["--steps", "many"], "--steps"),
    (["--samples-per-input", "0"], "--samples-per-input"),
    (["--seed", "-1"], "--seed"),
    (["--polish", "-1"], "--polish"),
    (["--threads", "0"], "--threads"),
    (["--chunk", "0"], "--chunk"),
    (["--sweeps", "-3", "--method", "exact"], "--sweeps"),
    (["--sweeps", "3"], "--sweeps"),
    (["--method", "exact", "--steps", "3"], "--steps"),
    (["--method", "exact", "--checkpoint", "w.safetensors"], "--checkpoint"),
    (["--restarts", "1"], "--restarts"),
    (["--T", "banana", "--method", "exact"], "--T"),
    (["--T", "-1", "--method", "exact"], "--T"),
    (["--lambda-start", "1e13"], "--lambda-start"),
    (["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--device", "cuda"], "--device"),
    (["--device", "toaster"], "--device"),
]


@pytest.mark.parametrize(("words", "named"), BAD)
def test_bad_input_is_one_line_and_leaves_no_output(
    folder: Path, call: Call, words: list[str], named: str
) -> None:
    base = ["refine", folder / "c.zarr", "-o", folder / "r.zarr"]
    if not {"--checkpoint", "exact"} & set(words):
        base += ["--checkpoint", folder / "w.safetensors"]
    code, out, err = call(*base, *words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert out == ""
    assert not (folder / "r.zarr").exists()


def test_places_that_cannot_be_written(folder: Path, call: Call) -> None:
    common = ["--checkpoint", folder / "w.safetensors", "--steps", 2]
    for output in (folder / "c.zarr", folder / "c.zarr" / "inside.zarr", folder / "no" / "r.zarr"):
        before = files_of(folder)
        code, _, err = call("refine", folder / "c.zarr", "-o", output, *common)
        assert code == 2
        assert err.startswith("error: ")
        assert files_of(folder) == before
    code, _, err = call("refine", folder / "none.zarr", "-o", folder / "r.zarr", *common)
    assert (code, "none.zarr" in err) == (2, True)


START = "import sys; from skild_phys.cli import run; run(sys.argv[1:])"


def kill_then_finish(words: list[str], seconds: tuple[float, ...]) -> None:
    """Start a command and kill -9 it after each of `seconds`; then let it run to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START, *words]
    for delay in seconds:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        child.kill()
        child.wait()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_kill_9_of_refine_and_train_ends_in_the_same_bytes(folder: Path) -> None:
    recipe = folder / "run.toml"
    recipe.write_text(
        "side = 16\nsteps = 400\nbatch = 8\nsave_every = 20\nspectrum_batches = 4\n"
        "[network]\npatch = 2\nchannels = [8, 8]\nblocks = [1, 1]\n"
    )
    for name in ("whole", "killed"):
        (folder / name).mkdir()
        kills = () if name == "whole" else (4.0, 5.0, 6.0)
        weights = folder / name / "own.safetensors"
        train = ["train", "--config", str(recipe), "-o", str(weights), "--threads", "1"]
        kill_then_finish(train, kills)
        refined = folder / name / "r.zarr"
        refine = ["refine", str(folder / "c.zarr"), "-o", str(refined), "--checkpoint"]
        refine += [str(weights), "--samples-per-input", "40", "--chunk", "4", "--threads", "1"]
        kill_then_finish(refine, kills)
    whole, killed = (files_of(folder / name) for name in ("whole", "killed"))
    assert set(whole) == set(killed)
    curves = [pd.read_csv(folder / name / "own.loss.csv") for name in ("whole", "killed")]
    one, other = (curve.drop(columns="lattices_per_second") for curve in curves)
    assert one.equals(other)
    timed = {"r.zarr.timing.json", "own.loss.csv"}
    assert {k for k in whole if whole[k] != killed[k]} <= timed
    assert load_weights(folder / "whole" / "own.safetensors").training["steps"] == 400


KERNELS = [
    conditions._blocks, conditions._uniforms, block_mean._exchange,
    decimate._flip_free, majority._flip_majority,
    decimate._cluster_free, majority._cluster_majority, block_mean._fill_counts,
    majority._fill_majority, decimate._fill_free,
]  # fmt: skip


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize("factor", [4, 16])
def test_nothing_is_left_to_compile_while_refining(tmp_path: Path, rule: str, factor: int) -> None:
    """The line that says "first run only" must be true of every run: same types, compiled once."""
    coarse = coarse_input(critical_lattices(1, 32), rule, factor)
    skild: Method = SKILD(steps=2, polish=1, checkpoint=tiny_weights())
    for name, method in (("s", skild), ("e", Exact())):
        method.compile(coarse)
        before = [len(kernel.signatures) for kernel in KERNELS]
        refine_store(coarse, tmp_path / name, method)
        assert [len(kernel.signatures) for kernel in KERNELS] == before


def test_exact_measures_how_long_it_must_run(folder: Path, call: Call, tmp_path: Path) -> None:
    words = ["refine", folder / "c.zarr", "--method", "exact", "-o"]
    code, out, err = call(*words, tmp_path / "a.zarr")
    assert code == 0, err
    attrs = open_store(tmp_path / "a.zarr").attrs
    assert attrs["sweeps"] == max(32, math.ceil(20 * attrs["tau_int"]))
    assert f"tau {attrs['tau_int']:.3g} sweeps, {attrs['sweeps']} sweeps per configuration" in out
    before = files_of(tmp_path / "a.zarr")
    assert call(*words, tmp_path / "a.zarr")[0] == 0
    assert files_of(tmp_path / "a.zarr") == before
    code, out, _ = call(*words, tmp_path / "b.zarr", "--sweeps", 7, "--json")
    assert code == 0
    assert open_store(tmp_path / "b.zarr").attrs["sweeps"] == 7
    assert "tau_int" not in open_store(tmp_path / "b.zarr").attrs
    assert "tau_int" not in json.loads(out)


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
@pytest.mark.parametrize("name", ["ising3d", "potts3"])
@pytest.mark.parametrize("method", ["exact", "fill"])
def test_other_models(tmp_path: Path, call: Call, name: str, rule: str, method: str) -> None:
    """Coarse lattices of another model are refined, at a multiple of its own Tc if asked."""
    model = MODELS[name]
    values, sides = np.array(model.values, dtype=np.int8), (4,) * model.dimension
    fine = values[np.random.default_rng(1).integers(0, len(values), (3, *sides))]
    q = len(values) if model.field == "states" else 0
    with create_store(
        tmp_path / "f.zarr", field=model.field, n_samples=3, shape=sides, chunk=2, q=q,
        attrs={"model": name, "temperature": model.critical_temperature}, variables=("parent",),
    ) as writer:  # fmt: skip
        writer.commit({model.field: fine, "parent": np.arange(3)})
    coarsen_store(open_store(tmp_path / "f.zarr"), tmp_path / "c.zarr", rule, 2, tie_seed=3)
    words = ["refine", tmp_path / "c.zarr", "-o", tmp_path / "r.zarr", "--method", method]
    code, out, err = call(*words, *(["--T", "1.1Tc"] if method == "exact" else []))
    assert (code, "every block" in out) == (0, True), err
    store = open_store(tmp_path / "r.zarr")
    assert (store.model(), store.shape) == (model, sides)
    again = coarsen_store(store, tmp_path / "again.zarr", rule, 2, tie_seed=3)
    assert np.array_equal(again.read(0, 3), open_store(tmp_path / "c.zarr").read(0, 3))
    if method == "exact":
        assert store.attrs["temperature"] == pytest.approx(1.1 * model.critical_temperature)


def test_exact_needs_a_hamiltonian(folder: Path, call: Call) -> None:
    sums = open_store(folder / "c.zarr").read(0, 6)
    with create_store(
        folder / "x.zarr", field="block_sum", n_samples=6, shape=(4, 4), chunk=2, scale=1 / 16,
        attrs={"model": "xy", "temperature": 1.0, "rule": "block_mean", "factor": 4},
        variables=("parent",),
    ) as writer:  # fmt: skip
        writer.commit({"block_sum": sums, "parent": np.arange(6)})
    words = ["refine", folder / "x.zarr", "-o", folder / "r.zarr", "--method"]
    for more in ([], ["--T", "2Tc"], ["--sweeps", "3"]):
        code, out, err = call(*words, "exact", *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: --method: 'exact'")
        assert "xy" in err
        assert not (folder / "r.zarr").exists()
