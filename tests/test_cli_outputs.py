"""Commands typed with nothing but their inputs: how they name outputs, and what they spare."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, files_of
from store_helpers import simulate

from skild_phys.errors import Interrupted
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.skild.data import training_source
from skild_phys.skild.recipe import read_recipe
from skild_phys.skild.train import Trainer
from skild_phys.store import open_store

README = Path(__file__).parent.parent / "README.md"
SMALL = "--every 2 --burn-in 10 --threads 1"

Typed = Callable[[str], tuple[int, list[str], str]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Typed:
    """Return a function that runs a line in an empty folder: (exit code, lines, stderr)."""
    monkeypatch.chdir(tmp_path)

    def answer(line: str) -> tuple[int, list[str], str]:
        code, out, err = call(*shlex.split(line))
        return code, out.splitlines(), err

    return answer


def test_the_first_example_of_readme_runs_as_it_is_typed(typed: Typed, tmp_path: Path) -> None:
    """Only the side and the number of samples are smaller here.

    Planted, seen to fail: -n, -o or --factor required; the path in the first line, not the last.
    """
    block = re.search(r"```\n(skild-phys simulate .*?)```", README.read_text(), re.S)
    assert block is not None
    lines = [line.split("#")[0] for line in block[1].replace("256", "16").splitlines()]
    assert [line.split()[1] for line in lines] == [
        "simulate", "coarsen", "refine", "measure", "compare",
    ]  # fmt: skip
    for line in lines:
        assert not re.search(r" (-o|-n|--output|--samples|--factor) ", line)
        few = " -n 8" if "simulate" in line else ""
        code, out, err = typed(line.removeprefix("skild-phys") + few)
        assert code == 0, err
        if "measure" not in line:
            assert (tmp_path / out[-1]).exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "ising2d-L16-Tc-coarse-x4.zarr", "ising2d-L16-Tc-refined-x4.zarr", "ising2d-L16-Tc.zarr",
        "report",
    ]  # fmt: skip


def test_a_simulation_has_100_samples(typed: Typed, tmp_path: Path) -> None:
    assert typed(f"simulate --L 4 --T Tc {SMALL}")[1][-1] == "ising2d-L4-Tc.zarr"
    assert open_store(tmp_path / "ising2d-L4-Tc.zarr").n_samples == 100


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("simulate --L 8x16 --T 1.05Tc", "ising2d-L8x16-1.05Tc.zarr"),
        ("simulate --L 4 --T 2.5 --seed 7 --model potts3", "potts3-L4-T2.5-seed7.zarr"),
    ],
)
def test_simulations_are_named_after_their_parameters(typed: Typed, line: str, name: str) -> None:
    assert typed(f"{line} -n 4 {SMALL}")[1][-1] == name


def test_another_run_gets_another_name(typed: Typed, tmp_path: Path) -> None:
    """Planted, seen to fail: the second run overwrites or is refused; the third makes a copy."""
    first = f"simulate --L 4 --T Tc -n 8 {SMALL}"
    assert typed(first)[1][-1] == "ising2d-L4-Tc.zarr"
    before = files_of(tmp_path / "ising2d-L4-Tc.zarr")
    assert typed(first.replace("--every 2", "--every 3"))[1][-1] == "ising2d-L4-Tc-2.zarr"
    assert typed(first)[1][-1] == "ising2d-L4-Tc.zarr"  # it is there already
    assert typed(first.replace("--every 2", ""))[1][-1] == "ising2d-L4-Tc-3.zarr"
    assert files_of(tmp_path / "ising2d-L4-Tc.zarr") == before


def test_what_else_lies_there_is_left_alone(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "ising2d-L4-Tc.zarr").write_text("notes")
    (tmp_path / "ising2d-L4-Tc-2.zarr").mkdir()
    (tmp_path / "ising2d-L4-Tc-2.zarr" / "thesis.tex").write_text("chapter 1")
    assert typed(f"simulate --L 4 --T Tc -n 4 {SMALL}")[1][-1] == "ising2d-L4-Tc-3.zarr"
    assert (tmp_path / "ising2d-L4-Tc.zarr").read_text() == "notes"
    assert [p.name for p in (tmp_path / "ising2d-L4-Tc-2.zarr").iterdir()] == ["thesis.tex"]


def test_the_same_run_resumes(typed: Typed, tmp_path: Path) -> None:
    """Planted, seen to fail: a default name is free only where nothing lies."""
    spec = SimulationSpec(L=4, temperature=2.5, n_samples=40, every=2, burn_in=10, chains=1)
    simulate(spec, "ising2d-L4-T2.5.zarr", threads=1)
    with pytest.raises(Interrupted):
        simulate(replace(spec, n_samples=400), "ising2d-L4-T2.5.zarr", stop=lambda: True)
    begun = open_store(tmp_path / "ising2d-L4-T2.5.zarr")
    assert 0 < begun.n_samples < 400
    unfinished = f"warning: {begun.path.name}: is unfinished: {begun.n_samples} of 400 samples"
    for line in ("measure {} --only U4 --threads 1", "coarsen {} --factor 2"):
        assert unfinished in typed(line.format(begun.path))[2]
    line = f"simulate --L 4 --T 2.5 -n 400 --chains 1 {SMALL}"
    assert typed(line)[1][-1] == "ising2d-L4-T2.5.zarr"
    assert open_store(tmp_path / "ising2d-L4-T2.5.zarr").complete
    assert not (tmp_path / "ising2d-L4-T2.5-2.zarr").exists()


def test_outputs_lie_beside_their_inputs(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    typed(f"simulate --L 8 --T Tc -n 4 -o data/a.zarr {SMALL}")
    assert typed("coarsen data/a.zarr --factor 2 --rule majority")[1][-1] == (
        "data/a-majority-x2.zarr"
    )
    assert typed("coarsen data/a.zarr --factor 2")[1][-1] == "data/a-coarse-x2.zarr"
    for method, name in (("fill", "fill"), ("exact", "exact"), ("skild --steps 2", "refined")):
        line = f"refine data/a-coarse-x2.zarr --method {method} --threads 1"
        assert typed(line)[1][-1] == f"data/a-{name}-x2.zarr"
    np.save(tmp_path / "means.npy", np.zeros((2, 4, 4), dtype=np.float32))
    line = "refine means.npy --rule block_mean --factor 2 --method fill --threads 1"
    assert typed(line)[1][-1] == "means-fill-x2.zarr"
    reports = [typed("compare data/a.zarr data/a-fill-x2.zarr --no-figures") for _ in range(2)]
    assert [out[-1] for _, out, _ in reports] == ["report/report.html", "report-2/report.html"]
    assert typed("measure data/a.zarr --only U4 --threads 1 -o m.nc")[1][-1] == "m.nc"
    line = "generate --L 8 -n 2 --steps 2 --threads 1"
    assert typed(line)[1][-1] == "ising2d-L8-generated.zarr"


def test_trainings_resume_and_are_not_replaced(typed: Typed, tmp_path: Path) -> None:
    """Planted, seen to fail: a checkpoint of another run ends in an error."""
    line = "train --preset ising2d --side 8 --batch 2 --threads 1 --steps 1"
    (tmp_path / "ising2d-weights.safetensors").write_text("weights of last week")
    for seed, number in ((7, "-3"), (0, "-2")):  # 7: of another run, which lies at -2
        config = read_recipe("ising2d", steps=1, batch=2, side=8, seed=seed)
        chains = training_source(None, config)[0]
        checkpoint = tmp_path / "ising2d-weights-2.safetensors.checkpoint"
        Trainer(config, chains).save(checkpoint)
        assert typed(line)[1][-1] == f"ising2d-weights{number}.safetensors"
        assert checkpoint.exists() == (seed == 7)


def test_append_needs_an_output(typed: Typed) -> None:
    code, _, err = typed("simulate --append -n 4")
    assert code == 2
    assert "missing option -o" in err


def test_more_samples_of_the_same_run_are_added_to_it(typed: Typed, tmp_path: Path) -> None:
    """No second store begins with the samples of the first."""
    typed(f"simulate --L 4 --T Tc -n 8 {SMALL}")
    first = open_store(tmp_path / "ising2d-L4-Tc.zarr").read(0, 8)
    assert typed(f"simulate --L 4 --T Tc -n 16 {SMALL}")[1][-1] == "ising2d-L4-Tc.zarr"
    both = open_store(tmp_path / "ising2d-L4-Tc.zarr")
    assert both.n_samples == 16
    assert (both.read(0, 8) == first).all()
    before = files_of(both.path)
    code, out, err = typed(f"simulate --L 4 --T Tc -n 8 {SMALL}")
    assert (code, out[-1]) == (0, "ising2d-L4-Tc.zarr")
    assert "it holds 16 samples of this run, more than the 8 asked for" in err
    assert files_of(both.path) == before


def test_a_large_misfit_gets_a_warning(typed: Typed, tmp_path: Path) -> None:
    """Planted, seen to fail: the misfit of any size in a line like that of a good one."""
    noise = 0.1 * np.random.default_rng(1).normal(size=(2, 4, 4))
    np.save(tmp_path / "noise.npy", noise.astype(np.float32))
    line = "refine noise.npy --rule spectral --factor 2 --steps 4 --threads 1"
    assert "warning: the misfit is large" in typed(line)[2]
