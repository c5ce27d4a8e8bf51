"""The driver: what Ctrl-C or a kill costs, and that nothing but the plan changes a byte."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files_of
from numpy.typing import NDArray

from skild_phys import runner
from skild_phys.errors import BadInput, Interrupted
from skild_phys.runner import Filled, Run, fill_store
from skild_phys.store import Plan, open_store, writer

PLAN = Plan(
    field="field", n_samples=70, shape=(4, 4), chunk=50, attrs={"seed": 0}, variables=("parent",)
)


def make(index: NDArray[np.int64], *given: NDArray[Any], stop: object = None) -> dict[str, Any]:
    time.sleep(0.004 if len(index) < 50 else 0.0)
    fields = [np.random.default_rng(i).normal(size=(4, 4)) for i in index]
    return {"field": np.stack(fields).astype("f4"), "parent": index}


def run(path: Path | None, stop: Callable[[], bool] = lambda: False, **more: Any) -> Filled:
    batch = more.pop("batch", 1)
    return fill_store(path, PLAN, make, Run(threads=1, stop=stop, **more), batch=batch)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_part_full_chunk_is_kept(tmp_path: Path, batch: int) -> None:
    """Stopped once 23 are made: they are kept, and it ends in the same bytes.

    Planted, seen to fail: whole chunks only, which keeps none.
    """
    run(tmp_path / "a.zarr", batch=batch)
    counted = 0

    def progress(count: int) -> None:
        nonlocal counted
        counted += count

    path = tmp_path / "b.zarr"
    with pytest.raises(Interrupted, match=r"interrupted: \d+ of 70 samples are kept"):
        run(path, lambda: counted >= 23, batch=batch, progress=progress)
    kept = open_store(path).n_samples
    assert kept % batch == 0
    assert 23 - batch <= kept < 50
    assert run(path, batch=batch).made == 70 - kept
    assert files_of(tmp_path / "a.zarr") == files_of(path)


def test_commits_by_time_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "a.zarr")
    monkeypatch.setattr(runner, "COMMIT_SECONDS", -1.0)
    commits = []
    commit = writer.StoreWriter.commit

    def counted(self: Any, *args: Any, **options: Any) -> None:
        commit(self, *args, **options)
        commits.append(self.committed)

    monkeypatch.setattr(writer.StoreWriter, "commit", counted)
    run(tmp_path / "b.zarr")
    assert commits == list(range(1, 71))
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_memory_has_the_numbers_of_the_store(tmp_path: Path) -> None:
    there, here = run(tmp_path / "a.zarr").lattices, run(None).lattices
    assert np.array_equal(there.read(0, 70), here.read(0, 70))
    assert np.array_equal(there.variable("parent"), here.variable("parent"))
    with pytest.raises(Interrupted, match="nothing is kept without output="):
        run(None, lambda: True)


def test_ctrl_c_in_python_keeps_what_was_made(tmp_path: Path) -> None:
    told: list[int] = []

    def progress(count: int) -> None:
        if count and not told:  # how many are committed at once depends on the machine
            told.append(count)
            signal.raise_signal(signal.SIGINT)  # heard by this thread, at once

    # What a shell starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            run(tmp_path / "a.zarr", progress=progress)
    finally:
        signal.signal(signal.SIGINT, before)
    run(tmp_path / "a.zarr")
    run(tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("name", "value"), [("threads", 0), ("chunk", 0), ("device", "toaster"), ("dask", "here")]
)
def test_what_no_run_can_have(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^{name}: "):
        Run(**{name: value})
    with pytest.raises(BadInput, match=r"^threads: 1 .* nothing with dask="):
        Run(threads=1, dask="local:2")
