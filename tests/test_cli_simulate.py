from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, files_of
from store_helpers import simulate

from skild_phys.cli.simulate import _compile_kernels
from skild_phys.runner import Run
from skild_phys.simulation.ensemble import plan_of
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import create_store, open_store

SMALL = ["simulate", "--L", "8", "--T", "Tc", "-n", "20"]


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """Compile beforehand: the line that says so is no part of what is tested."""
    for algorithm in ("wolff", "swendsen-wang", "metropolis"):
        _compile_kernels(SimulationSpec(2, 1.0, 1, algorithm=algorithm))


def test_simulates_and_reports(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*SMALL, "-o", "a.zarr")
    assert (code, err) == (0, "")
    assert out.startswith("20 samples of 8 x 8, one every ")
    assert out.endswith("\na.zarr\n")
    assert "sweeps of a chain (swendsen-wang, 4 chains)" in out
    assert "energy per site" in out
    assert "tau_int  too few draws to tell it" in out
    store = open_store("a.zarr")
    assert store.attrs["command"] == (
        "skild-phys simulate --L 8 --T Tc --samples 20 --output a.zarr"
    )
    assert {"python", "numpy", "numba", "zarr", "skild-phys"} <= set(store.attrs["versions"])


def test_json_has_the_exact_energy(tmp_path: Path, call: Call) -> None:
    code, out, _ = call(*SMALL, "-o", str(tmp_path / "a.zarr"), "--json")
    result = json.loads(out)
    assert code == 0
    assert result["samples"] == 20
    assert result["energy_exact"] == pytest.approx(-1.4915891074, abs=1e-9)
    assert -2.0 <= result["energy"] <= 0.0


def test_one_sample_has_no_error_bar(tmp_path: Path, call: Call) -> None:
    words = ["simulate", "--L", "8", "--T", "2", "-n", "1", "-o", str(tmp_path / "a.zarr")]
    code, out, _ = call(*words, "--json")
    assert code == 0
    assert json.loads(out)["energy_error"] is None


def test_warns_of_samples_too_close_and_a_burn_in_too_short(tmp_path: Path, call: Call) -> None:
    """Metropolis at L = 16 and Tc: tau is some 300 sweeps; false alarms would take 2 sigma."""
    words = ["simulate", "--L", "16", "--T", "Tc", "-n", "4000", "--algorithm", "metropolis"]
    output = ["-o", str(tmp_path / "a.zarr")]
    code, out, err = call(*words, "--every", "2", "--burn-in", "10", *output, "--json")
    assert code == 0
    close, short = err.splitlines()
    assert close.startswith("warning: samples are 2 sweeps apart, closer than two autocorrelation")
    assert short.startswith("warning: burn-in was 10 sweeps, shorter than 20 autocorrelation times")
    assert len(json.loads(out)["warnings"]) == 2
    code, out, err = call(*SMALL, "-o", str(tmp_path / "b.zarr"), "-n", "2000", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["energy_tau"] < 1.0


def test_warns_of_an_energy_that_never_changes(tmp_path: Path, call: Call) -> None:
    words = ["simulate", "--L", "8", "--T", "0.05", "-n", "20", "-o", str(tmp_path / "a.zarr")]
    code, _, err = call(*words)
    assert code == 0
    assert err.startswith("warning: the energy never changes")


@pytest.mark.parametrize(
    ("words", "shape", "field"),
    [
        (["--L", "8x4"], (8, 4), "spins"),
        (["--model", "ising3d", "--L", "4"], (4, 4, 4), "spins"),
        (["--model", "ising3d", "--L", "2x4x6", "--algorithm", "wolff"], (2, 4, 6), "spins"),
        (["--model", "potts3"], (8, 8), "states"),
        (["--model", "potts8", "--algorithm", "swendsen_wang", "--T", "1.05Tc"], (8, 8), "states"),
        (["--algorithm", "multispin", "--chains", "128"], (8, 8), "spins"),
    ],
)
def test_models_shapes_and_algorithms(
    tmp_path: Path,
    call: Call,
    words: list[str],
    shape: tuple[int, ...],
    field: str,
) -> None:
    code, _, _ = call(*SMALL, "-o", str(tmp_path / "a.zarr"), *words)
    store = open_store(tmp_path / "a.zarr")
    assert (code, store.shape, store.field, store.n_samples) == (0, shape, field, 20)


def test_equal_runs_in_two_places_give_equal_bytes(tmp_path: Path, call: Call) -> None:
    for place, threads in (("here", "1"), ("there", "4")):
        (tmp_path / place).mkdir()
        output = str(tmp_path / place / "a.zarr")
        assert call(*SMALL, "-o", output, "--threads", threads)[0] == 0
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")


def test_appends_and_overwrites_only_when_told(tmp_path: Path, call: Call) -> None:
    output = ["-o", str(tmp_path / "a.zarr")]
    assert call(*SMALL, *output)[0] == 0
    before = files_of(tmp_path)
    assert call(*SMALL, *output)[0] == 0
    for words in (["--seed", "1"], ["-n", "30", "--T", "2"], ["-n", "10"]):
        code, _, err = call(*SMALL, *output, *words)
        assert code == 2
        assert err.startswith("error: -o: ")
    assert files_of(tmp_path) == before
    assert call(*SMALL, *output, "-n", "30")[0] == 0
    assert open_store(tmp_path / "a.zarr").n_samples == 30
    assert call(*SMALL, *output, "--T", "2", "--overwrite", "--every", "3")[0] == 0
    assert open_store(tmp_path / "a.zarr").attrs["temperature"] == 2.0


def test_append(tmp_path: Path, call: Call) -> None:
    output = ["-o", str(tmp_path / "a.zarr")]
    more = ["simulate", "--append", "-n", "15", *output]
    assert call(*SMALL, "--model", "potts3", "--T", "1.1Tc", *output)[0] == 0
    first = open_store(tmp_path / "a.zarr")
    kept, settled = first.read(0, 20), first.attrs["every"]
    for total in (35, 50):
        code, out, _ = call(*more)
        assert code == 0
        assert f"{total} samples of 8 x 8" in out
    store = open_store(tmp_path / "a.zarr")
    assert (store.read(0, 20) == kept).all()
    assert store.attrs["every"] == settled
    assert store.attrs["command"].count("--append --samples 15") == 2
    before = files_of(tmp_path)
    for words, named in (
        (["--seed", "1"], "--seed"),
        (["--L", "16"], "--L"),
        (["--T", "Tc"], "--T"),
        (["--model", "ising2d"], "--model"),
        (["--every", "1"], "--every"),
        (["--overwrite"], "--append"),
        (["-n", "0"], "-n"),
    ):
        code, _, err = call(*more, *words)
        assert code == 2
        assert err.startswith(f"error: {named}: ")
        assert err.count("\n") == 1
    assert files_of(tmp_path) == before
    agreeing = ["--L", "8x8", "--T", "1.1Tc", "--model", "potts3", "--algorithm", "auto"]
    assert call(*more, *agreeing, "--seed", "0")[0] == 0


def test_append_goes_on_where_it_was_killed(tmp_path: Path, call: Call) -> None:
    """What a kill in the middle of an append leaves: more planned than there are."""
    output = tmp_path / "a.zarr"
    assert call(*SMALL, "-o", str(output))[0] == 0
    stopped: list[int] = []
    from skild_phys.errors import Interrupted
    from skild_phys.simulation.ensemble import appended

    spec, attrs = appended(output, 3000, {})
    with pytest.raises(Interrupted):
        simulate(
            spec, output, attrs=attrs, stop=lambda: sum(stopped) > 100, progress=stopped.append
        )
    assert not open_store(output).complete
    code, _, err = call("simulate", "--append", "-n", "7", "-o", str(output))
    assert code == 2
    assert err.startswith("error: --append: ")
    assert call("simulate", "--append", "-n", "3000", "-o", str(output))[0] == 0
    assert open_store(output).n_samples == 3020


def test_append_that_was_killed_after_its_last_commit(tmp_path: Path, call: Call) -> None:
    """The samples are there and the command has not ended: called again, it adds no more.

    Planted, seen to fail: `appended` that takes every complete store for a finished call's.
    """
    from skild_phys.simulation.ensemble import appended

    more = ["simulate", "--append", "-n", "15", "-o"]
    for name in ("whole", "killed"):
        output = tmp_path / name / "a.zarr"
        output.parent.mkdir()
        assert call(*SMALL, "-o", str(output))[0] == 0
        if name == "killed":
            spec, attrs = appended(output, 15, {}, "simulate --append")
            simulate(spec, output, attrs=attrs)
        code, out, _ = call(*more, str(output))
        assert code == 0
        assert "35 samples of 8 x 8" in out
    assert open_store(output).attrs["command"].count("--append") == 1
    last = [open_store(tmp_path / name / "a.zarr").read(0, 35) for name in ("whole", "killed")]
    assert (last[0] == last[1]).all()
    for total in (50, 65):
        assert f"{total} samples" in call(*more, str(output))[1]
    spec, attrs = appended(output, 15, {})
    simulate(spec, output, attrs=attrs)
    assert "87 samples" in call("simulate", "--append", "-n", "7", "-o", str(output))[1]


@pytest.mark.parametrize("given", [{}, {"every": 2}, {"burn_in": 2}])
def test_append_to_a_store_without_every_or_burn_in(
    tmp_path: Path, call: Call, given: dict[str, int]
) -> None:
    """Complete, with samples that another program put there before either was settled."""
    output = tmp_path / "a.zarr"
    _, plan = plan_of(SimulationSpec(8, 2.0, 4, **given), Run())
    values = dict.fromkeys(("energy", "magnetization"), np.ones(4))
    places = {"chain": np.arange(4, dtype=np.int32), "draw": np.zeros(4, dtype=np.int64)}
    with create_store(output, plan) as writer:
        writer.commit({"spins": np.ones((4, 8, 8), dtype=np.int8), **values, **places})
    assert open_store(output).complete
    before = files_of(tmp_path)
    code, _, err = call("simulate", "--append", "-n", "5", "-o", str(output))
    assert code == 2
    assert err.startswith(f"error: {output}: was not simulated, or by an earlier version: ")
    assert err.count("\n") == 1
    assert files_of(tmp_path) == before


def test_append_to_what_was_not_simulated(tmp_path: Path, call: Call) -> None:
    fine, coarse = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    assert call(*SMALL, "-o", fine)[0] == 0
    assert call("coarsen", fine, "--factor", "2", "-o", coarse)[0] == 0
    for path in (coarse, str(tmp_path / "none.zarr")):
        code, _, err = call("simulate", "--append", "-n", "5", "-o", path)
        assert code == 2
        assert err.startswith(f"error: {path}: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--L", "0"], "--L"),
        (["--L", "-4"], "--L"),
        (["--L", "8.5"], "--L"),
        (["--L", "9999999"], "--L"),
        (["--T", "banana"], "--T"),
        (["--T", "0"], "--T"),
        (["--T", "-1"], "--T"),
        (["--T", "nan"], "--T"),
        (["-n", "0"], "-n"),
        (["-n", "-3"], "-n"),
        (["--model", "potts"], "--model"),
        (["--L", "8x8x8"], "--L"),
        (["--L", "8x"], "--L"),
        (["--L", "banana"], "--L"),
        (["--L", "15", "--algorithm", "metropolis"], "--L"),
        (["--L", "8x15", "--algorithm", "multispin"], "--L"),
        (["--model", "potts3", "--algorithm", "multispin"], "--algorithm"),
        (["--model", "potts9"], "--model"),
        (["--algorithm", "multispin", "--chains", "65"], "--chains"),
        (["--dask", "local:0"], "--dask"),
        (["--dask", "local:x"], "--dask"),
        (["--dask", "banana"], "--dask"),
        (["--dask", "tcp://127.0.0.1:1"], "--dask"),
        (["--dask", "local:1", "--chunk", "3"], "--chunk"),
        (["--algorithm", "gibbs"], "--algorithm"),
        (["--chains", "0"], "--chains"),
        (["--every", "0"], "--every"),
        (["--burn-in", "-1"], "--burn-in"),
        (["--start", "warm"], "--start"),
        (["--seed", "-1"], "--seed"),
        (["--chunk", "0"], "--chunk"),
        (["--threads", "0"], "--threads"),
        (["-o", "missing/a.zarr"], "-o"),
        (["-o", "file"], "-o"),
        (["-o", "file/a.zarr"], "-o"),
        (["-o", "other"], "other"),
        (["--sead", "1"], "--sead"),
    ],
)
def test_bad_input_ends_in_one_line(
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("x")
    before = files_of(tmp_path)
    code, out, err = call(*SMALL, "-o", "a.zarr", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert files_of(tmp_path) == before


def test_required_options(call: Call) -> None:
    code, _, err = call("simulate", "--L", "8")
    assert code == 2
    assert err.count("\n") == 1
