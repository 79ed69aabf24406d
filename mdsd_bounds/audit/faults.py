"""Bets on known faults: how far each control's output distribution is from p at a position, not knowing its drafts.

``D_f = E[ probs_f(. | x) - right(. | x) ]`` over drafts x drawn *afresh*, ``right`` the output distribution of a
lossless rule for the sampler. Its mean is exactly the output distribution of the fault minus p, and most of the noise
of x cancels in the difference. Fresh drafts tell nothing about the output, and so ``s = D / p``, cut to [-1, 1], is a
bet that :mod:`mdsd_bounds.audit.martingale` may place: ``1 + s`` is the likelihood ratio, the bet of fastest growth
if the fault is there. A bad estimate costs power, never validity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdsd_bounds.audit.cells import CELLS, cell_masses, cells_of
from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers.schemes import rrs, rrs_without_replacement

#: Fresh drafts at each position: most and fewest, and the entries [draws, V] that they may make.
DRAWS, FEW, ENTRIES = 32, 2, 65_536
_RIGHT = {"with_replacement": rrs.VERIFIER, "without_replacement": rrs_without_replacement.VERIFIER}


def drifts(p: Tensor, q: Tensor, sampler: str, n: int, generator: torch.Generator) -> Tensor:
    """``D`` ``[F, B, V]`` of every control, in the order of :data:`mdsd_bounds.audit.controls.CONTROLS`.

    Zero for controls of another sampler.  O(draws n V) a row and control.
    """
    found = p.new_zeros((len(CONTROLS), *p.shape))
    if sampler not in _RIGHT or n < 1:
        return found
    draws = min(DRAWS, max(FEW, ENTRIES // p.shape[-1]))
    for _ in range(draws):
        drafts = get_sampler(sampler).sample(q, n, generator)
        right = _RIGHT[sampler].probs(p, q, drafts, sampler=sampler)
        for f, rule in enumerate(CONTROLS.values()):
            if sampler in rule.samplers:
                found[f] += (rule.probs(p, q, drafts, sampler=sampler) - right) / draws
    return found


def fault_scores(p: Tensor, q: Tensor, sampler: str, n: int, generator: torch.Generator) -> NDArray[np.float32]:
    """``s = D / p`` of the cells ``[B, F, CELLS]``, cut to [-1, 1], for rows ``[B, V]``; see the module's text."""
    scores = np.zeros((p.shape[0], len(CONTROLS), CELLS), dtype=np.float32)
    if sampler not in _RIGHT or n < 1:
        return scores
    cells = cells_of(p.numpy(), q.numpy())
    due = cell_masses(cells, p.numpy())
    for f, drift in enumerate(drifts(p, q, sampler, n, generator)):
        moved = cell_masses(cells, drift.numpy())
        ratio = np.where(due > 0, moved / np.where(due > 0, due, 1.0), np.sign(moved))
        scores[:, f] = np.clip(ratio, -1.0, 1.0)
    return scores
