"""What several test files share: the command line, stores of random samples, deaths."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, before NumPy and PyTorch are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from skild_phys.cli import run
from skild_phys.store import LatticeStore, create_store, open_store

TC = 2.269185314213022
"""Critical temperature of the 2D Ising model, 2 / ln(1 + sqrt(2)), Onsager 1944."""

Samples = dict[str, NDArray[Any]]


class Answer(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


def exit_code(*words: object) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command line; what was printed before it is dropped."""

    def command(*words: object) -> Answer:
        capfd.readouterr()
        return Answer(exit_code(*words), *capfd.readouterr())

    return command


def random_samples(start: int, stop: int, side: int = 4, seed: int = 0) -> Samples:
    """Return samples start..stop-1 of one endless random series, with two scalars."""
    spins_rng, energy_rng = np.random.default_rng(seed).spawn(2)
    spins = (2 * spins_rng.integers(0, 2, (stop, side, side)) - 1).astype(np.int8)
    energy = energy_rng.normal(size=stop)
    chain = np.arange(stop) % 2
    return {"spins": spins[start:], "energy": energy[start:], "chain": chain[start:]}


def store_options(n_samples: int, side: int = 4, **changed: Any) -> dict[str, Any]:
    """Return the keywords of `create_store` that go with `random_samples`."""
    options: dict[str, Any] = {
        "field": "spins",
        "n_samples": n_samples,
        "shape": (side, side),
        "chunk": 4,
        "attrs": {"model": "ising2d", "L": side, "temperature": 2.25, "seed": 0},
        "variables": ("energy", "chain"),
    }
    return options | changed


def files_of(path: Path) -> dict[str, bytes]:
    """Return every file below `path`, by its relative name."""
    found = (p for p in sorted(path.rglob("*")) if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


class Killed(BaseException):
    """Stands for SIGKILL: from here on the process does nothing more."""


class Mortal:
    """Let a process die at the n-th system call that changes the disk."""

    names = ("replace", "fsync", "mkdir", "unlink", "rmdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.left = -1
        self.error = error
        for name in self.names:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            if self.left == 0:
                raise self.error or Killed
            self.left -= 1
            # Nothing here loses power, so that waiting for the disk would prove nothing.
            return None if call.__name__ == "fsync" else call(*args, **keywords)

        return wrapped


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., LatticeStore]:
    """Return a function that makes a finished store `NAME.zarr` of random +-1 lattices."""

    def make(n_samples: int = 10, side: int = 4, name: str = "a.zarr") -> LatticeStore:
        with create_store(tmp_path / name, **store_options(n_samples, side)) as writer:
            writer.commit(
                random_samples(0, n_samples, side), {"rng": np.arange(4, dtype=np.uint64)}
            )
        return open_store(tmp_path / name)

    return make
