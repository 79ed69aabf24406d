"""The tests of a task: trusted code, which calls the program under test through a pipe.

A call sends plain data and receives plain data; what the program prints, raises or does to its own interpreter does not
reach this process.  Only this process is told the nonce, and it says it after the last assertion.
"""

from __future__ import annotations

from typing import Any

if __name__ != "__main__":  # inside, the text of plain_data stands before this one
    from mdsd_bounds.judge.inside.plain_data import line, value_of

#: Pipes that the launcher leaves open: from and to the program, from and to the launcher.
READ, WRITE, ASKED, SAID = 3, 4, 5, 6
#: Bytes of one answer.
LONGEST = 4_000_000


class ProgramError(Exception):
    """What the program did in place of an answer."""


def main() -> None:
    """Run the tests and say how they ended."""
    with open(ASKED, "rb") as asked, open(SAID, "wb", buffering=0) as said:
        given = value_of(asked.readline())
        try:
            run_tests(given)
            said.write(line({"nonce": given["nonce"], "kind": "passed", "detail": ""}))
        except AssertionError as error:
            said.write(line({"nonce": given["nonce"], "kind": "wrong", "detail": str(error)[:200]}))
        except ProgramError as error:
            said.write(line({"nonce": given["nonce"], "kind": "raised", "detail": str(error)[:200]}))
        except BaseException as error:
            detail = f"{type(error).__name__}: {error}"[:200]
            said.write(line({"nonce": given["nonce"], "kind": "wrong", "detail": detail}))


def run_tests(given: dict[str, Any]) -> None:
    """Define what the tests need, and call ``check``."""
    with open(READ, "rb") as answers, open(WRITE, "wb", buffering=0) as calls:

        def answer() -> Any:
            text = answers.readline(LONGEST)
            if not text.endswith(b"\n"):
                raise ProgramError("ended or wrote too much before it answered")
            try:
                found = value_of(text)
                if set(found) == {"raised"}:
                    raise ProgramError(str(found["raised"]))
                [(kind, value)] = found.items()
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise ProgramError("answered with something that is no answer") from None
            if kind not in ("value", "ready"):
                raise ProgramError("answered with something that is no answer")
            return value

        def candidate(*arguments: Any, **named: Any) -> Any:
            try:
                calls.write(line([list(arguments), named]))
            except BrokenPipeError:
                raise ProgramError("ended before it was called") from None
            return answer()

        try:
            calls.write(line({"program": given["program"], "entry": given["entry"]}))
        except BrokenPipeError:
            raise ProgramError("ended before it was called") from None
        answer()
        names: dict[str, Any] = {"__name__": "tests"}
        exec(compile(given["setting"], "<setting>", "exec"), names)
        names[given["entry"]] = candidate
        exec(compile(given["tests"], "<tests>", "exec"), names)
        names["check"](candidate)
