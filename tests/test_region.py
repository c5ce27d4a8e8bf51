"""Lattices that several processes write ahead of the commit: the bytes of an ordinary one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import Samples, files_of, random_samples, store_options

from skild_phys.errors import StoreError
from skild_phys.store import Region, StoreWriter, create_store, open_store


def scalars(start: int, stop: int) -> Samples:
    samples = random_samples(start, stop)
    del samples["spins"]
    return samples


def write(region: Region, start: int, stop: int) -> None:
    region.write(start, random_samples(start, stop)["spins"])


def state(stop: int) -> Samples:
    return {"rng": np.array([stop])}


def commit(writer: StoreWriter, stop: int, parts: list[tuple[int, int]]) -> None:
    region = pickle.loads(pickle.dumps(writer.region()))
    for part in parts:
        write(region, *part)
    start = writer.committed
    writer.commit(scalars(start, stop), state(stop), written=stop - start)


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, bytes]:
    """Return the files of a store of 18 samples, made by one ordinary commit."""
    with create_store(tmp_path / "wanted.zarr", **store_options(18)) as writer:
        writer.commit(random_samples(0, 18), state(18))
    return files_of(tmp_path / "wanted.zarr")


@pytest.mark.parametrize(
    "commits",
    [
        {18: [(0, 18)]},
        {18: [(8, 18), (0, 4), (4, 8)]},
        {6: [(0, 6)], 18: [(6, 8), (12, 18), (8, 12)]},
        {1: [(0, 1)], 2: [(1, 2)], 3: [(2, 3)], 13: [(3, 13)], 18: [(13, 16), (16, 18)]},
    ],
)
def test_bytes_are_those_of_an_ordinary_commit(
    tmp_path: Path, wanted: dict[str, bytes], commits: dict[int, list[tuple[int, int]]]
) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        for stop, parts in commits.items():
            commit(writer, stop, parts)
            assert open_store(tmp_path / "a.zarr").read(0, stop).shape == (stop, 4, 4)
    assert files_of(tmp_path / "a.zarr") == wanted


def test_ordinary_commits_may_come_in_between(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        writer.commit(random_samples(0, 6), state(6))
        commit(writer, 11, [(6, 11)])
        writer.commit(random_samples(11, 18), state(18))
    assert files_of(tmp_path / "a.zarr") == wanted


def test_two_processes_write_their_regions(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        writer.commit(random_samples(0, 2), state(2))
        region = writer.region()
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(2) as pool:
            pool.starmap(write, [(region, 2, 8), (region, 8, 18)], chunksize=1)
        assert open_store(tmp_path / "a.zarr").n_samples == 2
        writer.commit(scalars(2, 18), state(18), written=16)
    assert files_of(tmp_path / "a.zarr") == wanted


@pytest.mark.parametrize("parts", [[(6, 18)], [(6, 8)], [(8, 14)], [(16, 18)]])
def test_killed_before_the_commit(
    tmp_path: Path, wanted: dict[str, bytes], parts: list[tuple[int, int]]
) -> None:
    """What regions wrote is no sample yet: the store reads as before, and the rest is cleared."""
    path, other = tmp_path / "a.zarr", tmp_path / "b.zarr"
    with create_store(other, **store_options(18)) as writer:
        writer.commit(random_samples(0, 6), state(6))
    with create_store(other, **store_options(18)):
        before = files_of(other)
    with create_store(path, **store_options(18)) as writer:
        commit(writer, 6, [(0, 6)])
        for part in parts:
            write(writer.region(), *part)
        (path / "spins" / ".c.1.0.0.1-2.partial").write_bytes(b"half of")
        store = open_store(path)
        assert store.n_samples == 6
        np.testing.assert_array_equal(store.read(0, 6), random_samples(0, 6)["spins"])
    with create_store(path, **store_options(18)) as writer:
        assert files_of(path) == before
        assert writer.state["rng"].tolist() == [6]
        commit(writer, 18, [(6, 18)])
    assert files_of(path) == wanted


def test_a_worker_that_died_leaves_nothing_in_the_finished_store(
    tmp_path: Path, wanted: dict[str, bytes]
) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        (tmp_path / "a.zarr" / "spins" / ".c.1.0.0.1-2.partial").write_bytes(b"half of")
        commit(writer, 18, [(0, 18)])
    assert files_of(tmp_path / "a.zarr") == wanted


@pytest.mark.parametrize(
    ("stop", "parts", "words"),
    [
        (8, [], r"samples 6\.\.7 hold spins other than"),
        (18, [], r"chunk c\.2\.0\.0 is missing"),
        (18, [(6, 8)], r"chunk c\.2\.0\.0 is missing"),
        (18, [(8, 18)], r"samples 6\.\.7 hold spins other than"),
        (18, [(6, 8), (12, 18)], r"chunk c\.2\.0\.0 is missing"),
        (18, [(6, 17)], r"samples 16\.\.17 hold spins other than"),
    ],
)
def test_what_is_not_written_is_not_committed(
    tmp_path: Path, stop: int, parts: list[tuple[int, int]], words: str
) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        writer.commit(random_samples(0, 6), state(6))
        with pytest.raises(StoreError, match=words):
            commit(writer, stop, parts)
        assert (writer.committed, open_store(tmp_path / "a.zarr").n_samples) == (6, 6)


def test_writes_that_are_refused(tmp_path: Path) -> None:
    spins = random_samples(0, 18)["spins"]
    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        writer.commit(random_samples(0, 6), state(6))
        region = writer.region()
        before = files_of(tmp_path / "a.zarr")
        for first, rows in ((5, spins[5:8]), (17, spins[:2]), (8, spins[:0])):
            with pytest.raises(ValueError, match="samples from"):
                region.write(first, rows)
        for wrong in (spins[8:10, 1:], spins[8:10].astype(float)):
            with pytest.raises(ValueError, match="variable 'spins'"):
                region.write(8, wrong)
        with pytest.raises(StoreError, match="spins other than"):
            region.write(8, 0 * spins[8:10])
        with pytest.raises(StoreError, match=r"samples 4\.\.6 hold spins other than"):
            region.write(7, spins[7:8])
        with pytest.raises(StoreError, match=r"chunk c.2.0.0 is missing"):
            region.write(9, spins[9:10])
        assert files_of(tmp_path / "a.zarr") == before
        with pytest.raises(ValueError, match="energy, chain"):
            writer.commit(random_samples(6, 8), written=2)


def test_written_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    with create_store(tmp_path / "a.zarr", **store_options(18)) as writer:
        monkeypatch.setattr(os, "fsync", record)
        write(writer.region(), 0, 8)
    folder = str(tmp_path / "a.zarr" / "spins")
    files = [name.removeprefix(folder)[:7] for name in synced if name.startswith(folder)]
    assert files == ["/.c.0.0", "", "/.c.1.0", ""]


def test_a_region_of_an_ended_run_writes_nothing(tmp_path: Path) -> None:
    """A worker that outlives its run meets the store of a later one, or another, or none."""
    path = tmp_path / "a.zarr"
    with create_store(path, **store_options(18)) as writer:
        late = writer.region()
    with create_store(path, **store_options(18), overwrite=True) as writer:
        commit(writer, 18, [(0, 18)])
    before = files_of(path)
    with pytest.raises(StoreError, match="is not, seen from here, the store"):
        write(late, 0, 8)
    assert files_of(path) == before


def test_a_region_knows_its_store_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with create_store("a.zarr", **store_options(18)) as writer:
        region = writer.region()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        write(region, 0, 8)
    assert (tmp_path / "a.zarr" / "spins" / "c.0.0.0").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_store_that_was_replaced_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with create_store(path, **store_options(18)) as old:
        path.rename(tmp_path / "moved.zarr")
        with create_store(path, **store_options(18)) as new:
            new.commit(random_samples(0, 18), state(18))
        before = files_of(path)
        with pytest.raises(StoreError, match="was removed or replaced"):
            old.commit(random_samples(0, 4), state(4))
    assert files_of(path) == before
