from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import files_of

from skild_phys.cli import run
from skild_phys.simulate.chain import Ensemble, SimulationSpec
from skild_phys.store import open_store

SMALL = ["simulate", "--L", "8", "--T", "Tc", "-n", "20"]


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """Compile beforehand: the line that says so is no part of what is tested."""
    for algorithm in ("wolff", "metropolis"):
        Ensemble(SimulationSpec(2, 1.0, 1, algorithm=algorithm)).advance(0, 1, lambda: False)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command line; return (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as end:
        run(list(words))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_simulates_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *SMALL, "-o", "a.zarr")
    assert (code, err) == (0, "")
    assert out.startswith("a.zarr  20 samples, one every ")
    assert "energy per site" in out
    store = open_store("a.zarr")
    assert store.attrs["command"] == (
        "skild-phys simulate --L 8 --T Tc --samples 20 --output a.zarr"
    )
    assert {"python", "numpy", "numba", "zarr", "skild-phys"} <= set(store.attrs["versions"])


def test_json_has_the_exact_energy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *SMALL, "-o", str(tmp_path / "a.zarr"), "--json")
    result = json.loads(out)
    assert code == 0
    assert result["samples"] == 20
    assert result["energy_exact"] == pytest.approx(-1.4915891074, abs=1e-9)
    assert -2.0 <= result["energy"] <= 0.0


def test_one_sample_has_no_error_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--L", "8", "--T", "2", "-n", "1", "-o", str(tmp_path / "a.zarr")]
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["energy_error"] is None


def test_equal_runs_in_two_places_give_equal_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, threads in (("here", "1"), ("there", "4")):
        (tmp_path / place).mkdir()
        output = str(tmp_path / place / "a.zarr")
        assert call(capsys, *SMALL, "-o", output, "--threads", threads)[0] == 0
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")


def test_appends_and_overwrites_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "a.zarr")]
    assert call(capsys, *SMALL, *output)[0] == 0
    before = files_of(tmp_path)
    assert call(capsys, *SMALL, *output)[0] == 0
    for words in (["--seed", "1"], ["-n", "30", "--T", "2"], ["-n", "10"]):
        code, _, err = call(capsys, *SMALL, *output, *words)
        assert code == 2
        assert err.startswith("error: -o: ")
    assert files_of(tmp_path) == before
    assert call(capsys, *SMALL, *output, "-n", "30")[0] == 0
    assert open_store(tmp_path / "a.zarr").n_samples == 30
    assert call(capsys, *SMALL, *output, "--T", "2", "--overwrite")[0] == 0
    assert open_store(tmp_path / "a.zarr").attrs["temperature"] == 2.0


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
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("x")
    before = files_of(tmp_path)
    code, out, err = call(capsys, *SMALL, "-o", "a.zarr", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert files_of(tmp_path) == before


def test_required_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "simulate", "--L", "8")
    assert code == 2
    assert err.count("\n") == 1
