"""The optimal rule for independent drafts: priorities from exchanged intervals, the highest priority is picked.

Tokens with q > 0 in the order of p/q own intervals of the unit interval as long as their q.  A draft takes the interval
of its token or, by chance, the one of a partner; the draft in the highest interval is picked.  If the drafts always
kept their own interval ``[a, b]``, the pick would fall in it with probability ``b^n - a^n = (b - a) G``, with

    ``G = (b^n - a^n) / (b - a) = sum over k < n of b^(n-1-k) a^k``   (increasing from interval to interval).

If intervals i < j exchange the mass x, the tokens of i gain ``x (G_j - G_i)`` and those of j lose it.  With
``d = p - q G`` and h the first place where the cumulative sum of d is least (0 for the empty prefix),
``alpha* = 1 + min(0, least)``.  Right of h every surplus (d < 0) is given to deficits (d > 0) before it, left of h
every deficit is filled from surpluses after it; both first in, first out from h outwards.  Tokens may share an
interval if the signs of their d agree (:mod:`.intervals_kernel`), so that nothing needs to be sorted.  Proof of
validity and optimality: ``docs/optimal_verifier.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.verifiers.optimal.exchanges_kernel import Tables, pick, prepare_row
from mdsd_bounds.verifiers.optimal.intervals_kernel import BLOCK, STRIP, drafted_tokens
from mdsd_bounds.verifiers.optimal.prepared import Prepared

#: Rows with at most this many drafted tokens are listed token by token, and only these are looked at.
FEW = 4096
#: Entries of the working array ``[T, n, M]`` of the distribution of the pick.
_CHUNK = 4_000_000


def prepare_with_replacement(p: Tensor, q: Tensor, n: int) -> Prepared:
    """The rule of one position for n independent draws of q.

    Parameters
    ----------
    p, q, n :
        As :func:`mdsd_bounds.verifiers.optimal.prepare`; the gap of the result is of rounding size.

    Notes
    -----
    O(V + n M) for M intervals: two passes over the row, or, where few tokens can be drafted, one over q and O(log k)
    over these k.  A step costs O(n log M).
    """
    p, q = p.contiguous(), q.contiguous()
    target, draft = p.numpy(), q.numpy()
    token = drafted_tokens(draft, min(FEW, len(draft)))
    # Memory that is zero already costs nothing where it is not touched.
    fresh = np.zeros if len(token) else np.empty
    interval, r = fresh(len(draft), np.int32), fresh(len(draft), np.float64)
    tables, held, bound, accepted = prepare_row(target, draft, n, token, interval, r)
    gap = max(0.0, min(1.0, bound + rounding(n, len(draft))) - accepted)
    return Prepared(p, torch.from_numpy(r), gap, ExchangeRule(p, q, interval, tables, held))


def rounding(n: int, size: int) -> float:
    """Bound on the rounding of ``1 + P(H) - q(H)^n`` and of ``sum min(p, r)`` together."""
    return (2 * n + 2) * (BLOCK + STRIP / BLOCK + size / STRIP + 4) * rounding_unit()


@dataclass(frozen=True)
class ExchangeRule:
    """The rule that runs: intervals by priority, and their exchanges.

    Attributes
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.
    interval : ndarray
        ``[V]`` int32: interval of every token, from 1 on; 0 where q = 0.
    tables : Tables
        Mass of the intervals, and what they exchange.
    held : int
        h: the tokens of the intervals 1 to h are the set H that proves the upper bound.
    """

    p: Tensor
    q: Tensor
    interval: np.ndarray
    tables: Tables
    held: int

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each place of ``drafts`` is the pick.  O(T n^3 M)."""
        token = drafts.numpy()
        chance = np.empty(token.shape)
        step = max(1, _CHUNK // (max(1, token.shape[1]) * len(self.tables.draft)))
        for begin in range(0, len(token), step):
            part = token[begin : begin + step]
            shares = self.shares(np.maximum(part, 0).ravel()).reshape(*part.shape, -1)
            # An empty place lies below every draft.
            shares[part < 0] = np.eye(1, shares.shape[-1])
            chance[begin : begin + step] = np.where(part < 0, 0.0, highest(shares))
        return torch.from_numpy(chance)

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Place of the pick ``[T]``.  O(n log M) a row."""
        uniform = torch.rand((len(drafts), 2 * drafts.shape[1]), dtype=torch.float64, generator=generator)
        row = self.p.numpy(), self.q.numpy(), self.interval
        return torch.from_numpy(pick(drafts.numpy(), uniform.numpy(), *row, self.tables))

    def summary(self) -> str:
        """Intervals and exchanges."""
        return f"{len(self.tables.draft) - 1:,} intervals by priority, {len(self.tables.low):,} exchanges"

    def shares(self, token: np.ndarray) -> np.ndarray:
        """Probability ``[K, M + 1]`` of the interval that a draft of each ``token`` ``[K]`` takes."""
        own, t = self.interval[token], self.tables
        moves = t.end[own] > t.first[own]
        ratio = np.divide(self.p.numpy()[token], self.q.numpy()[token], out=np.zeros(len(token)), where=moves)
        leave = np.clip(t.rate[own] * (ratio - t.worth[own]), 0.0, 1.0)
        share: np.ndarray = self.moves()[own].toarray() * leave[:, None]
        share[np.arange(len(own)), own] += 1.0 - leave
        return share

    def moves(self) -> csr_array:
        """Probability ``[M + 1, M + 1]`` of the interval that a draft goes to which leaves its own."""
        t = self.tables
        low, high = (_pieces(*side) for side in ((t.low, t.low_sum), (t.high, t.high_sum)))
        count = len(t.draft)
        total = np.bincount(t.low, low, count) + np.bincount(t.high, high, count)
        row, column = np.concatenate([t.low, t.high]), np.concatenate([t.high, t.low])
        matrix: csr_array = coo_array((np.concatenate([low, high]) / total[row], (row, column)), (count, count)).tocsr()
        return matrix


def _pieces(interval: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Masses from their sums, which start afresh with every interval."""
    mass = total.copy()
    follows = np.flatnonzero(interval[1:] == interval[:-1]) + 1
    mass[follows] -= total[follows - 1]
    return mass


def highest(shares: np.ndarray) -> np.ndarray:
    """Probability ``[T, n]`` that each draft is picked; draft k is in interval s with probability ``shares[t, k, s]``.

    Draft k in interval s wins against others that are lower, and against m that share it with probability 1/(1+m):
    ``sum over s of m_k(s) * integral over z in [0, 1] of prod over j != k of (C_j(s) + z m_j(s))``, C the mass below s.
    Cost O(T n^3 M).
    """
    n = shares.shape[1]
    below = np.cumsum(shares, -1) - shares
    chance = np.empty(shares.shape[:2])
    for k in range(n):
        ties = [np.ones_like(shares[:, 0])]
        for j in range(n):
            if j != k:
                kept = [below[:, j] * c for c in ties]
                moved = [shares[:, j] * c for c in ties]
                ties = [x + y for x, y in zip([*kept, 0.0], [0.0, *moved], strict=True)]
        wins = sum(c / (1.0 + m) for m, c in enumerate(ties))
        chance[:, k] = (shares[:, k] * wins).sum(-1)
    return chance
