from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import TC, Call
from numpy.typing import NDArray

from skild_phys.cli import bench as _loaded  # noqa: F401
from skild_phys.errors import how_to_install
from skild_phys.simulation.spec import SimulationSpec

bench = importlib.import_module("skild_phys.benchmarks.simulate")
peers = importlib.import_module("skild_phys.benchmarks.peers")
timing = importlib.import_module("skild_phys.benchmarks.timing")

TINY = ["bench", "simulate", "--L", "16", "--seconds", "0.002", "--runs", "2"]


def result(call: Call, *words: str) -> dict[str, Any]:
    code, out, _ = call(*words, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


class Known(peers.Peer):
    """A package that is always installed, and slow: a microsecond for an update of 16^2 sites."""

    package = "numpy"
    starts: ClassVar[list[NDArray[np.int8]]] = []

    def __init__(
        self, algorithm: str, lattice: NDArray[np.int8], temperature: float, seed: int
    ) -> None:
        self.starts.append(lattice)
        self._batches = np.random.default_rng(seed)

    @staticmethod
    def able(model: str, shape: tuple[int, ...]) -> bool:
        return model == "ising2d"

    def time(self, updates: int) -> tuple[float, int | None]:
        return 1e-6 * updates, None

    def mean_energy(self, updates: int) -> float:
        return -1.453065 + 1e-5 * float(self._batches.normal())


class Absent(Known):
    package = "no_such_package"


class Liar(Known):
    def mean_energy(self, updates: int) -> float:
        return super().mean_energy(updates) + 0.01


def test_json_has_what_is_measured(call: Call) -> None:
    found = result(call, *TINY, "--no-peers", "--seed", "3")
    assert (found["model"], found["shape"], found["temperature"]) == ("ising2d", [16, 16], TC)
    assert (found["runs"], found["seconds"], found["seed"]) == (2, 0.002, 3)
    assert (found["peers"], found["peers_missing"]) == ([], {})
    names = [row["algorithm"] for row in found["algorithms"]]
    assert names == ["wolff", "swendsen-wang", "metropolis", "multispin"]
    assert found["default"] in names
    assert found["fastest"] in names
    assert 16.0 < found["cluster_size"] < 256.0
    for row in found["algorithms"]:
        assert row["work"] == ("flipped spin" if row["algorithm"] == "wolff" else "site and sweep")
        assert len(row["nanoseconds_runs"]) == 2
        assert min(row["nanoseconds_runs"]) <= row["nanoseconds"] <= max(row["nanoseconds_runs"])
        assert row["nanoseconds"] > 0.0
        assert row["load_seconds"] > 0.0
        assert isinstance(row["compiled"], bool)
        taus = row["tau_energy"], row["tau_magnetization_squared"]
        assert all(0.5 < tau < 50.0 for tau in taus)
        assert row["tau_energy_error"] > 0.0
        assert row["tau_magnetization_squared_error"] > 0.0
        assert (row["tau_shape"], row["tau_factor"]) == ([16, 16], 1.0)
        rate = 1.0 / (2.0 * max(taus) * row["update_seconds"])
        assert row["independent_per_second"] == pytest.approx(rate)


def test_json_has_the_threads(call: Call) -> None:
    found = result(call, *TINY, "--no-peers")
    assert [row["threads"] for row in found["threads"]][:2] == [1, 2]
    assert found["threads"][0]["speedup"] == 1.0
    for row in found["threads"]:
        assert row["algorithm"] == found["default"]
        assert row["samples_per_second"] > 0.0
        assert len(row["speedup_runs"]) == 2


def test_single_site_times_are_scaled_up(call: Call) -> None:
    found = result(call, *TINY, "--no-peers", "--L", "64x32")
    rows = {row["algorithm"]: row for row in found["algorithms"]}
    assert rows["wolff"]["tau_shape"] == [64, 32]
    for name in ("metropolis", "multispin"):
        assert rows[name]["tau_shape"] == [32, 16]
        assert rows[name]["tau_factor"] == pytest.approx(2.0**2.17, rel=0.01)


def test_table(call: Call) -> None:
    code, out, _ = call(*TINY, "--no-peers", "--L", "64")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("ising2d 64 x 64 at T = 2.26919, one thread, median of 2 runs")
    for name in ("wolff", "swendsen-wang", "metropolis", "multispin"):
        assert any(line.startswith(name) for line in lines)
    marked = [line for line in lines if line.rstrip().endswith("<- auto")]
    assert [line.split()[0] for line in marked] == ["swendsen-wang"]
    assert "~ tau measured on 32 x 32, times" in out
    assert "2 threads" in out


def test_other_models_and_odd_sides_have_the_rows_that_exist(
    call: Call,
) -> None:
    found = result(call, *TINY, "--model", "potts3", "--no-peers")
    assert [row["algorithm"] for row in found["algorithms"]][2:] == ["metropolis"]
    code, out, _ = call(*TINY, "--L", "9x15", "--no-peers")
    assert code == 0
    assert "metropolis" not in out
    assert "single-site updates need even sides" in out


def test_three_dimensions(call: Call) -> None:
    found = result(call, *TINY, "--model", "ising3d", "--L", "6x4x4", "--no-peers")
    assert len(found["algorithms"]) == 4


@pytest.mark.parametrize("temperature", ["0.1", "100"])
def test_far_from_the_transition(call: Call, temperature: str) -> None:
    found = result(call, *TINY, "--T", temperature, "--no-peers")
    assert all(row["independent_per_second"] > 0.0 for row in found["algorithms"])


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--runs", "0"], "--runs"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--L", "1"], "--L"),
        (["--L", "16x16x16"], "--L"),
        (["--T", "cold"], "--T"),
        (["--model", "xy"], "--model"),
        (["--seed", "-1"], "--seed"),
        (["--runs", "many"], "--runs"),
    ],
)
def test_bad_options_take_one_line(call: Call, words: list[str], option: str) -> None:
    code, out, err = call(*TINY, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert option in err
    assert err.count("\n") == 1


def test_peers_are_measured_beside(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PEERS", (Known, Absent))
    monkeypatch.setattr(Known, "starts", [])
    found = result(call, *TINY)
    rows = {row["algorithm"]: row for row in found["peers"]}
    assert tuple(rows) == peers.ALGORITHMS
    assert rows["metropolis"]["nanoseconds"] == pytest.approx(1000.0 / 256)
    assert rows["wolff"]["nanoseconds"] == pytest.approx(1000.0 / found["cluster_size"])
    assert rows["wolff"]["own_cluster_size"]
    assert not rows["swendsen-wang"]["own_cluster_size"]
    for row in found["peers"]:
        assert (row["package"], row["version"]) == ("numpy", np.__version__)
        assert row["check"]["exact"] == pytest.approx(-1.4530648528)
        assert abs(row["check"]["deviation_sigma"]) < 6.0
    own = {row["algorithm"]: row for row in found["algorithms"]}
    assert rows["wolff"]["tau_energy"] == own["wolff"]["tau_energy"]
    assert found["peers_missing"] == {
        "no_such_package": f"not installed: {how_to_install('bench')}"
    }
    # Of the two lattices each algorithm starts from, the first is one in equilibrium.
    assert all(abs(int(start.sum())) < start.size for start in Known.starts[::2])


def test_the_table_says_what_is_missing_and_what_is_wrong(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PEERS", (Liar, Absent))
    code, out, _ = call(*TINY)
    assert code == 0
    assert f"numpy {np.__version__} wolff" in out
    assert "numpy does not say how large its clusters are" in out
    assert "numpy metropolis: energy -1.443" in out
    assert "agrees" not in out
    assert (
        "no_such_package not installed: pip install -e '.[bench]' in the folder of the clone" in out
    )


def test_a_peer_without_the_model_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PEERS", (Known,))
    found = result(call, *TINY, "--model", "potts2")
    assert found["peers"] == []
    assert found["peers_missing"] == {"numpy": "has no such model or lattice"}


@pytest.mark.statistical
@pytest.mark.parametrize("peer", peers.PEERS)
@pytest.mark.parametrize("algorithm", peers.ALGORITHMS)
def test_installed_peers_are_driven_right(peer: Any, algorithm: str) -> None:
    """Null hypothesis: the mean energy is Kaufman's; |t| > 5.5 of 15 degrees: 6e-5 a case."""
    try:
        peers.version(peer)
    except peers.Missing as error:
        pytest.skip(f"{peer.package} {error}")
    assert abs(peers.check_energy(peer, algorithm, TC, seed=1)["deviation_sigma"]) < 5.5
    chain = peer(algorithm, np.ones((16, 16), dtype=np.int8), TC, 1)
    took, flipped = chain.time(1000)
    assert took > 0.0
    assert flipped is None or 16_000 < flipped < 256_000


def test_calibrate_fills_the_time() -> None:
    done = 0

    def work(count: int) -> None:
        nonlocal done
        done += count
        for _ in range(count):
            sum(range(1000))

    assert 1 < timing.calibrate(work, 0.02) < 100_000
    assert done > 0


def test_a_kernel_is_loaded_once() -> None:
    spec = SimulationSpec(2, TC, 1, algorithm="wolff")
    timing.load_kernel(spec)
    again = timing.load_kernel(spec)
    assert not again["compiled"]
    assert again["load_seconds"] < 1.0


def test_scaled_times_remember_the_factor() -> None:
    tau = timing.Tau((2.0, 3.0), (0.1, 0.2), (8, 8)).scaled(2.0).scaled(5.0)
    assert tau.time == pytest.approx((20.0, 30.0))
    assert tau.error == pytest.approx((1.0, 2.0))
    assert (tau.factor, tau.shape) == (10.0, (8, 8))


def test_bench_measure_tells_times_and_memory(call: Call, tmp_path: Path) -> None:
    words = ["bench", "measure", "--L", "16", "-n", "40", "--runs", "1", "--folder", str(tmp_path)]
    found = result(call, *words, "--memory", "0.0001", "--threads", "1")
    assert found["shape"] == [16, 16]
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["four_point_sides"] == 4
    assert 50 < found["peak_memory_mib"]["0.0001"] < 2000
    assert not list(tmp_path.iterdir())
    code, out, _ = call(*words)
    assert code == 0
    assert "S(k) and G(r), with reading" in out


@pytest.mark.parametrize(
    ("option", "value"), [("--L", "2"), ("-n", "1"), ("--runs", "0"), ("--memory", "-1")]
)
def test_bench_measure_refuses(call: Call, option: str, value: str) -> None:
    code, out, err = call("bench", "measure", option, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert option in err


def test_bench_refine_splits_the_time_into_parts(call: Call) -> None:
    words = ["bench", "refine", "--L", "16", "-n", "1", "--steps", "3", "--threads", "1"]
    found = result(call, *words)
    assert (found["shape"], found["on_the_lattice"]) == ([16, 16], 3)
    assert (found["denoiser_calls"], found["network_evaluations"]) == (15, 8.5)
    assert list(found["parts"]) == ["network", "mean field", "constraint", "the rest"]
    assert all(seconds > 0.0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["seconds_one_thread"])
    assert found["exact_seconds_per_lattice"] > 0.0
    code, out, _ = call(*words, "--rule", "majority")
    assert code == 0
    assert "16 x 16, majority 4x, 15 denoiser calls" in out


class Parts:
    """Work with a part inside another."""

    def outer(self) -> None:
        time.sleep(0.02)
        self.inner()

    def inner(self) -> None:
        time.sleep(0.04)


def test_a_part_inside_another_counts_as_itself_alone() -> None:
    clock, parts = timing.Clock(), Parts()
    with clock.around([("outer", Parts, "outer"), ("inner", parts, "inner")]):
        parts.outer()
    parts.outer()
    assert clock.calls == {"outer": 1, "inner": 1}
    assert 0.02 <= clock.seconds["outer"] < clock.seconds["inner"]
    assert "inner" not in vars(parts)


def test_a_part_that_is_gone_is_an_error() -> None:
    with (
        pytest.raises(AttributeError, match="moved"),
        timing.Clock().around([("outer", Parts, "outer"), ("gone", Parts, "moved")]),
    ):
        pass
    assert not hasattr(Parts.outer, "__wrapped__")
