"""Outputs that are no stores: one owner at a time, whole or not there, made again after a kill."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Killed, Mortal, exit_code, files_of

from skild_phys.files import Lock
from skild_phys.store import LatticeStore

Make = Callable[..., LatticeStore]
COMMANDS = (
    "measure {a} --only energy -o {out}/m",
    "measure {a} --only energy -o {out}/m.nc",
    "measure {a} --only energy -o {out}/m.csv",
    "measure {a} --only energy -o {out}/m.zarr",
    "compare {a} {b} --no-figures -o {out}/report",
    "spectrum {a} -o {out}/p.png",
    "scaling {a} {b} -o {out}/s",
    "images convert {a}/zarr.json --preset cifar10 -o {out}/w.safetensors",
    "run {campaign} -o {out}/run",
)


@pytest.fixture
def named(tmp_path: Path, make_store: Make) -> dict[str, Path]:
    """Return what the commands above name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "c.toml").write_text('[simulate]\nL = 4\nT = "Tc"\nsamples = 2\n')
    stores = {name: make_store(name=f"{name}.zarr").path for name in "ab"}
    return stores | {"out": tmp_path / "out", "campaign": tmp_path / "c.toml"}


@pytest.mark.parametrize("words", COMMANDS)
def test_an_output_has_one_owner(
    named: dict[str, Path], capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """The second command on one output is refused before it computes anything.

    Planted, seen to fail: `claim_output` that only checks.
    """
    words = words.format(**named)
    output = Path(words.split()[-1])
    with Lock(output, beside=True):
        assert exit_code(*words.split()) == 2
    assert f"error: {output}: is being written by another process\n" in capsys.readouterr().err
    assert os.listdir(named["out"]) == []


@pytest.mark.parametrize("full", [False, True], ids=["killed", "disk full"])
@pytest.mark.parametrize("words", [c for c in COMMANDS if c.startswith(("measure", "compare"))])
def test_what_was_not_finished_is_made_again(
    named: dict[str, Path], monkeypatch: pytest.MonkeyPatch, words: str, full: bool
) -> None:
    """A run that ends at any change of the disk leaves all of the output or nothing in its way.

    Planted, seen to fail: a directory that is made before its files.
    """
    words = words.format(**named)
    mortal = Mortal(monkeypatch, OSError(28, "No space left on device") if full else None)
    assert exit_code(*words.split()) == 0
    steps, wanted = -1 - mortal.left, files_of(named["out"])
    output = Path(words.split()[-1])
    for step in range(0, steps, max(1, steps // 8)):
        again = output.with_name(f"{step}{output.suffix}")
        command = words.replace(str(output), str(again))
        mortal.left = step
        if full:
            assert exit_code(*command.split()) in (0, 3)
        else:
            with pytest.raises(Killed):
                exit_code(*command.split())
        mortal.left = -1
        assert again.exists() or exit_code(*command.split()) == 0
        renamed = {name.replace(output.name, again.name, 1): data for name, data in wanted.items()}
        found = files_of(named["out"])
        left = {name for name in found if name.split("/")[0].startswith(".")}
        assert not {n for n in left if not n.endswith(".lock")}, (step, left)
        mine = {n: d for n, d in found.items() if n.split("/")[0] == again.name}
        assert mine.keys() == renamed.keys()
        assert "compare" in words or mine == renamed


def test_a_directory_keeps_what_else_it_holds(named: dict[str, Path]) -> None:
    output = named["out"] / "m"
    words = f"measure {named['a']} --only energy -o {output}"
    assert exit_code(*words.split()) == 0
    (output / "notes").write_text("mine")
    (output / "measure.csv").write_text("old")
    assert exit_code(*words.split()) == 2
    assert exit_code(*words.split(), "--overwrite") == 0
    assert (output / "notes").read_text() == "mine"
    assert (output / "measure.csv").read_text() != "old"


def test_reports_go_through_links_to_other_file_systems(named: dict[str, Path]) -> None:
    """Planted, seen to fail: files made beside the link ("Invalid cross-device link")."""
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == named["out"].stat().st_dev:
        pytest.skip("no other file system")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        (Path(folder) / "there").mkdir()
        for name, target in (("there", "there"), ("new", "new")):
            link = named["out"] / name
            link.symlink_to(Path(folder) / target)
            words = f"compare {named['a']} {named['b']} --no-figures --overwrite -o {link}"
            for _ in range(2):
                assert exit_code(*words.split()) == 0
                assert link.is_symlink()
                assert "report.html" in os.listdir(Path(folder) / target)
        assert sorted(os.listdir(folder)) == ["new", "there"]
        with Lock(Path(folder) / "there", beside=True):
            assert exit_code(*words.replace("/new", "/there").split()) == 2
        assert not [n for n in os.listdir(Path(folder) / "there") if n.startswith(".")]


@pytest.mark.parametrize(
    "words",
    [
        "compare {b} {b} --no-figures --overwrite -o {a}",
        "measure {b} --overwrite -o {a}/m",
        "run {campaign} -o {a}",
        "run {campaign} -o {a}/run",
        "run {campaign} -o {campaign}",
    ],
)
def test_nothing_is_written_into_a_store(
    named: dict[str, Path], capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """Planted, seen to fail: a check of the folders above the output alone."""
    before = files_of(named["a"].parent)
    assert exit_code(*words.format(**named).split()) == 2
    assert capsys.readouterr().err.startswith("error: -o: ")
    assert files_of(named["a"].parent) == before
