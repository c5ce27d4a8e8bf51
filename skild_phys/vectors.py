"""Vector instructions for kernels: what LLVM does not find by itself in a plain loop.

The functions emit LLVM's own vector types, which it lowers to whatever registers the machine has,
so that nothing here depends on an instruction set.
"""

from __future__ import annotations

from typing import Any

import numba.extending
from llvmlite import ir
from numba import types

import skild_phys.kernel_cache  # noqa: F401

intrinsic: Any = numba.extending.intrinsic
"""Numba's decorator, whose own type does not say that the typing context is left out of a call."""

I32, I64 = ir.IntType(32), ir.IntType(64)


def constant(kind: ir.VectorType, value: int) -> Any:
    """Return the vector constant that holds `value` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def _place(builder: Any, data: Any, index: Any, kind: ir.VectorType) -> Any:
    """Return a pointer to the vector of type `kind` that starts at element `index` of an array."""
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _align(kind: ir.VectorType) -> int:
    """Return the bytes of an element: integers of a whole number of them, and float64."""
    return 8 if isinstance(kind.element, ir.DoubleType) else int(kind.element.width) // 8


def load(builder: Any, data: Any, index: Any, kind: ir.VectorType) -> Any:
    """Load the vector that starts at element `index`, aligned like an element."""
    return builder.load(_place(builder, data, index, kind), align=_align(kind))


def store(builder: Any, value: Any, data: Any, index: Any) -> None:
    """Store a vector at element `index`, aligned like an element."""
    builder.store(value, _place(builder, data, index, value.type), align=_align(value.type))


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
