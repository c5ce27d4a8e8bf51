from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skild_phys.errors import BadInput, StoreError, WriteError
from skild_phys.files import (
    Lock,
    check_output,
    check_there,
    make_directory,
    parse_json,
    read_toml,
    sha256_file,
    write_bytes_atomically,
)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"spins")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"spins").hexdigest()


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes_atomically(path, b"one")
    write_bytes_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_refused_write_keeps_the_old_and_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a"
    write_bytes_atomically(path, b"old")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(WriteError, match="a: cannot write: No space left on device"):
        write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_write_into_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No such file"):
        write_bytes_atomically(tmp_path / "no" / "a", b"")
    with pytest.raises(WriteError, match="No such file"):
        make_directory(tmp_path / "no" / "a")


@pytest.mark.parametrize("kind", ["directory", "file", "nothing"])
def test_second_holder_of_a_lock_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "target"
    if kind == "directory":
        path.mkdir()
    if kind == "file":
        path.write_bytes(b"x")
    before = sorted(os.listdir(tmp_path))
    with Lock(path):
        with pytest.raises(StoreError, match="is being written by another process"):
            Lock(path).acquire()
        code = f"from skild_phys.files import Lock; Lock({str(path)!r}).acquire()"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert b"is being written by another process" in other.stderr
    with Lock(path):
        pass
    assert sorted(os.listdir(tmp_path)) == before


def test_output_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "old").write_bytes(b"")
    source = tmp_path / "in.zarr"
    for path, overwrite, words in [
        (tmp_path / "old", False, "overwrite=True"),
        (tmp_path / "no" / "x", True, "a directory that exists"),
        (source, True, "apart from the input"),
        (source / "x", True, "apart from the input"),
        (tmp_path / "old" / ".." / "in.zarr" / "x", True, "apart from the input"),
        (tmp_path, True, "apart from the input"),
    ]:
        with pytest.raises(BadInput, match=words) as refused:
            check_output(path, overwrite=overwrite, inputs=[source], option="out")
        assert str(refused.value).startswith("out: ")


@pytest.mark.parametrize("name", ["a.zarr/b.zarr", "a.zarr/spins/b.zarr"])
def test_output_inside_a_store_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zarr" / "spins").mkdir(parents=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(BadInput, match="a path outside the store"):
        check_output(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", [".", ".."])
def test_output_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="a path that ends in a name"):
        check_output(name, overwrite=True)


def test_output_that_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "old").write_bytes(b"")
    check_output(tmp_path / "old", overwrite=True, inputs=[tmp_path / "in.zarr"])
    check_output(tmp_path / "new", overwrite=False, inputs=[tmp_path / "in.zarr"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BadInput, match="may write"):
        check_output(tmp_path / "locked" / "x", overwrite=False)


def test_paths_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "in").mkdir()
    for name in ("loop", "loop/x", "x" * 300):
        for arguments in ({}, {"inputs": [tmp_path / "in"]}):
            with pytest.raises(BadInput, match=r"output: .* can be used"):
                check_output(tmp_path / name, overwrite=True, **arguments)
        with pytest.raises(StoreError, match="cannot be read"):
            check_there(tmp_path / name)
    with pytest.raises(BadInput, match="does not exist"):
        check_output(tmp_path / "dangling", overwrite=False)
    with pytest.raises(WriteError, match="dangling"):
        make_directory(tmp_path / "dangling")
    with pytest.raises(StoreError, match="no such file"):
        check_there(tmp_path / "dangling")
    with pytest.raises(StoreError, match="no such file"):
        check_there(Path(__file__) / "x")

    def denied(*arguments: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(BadInput, match="can be used: Permission denied"):
        check_output(tmp_path / "x", overwrite=True)


def test_records_that_cannot_be_kept_in_numbers_or_on_the_stack() -> None:
    """Planted, seen to fail: `json.loads` alone (RecursionError, inf, 10^400)."""
    for text in ("[" * 100_000, "[" * 70 + "]" * 70, "NaN", "[Infinity]", "1e400", "1" * 400):
        with pytest.raises(ValueError, match=r"deep|finite"):
            parse_json(text)
    assert parse_json('{"a": [1, 2.5]}') == {"a": [1, 2.5]}
    assert parse_json("NaN", finite=False) != 0


def test_toml_that_is_too_deep_or_no_file_takes_one_line(tmp_path: Path) -> None:
    """Planted, seen to fail: the RecursionError of tomllib; a FIFO waits for ever."""
    path = tmp_path / "a.toml"
    path.write_text("a = " + "[" * 500 + "]" * 500)
    os.mkfifo(tmp_path / "fifo")
    for bad, words in ((path, "deep"), (tmp_path / "fifo", "FIFO"), (Path("/dev/zero"), "device")):
        with pytest.raises(BadInput, match=words):
            read_toml(bad, "--config")


def test_devices_are_no_outputs(tmp_path: Path) -> None:
    """A rename would replace /dev/null. Planted, seen to fail: no such check."""
    os.mkfifo(tmp_path / "fifo")
    for path in ("/dev/null", tmp_path / "fifo"):
        with pytest.raises(BadInput, match="not a device or a FIFO"):
            check_output(path, overwrite=True)
