"""Compiled kernels that Numba keeps on disk: what is damaged there is compiled anew.

Numba reads its files as they are: an index that a crash or a full disk left empty or cut short ends
every later call in whatever error unpickling it gives (an EOFError, which click takes for Ctrl-D).
Importing this module makes such an index one without entries, and a cache that cannot be written
one that is not kept, for all that this process compiles.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from numba.core.caching import IndexDataCacheFile

from skild_phys.errors import warn

_load, _save = IndexDataCacheFile.load, IndexDataCacheFile.save
_told: set[str] = set()


def _tell(index: str, what: str) -> None:
    if what not in _told:
        _told.add(what)
        warn(f"{os.path.dirname(index)}: {what}")


def _load_or_none(self: Any, key: Any) -> Any:
    try:
        return _load(self, key)  # type: ignore[no-untyped-call]
    except Exception:
        # Damaged bytes fail to unpickle in many ways (EOFError, UnpicklingError, ValueError, ...).
        _tell(self._index_path, "compiled kernels are damaged; compiling them anew")
        with contextlib.suppress(OSError):
            os.unlink(self._index_path)
        return None


def _save_if_it_can_be(self: Any, key: Any, data: Any) -> None:
    try:
        _save(self, key, data)  # type: ignore[no-untyped-call]
    except OSError as error:
        _tell(self._index_path, f"compiled kernels cannot be kept ({error.strerror})")


IndexDataCacheFile.load = _load_or_none  # type: ignore[method-assign]
IndexDataCacheFile.save = _save_if_it_can_be  # type: ignore[method-assign]
