from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from conftest import TC, files_of
from store_helpers import simulate

from skild_phys.errors import BadInput, Interrupted
from skild_phys.models import MODELS, Update, get_model
from skild_phys.rng import STREAMS, kernel_state, lane_state
from skild_phys.simulation import chain, ensemble
from skild_phys.simulation import spec as specs
from skild_phys.simulation.chain import Unit, draw
from skild_phys.simulation.spec import (
    SimulationSpec,
    _parse_shape,
    sweeps_between_samples,
    updates_of,
)
from skild_phys.simulation.wolff import _correlation_length, default_every, wolff
from skild_phys.store import StoreWriter, open_store

EVERY_KERNEL = [
    ("ising2d", (8, 8), "wolff"),
    ("ising2d", (8, 8), "swendsen-wang"),
    ("ising2d", (8, 8), "metropolis"),
    ("ising2d", (8, 8), "multispin"),
    ("ising2d", (6, 10), "multispin"),
    ("ising2d", (3, 5), "wolff"),
    ("ising3d", (4, 6, 8), "wolff"),
    ("ising3d", (3, 4, 5), "swendsen-wang"),
    ("ising3d", (4, 4, 4), "metropolis"),
    ("ising3d", (4, 4, 4), "multispin"),
    ("potts3", (8, 6), "wolff"),
    ("potts4", (5, 5), "swendsen-wang"),
    ("potts8", (8, 8), "metropolis"),
]


def spec(n_samples: int = 30, **changed: Any) -> SimulationSpec:
    options = {"L": 8, "temperature": TC, "chains": 8, "seed": 5, "algorithm": "wolff"} | changed
    return SimulationSpec(n_samples=n_samples, **options)


@pytest.mark.parametrize(
    ("streams", "seed"), [(None, 5), (STREAMS, 213444346946442849342219479227752674111)]
)
def test_samples_are_those_of_each_chain_by_itself(
    tmp_path: Path, streams: str | None, seed: int
) -> None:
    """From the seed alone, as version 0.1 had it, and by the rule of now: both are pinned."""
    asked = spec(45, chains=4, every=3, burn_in=7, stint=5, streams=streams)
    store = simulate(asked, tmp_path / "a.zarr")
    assert store.attrs.get("streams") == streams
    assert store.complete
    order = [(c, r * 5 + d) for r in range(3) for c in range(4) for d in range(5)][:45]
    assert list(zip(store.variable("chain"), store.variable("draw"), strict=True)) == order
    lattices = store.read(0, 45)
    for number in range(4):
        spins, state = np.ones((8, 8), dtype=np.int8), kernel_state(seed, "chain", number)
        wolff(spins, TC, state, 7)
        for lattice in lattices[store.variable("chain") == number]:
            wolff(spins, TC, state, 3)
            # Up to the sign that every sample is given.
            np.testing.assert_array_equal(lattice * lattice[0, 0], spins * spins[0, 0])
    model = MODELS["ising2d"]
    np.testing.assert_array_equal(store.variable("energy"), model.energy(lattices))
    np.testing.assert_array_equal(store.variable("magnetization"), model.order_parameter(lattices))


def test_replicas_of_a_word_are_chains(tmp_path: Path) -> None:
    """A unit of 64 gives its replicas' samples draw by draw, in whole or broken off."""
    whole = spec(200, algorithm="multispin", chains=128, every=2, burn_in=3, stint=1)
    store = simulate(whole, tmp_path / "a.zarr")
    assert store.variable("chain").tolist() == [i % 128 for i in range(200)]
    assert store.variable("draw").tolist() == [i // 128 for i in range(200)]
    for n_samples in (5, 100, 130, 200):
        again = dataclasses.replace(whole, n_samples=n_samples)
        simulate(again, tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


@pytest.mark.parametrize(("model", "shape", "algorithm"), EVERY_KERNEL)
def test_every_kernel_fills_a_store(
    tmp_path: Path, model: str, shape: tuple[int, ...], algorithm: str
) -> None:
    system = get_model(model)
    chosen = spec(
        12, L=shape, model=model, algorithm=algorithm, chains=None, start="hot",
        temperature=system.critical_temperature, every=4, burn_in=20,
    )  # fmt: skip
    store = simulate(chosen, tmp_path / "a.zarr")
    assert store.shape == shape
    assert store.field == system.field
    lattices = store.read(0, 12)
    assert set(np.unique(lattices)) <= set(system.values)
    np.testing.assert_array_equal(store.variable("energy"), system.energy(lattices))
    np.testing.assert_array_equal(store.variable("magnetization"), system.order_parameter(lattices))
    assert len(np.unique(lattices.reshape(12, -1), axis=0)) > 6


def test_a_training_on_the_same_seed_sees_other_lattices() -> None:
    states = [[Unit.start(spec(8), unit).rng for unit in range(8)]]
    states.append([kernel_state(5, *key) for key in ((0,), (1,))])
    states.append([kernel_state(5, i, k) for i in range(8) for k in range(4)])
    states.append([lane_state(5, "chain", 9)[:, i].copy() for i in range(8)])
    every = [tuple(map(int, state)) for group in states for state in group]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("algorithm", ["wolff", "swendsen-wang", "metropolis", "multispin"])
def test_same_bytes_for_any_number_of_threads(tmp_path: Path, algorithm: str) -> None:
    trees = []
    for threads in (1, 2, 4, 8):
        path = tmp_path / f"{threads}.zarr"
        simulate(spec(algorithm=algorithm, chains=None), path, threads=threads)
        trees.append(files_of(path))
    assert all(tree == trees[0] for tree in trees)


@pytest.mark.parametrize("chunk", [1, 3, 16, 1000])
def test_same_lattices_for_any_chunk(tmp_path: Path, chunk: int) -> None:
    given = simulate(spec(50), tmp_path / "a.zarr", chunk=chunk)
    plain = simulate(spec(50), tmp_path / "b.zarr")
    assert given.chunk == chunk
    np.testing.assert_array_equal(given.read(0, 50), plain.read(0, 50))


def test_same_bytes_however_often_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(spec(100, stint=3), tmp_path / "a.zarr", chunk=16)
    monkeypatch.setattr(ensemble, "COMMIT_SECONDS", 0.0)
    simulate(spec(100, stint=3), tmp_path / "b.zarr", chunk=16)
    monkeypatch.setattr(ensemble, "_AHEAD", 1)
    simulate(spec(100, stint=3), tmp_path / "c.zarr", chunk=16)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "c.zarr")


@pytest.mark.parametrize(
    ("model", "algorithm", "temperature"),
    [("ising2d", "metropolis", 1.5), ("ising2d", "wolff", 1.0), ("potts3", "metropolis", 0.6)],
)
def test_every_state_is_as_likely_though_chains_keep_theirs(
    tmp_path: Path, model: str, algorithm: str, temperature: float
) -> None:
    """H0: the state of a site is uniform; chi-square of ordered configurations, p > 1e-4.

    Below Tc chains of single-site updates never leave the state they start in.
    """
    chosen = spec(
        900, L=8, model=model, algorithm=algorithm, temperature=temperature, every=20, burn_in=50
    )
    store = simulate(chosen, tmp_path / "a.zarr")
    values = get_model(model).values
    counts = [int((store.read(0, 900)[:, 0, 0] == value).sum()) for value in values]
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    unturned = draw(chosen, 0, Unit.start(chosen, 0), 0, [(0, 50)]).unit.configurations
    assert np.bincount(unturned.ravel() - values[0]).max() > 0.9 * 64


def test_chains_that_never_agree_do_not_burn_in_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hot starts freeze in stripes at low temperature, some chains and not others."""
    monkeypatch.setattr(chain, "_MOST_UPDATES", 2**14)
    frozen = spec(20, L=16, temperature=0.1, algorithm="metropolis", start="hot", chains=16, seed=2)
    with pytest.raises(BadInput, match=r"burn_in: .* the chains do not agree yet"):
        simulate(frozen, tmp_path / "a.zarr")


def stop_after(polls: int) -> Callable[[], bool]:
    """Return a `stop` that says so once it was asked so often."""
    left = iter(range(polls))
    return lambda: next(left, polls) == polls


@pytest.mark.parametrize(
    "asked", [{}, {"burn_in": 3000}, {"every": 3}, {"every": 3, "burn_in": 3000}]
)
def test_a_burn_in_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int]
) -> None:
    """Stopped again and again, it comes to its end, and to the bytes of a run never stopped.

    Planted, seen to fail: a burn-in that begins again each time, which never ends.
    """
    chosen = spec(20, chains=2, algorithm="metropolis", **asked)
    simulate(chosen, tmp_path / "a.zarr", threads=1)
    monkeypatch.setattr(chain, "PIECE_SECONDS", 3e-6)
    monkeypatch.setattr(chain, "KEEP_SECONDS", 0.0)
    stops = 0
    while stops < 60:
        try:
            simulate(chosen, tmp_path / "b.zarr", threads=1, stop=stop_after(250))
            break
        except Interrupted:
            stops += 1
    assert 0 < stops < 60
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    "chosen",
    [
        {"algorithm": "metropolis", "chains": 3, "stint": 1, "n_samples": 8},
        {"algorithm": "multispin", "chains": 128, "stint": 1, "n_samples": 300},
    ],
    ids=lambda chosen: str(chosen["algorithm"]),
)
def test_a_long_draw_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any]
) -> None:
    """Draws of many pieces, stopped again and again in the middle of one, end in the same bytes.

    Planted, seen to fail: draws begun again each time, of which none is ever finished; and updates
    of the unfinished draw that are made twice, which gives other bytes.
    """
    asked = spec(every=2000, burn_in=500, **chosen)
    simulate(asked, tmp_path / "a.zarr", threads=1)
    update = 64e-9 * asked.kernel.pace * asked.kernel.replicas
    monkeypatch.setattr(chain, "PIECE_SECONDS", 100 * update)
    simulate(asked, tmp_path / "c.zarr", threads=1)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "c.zarr")
    monkeypatch.setattr(chain, "KEEP_SECONDS", 0.0)
    stops = 0
    while stops < 90:
        try:
            simulate(asked, tmp_path / "b.zarr", threads=1, stop=stop_after(45))
            break
        except Interrupted:
            stops += 1
    assert 2 < stops < 90
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


LONG: dict[str, Any] = {"algorithm": "metropolis", "chains": 3, "stint": 1}
LONG |= {"every": 2000, "burn_in": 500}


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of `LONG` are made in many pieces, and kept only because of a commit or a stop."""
    monkeypatch.setattr(chain, "PIECE_SECONDS", 6.4e-6 * spec(8, **LONG).kernel.pace)
    monkeypatch.setattr(chain, "KEEP_SECONDS", 1e9)


@pytest.mark.usefixtures("pieces")
def test_after_a_commit_long_draws_of_other_chains_are_kept_again(tmp_path: Path) -> None:
    """Planted, seen to fail: kept only so long after the last commit, which is never."""
    path = tmp_path / "a.zarr"
    seen: list[bool] = []

    def stop() -> bool:
        seen.append((path / "kept.npz").exists())
        return False

    simulate(spec(8, **LONG), path, threads=1, stop=stop)
    assert any(seen)


@pytest.mark.usefixtures("pieces")
def test_what_is_stopped_during_a_commit_keeps_its_long_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, seen to fail: nothing kept then; the commit removes what was kept before it."""
    commit, begun = StoreWriter.commit, threading.Event()

    def slow(*args: Any, **options: Any) -> None:
        begun.set()
        time.sleep(0.3)
        commit(*args, **options)

    simulate(spec(8, **LONG), tmp_path / "a.zarr", threads=1)
    path = tmp_path / "b.zarr"
    monkeypatch.setattr(StoreWriter, "commit", slow)
    with pytest.raises(Interrupted, match="1 of 8"):
        simulate(spec(8, **LONG), path, threads=1, stop=begun.is_set)
    assert (path / "kept.npz").exists()
    simulate(spec(8, **LONG), path, threads=1)
    assert files_of(tmp_path / "a.zarr") == files_of(path)


def test_what_is_kept_of_another_burn_in_or_damaged_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store tells it apart. Planted, seen to fail: keeping that asks for no place."""
    monkeypatch.setattr(chain, "PIECE_SECONDS", 3e-6)
    path, kept = tmp_path / "b.zarr", tmp_path / "b.zarr" / "kept.npz"
    given = spec(20, chains=2, every=4, burn_in=10**6)
    for left in (90, 0, 10**9):
        with pytest.raises(Interrupted, match="resumes in the burn-in"):
            simulate(given, path, stop=stop_after(30))
        kept.write_bytes(kept.read_bytes()[:left])
    simulate(spec(20, chains=2), path)
    simulate(spec(20, chains=2), tmp_path / "a.zarr")
    assert not kept.exists()
    assert files_of(tmp_path / "a.zarr") == files_of(path)


def test_a_given_spacing_is_no_measured_one(tmp_path: Path) -> None:
    simulate(spec(20, every=1, burn_in=0), tmp_path / "a.zarr")
    with pytest.raises(BadInput, match="every: 'measured' is not accepted; expected 1"):
        simulate(spec(20), tmp_path / "a.zarr")
    simulate(spec(30, every=1, burn_in=0), tmp_path / "a.zarr")


@pytest.mark.parametrize("stint", [1, 4, 7])
def test_appended_to_in_the_middle_of_a_draw(tmp_path: Path, stint: int) -> None:
    for n_samples in (3, 13, 30, 70):
        simulate(spec(n_samples, stint=stint, chains=4), tmp_path / "a.zarr")
    simulate(spec(70, stint=stint, chains=4), tmp_path / "b.zarr", chunk=stint)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_what_was_settled_is_kept(tmp_path: Path) -> None:
    """A larger ensemble keeps the spacing that the first samples had."""
    first = simulate(spec(10), tmp_path / "a.zarr")
    settled = {name: first.attrs[name] for name in ("every", "burn_in", "stint", "tau_energy")}
    more = simulate(spec(500), tmp_path / "a.zarr")
    assert {name: more.attrs[name] for name in settled} == settled
    assert more.chunk == first.chunk
    assert settled["every"] >= 2 * settled["tau_energy"]
    assert settled["burn_in"] >= 20 * settled["tau_energy"]
    given = simulate(spec(600, every=settled["every"]), tmp_path / "a.zarr")
    assert given.n_samples == 600
    with pytest.raises(BadInput, match="there 'every' is"):
        simulate(spec(700, every=settled["every"] + 1), tmp_path / "a.zarr")


def test_stopped_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "COMMIT_SECONDS", 0.0)
    drawn: list[int] = []
    kept = 0
    options = {"stint": 1}
    for limit in (30, 40):
        with pytest.raises(Interrupted, match="started again, without overwrite=True, it resumes"):
            simulate(
                spec(400, **options),
                tmp_path / "a.zarr",
                progress=drawn.append,
                stop=lambda limit=limit: sum(drawn) >= limit,
            )
        before, kept = kept, open_store(tmp_path / "a.zarr").n_samples
        assert before < kept < 400
        drawn.clear()
    simulate(spec(400, **options), tmp_path / "a.zarr", progress=drawn.append)
    assert sum(drawn) == 400  # with those that were there
    simulate(spec(400, **options), tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_stopped_while_burning_in(tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 40

    with pytest.raises(Interrupted, match="0 of 30 samples are kept"):
        simulate(spec(30, burn_in=10**9, every=1), tmp_path / "a.zarr", stop=stop)
    simulate(spec(30, every=1), tmp_path / "b.zarr")
    assert open_store(tmp_path / "a.zarr").n_samples == 0


@pytest.mark.parametrize("when", [0, 1000])
def test_an_error_in_a_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    calls = 0

    def broken(lattices: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > when:
            raise RuntimeError("broken kernel")
        wolff(lattices[0], TC, arguments[2], 1)

    kernel = Update(broken, "wolff", "cluster")
    monkeypatch.setattr(specs, "ALGORITHMS", [(lambda model: True, kernel)])
    with pytest.raises(RuntimeError, match="broken kernel"):
        simulate(spec(10_000, every=1, burn_in=10), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").n_samples < 10_000


def test_attributes_say_what_was_simulated(tmp_path: Path) -> None:
    store = simulate(spec(8), tmp_path / "a.zarr", attrs={"command": "x"})
    wanted = {
        "model": "ising2d",
        "L": 8,
        "temperature": TC,
        "couplings": {"J": 1.0},
        "algorithm": "wolff",
        "update": "cluster",
        "chains": 8,
        "seed": 5,
        "start": "cold",
        "command": "x",
    }
    assert {key: store.attrs[key] for key in wanted} == wanted
    assert dataclasses.replace(SimulationSpec.of(store.attrs, 8), n_samples=8).L == 8
    oblong = simulate(spec(2, L=(4, 8)), tmp_path / "b.zarr")
    assert oblong.attrs["L"] == [4, 8]
    assert SimulationSpec.of(oblong.attrs, 2).shape == (4, 8)


def test_a_different_simulation_is_not_resumed(tmp_path: Path) -> None:
    simulate(spec(8), tmp_path / "a.zarr")
    changes: list[dict[str, Any]] = [
        {"seed": 6}, {"temperature": 2.0}, {"every": 99}, {"start": "hot"}, {"L": 9},
        {"L": (8, 9)}, {"chains": 4}, {"algorithm": "metropolis"}, {"burn_in": 1},
    ]  # fmt: skip
    for changed in changes:
        with pytest.raises(BadInput, match=f"there '{next(iter(changed))}' is"):
            simulate(spec(16, **changed), tmp_path / "a.zarr")


@pytest.mark.parametrize("algorithm", ["wolff", "multispin"])
def test_hot_start_is_random(algorithm: str) -> None:
    chosen = spec(algorithm=algorithm, chains=128, start="hot", L=64)
    units = [Unit.start(chosen, unit).configurations for unit in range(2)]
    spins = np.concatenate(units).astype(float)
    assert abs(spins.mean()) < 5 / math.sqrt(spins.size)
    assert not (spins[0] == spins[-1]).all()
    states = Unit.start(spec(model="potts5", start="hot", L=64), 0).configurations
    assert np.bincount(states.ravel(), minlength=5).min() > 0.15 * 64**2


def test_draws_go_on_where_they_were_broken_off() -> None:
    chosen = spec(algorithm="multispin", chains=64, every=3)
    unit = Unit.start(chosen, 0)
    whole = draw(chosen, 3, unit, 0, [(0, 150)])
    first = draw(chosen, 3, unit, 0, [(0, 70)])
    second = draw(chosen, 3, first.unit, 70, [(70, 90), (90, 150)])
    parts = np.concatenate([*first.configurations, *second.configurations])
    np.testing.assert_array_equal(whole.configurations[0], parts)
    np.testing.assert_array_equal(whole.unit.rng, second.unit.rng)


def test_each_sample_belongs_to_one_unit() -> None:
    for chosen in (spec(stint=3, chains=4), spec(stint=2, chains=128, algorithm="multispin")):
        for total in (1, 5, 257, 700):
            found = [
                range(*part) for unit in range(chosen.units)
                for part in chosen.stretches(unit, 0, total)
            ]  # fmt: skip
            assert sorted(i for part in found for i in part) == list(range(total))
            made = [chosen.made(unit, total) for unit in range(chosen.units)]
            assert sum(made) == total


@pytest.mark.parametrize(
    ("text", "model", "shape"),
    [
        ("8", "ising2d", (8, 8)),
        ("256x128", "ising2d", (256, 128)),
        ("6", "ising3d", (6, 6, 6)),
        ("4x5x6", "ising3d", (4, 5, 6)),
        ("16X8", "potts3", (16, 8)),
    ],
)
def test_sides(text: str, model: str, shape: tuple[int, ...]) -> None:
    assert _parse_shape(text, get_model(model)) == shape


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("", "ising2d"), ("8.5", "ising2d"), ("-8", "ising2d"), ("8x", "ising2d"),
        ("8x8x8", "ising2d"), ("8x8", "ising3d"), ("1", "ising2d"), ("8x1", "ising2d"),
        ("99999", "ising2d"), ("2000", "ising3d"), ("banana", "ising2d"), ("0x8", "potts2"),
    ],
)  # fmt: skip
def test_sides_that_are_refused(text: str, model: str) -> None:
    with pytest.raises(BadInput, match="L"):
        _parse_shape(text, get_model(model))


@pytest.mark.parametrize(
    "changed",
    [
        {"L": 0},
        {"L": 1},
        {"L": -8},
        {"L": 10**6},
        {"L": 8.0},
        {"L": (8, 8, 8)},
        {"L": True},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e150},
        {"n_samples": 10**24},
        {"chains": 10**7},
        {"n_samples": 0},
        {"algorithm": "gibbs"},
        {"algorithm": "multispin", "model": "potts3"},
        {"algorithm": "metropolis", "L": 15},
        {"algorithm": "multispin", "L": (8, 15)},
        {"algorithm": "multispin", "chains": 100},
        {"model": "heisenberg"},
        {"chains": 0},
        {"every": 0},
        {"burn_in": -1},
        {"stint": 0},
        {"seed": -1},
        {"start": "warm"},
    ],
)
def test_what_cannot_be_simulated(changed: dict[str, Any]) -> None:
    options: dict[str, Any] = {"L": 8, "temperature": TC, "n_samples": 4} | changed
    with pytest.raises(BadInput):
        SimulationSpec(**options)


def test_every_model_has_a_default() -> None:
    for model in MODELS.values():
        assert SimulationSpec(8, 1.0, 1, model=model.name).algorithm in updates_of(model)


def test_correlation_length() -> None:
    assert _correlation_length(TC * 1.001) == pytest.approx(0.567 / 0.001, rel=0.01)
    assert _correlation_length(TC * 0.999) == pytest.approx(0.567 / 0.002, rel=0.01)
    assert _correlation_length(1e6) < 0.1


def test_spacing_follows_the_autocorrelation_time() -> None:
    assert 10 <= default_every(64, TC) <= 14
    assert 15 <= default_every(128, TC) <= 20
    assert sweeps_between_samples(True, 64, TC, TC) == math.ceil(64**2.17)
    assert sweeps_between_samples(True, 64, 1e6, TC) == 1
    for temperature in (0.01, 1.0, TC, TC * (1 + 1e-12), 3.0, 1e9):
        for side in (2, 3, 64, 1024):
            assert 1 <= default_every(side, temperature) < 10**8
            assert 1 <= sweeps_between_samples(True, side, temperature, TC) < 10**8
