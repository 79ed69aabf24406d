"""The optimal rules of a batch of positions: rows raw or truncated, of any supports, shared among threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads
from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers.optimal.order_tree import Tree
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityRule, find_places, pick_one


class Flat(NamedTuple):
    """The trees of all rows behind one another; row b of an array is from ``at[b]`` to ``at[b + 1]``.

    ``token``, ``item`` and the tree are as in :class:`.priority_rule.PriorityRule`; ``p`` and ``r`` belong to the
    tokens of the rule, ``left`` is the cumulative sum of ``(p - r)_+`` at the tokens ``left_token``.
    """

    token: np.ndarray
    token_at: np.ndarray
    item: np.ndarray
    item_at: np.ndarray
    p: np.ndarray
    r: np.ndarray
    value_at: np.ndarray
    left_token: np.ndarray
    left: np.ndarray
    left_at: np.ndarray
    tree: Tree
    place_at: np.ndarray
    node_at: np.ndarray
    rank_at: np.ndarray


@dataclass(frozen=True, repr=False)
class PreparedBatch:
    """One prepared rule for each row.

    Attributes
    ----------
    rows : tuple of Prepared
        The rules.
    flat : Flat or None
        All of them for one compiled step; None where a rule is no tree of priority orders.
    """

    rows: tuple[Prepared, ...]
    flat: Flat | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Prepared:
        return self.rows[row]

    def __repr__(self) -> str:
        mean = self.acceptance.mean() if len(self) else float("nan")
        return f"PreparedBatch({len(self)} rows, mean acceptance {mean:.6f}, gap <= {self.gap.max(initial=0.0):.1e})"

    @property
    def acceptance(self) -> np.ndarray:
        """``[B]``: probability that the pick is output."""
        return np.array([row.acceptance for row in self.rows])

    @property
    def gap(self) -> np.ndarray:
        """``[B]``: certified upper bound on alpha* minus the acceptance."""
        return np.array([row.gap for row in self.rows])

    def step(self, drafts: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Output token ``[B]`` of each row for its drafts ``[B, n]``.

        Raises
        ------
        InputError
            On another number of rows, and on drafts that the sampler of the rule cannot have drawn.
        """
        if drafts.ndim != 2 or len(drafts) != len(self):
            raise InputError(f"drafts: shape {tuple(drafts.shape)}, but the batch has {len(self)} rows")
        if not len(self):
            return torch.zeros(0, dtype=torch.int64)
        if self.flat is None:
            return torch.cat([rule.step(drafts[b : b + 1], generator) for b, rule in enumerate(self.rows)])
        drafts = self.rows[0].checked(drafts)
        uniform = torch.rand((len(self), 3), dtype=torch.float64, generator=generator).numpy()
        return torch.from_numpy(step_rows(drafts.numpy(), uniform, self.flat))


def prepare_batch(
    p: Any,
    q: Any,
    n: int,
    sampler: str = "without_replacement",
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    **options: Any,
) -> PreparedBatch:
    """The optimal rules of a batch.

    Parameters
    ----------
    p, q : array or Tensor
        ``[B, V]`` target and draft probabilities, each row summing to one (float32 rows are renormalised in float64).
    n : int
        Number of drafts.
    sampler : str
        A key of :data:`mdsd_bounds.verifiers.optimal.RULES`.
    top_k, top_p, min_p : optional
        Truncation of both distributions of every row, in this order: the ``top_k`` most probable tokens (ties with the
        last are kept), the smallest set of probability ``top_p``, tokens of at least ``min_p`` times the largest
        probability; renormalised after each.  The drafts must come from the truncated q.
    **options
        Options of the sampler (``m`` for top_m_plus).

    Returns
    -------
    PreparedBatch
        The same rules as row by row with :func:`mdsd_bounds.verifiers.optimal.prepare`.

    Raises
    ------
    InputError
        On shapes that differ, rows that are no distributions (the row is named), or truncations out of range.

    Notes
    -----
    Rows are shared among as many threads as torch uses.  Memory O(B V).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers.optimal import prepare_batch
    >>> p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    >>> batch = prepare_batch(p, p.flip(0), 2, top_k=3)
    >>> batch.acceptance.round(4).tolist()
    [0.4737, 0.5556]
    """
    from mdsd_bounds.verifiers.optimal import prepare

    target, draft = as_rows(p, "p"), as_rows(q, "q")
    if target.shape != draft.shape:
        raise InputError(f"p {tuple(target.shape)} and q {tuple(draft.shape)}: give rows [B, V] of one shape")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k={top_k!r}: give an integer of at least 1, or leave it out")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p!r}: give a number in (0, 1], or leave it out")
    if min_p is not None and not 0 <= min_p <= 1:
        raise InputError(f"min_p={min_p!r}: give a number from 0 to 1, or leave it out")
    rules: list[Prepared | None] = [None] * len(target)

    def work(first: int, last: int) -> None:
        for b in range(first, last):
            pair = (truncated(target[b], top_k, top_p, min_p), truncated(draft[b], top_k, top_p, min_p))
            try:
                rules[b] = prepare(*pair, n, sampler, **options)
            except InputError as error:
                raise InputError(f"row {b}: {error}") from error

    in_threads(work, len(target))
    rows = tuple(rule for rule in rules if rule is not None)
    return PreparedBatch(rows, flatten(rows))


def as_rows(x: Any, name: str) -> Tensor:
    """``[B, V]`` float64 on the CPU; rows of lower precision are renormalised."""
    rows = torch.as_tensor(x).cpu()
    if rows.ndim != 2:
        raise InputError(f"{name}: shape {tuple(rows.shape)}; give rows [B, V]")
    if not rows.is_floating_point():
        raise InputError(f"{name}: dtype {rows.dtype}; give probabilities")
    if rows.dtype != torch.float64:
        rows = rows.to(torch.float64)
        rows = rows / rows.sum(-1, keepdim=True)
    return rows.contiguous()


def truncated(probs: Tensor, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """The row ``[V]`` after the truncations."""
    if top_k is not None and top_k < len(probs):
        probs = torch.where(probs >= probs.topk(top_k).values[-1], probs, 0.0)
        probs = probs / probs.sum()
    if top_p is not None and top_p < 1:
        token = probs.nonzero()[:, 0]
        order = token[probs[token].argsort(descending=True, stable=True)]
        ranked = probs[order]
        kept = order[ranked.cumsum(0) - ranked < top_p]
        probs = torch.zeros_like(probs).index_copy_(0, kept, probs[kept])
        probs = probs / probs.sum()
    if min_p:
        probs = torch.where(probs >= min_p * probs.max(), probs, 0.0)
        probs = probs / probs.sum()
    return probs


def flatten(rows: tuple[Prepared, ...]) -> Flat | None:
    """All rules in one record, if all are trees."""
    rules = [row.rule for row in rows if isinstance(row.rule, PriorityRule)]
    if not rules or len(rules) < len(rows):
        return None
    values, left, left_token = [], [], []
    for row, rule in zip(rows, rules, strict=True):
        token = torch.from_numpy(rule.token.astype(np.int64)) if len(rule.token) else slice(None)
        values.append(np.stack([row.p[token].numpy(), row.r[token].numpy()]))
        excess = (row.p - row.r).clamp(min=0.0)
        if not bool((excess > 0).any()):
            # A rejection is then an event of rounding alone.
            excess = row.p
        some = excess.nonzero()[:, 0]
        left_token.append(some.numpy())
        left.append(excess[some].cumsum(0).numpy())
    trees = [rule.tree for rule in rules]
    tree = Tree(*(np.concatenate([getattr(one, name) for one in trees]) for name in Tree._fields))
    both = np.concatenate(values, 1)
    return Flat(
        *joined([rule.token for rule in rules]),
        *joined([rule.item for rule in rules]),
        np.ascontiguousarray(both[0]),
        np.ascontiguousarray(both[1]),
        offsets([value.T for value in values]),
        np.concatenate(left_token),
        *joined(left),
        tree,
        offsets([one.place for one in trees]),
        offsets([one.coin for one in trees]),
        offsets([one.rank for one in trees]),
    )


def joined(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The arrays behind one another, and where each begins."""
    return np.concatenate(parts), offsets(parts)


def offsets(parts: list[np.ndarray]) -> np.ndarray:
    """Where each array begins, and the end of the last: ``[B + 1]``."""
    return np.cumsum([0, *(len(part) for part in parts)])


@njit(cache=True, nogil=True)
def step_rows(drafts, uniform, flat):  # type: ignore[no-untyped-def]
    """Output tokens ``[B]``: pick, then accept or draw from what is left of the target."""
    out, found, whole = np.empty(len(drafts), np.int64), np.empty(drafts.shape[1], np.int64), flat.tree
    for b in range(len(drafts)):
        places, nodes = slice(flat.place_at[b], flat.place_at[b + 1]), slice(flat.node_at[b], flat.node_at[b + 1])
        ranks = slice(flat.rank_at[b], flat.rank_at[b + 1])
        tree = Tree(whole.place[places], whole.start[nodes], whole.cut[nodes], whole.lower[nodes],
                    whole.offset[nodes], whole.coin[nodes], whole.rank[ranks])  # fmt: skip
        token = flat.token[flat.token_at[b] : flat.token_at[b + 1]]
        item = flat.item[flat.item_at[b] : flat.item_at[b + 1]]
        top = find_places(drafts[b], token, item, tree.place, found)
        slot = pick_one(found, top, uniform[b, 0], tree) if top >= 0 else 0
        picked = drafts[b, slot]
        at = flat.value_at[b] + (np.searchsorted(token, picked) if len(token) else picked)
        accepted = top >= 0 and uniform[b, 1] * flat.r[at] < flat.p[at]
        if not accepted:
            first, last = flat.left_at[b], flat.left_at[b + 1] - 1
            # 1 - U lies in (0, 1], so that a token of probability zero is never hit.
            goal = flat.left[last] * (1.0 - uniform[b, 2])
            picked = flat.left_token[min(first + np.searchsorted(flat.left[first : last + 1], goal), last)]
        out[b] = picked
    return out
