from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import files_of

from skild_phys.errors import BadInput, Interrupted
from skild_phys.lattice.models import MODELS
from skild_phys.rng import SIMULATION, kernel_state
from skild_phys.simulate import chain
from skild_phys.simulate.chain import (
    Ensemble,
    SimulationSpec,
    correlation_length,
    default_every,
    simulate,
)
from skild_phys.simulate.wolff import wolff
from skild_phys.store import open_store

TC = MODELS["ising2d"].critical_temperature


def spec(n_samples: int = 30, **changed: object) -> SimulationSpec:
    options = {"L": 8, "temperature": TC, "chains": 8, "seed": 5} | changed
    return SimulationSpec(n_samples=n_samples, **options)  # type: ignore[arg-type]


def test_samples_are_those_of_each_chain_by_itself(tmp_path: Path) -> None:
    store = simulate(spec(21, chains=4, every=3, burn_in=7), tmp_path / "a.zarr")
    assert store.complete
    assert store.variable("chain").tolist() == [i % 4 for i in range(21)]
    assert store.variable("draw").tolist() == [i // 4 for i in range(21)]
    lattices = store.read(0, 21)
    for number in range(4):
        spins, state = np.ones((8, 8), dtype=np.int8), kernel_state(5, SIMULATION, number)
        wolff(spins, TC, state, 7)
        for lattice in lattices[number::4]:
            wolff(spins, TC, state, 3)
            np.testing.assert_array_equal(lattice, spins)
    np.testing.assert_array_equal(store.variable("energy"), MODELS["ising2d"].energy(lattices))
    np.testing.assert_array_equal(
        store.variable("magnetization"), MODELS["ising2d"].magnetization(lattices)
    )


def test_a_training_on_the_same_seed_sees_other_lattices() -> None:
    states = [chain.Ensemble(spec(8)).rng, [kernel_state(5, *key) for key in ((0,), (1,))]]
    states.append([kernel_state(5, i, k) for i in range(8) for k in range(4)])
    every = [tuple(map(int, state)) for group in states for state in group]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("algorithm", ["wolff", "metropolis"])
def test_same_bytes_for_any_number_of_threads(tmp_path: Path, algorithm: str) -> None:
    trees = []
    for threads in (1, 2, 4, 8):
        path = tmp_path / f"{threads}.zarr"
        simulate(spec(algorithm=algorithm, every=2), path, threads=threads)
        trees.append(files_of(path))
    assert all(tree == trees[0] for tree in trees)


def test_same_bytes_however_often_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(spec(100), tmp_path / "a.zarr", chunk=16)
    monkeypatch.setattr(chain, "COMMIT_SECONDS", 0.0)
    simulate(spec(100), tmp_path / "b.zarr", chunk=16)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_appended_to_in_the_middle_of_a_draw(tmp_path: Path) -> None:
    for n_samples in (3, 13, 30):
        simulate(spec(n_samples), tmp_path / "a.zarr")
    simulate(spec(30), tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_stopped_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "COMMIT_SECONDS", 0.0)
    drawn: list[int] = []
    kept = 0
    for limit in (10, 20):
        with pytest.raises(Interrupted, match="the same command, without --overwrite, goes on"):
            simulate(
                spec(60),
                tmp_path / "a.zarr",
                progress=drawn.append,
                stop=lambda limit=limit: sum(drawn) >= limit,
            )
        assert kept < (kept := open_store(tmp_path / "a.zarr").n_samples) < 60
        drawn.clear()
    simulate(spec(60), tmp_path / "a.zarr", progress=drawn.append)
    assert sum(drawn) == 60 - kept
    simulate(spec(60), tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_an_error_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> int:
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(chain, "ALGORITHMS", {"wolff": broken})
    with pytest.raises(RuntimeError, match="broken kernel"):
        simulate(spec(), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").n_samples == 0


def test_attributes_say_what_was_simulated(tmp_path: Path) -> None:
    store = simulate(spec(8), tmp_path / "a.zarr", attrs={"command": "x"})
    every = default_every("wolff", 8, TC)
    wanted = {
        "model": "ising2d",
        "L": 8,
        "temperature": TC,
        "couplings": {"J": 1.0},
        "algorithm": "wolff",
        "update": "cluster",
        "chains": 8,
        "every": every,
        "burn_in": 20 * every,
        "seed": 5,
        "start": "cold",
        "command": "x",
    }
    assert {key: store.attrs[key] for key in wanted} == wanted


def test_a_different_simulation_is_not_resumed(tmp_path: Path) -> None:
    simulate(spec(8), tmp_path / "a.zarr")
    for changed in ({"seed": 6}, {"temperature": 2.0}, {"every": 99}, {"start": "hot"}, {"L": 9}):
        with pytest.raises(BadInput, match=f"there '{next(iter(changed))}' is"):
            simulate(spec(16, **changed), tmp_path / "a.zarr")


def test_hot_start_is_random() -> None:
    spins = Ensemble(spec(start="hot", L=64)).spins
    assert abs(spins.mean()) < 5 / math.sqrt(spins.size)
    assert np.isin(spins, (-1, 1)).all()
    assert not (spins[0] == spins[1]).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"L": 0},
        {"L": 1},
        {"L": -8},
        {"L": 10**6},
        {"L": 8.0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"n_samples": 0},
        {"algorithm": "gibbs"},
        {"model": "potts"},
        {"chains": 0},
        {"every": 0},
        {"burn_in": -1},
        {"seed": -1},
        {"start": "warm"},
    ],
)
def test_what_cannot_be_simulated(changed: dict[str, object]) -> None:
    options = {"L": 8, "temperature": TC, "n_samples": 4} | changed
    with pytest.raises(BadInput):
        SimulationSpec(**options)  # type: ignore[arg-type]


def test_correlation_length() -> None:
    assert correlation_length(TC * 1.001) == pytest.approx(0.567 / 0.001, rel=0.01)
    assert correlation_length(TC * 0.999) == pytest.approx(0.567 / 0.002, rel=0.01)
    assert correlation_length(1e6) < 0.1


def test_default_spacing_follows_the_autocorrelation_time() -> None:
    assert 10 <= default_every("wolff", 64, TC) <= 14
    assert 15 <= default_every("wolff", 128, TC) <= 20
    assert default_every("metropolis", 64, TC) == math.ceil(64**2.17)
    assert default_every("metropolis", 64, 1e6) == 1
    for algorithm in ("wolff", "metropolis"):
        for temperature in (0.01, 1.0, TC, TC * (1 + 1e-12), 3.0, 1e9):
            for side in (2, 3, 64, 1024):
                assert 1 <= default_every(algorithm, side, temperature) < 10**8
