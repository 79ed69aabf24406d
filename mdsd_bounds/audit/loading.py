"""Find the rule to audit: registered here or by another package, ``module:NAME``, or a control.

A third party may give a :class:`mdsd_bounds.verifiers.Verifier`, or a plain function
``step(p [B, V], q [B, V], drafts [B, n], generator) -> token [B]``: such a rule has no distribution to enumerate, and
is judged by its steps alone.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from torch import Tensor

from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import SAMPLERS
from mdsd_bounds.verifiers import get_verifier
from mdsd_bounds.verifiers.base import Verifier


def load_rule(spec: str) -> tuple[Verifier, bool]:
    """The rule, and whether it gives its distribution (so that it can be enumerated).

    Raises
    ------
    InputError
        If the name is unknown, the module does not load, or what it holds is no rule.
    """
    if spec in CONTROLS:
        return CONTROLS[spec], True
    if ":" not in spec:
        return get_verifier(spec), True
    module_name, name = spec.split(":", 1)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever another's module raises on import, or calls
        raise InputError(
            f"--verifier {spec}: does not load ({type(error).__name__}: {error}); give module:NAME of a module that "
            "python can import from here"
        ) from error
    if isinstance(found, Verifier):
        return found, True
    if callable(found):
        return _from_step(found, spec), False
    raise InputError(
        f"--verifier {spec}: {type(found).__name__}, neither a mdsd Verifier nor a function "
        "step(p, q, drafts, generator)"
    )


def _from_step(step: Any, name: str) -> Verifier:
    def probs(p: Tensor, q: Tensor, drafts: Tensor, **options: Any) -> Tensor:
        raise InputError(f"verifier {name!r} gives steps only; it has no distribution to enumerate")

    def fast_step(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **options: Any) -> Tensor:
        token: Tensor = step(p, q, drafts, generator)
        return token

    # Samplers that hand a plain function one draft distribution.
    samplers = tuple(key for key, sampler in SAMPLERS.items() if sampler.takes == "one")
    return Verifier(name, "third party", True, samplers, probs, fast_step)
