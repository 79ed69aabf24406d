"""The optimal rule for independent drafts: random keys by swapped slots, the largest key is picked.

Each draft gets an independent random key whose law, averaged over q, is uniform on [0, 1]; here the key is a slot of
:mod:`.swaps`, uniform inside it.  The pick's law is ``r_i = q_i G_i`` plus what token i gains by exchanging slots,
exact for any exchange; the swap construction chooses the one with ``sum min(p, r) = alpha*``
(``docs/optimal_verifier.md``).
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from mdsd_bounds.verifiers.kernels.dispatch import WIDE
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.swaps import Swaps, rounding, solve_swaps

#: Entries of the working array ``[T, n, M]`` of the pick's law.
_CHUNK = 4_000_000


@cache
def _kernel() -> ModuleType | None:
    """The compiled loops, or None where numba is not installed."""
    try:
        return importlib.import_module("mdsd_bounds.verifiers.optimal.swaps_kernel")
    except ImportError:
        return None


def find_swaps(p: np.ndarray, q: np.ndarray, n: int) -> tuple[Swaps, np.ndarray, np.ndarray]:
    """The construction, with r ``[V]`` and the slot ``[V]`` of every token (-1 where q = 0); compiled for wide rows."""
    kernel = _kernel() if len(p) >= WIDE else None
    if kernel is not None:
        return compiled_swaps(p, q, n, kernel)
    swaps = solve_swaps(p, q, n)
    r, rank = np.zeros(len(p)), np.full(len(p), -1, np.int32)
    r[swaps.order], rank[swaps.order] = swaps.r, np.arange(len(swaps.order))
    return swaps, r, rank


def compiled_swaps(p: np.ndarray, q: np.ndarray, n: int, kernel: ModuleType) -> tuple[Swaps, np.ndarray, np.ndarray]:
    """:func:`find_swaps` by the compiled loops.  O(V)."""
    size = len(p)
    work, real, whole = _workspace(size), np.empty((5, size)), np.empty((6, size), np.int32)
    count = kernel.ratio_order(p, q, work[0], work[1:].view(np.uint64), whole[0])
    order, draft, r = whole[0, :count], real[0, :count], real[1, :count]
    held, bound = kernel.place_slots(p, q, order, n, work, draft, r)
    span, pair, mass = whole[1:3], whole[3:5], real[2:4]
    pairs = kernel.match(held, work[0, :count], work[1, :count], draft, r, span, pair, mass)
    law, rank = real[4], whole[5]
    kernel.scatter(order, r, law, rank)
    (first, end), (low, high), (low_sum, high_sum) = span[:, :count], pair[:, :pairs], mass[:, :pairs]
    return Swaps(order, draft, r, first, end, low, high, low_sum, high_sum, held, bound), law, rank


_space = threading.local()


def _workspace(size: int) -> np.ndarray:
    """``[3, size]`` float64 that this thread uses again."""
    held: np.ndarray | None = getattr(_space, "array", None)
    if held is None or held.shape[1] != size:
        held = _space.array = np.empty((3, size))
    return held


def prepare_with_replacement(p: Tensor, q: Tensor, n: int) -> Prepared:
    """The rule of one position for n independent draws of q.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 laws.
    n : int
        Number of drafts.

    Returns
    -------
    Prepared
        Whose gap is of rounding size.

    Notes
    -----
    O(V): a radix sort, a few passes, one merge.  A step costs O(n log V).
    """
    swaps, r, rank = find_swaps(p.contiguous().numpy(), q.contiguous().numpy(), n)
    law = torch.from_numpy(r)
    accepted = float(torch.minimum(p, law).sum())
    gap = max(0.0, min(1.0, swaps.bound + rounding(n, len(p))) - accepted)
    return Prepared(p, law, gap, ExchangeRule(swaps, rank))


@dataclass(frozen=True)
class ExchangeRule:
    """The rule that runs: slots by priority, and their exchanges.

    Attributes
    ----------
    swaps : Swaps
        The exchanges.
    rank : ndarray
        ``[V]`` int32 slot of every token, -1 where q = 0.
    """

    swaps: Swaps
    rank: np.ndarray

    def pick_law(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` is the pick.  O(T n^3 M)."""
        return torch.from_numpy(slot_pick_law(self.swaps, self.rank[drafts.numpy()]))

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``.  O(n log M) a row."""
        uniform = torch.rand((len(drafts), 2 * drafts.shape[1]), dtype=torch.float64, generator=generator).numpy()
        kernel = _kernel() if len(self.rank) >= WIDE else None
        choose = pick_slots if kernel is None else kernel.pick
        s = self.swaps
        tables = (s.q, s.first, s.end, s.low, s.high, s.low_sum, s.high_sum)
        return torch.from_numpy(choose(drafts.numpy(), uniform, self.rank, *tables))

    def summary(self) -> str:
        """Slots and exchanges."""
        return f"{len(self.swaps.order):,} slots by priority, {len(self.swaps.low):,} exchanges"


def slot_law(swaps: Swaps) -> csr_array:
    """Probability ``[M, M]`` that a draft of the token of one slot takes another: row sums are one."""
    count = len(swaps.order)
    low_mass, high_mass = swaps.low_sum.copy(), swaps.high_sum.copy()
    for side, mass in ((swaps.low, low_mass), (swaps.high, high_mass)):
        follows = np.flatnonzero(side[1:] == side[:-1]) + 1
        total = mass.copy()
        mass[follows] -= total[follows - 1]
    leaves = np.bincount(swaps.low, low_mass, count) + np.bincount(swaps.high, high_mass, count)
    stays = np.maximum(swaps.q - leaves, 0.0)
    own = np.arange(count)
    row = np.concatenate([own, swaps.low, swaps.high])
    column = np.concatenate([own, swaps.high, swaps.low])
    share = np.concatenate([stays, low_mass, high_mass]) / swaps.q[row]
    law: csr_array = coo_array((share, (row, column)), shape=(count, count)).tocsr()
    return law


def slot_pick_law(swaps: Swaps, slots: np.ndarray) -> np.ndarray:
    """Probability ``[T, n]`` that each draft is picked, given the slots ``[T, n]`` that their tokens own.

    Draft k in slot s wins against others that are lower, and against m that share the slot with probability 1/(1+m):
    ``sum over s of m_k(s) * integral over z in [0, 1] of prod over j != k of (C_j(s) + z m_j(s))``, C the mass below s.
    Cost O(T n^3 M).
    """
    moves = slot_law(swaps)
    rows, n = slots.shape
    chance = np.empty((rows, n))
    step = max(1, _CHUNK // (n * len(swaps.order)))
    for begin in range(0, rows, step):
        part = slots[begin : begin + step]
        here = moves[part.ravel()].toarray().reshape(*part.shape, -1)
        below = np.cumsum(here, -1) - here
        for k in range(n):
            ties = [np.ones_like(here[:, 0])]
            for j in range(n):
                if j != k:
                    kept = [below[:, j] * c for c in ties]
                    moved = [here[:, j] * c for c in ties]
                    ties = [x + y for x, y in zip([*kept, 0.0], [0.0, *moved], strict=True)]
            wins = sum(c / (1.0 + m) for m, c in enumerate(ties))
            chance[begin : begin + step, k] = (here[:, k] * wins).sum(-1)
    return chance


def pick_slots(
    drafts: np.ndarray,
    uniform: np.ndarray,
    rank: np.ndarray,
    q: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    low_sum: np.ndarray,
    high_sum: np.ndarray,
) -> np.ndarray:
    """The draft ``[T]`` in the highest slot, in plain numpy; ties go by the second half of ``uniform`` ``[T, 2 n]``."""
    n = drafts.shape[1]
    slot = rank[drafts]
    goal = uniform[:, :n] * q[slot]
    begin, stop = first[slot].astype(np.int64), end[slot].astype(np.int64)
    if len(low):
        is_low = low[np.minimum(begin, len(low) - 1)] == slot

        def table(place: np.ndarray) -> np.ndarray:
            place = np.clip(place, 0, len(low) - 1)
            sums: np.ndarray = np.where(is_low, low_sum[place], high_sum[place])
            return sums

        moves = (stop > begin) & (goal < table(stop - 1))
        last = stop - 1
        while bool((moves & (begin < last)).any()):
            middle = (begin + last) // 2
            above = table(middle) > goal
            begin, last = np.where(above, begin, middle + 1), np.where(above, middle, last)
            begin = np.minimum(begin, last)
        place = np.clip(begin, 0, len(low) - 1)
        slot = np.where(moves, np.where(is_low, high[place], low[place]), slot)
    tied = slot == slot.max(-1, keepdims=True)
    chosen: np.ndarray = np.where(tied, uniform[:, n:], -1.0).argmax(-1)
    return chosen
