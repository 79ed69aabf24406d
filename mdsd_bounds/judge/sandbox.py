"""Run a program that nobody has read against its tests: contained, and without any way to forge a pass.

The program and its tests are two processes.  The tests call the program's function through a pipe on which only plain
data travels, and a random nonce that only the tests' process is given comes back with their verdict.  Exit codes and
printed words mean nothing.  Around both stand:

- namespaces of their own for processes, mounts and network (``unshare``): no network; all processes end with the first;
- the host's folders read-only, and empty ones in memory over those that anyone may write to;
- a user number of each run, dropped to before either starts (limits on processes do not bind root), no new rights;
- limits on memory, processor time, processes, size of files; an empty environment; the system's interpreter with ``-I
  -S``; a limit of wall time, after which the whole process group is killed.

Nothing is written to the host, so nothing has to be removed.  Where any of this cannot be had, nothing is run.

What it does not do: files of the host that anyone may read can be read (there is no way out for them), and the kernel
is shared: it is a fence around the mistakes of a language model and the tricks in the tests, not around an attack on
the kernel.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mdsd_bounds.judge.inside.plain_data import line, value_of
from mdsd_bounds.problem import InputError

#: Numbers of users that nobody has.
_FIRST_USER, _USERS = 1_500_000_000, 200_000_000
#: Interpreters that a user without rights can read, best first.
_INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3")
#: Seconds that the sandbox gets beyond its own limit before it is killed from outside.
_GRACE = 10.0


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes
    ----------
    memory : int
        Bytes of address space of each process.
    cpu : int
        Seconds of processor time of each process.
    wall : float
        Seconds in all.
    file : int
        Bytes of a file.
    disk : int
        Bytes of each folder in memory.
    processes : int
        Processes and threads.

    Examples
    --------
    >>> from mdsd_bounds.judge import Limits
    >>> Limits(wall=5.0).wall
    5.0
    """

    memory: int = 512 << 20
    cpu: int = 5
    wall: float = 20.0
    file: int = 1 << 20
    disk: int = 8 << 20
    processes: int = 16


@dataclass(frozen=True)
class Verdict:
    """How a run ended.

    Attributes
    ----------
    kind : str
        ``passed``; ``wrong`` (an assertion failed, or what came back cannot be compared); ``raised`` (the program
        raised, ended, was killed by a limit, or gave no answer); ``time`` (the wall limit); ``contained`` (the tests
        themselves did not come to an end).
    detail : str
        In words, at most 200 characters.

    Examples
    --------
    >>> from mdsd_bounds.judge import Verdict
    >>> Verdict("passed", "").passed
    True
    """

    kind: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.kind == "passed"


def run_tests(program: str, setting: str, tests: str, entry: str, limits: Limits | None = None) -> Verdict:
    """Run a program against its tests.

    Parameters
    ----------
    program : str
        Python; not trusted.
    setting : str
        Python that defines what the tests need beside the function: trusted.
    tests : str
        Python that defines ``check(candidate)``: trusted.
    entry : str
        Name of the function that the program defines.
    limits : Limits, optional
        See there.

    Raises
    ------
    InputError
        Where the sandbox cannot be had (:func:`require_sandbox`); nothing has been run.

    Notes
    -----
    Cost: two starts of an interpreter, some 50 ms.

    Examples
    --------
    Where there is no sandbox (it needs Linux, root and ``unshare``) this is an error:

    >>> from mdsd_bounds.judge import run_tests
    >>> tests = "def check(candidate): assert candidate(3) == 6"
    >>> run_tests("def f(x): return 2 * x", "", tests, "f").kind
    'passed'
    >>> run_tests("def f(x): return x", "", tests, "f").kind
    'wrong'
    """
    require_sandbox()
    return _run(program, setting, tests, entry, limits or Limits())


def missing() -> str | None:
    """Why programs cannot be contained here; None where they can."""
    if not sys.platform.startswith("linux"):
        return "this is not Linux"
    if os.geteuid() != 0:
        return "only root can drop to a user without rights; run as root, for example in a container"
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is missing"
    if _interpreter() is None:
        return f"no system interpreter found ({', '.join(_INTERPRETERS)})"
    return _self_test()


def require_sandbox() -> None:
    """Refuse to run programs where they cannot be contained.

    Raises
    ------
    InputError
        Saying what is missing.

    Examples
    --------
    >>> from mdsd_bounds import InputError
    >>> from mdsd_bounds.judge import require_sandbox, run_tests
    >>> try:
    ...     require_sandbox()
    ... except InputError as error:
    ...     reason = str(error)
    ... else:
    ...     reason = ""
    >>> reason == "" or reason.startswith("generated programs are run in a sandbox alone")
    True
    """
    reason = missing()
    if reason is not None:
        raise InputError(f"generated programs are run in a sandbox alone, and there is none here: {reason}")


@functools.cache
def _self_test() -> str | None:
    """A program that passes, one that fails, and one that shows which user it is; what is wrong, in words."""
    who = "import os\ndef f():\n    return [os.getuid(), os.listdir('/tmp')]\n"
    seen = "def check(candidate):\n    user, files = candidate()\n    assert user > 1000000000 and files == []\n"
    trials = (
        ("def f(): return 1\n", "def check(candidate): assert candidate() == 1\n", "passed"),
        ("def f(): return 2\n", "def check(candidate): assert candidate() == 1\n", "wrong"),
        (who, seen, "passed"),
    )
    for program, tests, wanted in trials:
        found = _run(program, "", tests, "f", Limits())
        if found.kind != wanted:
            return f"a trial ended with {found.kind!r} ({found.detail}) instead of {wanted!r}"
    return None


@functools.cache
def _interpreter() -> str | None:
    return next((path for path in _INTERPRETERS if os.access(path, os.X_OK)), None)


@functools.cache
def _code() -> tuple[str, dict[str, str]]:
    """Text of the launcher, and of the two processes it starts."""
    inside = Path(__file__).with_name("inside")
    text = {name: (inside / f"{name}.py").read_text() for name in ("plain_data", "candidate", "tests", "launcher")}
    rest = {name: text["plain_data"] + _body(text[name]) + "\nmain()\n" for name in ("candidate", "tests")}
    return text["launcher"] + "\nmain()\n", rest


def _body(text: str) -> str:
    """A module's text without the import that must stand first in a file."""
    return text.replace("from __future__ import annotations", "")


def _run(program: str, setting: str, tests: str, entry: str, limits: Limits) -> Verdict:
    nonce = secrets.token_hex(32)
    order = {"nonce": nonce, "program": program, "setting": setting, "tests": tests, "entry": entry}
    launcher, code = _code()
    asked = {
        "limits": asdict(limits),
        "code": code,
        "user": _FIRST_USER + 2 * secrets.randbelow(_USERS),
        "order": line(order).decode().rstrip("\n"),
    }
    unshare = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private"]
    process = subprocess.Popen(
        [*unshare, str(_interpreter()), "-I", "-S", "-c", launcher],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(json.dumps(asked).encode() + b"\n", limits.wall + _GRACE)
    except subprocess.TimeoutExpired:
        said, errors = b'{"kind": "time"}', b""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return _verdict(said, nonce, limits, errors)


def _verdict(said: bytes, nonce: str, limits: Limits, errors: bytes) -> Verdict:
    if said.startswith(b'{"kind": "time"}'):
        return Verdict("time", f"no verdict within {limits.wall:g} seconds")
    try:
        found = value_of(said)
        if found["nonce"] == nonce and found["kind"] in ("passed", "wrong", "raised"):
            return Verdict(found["kind"], found["detail"])
    except (ValueError, KeyError, TypeError):
        pass
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    return Verdict("contained", last[0][:200] if last else "the tests ended without a verdict")
