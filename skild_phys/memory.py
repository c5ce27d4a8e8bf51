"""The memory of arrays that come and go by the thousand."""

from __future__ import annotations

import contextlib
import ctypes
import functools

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_HELD = 32 * 2**20  # bytes up to which an array's memory stays with the process


@functools.cache  # once a process
def hold_memory() -> None:
    """Keep the memory of arrays that are let go, for the next ones.

    By default glibc soon gives it back to the kernel and gets it again page by page, 7,000 pages a
    refined lattice of 128^2, for which all threads wait: a fifth of the time of two. A C library
    that has no `mallopt` stays as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, _HELD)
