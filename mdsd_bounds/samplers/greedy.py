"""The n - 1 most probable tokens of q plus one draw from the rest (Hu et al., ICLR 2025; for n = 2 SpecHub's pairs).

``alpha* = P(A) + sum over x not in A of min(p_x, r_x)`` with A the fixed tokens and r = q off A, renormalised.
Ties at the edge of A go to the lower token index.
"""

from mdsd_bounds.samplers.base import fixed_plus_random

SAMPLER = fixed_plus_random("greedy", lambda n: (n - 1, 1), cost="bound O(V), 1.5 softmaxes of both rows")
