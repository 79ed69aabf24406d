"""An upper bound on every draft sampler that sees only q: no rule for drawing n drafts from q does better.

Fix q, and let p be random given q (the draft model does not know the target's distribution).  A sampler is a
distribution mu of the drafted set S, chosen without seeing p.  Take for each token i the ``f`` smallest part of the
distribution of p_i, and let H(p) hold the tokens whose p_i falls in that part.  Every H gives an upper bound on alpha*,
so

    ``E alpha*(mu, p) <= 1 + E P(H) - sum_S mu(S) Pr(S in H)
                      <= 1 + sum_i E[p_i 1(p_i <= F_i^{-1}(f))] - min_S Pr(p_i <= F_i^{-1}(f) for all i in S)``,

for every f, and the last line does not know mu.  F_i is the distribution of p_i given q; where it has atoms the token
is in H for exactly a share f of it (ties between samples are broken by their order, which is a choice of H like any
other).

**Tight for one draft.**  ``E alpha*(mu, p) = sum_i E min(p_i, mu_i)`` is largest where ``Pr(p_i > mu_i) = 1 - f`` for
all i that are drafted, f such that ``sum mu_i = 1``: ``mu_i = F_i^{-1}(f)``.  Its value is ``sum_i E[p_i 1(p_i <=
mu_i)] + (1 - f) sum_i mu_i``, and with ``Pr(i in H) = f`` the bound at f is the same number.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from mdsd_bounds.diagnostics.fixed_set import require_samples

#: Entries (sets times samples) up to which ``min_S Pr(S in H)`` is enumerated; beyond, Bonferroni's inequality.
ENUMERATED = 50_000_000


def quantile_bound(p: Tensor, n_drafts: int) -> float:
    """Upper bound on ``E alpha*`` of every sampler of n drafts that does not see p.

    Parameters
    ----------
    p : Tensor
        ``[S, V]`` target distributions, equally likely given one distribution of the draft.
    n_drafts : int
        Number of drafts, at least 1.

    Returns
    -------
    float
        In [0, 1]; equal to the optimum over all samplers for n = 1.

    Raises
    ------
    InputError
        As :func:`best_fixed_set`.

    Notes
    -----
    All f = k/S are tried.  The least likely set is found among all C(V, n) where ``C(V, n) S`` is at most
    :data:`ENUMERATED`; otherwise ``Pr(S in H) >= 1 - n (1 - f)`` takes its place, which keeps the bound valid.
    Cost O(S V log S), and O(S^2 C(V, n)) for the enumeration.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.diagnostics import quantile_bound
    >>> quantile_bound(torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64), 2)
    1.0
    """
    n = require_samples(p, n_drafts)
    samples, size = p.shape
    n = min(n, size)
    ordered, order = p.to(torch.float64).sort(dim=0, stable=True)
    # place[s, i]: how many samples have a smaller p_i; the token is in H of sample s when that is below f S.
    place = torch.empty_like(order).scatter_(0, order, torch.arange(samples)[:, None].expand_as(order))
    held = torch.nn.functional.pad(ordered.sum(1).cumsum(0), (1, 0)) / samples
    exact = n > 1 and math.comb(size, n) * samples <= ENUMERATED
    sets = torch.tensor(list(itertools.combinations(range(size), n))) if exact else None
    # S is in H when its last member is.
    last = None if sets is None else _last_places(place, sets)
    best = 1.0
    for k in range(samples + 1):
        share = k / samples
        if n == 1:
            least = share
        elif last is None:
            least = max(0.0, 1.0 - n * (1.0 - share))
        else:
            least = float((last < k).sum(0).min()) / samples
        best = min(best, 1.0 + float(held[k]) - least)
    return best


def _last_places(place: Tensor, sets: Tensor) -> Tensor:
    """``[S, C]``: largest place among the members of each set."""
    last = place[:, sets[:, 0]]
    for k in range(1, sets.shape[1]):
        last = torch.maximum(last, place[:, sets[:, k]])
    return last
