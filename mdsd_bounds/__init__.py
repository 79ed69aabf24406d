"""Exact optimal acceptance rates for multi-draft speculative decoding.

The one idea: ``alpha* = 1 + min over token sets H of (P(H) - Q(H))``.  Names are imported when first used, so that
``mdsd --help`` answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
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

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mdsd_bounds' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
