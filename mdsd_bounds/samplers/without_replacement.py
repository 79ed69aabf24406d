"""Sequential draws without replacement, renormalised each time: Gumbel top-n (RSD, Sequoia, EAGLE).

``Q(H)`` has no closed form for n > 2; :mod:`mdsd_bounds.bounds.search.exponential_race` gives it by quadrature for
every prefix at once.
Fewer than n tokens in the support of q: all of them are drafted, and ``alpha* = p(supp q)``.

**It is never worse than n draws with replacement, for any p, q and n.**  Draw from q independently until n distinct
tokens have appeared (or all of the support); the distinct tokens, in the order of their first appearance, are
sequential draws without replacement.  At least n draws were made, so the set of the first n independent draws is
contained in that of the draws without replacement: if the latter lies in H, so does the former.  Hence ``Q(H) <=
q(H)^n`` for every H, and ``alpha* = 1 + min_H (P(H) - Q(H))`` is at least as large.
"""

from mdsd_bounds.samplers.base import fixed_plus_random

SAMPLER = fixed_plus_random(
    "without_replacement",
    lambda n: (0, n),
    nested=True,
    cost="bound O(V) up to 64 drafts, 5.3 softmaxes of both rows up to 8 of them and at most 22 up to 64",
)
