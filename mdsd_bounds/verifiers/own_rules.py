"""A rule of your own as a :class:`Verifier`: a plain function, ``module:NAME``, or ``path/to/file.py:NAME``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import SAMPLERS
from mdsd_bounds.verifiers.base import OWN_RULE, Verifier
from mdsd_bounds.verifiers.rule_code import digest_of_code, remember

_FORMS = "a Verifier, a function step(p, q, drafts, generator), or a function probs(p, q, drafts)"


def from_function(rule: Callable[..., Tensor], name: str | None = None, origin: str | None = None) -> Verifier:
    """A verifier from a plain function, for the samplers it names, or every one that draws from one distribution q.

    A function that is made for some samplers alone says so in an attribute: ``rule.samplers = ("with_replacement",)``.

    Parameters
    ----------
    rule : callable
        ``step(p, q, drafts, generator) -> token [B]``, which is judged by its outputs; or
        ``probs(p, q, drafts) -> [B, V]``, the distribution of the output token given the drafts, which can be
        enumerated.  Which of the two it is, is told from whether it takes a fourth argument.  p and q are ``[B, V]``
        float64, drafts ``[B, n]`` int64; a slot that the sampler could not fill holds -1 (the support of q ran out).
    name : str, optional
        Its name in tables; the function's own unless given.
    origin : str, optional
        Where it was loaded from, see :class:`Verifier`.

    Returns
    -------
    Verifier
        Not known to be lossless (``audited`` is false): :func:`mdsd_bounds.audit.audit_rule` tells.  Until then it is
        compared as a lossless rule.

    Raises
    ------
    InputError
        If it takes neither three nor four arguments, or names samplers that do not draw from one distribution q.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers import acceptance_rate, from_function
    >>> rule = from_function(lambda p, q, drafts: p, name="ignores the drafts")
    >>> p = q = torch.tensor([0.5, 0.5])
    >>> float(acceptance_rate(p, q, 1, "with_replacement", rule).value)
    0.5
    """
    label = name or str(getattr(rule, "__name__", type(rule).__name__))
    samplers = _samplers(rule, label)
    if _arguments(rule, label) == 3:

        def distribution(p: Tensor, q: Tensor, drafts: Tensor, **options: Any) -> Tensor:
            return rule(p, q, drafts)

        return Verifier(label, OWN_RULE, True, samplers, distribution, origin=origin)

    def fast_step(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **options: Any) -> Tensor:
        return rule(p, q, drafts, generator)

    return Verifier(label, OWN_RULE, True, samplers, None, fast_step, origin=origin)


def _samplers(rule: Callable[..., Any], label: str) -> tuple[str, ...]:
    """The samplers that a function names, or all that draw from one distribution q."""
    offered = tuple(key for key, sampler in SAMPLERS.items() if sampler.takes == "one")
    named = getattr(rule, "samplers", offered)
    chosen = (named,) if isinstance(named, str) else tuple(named)
    wrong = [name for name in chosen if name not in offered]
    if wrong or not chosen:
        raise InputError(
            f"verifier {label!r}: its samplers are {named!r}; name some of {', '.join(offered)}, for example "
            'rule.samplers = ("with_replacement",)'
        )
    return chosen


def _arguments(rule: Callable[..., Any], label: str) -> int:
    """3 for a function that gives probabilities, 4 for one that gives steps."""
    try:
        given = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        return 4
    if any(one.kind is one.VAR_POSITIONAL for one in given):
        return 4
    positional = [one for one in given if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in positional if one.default is one.empty]
    if len(positional) >= 4 >= len(needed):
        return 4
    if len(positional) == 3:
        return 3
    raise InputError(f"verifier {label!r} takes {len(needed)} arguments; give {_FORMS}")


def load_verifier(spec: str) -> Verifier:
    """The rule at ``module:NAME`` or ``path/to/file.py:NAME``.

    A plain function is named as it was given, a file without its folder; a :class:`Verifier` has its own name.

    Raises
    ------
    InputError
        If the module or file does not load, or what it holds is no rule.
    """
    place, _, name = spec.rpartition(":")
    is_file = place.endswith(".py")
    try:
        found: Any = _module_of_file(Path(place)) if is_file else _module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever another's module raises on import, or calls
        remedy = (
            "check the path and the name" if is_file else "give module:NAME of a module that python can import here"
        )
        raise InputError(
            f"--verifier {spec}: does not load ({type(error).__name__}: {error}); {remedy}, or path/to/file.py:NAME"
        ) from error
    origin = f"{os.path.abspath(place)}:{name}" if is_file else spec
    if isinstance(found, Verifier):
        return replace(found, origin=origin)
    if callable(found) and not isinstance(found, type):
        # Names stand in tables, which hold no bytes but those of UTF-8.
        return from_function(found, printable(f"{Path(place).name}:{name}" if is_file else spec), origin)
    raise InputError(
        f"--verifier {spec}: {type(found).__name__}, neither a mdsd Verifier nor a function; give {_FORMS}"
    )


def _module(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    module = importlib.import_module(name)
    remember(module)
    return module


def _module_of_file(path: Path) -> Any:
    """The module that a file holds, loaded once for each state of the file; its folder can be imported from."""
    path = path.absolute()
    digest = hashlib.sha256(os.fsencode(path) + path.read_bytes()).hexdigest()[:16]
    name = f"mdsd_own_rule_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    remember(module)
    return module


def identity(rule: Verifier) -> str:
    """What tells this rule from another one of the same name: its name, and the code behind it.

    That is the text of its module and of the modules of one's own that it imports, and the values that it closes over
    (:mod:`mdsd_bounds.verifiers.rule_code`).  What other code gave is then not taken for its own.
    """
    functions = (rule.output_distribution, rule.fast_step, rule.exact_rate, rule.estimate_rate, rule.distance)
    facts = (rule.lossless, rule.samplers, rule.options, rule.needs, rule.drafts_needed)
    return f"{rule.name} {digest_of_code(*functions, *facts)}"
