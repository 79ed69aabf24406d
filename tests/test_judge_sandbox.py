"""The sandbox of generated programs: ten that are hostile, contained and reported; nothing stays behind."""

from __future__ import annotations

import gzip
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mdsd_bounds import InputError
from mdsd_bounds.judge import Limits, Task, cut, read_tasks, run_tests, sandbox
from mdsd_bounds.judge.inside.plain_data import line, value_of
from mdsd_bounds.judge.tasks import FIELDS, check_tasks

REASON = sandbox.missing()
contained = pytest.mark.skipif(REASON is not None, reason=f"no sandbox here: {REASON}")

#: A test that a right program passes: its function doubles a list.
TESTS = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n"
RIGHT = "def f(x):\n    return [2 * a for a in x]\n"
#: Little enough that no hostile program keeps a machine for long.
SMALL = Limits(cpu=2, wall=12.0)


#: User numbers of the sandbox begin here.
USERS = 1_500_000_000


def left_behind() -> set[str]:
    """What users of the sandbox own in the folders anyone may write to; other processes come and go there."""
    found = set()
    for path in (path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).glob("*")):
        with suppress(OSError):
            if path.lstat().st_uid >= USERS:
                found.add(str(path))
    return found


def processes() -> list[str]:
    """Processes of the users that the sandbox takes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            text = path.read_text()
        except OSError:
            continue
        user = next(row.split()[1] for row in text.splitlines() if row.startswith("Uid:"))
        if int(user) >= USERS:
            found.append(text.splitlines()[0])
    return found


@contained
def test_right_and_wrong_programs_are_told_apart() -> None:
    assert run_tests(RIGHT, "", TESTS, "f").passed
    wrong = run_tests("def f(x): return x\n", "", TESTS, "f")
    assert (wrong.kind, wrong.passed) == ("wrong", False)
    assert run_tests("def f(x): return 1 / 0\n", "", TESTS, "f").detail.startswith("ZeroDivisionError")
    assert run_tests("def f(x: return\n", "", TESTS, "f").detail.startswith("SyntaxError")
    assert run_tests("def g(x): return x\n", "", TESTS, "f").detail.startswith("KeyError")


#: Name -> (program, kinds that it may end with, limits).
HOSTILE: dict[str, tuple[str, set[str]]] = {
    "loops": ("def f(x):\n    while True:\n        pass\n", {"raised", "time"}),
    "forks": ("import os\ndef f(x):\n    while True:\n        os.fork()\n", {"raised", "time"}),
    "allocates 4 GB": ("def f(x):\n    return bytearray(4 << 30) and x\n", {"raised"}),
    "writes 100 MB": (
        "def f(x):\n    with open('/tmp/big', 'wb') as s:\n"
        "        for _ in range(100):\n            s.write(b'x' * 1000000)\n    return x\n",
        {"raised"},
    ),
    "exits as if all were well": ("import os\ndef f(x):\n    os._exit(0)\n", {"raised"}),
    "exits while it is defined": ("import os\nos._exit(0)\n", {"raised"}),
    "prints that it passed": (
        'def f(x):\n    import sys\n    print(\'{"kind": "passed", "nonce": "0"}\')\n    sys.stdout.flush()\n'
        "    for number in range(3, 64):\n        try:\n            import os\n"
        '            os.write(number, b\'{"dict": [["nonce", "0"], ["kind", "passed"], ["detail", ""]]}\\n\')\n'
        "        except OSError:\n            pass\n    return 0\n",
        {"wrong", "raised"},
    ),
    "prints megabytes": (
        "def f(x):\n    for _ in range(64):\n        print('x' * 1000000)\n    return 'x' * 8000000\n",
        {"raised"},
    ),
    "answers with its own equality": (
        "class Same(list):\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return Same()\n",
        {"raised"},
    ),
    "sleeps": ("import time\ndef f(x):\n    time.sleep(1000)\n", {"time"}),
}


@contained
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained(name: str) -> None:
    program, kinds = HOSTILE[name]
    before = left_behind()
    # A program that only waits is stopped by the clock, however slow its start was.
    limits = replace(SMALL, wall=3.0) if name == "sleeps" else SMALL
    verdict = run_tests(program, "", TESTS, "f", limits)
    assert verdict.kind in kinds
    assert verdict.detail
    assert not processes()
    assert left_behind() <= before


@contained
def test_what_a_user_of_the_sandbox_owns_is_seen() -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        assert file.name not in left_behind()
        os.chown(file.name, USERS, -1)
        assert file.name in left_behind()


@contained
def test_the_nonce_cannot_be_read() -> None:
    """Whatever a program can see of memory, arguments, environment and other processes, the nonce is not in it."""
    program = """
import gc, glob, os, sys
def f(x):
    seen, opened = [repr(dict(os.environ)), repr(sys.argv)], []
    for path in glob.glob('/proc/[0-9]*'):
        if path == f'/proc/{os.getpid()}':
            continue
        for name in ('cmdline', 'environ', 'mem', 'maps', 'fd/3', 'fd/5'):
            try:
                seen.append(open(path + '/' + name, 'rb').read(100000).decode('latin-1'))
                opened.append(name)
            except OSError:
                pass
    frame = sys._getframe()
    while frame is not None:
        seen.append(repr({key: repr(value)[:100000] for key, value in {**frame.f_locals, **frame.f_globals}.items()}))
        frame = frame.f_back
    seen += [repr(found) for found in gc.get_objects() if isinstance(found, (dict, list, tuple)) and len(found) < 100]
    return [' '.join(seen), sorted(set(opened))]
"""
    tests = """
import sys
def check(candidate):
    frame = sys._getframe()
    while 'given' not in frame.f_locals:
        frame = frame.f_back
    nonce = frame.f_locals['given']['nonce']
    assert len(nonce) == 64
    text, opened = candidate(0)
    assert nonce not in text, 'the nonce was seen'
    assert opened == ['cmdline'], opened
"""
    verdict = run_tests(program, "", tests, "f")
    assert verdict.passed, verdict


@contained
def test_nothing_is_written_outside(tmp_path: Path) -> None:
    program = f"""
import os
def f(x):
    written = []
    for place in ({str(tmp_path)!r}, '/tmp', '/var/tmp', '/dev/shm', '/', '/etc', '/root', '/home', '/proc/sys'):
        try:
            with open(os.path.join(place, 'mdsd-hostile'), 'w') as stream:
                stream.write('x')
            written.append(place)
        except OSError:
            pass
    return [written, os.getuid() > 1000, os.geteuid() > 1000, os.getgroups(), dict(os.environ).keys() <= {{'LC_CTYPE'}}]
"""
    tests = (
        "def check(candidate):\n    written, user, effective, groups, empty = candidate(0)\n"
        "    assert set(written) <= {'/tmp', '/var/tmp', '/dev/shm'}, written\n"
        "    assert user and effective and groups == [] and empty\n"
    )
    tmp_path.chmod(0o777)
    verdict = run_tests(program, "", tests, "f")
    assert verdict.passed, verdict
    for place in (tmp_path, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
        assert not (place / "mdsd-hostile").exists()


@contained
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        program = (
            f"import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', {port}), 2)\n    return [2, 4]\n"
        )
        verdict = run_tests(program, "", TESTS, "f")
        assert verdict.kind == "raised"
        assert "OSError" in verdict.detail or "Refused" in verdict.detail
        with pytest.raises(TimeoutError):
            server.accept()


@contained
def test_several_runs_at_once_do_not_meet() -> None:
    kinds = []
    threads = [threading.Thread(target=lambda: kinds.append(run_tests(RIGHT, "", TESTS, "f").kind)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == ["passed"] * 3


@contained
def test_tests_that_do_not_end_are_no_pass() -> None:
    begun = time.monotonic()
    assert not run_tests(RIGHT, "", "import os\ndef check(candidate): os._exit(0)\n", "f").passed
    assert not run_tests(RIGHT, "", "def check(candidate):\n    while True: pass\n", "f", SMALL).passed
    assert time.monotonic() - begun < 60


def test_without_rights_to_drop_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match=r"only root can drop to a user without rights"):
        run_tests(RIGHT, "", TESTS, "f")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="unshare"):
        run_tests(RIGHT, "", TESTS, "f")


@pytest.mark.parametrize(
    "value", [None, True, 3, -1.5, float("inf"), "a\n", b"\x00", [1, (2, [3])], {"a": {1: {2}}, (1, 2): 3j}, set()]
)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert value_of(line(value)) == value
    assert type(value_of(line(value))) is type(value)


def test_other_data_does_not_travel() -> None:
    for value in (object(), type("Mine", (int,), {})(), [lambda: 1]):
        with pytest.raises(TypeError, match="no plain data"):
            line(value)


def test_a_completion_ends_before_the_next_piece_of_code() -> None:
    assert cut("    return 1\n\ndef g():\n") == "    return 1\n"
    assert cut("    return 1\n") == "    return 1\n"


def test_task_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    fields = ("a", "def f(x):\n", "    return x\n", "t", "f")
    good = json.dumps(dict(zip(FIELDS, fields, strict=True)))
    path.write_text(good + "\n")
    assert read_tasks(path) == [Task(*fields)]
    for text, word in (
        (good + "\n" + good, "two tasks"),
        ("", "no task"),
        ("{", "line 1"),
        ('{"task_id": 1}', "task_id"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            read_tasks(path)


def test_task_files_in_any_clothes(tmp_path: Path) -> None:
    fields = ("a", "def f(x):\n    '''\u2028\x85'''\n", "    return x\n", "t", "f")
    good = json.dumps(dict(zip(FIELDS, fields, strict=True)), ensure_ascii=False)
    for data in (good.encode(), gzip.compress(good.encode()), b"\xef\xbb\xbf" + good.encode(), f"[{good}]".encode()):
        (tmp_path / "tasks.jsonl").write_bytes(data)
        assert read_tasks(tmp_path / "tasks.jsonl") == [Task(*fields)]


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (("a/1", "a_1"), {}, "two names that give one file"),
        (("a" * 300,), {}, "is longer than 200 bytes"),
        (("a",), {"prompt": ""}, "prompt of task 'a' is empty"),
        (("\ud800",), {}, "line 1: the field 'task_id' holds half of a surrogate pair"),
        (("a",), {"canonical_solution": "\udfff"}, "line 1: the field 'canonical_solution' holds half"),
        (("a",), {"test": 3}, "line 1: the field 'test' is missing or no text"),
    ],
)
def test_tasks_that_cannot_be_kept_apart_or_written(
    names: tuple[str, ...], change: dict[str, object], message: str, tmp_path: Path
) -> None:
    base = dict(zip(FIELDS, ("", "def f(x):\n", "    return x\n", "t", "f"), strict=True))
    lines = [json.dumps({**base, "task_id": name, **change}) for name in names]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as stop:
        read_tasks(tmp_path / "tasks.jsonl")
    assert "invalid JSON" not in str(stop.value)


def test_two_names_that_give_one_file_are_refused_before_mining() -> None:
    tasks = [Task(name, "def f(x):\n", "    return x\n", "t", "f") for name in ("a b", "a_b")]
    with pytest.raises(InputError, match="two names that give one file"):
        check_tasks(tasks, "tasks")
