"""Options that several commands share and that reach each of them as one record.

A command takes one parameter for the record; the wrapper puts the options in its place, where ``--help`` lists them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def option_named(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """An option as a parameter of a command; ``kind`` is its type, annotated for typer."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def with_record(
    command: Callable[..., Any],
    place: str,
    options: Sequence[inspect.Parameter],
    record: Callable[[dict[str, Any]], Any],
) -> Callable[..., Any]:
    """The command with the options in the place of its parameter ``place``; ``record`` makes that of their values."""
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == place:
            shown += options
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        held = {option.name: given.pop(option.name, option.default) for option in options}
        return command(**given, **{place: record(held)})

    del wrapped.__wrapped__
    wrapped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return wrapped
