"""The optimal rules of a batch of positions: rows raw or truncated, of any supports, shared among threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.verifiers.optimal.batch_step import Flat, flatten, step_rows
from mdsd_bounds.verifiers.optimal.prepared import Prepared


@dataclass(frozen=True, repr=False)
class PreparedBatch:
    """One prepared rule for each row.

    Attributes
    ----------
    rows : tuple of Prepared
        The rules.
    flat : Flat or None
        All of them for one compiled step; None where the kind of a rule is not known there.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers.optimal import prepare_batch
    >>> p, q = torch.tensor([[[0.6, 0.3, 0.1]], [[0.2, 0.3, 0.5]]], dtype=torch.float64)
    >>> batch = prepare_batch(p, q, 2, "with_replacement")
    >>> len(batch.rows), batch.acceptance.round(4)
    (1, array([0.76]))
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
        uniform = torch.rand((len(self), 2 + 2 * drafts.shape[1]), dtype=torch.float64, generator=generator).numpy()
        return torch.from_numpy(step_rows(drafts.numpy(), uniform, self.flat))


def prepare_batch(
    p: ArrayLike | Tensor,
    q: ArrayLike | Tensor,
    n: int,
    sampler: str = "without_replacement",
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    **options: Option,
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
            row_p, row_q = (truncated(rows[b], top_k, top_p, min_p) for rows in (target, draft))
            try:
                rules[b] = prepare(row_p, row_q, n, sampler, **options)
            except InputError as error:
                raise InputError(f"row {b}: {error}") from error

    in_threads(work, len(target))
    rows = tuple(rule for rule in rules if rule is not None)
    return PreparedBatch(rows, flatten(rows))


def as_rows(x: ArrayLike | Tensor, name: str) -> Tensor:
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
