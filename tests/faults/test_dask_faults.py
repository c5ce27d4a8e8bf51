"""A scheduler that is none, keeps silent, or dies: one line each, and the store is resumed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import files_of
from store_helpers import simulate

from skild_phys import executors
from skild_phys.errors import BadInput
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store

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
