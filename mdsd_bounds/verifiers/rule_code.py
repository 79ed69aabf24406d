"""What tells a rule from another one of the same name: the code behind it, its own modules and the values it holds.

Results are kept and resumed under this digest, so that what another state of the code gave is never taken for its own.
Left out are modules of the standard library and of other installed packages, and files that a rule reads as data.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

#: Text of each own module when a rule first needed it: what runs is what was loaded then, whatever the file holds now.
#: Beside it what a reload, or another import, replaces.
_LOADED: dict[str, tuple[object, bytes]] = {}
_STANDARD = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
_PACKAGE = Path(__file__).resolve().parents[1]
#: How deep values are looked into; what lies deeper is told apart from everything.
_DEPTH = 8


def digest_of_code(*functions: object) -> str:
    """Digest of functions, the texts of their modules, and what they close over."""
    # Held, so that no two of them have the same id.
    seen: dict[int, Any] = {}
    texts: dict[str, bytes] = {}
    parts = [part for function in functions for part in _value(function, seen, texts, _DEPTH)]
    found = hashlib.sha256(chr(0).join(parts).encode(errors="surrogatepass"))
    for text in sorted(set(texts.values())):
        found.update(hashlib.sha256(text).digest())
    return found.hexdigest()[:16]


def remember(module: ModuleType) -> None:
    """Take the text of a module that was just loaded, and of the own modules that it imports, as it is now."""
    _modules(module, {}, _top(module))


def _value(value: Any, seen: dict[int, Any], texts: dict[str, bytes], depth: int) -> Iterator[str]:
    """What a function, or a value that one holds, is told apart by; texts of modules are collected apart."""
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in seen:
        yield "again"
        return
    seen[id(value)] = value
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0:
        # Unknown: equal to nothing, so that nothing is resumed wrongly.
        yield uuid.uuid4().hex
    elif isinstance(value, Tensor):
        yield f"{name} {value.dtype}"
        yield from _value(value.detach().cpu().double().numpy(), seen, texts, depth)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{name} {value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    elif isinstance(value, list | tuple | set | frozenset):
        held = [list(_value(item, seen, texts, depth - 1)) for item in value]
        yield f"{name} {len(held)}"
        yield from (part for item in (sorted(held) if isinstance(value, set | frozenset) else held) for part in item)
    elif isinstance(value, Mapping):
        yield f"{name} {len(value)}"
        for key, item in value.items():
            yield from _value(key, seen, texts, depth - 1)
            yield from _value(item, seen, texts, depth - 1)
    elif isinstance(value, ModuleType):
        _modules(value, texts)
        yield f"module {value.__name__}"
    elif inspect.ismethod(value):
        yield from _value([value.__func__, value.__self__], seen, texts, depth)
    elif isinstance(value, functools.partial):
        yield name
        yield from _value([value.func, value.args, value.keywords], seen, texts, depth)
    else:
        yield from _object(value, name, seen, texts, depth)


def _object(value: Any, name: str, seen: dict[int, Any], texts: dict[str, bytes], depth: int) -> Iterator[str]:
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        module = sys.modules.get(getattr(value, "__globals__", {}).get("__name__", ""))
        known = module is not None and getattr(module, "__file__", None) == code.co_filename
        yield f"function {value.__qualname__}"
        if known and module is not None:
            _modules(module, texts, _top(module))
        else:
            # A function of a notebook or of a session: its instructions, and the globals that they name.
            yield from _code(code)
            used = {name: value.__globals__[name] for name in _names(code) if name in value.__globals__}
            yield from _value(used, seen, texts, depth - 1)
        cells = [_content(cell) for cell in value.__closure__ or ()]
        yield from _value([cells, value.__defaults__, value.__kwdefaults__], seen, texts, depth - 1)
    else:
        kind = value if isinstance(value, type) else type(value)
        module = sys.modules.get(kind.__module__)
        if module is not None:
            _modules(module, texts)
        yield name if kind is not value else f"class {kind.__module__}.{kind.__qualname__}"
        if kind is not value:
            yield from _value(getattr(value, "__dict__", {}), seen, texts, depth - 1)
            slots = [name for base in kind.__mro__ for name in _slots(base)]
            yield from _value([getattr(value, name, None) for name in slots], seen, texts, depth - 1)


def _slots(kind: type) -> tuple[str, ...]:
    found = kind.__dict__.get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _code(code: CodeType) -> Iterator[str]:
    yield repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)


def _names(code: CodeType) -> list[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= set(_names(constant))
    return sorted(found)


def _top(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _is_own(module: ModuleType, file: Path, top: str) -> bool:
    """Whether a module is one's own, or of the installed package ``top`` that the rule is part of."""
    if _PACKAGE in file.parents:
        return False
    installed = bool({"site-packages", "dist-packages"} & set(file.parts)) or bool(_STANDARD & set(file.parents))
    return not installed or _top(module) == top


def _modules(module: ModuleType, texts: dict[str, bytes], top: str = "") -> None:
    """Collect the texts of a module and of the own modules that it imports, wherever in it the import stands."""
    file = getattr(module, "__file__", None)
    if module.__name__ in texts or not file or not _is_own(module, Path(file).resolve(), top):
        return
    state = getattr(module, "__spec__", None) or module
    known, text = _LOADED.get(module.__name__, (None, b""))
    if known is not state:
        try:
            text = Path(file).read_bytes()
        except OSError:
            text = uuid.uuid4().bytes
        _LOADED[module.__name__] = state, text
    texts[module.__name__] = text
    held = [value for value in vars(module).values() if isinstance(value, ModuleType)]
    made = {getattr(value, "__module__", None) for value in vars(module).values()}
    for name in sorted({*_imported(text, module), *(name for name in made if isinstance(name, str))}):
        held += [found for found in [_find(name)] if found is not None]
    for other in held:
        _modules(other, texts, top)


def _imported(text: bytes, module: ModuleType) -> Iterator[str]:
    """Full names that the import statements of a module name, and of the packages that they lie in."""
    try:
        tree = ast.parse(text)
    except (ValueError, SyntaxError, RecursionError):  # compiled code
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (module.__package__ or "").split(".")
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _find(name: str) -> ModuleType | None:
    """The module of this name; one that is imported later, when it is used, is taken as its file stands."""
    if name in sys.modules:
        return sys.modules[name]
    found = _spec(name)
    if found is None or not found.origin or not found.has_location:
        return None
    module = ModuleType(name)
    module.__file__, module.__package__ = found.origin, found.parent or ""
    return module


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing the packages that it lies in."""
    above, _, _ = name.rpartition(".")
    places = None
    if above:
        package = _spec(above)
        if package is None or package.submodule_search_locations is None:
            return None
        places = list(package.submodule_search_locations)
    try:
        return PathFinder.find_spec(name, places)
    except (ImportError, ValueError):
        return None
