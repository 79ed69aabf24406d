"""First process of the sandbox: it makes the place, starts the tests and the program, and waits.

It is process 1 of its own process namespace, so that everything in it ends with it.  The host's folders are made
read-only, and those that anyone may write to are covered by empty ones in memory, which vanish with the namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import sys
import time
from typing import Any

#: Flags of mount(2).
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND = 1, 2, 4, 32, 4096
#: prctl(2): no program started from here gains rights.
_NO_NEW_RIGHTS = 38
#: Folders anyone may write to.
_OPEN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue")


def main() -> None:
    """Read what is asked from stdin, run it, and write one line to stdout."""
    asked = json.loads(sys.stdin.buffer.readline())
    libc = ctypes.CDLL(None, use_errno=True)
    _close_place(libc, int(asked["limits"]["disk"]))
    program_in, tests_out = os.pipe()
    tests_in, program_out = os.pipe()
    order_in, order_out = os.pipe()
    said_in, said_out = os.pipe()
    limits, code, user = asked["limits"], asked["code"], int(asked["user"])
    start(libc, code["candidate"], [program_in, program_out], user, limits)
    start(libc, code["tests"], [tests_in, tests_out, order_in, said_out], user + 1, limits)
    for pipe in (program_in, program_out, tests_in, tests_out, order_in, said_out):
        os.close(pipe)
    send(order_out, asked["order"].encode() + b"\n")
    os.close(order_out)
    sys.stdout.buffer.write(answer(said_in, float(limits["wall"])))
    sys.stdout.buffer.flush()


def send(pipe: int, data: bytes) -> None:
    """Write all of ``data``."""
    while data:
        data = data[os.write(pipe, data) :]


def answer(pipe: int, wall: float) -> bytes:
    """What the tests say, or a line that says that they did not in time."""
    until, text = time.monotonic() + wall, b""
    while not text.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return b'{"kind": "time"}\n'
        part = os.read(pipe, 65536)
        if not part:
            return b'{"kind": "gone"}\n'
        text += part
    return text


def _close_place(libc: Any, disk: int) -> None:
    """Make everything read-only and cover what anyone may write to."""
    mount(libc, b"none", b"/", None, 1 << 18 | 1 << 14)  # private, recursively
    with open("/proc/self/mounts", "rb") as mounts:
        points = [row.split(b" ")[1].decode("unicode_escape").encode() for row in mounts]
    for point in points:
        mount(libc, b"none", point, None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID, required=False)
    mount(libc, b"proc", b"/proc", b"proc", _NO_SUID | _NO_DEVICES | _READ_ONLY)
    for folder in _OPEN_FOLDERS:
        if os.path.isdir(folder):
            mount(libc, b"tmpfs", folder.encode(), b"tmpfs", _NO_SUID | _NO_DEVICES, f"size={disk},mode=1777")
    os.chdir("/tmp")


def mount(
    libc: Any, source: bytes, where: bytes, kind: bytes | None, flags: int, data: str = "", required: bool = True
) -> None:
    """mount(2)."""
    if libc.mount(source, where, kind, ctypes.c_ulong(flags), data.encode() or None) != 0 and required:
        raise OSError(ctypes.get_errno(), f"mount {where.decode()}")


def start(libc: Any, code: str, pipes: list[int], user: int, limits: dict[str, int]) -> None:
    """Start one interpreter without rights, with ``pipes`` as its file descriptors from 3 on."""
    if os.fork() != 0:
        return
    try:
        # Copies above every number in use, so that none is overwritten before it is placed.
        high = [os.dup2(pipe, 100 + i) for i, pipe in enumerate(pipes)]
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        for number, pipe in enumerate(high, 3):
            os.dup2(pipe, number)
        os.closerange(3 + len(pipes), 200)
        for name, value in (
            (resource.RLIMIT_AS, limits["memory"]),
            (resource.RLIMIT_CPU, limits["cpu"]),
            (resource.RLIMIT_FSIZE, limits["file"]),
            (resource.RLIMIT_NPROC, limits["processes"]),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(name, (value, value))
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        if libc.prctl(_NO_NEW_RIGHTS, 1, 0, 0, 0) != 0 or 0 in os.getresuid():
            os._exit(1)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code], {})
    finally:
        os._exit(1)
