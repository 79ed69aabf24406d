"""Without replacement: a tree of strict priority orders, exactly lossless, with its own certificate (new).

Rows are reduced to the tokens that can be drafted.  Where these are few, each is an item of the tree and the rule
attains alpha* (:mod:`.whole_support`); over a wide support tokens share bins (:mod:`.wide_rows`).  With at most one
random draft, or where all tokens are drafted, the rule is elementary (:mod:`.deterministic`).

**Certificate.**  The pick is in L, the lower part of the root, exactly if all drafts are: ``r(L) = Q(L)``, and

    ``sum min(p, r) = P(L) + 1 - Q(L) - sum_L (p - r)_+ - sum_R (r - p)_+``.

``1 + P(L) - Q(L)`` bounds alpha* from above *whatever L is*, so that the two sums are the gap.  Proofs:
``docs/optimal_verifier.md``, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.threads import one_blas_thread
from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.bounds.search.compiled_search import lowest_prefix
from mdsd_bounds.samplers.base import fixed_mask, leftover, remainder
from mdsd_bounds.samplers.top_m_plus import split
from mdsd_bounds.verifiers.optimal.deterministic import prepare_fixed
from mdsd_bounds.verifiers.optimal.order_tree import best_side
from mdsd_bounds.verifiers.optimal.prepared import Prepared, SelectionRule
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityMixture, PriorityRule
from mdsd_bounds.verifiers.optimal.unit_kernels import edge_above, total_and_least, total_of_smaller
from mdsd_bounds.verifiers.optimal.whole_support import drafted_tokens, narrow_row, token_items, whole_support
from mdsd_bounds.verifiers.optimal.wide_rows import Found, Size, scaled, wide_row

#: Support up to which every token is an item of its own, for two draws and for more (beyond, bins take less time), and
#: up to which a sweep of all tokens may find L.
_WHOLE_PAIRS, _WHOLE, _MIDDLE = 800, 384, 2048
#: Gap of a rule with bins above which the whole tree is tried, and support up to which it is, as before.
_LARGE_GAP, _LARGEST_PAIRS, _LARGEST = 1e-5, 4096, 512
#: Rates below this are taken as they stand.
_NEARLY_SUBNORMAL = 1e-290
#: Gap up to which a rule is not compared with picking the first draft.
_SMALL_GAP = 1e-9
_NO_FIXED, _NO_TOKENS = np.zeros(0, bool), np.zeros(0, np.int32)


def prepare_without_replacement(p: Tensor, q: Tensor, n: int) -> Prepared:
    """The rule for n draws without replacement.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.
    n : int
        At least 1.

    Notes
    -----
    O(V) and a tree over the support, or over a few hundred items where the support is wide.
    """
    return _prepare_orders(p, q, 0, n)


def prepare_narrow(p: Tensor, q: Tensor, n: int) -> Prepared | None:
    """The rule for n draws from a row of few tokens, not yet checked; None where another function has to look at it."""
    if not 2 <= n < len(p) <= _WHOLE:
        return None
    found = narrow_row(p.numpy(), q.numpy(), n)
    if found is None:
        return None
    token, whole = found
    return Prepared(p, torch.from_numpy(whole.r), whole.gap, PriorityRule(token, _NO_TOKENS, whole.tree))


def prepare_top_m_plus(p: Tensor, q: Tensor, n: int, m: int = 1) -> Prepared:
    """The rule for the m most probable tokens of q and n - m draws without replacement from the rest.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.
    n, m : int
        Drafts, and fixed ones among them (all of them where ``m >= n``).

    Notes
    -----
    Cost as :func:`prepare_without_replacement`.
    """
    return _prepare_orders(p, q, *split(n, m))


def _prepare_orders(p: Tensor, q: Tensor, fixed: int, draws: int) -> Prepared:
    """The rule for ``fixed`` tokens that are always drafted and ``draws`` draws without replacement from the rest."""
    rates, always = q, _NO_FIXED
    if fixed:
        held = fixed_mask(q[None], fixed)[0]
        rates, always = leftover(q[None], held[None])[0], held.numpy()
        # Renormalising would round what is subnormal.
        if not bool(((rates > 0) & (rates < _NEARLY_SUBNORMAL)).any()):
            rates = remainder(q[None], held[None])[0]
    target, rate = p.numpy(), rates.numpy()
    token = drafted_tokens(rate, always)
    support = len(token) - (int(always.sum()) if fixed else 0)
    if draws <= 1 or support <= draws:
        # At most one random draft, or all tokens are drafted.
        return prepare_fixed(p, q, fixed + draws * (draws > 1), draws * (draws <= 1))
    rule: SelectionRule
    none, short = _NO_TOKENS, abs(total_and_least(target)[0] - 1.0)
    if support <= (_WHOLE_PAIRS if draws == 2 else _WHOLE):
        whole = whole_support(target, rate, always, token, draws)
        return Prepared(p, torch.from_numpy(whole.r), whole.gap + short, PriorityRule(token, none, whole.tree))
    r, always = np.zeros(len(target)), always if fixed else np.zeros(len(target), bool)
    with one_blas_thread():
        listed = 2 * support <= len(p) or len(p) <= _MIDDLE
        some = (target[token], rate[token], always[token]) if listed else (target, rate, always)
        q_some = scaled(some[1], draws)
        found = wide_row(some[0], q_some, (some[2], _lower_edge(some[0], q_some, some[2], draws)), draws, Size())
    if found.gap > _LARGE_GAP and support <= (_LARGEST_PAIRS if draws == 2 else _LARGEST):
        whole = whole_support(target, rate, always if fixed else _NO_FIXED, token, draws)
        if whole.gap < found.gap:
            return Prepared(p, torch.from_numpy(whole.r), whole.gap + short, PriorityRule(token, none, whole.tree))
    r[token if listed else slice(None)] = found.r
    rule = rule_of(found, token if listed else none)
    first = remainder(q[None], held[None])[0] if fixed else q
    return _first_or(Prepared(p, torch.from_numpy(r), found.gap + short, rule), first, fixed)


def rule_of(found: Found, token: np.ndarray) -> SelectionRule:
    """The rule that was found for these tokens ``[k]``, none where the row holds all."""
    rules = tuple(PriorityRule(token, one.item, one.tree) for one in found.orders)
    return rules[0] if len(rules) == 1 else PriorityMixture(found.chance, rules)


def _lower_edge(p: np.ndarray, q: np.ndarray, always: np.ndarray, draws: int) -> float:
    """The p/q below which tokens ``[k]`` are in L: the set that minimises ``P - Q``, with those always drafted.

    ``q`` are rates of any total.
    """
    fixed, few = int(always.sum()), len(p) <= _MIDDLE
    # Any q with these as its most probable tokens has this minimiser.
    rates = np.where(always, 2.0 * q.max(), q) if fixed else q
    # A sweep for two draws takes less time than the search; for more draws it takes many times as long.
    found = None if draws == 2 and few else lowest_prefix(p, rates, fixed, draws)
    if found is not None:
        scale, ratio, last = found
        # Tokens of one ratio that L cuts in two go left together.
        return float(edge_above(p, q, scale, ratio if last < 0 else np.nextafter(ratio, np.inf)))
    if few:
        return edge_of(best_side(token_items(q, always, draws), p), p, q)
    # What is off the support makes p a distribution.
    target, rates = np.append(p, max(1.0 - p.sum(), 0.0)), np.append(rates / rates.sum(), 0.0)
    options: dict[str, Any] = {"m": fixed} if fixed else {}
    name = "top_m_plus" if fixed else "without_replacement"
    pair = torch.from_numpy(target), torch.from_numpy(rates)
    left = optimal_acceptance(*pair, fixed + draws, name, **options).subset.numpy()[:-1] > 0
    # Where the empty set is as good, so is the set of all tokens that can be drafted.
    return float("inf") if bool((always & ~left).any()) else edge_of(left, p, q)


def edge_of(left: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """The smallest number above p/q of the tokens in ``left``."""
    inside = left & (q > 0)
    return float(np.nextafter((p[inside] / q[inside]).max(), np.inf)) if inside.any() else 0.0


def _first_or(prepared: Prepared, rates: Tensor, fixed: int) -> Prepared:
    """``prepared``, or the rule that picks the first random draft, distributed as ``rates``, if that accepts more.

    Where p is all but q itself, no bin can follow r = p.  The upper bound of alpha* holds for either.
    """
    if prepared.gap <= _SMALL_GAP:
        return prepared
    gap = prepared.acceptance + prepared.gap - total_of_smaller(prepared.p.numpy(), rates.numpy())
    # A subnormal rest of q cannot be renormalised: then ``rates`` is no distribution.
    if gap >= prepared.gap or abs(float(rates.sum()) - 1.0) > 1e-13:
        return prepared
    return Prepared(prepared.p, rates, max(gap, 0.0), FirstDraft(fixed))


@dataclass(frozen=True)
class FirstDraft:
    """The draft in one slot is the pick: speculative sampling with the first random draft."""

    slot: int

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """One for the slot, zero for the others ``[T, n]``."""
        return (torch.arange(drafts.shape[1]) == self.slot).to(torch.float64).expand(drafts.shape)

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """The slot ``[T]``."""
        return torch.full((len(drafts),), self.slot)

    def summary(self) -> str:
        """Which slot."""
        return f"the draft in slot {self.slot}"
