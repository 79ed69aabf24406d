"""The shape of the package: imports run one way, private rooms stay private, files and functions stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mdsd_bounds"
FOLDERS = (PACKAGE, ROOT / "scripts")

#: From the ground floor up: a room may import the rooms before it, never those after it.
FLOORS = (
    "problem",
    "_backend",
    "distributions",
    "sampling",
    "samplers",
    "bounds",
    "verifiers",
    "diffusion",
    "dumps",
    "counts",
    "models",
    "pipeline",
    "trees",
    "judge",
    "audit",
    "diagnostics",
    "plots",
    "report",
    "integrations",
    "cli",
)

#: What reads logits knows nothing of what is computed from them.
APART = {
    "dumps": {"samplers", "bounds", "verifiers"},
    "counts": {"samplers", "bounds", "verifiers"},
    "models": {"samplers", "bounds", "verifiers"},
}


def arrows(path: Path, source: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Imports of this package in one file: (where it stands, dotted parts after ``mdsd_bounds``)."""
    tree = ast.parse(source if source is not None else path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mdsd_bounds":
            parts = (node.module or "").split(".")[1:]
            for alias in node.names:
                yield f"{path}:{node.lineno}", [*parts, alias.name]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mdsd_bounds":
                    yield f"{path}:{node.lineno}", alias.name.split(".")[1:]


def faults_of(path: Path, source: str | None = None) -> list[str]:
    """What is wrong with the imports of one file."""
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room not in FLOORS:
        return [] if room in {"__init__", "__main__"} else [f"{path}: the room {room!r} stands on no floor"]
    faults = []
    for where, parts in arrows(path, source):
        if not parts or parts[0] in {room, "__version__"} or parts[0] not in FLOORS:
            continue
        if FLOORS.index(parts[0]) > FLOORS.index(room):
            faults.append(f"{where}: {room} imports {'.'.join(parts)}, which stands above it")
        if parts[0] in APART.get(room, set()):
            faults.append(f"{where}: {room} imports {'.'.join(parts)}")
        if any(part.startswith("_") for part in parts[1:]):
            faults.append(f"{where}: {room} imports the private {'.'.join(parts)}")
    return faults


def test_imports_run_one_way() -> None:
    faults = [fault for path in sorted(PACKAGE.rglob("*.py")) for fault in faults_of(path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("samplers/base.py", "from mdsd_bounds.bounds import solve"),
        ("dumps/base.py", "from mdsd_bounds.samplers import SAMPLERS"),
        ("cli/bounds.py", "from mdsd_bounds.bounds.search import _hidden"),
        ("cli/bounds.py", "from mdsd_bounds.bounds._hidden import name"),
        ("newroom/base.py", "import numpy"),
    ],
)
def test_a_wrong_arrow_is_seen(file: str, line: str) -> None:
    assert faults_of(PACKAGE / file, line)


def test_the_map_names_files_that_are_there() -> None:
    """Paths in docs/MAP.md; a list of names goes on in the folder of the first."""
    missing, count, folder = [], 0, PACKAGE
    for line in (ROOT / "docs" / "MAP.md").read_text().splitlines():
        # A paragraph goes on over its lines, a table does not.
        folder = PACKAGE if line.startswith("|") or not line else folder
        for name in re.findall(r"`([\w./]+(?:\.py|\.css|\.js|/))`", line):
            places = [PACKAGE / name, ROOT / name, folder / name]
            found = next((place for place in places if place.exists()), None)
            count += 1
            if found is None:
                missing.append(name)
            elif "/" in name:
                folder = found if found.is_dir() else found.parent
    assert count > 50
    assert not missing, missing


def test_rooms_are_few() -> None:
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= 5, modules


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a function has, ``self`` and ``cls`` apart."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([argument for argument in named if argument.arg not in {"self", "cls"}])


def is_long(node: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> bool:
    """More than 80 lines without the docstring, or more than eight parameters outside the command line."""
    lines = (node.end_lineno or 0) - node.lineno - len((ast.get_docstring(node) or "").splitlines())
    return lines > 80 or (parameters(node) > 8 and not file.startswith("mdsd_bounds/cli/"))


def test_functions_are_short() -> None:
    found = set()
    for path in sorted(path for folder in FOLDERS for path in folder.rglob("*.py")):
        file = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_long(node, file):
                found.add(f"{file}:{node.name}")
    assert not found, sorted(found)


def test_files_are_short() -> None:
    long = {
        str(path): text.count("\n")
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        if (text := path.read_text()).count("\n") > 400
    }
    assert not long, long
