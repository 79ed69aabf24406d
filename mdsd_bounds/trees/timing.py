"""How long a verification takes here, on one thread: measured on rows of a dump, not modelled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from mdsd_bounds._backend.threads import one_torch_thread
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Tree, sampling
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.rows import Rows
from mdsd_bounds.trees.verify import verify
from mdsd_bounds.verifiers import Verifier

#: Rows that a time is the median over, after one that is not counted.
ROWS = 5


def seconds_at_nodes(
    rows: Rows,
    pairs: Mapping[tuple[str, str], str | Verifier],
    most_drafts: int,
    progress: Callable[[float, int], None] | None = None,
) -> dict[tuple[str, str], np.ndarray]:
    """Median seconds of one verification at a node with 1 .. ``most_drafts`` drafts.

    Parameters
    ----------
    rows : Rows
        Distributions of the two models.
    pairs : mapping
        ``(sampler, verifier's name) -> rule`` as :func:`mdsd_bounds.trees.verify.verify` takes it.
    most_drafts : int
        K.
    progress : callable, optional
        ``(done, total)``.

    Returns
    -------
    dict
        ``[K]`` of each pair; a pair that does not fit is left out.

    Notes
    -----
    What is timed is this package on one thread of this machine: the target's and the draft's distribution in, the
    accepted path and the next token out.  An engine with a kernel of its own takes less for the simple rules.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    total = len(pairs) * most_drafts
    with one_torch_thread():
        for (sampler, name), rule in pairs.items():
            times: list[float] = []
            try:
                for n in range(1, most_drafts + 1):
                    times.append(_one_node(rows, sampler, rule, n))
                    if progress is not None:
                        progress(len(found) * most_drafts + n, total)
            except InputError:
                continue
            found[sampler, name] = np.array(times)
    return found


def _one_node(rows: Rows, sampler: str, rule: str | Verifier, n: int) -> float:
    generator = torch.Generator().manual_seed(n)
    places = np.linspace(0, len(rows.documents) - 1, min(ROWS + 1, len(rows.documents))).astype(int)
    times = []
    for place in places:
        q, p = rows.draft[place], rows.target[place]
        tree = rsd_c(lambda paths, q=q: q.expand(len(paths), -1), sampling(generator), (n,), sampler=sampler)  # type: ignore[misc]
        times.append(timed(tree, p.expand(len(tree.tokens), -1), rule, generator))
    return statistics.median(times[1:] or times)


def timed(tree: Tree, target: torch.Tensor, rule: str | Verifier, generator: torch.Generator | None) -> float:
    """Seconds of one verification."""
    begun = time.perf_counter()
    verify(tree, target, rule, generator)
    return time.perf_counter() - begun
