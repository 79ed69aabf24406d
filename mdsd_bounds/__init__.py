"""Exact optimal acceptance rates for multi-draft speculative decoding.

The one idea: ``alpha* = 1 + min over token sets H of (P(H) - Q(H))``.  Names are imported when first used, so that
``mdsd --help`` answers without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.bounds import METHODS as METHODS
    from mdsd_bounds.bounds import optimal_acceptance as optimal_acceptance
    from mdsd_bounds.bounds.certificate import draft_mass as draft_mass
    from mdsd_bounds.bounds.certificate import subset_bound as subset_bound
    from mdsd_bounds.distributions import to_probs as to_probs
    from mdsd_bounds.dumps import READERS as READERS
    from mdsd_bounds.dumps import open_dump as open_dump
    from mdsd_bounds.dumps.example import load_example as load_example
    from mdsd_bounds.problem import Acceptance as Acceptance
    from mdsd_bounds.problem import Bound as Bound
    from mdsd_bounds.problem import InputError as InputError
    from mdsd_bounds.problem import PairBatch as PairBatch
    from mdsd_bounds.problem import Problem as Problem
    from mdsd_bounds.samplers import SAMPLERS as SAMPLERS
    from mdsd_bounds.samplers import register_sampler as register_sampler
    from mdsd_bounds.verifiers import VERIFIERS as VERIFIERS
    from mdsd_bounds.verifiers import acceptance_rate as acceptance_rate
    from mdsd_bounds.verifiers import register_verifier as register_verifier

__version__ = "0.1.0"

_HOMES = {
    "Acceptance": "mdsd_bounds.problem",
    "Bound": "mdsd_bounds.problem",
    "InputError": "mdsd_bounds.problem",
    "PairBatch": "mdsd_bounds.problem",
    "Problem": "mdsd_bounds.problem",
    "METHODS": "mdsd_bounds.bounds",
    "optimal_acceptance": "mdsd_bounds.bounds",
    "draft_mass": "mdsd_bounds.bounds.certificate",
    "subset_bound": "mdsd_bounds.bounds.certificate",
    "READERS": "mdsd_bounds.dumps",
    "load_example": "mdsd_bounds.dumps.example",
    "open_dump": "mdsd_bounds.dumps",
    "SAMPLERS": "mdsd_bounds.samplers",
    "register_sampler": "mdsd_bounds.samplers",
    "to_probs": "mdsd_bounds.distributions",
    "VERIFIERS": "mdsd_bounds.verifiers",
    "register_verifier": "mdsd_bounds.verifiers",
    "acceptance_rate": "mdsd_bounds.verifiers",
}

__all__ = ["__version__", *sorted(_HOMES)]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
