"""The registry of verifiers: their names, here and in other packages.

One published rule per file, and one line here.  Other packages add theirs through the entry-point group
``mdsd_bounds.verifiers``: each entry point names a :class:`Verifier`; it is loaded when its name is first asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers import optimal
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.schemes import (
    cactus,
    greedy,
    gumbel_list,
    importance_sampling,
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
    "tv_budget": tv_budget.VERIFIER,
}

__all__ = ["GROUP", "VERIFIERS", "get_verifier", "load_third_party"]


def get_verifier(name: str) -> Verifier:
    """The verifier registered under ``name``, here or by another package.

    Raises
    ------
    InputError
        If there is none, or the other package's entry point does not load or is no :class:`Verifier`.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    for point in entry_points(group=GROUP):
        if point.name == name:
            VERIFIERS[name] = _load(point)
            return VERIFIERS[name]
    known = [*VERIFIERS, *(point.name for point in entry_points(group=GROUP) if point.name not in VERIFIERS)]
    raise InputError(f"unknown verifier {name!r}; choose one of {', '.join(known)}")


def load_third_party() -> list[str]:
    """Load every third-party verifier into :data:`VERIFIERS`; returns the names added."""
    added = []
    for point in entry_points(group=GROUP):
        if point.name not in VERIFIERS:
            VERIFIERS[point.name] = _load(point)
            added.append(point.name)
    return added


def _load(point: EntryPoint) -> Verifier:
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # whatever another package raises on import, or calls
        raise InputError(f"verifier {point.name!r} ({point.value}) does not load: {error}") from error
    if not isinstance(found, Verifier):
        raise InputError(f"verifier {point.name!r} ({point.value}) is {type(found).__name__}, not a mdsd Verifier")
    return found
