"""What Ctrl-C or a kill costs of lattices that are made one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files_of
from numpy.typing import NDArray

from skild_phys.errors import Interrupted
from skild_phys.skild import produce as module
from skild_phys.skild.produce import produce
from skild_phys.store import open_store, writer


def make(index: Any) -> NDArray[Any]:
    time.sleep(0.004)
    return np.stack([np.random.default_rng(i).normal(size=(4, 4)) for i in index]).astype("f4")


def run(path: Path, stop: Callable[[], bool] = lambda: False, **more: Any) -> int:
    return produce(
        path, make, field="field", n_samples=70, shape=(4, 4), chunk=50, attrs={"seed": 0},
        extra=lambda lattices, index: {"parent": index}, variables=("parent",), threads=1,
        stop=stop, **more,
    )  # fmt: skip


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
    assert run(path, batch=batch) == 70 - kept
    assert files_of(tmp_path / "a.zarr") == files_of(path)


def test_commits_by_time_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "a.zarr")
    monkeypatch.setattr(module, "COMMIT_SECONDS", -1.0)
    commits = []
    commit = writer.StoreWriter.commit

    def counted(self: Any, *args: Any, **options: Any) -> None:
        commit(self, *args, **options)
        commits.append(self.committed)

    monkeypatch.setattr(writer.StoreWriter, "commit", counted)
    run(tmp_path / "b.zarr")
    assert commits == list(range(1, 71))
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
