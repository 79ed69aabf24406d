"""Eight float64 numbers side by side, for compiled loops that the compiler does not vectorise by itself.

Sums of products whose running total should stay in a register are written with these: ``load`` eight neighbours of a
row, ``multiply_add``, ``store``.  The compiler breaks the eight up where the processor's registers hold fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import extending, types
from numba.core.extending import models, register_model
from numba.np.arrayobj import make_array

#: Numbers side by side; rows have a multiple of them.
LANES = 8

#: Typed so that what it makes is called without the context that the compiler passes.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class _Eight(types.Type):
    def __init__(self) -> None:
        super().__init__(name="eight float64")


_eight = _Eight()


@register_model(_Eight)
class _EightModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


def _pointer(context: Any, builder: Any, kind: Any, args: Any) -> Any:
    """Where ``rows[row, at]`` is; rows are contiguous."""
    rows = make_array(kind)(context, builder, args[0])  # type: ignore[no-untyped-call]
    stride = builder.extract_value(rows.shape, 1)
    place = builder.add(builder.mul(args[1], stride), args[2])
    return builder.bitcast(builder.gep(rows.data, [place]), _VECTOR.as_pointer())


@intrinsic
def load(typing: Any, rows: Any, row: Any, at: Any) -> Any:
    """``rows[row, at : at + 8]`` of a contiguous float64 array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], args), align=8)

    return _eight(rows, types.intp, types.intp), emit


@intrinsic
def store(typing: Any, rows: Any, row: Any, at: Any, value: Any) -> Any:
    """``rows[row, at : at + 8] = value``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[3], _pointer(context, builder, signature.args[0], args), align=8)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, _eight), emit


@intrinsic
def multiply_add(typing: Any, x: Any, y: Any, total: Any) -> Any:
    """``x y + total``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flags = ("contract",)
        return builder.fadd(builder.fmul(args[0], args[1], flags=flags), args[2], flags=flags)

    return _eight(_eight, _eight, _eight), emit


@intrinsic
def multiply(typing: Any, x: Any, y: Any) -> Any:
    """``x y``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], args[1])

    return _eight(_eight, _eight), emit


@intrinsic
def add(typing: Any, x: Any, y: Any) -> Any:
    """``x + y``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return _eight(_eight, _eight), emit


@intrinsic
def zeros(typing: Any) -> Any:
    """Eight zeros."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return _eight(), emit


@intrinsic
def total(typing: Any, x: Any) -> Any:
    """The sum of the eight."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = [builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [builder.fadd(x, y) for x, y in zip(lanes[:half], lanes[half:], strict=True)]
        return lanes[0]

    return types.float64(_eight), emit


@njit(cache=True, nogil=True)
def rows(count, length):  # type: ignore[no-untyped-def]
    """Room for rows ``[count, length]`` that begin where eight numbers fill a line of the cache."""
    room = np.empty(count * length + LANES)
    begin = (-(room.ctypes.data >> 3)) % LANES
    return room[begin : begin + count * length].reshape((count, length))
