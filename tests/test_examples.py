"""Every public function and class shows in its docstring how it is used, and what it shows is true.

Constants are exempt: a registry or a number is seen by printing it.  Compiled functions are: their docstring belongs to
a dispatcher that doctest does not look into.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdsd_bounds

#: Rooms whose insides are nobody's business.
PRIVATE = ("mdsd_bounds._backend", "mdsd_bounds.cli")
#: Packages whose names have no examples yet; those that are there run, too.
PENDING = ("mdsd_bounds.judge.", "mdsd_bounds.models.", "mdsd_bounds.report.", "mdsd_bounds.pipeline.engines.")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


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


def faults_of(name: str, value: Any) -> str:
    """What is wrong with the examples of one object: that there are none, or what they print instead; empty if nothing.

    Only the object's own docstring counts: a subclass without one would show its parent's.
    """
    own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    text = inspect.cleandoc(own or "")
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, None, None)
    if not test.examples:
        return f"{name} has no example in its docstring"
    if not any(example.want for example in test.examples):
        return f"{name} shows no output in its example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(test, out=said.append)
    return "".join(said)


OBJECTS = dict(public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_the_example_runs_and_shows_what_is_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Examples write to folders of tempfile and do not remove them: these belong to the test.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fault = faults_of(name, OBJECTS[name])
    if name.startswith(PENDING) and "has no example" in fault:
        pytest.skip(fault)
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
