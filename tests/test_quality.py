"""Quality while training: beside held-out samples, which training never sees; it ends a run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Call, files_of
from skild_helpers import TC, critical_lattices

from skild_phys.errors import BadInput, Interrupted
from skild_phys.measurement.measure import measure
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.data import SimulationSource, training_source
from skild_phys.skild.fit import _scalars, _tensorboard
from skild_phys.skild.quality import Quality
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.train import Ranks, Row, Trainer, train
from skild_phys.skild.weights import load_weights
from skild_phys.store import create_store, open_lattices

SYSTEM = {"model": "ising2d", "temperature": TC, "side": 16}
TEXT = """
spectrum = "torus"
side = 16
steps = 12
batch = 8
warmup = 2
ema = 0.5
save_every = 5
spectrum_batches = 4
lambda_min = 0.5
network_from = 0.5
quality_every = 4
schedule = "constant"
[network]
patch = 2
channels = [8]
blocks = [1]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    (tmp_path / "run.toml").write_text(TEXT)
    return tmp_path


def recipe(folder: Path, **changes: Any) -> Recipe:
    return read_recipe(folder / "run.toml", **changes)


def trainer_of(config: Recipe, checkpoint: Path | None = None) -> Trainer:
    """Return a run on the simulation with its quality, from the start or from a checkpoint."""
    source, system = training_source(None, config)
    found = Trainer.resume(checkpoint, config, source) if checkpoint else Trainer(config, source)
    found.quality = Quality.of(config, source, system)
    return found


def words_of(folder: Path, *more: object) -> list[object]:
    config, output = folder / "run.toml", folder / "w.safetensors"
    return ["train", "--config", config, "-o", output, "--threads", 1, *more]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def same_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, the curve without its last column: how fast a run was."""
    files = {name: data for name, data in files_of(folder).items() if "tensorboard" not in name}
    for name in [name for name in files if name.endswith(".loss.csv")]:
        files[name] = b"\n".join(row.rpartition(b",")[0] for row in files[name].splitlines())
    return files


# -- what is measured --------------------------------------------------------------------------


def figures(held: Any, made: np.ndarray, kind: str) -> Row:
    """Return the figures of made samples beside all that are held out."""
    config = Recipe(side=16, batch=8, quality_samples=len(made))
    quality = Quality(config, SYSTEM, held, (16, 16))
    lattices = open_lattices(made, model="ising2d", temperature=TC)
    from skild_phys.measurement.rows import collect

    found = collect(lattices, quality.system, quality._needed)
    return quality._deviations(kind, quality.figures[kind], found, quality.truth)


def test_of_the_truth_itself_every_figure_is_0() -> None:
    held = SimulationSource(16, TC, 8, 6, 0, burn_in=50).held_out(40)
    for kind in ("refined", "generated"):
        found = figures(held, held.samples, kind)
        assert not any(value for name, value in found.items() if name.endswith(("_1", "energy")))
        assert all(abs(v) < 1e-12 for k, v in found.items() if not k.endswith(("err", "noise")))
    # Pairs that are equal have no error; two ensembles have theirs.
    assert found["generated_energy_err"] > 0.01


def test_figures_are_what_measure_says() -> None:
    """Differences and ratios of its estimates; S(k) over octaves, weighted by their modes.

    Planted, seen to fail: octaves of shells each of which counts alike.
    """
    held = SimulationSource(16, TC, 8, 6, 0, burn_in=50).held_out(40)
    made = SimulationSource(16, 1.1 * TC, 24, 6, 1, burn_in=50).next(24)
    found = figures(held, made, "generated")
    one, other = (
        measure(lattices, model="ising2d", temperature=TC) for lattices in (made, held.samples)
    )
    for name, of in (("energy", "energy"), ("U4", "binder_cumulant")):
        assert found[f"generated_{name}"] == pytest.approx(float(one[of] - other[of]), abs=1e-12)
        error = np.hypot(*(float(each[f"{of}_err"]) for each in (one, other)))
        assert found[f"generated_{name}_err"] == pytest.approx(error, rel=1e-6)
    ratio = float(one["susceptibility"] / other["susceptibility"])
    assert found["generated_chi"] == pytest.approx(ratio - 1.0)
    residual = [float(value) for value in one.connected_four_point - other.connected_four_point]
    assert [found[f"generated_G4c_{r}"] for r in (1, 2, 4)] == pytest.approx(residual[:3])
    modes, shells = one["modes"].values, np.arange(len(one["modes"]))
    for j in (1, 2, 4, 8):
        inside = (shells >= j) & (shells < 2 * j)
        power = [(each["structure_factor"].values * modes)[inside].sum() for each in (one, other)]
        assert found[f"generated_S_{j}"] == pytest.approx(power[0] / power[1] - 1.0)
    assert found["generated_patterns"] > 1.5 * found["generated_patterns_noise"] > 0


def test_a_row_has_its_columns_and_is_the_same_again(folder: Path) -> None:
    """Planted, seen to fail: noise that is seeded by the step."""
    run = trainer_of(recipe(folder))
    quality: Any = run.quality
    run.train_step()
    row = quality(run, lambda: False)
    assert sorted(row) == sorted(["step", *quality.columns])
    assert all(type(value) is float for name, value in row.items() if name != "step")
    run.step = 7  # the same network at another step
    assert list(quality(run, lambda: False).items()) == [("step", 7), *list(row.items())[1:]]
    run.step = 1
    # Made anew, as where a run resumes, on another number of threads.
    again: Any = trainer_of(run.recipe).quality
    torch.set_num_threads(2)
    other = again(run, lambda: False)
    torch.set_num_threads(1)
    assert other == pytest.approx(row, rel=1e-4, abs=1e-4)
    run.train_step()
    assert quality(run, lambda: False)["loss"] != row["loss"]


def test_fields_and_images_have_their_own(folder: Path) -> None:
    """Fields: phi^2 and phi^4; their generation too. One grid for all: the loss alone."""
    rng = np.random.default_rng(1)
    np.save(folder / "f.npy", rng.normal(size=(80, 16, 16)).astype(np.float32))
    config = recipe(folder, output="v")
    source, system = training_source(folder / "f.npy", config)
    run = Trainer(config, source)
    quality = run.quality = Quality.of(config, source, system)
    assert quality is not None
    run.train_step()
    row = quality(run, lambda: False)
    assert sorted(row) == sorted(["step", *quality.columns])
    assert {"refined_phi4", "generated_phi2", "generated_S_8", "generated_U4"} < row.keys()
    assert not any("energy" in name or "patterns" in name for name in row)
    plain = replace(config, lambdas=SCHEDULES["geometric"](0.06, 100.0))
    source, system = training_source(folder / "f.npy", plain)
    quality = Quality.of(plain, source, system)
    assert quality is not None
    assert list(quality(Trainer(plain, source), lambda: False)) == ["step", "loss"]


# -- what is held out --------------------------------------------------------------------------


def test_chains_that_are_held_out_are_nobody_elses(folder: Path) -> None:
    """And the run is the same with them and without. Planted, seen to fail: training's streams."""
    source = SimulationSource(16, TC, 8, 6, 3, burn_in=50)
    held = source.held_out(8).samples
    given = [source.next(8) for _ in range(3)]
    assert not any(np.array_equal(a, b) for a in held for batch in given for b in batch)
    assert np.array_equal(source.held_out(8).samples, held)
    assert not np.array_equal(
        SimulationSource(16, TC, 8, 6, 4, burn_in=50).held_out(8).samples, held
    )
    runs = [trainer_of(recipe(folder, quality_every=every)) for every in (4, 0)]
    for number, run in enumerate(runs):
        train(run, folder / f"{number}", log_every=2)
    assert [row[:4] for row in runs[0].log] == [row[:4] for row in runs[1].log]
    assert ([row["step"] for row in runs[0].rows], runs[1].rows) == ([4, 8, 12], [])


def numbered(n: int, path: Path) -> None:
    """Write `n` configurations of which number i, and no other, begins with i in binary digits."""
    spins = critical_lattices(n, 16)
    digits = np.arange(n)[:, None] >> np.arange(16) & 1
    spins[:, 0] = 2 * digits - 1
    with create_store(
        path, field="spins", n_samples=n, shape=(16, 16), chunk=16,
        attrs={"model": "ising2d", "temperature": TC}, variables=("chain", "draw"),
    ) as writer:  # fmt: skip
        chain, draw = np.arange(n) % 4, np.arange(n) // 4
        writer.commit({"spins": spins, "chain": chain, "draw": draw})


def numbers(samples: np.ndarray) -> list[int]:
    return ((samples[:, 0] > 0) @ (1 << np.arange(16))).tolist()


@pytest.mark.parametrize(("n", "held"), [(400, 20), (100, 8), (63, 0)])
def test_the_last_samples_of_a_store_are_never_trained_on(
    folder: Path, n: int, held: int, recwarn: pytest.WarningsRecorder
) -> None:
    """Whatever the chunks, in any epoch, a resumed one too.

    Planted, seen to fail: spans of chunks that are not cut.
    """
    numbered(n, folder / "s.zarr")
    source, _ = training_source(folder / "s.zarr", recipe(folder))
    seen = [numbers(np.asarray(source.next(n - held))) for _ in range(3)]
    assert all(sorted(epoch) == list(range(n - held)) for epoch in seen)
    other, _ = training_source(folder / "s.zarr", recipe(folder))
    other.restore(source.state())
    assert set(numbers(np.asarray(other.next(n)))) <= set(range(n - held))
    kept = source.held_out(256)
    assert (kept is None) == (held == 0)
    if kept is not None:
        assert numbers(kept.samples) == list(range(n - held, n))
        assert kept.series["draw"].tolist() == [i // 4 for i in range(n - held, n)]
    whole, _ = training_source(folder / "s.zarr", recipe(folder, quality_every=0))
    assert sorted(numbers(np.asarray(whole.next(n)))) == list(range(n))
    assert whole.held_out(256) is None


def test_a_store_of_few_samples(folder: Path, call: Call) -> None:
    """It trains on all, and says that it measures nothing; what depends on it is refused."""
    numbered(63, folder / "s.zarr")
    words = words_of(folder)
    code, out, err = call(words[0], folder / "s.zarr", *words[1:], "--json")
    assert code == 0
    assert "fewer than 64 samples: none are held out, and no quality is measured" in err
    assert json.loads(out)["quality"] == {}
    assert not (folder / "w.quality.csv").exists()
    assert "quality" not in load_weights(folder / "w.safetensors").training
    for more in (["--until", "loss=0.1"], ["--plateau", 3]):
        code, _, err = call(words[0], folder / "s.zarr", *words[1:], *more, "--overwrite")
        assert (code, err.startswith(f"error: {more[0]}"), err.count("\n")) == (2, True, 1)


# -- what becomes of it ------------------------------------------------------------------------


def scripted(losses: list[float], every: int = 1) -> Any:
    """Return a `Trainer.quality` of known losses, with the averaged weights of each step."""
    seen: list[dict[str, torch.Tensor]] = []

    def quality(run: Trainer, stop: object) -> Row:
        seen.append({k: v.clone() for k, v in run.ema.module.state_dict().items()})
        return {"step": run.step, "loss": losses[run.step // every - 1]}

    return quality, seen


def test_the_best_weights_are_those_that_are_kept(folder: Path) -> None:
    """Planted, seen to fail: the last."""
    config = recipe(folder, steps=5, quality_every=1)
    run = trainer_of(config)
    run.quality, seen = scripted([0.5, 0.3, 0.4, 0.3, 0.6])
    train(run, folder / "c")
    weights = run.weights({}, last=True)
    assert weights.training["quality"] == {"step": 2, "loss": 0.3}
    assert weights.training["steps"] == 5
    for name, tensor in weights.tensors.items():
        assert torch.equal(tensor, seen[1][name].to(torch.bfloat16))
    assert any(not torch.equal(t, seen[4][k].to(t.dtype)) for k, t in weights.tensors.items())


@pytest.mark.parametrize(
    ("losses", "last"), [([5, 4, 3, 3, 3, 9], 6), ([5, 4, 3, 4, 2, 2], 7), ([1, 2, 2, 2], 4)]
)
def test_a_plateau_ends_a_run(folder: Path, losses: list[float], last: int) -> None:
    """No smaller loss in three measurements; an equal one is no smaller."""
    run = trainer_of(recipe(folder, quality_every=1, plateau=3, steps=8))
    run.quality, _ = scripted([*map(float, losses), 2.0, 2.0, 2.0])
    train(run, folder / "c")
    assert run.step == (last if last < 7 else 8)
    why = run.weights({}, last=True).training["ended"]
    assert why == "no smaller held-out loss in 3 measurements"


def test_figures_end_a_run_with_their_errors(folder: Path) -> None:
    """Planted, seen to fail: any one of them; values without their standard errors."""
    run = trainer_of(recipe(folder, quality_every=1, until="loss=0.4, refined_energy=0.02"))
    table = [(0.3, 0.03, 0.0), (0.5, 0.0, 0.0), (0.3, -0.01, 0.02), (0.3, -0.01, 0.005), (0, 0, 0)]

    def quality(run: Trainer, stop: object) -> Row:
        names = ("loss", "refined_energy", "refined_energy_err")
        return {"step": run.step} | dict(zip(names, table[run.step - 1]))

    run.quality = quality
    train(run, folder / "c")
    assert run.step == 4
    assert run.ended == "until loss=0.4, refined_energy=0.02"


def test_a_run_that_has_ended_is_finished(folder: Path, call: Call) -> None:
    """Its weights are written, also where it is killed just before; the record says why."""
    words = words_of(folder, "--until", "loss=9", "--until", "generated_U4=9")
    code, out, err = call(*words)
    assert code == 0, err
    assert "ended at step 4: until loss=9, generated_U4=9" in out
    assert not (folder / "w.safetensors.checkpoint").exists()
    training = load_weights(folder / "w.safetensors").training
    assert (training["steps"], training["quality"]["step"]) == (4, 4)
    assert training["ended"] == "until loss=9, generated_U4=9"
    config = recipe(folder, until="loss=9")
    run = trainer_of(config)
    train(run, folder / "c")
    again = trainer_of(config, folder / "c")
    train(again, folder / "c")
    assert (run.step, again.step, again.ended) == (4, 4, "until loss=9")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--until", "enery=0.1"],
            "--until: 'enery' is not accepted; expected one of loss, loss_0",
        ),
        (["--until", "refined_energy"], "--until: 'refined_energy'"),
        (["--until", "refined_energy=low"], "--until: 'refined_energy=low'"),
        (["--until", "refined_energy=-0.1"], "--until: 'refined_energy=-0.1'"),
        (["--until", "loss=0.1", "--until", "step=2"], "--until: 'step'"),
        (["--plateau", "-1"], "--plateau: -1"),
    ],
)
def test_ends_that_there_are_not(folder: Path, call: Call, more: list[object], said: str) -> None:
    before = files_of(folder)
    code, out, err = call(*words_of(folder, *more))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {said}")
    assert {k: v for k, v in files_of(folder).items() if "lock" not in k} == before
    for name, value in (("until", "loss=1"), ("plateau", 2)):
        with pytest.raises(BadInput, match=name):
            recipe(folder, quality_every=0, **{name: value})


def test_how_often() -> None:
    assert Recipe(steps=500).measured_every == 250
    assert Recipe(steps=100_000).measured_every == 2000
    assert Recipe(steps=500, quality_every=7).measured_every == 7


# -- stopped and resumed -----------------------------------------------------------------------


def test_ctrl_c_while_quality_is_measured(folder: Path) -> None:
    """The step is kept, and measured when the run resumes; all is as in a run never stopped."""
    config = recipe(folder)
    whole = trainer_of(config)
    train(whole, folder / "whole", log_every=4)
    part = trainer_of(config)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += part.step == 8 and part.due
        return asked > 3

    with pytest.raises(Interrupted, match="step 8"):
        train(part, folder / "part", stop, log_every=4)
    assert [row["step"] for row in part.rows] == [4]
    again = trainer_of(config, folder / "part")
    assert again.due
    train(again, folder / "part", log_every=4)
    assert [list(row.items()) for row in again.rows] == [list(row.items()) for row in whole.rows]
    assert [row[:4] for row in again.log] == [row[:4] for row in whole.log]
    one, other = (run.weights({}, last=True) for run in (whole, again))
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


KILLED = """
import os, signal, sys
from skild_phys.cli import run
from skild_phys.skild import train
step, after = int(sys.argv[1]), sys.argv[2]
real = getattr(train.Trainer, after)
def dies(self, *given):
    found = real(self, *given)
    if self.step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(train.Trainer, after, dies)
run(sys.argv[3:])
"""


def test_killed_and_resumed_writes_the_same_rows_and_weights(folder: Path, call: Call) -> None:
    """kill -9 right after a step, after a measurement, and after a checkpoint was written.

    The best weights are not the last: at this rate the loss is 29, then 128 (a change of what is
    drawn may ask for another). Planted, seen to fail: rows
    that a checkpoint sorts by name; best weights that it does not hold.
    """
    text = TEXT.replace("warmup = 2", "learning_rate = 0.1\nwarmup = 1")
    text = text.replace("steps = 12", "steps = 8")
    (folder / "run.toml").write_text(text)
    assert call(*words_of(folder))[0] == 0
    whole = same_files(folder)
    steps = [row["step"] for row in rows_of(folder / "w.quality.csv")]
    best = load_weights(folder / "w.safetensors").training["quality"]["step"]
    assert (steps, best) == (["4", "8"], 4)
    for name in ("w.safetensors", "w.loss.csv", "w.quality.csv"):
        (folder / name).unlink()
    for step, after in ((3, "train_step"), (4, "measure"), (5, "save"), (8, "measure")):
        child = subprocess.run(
            [sys.executable, "-c", KILLED, str(step), after, *map(str, words_of(folder))],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert (folder / "w.safetensors.checkpoint").exists()
    code, _, err = call(*words_of(folder))
    assert (code, "resuming at step 5" in err) == (0, True)
    assert {k: v for k, v in same_files(folder).items() if "lock" not in k} == whole


# -- where it is seen --------------------------------------------------------------------------


def test_rows_on_the_terminal_in_the_table_and_for_tensorboard(folder: Path, call: Call) -> None:
    code, out, err = call(*words_of(folder))
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 4", "step 8", "step 12"]
    assert all("refined_energy" in line and "generated_U4" in line for line in lines)
    rows = rows_of(folder / "w.quality.csv")
    best = min(rows, key=lambda row: float(row["loss"]))
    assert f"step {best['step']}: held-out loss {float(best['loss']):.4f}" in out
    table = out[out.index("generated\n") :].splitlines()[1:-1]
    assert [line.split()[0] for line in table][:4] == ["energy", "G4c_1", "G4c_2", "G4c_4"]
    assert [line.split()[0] for line in table if len(line.split()) == 2] == ["U4", "chi"]
    code, out, _ = call(*words_of(folder, "--overwrite", "--json"))
    found = json.loads(out)["quality"]
    assert {k: float(v) for k, v in best.items()} == found
    run = trainer_of(recipe(folder))
    train(run, folder / "c")
    told = [(name, step) for name, _, step in _scalars(run, 0) if name == "quality/refined_S_1"]
    assert told == [("quality/refined_S_1", step) for step in (4, 8, 12)]
    assert {step for name, _, step in _scalars(run, 8) if name.startswith("quality")} == {12}
    assert "quality/step" not in {name for name, *_ in _scalars(run, 0)}


def test_tensorboard_has_them(folder: Path, call: Call) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call(*words_of(folder))[0] == 0
    events = EventAccumulator(str(folder / "w.tensorboard"))
    events.Reload()
    rows = rows_of(folder / "w.quality.csv")
    for name in ("loss", "generated_chi"):
        kept = [(one.step, one.value) for one in events.Scalars(f"quality/{name}")]
        assert kept == [
            (int(row["step"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows
        ]
    run = trainer_of(recipe(folder))
    run.rows = [{"step": step, "loss": 0.1} for step in (4, 8, 12)]
    with _tensorboard(folder / "again.safetensors", Ranks(), 4) as write:  # a run that goes on
        write(run)
    events = EventAccumulator(str(folder / "again.tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("quality/loss")] == [8, 12]


def test_help_names_them(call: Call) -> None:
    code, out, _ = call("train", "--help")
    assert code == 0
    for text in ("--until FIGURE=LIMIT", "--plateau N", "'constant'"):
        assert text in out
