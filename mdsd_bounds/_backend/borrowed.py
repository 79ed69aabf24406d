"""Arrays inside compiled code without a count of their references."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.np.arrayobj import make_array

from mdsd_bounds._backend.lanes import intrinsic


@intrinsic
def borrowed(typing: Any, record: Any) -> Any:
    """The arrays of a record (tuples inside it included), which somebody else keeps.

    A compiled function that is handed a record counts every array in it up and down again, with atomic operations: in
    searches of many short steps that is most of the time.  Borrowed arrays, and views of them, are not counted.

    **Who lends keeps.**  The record itself must be used once more after the last use of what was borrowed, or be an
    argument of the function; nothing that was borrowed may be returned to Python.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _uncounted(context, builder, signature.args[0], arguments[0])

    return record(record), emit


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """``value`` with the owner of every array in it set to none."""
    if isinstance(kind, types.Array):
        array = make_array(kind)(context, builder, value)  # type: ignore[no-untyped-call]
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        members: Any = kind
        for place, part in enumerate(members):
            here = _uncounted(context, builder, part, builder.extract_value(value, place))
            value = builder.insert_value(value, here, place)
    return value
