"""The m most probable tokens of q plus n - m draws without replacement from the rest; option ``m`` (1 unless given).

``m = 0`` is without_replacement, ``m = n - 1`` is greedy, ``m >= n`` is top_k.

``alpha* = 1 + P(A) + min over H' off A of (P(H') - Q'(H'))`` with Q' the race of r = q off A, k = n - m draws, and p
off A *not* renormalised.

Proof: an H that does not contain A has Q(H) = 0, so ``P(H) - Q(H) >= 0``, which the empty set attains.  An H that
contains A is A plus some H' off A, and all its fixed drafts are inside: ``Q(H) = Q'(H')``.  Among these is everything,
with ``1 - 1 = 0``, so the empty set is never needed.  The last minimum is that of k draws without replacement for the
target p off A scaled by 1/(1 - P(A)), with Q' weighted alike; the exchange argument that makes prefixes of the order of
p/r optimal moves one token into or out of H' at a time and holds for targets of any total mass.
"""

from typing import Any

from mdsd_bounds.samplers.base import fixed_plus_random, integer_option


def split(n: int, m: Any = 1) -> tuple[int, int]:
    """``(fixed, random)``: ``min(m, n)`` fixed tokens and the rest of the n drafts at random."""
    fixed = min(integer_option(m, "m", 0), n)
    return fixed, n - fixed


SAMPLER = fixed_plus_random("top_m_plus", split, nested=True, cost="bound as without replacement")
