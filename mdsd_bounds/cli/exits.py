"""How a command ends: its exit code, and the one line that says why.

====  ==============================================================================
code  meaning
====  ==============================================================================
0     good
1     the verdict of ``mdsd audit`` is lossy; nothing else ends so
2     input, options, files, memory or a missing package: something the user can change
3     anything unexpected: a defect, said in one line that is to be reported
130   interrupted; where the same command resumes, a line says so
141   whoever read the output went away
====  ==============================================================================
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOOD, LOSSY, INPUT, UNEXPECTED, INTERRUPTED, PIPE = 0, 1, 2, 3, 130, 141

#: Modules of optional packages -> the extra that brings them.
EXTRAS = {
    "matplotlib": "plot",
    "cvxpy": "lp",
    "ortools": "lp",
    "transformers": "models",
    "gguf": "models",
    "tokenizers": "models",
    "ray": "cluster",
}
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "make room, or write elsewhere",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk or the network gave an error: copy the file elsewhere and run again",
}


@contextmanager
def resumable(what: str) -> Iterator[None]:
    """A stretch of work after which the same command goes on: an interruption says so.

    Parameters
    ----------
    what : str
        Where the finished work is kept, as the beginning of a sentence.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"{what}; the same command resumes there")
        raise


def need(*modules: str, purpose: str) -> None:
    """Refuse a command, before any of its work, for which an optional package is missing.

    Raises
    ------
    InputError
        Naming the extra to install.
    """
    import importlib

    from mdsd_bounds.problem import InputError

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"{purpose} needs {module} ({error}); pip install '{_extra(module)}'") from None


def ending_of(error: BaseException) -> tuple[int, str]:
    """Exit code and line for whatever ended a command.

    Usage errors are recognised by what they can do: typer may carry its own copy of click.
    """
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return INTERRUPTED, "; ".join(["interrupted", *_notes(error)])
    if isinstance(error, BrokenPipeError):
        return PIPE, ""
    if hasattr(error, "format_message"):
        return INPUT, f"{error.format_message()} (see mdsd --help)"
    if isinstance(error, MemoryError) or _is_allocation(error):
        return INPUT, "out of memory; use fewer rows, samplers, drafts or temperatures at once, or a larger machine"
    if isinstance(error, ModuleNotFoundError) and (module := (error.name or "").partition(".")[0]) in EXTRAS:
        return INPUT, f"this needs {module}, which is not installed; pip install '{_extra(module)}'"
    if isinstance(error, OSError):
        return INPUT, _of_the_system(error)
    from mdsd_bounds.problem import InputError

    if isinstance(error, InputError):
        return INPUT, str(error)
    return UNEXPECTED, _defect(error)


def _extra(module: str) -> str:
    return f"mdsd-bounds[{EXTRAS.get(module, 'dev')}]"


def _notes(error: BaseException) -> list[str]:
    found: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        found += getattr(seen, "__notes__", [])
        seen = seen.__cause__ or seen.__context__
    return list(dict.fromkeys(found))


def _is_allocation(error: BaseException) -> bool:
    # torch's allocators raise RuntimeErrors of their own.
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _of_the_system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        if error.errno == errno.ENOSPC:
            return f"the output could not be written ({reason})"
        return f"a file could not be read or written ({reason}); {_remedy(error)}"
    return f"{os.fsdecode(error.filename)}: {reason}; {_remedy(error)}"


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, "check the file and its disk, and run again")


def _defect(error: BaseException) -> str:
    """What to report: the kind of error, its text, and where it was raised."""
    if isinstance(error, SystemExit):
        what = f"a module called sys.exit({error.code!r})"
    else:
        what = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    # The file alone: a path of this machine is nobody else's business.
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    from mdsd_bounds import __version__

    return (
        f"unexpected {_shortened(what)}{place}; a defect of mdsd_bounds {__version__} or of a module it loaded: please "
        "report this line with the command; --debug shows the traceback"
    )


def _shortened(text: str, length: int = 400) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
