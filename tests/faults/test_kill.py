"""Real processes that are killed: the next run ends with the bytes of a run never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import files_of
from store_helpers import simulate

from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store

# Prints a line after each commit; commits as often as it can.
REPORT = """
import sys
from skild_phys.simulation import ensemble
ensemble.COMMIT_SECONDS = 0.01
plain = ensemble.StoreWriter.commit
def commit(*arguments, **options):
    plain(*arguments, **options)
    print("committed", flush=True)
ensemble.StoreWriter.commit = commit
"""

# Forks a child that simulates, kills it after a while, and looks at what it leaves; again and
# again. A fork needs no imports, so that many kills take little time.
KILLED_OFTEN = """
import json, os, random, signal, sys, time
from pathlib import Path
from skild_phys.cli.simulate import _compile_kernels
from skild_phys.runner import Run
from skild_phys.simulation import ensemble
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store
path, options, kills, seed = json.loads(sys.argv[1])
ensemble.COMMIT_SECONDS = 0.0
spec = SimulationSpec(**options)
_compile_kernels(spec)
delays = random.Random(seed)
longest, kept = 0.1, [0]
for _ in range(kills):
    child = os.fork()
    if child == 0:
        try:
            ensemble.simulate(spec, path, Run(threads=2))
        finally:
            os._exit(0)
    time.sleep(delays.uniform(0.0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if Path(path, "zarr.json").exists():
        store = open_store(path)
        store.read(0, store.n_samples)
        kept.append(store.n_samples)
    # On a busy machine a child needs longer to come to a commit.
    longest *= 0.9 if kept[-1] > kept[-2:][0] else 1.5
ensemble.COMMIT_SECONDS = 5.0
ensemble.simulate(spec, path)
print(json.dumps(kept))
"""
COMMAND = """
from skild_phys.cli import run
run(sys.argv[1:])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process and wait until it prints its first line."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "wolff", "chains": 3, "every": 40, "stint": 2, "n_samples": 5000},
        {"algorithm": "swendsen-wang", "chains": 2, "stint": 5, "n_samples": 5000},
        {"algorithm": "multispin", "chains": 128, "every": 50, "stint": 1, "n_samples": 20000},
    ],
    ids=lambda options: options["algorithm"],
)
@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(tmp_path: Path, options: dict[str, Any], kills: int) -> None:
    """Each kill leaves every commit complete; the end is that of a run never killed."""
    path = tmp_path / "killed" / "a.zarr"
    path.parent.mkdir()
    given = {"L": 16, "temperature": 2.25} | options
    given["n_samples"] = given["n_samples"] * kills // 50
    job = json.dumps([str(path), given, kills, 8])
    done = subprocess.run(
        [sys.executable, "-c", KILLED_OFTEN, job], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert kept == sorted(kept)
    assert len(set(kept)) > kills // 5  # killed at many places, before the first commit and after
    spec = SimulationSpec(**given)
    simulate(spec, tmp_path / "a.zarr")
    assert files_of(path) == files_of(tmp_path / "a.zarr")


@pytest.mark.parametrize("limit", [200, 8000, 9500])
def test_a_full_disk_takes_one_line(tmp_path: Path, limit: int) -> None:
    """No file may grow beyond `limit` bytes: the root record, a state, or a chunk fails."""
    path = tmp_path / "a.zarr"
    words = ["simulate", "--L", "64", "--T", "Tc", "-n", "4000", "--every", "2", "-o", str(path)]
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    command = [sys.executable, "-c", REPORT + full + COMMAND, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {path}")
    assert last.endswith(": cannot write: File too large")
    assert "Traceback" not in done.stderr
    if limit > 200:
        store = open_store(path)
        store.read(0, store.n_samples)
        assert not store.complete


def test_a_worker_that_dies_changes_nothing(tmp_path: Path) -> None:
    """A real cluster of two processes; one is killed half-way, its work is done again."""
    from distributed import LocalCluster

    options = {"L": 16, "temperature": 2.25, "chains": 4, "every": 40, "stint": 8}
    spec = SimulationSpec(n_samples=3000, **options)  # type: ignore[arg-type]
    victims: list[int] = []
    made = 0

    def kill_one(count: int) -> None:
        nonlocal made
        made += count
        if made > 400 and not victims:
            victims.append(cluster.workers[0].pid)
            os.kill(victims[0], signal.SIGKILL)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        simulate(spec, tmp_path / "dask.zarr", dask=cluster.scheduler_address, progress=kill_one)
        assert cluster.workers[0].pid != victims[0]
    assert len(victims) == 1
    simulate(spec, tmp_path / "threads.zarr")
    assert files_of(tmp_path / "dask.zarr") == files_of(tmp_path / "threads.zarr")


def test_ctrl_c_ends_at_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    words = ["simulate", "--L", "64", "--T", "Tc", "-n", "1000000", "-o", str(path)]
    child = start(REPORT + COMMAND, *words)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    last = err.strip().splitlines()[-1]
    kept = open_store(path).n_samples
    assert 0 < kept < 1_000_000
    assert last.startswith(f"error: interrupted: {kept} of 1000000 samples are kept in {path}")
    assert "Traceback" not in err


def test_two_processes_cannot_write_to_one_store(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    words = ["simulate", "--L", "16", "--T", "2.25", "-o", str(path), "-n"]
    child = start(REPORT + COMMAND, *words, "10000000")
    second = subprocess.run(
        [sys.executable, "-c", "import sys" + COMMAND, *words, "10"],
        capture_output=True,
        text=True,
        check=False,
    )
    child.kill()
    child.communicate()
    assert second.returncode == 2
    last = second.stderr.splitlines()[-1]
    assert last == f"error: {path}: is being written by another process"


def test_second_interrupt_ends_a_kernel_that_still_runs() -> None:
    """Inside one long call no handler of Python runs; both Ctrl-C are received all the same."""
    script = """
import numpy as np
from skild_phys.cli.terminal import interruptible
from skild_phys.rng import kernel_state
from skild_phys.simulation.wolff import wolff
spins, state = np.ones((8, 8), np.int8), kernel_state(1)
wolff(spins, 2.0, state, 1)
with interruptible():
    print("ready", flush=True)
    wolff(spins, 2.0, state, 10**12)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    assert child.stderr.readline().startswith("stopping at the last commit")
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert child.stderr.read() == "stopped at once\n"
    child.stdout.close()
    child.stderr.close()
