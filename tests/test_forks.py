"""What a forked child does after its parent did the same: a real fork, in a process of its own.

Planted, seen to fail: no hook after the fork (the child waits for ever); `threads` let through.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
import sys
from pathlib import Path

import torch

import skild_phys as sp
from skild_phys.errors import BadInput

FOLDER = Path(sys.argv[1])
RECIPE = 'preset = "ising2d"\\nsteps = 1\\nbatch = 2\\nside = 16\\nspectrum_batches = 1\\n'
RECIPE += '[network]\\npatch = 2\\nchannels = [8]\\nblocks = [1]\\n'


def work(who):
    fine = sp.simulate(L=16, T="Tc", samples=4, seed=1)
    coarse = sp.coarsen(fine, 4)
    refined = sp.refine(coarse, seed=2)
    made = sp.generate(L=16, samples=2, seed=3, steps=4)
    sp.train(fine, config=FOLDER / "recipe.toml", output=FOLDER / f"{who}.safetensors")
    found = sp.measure(refined, only="energy")
    return [float(found["energy"]), float(made["energy"].mean()), float(fine["energy"].mean())]


def child(found):
    try:
        sp.train(config=FOLDER / "recipe.toml", output=FOLDER / "x.safetensors", threads=2)
    except BadInput as error:
        print(error, flush=True)
    print("the same" if work("child") == found else "another", flush=True)


if __name__ == "__main__":
    (FOLDER / "recipe.toml").write_text(RECIPE)
    torch.set_num_threads(2)
    found = work("parent")
    torch.ones(10**6).isfinite().all()
    process = multiprocessing.get_context("fork").Process(target=child, args=(found,))
    process.start()
    process.join(100)
    print("ended" if process.exitcode == 0 else f"exit code {process.exitcode}", flush=True)
    process.kill()
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
"""


IMPORTED_LATER = """
import multiprocessing

import torch


def child():
    import skild_phys.process

    assert skild_phys.process.forked()
    torch.ones(10**6).isfinite().all()


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.ones(10**6).isfinite().all()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(100)
    print(process.exitcode)
    process.kill()
"""


def test_a_child_that_imports_after_the_fork() -> None:
    """Planted, seen to fail: nothing done on import."""
    command = [sys.executable, "-c", IMPORTED_LATER]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "0\n"


SPAWNED = """
import multiprocessing
import sys

import torch


def child():
    import skild_phys.process

    assert "torch" in sys.modules
    sys.exit(10 if skild_phys.process.forked() else 20)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    contexts = [multiprocessing, *map(multiprocessing.get_context, ("spawn", "fork"))]
    for context in contexts:
        process = context.Process(target=child)
        process.start()
        process.join(100)
        print(process.exitcode)
"""


@pytest.mark.parametrize(("method", "code"), [("spawn", "20"), ("fork", "10")])
def test_a_spawned_child_that_imports_late_is_not_forked(
    tmp_path: Path, method: str, code: str
) -> None:
    """Whichever method is set. Planted, seen to fail: any child that has PyTorch."""
    (tmp_path / "script.py").write_text(SPAWNED)
    command = [sys.executable, tmp_path / "script.py", method]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [code, "20", "10"], done.stderr


def test_a_forked_child_works_as_its_parent_did(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path], capture_output=True, text=True
    )
    accepted = "threads: 2 is not accepted; expected 1 in a forked process, or start method"
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith(accepted)
    assert rest == ["the same", "ended"]
