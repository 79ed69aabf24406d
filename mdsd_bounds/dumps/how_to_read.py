"""What a user says of how a dump is to be read: which of several heads, and the tokenizer for tokens named by text.

It is part of the dump's name, so that it goes wherever the dump goes (keys of runs, other processes):
``pair.npz#head=2``, ``target.json,draft.json#tokenizer=tokenizer.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mdsd_bounds.problem import InputError

_FRAGMENT = re.compile(r"(.*)#((?:head|tokenizer)=[^#]*)", re.DOTALL)


@dataclass(frozen=True)
class HowToRead:
    """``head`` counts from 0, None takes the first; ``tokenizer`` is a ``tokenizer.json`` or its folder, or empty."""

    head: int | None = None
    tokenizer: str = ""


#: Nothing is said.
PLAIN = HowToRead()


def named(dump: str, *, head: int | None = None, tokenizer: str | None = None) -> str:
    """The name of a dump together with how it is to be read.

    Examples
    --------
    >>> named("pair.npz", head=2)
    'pair.npz#head=2'
    """
    parts = [f"head={head}"] if head is not None else []
    parts += [f"tokenizer={tokenizer}"] if tokenizer else []
    return f"{dump}#{'&'.join(parts)}" if parts else dump


def parted(label: str) -> tuple[str, HowToRead]:
    """The name of a dump without how it is to be read, and that.

    Raises
    ------
    InputError
        If the head is no number.

    Examples
    --------
    >>> parted("a,b#head=2&tokenizer=x.json")
    ('a,b', HowToRead(head=2, tokenizer='x.json'))
    """
    found = _FRAGMENT.fullmatch(label)
    if found is None:
        return label, HowToRead()
    head, tokenizer = None, ""
    for part in found[2].split("&"):
        name, _, value = part.partition("=")
        if name == "head" and re.fullmatch("[0-9]{1,6}", value):
            head = int(value)
        elif name == "tokenizer" and value:
            tokenizer = value
        else:
            raise InputError(
                f"{label}: {part!r} says nothing of how to read a dump; give head=K (from 0) or tokenizer=FILE"
            )
    return found[1], HowToRead(head, tokenizer)
