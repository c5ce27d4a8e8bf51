"""A scheduler that is none, keeps silent, or dies: one line each, and the store is resumed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files_of
from distributed import LocalCluster
from numpy.typing import NDArray
from skild_helpers import tiny_weights
from store_helpers import simulate

from skild_phys import executors
from skild_phys.errors import BadInput
from skild_phys.measurement.measure import measure
from skild_phys.methods import SKILD, Exact, Fill, refine
from skild_phys.runner import Run
from skild_phys.simulation.coarsening import coarsen
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.skild.chain import Chain
from skild_phys.skild.coarse import open_coarse
from skild_phys.skild.generate import Generation
from skild_phys.store import open_lattices, open_store, write_lattices

SPEC = SimulationSpec(16, 2.25, 3000, chains=4, every=40, burn_in=100, stint=8)

SCHEDULER = """
import asyncio
from distributed import Scheduler, Worker
async def main():
    async with Scheduler(port=0, host="127.0.0.1", dashboard=False) as head:
        async with Worker(head.address, nthreads=1):
            print(head.address, flush=True)
            await head.finished()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("words", "why"),
    [(b"", "is silent"), (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, "MemoryError")],
)
def test_what_is_no_scheduler_takes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bytes, why: str
) -> None:
    """Planted, seen to fail: the client itself, which waits for ever, or ends in a traceback."""
    monkeypatch.setattr(executors, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def listen() -> None:
            while True:
                try:
                    there, _ = listener.accept()
                except OSError:
                    return
                held.append(there)
                there.sendall(words)

        threading.Thread(target=listen, daemon=True).start()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"dask: '{address}' is not accepted; .*{why}"):
            simulate(SPEC, tmp_path / "a.zarr", dask=address)
        listener.shutdown(socket.SHUT_RDWR)
        for there in held:
            there.close()
    assert not (tmp_path / "a.zarr").exists()


def test_a_scheduler_that_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line and nothing in the log; threads go on from the store to the same bytes.

    Planted, seen to fail: loggers below `distributed` have levels of their own, a traceback.
    """
    child = subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    address, path, made = child.stdout.readline().strip(), tmp_path / "a.zarr", 0

    def kill(count: int) -> None:
        nonlocal made
        made += count
        if made > 400:
            os.kill(child.pid, signal.SIGKILL)

    with caplog.at_level(logging.INFO), pytest.raises(BadInput, match="it is gone; started again"):
        simulate(SPEC, path, dask=address, progress=kill)
    child.communicate()
    assert not [r for r in caplog.records if r.name.startswith("distributed")]
    assert open_store(path).n_samples < 3000
    simulate(SPEC, path, threads=1)
    simulate(SPEC, tmp_path / "b.zarr", threads=1)
    assert files_of(path) == files_of(tmp_path / "b.zarr")


def lattices(n: int) -> NDArray[np.int8]:
    return (2 * np.random.default_rng(1).integers(0, 2, (n, 16, 16)) - 1).astype(np.int8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as running:
        yield running


def made(kind: str, run: Run, folder: Path) -> Path:
    """Make a small store of a kind, from 24 lattices in memory; return where it lies."""
    fine, path = open_lattices(lattices(24)), folder / f"{kind}.zarr"
    if kind == "coarsen":
        coarsen(fine, path, "majority", 4, run)
        return path
    if kind == "generate":
        Generation(tiny_weights(), Chain(steps=2), L=16, samples=8, seed=2).run(path, run)
        return path
    coarse = open_coarse(coarsen(fine, None, "block_mean", 4, Run()).lattices, None, None)
    how = {"skild": SKILD(steps=2, checkpoint=tiny_weights(), any_system=True), "fill": Fill()}
    refine(coarse, path, how.get(kind) or Exact(sweeps=40, T=2.3), run, seed=3, samples_per_input=2)
    return path


@pytest.mark.filterwarnings("ignore::skild_phys.errors.InputWarning")
@pytest.mark.parametrize("kind", ["coarsen", "skild", "exact", "generate"])
def test_workers_make_the_bytes_of_threads(tmp_path: Path, cluster: Any, kind: str) -> None:
    for name in ("dask", "threads"):
        (tmp_path / name).mkdir()
    made(kind, Run(dask=cluster.scheduler_address, chunk=5), tmp_path / "dask")
    made(kind, Run(threads=2, chunk=5), tmp_path / "threads")
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "threads")


@pytest.mark.filterwarnings("ignore::skild_phys.errors.InputWarning")
def test_a_worker_that_is_killed_changes_no_refinement(tmp_path: Path, cluster: Any) -> None:
    """The scheduler gives its work, and the method itself, to the other worker or a new one."""
    killed: list[int] = []

    def kill_one(count: int) -> None:
        if count and not killed:
            killed.append(next(iter(cluster.workers.values())).process.pid)
            os.kill(killed[0], signal.SIGKILL)

    for name in ("dask", "threads"):
        (tmp_path / name).mkdir()
    run = Run(dask=cluster.scheduler_address, chunk=5, progress=kill_one)
    made("exact", run, tmp_path / "dask")
    assert killed
    made("exact", Run(threads=1, chunk=5), tmp_path / "threads")
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "threads")


def test_a_worker_that_is_killed_changes_no_measurement(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 pieces of work of 64 samples; another worker reads again what the dead one had."""
    spins = (2 * np.random.default_rng(2).integers(0, 2, (1024, 128, 128)) - 1).astype(np.int8)
    write_lattices(open_lattices(spins), tmp_path / "a.zarr")
    monkeypatch.setattr("skild_phys.measurement.rows._PIECE", 1)
    killed: list[int] = []

    def kill_one(count: int) -> None:
        if not killed:
            killed.append(next(iter(cluster.workers.values())).process.pid)
            os.kill(killed[0], signal.SIGKILL)

    only = "m,S(k),magnetization_squared"
    found = measure(
        tmp_path / "a.zarr", only=only, dask=cluster.scheduler_address, progress=kill_one
    )
    assert killed
    assert found.identical(measure(tmp_path / "a.zarr", only=only))
