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


def _start_method() -> str | None:
    """Return how `multiprocessing` started this process; None if it did not."""
    if multiprocessing.parent_process() is None:
        return None
    # Processes of a context say their own; a plain Process has the method that is set.
    own: str | None = getattr(multiprocessing.current_process(), "_start_method", None)
    return own or multiprocessing.get_start_method(allow_none=True)


_FORKED_BEFORE = _start_method() == "fork" and "torch" in sys.modules
if _FORKED_BEFORE:
    _one_thread_of_torch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_of_torch)
