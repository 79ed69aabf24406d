"""Arrays inside compiled code without a count of their references."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def borrowed(typingctx: Any, record: Any) -> Any:
    """The arrays of a record (tuples inside it included), which somebody else keeps.

    A compiled function that is handed a record counts every array in it up and down again, with atomic operations: in
    searches of many short steps that is most of the time.  Borrowed arrays, and views of them, are not counted.

    **Who lends keeps.**  The record itself must be used once more after the last use of what was borrowed, or be an
    argument of the function; nothing that was borrowed may be returned to Python.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _uncounted(context, builder, signature.args[0], arguments[0])

    return record(record), codegen


def _uncounted(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    """``value`` with the owner of every array in it set to none."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for place, part in enumerate(kind):
            here = _uncounted(context, builder, part, builder.extract_value(value, place))
            value = builder.insert_value(value, here, place)
    return value
