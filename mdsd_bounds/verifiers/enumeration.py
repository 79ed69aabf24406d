"""Any verifier by full enumeration at small V: the exact output distribution and acceptance over all draft tuples.

``probs(y) = sum over draft tuples x of Pr(x) output_distribution(y | x)``, and the acceptance is the sum over x of
``Pr(x)`` times the mass of ``output_distribution(. | x)`` on the drafts.  Losslessness and every faster route are
tested against this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import NO_DRAFT, get_sampler
from mdsd_bounds.verifiers.base import CHUNK_ENTRIES, Verifier, drafted_mass, require_pair, sampler_options

#: Draft tuples beyond which enumeration is refused.
MAX_TUPLES = 2_000_000
#: Bytes for each token of the next draft's distribution: the distribution, its copies and the indices of what can
#: occur.
_BYTES = 48


@dataclass(frozen=True)
class Enumerated:
    """Exact behaviour of a verifier at one position: ``probs`` ``[V]`` of the output token, and its ``acceptance``."""

    probs: Tensor
    acceptance: float


def draft_tuples(q: Tensor, n: int, size: int, *, sampler: str, **options: Option) -> tuple[Tensor, Tensor]:
    """All ordered draft tuples ``[T, n]`` that can occur, with their probabilities ``[T]``.

    Parameters
    ----------
    q : Tensor
        One row: ``[1, V]`` (``[1, n, V]`` for ``independent``, ``[1, T]`` for ``joint``).
    n, size : int
        Number of drafts, and V.

    Raises
    ------
    InputError
        If there are more than :data:`MAX_TUPLES`, or they need more than the memory given; the size is stated.
    """
    rule = get_sampler(sampler)
    if rule.tuples is not None:
        listed, weight = rule.tuples(q, **options)
        return listed[weight[0] > 0], weight[0][weight[0] > 0]
    tuples = torch.zeros((1, 0), dtype=torch.int64, device=q.device)
    mass = torch.ones(1, dtype=torch.float64, device=q.device)
    for k in range(n):
        asked = f"{sampler}: up to {float(size) ** n:.3g} draft tuples at n={n}, V={size}"
        if len(tuples) * size > 8 * MAX_TUPLES:
            raise InputError(
                f"{asked} would need {float(size) ** n * _BYTES * size / 1e9:.3g} GB; enumerate a smaller vocabulary"
            )
        require_memory(float(len(tuples)) * size * _BYTES, asked, "enumerate a smaller vocabulary")
        drawn = torch.zeros((len(tuples), size + 1), dtype=torch.bool, device=q.device)
        drawn.scatter_(1, torch.where(tuples < 0, size, tuples), True)
        probs = rule.conditional(q.expand(len(tuples), *q.shape[1:]), drawn[:, :size], k, n, **options)
        exhausted = (probs.sum(-1, keepdim=True) == 0).to(probs.dtype)
        source, token = torch.cat([probs, exhausted], -1).nonzero(as_tuple=True)
        chance = torch.cat([probs, exhausted], -1)[source, token]
        token = torch.where(token == size, NO_DRAFT, token)
        tuples = torch.cat([tuples[source], token[:, None]], -1)
        mass = mass[source] * chance
    if len(tuples) > MAX_TUPLES:
        raise InputError(f"{sampler}: {len(tuples)} draft tuples, more than {MAX_TUPLES}; enumerate fewer tokens")
    return tuples, mass


def enumerate_verifier(
    verifier: Verifier, p: Tensor, q: Tensor, n: int, *, sampler: str | None = None, **options: Option
) -> Enumerated:
    """Exact output distribution and acceptance of ``verifier`` at one position, by summing over all draft tuples.

    Parameters
    ----------
    p : Tensor
        ``[V]`` float64.
    q : Tensor
        ``[V]`` (``[n, V]`` for ``independent``, ``[T]`` for ``joint``).
    n : int
        Number of drafts.

    Raises
    ------
    InputError
        If the pair makes no sense, the enumeration is too large, or the rule returns what is no distribution.

    Notes
    -----
    Cost O(T (V + cost of the rule)) with T the number of tuples, at most V^n.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers import enumerate_verifier, get_verifier
    >>> p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    >>> found = enumerate_verifier(get_verifier("rrs"), p, q, 2, sampler="with_replacement")
    >>> found.probs.numpy().round(12), round(found.acceptance, 4)
    (array([0.6, 0.3, 0.1]), 0.68)
    """
    sampler = sampler or verifier.samplers[0]
    require_pair(verifier, sampler, (n,))
    size = p.shape[-1]
    tuples, mass = draft_tuples(q[None], n, size, sampler=sampler, **sampler_options(verifier, options))
    probs = torch.zeros(size, dtype=torch.float64, device=p.device)
    accepted = 0.0
    chunk = max(1, CHUNK_ENTRIES // size)
    for first in range(0, len(tuples), chunk):
        drafts, weight = tuples[first : first + chunk], mass[first : first + chunk]
        given = verifier.probs(
            p.expand(len(drafts), -1), q.expand(len(drafts), *q.shape), drafts, sampler=sampler, **options
        )
        probs += weight @ given
        accepted += float(weight @ drafted_mass(given, drafts))
    return Enumerated(probs, accepted)
