"""Compiled kernels that Numba keeps on disk: what is damaged there is compiled anew.

Numba reads its files as they are: an index that a crash or a full disk left empty or cut short ends
every later call in whatever error unpickling it gives (an EOFError, which click takes for Ctrl-D).
Importing this module makes such an index one without entries, and a cache that cannot be written
one that is not kept, for all that this process compiles.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from numba.core.caching import IndexDataCacheFile

_load, _save = IndexDataCacheFile.load, IndexDataCacheFile.save
_told: set[str] = set()


def _tell(index: str, what: str) -> None:
    """Log once what is wrong with the cache; without a handler it goes to stderr."""
    if what not in _told:
        _told.add(what)
        logging.getLogger(__name__).warning("%s: %s", os.path.dirname(index), what)


def load(self: Any, key: Any) -> Any:
    """Return what is kept under `key`, None if nothing is or it cannot be read."""
    try:
        return _load(self, key)  # type: ignore[no-untyped-call]
    except Exception:
        # Damaged bytes fail to unpickle in many ways (EOFError, UnpicklingError, ValueError, ...).
        _tell(self._index_path, "compiled kernels are damaged; compiling them anew")
        with contextlib.suppress(OSError):
            os.unlink(self._index_path)
        return None


def save(self: Any, key: Any, data: Any) -> None:
    """Keep `data` under `key`, if the disk lets us."""
    try:
        _save(self, key, data)  # type: ignore[no-untyped-call]
    except OSError as error:
        _tell(self._index_path, f"compiled kernels cannot be kept ({error.strerror})")


IndexDataCacheFile.load, IndexDataCacheFile.save = load, save  # type: ignore[method-assign]
