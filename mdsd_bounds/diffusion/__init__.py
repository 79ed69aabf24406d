"""Several drafts of a continuous state: the optimum, rules that verify, and video worlds to try them in.

A stochastic denoising step is one token of a continuous vocabulary: a cheap model proposes n next states, the target
accepts one of them or draws another, and the output follows the target.  ``docs/diffusion.md`` has the theory.

- :mod:`.gaussian`: acceptance of the optimum, of published rules and of a ceiling, for Gaussian steps;
- :mod:`.verify`: rules that attain these numbers, batched over states of any dimension;
- :mod:`.world`, :mod:`.synchronised`, :mod:`.speculate`: long videos from windows (SynCoS), and without loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.diffusion.decide import exchange_ends as exchange_ends
    from mdsd_bounds.diffusion.rank_mixture import best_rank_mixture as best_rank_mixture
    from mdsd_bounds.diffusion.speculate import sample_speculatively as sample_speculatively
    from mdsd_bounds.diffusion.tables import draft_of as draft_of
    from mdsd_bounds.diffusion.world import World as World

__all__ = [
    "World",
    "best_rank_mixture",
    "draft_of",
    "exchange_ends",
    "sample_speculatively",
]

_HOMES = {
    "World": "mdsd_bounds.diffusion.world",
    "best_rank_mixture": "mdsd_bounds.diffusion.rank_mixture",
    "draft_of": "mdsd_bounds.diffusion.tables",
    "exchange_ends": "mdsd_bounds.diffusion.decide",
    "sample_speculatively": "mdsd_bounds.diffusion.speculate",
}
__getattr__ = lazily(__name__, _HOMES)
