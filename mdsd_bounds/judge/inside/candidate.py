"""The program under test: it is executed here, and its function is called with what arrives on the pipe.

Runs in a process of its own, with its own user number, and knows neither the tests nor the nonce.
"""

from __future__ import annotations

from typing import Any

if __name__ != "__main__":  # inside, the text of plain_data stands before this one
    from mdsd_bounds.judge.inside.plain_data import line, value_of

#: Pipes that the launcher leaves open.
READ, WRITE = 3, 4


def main() -> None:
    """Execute the program, then answer calls until the pipe closes."""
    with open(READ, "rb") as calls, open(WRITE, "wb", buffering=0) as answers:
        given = value_of(calls.readline())
        names: dict[str, Any] = {"__name__": "candidate"}
        try:
            exec(compile(given["program"], "<candidate>", "exec"), names)
            function = names[given["entry"]]
            answers.write(line({"ready": True}))
        except BaseException as error:
            answers.write(line({"raised": f"{type(error).__name__}: {error}"[:200]}))
            return
        for text in calls:
            arguments, named = value_of(text)
            try:
                answers.write(line({"value": function(*arguments, **named)}))
            except BaseException as error:
                answers.write(line({"raised": f"{type(error).__name__}: {error}"[:200]}))
