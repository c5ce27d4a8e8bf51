"""`skild-phys train` as a user meets it: results, resumption, and refusals."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, files_of
from skild_helpers import TC, critical_lattices

from skild_phys.files import Lock
from skild_phys.rules import coarsen
from skild_phys.skild import fit
from skild_phys.skild import train as trainer
from skild_phys.skild.weights import Weights, load_weights, weights_sha256
from skild_phys.store import create_store

RECIPE = (
    "side = 16\nsteps = 6\nbatch = 8\nsave_every = 2\nspectrum_batches = 2\n"
    "[network]\npatch = 2\nchannels = [8]\nblocks = [1]\n"
)


def store(
    path: Path, field: str, values: np.ndarray, scale: float = 1.0, q: int = 0, **attrs: Any
) -> None:
    """Write a store of `values` in chunks of 8."""
    shape = values.shape[2 if field == "state_count" else 1 :]
    with create_store(
        path, field=field, n_samples=len(values), shape=shape, chunk=8, q=q,
        attrs={"model": "ising2d", "temperature": TC} | attrs, variables=(), scale=scale,
    ) as writer:  # fmt: skip
        writer.commit({field: values})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a recipe run.toml and a store own.zarr."""
    (tmp_path / "run.toml").write_text(RECIPE)
    store(tmp_path / "own.zarr", "spins", critical_lattices(20, 16))
    return tmp_path


def same_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, the curve without its last column: how fast a run was."""
    files = files_of(folder)
    for name in [name for name in files if name.endswith(".loss.csv")]:
        files[name] = b"\n".join(row.rpartition(b",")[0] for row in files[name].splitlines())
    return files


def train_words(folder: Path, *more: object) -> list[object]:
    """Return a command line that trains on the simulation to w.safetensors."""
    recipe, output = folder / "run.toml", folder / "w.safetensors"
    return ["train", "--config", recipe, "-o", output, "--threads", 1, *more]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Ctrl-C at `step`."""
    real = trainer.Trainer.train_step

    def pressed(self: trainer.Trainer) -> float:
        loss = real(self)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(trainer.Trainer, "train_step", pressed)


def test_train_on_a_store_and_refine_with_the_result(folder: Path, call: Call) -> None:
    recipe, own = folder / "run.toml", folder / "own.safetensors"
    code, out, err = call("train", folder / "own.zarr", "--config", recipe, "-o", own, "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 6
    assert (folder / "own.loss.csv").read_text().startswith("step,loss,gradient_norm")
    assert not (folder / "own.safetensors.checkpoint").exists()
    assert load_weights(own).system == {"model": "ising2d", "temperature": TC, "side": 16}
    sums = coarsen(critical_lattices(6, 16), "block_mean", 4)
    store(folder / "c.zarr", "block_sum", sums, 1 / 16, rule="block_mean", factor=4)
    words = ["refine", folder / "c.zarr", "-o", folder / "r.zarr", "--steps", 2]
    assert call(*words, "--checkpoint", own)[0] == 0
    code, _, err = call("train", folder / "own.zarr", "--config", recipe, "-o", own)
    assert (code, "own.safetensors" in err) == (2, True)


def test_stopped_begun_with_overwrite_and_taken_up_again(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*train_words(folder, "--seed", 1))[0] == 0
    first = same_files(folder)
    assert call(*train_words(folder, "--overwrite"))[0] == 0
    whole = same_files(folder)
    assert whole["w.safetensors"] != first["w.safetensors"]
    assert call(*train_words(folder, "--seed", 1, "--overwrite"))[0] == 0
    assert same_files(folder) == first
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        code, _, err = call(*train_words(folder, "--overwrite"))
    assert code == 130
    assert "started again, without --overwrite, it resumes there" in err
    code, _, err = call(*train_words(folder))
    assert (code, "resuming at step 3" in err) == (0, True)
    assert same_files(folder) == whole


@pytest.mark.parametrize("before", ["curve", "weights", "unlink"])
def test_killed_after_the_last_step(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    assert call(*train_words(folder))[0] == 0
    whole = same_files(folder)
    for name in ("w.safetensors", "w.loss.csv", "w.quality.csv"):
        (folder / name).unlink()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    name = {
        "curve": "skild_phys.skild.fit.write_text_atomically",
        "weights": "skild_phys.skild.fit.save_weights",
        "unlink": "pathlib.Path.unlink",
    }[before]
    real = fit.save_weights

    def unlink_dies_after(*given: Any) -> str:
        sha = real(*given)
        patched.setattr(name, lambda path, **_: die() if "checkpoint" in path.name[-10:] else 0)
        return sha

    with monkeypatch.context() as patched:
        if before == "unlink":
            patched.setattr(fit, "save_weights", unlink_dies_after)
        else:
            patched.setattr(name, die)
        assert call(*train_words(folder))[0] == 130
    assert (folder / "w.safetensors.checkpoint").exists()
    code, _, err = call(*train_words(folder))
    assert code == 0, err
    assert {k: v for k, v in same_files(folder).items() if ".lock" not in k} == whole


def test_one_run_an_output(folder: Path, call: Call) -> None:
    with Lock(folder / "w.safetensors.checkpoint"):
        code, _, err = call(*train_words(folder, "--overwrite"))
    assert (code, "another process" in err) == (2, True)
    assert not (folder / "w.safetensors").exists()


def test_outputs_that_would_be_lost(folder: Path, call: Call) -> None:
    (folder / "w.loss.csv").write_text("mine\n")
    code, _, err = call(*train_words(folder))
    assert (code, "w.loss.csv" in err, err.count("\n")) == (2, True, 1)
    assert (folder / "w.loss.csv").read_text() == "mine\n"
    for place in (folder, folder / "own.zarr" / "w", folder / "no" / "w"):
        before = same_files(folder)
        words = ["train", folder / "own.zarr", "--config", folder / "run.toml", "-o", place]
        code, _, err = call(*words, "--overwrite")
        assert (code, err.startswith("error: -o"), err.count("\n")) == (2, True, 1)
        assert same_files(folder) == before


def test_another_store_does_not_go_on(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(folder / "other.zarr", "spins", critical_lattices(20, 16, seed=9))
    words = ["--config", folder / "run.toml", "-o", folder / "w.safetensors"]
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        assert call("train", folder / "own.zarr", *words)[0] == 130
    code, _, err = call("train", folder / "other.zarr", *words)
    assert (code, "data = " in err, err.count("\n")) == (2, True, 1)
    assert call("train", folder / "own.zarr", *words)[0] == 0


def test_coarse_stores(folder: Path, call: Call) -> None:
    spins = critical_lattices(10, 32)
    sums = coarsen(spins, "block_mean", 2)
    store(folder / "sums.zarr", "block_sum", sums, 0.25, rule="block_mean", factor=2)
    words = ["--config", folder / "run.toml", "-o", folder / "w.safetensors"]
    code, _, err = call("train", folder / "sums.zarr", *words)
    assert (code, err.startswith("error: STORE"), err.count("\n")) == (2, True, 1)
    signs = coarsen(spins, "decimate", 2)
    store(folder / "signs.zarr", "spins", signs, rule="decimate", factor=2)
    assert call("train", folder / "signs.zarr", *words)[0] == 0
    system = load_weights(folder / "w.safetensors").system
    assert (system["rule"], system["factor"], system["side"]) == ("decimate", 2, 16)


def test_other_models_are_refused(folder: Path, call: Call) -> None:
    """Networks take numbers: no states, no counts of them, whatever the output."""
    states = np.zeros((4, 16, 16), np.int8)
    counts = coarsen(states, "block_mean", 2, q=3)
    store(folder / "states.zarr", "states", states, q=3, model="potts3")
    store(folder / "state_count.zarr", "state_count", counts, 0.25, q=3, model="potts3")
    for output in ("logits", "v"):
        (folder / "run.toml").write_text(f"output = '{output}'\n" + RECIPE)
        for name, said in (("states", "not 'states'"), ("state_count", "not 'state_count'")):
            words = train_words(folder)
            code, _, err = call(words[0], folder / f"{name}.zarr", *words[1:])
            assert (code, err.startswith("error: STORE"), err.count("\n")) == (2, True, 1)
            assert said in err
    (folder / "run.toml").write_text("model = 'potts3'\n" + RECIPE)
    code, _, err = call(*train_words(folder))
    assert (code, "model: 'potts3' is not accepted" in err, err.count("\n")) == (2, True, 1)


def test_own_arrays(folder: Path, call: Call) -> None:
    spins = critical_lattices(10, 16)
    np.save(folder / "s.npy", spins)
    words = ["--config", folder / "run.toml", "-o", folder / "w.safetensors"]
    code, _, err = call("train", folder / "s.npy", *words)
    assert code == 0, err
    system = {"model": None, "temperature": None, "side": 16}
    assert load_weights(folder / "w.safetensors").system == system
    np.save(folder / "bits.npy", spins > 0)
    np.save(folder / "ints.npy", (spins > 0).astype(np.int8))
    for name, said in (("bits", "bool"), ("ints", "2*s.astype"), ("none", "none.npy")):
        code, _, err = call("train", folder / f"{name}.npy", *words, "--overwrite")
        assert (code, said in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--preset"),
        (["--preset", "ising2d", "--config", "x.toml"], "--preset"),
        (["--preset", "potts"], "--preset"),
        (["--config", "none.toml"], "--config"),
        (["--preset", "ising2d", "--steps", "0"], "steps"),
        (["--preset", "ising2d", "--side", "0"], "side"),
        (["--preset", "ising2d", "--side", "1"], "side"),
        (["--preset", "ising2d", "--seed", "-1"], "seed"),
        (["--preset", "ising2d", "--threads", "-2"], "--threads"),
        (["--preset", "ising2d", "--device", "cuda"], "--device"),
        (["--preset", "ising2d", "--device", "toaster"], "--device"),
    ],
)
def test_bad_training_options(folder: Path, call: Call, words: list[str], named: str) -> None:
    before = same_files(folder)
    code, out, err = call("train", "-o", folder / "x.safetensors", *words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert out == ""
    assert same_files(folder) == before


def test_from_other_weights(folder: Path, call: Call) -> None:
    """One step at a rate of 1e-9 leaves the weights it starts from, at no matter which seed."""
    words = ["train", folder / "own.zarr", "--config", folder / "run.toml"]
    assert call(*words, "-o", folder / "a.safetensors", "--seed", 3)[0] == 0
    (folder / "slow.toml").write_text("learning_rate = 1e-9\n" + RECIPE)
    words[3] = folder / "slow.toml"
    more = ["--seed", 4, "--steps", 1, "--from", folder / "a.safetensors"]
    assert call(*words, *more, "-o", folder / "b.safetensors")[0] == 0
    first, second = (load_weights(folder / f"{name}.safetensors") for name in "ab")

    def farthest(other: Weights) -> float:
        return max(
            float((t.float() - other.tensors[k].float()).abs().max())
            for k, t in first.tensors.items()
        )

    assert farthest(second) < 1e-6
    assert second.training["config"]["initial"] == weights_sha256(first)
    assert call(*words, *more[:4], "-o", folder / "c.safetensors")[0] == 0
    assert farthest(load_weights(folder / "c.safetensors")) > 0.01


def test_from_weights_that_do_not_fit(folder: Path, call: Call) -> None:
    words = ["train", folder / "own.zarr", "--config", folder / "run.toml", "-o", folder / "a"]
    code, _, err = call(*words, "--from", "shipped")
    assert code == 2
    assert err.startswith("error: --from: 'weights with network")
    code, _, err = call(*words, "--from", folder / "no.safetensors")
    assert code == 2
    assert "no.safetensors" in err
    (folder / "run.toml").write_text('initial = "abc"\n' + RECIPE)
    code, _, err = call(*words)
    assert code == 2
    assert err.startswith("error: --from: 'abc'")
    assert not (folder / "a").exists()
