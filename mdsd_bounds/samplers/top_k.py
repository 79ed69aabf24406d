"""The n most probable tokens of q, always (EAGLE-2, EAGLE-3, Medusa): ``alpha* = P(top n)``.

Ties at the edge go to the lower token index.
"""

from mdsd_bounds.samplers.base import fixed_plus_random

SAMPLER = fixed_plus_random("top_k", lambda n: (n, 0), nested=True, cost="bound O(V), 0.7 softmaxes of both rows")
