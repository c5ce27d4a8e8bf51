"""What reaches the terminal, whatever names, locales and streams are like."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import exit_code

from skild_phys.files import printable
from skild_phys.store import LatticeStore, create_store, open_lattices

Make = Callable[..., LatticeStore]
STRANGE = os.fsdecode(b"a\x1b[31m\x9b7\xff\x07\rb.zarr")
"""A name with an escape sequence, a bell, a carriage return, and bytes that are not UTF-8."""


def test_escapes_are_those_that_json_reads_back() -> None:
    assert printable("σ = 1\n\tb") == "σ = 1\n\tb"
    assert printable("a\x1b[31m") == "a\\u001b[31m"
    assert json.loads(f'"{printable(STRANGE)}"') == STRANGE


def test_no_control_character_of_a_name_reaches_the_terminal(
    make_store: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted, seen to fail: `printable` that returns its text, and tables that skip it."""
    make_store(name=STRANGE)
    make_store(name="b.zarr")
    there, absent = tmp_path / STRANGE, tmp_path / f"no{STRANGE}"
    assert exit_code("measure", there, "--only", "U4", "--threads", 1) == 0
    assert (
        exit_code("compare", tmp_path / "b.zarr", there, "-o", tmp_path / "r", "--no-figures") == 0
    )
    assert exit_code("measure", absent) == 2
    assert exit_code(f"no{STRANGE}") == 2
    assert exit_code("measure", there, f"--no{STRANGE}") == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "a\\u001b[31m" in text
        assert not any((ord(one) < 32 and one != "\n") or 127 <= ord(one) < 160 for one in text)
        text.encode()


def test_stdout_that_is_not_utf8_gets_every_character(
    make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, seen to fail: UnicodeEncodeError, after the report was written."""
    make_store()
    make_store(30, name="b.zarr")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    words = (tmp_path / "a.zarr", tmp_path / "b.zarr", "-o", tmp_path / "r", "--no-figures")
    assert exit_code("compare", *words) == 0
    assert b"\\u03c3" in raw.getvalue()  # sigma


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_closed_streams(
    make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: tuple[str, ...]
) -> None:
    """As `>&-` leaves them. Planted, seen to fail: 'NoneType' has no attribute 'flush'."""
    make_store()
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert exit_code("measure", tmp_path / "a.zarr", "--only", "U4", "--threads", 1) == 0
    assert exit_code("measure", tmp_path / "none.zarr") == 2


def test_warnings_of_libraries_never_stand_beside_an_error(
    make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Planted, seen to fail: without `_warnings_after` the file and line of the warning show."""
    make_store()

    def warned(*args: Any, **options: Any) -> Any:
        warnings.warn("first\nsecond", stacklevel=1)
        return open_lattices(*args, **options)

    monkeypatch.setattr("skild_phys.store.open_lattices", warned)
    assert exit_code("measure", tmp_path / "none.zarr") == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none.zarr: no such file or directory\n"
    assert exit_code("measure", tmp_path / "a.zarr", "--only", "U4", "--threads", 1) == 0
    assert capsys.readouterr().err.endswith("warning: first second\n")


def test_warnings_of_the_input_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the command fails later on, and by way of a coarser store.

    Planted, seen to fail: `_warnings_after` that holds all of them back; `coarsen` without
    the attribute.
    """
    spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (20, 8, 8))
    np.save(tmp_path / "twice.npy", np.concatenate([spins, spins]))
    assert exit_code("measure", tmp_path / "twice.npy", "--only", "nonsense") == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("20 of 40 samples are copies of others: each is counted once")
    assert last.startswith("error: --only")
    attrs = {"warnings": ["statistics are biased"]}
    options = {"field": "spins", "n_samples": 20, "shape": (8, 8), "chunk": 8, "variables": ()}
    with create_store(tmp_path / "a.zarr", attrs=attrs, **options) as writer:
        writer.commit({"spins": spins})
    names = [tmp_path / f"{name}.zarr" for name in ("a", "b", "c")]
    assert exit_code("coarsen", names[0], "--factor", 2, "-o", names[1]) == 0
    assert exit_code("refine", names[1], "--method", "fill", "--threads", 1, "-o", names[2]) == 0
    said = capsys.readouterr().err
    assert "a.zarr: statistics are biased" in said
    assert "b.zarr: statistics are biased" in said
    assert open_lattices(names[2]).attrs["warnings"] == attrs["warnings"]


@pytest.mark.parametrize(
    ("gib", "words"),
    [
        (3.0, "generate --L 32768 -n 1"),
        (1.5, "simulate --L 32768 --T Tc -n 1 --every 1 --burn-in 0"),
    ],
)
def test_memory_that_does_not_suffice_takes_one_line(
    tmp_path: Path, gib: float, words: str
) -> None:
    """Planted, seen to fail: the traceback of NumPy's _ArrayMemoryError."""
    words += " --threads 1 -o x.zarr"
    command = [sys.executable, "-m", "skild_phys", *words.split()]
    most = int(gib * 2**30)
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )  # fmt: skip
    *_, last = ended.stderr.splitlines()
    assert ended.returncode == 3
    assert last.startswith("error: memory does not suffice: Unable to allocate")
    assert "Traceback" not in ended.stderr


def test_no_cell_of_a_table_is_a_formula(make_store: Make, tmp_path: Path) -> None:
    """Text that begins as formulas do has a ' before it; numbers stay numbers.

    Planted, seen to fail: `no_formula` that returns its cell.
    """
    for name in ("a.zarr", "=1+1.zarr", "@b.zarr"):
        make_store(name=name)
    words = (tmp_path / name for name in ("a.zarr", "=1+1.zarr", "@b.zarr"))
    assert exit_code("compare", *words, "-o", tmp_path / "r", "--no-figures") == 0
    found = pd.read_csv(tmp_path / "r" / "comparison.csv")
    assert {*found["model"]} == {"'=1+1", "'@b"}
    assert found["truth"].min() < 0
    words = ("--offsets", "-1,0 0,1 1,1 1,0", "--only", "connected_four_point_offsets")
    assert exit_code("measure", tmp_path / "a.zarr", *words, "-o", tmp_path / "m.csv") == 0
    assert pd.read_csv(tmp_path / "m.csv")["at"].tolist() == ["'-1,0 0,1 1,1 1,0"]
