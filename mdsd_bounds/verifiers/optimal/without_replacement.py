"""Without replacement: a race whose weights solve a convex problem, exactly lossless, with its own certificate (new).

**Rule.** Sort by p/q ascending; L is the prefix that minimises ``P - Q`` (with the fixed tokens of top_m_plus in it),
R the rest.  The active drafts are those in R if there are any, else all, which then lie in L; active draft i is
picked with probability ``w_i / (sum of the active w)``.  With ``w = e^theta`` and S the active set of a side,
``Phi(theta) = E[ log sum over u in S of e^theta_u ; the side is active ]``.

**Gradient.** ``grad Phi = r``, the law of the pick, by differentiating the log-sum-exp.  Phi is convex, and its
Hessian ``E[diag pi - pi pi']``, pi the pick's law given S, has row sums of moduli at most ``2 pi_i (1 - pi_i) <=
1/2``: the gradient has Lipschitz constant 1/2.

**Certificate.**  The pick is in L exactly if all drafts are, so ``r(L) = Q(L)`` for every theta, and

    ``sum min(p, r) = P(L) + 1 - Q(L) - sum_L (p - r)_+ - sum_R (r - p)_+``.

``1 + P(L) - Q(L)`` bounds alpha* from above *whatever L is*: the two sums are the gap, at every iterate, for every L.

**Convergence** (proved).  Let L be the minimiser, b any finite start.  Minimise ``Phi(b + x) - p.x`` over ``x >= 0``
on L, over ``x <= 0`` on R.  Some rule attains alpha*; its law r* has ``r* >= p`` on L and ``<= p`` on R, and it
respects the cut.  With pi* its picks, Gibbs' inequality ``log sum e^theta_u >= sum pi*_u theta_u + entropy(pi*)``
averages to ``Phi(theta) >= r*.theta``, so that the objective is at least ``r*.b + (r* - p).x >= r*.b``: bounded
below.  Projected gradient steps of length at most 2 on a function that is bounded below, with Lipschitz constant 1/2,
have square-summable lengths.  Where ``p_i > r_i`` on L, x_i moves up by the step times ``p_i - r_i``, which no
constraint blocks; on R likewise down.  So both sums of the gap go to 0.  A minimum need not exist (strict priorities
inside a side are weights without bound), and is not needed.

**Moved targets.** All of this holds for targets t in the place of p, with ``t >= p`` on L and ``<= p`` on R, as long
as some rule has ``r >= t`` on L and ``<= t`` on R; :mod:`mdsd_bounds.verifiers.optimal.units` uses it for bins.

**Lossless.** Whatever the search did, the weights are then frozen, and r is the law of the race with these weights: a
finite sum over drafted sets (:mod:`.draft_sets`), over pairs of units (:mod:`.pairs`), or the integral of
:mod:`.clocks` whose relative error is below 1e-13.  Binning and stopping cost acceptance only.

Observed, not proved: that projected Newton and L-BFGS-B steps, which take the place of gradient steps, converge as
fast as they do; the size of the gaps that bins leave; the quadrature in s (there).  The certificate does not rest on
them, but for the last, for which it carries an allowance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.threads import one_blas_thread
from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.bounds.search.exponential_race import sum_rounding
from mdsd_bounds.bounds.search.prefix_scan import prefix_order
from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.samplers.base import fixed_mask, remainder
from mdsd_bounds.samplers.top_m_plus import split
from mdsd_bounds.verifiers.optimal import draft_sets
from mdsd_bounds.verifiers.optimal.deterministic import prepare_fixed
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.race_rule import Race, prepared_race

#: Gap of the route by pairs beyond which that by clocks is tried as well.
FAIR = 1e-6
#: Range of the starting log-weights b.
BASE_RANGE = 4.0


def prepare_without_replacement(p: Tensor, q: Tensor, n: int) -> Prepared:
    """The race for n draws without replacement.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 laws.
    n : int
        At least 1.

    Notes
    -----
    O(V) and a convex search over a few hundred units, or over all tokens where the drafted sets can be listed.
    """
    return prepare_race(p, q, 0, n)


def prepare_top_m_plus(p: Tensor, q: Tensor, n: int, m: Any = 1) -> Prepared:
    """The race for the m most probable tokens of q and n - m draws without replacement from the rest.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 laws.
    n, m : int
        Drafts, and fixed ones among them (all of them where ``m >= n``).

    Notes
    -----
    Cost as :func:`prepare_without_replacement`.
    """
    return prepare_race(p, q, *split(n, m))


def prepare_race(p: Tensor, q: Tensor, fixed: int, draws: int) -> Prepared:
    """The race for ``fixed`` tokens that are always drafted and ``draws`` draws without replacement from the rest.

    By the drafted sets where they are few, by pairs for two draws and nothing fixed, else by clocks; where p is all but
    the draft law itself, by the first draft alone.
    """
    with one_blas_thread():
        return _prepare_race(p, q, fixed, draws)


def _prepare_race(p: Tensor, q: Tensor, fixed: int, draws: int) -> Prepared:
    held = fixed_mask(q[None], fixed)[0]
    rates = remainder(q[None], held[None])[0] if fixed else q
    if draws <= 1:
        return prepare_fixed(p, q, fixed, draws)
    if draft_sets.countable(int((rates > 0).sum()), draws):
        return _by_sets(p, rates, held, draws)
    # Imported here: numba takes half a second, which small vocabularies do not need.
    from mdsd_bounds.verifiers.optimal.pairs import prepare_pairs
    from mdsd_bounds.verifiers.optimal.wide_race import QUADRATURE, prepare_clocks

    paired, error = None, 0.0
    if fixed == 0 and draws == 2:
        on_right, log_weight, r, error = prepare_pairs(p.numpy(), q.numpy())
        race = Race(torch.from_numpy(on_right), torch.from_numpy(log_weight))
        paired = first_or(prepared_race(p, race, torch.from_numpy(r), error), rates, fixed)
        if paired.gap <= FAIR:
            return paired
    bound = optimal_acceptance(p, q, fixed + draws, "top_m_plus", m=fixed)
    left = bound.subset.to(torch.bool)
    if bool((held & ~left).any()):
        # The empty set is as good: then so is the set of all tokens that can be drafted.
        left = held | (rates > 0)
    found = first_or(prepare_clocks(p, rates, held, draws, left), rates, fixed)
    if paired is None:
        return found
    # Very peaked draft laws: the pairs' own split may lie off the best one, of which the bound knows more.
    best = max(paired, found, key=lambda rule: rule.acceptance)
    allowance = max(error, QUADRATURE) + 4 * sum_rounding(len(p))
    return replace(best, gap=min(best.gap, max(float(bound.high) - best.acceptance, 0.0) + allowance))


def first_or(prepared: Prepared, rates: Tensor, fixed: int) -> Prepared:
    """``prepared``, or the rule that picks the first random draft, whose law is ``rates``, if that accepts more.

    The race's upper bound of alpha* holds for either.
    """
    gap = prepared.acceptance + prepared.gap - float(torch.minimum(prepared.p, rates).sum())
    # A subnormal rest of q cannot be renormalised: then ``rates`` is no law.
    if gap >= prepared.gap or abs(float(rates.sum()) - 1.0) > 1e-13:
        return prepared

    return Prepared(prepared.p, rates, max(gap, 0.0), FirstDraft(fixed))


@dataclass(frozen=True)
class FirstDraft:
    """The draft in one slot is the pick: speculative sampling with the first random draft."""

    slot: int

    def pick_law(self, drafts: Tensor) -> Tensor:
        """One for the slot, zero for the others ``[T, n]``."""
        return (torch.arange(drafts.shape[1]) == self.slot).to(torch.float64).expand(drafts.shape)

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """The slot ``[T]``."""
        return torch.full((len(drafts),), self.slot)

    def summary(self) -> str:
        """Which slot."""
        return f"the draft in slot {self.slot}"


def _by_sets(p: Tensor, rates: Tensor, held: Tensor, draws: int) -> Prepared:
    fixed = int(held.sum())
    order = prefix_order(p[None], rates[None], held[None])[0]
    order = order[: fixed + int((rates > 0).sum())]
    target, q = p[order].numpy(), rates[order].numpy()
    sets, mass = draft_sets.set_masses(q[fixed:], draws)
    member = np.concatenate([np.ones((len(sets), fixed), dtype=bool), sets], 1)
    h = draft_sets.split_by_sets(target, member, mass, fixed)
    base = starting_weights(target, q, h)
    theta, law = draft_sets.solve_sets(target, base, member, mass, h)
    on_right = torch.ones_like(held)
    on_right[order[:h]] = False
    log_weight, r = torch.zeros_like(p), torch.zeros_like(p)
    log_weight[order] = torch.from_numpy(theta)
    r[order] = torch.from_numpy(law)
    return prepared_race(p, Race(on_right, log_weight), r, 64 * draws * rounding_unit())


def starting_weights(p: np.ndarray, q: np.ndarray, h: int) -> np.ndarray:
    """b ``[U]``: ``log(p/q)`` within half of :data:`BASE_RANGE` of the side's average; 0 for fixed tokens (q = 0)."""
    base = np.zeros_like(p)
    for part in (slice(0, h), slice(h, len(p))):
        target, rate = p[part], q[part]
        mass, drawn = target[rate > 0].sum(), rate.sum()
        if mass > 0 and drawn > 0:
            use = (target > 0) & (rate > 0)
            ratio = np.full(len(target), -np.inf)
            ratio[use] = np.log(target[use]) - np.log(rate[use]) - (np.log(mass) - np.log(drawn))
            base[part] = np.where(rate > 0, np.clip(ratio, -BASE_RANGE / 2, BASE_RANGE / 2), 0.0)
    return base
