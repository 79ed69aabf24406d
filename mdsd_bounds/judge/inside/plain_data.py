"""Plain data as one line of JSON, and back: what may cross from a program under test to its tests.

Numbers, text, bytes, None, and lists, tuples, sets and dictionaries of them arrive as what they were; nothing else
does.  An object with its own idea of equality therefore cannot reach an assertion.
"""

from __future__ import annotations

import json
from typing import Any

#: Containers that JSON does not have.
KINDS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def pack(value: Any) -> Any:
    """A value in terms of JSON."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [pack(item) for item in value]
    if type(value) is dict:
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    if type(value) is bytes:
        return {"bytes": value.hex()}
    for name, kind in KINDS.items():
        if type(value) is kind:
            return {name: [pack(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain data")


def unpack(value: Any) -> Any:
    """A value from terms of JSON."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(name, inner)] = value.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in inner}
    if name == "complex":
        return complex(*inner)
    if name == "bytes":
        return bytes.fromhex(inner)
    return KINDS[name](unpack(item) for item in inner)


def line(value: Any) -> bytes:
    """One line."""
    return json.dumps(pack(value)).encode() + b"\n"


def value_of(text: bytes) -> Any:
    """The value of one line."""
    return unpack(json.loads(text))
