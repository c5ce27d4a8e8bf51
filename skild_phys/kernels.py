"""What Numba's kernels need: a cache on disk that survives damage, and vector instructions.

Numba reads its files as they are: an index that a crash or a full disk left empty or cut short ends
every later call in whatever error unpickling it gives (an EOFError, which click takes for Ctrl-D).
Importing this module makes such an index one without entries, and a cache that cannot be written
one that is not kept, for all that this process compiles.

LLVM does not find every vector instruction by itself in a plain loop. The functions here emit its
own vector types, which it lowers to whatever registers the machine has, so that nothing depends on
an instruction set.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types
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

# -- vectors ----------------------------------------------------------------------------------

intrinsic: Any = numba.extending.intrinsic
"""Numba's decorator, whose own type does not say that the typing context is left out of a call."""

I32, I64 = ir.IntType(32), ir.IntType(64)


def constant(kind: ir.VectorType, value: int) -> Any:
    """Return the vector constant that holds `value` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def _place(builder: Any, data: Any, index: Any, kind: ir.VectorType) -> tuple[Any, int]:
    """Return a pointer to the vector at element `index` of an array, and the bytes of an element.

    Elements are integers of a whole number of bytes, and float64.
    """
    real = isinstance(kind.element, ir.DoubleType)
    pointer = builder.bitcast(builder.gep(data, [index]), kind.as_pointer())
    return pointer, 8 if real else int(kind.element.width) // 8


def load(builder: Any, data: Any, index: Any, kind: ir.VectorType) -> Any:
    """Load the vector that starts at element `index`, aligned like an element."""
    pointer, size = _place(builder, data, index, kind)
    return builder.load(pointer, align=size)


def store(builder: Any, value: Any, data: Any, index: Any) -> None:
    """Store a vector at element `index`, aligned like an element."""
    pointer, size = _place(builder, data, index, value.type)
    builder.store(value, pointer, align=size)


def spread(builder: Any, scalar: Any, kind: ir.VectorType) -> Any:
    """Return the vector that holds `scalar` in every lane."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, scalar, I32(0))
    lanes = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, nothing, lanes)


def load_lanes(builder: Any, state: Any, kind: ir.VectorType) -> tuple[Any, ...]:
    """Load the four words of every lane of a generator state (4, lanes)."""
    return tuple(load(builder, state, I64(i * kind.count), kind) for i in range(4))


def store_lanes(builder: Any, lanes: tuple[Any, ...], state: Any) -> None:
    """Store the four words of every lane."""
    for i, words in enumerate(lanes):
        store(builder, words, state, I64(i * words.type.count))


def data_of(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """Return a pointer for each array among the arguments of an intrinsic, and the other values."""
    found = []
    for kind, value in zip(signature.args, args):
        array = hasattr(kind, "ndim")
        found.append(context.make_array(kind)(context, builder, value).data if array else value)
    return found


@intrinsic
def popcount(typingctx, word):  # type: ignore[no-untyped-def]
    """Return how many bits of a word are set."""
    return types.uint64(types.uint64), lambda _, builder, __, args: builder.ctpop(args[0])
