"""Sequential draws without replacement, renormalised each time: Gumbel top-n (RSD, Sequoia, EAGLE).

``Q(H)`` has no closed form for n > 2; :mod:`mdsd_bounds.bounds.race` gives it by quadrature for every prefix at once.
Fewer than n tokens in the support of q: all of them are drafted, and ``alpha* = p(supp q)``.
"""

from mdsd_bounds.samplers.base import fixed_plus_random

SAMPLER = fixed_plus_random("without_replacement", lambda n: (0, n), replacement=False)
