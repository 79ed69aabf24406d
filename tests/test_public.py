"""What is public: the names that a package lists in ``__all__``, each importable from it and documented.

Documentation, notebooks and README use nothing else, so that what they show can be relied on.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import mdsd_bounds

ROOT = Path(__file__).parents[1]
#: Rooms whose insides are nobody's business.
PRIVATE = ("mdsd_bounds._backend", "mdsd_bounds.cli")


def packages() -> list[str]:
    """All packages with public names."""
    found = ["mdsd_bounds"]
    for module in pkgutil.walk_packages(mdsd_bounds.__path__, "mdsd_bounds."):
        if module.ispkg and not module.name.startswith(PRIVATE):
            found.append(module.name)
    return [name for name in found if hasattr(importlib.import_module(name), "__all__")]


def is_public(module: str, name: str) -> bool:
    """Whether a package above ``module`` lists the name, or the module is a package's own and the name is its own too.

    A function that is named like its module (``trees.advise.advise``) cannot be an attribute of the package as well, so
    it is public where it is.
    """
    if any(part.startswith("_") for part in [*module.split("."), name]):
        return False
    if module.rsplit(".", 1)[-1] == name:
        return True
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if name in getattr(importlib.import_module(".".join(parts[:length])), "__all__", ()):
            return True
    return False


def test_rooms_that_users_enter_list_their_names() -> None:
    wanted = {
        "audit", "bounds", "counts", "diagnostics", "diffusion", "dumps", "models", "pipeline", "plots", "report",
        "samplers", "trees", "verifiers",
    }  # fmt: skip
    assert wanted <= {name.split(".")[1] for name in packages() if name != "mdsd_bounds"}


@pytest.mark.parametrize("package", packages())
def test_listed_names_are_there_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    assert len(set(names)) == len(names)
    for name in names:
        value = getattr(module, name)
        assert not name.startswith("_") or name == "__version__"
        if callable(value) and getattr(value, "__module__", "").startswith("mdsd_bounds"):
            assert (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", [name for name in packages() if hasattr(importlib.import_module(name), "_HOMES")])
def test_names_that_are_imported_late_have_types(package: str) -> None:
    """Type checkers see the imports under TYPE_CHECKING, Python the table: both say the same."""
    module = importlib.import_module(package)
    source = ast.parse(Path(str(module.__file__)).read_text())
    seen = {
        alias.asname: node.module
        for block in source.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == module._HOMES
    assert set(module.__all__) - {"__version__"} == set(seen)


def is_submodule(module: str, name: str) -> bool:
    return not name.startswith("_") and importlib.util.find_spec(f"{module}.{name}") is not None


def imports(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of this package in Python code or text."""
    for line in re.findall(r"^\s*(?:>>> )?from (mdsd_bounds[\w.]*) import ([\w, ]+|\([^)]*\))", text, re.MULTILINE):
        for name in re.findall(r"\w+(?: as \w+)?", line[1]):
            yield line[0], name.split()[0]


def documents() -> Iterator[tuple[str, str]]:
    """Text of the site, README and the cells of the notebooks, by file."""
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "docs/examples").glob("*.py")),
    ):
        yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path.name, "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize(("file", "text"), list(documents()), ids=lambda value: value if len(value) < 60 else "")
def test_documents_use_public_names(file: str, text: str) -> None:
    for module, name in imports(text):
        value = getattr(importlib.import_module(module), name, None)
        is_module = isinstance(value, types.ModuleType) or (value is None and is_submodule(module, name))
        assert is_module or is_public(module, name), f"{file}: {module}.{name}"


def test_the_api_pages_are_of_public_names() -> None:
    text = (ROOT / "docs" / "api" / "index.md").read_text()
    names = re.findall(r"^   ([a-z_A-Z][\w.]+)$", text, re.MULTILINE)
    assert len(names) > 50
    for name in names:
        module, _, last = f"mdsd_bounds.{name}".rpartition(".")
        assert is_public(module, last), name


@pytest.mark.parametrize(
    ("module", "name"), [("mdsd_bounds.trees.base", "Drawn"), ("mdsd_bounds._backend.memory", "VARIABLE")]
)
def test_a_private_name_is_seen(module: str, name: str) -> None:
    assert not is_public(module, name)
