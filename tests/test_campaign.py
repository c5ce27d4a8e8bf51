"""Campaigns: what is missing is done, what is there is left, what differs is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import exit_code

from skild_phys.campaign import _ways, plan, read_campaign
from skild_phys.errors import BadInput
from skild_phys.store import open_store

TINY = """
[simulate]
L = [8, 12]
T = "Tc"
samples = 3
every = 1
burn_in = 5
[coarsen]
factor = 2
[refine]
method = ["fill", "exact"]
sweeps = 1
"""
CAMPAIGNS = Path(__file__).parent.parent / "simulations"
SIMPLE = TINY.replace('["fill", "exact"]', '"exact"')


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SIMPLE)
    return path


def states(campaign: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert exit_code("run", campaign, "-o", folder, "--dry-run", "--json") == 0
    return [step["status"] for step in json.loads(capsys.readouterr().out)["steps"]]


def test_only_what_is_missing_is_done(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert states(campaign, folder, capsys) == ["to do"] * 6
    assert not folder.exists()
    assert exit_code("run", campaign, "-o", folder) == 0
    assert open_store(folder / "L12" / "refined.zarr").shape == (12, 12)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.json")}
    assert states(campaign, folder, capsys) == ["done"] * 6
    assert exit_code("run", campaign, "-o", folder) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.json")} == before
    (folder / "L8" / "refined.zarr.step.json").unlink()
    assert states(campaign, folder, capsys) == ["done"] * 2 + ["to do"] + ["done"] * 3


def test_what_was_made_otherwise_is_refused_and_everything_after_it(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert exit_code("run", campaign, "-o", folder) == 0
    digest = open_store(folder / "L8" / "fine.zarr").digest()
    campaign.write_text(SIMPLE.replace("sweeps = 1", "sweeps = 2"))
    assert states(campaign, folder, capsys) == ["done", "done", "changed"] * 2
    campaign.write_text(SIMPLE.replace("burn_in = 5", "burn_in = 6"))
    assert states(campaign, folder, capsys) == ["changed"] * 6
    assert exit_code("run", campaign, "-o", folder) == 2
    assert "L8/fine.zarr' is not accepted" in capsys.readouterr().err
    assert open_store(folder / "L8" / "fine.zarr").digest() == digest
    assert exit_code("run", campaign, "-o", folder, "--overwrite") == 0
    assert open_store(folder / "L8" / "fine.zarr").digest() != digest
    assert states(campaign, folder, capsys) == ["done"] * 6


def test_overwrite_makes_anew_what_was_begun_otherwise(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a record the store itself refuses other parameters; --overwrite replaces it."""
    folder = tmp_path / "out"
    assert exit_code("run", campaign, "-o", folder) == 0
    for path in folder.rglob("*.step.json"):
        path.unlink()
    campaign.write_text(SIMPLE.replace("burn_in = 5", "burn_in = 6"))
    assert exit_code("run", campaign, "-o", folder) == 2
    assert "burn_in" in capsys.readouterr().err
    assert exit_code("run", campaign, "-o", folder, "--overwrite") == 0
    assert states(campaign, folder, capsys) == ["done"] * 6


def test_outputs_that_are_not_whole_are_seen(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted, seen to fail: a step that is done if its root record is what it was."""
    folder = tmp_path / "out"
    campaign.write_text(SIMPLE.replace("[8, 12]", "8") + '[measure]\nonly = ["energy", "U4"]\n')
    assert exit_code("run", campaign, "-o", folder) == 0
    assert states(campaign, folder, capsys) == ["done"] * 5
    (folder / "fine" / "measure.nc").unlink()
    next((folder / "coarse.zarr" / "block_sum").glob("c*")).unlink()
    (folder / "refined.zarr.step.json").write_text("[]")
    shutil.copy(folder / "refined.zarr/spins/c.0.0.0", folder / "fine.zarr/spins/c.0.0.0")
    assert exit_code("run", campaign, "-o", folder) == 2
    assert "fine.zarr: variable 'spins': chunk c.0.0.0 is" in capsys.readouterr().err
    found = dict(zip(("fine", "m", "coarse", "refined", "m2"), states(campaign, folder, capsys)))
    assert found == {
        "fine": "changed", "m": "changed", "coarse": "changed", "refined": "changed", "m2": "done",
    }  # fmt: skip


def test_an_output_that_somebody_else_replaced_is_seen(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert exit_code("run", campaign, "-o", folder) == 0
    fine = folder / "L8" / "fine.zarr"
    assert exit_code("simulate", "--L", 8, "--T", 2.0, "-n", 3, "-o", fine, "--overwrite") == 0
    assert states(campaign, folder, capsys) == ["changed"] + ["done"] * 5


def test_an_unfinished_step_resumes(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill: the store is there, and recorded as begun."""
    folder = tmp_path / "out"
    assert exit_code("run", campaign, "-o", folder) == 0
    for step in plan(read_campaign(campaign), folder, tmp_path)[:1]:
        step.note(finished=False)
    assert states(campaign, folder, capsys) == ["begun"] + ["done"] * 5
    digest = open_store(folder / "L8" / "fine.zarr").digest()
    assert exit_code("run", campaign, "-o", folder) == 0
    assert open_store(folder / "L8" / "fine.zarr").digest() == digest


def test_all_comparisons_are_one_table(campaign: Path, tmp_path: Path) -> None:
    fill = '[[refine]]\nmethod = ["fill"]\n'
    exact = '[[refine]]\nmethod = ["exact"]\nsweeps = 1\n'
    simple = SIMPLE[: SIMPLE.index("[refine]")]
    campaign.write_text(simple + fill + exact + "[compare]\nno_figures = true\n")
    folder = tmp_path / "out"
    assert exit_code("run", campaign, "-o", folder) == 0
    found = pd.read_csv(folder / "results.csv")
    assert {*zip(found["L"], found["rule"], found["factor"], found["lattices"])} == {
        (8, "block_mean", 2, 3), (12, "block_mean", 2, 3),
    }  # fmt: skip
    assert {*zip(found["folder"], found["method"])} == {
        (f"L{side}", method) for side in (8, 12) for method in ("fill", "exact")
    }
    own = found[(found["folder"] == "L12") & (found["model"] == "exact")].reset_index(drop=True)
    table = pd.read_csv(folder / "L12" / "report" / "comparison.csv")
    expected = table[table["model"] == "exact"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[expected.columns], expected)
    assert (own["sweeps"] == 1).all()
    assert found.loc[found["method"] == "fill", "sweeps"].isna().all()
    assert (own["seconds_per_lattice"] > 0).all()


SPECTRAL_POLISH = 'rule = "spectral"\n[refine]\nmethod = "skild"\npolish = 2'
TRAINED = 'steps = 0\n[train]\npreset = "ising2d"\nsteps = 1\n'
MEASURED = "[measure]\n{}\n[compare]\n{}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('method = "exact"', 'method = ["exact", "exakt"]', "method: 'exakt'"),
        ("factor = 2", "factor = [2, 8]", "L12/factor8/coarse.zarr: factor: 8"),
        ("factor = 2", 'factor = 2\nrule = "blok"', "rule: 'blok'"),
        ("factor = 2", 'factor = 2\nrule = "majority"\ntie_seed = -1', "tie_seed: -1"),
        ('T = "Tc"', 'T = ["Tc", "banana"]', "T: 'banana'"),
        ("[8, 12]", "[8, 0]", "L0/fine.zarr: L: '0'"),
        ("[8, 12]", '[8, 7]\nalgorithm = "metropolis"', "even sides"),
        ("samples = 3", "samples = 0", "samples: 0"),
        ("every = 1", "every = 0", "every: 0"),
        ("every = 1", 'every = 1\nstart = "warm"', "start: 'warm'"),
        ("every = 1", "every = 1\nchunk = 0", "chunk: 0"),
        ("every = 1", "every = 1\nthreads = 0", "threads: 0"),
        ("every = 1", 'every = 1\nmodel = "ising4d"', "model: 'ising4d'"),
        ("sweeps = 1", "sweeps = -1", "sweeps: -1"),
        ("sweeps = 1", "steps = 3", "steps: '3'"),
        ("sweeps = 1", "factor = 4", "factor: 4"),
        ("sweeps = 1", "samples_per_input = 0", "samples_per_input: 0"),
        ("sweeps = 1", 'T = "hot"', "T: 'hot'"),
        ("sweeps = 1", 'device = "tpu"', "device: 'tpu'"),
        ('"exact"\nsweeps = 1', '"skild"\nsampler = "angel2"', "sampler: 'angel2'"),
        ('"exact"\nsweeps = 1', '"skild"\nlambda_start = -1', "lambda_start: -1"),
        ('T = "Tc"', "T = 4.0", "fill"),
        ("[refine]", MEASURED.format('only = "energie"', "") + "[refine]", "only: 'energie'"),
        ("[refine]", MEASURED.format('errors = "none"', "") + "[refine]", "errors: 'none'"),
        ("[refine]", MEASURED.format("bins = 4", "") + "[refine]", "bins: 4"),
        ("[refine]", MEASURED.format('offsets = "0,0 1,1"', "") + "[refine]", "offsets"),
        ("[refine]", MEASURED.format("", "resamples = 9") + "[refine]", "resamples: 9"),
        ("[refine]", 'rule = "spectral"\n[refine]', "rule: 'spectral'"),
        ('[refine]\nmethod = "exact"\nsweeps = 1', SPECTRAL_POLISH, "polish: 2"),
        ('"exact"\nsweeps = 1', '"skild"\n' + TRAINED, "steps: 0"),
        ("[refine]", '[compare]\nnames = "a,b"\n[refine]', "names: 'a, b'"),
        ("[refine]", '[compare]\nnames = "<x>"\n[refine]', "names: '<x>'"),
        ("every = 1", 'every = 1\ndask = "nonsense"', "dask: 'nonsense'"),
        ("every = 1", 'every = 1\ndask = "local:0"', "dask: 'local:0'"),
        ("[simulate]", '[train]\npreset = "ising3d"\n[simulate]', "preset"),
        ("[simulate]", '[train]\npreset = "ising2d"\nsteps = 0\n[simulate]', "steps"),
    ],
)
def test_values_are_refused_before_anything_is_done(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str,
    message: str,
) -> None:  # fmt: skip
    """Planted, seen to fail: `run` that does not rehearse, or not what rule and method go together,
    steps with weights to come, names of a comparison, an address of dask that is none.
    """
    text = SIMPLE.replace(old, new)
    if message == "fill":  # the shipped weights are of Tc
        text, message = text.replace('"exact"\nsweeps = 1', '"skild"'), "the weights are of T"
    campaign.write_text(text)
    assert exit_code("run", campaign, "-o", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sweeps_name_their_folders() -> None:
    tables = [{"L": [8, 16], "T": ["Tc", "1.1Tc"], "seed": 1}, {"L": 4}]
    found = dict(_ways(tables))
    assert list(found) == ["L8-Tc", "L8-1.1Tc", "L16-Tc", "L16-1.1Tc", ""]
    assert found["L16-Tc"] == {"L": 16, "T": "Tc", "seed": 1}


def test_refinements_take_the_trained_weights(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[train]\npreset = "ising2d"\nsteps = 1\n' + TINY)
    steps = plan(read_campaign(path), tmp_path / "out", tmp_path)
    refining = [s for s in steps if s.command == "refine"]
    assert all("checkpoint" not in s.options for s in refining)  # fill and exact take none
    path.write_text(path.read_text().replace('"fill"', '"skild"').replace("sweeps = 1", ""))
    changed = plan(read_campaign(path), tmp_path / "out", tmp_path)
    with_weights = [s for s in changed if "checkpoint" in s.options]
    assert [s.options["method"] for s in with_weights] == ["skild", "skild"]
    relative = plan(read_campaign(path), Path("runs/c"), tmp_path)
    assert relative[3].options["checkpoint"] == "runs/c/weights.safetensors"
    path.write_text(path.read_text().replace("steps = 1", "steps = 2"))
    again = plan(read_campaign(path), tmp_path / "out", tmp_path)
    keys = [[s.key for s in some if "checkpoint" in s.options] for some in (changed, again)]
    assert not set(keys[0]) & set(keys[1])


def test_other_shipped_weights_refine_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(SIMPLE.replace('"exact"', '"skild"').replace("sweeps = 1", ""))
    before = plan(read_campaign(path), tmp_path, tmp_path)
    (tmp_path / "w").write_bytes(b"others")
    monkeypatch.setattr("skild_phys.skild.weights.shipped_weights", lambda: tmp_path / "w")
    after = plan(read_campaign(path), tmp_path, tmp_path)
    same = [one.key == two.key for one, two in zip(before, after)]
    assert same == [True, True, False] * 2


def test_the_campaigns_of_this_project_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(CAMPAIGNS.glob("*.toml"))
    assert len(files) >= 5
    for path in files:
        assert "done" not in states(path, tmp_path / path.stem, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[simulat]\nL = 8\n", r"did you mean \[simulate\]"),
        ("[coarsen]\nfactor = 2\n", r"a table \[simulate\] too"),
        ("simulate = 3\n", "tables"),
        ("[measure]\n", r"\[simulate\] or \[train\]"),
        ("[simulate\n", "a TOML file"),
        ("[simulate]\nL = []\n", "a list of them"),
        ("[simulate]\nT = 1979-05-27\n", "a text, a number"),
        ("simulate = []\n", "a table or more"),
        ("[simulate]\nL = 8\n[measure]\nbins = [2, 3]\n", "no sweep"),
        ("[simulate]\nL = 8\n[[measure]]\n[[measure]]\n", "2 tables"),
    ],
)
def test_faulty_campaigns_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_campaign(path)


def test_unknown_options_and_missing_files_are_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    for text, message in (
        (SIMPLE.replace("samples", "sample"), "did you mean 'samples'?"),
        (SIMPLE + 'checkpoint = "w.safetensors"\n', "w.safetensors"),
        (SIMPLE + 'output = "w"\n', "'output' is not accepted"),
        (SIMPLE.replace("burn_in = 5", "burn_in = 'many'"), "burn_in: 'many' is not accepted"),
        (SIMPLE.replace("burn_in = 5", "burn_in = true"), "burn_in: True"),
        (SIMPLE + "checkpoint = 3\n", "3"),
        (SIMPLE + "append = true\n", "'append' is not accepted"),
    ):
        path.write_text(text)
        assert exit_code("run", path, "-o", tmp_path / "out") == 2
        assert message in capsys.readouterr().err
    assert exit_code("run", tmp_path / "none.toml") == 2
    assert not (tmp_path / "out").exists()
