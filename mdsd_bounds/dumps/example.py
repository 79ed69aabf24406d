"""A small real dump that ships with the package."""

from __future__ import annotations

from pathlib import Path

from mdsd_bounds.dumps.base import Dump

#: 32 positions of Qwen2.5-Coder-1.5B-Instruct (target) and 0.5B-Instruct (draft) on HumanEval, Apache-2.0 and MIT.
EXAMPLE = Path(__file__).parent / "example_qwen2.5_coder.npz"


def load_example() -> Dump:
    """The dump that ships with the package: 32 real positions over 151,936 tokens, from 16 documents.

    Target Qwen2.5-Coder-1.5B-Instruct and draft Qwen2.5-Coder-0.5B-Instruct on HumanEval, the rows of
    ``data/qwen2.5-coder-humaneval`` as a server with ``top_k = 512`` samples from them: each model keeps its own 512
    most probable tokens (99.9% of the mass in the mean, 98.9% at least) and all others have the logit minus infinity.
    160 kB.

    Returns
    -------
    Dump
        As :func:`mdsd_bounds.open_dump` opens it; its path is in ``load_example().facts.path``.

    Examples
    --------
    >>> from mdsd_bounds import load_example, optimal_acceptance, to_probs
    >>> batch = next(load_example().batches(2))
    >>> p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    >>> tuple(p.shape)
    (2, 151936)
    >>> bound = optimal_acceptance(p, q, 2, "with_replacement")
    >>> bool((bound.low <= bound.value).all() and (bound.value <= bound.high).all())
    True
    """
    from mdsd_bounds.dumps import open_dump

    return open_dump(str(EXAMPLE))
