"""Could another sampler do better?  An equilibrium condition, and how far a pair of models is from it.

A sampler that sees only q is a distribution mu of the drafted set.  ``E alpha*(mu, p)`` is concave in mu, and

    **mu maximises it if and only if**, for some choice of minimising subsets H*(p), possibly randomised, every set
    that mu draws has the least ``g(S) = Pr(S in H*(p))`` among all sets of its size.

*If:* for any other distribution nu, ``E alpha*(nu, p) <= E[1 + P(H*)] - sum_S nu(S) g(S)``, because H* is a subset like
any other for nu; the sum is least for mu, where the right-hand side is ``E alpha*(mu, p)``.
*Only if:* ``E alpha*`` is the value of a zero-sum game, mu against a subset for each p, with finitely many pure
strategies on each side (for finitely many p); an optimal mu and an optimal mixed answer form a saddle point.  The
mixture is over subsets that are minimisers for mu almost surely, and every S drawn by mu is a best reply to it.
A single minimiser for each p need not do.  One draft of two tokens, p = (.1, .9), (.5, .5) or (.9, .1) with chances .4,
.35 and .25: mu = (.5, .5) is the best (a weighted median), the first and last p put token 1 and token 2 in H*, and any
subset is a minimiser for the middle one.  ``g = (.4, .25)`` plus .35 for the tokens of that subset: levelled by the
mixture that takes {2} with chance 3/7 and the empty set otherwise, and by no single subset.

For one draft g is a function of a token, and the condition says that no token of the draft's support is in H* more
often than another.  For more drafts ``Pr(i in H*)`` of single tokens is a diagnostic, not a proof: if it falls with
the rank of a token under q, tokens of low rank are drafted too seldom; if it rises, too often.

H* is not unique where ``P - Q`` has several minima: tokens that no minimum needs (p = q = 0, or rows with alpha* = 1)
count as the solver returns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.distributions import to_probs
from mdsd_bounds.dumps.base import LogitBatch
from mdsd_bounds.pipeline.tables import document_means
from mdsd_bounds.problem import InputError

#: Ranks looked at: each power of two, and the ranks between the first few.
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def share_in_subset(
    p: Tensor, q: Tensor, n_drafts: int, sampler: str = "without_replacement", ranks: Sequence[int] = RANKS
) -> Tensor:
    """Whether the token of each rank under q is in the minimising subset H*.

    Parameters
    ----------
    p, q : Tensor
        ``[B, V]`` distributions.
    n_drafts, sampler :
        As :func:`mdsd_bounds.optimal_acceptance`; one number of drafts.
    ranks : sequence of int
        Ranks from 1, the most probable token of q; ties in q are ranked by index.

    Returns
    -------
    Tensor
        ``[B, len(ranks)]`` float64: 1 or 0; NaN where q has fewer tokens in its support.

    Raises
    ------
    InputError
        If a rank is not between 1 and V, or as :func:`mdsd_bounds.optimal_acceptance`.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.diagnostics import share_in_subset
    >>> p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    >>> share_in_subset(p[None], q[None], 2, "with_replacement", (1, 2, 3))
    tensor([[1., 1., 0.]], dtype=torch.float64)
    """
    if min(ranks, default=0) < 1 or max(ranks) > q.shape[-1]:
        raise InputError(f"ranks={list(ranks)}: give ranks from 1 to {q.shape[-1]}")
    subset = optimal_acceptance(p, q, n_drafts, sampler).subset
    order = q.argsort(dim=-1, descending=True, stable=True)[:, : max(ranks)]
    chosen = order[:, [rank - 1 for rank in ranks]]
    held = subset.gather(-1, chosen).to(torch.float64)
    return torch.where(q.gather(-1, chosen) > 0, held, torch.full_like(held, float("nan")))


def equilibrium(
    batches: Iterable[LogitBatch],
    n_drafts: Sequence[int] = (2,),
    temperatures: Sequence[float] = (1.0,),
    sampler: str = "without_replacement",
    ranks: Sequence[int] = RANKS,
) -> pd.DataFrame:
    """``Pr(the token of rank r is in H*)`` over the positions of a dump; flat in r where no sampler does better.

    Parameters
    ----------
    batches : iterable
        Batches of a dump (``open_dump(...).batches(rows)``).
    n_drafts, temperatures : sequence
        Every combination is computed; the draft has the target's temperature.
    sampler : str
        A sampler whose bound records its subset.
    ranks : sequence of int
        Ranks under q, from 1.

    Returns
    -------
    DataFrame
        Columns temperature, drafts, rank, positions, share, stderr (documents as units).

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.diagnostics import equilibrium
    >>> shares = equilibrium(load_example().batches(4), (2,))
    >>> shares.columns.tolist()
    ['temperature', 'drafts', 'rank', 'positions', 'share', 'stderr']
    """
    parts: dict[tuple[float, int], list[np.ndarray]] = {(t, n): [] for t in temperatures for n in n_drafts}
    documents = []
    for batch in batches:
        rows = np.asarray(batch.row)
        documents.append(rows if batch.doc is None else np.asarray(batch.doc))
        for temperature in temperatures:
            warp: dict[str, Any] = {"temperature": temperature, "first_row": int(rows[0])}
            p, q = (to_probs(x, **warp) for x in (batch.target_logits, batch.draft_logits))
            for n in n_drafts:
                parts[temperature, n].append(share_in_subset(p, q, n, sampler, ranks).cpu().numpy())
    found = []
    unit = np.concatenate(documents)
    for (temperature, n), held in parts.items():
        table = np.concatenate(held)
        for rank, column in zip(ranks, table.T, strict=True):
            kept = ~np.isnan(column)
            if kept.any():
                share, stderr = document_means(column[kept], unit[kept])
                found.append((float(temperature), int(n), int(rank), int(kept.sum()), share, stderr))
    return pd.DataFrame(found, columns=["temperature", "drafts", "rank", "positions", "share", "stderr"])
