"""The best fixed set of drafts when the target's distribution is random, and why it is seldom the best sampler.

**Concavity.**  For a distribution mu of the drafted set, ``alpha*(mu, p) = 1 + min over H of (P(H) - Q_mu(H))`` is a
minimum of functions linear in (mu, p), hence jointly concave: for random p, ``E alpha*(mu, p) <= alpha*(mu, E p)``.
Since ``|P(H) - P'(H)| <= TV(p, p')`` for every H, also ``|alpha*(mu, p) - alpha*(mu, p')| <= TV(p, p')``.

**A fixed set S** has Q(H) = 1 if S is in H, else 0, so ``alpha* = P(S)``, attained without any knowledge of q: draw y
from p and accept it if it is in S.  On average that is the sum of ``E p_i`` over S, largest for the n largest of them.

**When it is optimal.**  If p is one token Y almost surely, ``alpha*(mu, p) = Pr(Y in S)``, S drawn from mu, and no mu
does better than its best set.

**When it is not.**  With E p = q a fixed set gives at most the n largest q_i.  Sampling without replacement gives at
least what its first draft gives, ``1 - E TV(p, q)``, which is 1 for p = q however flat q is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, draft_counts


def best_fixed_set(p: Tensor, n_drafts: int) -> tuple[Tensor, Tensor]:
    """The n tokens of largest mean target probability, and the acceptance they give on average.

    Parameters
    ----------
    p : Tensor
        ``[S, V]`` target distributions, equally likely, for one distribution of the draft.
    n_drafts : int
        Number of drafts, at least 1; at most V are used.

    Returns
    -------
    tokens : Tensor
        ``[min(n, V)]`` int64, in falling order of ``E p_i``.
    acceptance : Tensor
        0-dim, in [0, 1]: ``sum over the set of E p_i``.

    Raises
    ------
    InputError
        If p is not ``[S, V]`` with at least one row, or n is no integer of at least 1.

    Notes
    -----
    O(S V).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.diagnostics import best_fixed_set
    >>> best_fixed_set(torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64), 2)
    (tensor([0, 1]), tensor(0.9000, dtype=torch.float64))
    """
    n = require_samples(p, n_drafts)
    mean = p.to(torch.float64).mean(0)
    found = mean.topk(min(n, len(mean)))
    return found.indices, found.values.sum()


def require_samples(p: Tensor, n_drafts: int) -> int:
    """The number of drafts, where p is ``[S, V]`` with at least one row and n an integer of at least 1."""
    (n,), _ = draft_counts(n_drafts)
    if p.ndim != 2 or 0 in p.shape:
        raise InputError(f"p: shape {tuple(p.shape)}; give target distributions [S, V]")
    return n
