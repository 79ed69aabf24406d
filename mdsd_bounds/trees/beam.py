"""RSD-S: stochastic beam search, sequences drawn without replacement and cut early.

Every sequence s has an exponential arrival time of rate q(s); a prefix's is the minimum over its continuations, and so
again exponential, of rate q(prefix).  Going down one level, a node's children race with fresh times shifted so that
the winner arrives exactly when the parent did; by memorylessness the others arrive later by fresh exponentials:

    ``t_c = t_parent + E_c - min E,   E_c ~ Exp(q(path) q(c | path))``

and each level keeps the ``width`` first arrivals.  With scores ``-log t`` this is Gumbel top-down sampling.  Below one
parent the kept children are the first arrivals of a race with distribution q(. | parent): given those before, the next
one has the sampler's conditional distribution.  Whether there is a next one, however, depends on the gap to its
arrival, and so on which tokens came before: the distribution of the *set* given its size is not that of so many draws.
A rule that takes the drafts one by one does not notice; a rule that looks at how many there are is not lossless here,
and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdsd_bounds.samplers.base import RAISE
from mdsd_bounds.trees.base import Distributions, Path, Source, Tree, generator_at, grow, whole_numbers


def rsd_s(
    distributions: Distributions,
    source: Source,
    width: int,
    length: int,
    stop: Sequence[int] | frozenset[int] = (),
) -> Tree:
    """Stochastic beam search of ``width`` sequences over ``length`` levels, at most ``width * length`` nodes.

    Nodes all of whose children were cut stay as leaves.  O(width V) per level.

    Sources: Jeon et al. 2024, arXiv 2402.14160 (RSD-S); Kool et al. 2019 (stochastic beam search).

    Raises
    ------
    InputError
        If ``width`` or ``length`` is below 1.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, rsd_s
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = rsd_s(draft, torch.Generator().manual_seed(0), 2, 3)
    >>> [tree.depths.count(depth) for depth in (1, 2, 3)]
    [2, 2, 2]
    """
    (width,) = whole_numbers((width,), "width")
    (length,) = whole_numbers((length,), "length")
    # Logarithms: delays range over more decades than a float64 where a distribution has subnormal entries.
    time: dict[Path, float] = {(): -math.inf}
    log_q: dict[Path, float] = {(): 0.0}

    def pick(paths: Sequence[Path], q: Tensor) -> list[Path]:
        candidates: list[tuple[float, float, int, int]] = []
        for entry, (path, probs) in enumerate(zip(paths, q, strict=True)):
            uniform = torch.rand(probs.shape, dtype=torch.float64, generator=generator_at(source, path))
            arrival, token = child_arrivals(probs, uniform, log_q[path], time[path], width)
            shares = probs[token].log()
            candidates.extend(zip(arrival.tolist(), shares.tolist(), [entry] * len(token), token.tolist(), strict=True))
        chosen: list[list[int]] = [[] for _ in paths]
        for arrives, share, entry, token_id in sorted(candidates)[:width]:
            chosen[entry].append(token_id)
            child = (*paths[entry], token_id)
            time[child], log_q[child] = arrives, log_q[paths[entry]] + share
        return [tuple(tokens) for tokens in chosen]

    return grow(distributions, length, lambda path: 1, pick, "without_replacement", stop=stop, adaptive=True)


def child_arrivals(probs: Tensor, uniform: Tensor, log_q: float, time: float, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` first arrivals among a node's children: log-times ``[K]`` ascending and tokens ``[K]``.

    Parameters
    ----------
    distribution, uniform : Tensor
        ``[V]``: the node's distribution and one uniform number per token.
    log_q, time : float
        The node's log-probability under the draft and the logarithm of its own arrival.
    """
    arrival = -torch.log1p(-uniform) / (probs * RAISE)
    arrival = arrival.masked_fill(probs <= 0, float("inf"))
    first, token = arrival.topk(min(most, len(probs)), largest=False)
    held = torch.isfinite(first)
    first, token = first[held], token[held]
    # The common factor 1/q(path) is taken out of the race: differences are scaled, never subtracted from large times.
    delay = (first - first[:1]).log() + (math.log(RAISE) - log_q)
    return torch.logaddexp(torch.tensor(time, dtype=torch.float64), delay), token
