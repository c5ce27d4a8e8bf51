"""Studies of `analysis/` run from end to end on the tiny campaign.

The residuals of the energy, from 24 configurations, are within 6 standard errors: Student's t of 23
degrees of freedom exceeds this with p = 4e-6, for each of about 16 residuals.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import exit_code

HOME = Path(__file__).parent.parent
TINY = (HOME / "simulations" / "tiny.toml").read_text() + "no_figures = true\n"
MODES = re.sub(r"\[measure\]\n.*\n", "", TINY).replace('"skild", "exact"', '"skild"')
MODES = MODES.replace("factor = 4", 'factor = 4\nrule = "spectral"')
READ = {  # study -> its arguments after the campaign's folder
    "refinement_ising2d": "",
    "factors_ising2d": "--modes MODES",
    "sizes_ising2d": "",
    "steps_ising2d": "",
    "cost_ising2d": "",
    "temperatures_ising2d": "",
}
OWN = {  # studies with stores of their own
    "calibration_ising2d": "--lattices 4 --side 16 --copies 7 --draws 2",
    "classifier_ising2d": "--lattices 12 --side 16",
    "generation_ising2d": "--sizes 16,16x24 --lattices 6,4 --references 2",
    "large_ising2d": "--sizes 16,32 --lattices 4,2",
    "invariance_ising2d": "--side 16 --steps 2 --batch 4 --sites 256 --held 4",
    "inverse_renormalisation": "--lattices 4 --start 8 --steps 2 --fitted 16",
    "critical_points": "--samples 500 --bins 5 --smaller 4",
    "rivals_ising2d": "--minutes 0.02 --lattices 2 --side 16 --trained 16 --calls 4",
}
NEEDS_PHOTOGRAPHS = {"images_cifar10"}


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the tiny campaign, and one of low-pass fields; return their folder."""
    folder = tmp_path_factory.mktemp("runs")
    for name, text in (("tiny", TINY), ("modes", MODES)):
        (folder / f"{name}.toml").write_text(text)
        assert exit_code("run", folder / f"{name}.toml", "-o", folder / name) == 0
    return folder


def printed(script: Path, *words: object) -> str:
    """Run a script; return what it prints."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [str(script), *map(str, words)])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        finally:
            torch.set_num_threads(threads)
    return out.getvalue()


def study(name: str, folder: Path, words: str, at: Path) -> tuple[pd.DataFrame, str]:
    """Run a study in the folder `at`; return its table and verdict."""
    for script in (name, "study"):
        shutil.copy(HOME / "analysis" / f"{script}.py", at)
    out = printed(at / f"{name}.py", folder, *words.split())
    said = (at / f"{name}.md").read_text()
    assert said.strip() in out
    return pd.read_csv(at / f"{name}.csv"), said


@pytest.mark.parametrize("name", READ)
def test_a_study_of_a_campaign(name: str, campaigns: Path, tmp_path: Path) -> None:
    words = READ[name].replace("MODES", str(campaigns / "modes"))
    table, said = study(name, campaigns / "tiny", words, tmp_path)
    assert {"skild"} <= {*table["method"]}
    assert {16, 32} <= {*table["L"]}
    energy = table[(table["observable"] == "energy") & (table["method"] == "skild")]
    assert (energy["residual"].abs() < 6 * energy["residual_err"]).all()
    assert re.search(r"\d\(\d+\)|s per configuration", said)
    assert "nan" not in said


@pytest.mark.parametrize("name", OWN)
def test_a_study_with_stores_of_its_own(name: str, tmp_path: Path) -> None:
    table, said = study(name, tmp_path / "runs", OWN[name], tmp_path)
    assert len(table) >= (6 if name == "classifier_ising2d" else 8)  # two factors, three methods
    assert said.strip()
    assert printed(tmp_path / f"{name}.py", "--table").strip() == said.strip()


def test_the_classifier_knows_a_random_fill(tmp_path: Path) -> None:
    """Which has next to no order within blocks. Planted, seen to fail: w with its sign changed."""
    table, _ = study("classifier_ising2d", tmp_path / "runs", "--lattices 20 --side 16", tmp_path)
    assert (table.loc[table["method"] == "fill", "accuracy"] >= 0.9).all()


def test_network_evaluations_are_counted(campaigns: Path, tmp_path: Path) -> None:
    """Four on the lattice and six a coarser grid, by their sites, as `bench refine` counts."""
    table, _ = study("steps_ising2d", campaigns / "tiny", "--factor 8", tmp_path)
    found = {*zip(table["protocol"], table["steps"], table["evaluations"])}
    assert found == {("refine", 8, 11.5)}


def test_conclusions_from_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HOME / "analysis")
    words = importlib.import_module("study")
    lines = [("connected_four_point", 1, 0.02, 0.005), ("connected_four_point", 4, -0.003, 0.002),
             ("connected_four_point", 8, -0.01, 0.001), ("energy", None, 0.004, 0.003),
             ("patterns_tv", None, None, None)]  # fmt: skip
    table = pd.DataFrame(lines, columns=["observable", "at", "residual", "residual_err"])
    table = table.assign(sigmas=table["residual"] / table["residual_err"], value=0.0123)
    table = table.assign(L=32, rule="majority", lattices=24)
    head, _, row = words.residuals(table, ["L", "rule"]).splitlines()
    shown = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row))))
    assert shown["G4c r = 1"] == "+0.0200(50)"
    assert shown["G4c r = 4"] == "-0.0030(20)"
    assert shown["G4c r = 2"] == ""
    assert shown["energy per site"] == "+0.0040(30)"
    assert (shown["L"], shown["rule"], shown["configurations"]) == ("32", "majority", "24")
    assert shown["TV"] == "0.0123"
    said = words.agreement(table)
    assert said == (
        "1 of 3 residuals of G4c are within 3 standard errors; the largest is +0.0200(50) at r = 1"
    )


def test_goals_of_generation_are_reached_missed_or_not_told_apart(tmp_path: Path) -> None:
    """Planted, seen to fail: shells of S(k) without their 3 sigma, errors above a goal unseen."""
    scalars = ["energy", "binder_cumulant", "susceptibility", "correlation_length"]
    lines = [("64", name, None, 0.001, 0.001, 0.005) for name in [*scalars, "specific_heat"]]
    lines += [("64", "structure_factor", 0.1, -0.06, 0.03, 0.03)]
    lines += [("64", "structure_factor", 0.2, 0.02, 0.001, 0.03)]
    lines += [("9x6", "energy", None, 0.02, 0.001, 0.005)]
    lines += [("9x6", "binder_cumulant", None, 0.001, 0.02, 0.005)]
    lines += [("9x6", name, None, -0.001, 0.001, 0.005) for name in [*scalars[2:], "specific_heat"]]
    lines += [("9x6", "structure_factor", 0.1, -0.06, 0.01, 0.03)]
    lines += [(size, name, 1.0, None, None, None)
              for size in ("64", "9x6") for name in ("seconds", "evaluations")]  # fmt: skip
    columns = ["L", "observable", "at", "deviation", "deviation_err", "goal"]
    table = pd.DataFrame(lines, columns=columns).assign(weights="my", lattices=8, value=2.0)
    table.to_csv(tmp_path / "generation_ising2d.csv", index=False)
    for script in ("generation_ising2d", "study"):
        shutil.copy(HOME / "analysis" / f"{script}.py", tmp_path)
    said = printed(tmp_path / "generation_ising2d.py", "--table")
    assert "- energy (0.005): reached at L = 64; missed at L = 9x6." in said
    apart = "not told apart, the error being larger, at L = 9x6."
    assert f"- U4 (0.005): reached at L = 64; {apart}" in said
    assert "- chi (0.005, relative): reached at L = 64, 9x6." in said
    assert "- S(k) (0.03, relative, or 3 sigma): reached at L = 64; missed at L = 9x6." in said
    assert "-0.060(10) at k = 0.1 (1 of 1 beyond)" in said


def test_every_study_is_run() -> None:
    there = {p.stem for p in (HOME / "analysis").glob("*.py")} - {"study", "local_rule"}
    assert there == {*READ, *OWN, *NEEDS_PHOTOGRAPHS}


def test_a_missing_campaign_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        study("sizes_ising2d", tmp_path / "none", "", tmp_path)
    assert re.fullmatch(r"error: \S+results.csv: is missing.*", str(ended.value.code))
