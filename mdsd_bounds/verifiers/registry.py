"""The registry of verifiers: their names, here and in other packages.

One published rule per file, and one line here.  Other packages add theirs through the entry-point group
``mdsd_bounds.verifiers``: each entry point names a :class:`Verifier`; it is loaded when its name is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers import optimal
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.own_rules import from_function, identity, load_verifier
from mdsd_bounds.verifiers.schemes import (
    cactus,
    greedy,
    gumbel_list,
    importance_sampling,
    judge,
    k_seq,
    mentored_decoding,
    naive_tree,
    nss,
    rrs,
    rrs_without_replacement,
    spechub,
    top_k_membership,
    tv_budget,
    typical_acceptance,
)

#: Entry-point group of third-party verifiers.
GROUP = "mdsd_bounds.verifiers"

VERIFIERS: dict[str, Verifier] = {
    "nss": nss.VERIFIER,
    "naive_tree": naive_tree.VERIFIER,
    "rrs": rrs.VERIFIER,
    "rrs_without_replacement": rrs_without_replacement.VERIFIER,
    "k_seq": k_seq.VERIFIER,
    "spechub": spechub.VERIFIER,
    "greedy": greedy.VERIFIER,
    "importance_sampling": importance_sampling.VERIFIER,
    "gumbel_list": gumbel_list.VERIFIER,
    "optimal": optimal.VERIFIER,
    "typical_acceptance": typical_acceptance.VERIFIER,
    "top_k_membership": top_k_membership.VERIFIER,
    "cactus": cactus.VERIFIER,
    "mentored_decoding": mentored_decoding.VERIFIER,
    "judge": judge.VERIFIER,
    "tv_budget": tv_budget.VERIFIER,
}

#: Those that ship with this package.
_SHIPPED = dict(VERIFIERS)

__all__ = [
    "GROUP",
    "VERIFIERS",
    "get_verifier",
    "load_third_party",
    "portable",
    "register_verifier",
    "rule_key",
    "vouched_for",
]


def get_verifier(rule: str | Verifier | Callable[..., Tensor]) -> Verifier:
    """The verifier that ``rule`` means.

    Parameters
    ----------
    rule : str, Verifier or callable
        A name registered here or by another package; ``module:NAME`` or ``path/to/file.py:NAME``; a verifier, which is
        returned as it is; or a plain function (:func:`mdsd_bounds.verifiers.from_function`).

    Raises
    ------
    InputError
        If there is none, it does not load, or it is no rule.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import get_verifier
    >>> get_verifier("rrs").lossless
    True
    """
    if isinstance(rule, Verifier):
        return rule
    if not isinstance(rule, str):
        if not callable(rule):
            raise InputError(f"verifier {rule!r}: {type(rule).__name__} is neither a name, a Verifier nor a function")
        return from_function(rule)
    if rule in VERIFIERS:
        return VERIFIERS[rule]
    if ":" in rule:
        return load_verifier(rule)
    for point in entry_points(group=GROUP):
        if point.name == rule:
            VERIFIERS[rule] = _load(point)
            return VERIFIERS[rule]
    known = [*VERIFIERS, *(point.name for point in entry_points(group=GROUP) if point.name not in VERIFIERS)]
    raise InputError(
        f"unknown verifier {rule!r}; choose one of {', '.join(known)}, or give your own as module:NAME or "
        "path/to/file.py:NAME"
    )


def register_verifier(rule: Verifier | Callable[..., Tensor], name: str | None = None) -> Verifier:
    """Add a rule under its name for the life of this process: it then is in ``all`` and is found by name.

    Parameters
    ----------
    rule : Verifier or callable
        A verifier, or a plain function (:func:`mdsd_bounds.verifiers.from_function`).
    name : str, optional
        Another name than its own.

    Returns
    -------
    Verifier
        The rule as registered.

    Raises
    ------
    InputError
        If another rule has that name.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import VERIFIERS, register_verifier
    >>> rule = register_verifier(lambda p, q, drafts: p, "ignores_the_drafts")
    >>> VERIFIERS.pop("ignores_the_drafts") is rule
    True
    """
    found = from_function(rule, name) if not isinstance(rule, Verifier) else rule
    if name is not None and found.name != name:
        found = replace(found, name=name)
    if found.name in VERIFIERS and VERIFIERS[found.name] != found:
        raise InputError(f"a verifier {found.name!r} is registered already; give yours another name")
    VERIFIERS[found.name] = found
    return found


def load_third_party() -> list[str]:
    """Load every third-party verifier into :data:`VERIFIERS`; returns the names added.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import load_third_party
    >>> load_third_party()
    []
    """
    added = []
    for point in entry_points(group=GROUP):
        if point.name not in VERIFIERS:
            VERIFIERS[point.name] = _load(point)
            added.append(point.name)
    return added


def portable(rule: str | Verifier) -> str | Verifier:
    """The rule in a form from which :func:`get_verifier` finds it in another process that can import what this one can.

    A name where it ships or is installed, else the place it was loaded from, else the rule itself, which then has to be
    pickled (Ray does that also for functions of a script or a notebook).
    """
    found = get_verifier(rule)
    if _SHIPPED.get(found.name) is found or any(point.name == found.name for point in entry_points(group=GROUP)):
        return found.name
    return found.origin or found


def rule_key(rule: str | Verifier) -> str:
    """What tells a rule from others in the marks of results: the name of a shipped one, else its name and its code."""
    found = get_verifier(rule)
    return found.name if _SHIPPED.get(found.name) is found else identity(found)


def _load(point: EntryPoint) -> Verifier:
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # whatever another package raises on import, or calls
        raise InputError(
            f"verifier {point.name!r} ({point.value}) does not load: {error}; repair or uninstall its package, or name "
            "the verifiers in place of 'all'"
        ) from error
    if not isinstance(found, Verifier):
        raise InputError(f"verifier {point.name!r} ({point.value}) is {type(found).__name__}, not a mdsd Verifier")
    return found if found.name == point.name else replace(found, name=point.name)


def vouched_for(name: str) -> bool:
    """Whether the verifier of this name is registered, and not made from a plain function.

    Of all others nobody here has said that their output distribution is p.

    Examples
    --------
    >>> from mdsd_bounds.verifiers.registry import vouched_for
    >>> vouched_for("rrs"), vouched_for("my_rule.py:in_turn")
    (True, False)
    """
    return name in VERIFIERS and VERIFIERS[name].audited
