"""Without replacement: a race whose weights solve a convex dual.  (Docstring to be completed.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.bounds.prefix import prefix_order
from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.samplers.base import fixed_mask, remainder
from mdsd_bounds.samplers.top_m_plus import split
from mdsd_bounds.verifiers.optimal import draft_sets
from mdsd_bounds.verifiers.optimal.deterministic import prepare_fixed
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.race_rule import Race, prepared_race

#: Range of the starting log-weights b.
BASE_RANGE = 4.0


def prepare_without_replacement(p: Tensor, q: Tensor, n: int) -> Prepared:
    """The race for n draws without replacement."""
    return prepare_race(p, q, 0, n)


def prepare_top_m_plus(p: Tensor, q: Tensor, n: int, m: Any = 1) -> Prepared:
    """The race for the m most probable tokens of q and n - m draws without replacement from the rest."""
    return prepare_race(p, q, *split(n, m))


def prepare_race(p: Tensor, q: Tensor, fixed: int, draws: int) -> Prepared:
    """The race for ``fixed`` tokens that are always drafted and ``draws`` draws without replacement from the rest."""
    held = fixed_mask(q[None], fixed)[0]
    rates = remainder(q[None], held[None])[0]
    if draws <= 1:
        return prepare_fixed(p, q, fixed, draws)
    return _by_sets(p, rates, held, draws)


def _by_sets(p: Tensor, rates: Tensor, held: Tensor, draws: int) -> Prepared:
    fixed = int(held.sum())
    order = prefix_order(p[None], rates[None], held[None])[0]
    order = order[: fixed + int((rates > 0).sum())]
    target, q = p[order].numpy(), rates[order].numpy()
    sets, mass = draft_sets.set_masses(q[fixed:], draws)
    member = np.concatenate([np.ones((len(sets), fixed), dtype=bool), sets], 1)
    h = draft_sets.split_by_sets(target, member, mass, fixed)
    base = starting_weights(target, q, h)
    theta, law = draft_sets.solve_sets(target, base, member, mass, h)
    on_right = torch.ones_like(held)
    on_right[order[:h]] = False
    log_weight, r = torch.zeros_like(p), torch.zeros_like(p)
    log_weight[order] = torch.from_numpy(theta)
    r[order] = torch.from_numpy(law)
    return prepared_race(p, Race(on_right, log_weight), r, 64 * draws * rounding_unit())


def starting_weights(p: np.ndarray, q: np.ndarray, h: int) -> np.ndarray:
    """b ``[U]``: ``log(p/q)`` within half of :data:`BASE_RANGE` of the side's average; 0 for fixed tokens (q = 0)."""
    base = np.zeros_like(p)
    for part in (slice(0, h), slice(h, len(p))):
        target, rate = p[part], q[part]
        mass, drawn = target[rate > 0].sum(), rate.sum()
        if mass > 0 and drawn > 0:
            use = (target > 0) & (rate > 0)
            ratio = np.full(len(target), -np.inf)
            ratio[use] = np.log(target[use]) - np.log(rate[use]) - (np.log(mass) - np.log(drawn))
            base[part] = np.where(rate > 0, np.clip(ratio, -BASE_RANGE / 2, BASE_RANGE / 2), 0.0)
    return base
