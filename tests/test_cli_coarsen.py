"""`skild-phys coarsen`: stores in, stores out, and its errors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import exit_code, files_of
from numpy.typing import NDArray
from sampler_helpers import EXACT, conditional
from store_helpers import coarsen_store

from skild_phys import rules
from skild_phys.cli import run
from skild_phys.errors import Interrupted
from skild_phys.models import MODELS
from skild_phys.rules import RULES, TieBreak
from skild_phys.simulation.conditional import sample
from skild_phys.store import LatticeStore, create_store, open_store

N, SHAPE = 11, (8, 12)


def write_fine(
    path: Path, spins: NDArray[np.int8], parent: NDArray[Any] | None = None, **attrs: Any
) -> LatticeStore:
    extra = {} if parent is None else {"parent": parent}
    extra |= {"chain": np.arange(len(spins)) % 2, "draw": np.arange(len(spins)) // 2}
    with create_store(
        path,
        field="spins",
        n_samples=len(spins),
        shape=spins.shape[1:],
        chunk=2,
        attrs={"model": "ising2d", "temperature": 2.5, "L": 12, "seed": 1, **attrs},
        variables=tuple(extra),
    ) as writer:
        writer.commit({"spins": spins, **extra})
    return open_store(path)


@pytest.fixture
def spins() -> NDArray[np.int8]:
    bits = np.random.default_rng(3).integers(0, 2, (N, *SHAPE))
    return (2 * bits - 1).astype(np.int8)


@pytest.fixture
def fine(tmp_path: Path, spins: NDArray[np.int8]) -> LatticeStore:
    return write_fine(tmp_path / "fine.zarr", spins)


coarsen = partial(exit_code, "coarsen")


@pytest.mark.parametrize("rule", RULES)
def test_a_coarse_store(
    fine: LatticeStore,
    spins: NDArray[np.int8],
    tmp_path: Path,
    rule: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "coarse.zarr"
    argv = (fine.path, "--factor", 2, "-o", out, "--rule", rule, "--tie-seed", 6, "--json")
    assert coarsen(*argv) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [4, 6]
    store = open_store(out)
    want = rules.coarsen(spins, rule, 2, tie_seed=6)
    assert store.field == RULES[rule].stores["spins"]
    assert np.array_equal(store.read(0, N), want)
    assert store.scale == (0.25 if rule == "block_mean" else 1.0)
    assert np.array_equal(store.variable("parent"), np.arange(N))
    assert np.array_equal(store.variable("draw"), np.arange(N) // 2)
    kept = {k: store.attrs[k] for k in ("model", "temperature", "L", "rule", "factor")}
    assert kept == {
        "model": "ising2d",
        "temperature": 2.5,
        "L": [4, 6],
        "rule": rule,
        "factor": 2,
    }
    assert store.attrs["parent_sha256"] == fine.digest()
    assert store.attrs["parent_store"] == "fine.zarr"
    assert store.attrs.get("tie_seed") == (6 if rule == "majority" else None)


@pytest.mark.parametrize("rule", RULES)
def test_interrupted_and_resumed_gives_the_same_bytes(
    fine: LatticeStore, tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skild_phys.simulation.coarsening._CHUNKS_A_COMMIT", 2)
    whole = tmp_path / "a" / "coarse.zarr"
    broken = tmp_path / "b" / "coarse.zarr"
    whole.parent.mkdir()
    broken.parent.mkdir()
    coarsen_store(fine, whole, rule, 2)
    made: list[int] = []
    options = {"threads": 1, "progress": made.append, "stop": lambda: sum(made) > 3}
    with pytest.raises(Interrupted, match=r"\d of 11"):
        coarsen_store(fine, broken, rule, 2, **options)
    assert 0 < open_store(broken).n_samples < N
    done: list[int] = []
    coarsen_store(fine, broken, rule, 2, progress=done.append)
    assert sum(done) == N
    assert files_of(broken) == files_of(whole)


@pytest.mark.parametrize("rule", EXACT)
def test_a_refined_store_gives_its_coarse_store_back(
    fine: LatticeStore, tmp_path: Path, rule: str
) -> None:
    """Ties too, though the samples have moved: the tie-breaks follow `parent`."""
    assert coarsen(fine.path, "--factor", 4, "-o", tmp_path / "c.zarr", "--rule", rule) == 0
    coarse = open_store(tmp_path / "c.zarr")
    raw, parent = coarse.read(0, N), coarse.variable("parent")
    order = np.array([4, 1, 9, 9])
    coins = TieBreak(0, parent[order]).signs(coarse.shape)
    refined = sample(conditional(raw[order], rule, 4, 2.5), raw[order], 1, np.arange(4), 8, coins)
    write_fine(tmp_path / "r.zarr", refined, parent[order], method="exact")
    words = (tmp_path / "r.zarr", "--factor", 4, "--rule", rule)
    assert coarsen(*words, "-o", tmp_path / "d.zarr") == 0
    again = open_store(tmp_path / "d.zarr")
    assert np.array_equal(again.read(0, 4), raw[order])
    assert np.array_equal(again.variable("parent"), order)


def test_errors_are_one_line(
    fine: LatticeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coarse.zarr"

    def fails(*args: object) -> str:
        assert coarsen(*args) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert "Traceback" not in text
        return text

    for factor in ("0", "1", "-2", "1.5", "3", "8", "x"):
        assert "--factor" in fails(fine.path, "--factor", factor, "-o", out)
    assert "--rule" in fails(fine.path, "--factor", 2, "-o", out, "--rule", "mean")
    seed = ("--rule", "majority", "--tie-seed", -1)
    assert "--tie-seed" in fails(fine.path, "--factor", 2, "-o", out, *seed)
    assert "no such file" in fails(tmp_path / "none.zarr", "--factor", 2, "-o", out)
    assert "-o" in fails(fine.path, "--factor", 2, "-o", fine.path)
    assert "-o" in fails(fine.path, "--factor", 2, "-o", fine.path / "inside.zarr")
    assert "-o" in fails(fine.path, "--factor", 2, "-o", tmp_path / "no" / "coarse.zarr")
    assert not out.exists()
    assert coarsen(fine.path, "--factor", 2, "-o", out) == 0
    capsys.readouterr()
    before = files_of(out)
    assert coarsen(fine.path, "--factor", 2, "-o", out) == 0
    capsys.readouterr()
    assert "factor" in fails(fine.path, "--factor", 4, "-o", out)
    assert "block_sum" in fails(out, "--factor", 2, "-o", tmp_path / "twice.zarr")
    assert files_of(out) == before
    assert coarsen(fine.path, "--factor", 4, "-o", out, "--overwrite") == 0
    assert open_store(out).shape == (2, 3)


def test_a_damaged_chunk_is_named_and_what_was_done_is_kept(
    fine: LatticeStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skild_phys.simulation.coarsening._CHUNKS_A_COMMIT", 1)
    chunk = fine.path / "spins" / "c.2.0.0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    assert coarsen(fine.path, "--factor", 2, "-o", tmp_path / "coarse.zarr") == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "fine.zarr" in text
    assert "spins" in text
    assert open_store(tmp_path / "coarse.zarr").n_samples == 4


def test_a_refined_majority_store_keeps_its_tie_seed(fine: LatticeStore, tmp_path: Path) -> None:
    """Coarse-grained (tie seed 7), filled and coarse-grained again: the same lattices, no option.

    With the coins of seed 0 they would differ, and by another factor the seed means nothing.
    """
    coarse = coarsen_store(fine, tmp_path / "c.zarr", "majority", 2, tie_seed=7)
    run_args = ["refine", coarse.path, "--method", "fill", "-o", tmp_path / "r.zarr"]
    with pytest.raises(SystemExit) as left:
        run([str(a) for a in run_args])
    assert not left.value.code
    argv = (tmp_path / "r.zarr", "--rule", "majority")
    assert coarsen(*argv, "--factor", 2, "-o", tmp_path / "d.zarr") == 0
    again = open_store(tmp_path / "d.zarr")
    assert again.attrs["tie_seed"] == 7
    assert np.array_equal(again.read(0, N), coarse.read(0, N))
    zero = ("--tie-seed", 0, "-o", tmp_path / "e.zarr")
    assert coarsen(*argv, "--factor", 2, *zero) == 0
    assert not np.array_equal(open_store(tmp_path / "e.zarr").read(0, N), coarse.read(0, N))
    assert coarsen(*argv, "--factor", 4, "-o", tmp_path / "f.zarr") == 0
    assert open_store(tmp_path / "f.zarr").attrs["tie_seed"] == 0


KINDS = {"ising3d": (4, 8, 6), "potts3": (8, 12)}
PAIRS = [(name, rule) for name in KINDS for rule in ("block_mean", "majority", "decimate")]


def write_model(path: Path, name: str, parent: NDArray[Any] | None = None) -> LatticeStore:
    """Write random lattices of a 3D or a Potts model."""
    model = MODELS[name]
    random = np.random.default_rng(4).integers(0, len(model.values), (N, *KINDS[name]))
    lattices = np.array(model.values, dtype=np.int8)[random]
    scalars = {} if parent is None else {"parent": parent}
    with create_store(
        path,
        field=model.field,
        n_samples=N,
        shape=KINDS[name],
        chunk=2,
        attrs={"model": name, "temperature": 1.0, "L": KINDS[name][-1]},
        variables=tuple(scalars),
        q=3 if name == "potts3" else 0,
    ) as writer:
        writer.commit({model.field: lattices, **scalars})
    return open_store(path)


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_a_coarse_store_of_another_model(
    tmp_path: Path, name: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = np.arange(N)[::-1] + 5
    fine = write_model(tmp_path / "fine.zarr", name, parent)
    out = tmp_path / "coarse.zarr"
    options = ("--rule", rule, "--tie-seed", 6)
    assert coarsen(fine.path, "--factor", 2, "-o", out, *options) == 0
    sides = {"ising3d": "4 x 8 x 6 to 2 x 4 x 3", "potts3": "8 x 12 to 4 x 6"}[name]
    assert f"{N} configurations, {sides} by {rule}" in capsys.readouterr().out
    store = open_store(out)
    potts = name == "potts3"
    assert store.field == RULES[rule].stores["states" if potts else "spins"]
    assert store.q == (3 if potts else 0)
    assert store.shape == tuple(side // 2 for side in KINDS[name])
    sites = 4 if potts else 8
    assert store.scale == (1 / sites if rule == "block_mean" else 1.0)
    want = rules.coarsen(fine.read(0, N), rule, 2, q=store.q, tie_seed=6, sample_ids=parent)
    assert np.array_equal(store.read(0, N), want)
    kept = {k: store.attrs[k] for k in ("model", "temperature", "L", "rule", "factor")}
    sides = [side // 2 for side in KINDS[name]]
    assert kept == {"model": name, "temperature": 1.0, "L": sides, "rule": rule, "factor": 2}


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_another_model_interrupted_and_resumed(
    tmp_path: Path, name: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skild_phys.simulation.coarsening._CHUNKS_A_COMMIT", 2)
    fine = write_model(tmp_path / "fine.zarr", name)
    for folder in "ab":
        (tmp_path / folder).mkdir()
    coarsen_store(fine, tmp_path / "a" / "c.zarr", rule, 2)
    made: list[int] = []
    options = {"threads": 1, "progress": made.append, "stop": lambda: sum(made) > 3}
    with pytest.raises(Interrupted, match=r"\d of 11"):
        coarsen_store(fine, tmp_path / "b" / "c.zarr", rule, 2, **options)
    coarsen_store(fine, tmp_path / "b" / "c.zarr", rule, 2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_another_models_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coarse.zarr"
    fine = {name: write_model(tmp_path / f"{name}.zarr", name).path for name in KINDS}

    def fails(*args: object) -> str:
        assert coarsen(*args) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    text = fails(fine["potts3"], "--factor", 2, "-o", out, "--rule", "spectral")
    assert "--rule: 'spectral' is not accepted" in text
    assert "Potts states" in text
    cube = tmp_path / "cube.zarr"
    assert coarsen(fine["ising3d"], "--factor", 2, "-o", cube, "--rule", "spectral") == 0
    assert open_store(cube).field == "field"
    assert open_store(cube).shape == (2, 4, 3)
    capsys.readouterr()
    assert "all sides of 4 x 8 x 6" in fails(fine["ising3d"], "--factor", 4, "-o", out)
    assert not out.exists()
    assert coarsen(fine["potts3"], "--factor", 2, "-o", out) == 0
    capsys.readouterr()
    text = fails(out, "--factor", 2, "-o", tmp_path / "twice.zarr")
    assert "variable 'state_count': only 'spins' or 'states' or 'field' are coarse-grained" in text


def test_lattices_that_are_not_of_the_model_they_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (("states", 4, "potts3"), ("states", 3, "ising2d"), ("spins", 0, "ising3d"))
    for i, (field, q, name) in enumerate(wrong):
        path = tmp_path / f"{i}.zarr"
        values = np.ones((1, 4, 4), np.int8)
        with create_store(
            path, field=field, n_samples=1, shape=(4, 4), chunk=1, attrs={"model": name},
            variables=(), q=q,
        ) as writer:  # fmt: skip
            writer.commit({field: values})
        assert coarsen(path, "--factor", 2, "-o", tmp_path / "coarse.zarr") == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert f"variable '{field}': 2D" in text
        assert f"which {name} is not" in text
    assert not (tmp_path / "coarse.zarr").exists()


@pytest.mark.parametrize("rule", ["block_mean", "decimate", "spectral"])
def test_fields_with_components_are_coarse_grained_each_by_itself(
    tmp_path: Path, rule: str
) -> None:
    values = np.random.default_rng(4).normal(size=(3, 2, 4, 6))
    plan = {"field": "field", "dtype": "float64", "components": 2, "n_samples": 3, "shape": (4, 6)}
    with create_store(tmp_path / "f.zarr", **plan, chunk=2, attrs={}, variables=()) as writer:  # type: ignore[arg-type]
        writer.commit({"field": values})
    assert (
        coarsen(tmp_path / "f.zarr", "--factor", 2, "-o", tmp_path / "c.zarr", "--rule", rule) == 0
    )
    store = open_store(tmp_path / "c.zarr")
    assert (store.layout.components, store.shape) == (2, (2, 3))
    assert np.array_equal(store.read(0, 3), rules.coarsen(values, rule, 2, dimension=2))
