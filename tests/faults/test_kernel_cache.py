"""A damaged cache of compiled kernels costs a compilation, with one warning."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from skild_phys import kernels
from skild_phys.cli import main, run
from skild_phys.errors import InputWarning

KERNEL = """
from numba import njit
@njit(cache=True)
def twice(x):
    return 2 * x
"""


def loaded(path: Path) -> Any:
    """Return the kernel as a process that begins would have it."""
    if not path.exists():
        path.write_text(KERNEL)
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damaged",
    [lambda data: b"", lambda data: data[:50], lambda data: os.urandom(200)],
    ids=["empty", "cut", "noise"],
)
def test_a_damaged_cache_is_compiled_anew(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    damaged: Callable[[bytes], bytes],
) -> None:
    """Planted, seen to fail: Numba's own `load`, which ends in EOFError or UnpicklingError."""
    monkeypatch.setattr(kernels, "_told", set())
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")  # whatever NUMBA_CACHE_DIR says
    assert loaded(tmp_path / "kernels.py")(3) == 6
    (file,) = (tmp_path / "__pycache__").glob(f"*.{kind}")
    file.write_bytes(damaged(file.read_bytes()))
    hurt = loaded(tmp_path / "kernels.py")
    assert hurt(3) == 6
    assert hurt(0.5) == 1.0
    said = [str(one.message) for one in recwarn if one.category is InputWarning]
    assert said == [f"{file.parent}: compiled kernels are damaged; compiling them anew"]
    again = loaded(tmp_path / "kernels.py")
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1
    assert len([one for one in recwarn if one.category is InputWarning]) == 1


def test_a_bug_that_is_an_eof_is_no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted, seen to fail: "error: interrupted" for it."""

    def broken(*args: Any, **options: Any) -> None:
        raise EOFError("a bug")

    monkeypatch.setattr(main, "get_command", broken)
    with pytest.raises(EOFError, match="a bug"):
        run(["measure"])
