"""What holds for a whole process: one thread of PyTorch after a fork, memory that stays with it.

A fork keeps the thread that forks and no other. PyTorch's OpenMP (libgomp) does not notice: in a
child whose parent has run a parallel region, the next one waits for ever for threads that are gone.
With one thread PyTorch enters no parallel region. Numba's kernels here have none, and thread pools
are made where they are used. (`multiprocessing` forks by default on Linux up to Python 3.13.)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_HELD = 32 * 2**20  # bytes up to which an array's memory stays with the process


@functools.cache  # once a process
def hold_memory() -> None:
    """Keep the memory of arrays that are let go, for the next ones.

    By default glibc soon gives it back to the kernel and gets it again page by page, 7,000 pages a
    refined configuration of 128^2, for which all threads wait: a fifth of the time of two. A C
    library that has no `mallopt` stays as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, _HELD)


def _one_thread_of_torch() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _start_method() -> str | None:
    """Return how `multiprocessing` started this process; None if it did not."""
    if multiprocessing.parent_process() is None:
        return None
    # Processes of a context say their own; a plain Process has the method that is set.
    own: str | None = getattr(multiprocessing.current_process(), "_start_method", None)
    return own or multiprocessing.get_start_method(allow_none=True)


_STARTED = os.getpid()
_FORKED_BEFORE = _start_method() == "fork" and "torch" in sys.modules
if _FORKED_BEFORE:
    _one_thread_of_torch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_of_torch)


def forked() -> bool:
    """Return whether PyTorch came into this process by a fork."""
    return os.getpid() != _STARTED or _FORKED_BEFORE
