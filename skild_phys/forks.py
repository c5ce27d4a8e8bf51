"""Forked processes, the default of `multiprocessing` on Linux up to Python 3.13.

A fork keeps the thread that forks and no other. PyTorch's OpenMP (libgomp) does not notice: in a
child whose parent has run a parallel region, the next one waits for ever for threads that are gone.
With one thread PyTorch enters no parallel region. Numba's kernels here have none, and thread pools
are made where they are used.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

_STARTED = os.getpid()


def forked() -> bool:
    """Return whether PyTorch came into this process by a fork."""
    return os.getpid() != _STARTED or _FORKED_BEFORE


def _one_thread_of_torch() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


_FORKED_BEFORE = multiprocessing.parent_process() is not None and "torch" in sys.modules
if _FORKED_BEFORE:
    _one_thread_of_torch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_of_torch)
