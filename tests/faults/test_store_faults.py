"""Damaged stores, refused writes, and a process that dies at each of its system calls."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import Killed, Mortal, files_of, random_samples, store_options

import skild_phys as sp
from skild_phys.errors import SkildPhysError, StoreError, WriteError
from skild_phys.store import LatticeStore, create_store, open_store
from skild_phys.store.reader import root_record

Make = Callable[..., LatticeStore]


def read_everything(path: Path) -> None:
    """Read all that a store holds; for its state, open it as if to append."""
    store = open_store(path)
    store.read(0, store.n_samples)
    for name in store.variables:
        store.variable(name)
    with create_store(path, **store_options(store.n_samples + 1)):
        pass


def assert_refused(path: Path, *words: str) -> None:
    with pytest.raises(StoreError) as refused:
        read_everything(path)
    message = str(refused.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message


def rewrite_root(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change (attributes, nodes) of a store and seal it with a valid checksum."""
    root = json.loads((path / "zarr.json").read_bytes())
    attributes, nodes = root["attributes"], root["consolidated_metadata"]["metadata"]
    del attributes["sha256"]
    change(attributes, nodes)
    (path / "zarr.json").write_text(json.dumps(root_record(attributes, nodes)))


@pytest.mark.parametrize("size", [0, 1, 4, 20, -1])
@pytest.mark.parametrize("file", ["spins/c.1.0.0", "energy/c.0", "zarr.json", "spins/zarr.json"])
def test_truncated(make_store: Make, file: str, size: int) -> None:
    path = make_store(10).path
    data = (path / file).read_bytes()
    (path / file).write_bytes(data[:size])
    if file.endswith(".json") and data[:size] == data.rstrip():
        return
    variable = [] if file == "zarr.json" else [file.split("/")[0]]
    assert_refused(path, file.split("/")[-1], *variable)


@pytest.mark.parametrize("file", ["spins/c.0.0.0", "spins/c.2.0.0", "chain/c.0"])
def test_missing_chunk(make_store: Make, file: str) -> None:
    path = make_store(10).path
    (path / file).unlink()
    variable, chunk = file.split("/")
    with pytest.raises(StoreError, match=f"'{variable}': chunk {chunk} is missing"):
        open_store(path)


def test_chunk_that_goes_missing_after_opening(make_store: Make) -> None:
    store = make_store(10)
    (store.path / "spins" / "c.1.0.0").unlink()
    store.read(0, 4)
    with pytest.raises(StoreError, match=r"chunk c.1.0.0 is missing"):
        store.read(0, 10)


def test_missing_variable_and_missing_record(make_store: Make) -> None:
    path = make_store(10).path
    shutil.rmtree(path / "energy")
    assert_refused(path, "energy")
    (path / "zarr.json").unlink()
    assert_refused(path, "zarr.json is missing")
    shutil.rmtree(path)
    assert_refused(path, "no such store")


def test_every_kind_of_flipped_bit_is_seen(make_store: Make, tmp_path: Path) -> None:
    """Single-bit flips, 12 at random places of every file of a store: none may pass."""
    path = make_store(6).path
    rng = np.random.default_rng(1)
    passed = []
    for file, data in files_of(path).items():
        for bit in rng.integers(0, 8 * len(data.rstrip(b"\n")), 12):
            altered = bytearray(data)
            altered[bit // 8] ^= 1 << (bit % 8)
            (path / file).write_bytes(altered)
            try:
                read_everything(path)
                passed.append((file, int(bit)))
            except SkildPhysError:
                pass
            (path / file).write_bytes(data)
    assert passed == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("spins", 0, "spins other than -1 and +1"),
        ("spins", 127, "spins other than -1 and +1"),
        ("energy", np.nan, "NaN or infinity"),
        ("chain", -1, "a negative number"),
    ],
)
def test_values_that_no_sample_has(
    make_store: Make, variable: str, value: float, words: str
) -> None:
    path = make_store(10).path
    array = zarr.open_array(path / variable, mode="r+")
    array[7] = value
    assert_refused(path, f"'{variable}'", "is not the one that was written here")
    rewrite_root(path, without_digests)
    assert_refused(path, f"'{variable}'", words)


def without_digests(attributes: dict[str, Any], nodes: dict[str, Any]) -> None:
    """Make the root what releases before digests wrote."""
    del nodes["digests"]


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("spins/c.0.0.0", "spins/c.0.0.0"),
        ("spins/c.1.0.0", "spins/c.0.0.0"),
        ("spins/c.2.0.0", "spins/c.2.0.0"),
        ("energy/c.0", "energy/c.0"),
        ("chain/c.0", "chain/c.0"),
        ("state/10/rng/c.0", "state/10/rng/c.0"),
    ],
)
def test_a_chunk_of_another_store_or_place(
    make_store: Make, tmp_path: Path, file: str, place: str
) -> None:
    """Chunks that are whole, with a right checksum, but not those that were written there.

    Planted, seen to fail: `decode` that compares no digests.
    """
    path = make_store(10).path
    other = tmp_path / "other.zarr"
    with create_store(other, **store_options(10)) as writer:
        writer.commit(random_samples(0, 10, seed=5) | {"chain": np.arange(10)}, {"rng": np.ones(4)})
    shutil.copyfile((path if file != place else other) / file, path / place)
    name, chunk = place.rsplit("/", 1)
    words = f"variable '{name}': chunk {chunk}"
    assert_refused(path, words)
    if not place.startswith("state"):
        with pytest.raises(StoreError, match=words):
            open_store(path).verify()
        with pytest.raises(StoreError, match=words):
            sp.open_dataset(path)


def test_what_another_store_kept(tmp_path: Path) -> None:
    """Planted, seen to fail: arrays that are taken up if the samples are as many."""
    for name, seed in (("a", 0), ("b", 1)):
        options = store_options(4, attrs={"model": "ising2d", "L": 4, "seed": seed})
        with create_store(tmp_path / name, **options) as writer:
            writer.keep({"burnt": np.array(seed)})
    with create_store(tmp_path / "b", **options) as writer:
        assert writer.kept["burnt"] == 1
    shutil.copyfile(tmp_path / "a" / "kept.npz", tmp_path / "b" / "kept.npz")
    with create_store(tmp_path / "b", **options) as writer:
        assert writer.kept == {}


def test_nothing_is_appended_to_a_damaged_store(make_store: Make) -> None:
    """Planted, seen to fail: a resumed writer that looks at the last chunk alone."""
    path = make_store(10).path
    data = bytearray((path / "spins" / "c.0.0.0").read_bytes())
    data[20] ^= 1
    (path / "spins" / "c.0.0.0").write_bytes(data)
    before = files_of(path)
    with pytest.raises(StoreError, match=r"'spins': chunk c.0.0.0 is damaged"):
        create_store(path, **store_options(12))
    assert files_of(path) == before


@pytest.mark.parametrize("committed", [0, 3, 8])
def test_a_store_without_digests_is_read_and_resumed(tmp_path: Path, committed: int) -> None:
    """Releases before digests wrote it; resumed, it ends with the bytes of one run.

    Planted, seen to fail: a writer that has only the digests of the chunks that it wrote.
    """
    for name, stops in (("old", (committed, 10)), ("whole", (10,))):
        for stop in stops:
            with create_store(tmp_path / name, **store_options(10)) as writer:
                if stop:
                    start = writer.committed
                    writer.commit(random_samples(start, stop), {"rng": np.array([stop])})
            if name == "old" and stop < 10:
                rewrite_root(tmp_path / name, lambda a, nodes: nodes.pop("digests", None))
                open_store(tmp_path / name).verify()
    assert files_of(tmp_path / "old") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_type", "float64"),
        ("shape", [10, 4, 5]),
        ("shape", [10, 4]),
        ("shape", [9, 4, 4]),
        ("shape", "10"),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [0, 4, 4]}}),
        ("codecs", [{"name": "bytes"}]),
        ("fill_value", 1),
    ],
)
def test_wrong_type_or_shape(make_store: Make, key: str, value: object) -> None:
    path = make_store(10).path
    rewrite_root(path, lambda attributes, nodes: nodes["spins"].update({key: value}))
    assert_refused(path, "'spins'")


def test_array_that_disagrees_with_the_root(make_store: Make) -> None:
    path = make_store(10).path
    record = json.loads((path / "spins" / "zarr.json").read_bytes())
    record["data_type"] = "uint8"
    (path / "spins" / "zarr.json").write_text(json.dumps(record))
    assert_refused(path, "'spins'", "data_type is 'uint8', expected 'int8'")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"schema_version": 2}, "schema_version 2 is unknown"),
        ({"schema_version": "1"}, "schema_version '1' is unknown"),
        ({"samples_committed": -1}, "samples_committed"),
        ({"samples_committed": "all"}, "samples_committed"),
        ({"samples_committed": 9}, "shape is [10, 4, 4], expected [9, 4, 4]"),
    ],
)
def test_wrong_attributes(make_store: Make, changed: dict[str, Any], words: str) -> None:
    path = make_store(10).path
    rewrite_root(path, lambda attributes, nodes: attributes.update(changed))
    assert_refused(path, words)


def test_edited_attributes(make_store: Make) -> None:
    path = make_store(10).path
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"temperature": 2.25', '"temperature": 2.26'))
    assert_refused(path, "zarr.json was altered")


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x93NUMPY")
    (tmp_path / "empty").mkdir()
    zarr.create_group(tmp_path / "other.zarr", attributes={"a": 1})
    zarr.save_array(tmp_path / "array.zarr", np.ones((2, 2, 2)))
    zarr.save_array(tmp_path / "old.zarr", np.ones((2, 2, 2)), zarr_format=2)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "zarr.json").write_text("[1]")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "zarr.json").write_text("[" * 200_000)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "zarr.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "zarr.json").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(StoreError) as refused:
            open_store(path)
        assert str(path) in str(refused.value)


def write_in_commits(path: Path, ahead: bool = False) -> None:
    """Write 9 samples in two commits; with `ahead` a region writes the lattices before each."""
    options = store_options(9, variables=("energy",))
    with create_store(path, **options) as writer:
        while writer.committed < 9:
            start = writer.committed
            stop = min(start + 6, 9)
            arrays = random_samples(start, stop)
            del arrays["chain"]
            written = stop - start if ahead else None
            if ahead:
                writer.region().write(start, arrays.pop("spins"))
            writer.commit(arrays, {"rng": np.array([stop])}, written=written)


@pytest.mark.parametrize("ahead", [False, True])
def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool) -> None:
    """Whatever the last system call was, the next run ends with the bytes of one run."""
    mortal = Mortal(monkeypatch)
    write_in_commits(tmp_path / "whole.zarr")
    steps = -1 - mortal.left
    wanted = files_of(tmp_path / "whole.zarr")
    for step in range(steps):
        path = tmp_path / f"{step}.zarr"
        mortal.left = step
        with pytest.raises(Killed):
            write_in_commits(path, ahead)
        mortal.left = -1
        assert samples_left(path) in (0, 6, 9)
        write_in_commits(path, ahead)
        assert files_of(path) == wanted, step


def samples_left(path: Path) -> int:
    """Return how many samples can be read; 0 for a store that is only just being made."""
    records = (path / name / "zarr.json" for name in (".", "spins", "energy"))
    if not all(record.exists() for record in records):
        return 0
    store = open_store(path)
    store.read(0, store.n_samples)
    store.variable("energy")
    return store.n_samples


def test_disk_full_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refused call ends in a WriteError that names a path, with the last commit intact."""
    mortal = Mortal(monkeypatch, OSError(28, "No space left on device"))
    write_in_commits(tmp_path / "whole.zarr")
    steps = -1 - mortal.left
    for step in range(0, steps, 3):
        path = tmp_path / f"{step}.zarr"
        mortal.left = step
        with pytest.raises(WriteError, match=str(path)) as refused:
            write_in_commits(path)
        assert "No space left on device" in str(refused.value)
        mortal.left = -1
        assert samples_left(path) in (0, 6, 9)


@pytest.mark.parametrize("planned", [6, 7, 9])
def test_what_a_kill_left_behind_is_cleared(tmp_path: Path, planned: int) -> None:
    """Files of an unfinished commit go, also where a smaller plan now ends before it."""

    def run(path: Path, cuts: list[int], n_samples: int) -> None:
        with create_store(path, **store_options(n_samples)) as writer:
            for stop in cuts:
                if stop > writer.committed:
                    writer.commit(random_samples(writer.committed, stop), {"rng": np.array([stop])})

    path = tmp_path / "a.zarr"
    run(path, [6], 9)
    committed = files_of(path)
    run(path, [9], 9)
    for file in ("zarr.json", "spins/zarr.json", "energy/zarr.json", "chain/zarr.json"):
        (path / file).write_bytes(committed[file])
    for file in (f for f in committed if f.startswith("state/6/")):
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_bytes(committed[file])
    for file in (".zarr.json.1-2.partial", "spins/.c.2.0.0.1-2.partial", "state/6/.x.1-2.partial"):
        (path / file).write_bytes(b"half of")
    run(path, [planned], planned)
    run(tmp_path / "b.zarr", [6, planned], planned)
    assert files_of(path) == files_of(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("states", {"attributes": {}}),
        ("states", {"attributes": {"flag_values": []}}),
        ("states", {"attributes": {"flag_values": [0]}}),
        ("states", {"attributes": {"flag_values": [0, 1, 3]}}),
        ("states", {"attributes": {"flag_values": 3}}),
        ("states", {"attributes": {"flag_values": list(range(128))}}),
        ("states", {"attributes": None}),
        ("states", {"dimension_names": ["sample", "z", "y", "x"]}),
        ("states", {"shape": [4, 2, 2, 2, 2]}),
        ("state_count", {"shape": [4, 2, 2]}),
        ("state_count", {"shape": [4, 1, 2, 2]}),
        ("state_count", {"shape": [4, 200, 2, 2]}),
        ("state_count", {"attributes": {"scale_factor": 0.0}}),
        ("state_count", {"dimension_names": ["sample", "z", "y", "x"]}),
    ],
)
def test_wrong_states(tmp_path: Path, field: str, change: dict[str, Any]) -> None:
    path = tmp_path / "a.zarr"
    values = np.zeros((4, 2, 2), np.int8)
    if field == "state_count":
        values = np.full((4, 2, 2, 2), 2, np.int16)
    options = store_options(4, field=field, shape=(2, 2), variables=(), attrs={}, q=2)
    with create_store(path, **options, scale=0.25 if field == "state_count" else 1.0) as writer:
        writer.commit({field: values})
    assert open_store(path).q == 2
    rewrite_root(path, lambda attributes, nodes: nodes[field].update(change))
    with pytest.raises(StoreError, match=f"variable '{field}'") as refused:
        open_store(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [10**400, 10**30, -1, 0.5, "text", [], {}, True, math.inf])
@pytest.mark.parametrize("key", ["samples_planned", "seed", "L", "model", "rule", "factor"])
def test_odd_attributes_under_a_right_digest(make_store: Make, key: str, value: object) -> None:
    """Planted, seen to fail: no check of kinds (tracebacks of `int`, `replace`, `float`)."""
    store = make_store(4)
    root = json.loads((store.path / "zarr.json").read_text())
    attrs = root["attributes"] | {key: value}
    del attrs["sha256"]
    nodes = root["consolidated_metadata"]["metadata"]
    (store.path / "zarr.json").write_text(json.dumps(root_record(attrs, nodes)))
    fits = {"seed": (10**30,), "factor": (), "rule": ("text",), "model": ("text",)}
    if value in fits.get(key, ()):
        open_store(store.path)
        return
    with pytest.raises(StoreError, match=rf"'{key}' is|not valid JSON"):
        open_store(store.path)


def test_a_fifo_in_place_of_a_file_is_not_read(make_store: Make) -> None:
    """Planted, seen to fail: `read_bytes` of it waits for ever."""
    path = make_store(4).path
    for file in ("spins/c.0.0.0", "zarr.json"):
        (path / file).unlink()
        os.mkfifo(path / file)
        with pytest.raises(StoreError, match="FIFO"):
            open_store(path).read(0, 4)
