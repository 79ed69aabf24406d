"""Draft samplers: how the n drafts of a position are drawn from q.  One file and one line here for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import (
    greedy,
    independent,
    joint,
    top_k,
    top_m_plus,
    with_replacement,
    without_replacement,
)
from mdsd_bounds.samplers.base import NO_DRAFT, Sampler

SAMPLERS: dict[str, Sampler] = {
    "with_replacement": with_replacement.SAMPLER,
    "without_replacement": without_replacement.SAMPLER,
    "greedy": greedy.SAMPLER,
    "top_k": top_k.SAMPLER,
    "top_m_plus": top_m_plus.SAMPLER,
    "independent": independent.SAMPLER,
    "joint": joint.SAMPLER,
}

__all__ = ["NO_DRAFT", "SAMPLERS", "Sampler", "get_sampler", "register_sampler", "sampler_options"]

#: Those that ship with this package.
_SHIPPED = dict(SAMPLERS)


def get_sampler(name: str) -> Sampler:
    """The sampler registered under ``name``.

    Raises
    ------
    InputError
        If there is none; the known names are listed.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.samplers import get_sampler
    >>> q = torch.tensor([[0.5, 0.5, 0.0]])
    >>> drafts = get_sampler("without_replacement").sample(q, 2, torch.Generator().manual_seed(0))
    >>> drafts.sort(-1).values
    tensor([[0, 1]])
    """
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def register_sampler(sampler: Sampler) -> Sampler:
    """Add a draft sampler under its name for the life of this process; returns it.

    Raises
    ------
    InputError
        If another sampler has that name.

    Examples
    --------
    >>> from mdsd_bounds.samplers import SAMPLERS, Sampler, register_sampler
    >>> sampler = register_sampler(Sampler("always_from_q", lambda q, drawn, k, n: q, replacement=True))
    >>> SAMPLERS.pop("always_from_q") is sampler
    True
    """
    if SAMPLERS.get(sampler.name, sampler) != sampler:
        raise InputError(f"a sampler {sampler.name!r} is registered already; give yours another name")
    SAMPLERS[sampler.name] = sampler
    return sampler


def registered_here(names: Sequence[str]) -> tuple[Sampler, ...]:
    """Those of the samplers named that this process registered, which another process does not have."""
    return tuple(SAMPLERS[name] for name in names if name in SAMPLERS and name not in _SHIPPED)


def sampler_options(name: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """Those of the ``options`` given for several samplers that the sampler ``name`` takes.

    Raises
    ------
    InputError
        If the sampler is unknown, or an option is taken by no registered sampler.

    Examples
    --------
    >>> from mdsd_bounds.samplers import sampler_options
    >>> sampler_options("top_m_plus", {"m": 2})
    {'m': 2}
    """
    known = {option for sampler in SAMPLERS.values() for option in sampler.options}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"no sampler takes the options {unknown}; known options are {', '.join(sorted(known))}")
    return get_sampler(name).own_options(options)
