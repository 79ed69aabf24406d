"""A verifier that attains the optimum: selection rules whose picks are distributed as alpha* asks for (new; no paper).

alpha* = 1 + min over H of (P(H) - Q(H)) is the best acceptance of any lossless verifier.  For each sampler a
*selection rule* picks one of the drafts, so that the distribution r of the pick has ``sum min(p, r) = alpha*``; the
pick is then accepted against r as in speculative sampling, which is lossless whatever r is (:mod:`.prepared`).  The
theory, with proofs, is in ``docs/optimal_verifier.md``.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdsd_bounds.distributions import as_tensor
from mdsd_bounds.problem import MOST_DRAFTS, InputError, Option, draft_counts
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers.base import PROBS_TOLERANCE, Verifier, equal_rows
from mdsd_bounds.verifiers.optimal.prepared import Prepared

if TYPE_CHECKING:
    from mdsd_bounds.verifiers.optimal.batch import PreparedBatch, prepare_batch

#: Sampler -> (module of this package, function ``(p [V], q [V], n, **options) -> Prepared``).
RULES: dict[str, tuple[str, str]] = {
    "with_replacement": ("with_replacement", "prepare_with_replacement"),
    "without_replacement": ("without_replacement", "prepare_without_replacement"),
    "top_m_plus": ("without_replacement", "prepare_top_m_plus"),
    "greedy": ("deterministic", "prepare_greedy"),
    "top_k": ("deterministic", "prepare_top_k"),
}

#: Sampler -> function ``(p, q, n) -> Prepared or None`` of the same module, which checks narrow rows as it goes.
_NARROW: dict[str, str] = {"without_replacement": "prepare_narrow"}

__all__ = ["RULES", "VERIFIER", "Prepared", "PreparedBatch", "prepare", "prepare_batch"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: numba takes half a second.
    if name in {"PreparedBatch", "prepare_batch"}:
        return getattr(importlib.import_module(f"{__name__}.batch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def prepare(p: Tensor, q: Tensor, n: int, sampler: str = "without_replacement", **options: Option) -> Prepared:
    """The optimal selection rule of one position.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions, each summing to one.
    n : int
        Number of drafts, at least 1.
    sampler : str
        A key of :data:`RULES`.
    **options
        Options of the sampler (``m`` for top_m_plus).

    Raises
    ------
    InputError
        If the sampler has no optimal rule here, n < 1, or p and q are no float64 distributions of one length.

    Notes
    -----
    Cost O(V) with replacement, for greedy and top_k; without replacement O(V) and a tree
    of priority orders over the support, or over a few hundred items where the support is wide.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers.optimal import prepare
    >>> p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    >>> rule = prepare(p, q, 2)
    >>> round(rule.acceptance, 4)
    0.8857
    >>> rule.step(torch.tensor([[0, 2], [2, 1]]), torch.Generator().manual_seed(0)).shape
    torch.Size([2])
    """
    if sampler not in RULES:
        raise InputError(f"verifier 'optimal' has no rule for the sampler {sampler!r}; use one of {', '.join(RULES)}")
    if type(n) is not int or not 1 <= n <= MOST_DRAFTS:
        counts, single = draft_counts(n)
        if not single:
            raise InputError(f"n={n!r}: give one number of drafts")
        n = counts[0]
    p, q = as_tensor(p, "p"), as_tensor(q, "q")
    if p.ndim != 1 or p.shape != q.shape or not len(p):
        raise InputError(f"p {tuple(p.shape)} and q {tuple(q.shape)}: give one row [V] of each")
    p, q = p.detach().cpu().contiguous(), q.detach().cpu().contiguous()
    rule, narrow, distinct = _rule_of(sampler)
    begun = time.perf_counter()
    made: Prepared | None = None
    if narrow is not None and p.dtype == q.dtype == torch.float64 and not options:
        made = narrow(p, q, n)
    if made is None:
        _check(p, q)
        made = rule(p, q, n, **options)
    return Prepared(made.p, made.r, made.gap, made.rule, n, distinct, sampler, time.perf_counter() - begun)


def _check(p: Tensor, q: Tensor) -> None:
    """Raise an InputError unless both are float64 distributions."""
    # Loaded when asked for: numba takes half a second.
    from mdsd_bounds.verifiers.optimal.unit_kernels import total_and_least

    for probs, which in ((p, "p"), (q, "q")):
        if probs.dtype == torch.float64:
            total, least = total_and_least(probs.numpy())
            if abs(total - 1.0) <= PROBS_TOLERANCE and least >= 0.0:
                continue
        raise InputError(
            f"{which}: dtype {probs.dtype}, sum {float(probs.sum()):.6g}, least entry {float(probs.min()):.3g}; "
            "give a float64 distribution (mdsd_bounds.to_probs makes one from logits)"
        )


@functools.cache
def _rule_of(sampler: str) -> tuple[Callable[..., Prepared], Callable[..., Prepared | None] | None, bool]:
    """The functions that prepare the sampler's rule and that of narrow rows, and whether its drafts are distinct."""
    module, name = RULES[sampler]
    room = importlib.import_module(f"{__name__}.{module}")
    narrow = getattr(room, _NARROW[sampler]) if sampler in _NARROW else None
    return getattr(room, name), narrow, not get_sampler(sampler).replacement


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the drafts; equal neighbouring rows share one preparation."""
    probs = torch.empty_like(p)
    for rows, prepared in _prepared_rows(p, q, drafts.shape[1], sampler, options):
        probs[rows] = prepared.output_distribution(drafts[rows]).to(p.device)
    return probs


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """Prepare and step; equal neighbouring rows share one preparation."""
    token = torch.empty_like(drafts[:, 0])
    for rows, prepared in _prepared_rows(p, q, drafts.shape[1], sampler, options):
        token[rows] = prepared.step(drafts[rows], generator).to(token.device)
    return token


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``sum min(p, r)`` ``[N, B]`` of the prepared rules."""
    rates = [[prepare(p[b], q[b], n, sampler, **options).acceptance for b in range(p.shape[0])] for n in n_drafts]
    return p.new_tensor(rates)


def _prepared_rows(
    p: Tensor, q: Tensor, n: int, sampler: str, options: Mapping[str, Option]
) -> Iterator[tuple[slice, Prepared]]:
    """Runs of equal rows, each with its rule."""
    for rows in equal_rows(p, q):
        yield rows, prepare(p[rows.start], q[rows.start], n, sampler, **options)


VERIFIER = Verifier(
    name="optimal",
    paper="new: exchanged intervals with replacement, a tree of priority orders without; docs/optimal_verifier.md",
    lossless=True,
    samplers=tuple(RULES),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="prepared in 1 ms with replacement, 4 to 20 ms without (V = 151,936), then 0.06 ms",
)
