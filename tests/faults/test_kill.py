"""Real processes that are killed: the next run ends with the bytes of a run never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import files_of

from skild_phys.simulate.chain import SimulationSpec, simulate
from skild_phys.store import open_store

SAMPLES, CHUNK = 600, 16

SPEC = {"L": 16, "temperature": 2.25, "chains": 3, "every": 40}

# Prints a line after each commit; commits as often as it can.
REPORT = """
import sys
from skild_phys.simulate import chain
chain.COMMIT_SECONDS = 0.01
plain = chain.StoreWriter.commit
def commit(*arguments):
    plain(*arguments)
    print("committed", flush=True)
chain.StoreWriter.commit = commit
"""
SIMULATE = f"""
spec = chain.SimulationSpec(n_samples=int(sys.argv[2]), **{SPEC})
chain.simulate(spec, sys.argv[1], chunk={CHUNK})
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


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "killed" / "a.zarr"
    path.parent.mkdir()
    kept = [0]
    for delay in np.random.default_rng(8).uniform(0.02, 0.5, 3):
        child = start(REPORT + SIMULATE, str(path), str(SAMPLES))
        time.sleep(delay)
        child.kill()
        child.communicate()
        kept.append(open_store(path).n_samples)
    assert kept == sorted(kept)
    assert kept[1] > 0
    spec = SimulationSpec(n_samples=SAMPLES, **SPEC)  # type: ignore[arg-type]
    if kept[-1] < SAMPLES:
        simulate(spec, path, chunk=CHUNK)
    simulate(spec, tmp_path / "a.zarr", chunk=CHUNK)
    assert files_of(path) == files_of(tmp_path / "a.zarr")


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
    child = start(REPORT + SIMULATE, str(path), "1000000")
    words = ["simulate", "--L", "16", "--T", "2.25", "-n", "10", "-o", str(path)]
    second = subprocess.run(
        [sys.executable, "-c", "import sys" + COMMAND, *words],
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
    """Inside one long call no handler of Python runs; both Ctrl-C are heard all the same."""
    script = """
import numpy as np
from skild_phys.cli.options import interruptible
from skild_phys.rng import kernel_state
from skild_phys.simulate.wolff import wolff
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
