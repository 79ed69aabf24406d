"""The dual by brute force: ``1 + min over all 2^V subsets H of (P(H) - Q(H))``.  No ordering theorem is used.

The distribution of the drafted set is pushed through the sampler's conditional distributions on bit masks, then summed
over all subsets of every H at once (the zeta transform, V passes).  Vectorised over positions and subsets; V up to 20.
Cost O(B 2^V V n); rows go in slices, so memory is a few arrays of ``max(2^V, 4 million)`` numbers whatever B is.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mdsd_bounds.problem import Bound, InputError, Problem, rounding_unit
from mdsd_bounds.samplers import get_sampler

_MAX_TOKENS = 20
#: Entries of one ``[rows, 2^V]`` array; a batch is cut into slices of rows so that it needs half a gigabyte at most.
_SLICE = 1 << 22
#: Most drafts: each is one step over all sets.
_MAX_DRAFTS = 10_000
#: Entries of one ``[rows, sets, V]`` array of conditional distributions.
_CHUNK = 1 << 22


def solve_subsets(problem: Problem) -> Bound:
    """Optimal acceptance by enumeration of every subset.

    Raises
    ------
    InputError
        If V > 20; the memory that one row would take is stated.
    """
    rows, size = problem.p.shape
    if size > _MAX_TOKENS:
        raise InputError(
            f"method 'subsets': V={size} would need {32 * 2.0**size / 1e9:.3g} GB for the 2^{size} subsets of a row; "
            f"at most V={_MAX_TOKENS} (use prefix, lp or maxflow)"
        )
    step = max(1, _SLICE >> size)
    answers = [_best_subsets(_rows(problem, slice(first, first + step))) for first in range(0, rows, step)]
    values, indices = (torch.cat(parts, -1) for parts in zip(*answers, strict=True))
    bits = (indices[..., None] >> torch.arange(size, device=indices.device)) & 1
    # V additions for P(H) and V for Q(H); a set's mass is a product of n probabilities merged from up to V sets each.
    draws = torch.tensor(problem.n_drafts, dtype=torch.float64, device=values.device)
    error = (8.0 * size * (draws + 4) * rounding_unit())[:, None]
    if problem.mass_error is not None:
        error = error + problem.mass_error
    return Bound(
        values.clamp(0.0, 1.0),
        (values - error).clamp(0.0, 1.0),
        (values + error).clamp(0.0, 1.0),
        bits.sum(-1),
        problem,
        "subsets",
        make_subset=lambda: bits.bool(),
    )


def _rows(problem: Problem, part: slice) -> Problem:
    return dataclasses.replace(problem, p=problem.p[part], q=problem.q[part], mass_error=None)


def _best_subsets(problem: Problem) -> tuple[Tensor, Tensor]:
    """``1 + min_H (P(H) - Q(H))`` and the bit mask that attains it, ``[N, B]`` each."""
    target = _subset_sums(problem.p)
    best = [(target - _inside(set_masses(problem, n))).min(-1) for n in problem.n_drafts]
    return torch.stack([1.0 + least.values for least in best]), torch.stack([least.indices for least in best])


def set_masses(problem: Problem, n: int) -> Tensor:
    """Probability ``[B, 2^V]`` of each drafted set, as bit masks."""
    rows, size = problem.p.shape
    if n > _MAX_DRAFTS:
        raise InputError(f"{n} drafts, one after another: at most {_MAX_DRAFTS} (use the methods prefix or auto)")
    device = problem.p.device
    mass = torch.zeros((rows, 1 << size), dtype=torch.float64, device=device)
    tokens = torch.arange(size, device=device)
    sampler = get_sampler(problem.sampler)
    if sampler.tuples is not None:
        table, weight = sampler.tuples(problem.q, **problem.options)
        held = torch.zeros((len(table), size), dtype=torch.int64, device=device)
        for column in table.T:
            used = column >= 0
            held[used, column[used]] = 1
        return mass.index_add(1, (held << tokens).sum(-1), weight)
    mass[:, 0] = 1.0
    for k in range(n):
        reached = (mass > 0).any(0).nonzero()[:, 0]
        grown = torch.zeros_like(mass)
        for sets in torch.split(reached, max(1, _CHUNK // (rows * size))):
            drawn = ((sets[:, None] >> tokens) & 1).bool()
            q = problem.q[:, None].expand(rows, len(sets), *problem.q.shape[1:]).flatten(0, 1)
            probs = sampler.conditional(q, drawn.repeat(rows, 1), k, n, **problem.options)
            probs = probs.reshape(rows, len(sets), size) * mass[:, sets, None]
            into = sets[:, None] | (1 << tokens)
            grown.index_add_(1, into.reshape(-1), probs.flatten(1))
            # Nothing left to draw: the set stays as it is.
            exhausted = (probs.sum(-1) == 0) * mass[:, sets]
            grown.index_add_(1, sets, exhausted)
        mass = grown
    return mass


def _subset_sums(p: Tensor) -> Tensor:
    """``P(H)`` ``[B, 2^V]`` of every bit mask H."""
    sums = p.new_zeros((p.shape[0], 1))
    for token in range(p.shape[1]):
        sums = torch.cat([sums, sums + p[:, token : token + 1]], -1)
    return sums


def _inside(mass: Tensor) -> Tensor:
    """``Q(H) = sum over S in H of m(S)``: the zeta transform over subsets."""
    size = mass.shape[1].bit_length() - 1
    inside = mass.clone()
    for token in range(size):
        pairs = inside.view(mass.shape[0], -1, 2, 1 << token)
        pairs[:, :, 1] += pairs[:, :, 0]
    return inside
