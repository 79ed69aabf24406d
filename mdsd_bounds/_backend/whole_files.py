"""Files that are there whole or not at all: written under another name beside the final one, flushed, and renamed.

Everything the project writes to a local disk goes through :func:`whole_file`.  A run killed at any moment, or a full
disk, leaves the file that was there before, never half of a new one.  What a killed run leaves under the other name is
removed by the next run that writes the same file: the name says for which file, on which machine and by which process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from mdsd_bounds.problem import InputError

#: The mark of the final name, the process, and what tells apart its files.
_TEMPORARY = re.compile(r"^\.mdsd-([0-9a-f]{16})([0-9a-f]{8})[0-9a-f]{8}\.tmp$")
#: What a killed run may leave in a folder of its own: names of this module, and those of earlier versions.
_LEFTOVER = re.compile(r"^(\.mdsd-[0-9a-f]{32}\.tmp|[\w.-]+\.(safetensors|json|part)\.\d+\.tmp)$")


@contextlib.contextmanager
def whole_file(
    path: str | Path,
    remedy: str = "make room or write elsewhere",
    *,
    replace: bool = True,
    folder: str | Path | None = None,
) -> Iterator[Path]:
    """A temporary file of the same folder, which takes the name ``path`` when the block ends well.

    Parameters
    ----------
    path : str or Path
        Final name.
    remedy : str
        What is said after the reason where it cannot be written.
    replace : bool
        Without it, a file that appears meanwhile under the final name stays as it is.
    folder : str or Path or None
        Where the temporary file lies, if not beside the final one; on the same disk.

    Raises
    ------
    FileNotFoundError
        If the folder is gone.
    InputError
        If the disk is full, or the folder cannot be written, or the name is not allowed or that of a device; nothing
        half-written stays.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.txt']
    """
    final = Path(path)
    refuse_special(final)
    temporary = _temporary(final, Path(final.parent if folder is None else folder))
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        if replace:
            os.replace(temporary, final)
        else:
            _link(temporary, final)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "its folder does not exist; make it first", str(path)) from None
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error}); {remedy}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def refuse_special(path: Path) -> None:
    """Raise an error where a name is that of a device, pipe or socket: renaming a file there would take its place.

    Raises
    ------
    InputError
        Also where a link leads to one.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path}: is a device or a pipe, and would be replaced; name a file, or leave --out out")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """As :func:`whole_file`, for a folder that is not there, or empty; its files are flushed by who writes them.

    Raises
    ------
    InputError
        If it cannot be made; nothing stays.
    """
    temporary = _temporary(path, path.parent)
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except InputError as error:
        # Of a file inside, under a name that is gone when it is read.
        raise InputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error}); write elsewhere") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def whole_pair(first: Path, second: Path, remedy: str) -> Iterator[tuple[Path, Path]]:
    """As :func:`whole_file`, for two files that belong together: at no moment does a new one stand beside an old one.

    A run that is killed between the two renamings leaves one of them, and readers of pairs ask for both.
    """
    with whole_file(second, remedy) as later, whole_file(first, remedy) as sooner:
        yield sooner, later
        second.unlink(missing_ok=True)


def write_whole(path: str | Path, data: bytes, remedy: str = "make room or write elsewhere") -> None:
    """Write bytes as one :func:`whole_file`; errors as there."""
    with whole_file(path, remedy) as temporary:
        temporary.write_bytes(data)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed runs from a folder that belongs to one run."""
    for file in leftovers(folder):
        with contextlib.suppress(OSError):
            file.unlink()


def leftovers(folder: Path) -> list[Path]:
    """The temporary files in a folder."""
    return [file for file in folder.iterdir() if _LEFTOVER.match(file.name)]


def _temporary(final: Path, folder: Path) -> Path:
    """Another name for ``final``; what dead processes left under such names is removed."""
    mark = hashlib.sha256(f"{_machine()} {final.absolute()}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    for file, process in _found(folder, os.getpid()).pop(mark, []):
        if _is_dead(process):
            with contextlib.suppress(OSError):
                shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    return folder / f".mdsd-{mark}{os.getpid():08x}{uuid.uuid4().hex[:8]}.tmp"


@functools.lru_cache(maxsize=64)
def _found(folder: Path, process: int) -> dict[str, list[tuple[Path, int]]]:
    """Temporary files of a folder, and whose, by the mark of their final name; a process lists each folder once."""
    found: dict[str, list[tuple[Path, int]]] = {}
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if match := _TEMPORARY.match(file.name):
                found.setdefault(match[1], []).append((file, int(match[2], 16)))
    return found


@functools.cache
def _machine() -> str:
    """What tells apart the processes that write to one folder: machines and containers share their numbers."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def _is_dead(process: int) -> bool:
    """Whether there is certainly no such process here."""
    if os.name != "posix":  # there, asking would end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _link(temporary: Path, final: Path) -> None:
    try:
        os.link(temporary, final)
    except FileExistsError:
        pass
    except PermissionError:  # a file system without hard links
        os.replace(temporary, final)
