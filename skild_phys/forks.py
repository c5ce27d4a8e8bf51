"""Forked processes, the default of `multiprocessing` on Linux up to Python 3.13.

A fork keeps the thread that forks and no other. PyTorch's OpenMP (libgomp) does not notice: in a
child whose parent has run a parallel region, the next one waits for ever for threads that are gone.
With one thread PyTorch enters no parallel region. Numba's kernels here have none, and thread pools
are made where they are used.
"""

from __future__ import annotations

import os
import sys

_STARTED = os.getpid()


def forked() -> bool:
    """Return whether this process was forked after skild_phys was imported."""
    return os.getpid() != _STARTED


def _one_thread_of_torch() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_of_torch)
