"""n independent draws of q: ``Q(H) = q(H)^n``.  SpecTr (Sun et al. 2023), SpecInfer (Miao et al. 2024)."""

from mdsd_bounds.samplers.base import fixed_plus_random

SAMPLER = fixed_plus_random(
    "with_replacement", lambda n: (0, n), replacement=True, nested=True, cost="bound O(V), 2.5 softmaxes of both rows"
)
