"""A log as arrays: of each position the masses of its cells, and which cell, rank and token the output took."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdsd_bounds.audit.cells import PLACES, Flags, Floats, Ints, cell_masses, cells_of, places_of
from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import get_sampler

#: Numbers of drafts for which the bound is computed, to state the marginal gain of each.
DRAFT_COUNTS = (1, 2, 3, 4)
#: Vocabularies up to this size are bounded by enumeration of all subsets.
_FEW_TOKENS = 8
#: And logs with up to so many drafts.
_FEW_DRAFTS = 64


@dataclass(frozen=True)
class Positions:
    """N positions of a log.

    Attributes
    ----------
    p_mass, q_mass : ndarray
        ``[N, CELLS]`` masses of the cells under the two distributions; q's rows are zero where q is not known.
    cell, draft_cell : ndarray
        ``[N]`` cell of the output and of the draft whose distribution is q itself; -1 where there is none or q is not
        exact.
    place_mass, output_place : ndarray
        ``[N, PLACES]`` masses of the intervals of the cumulative distribution under p, and ``[N]`` that of the output.
    drifts : ndarray
        ``[N, F, CELLS]`` float32 scores in [-1, 1] of the known faults (:mod:`mdsd_bounds.audit.faults`); 0 where not
        known.
    token, drafts, rank : ndarray
        ``[N]`` output token, number of draft slots, first slot (from 0) that holds the output, -1 if none does.
    p_token, q_token, distance : ndarray
        ``[N]`` p and q of the output and the total variation of p and q; NaN where not known.
    tolerance : ndarray
        ``[N]`` total variation by which the stated p may be off.
    draft_slack : ndarray
        ``[N]`` total variation by which the drafts' distribution may be off besides (see left_out.py).
    bound, bound_by_n : ndarray
        ``[N]`` alpha* (upper end) for the drafts of the position, and ``[N, 4]`` for n = 1..4; NaN where not known.
    equal, equal_chance : ndarray
        ``[N]`` whether the first two drafts are equal, and how probable that is; NaN where the sampler does not say.
    sampler : tuple of str
        ``[N]``, empty where not known.
    doc, position, step, place : ndarray
        ``[N]`` document, place in it and decoding step (-1 unknown), and line or row of the log.
    flag : ndarray
        ``[N]`` the engine's own word on acceptance: 1, 0, or -1 where it says nothing.
    """

    p_mass: Floats
    q_mass: Floats
    cell: Ints
    draft_cell: Ints
    place_mass: Floats
    output_place: Ints
    drifts: NDArray[np.float32]
    token: Ints
    drafts: Ints
    rank: Ints
    p_token: Floats
    q_token: Floats
    distance: Floats
    tolerance: Floats
    draft_slack: Floats
    bound: Floats
    bound_by_n: Floats
    equal: Floats
    equal_chance: Floats
    sampler: tuple[str, ...]
    doc: Ints
    position: Ints
    step: Ints
    place: Ints
    flag: Ints

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def accepted(self) -> Flags:
        """``[N]`` whether the output is one of the drafts."""
        return self.rank >= 0

    def part(self, keep: Flags | Ints) -> Positions:
        """The positions ``keep`` selects, in order."""
        where = np.arange(len(self))[keep]
        columns = [f.name for f in dataclasses.fields(self) if f.name != "sampler"]
        chosen: dict[str, Any] = {name: getattr(self, name)[where] for name in columns}
        return Positions(**chosen, sampler=tuple(self.sampler[i] for i in where))


@dataclass(frozen=True)
class Rows:
    """Distributions ``[B, K]`` that several positions may share, over K columns.

    A column is a token; a truncated row has one more, for all the others.

    Attributes
    ----------
    p, q : ndarray
        ``[B, K]``; columns past a row's own are zero in both.
    q_known, q_exact : ndarray
        ``[B]`` whether q is known at all, and whether it is the exact distribution over these columns.
    tolerance : ndarray
        ``[B]``.
    """

    p: Floats
    q: Floats
    q_known: Flags
    q_exact: Flags
    tolerance: Floats


@dataclass(frozen=True)
class Sorted:
    """The rows' cells ``[B, K]``, their masses ``[B, CELLS]`` and ``TV(p, q)`` ``[B]``; the same of places."""

    cells: Ints
    p_mass: Floats
    q_mass: Floats
    distance: Floats
    places: Ints
    place_mass: Floats


def sort_rows(rows: Rows) -> Sorted:
    """Cells and masses of B rows.  O(B K)."""
    guide = np.where(rows.q_known[:, None], rows.q, rows.p)
    cells = cells_of(rows.p, guide)
    q_mass = cell_masses(cells, rows.q) * rows.q_known[:, None]
    gap = np.clip(rows.q - rows.p, 0.0, None).sum(1)
    distance = np.where(rows.q_known, gap, np.nan)
    p_mass = cell_masses(cells, rows.p)
    places = places_of(rows.p)
    place_mass = cell_masses(places, rows.p, PLACES)
    total = p_mass.sum(1, keepdims=True)
    return Sorted(cells, p_mass / total, q_mass, distance, places, place_mass / total)


def bounds_of(p: Floats, q: Floats, counts: tuple[int, ...], sampler: str, options: dict[str, Option]) -> Floats:
    """Upper ends of alpha* ``[len(counts), B]`` of full rows ``[B, V]``."""
    from mdsd_bounds.bounds import optimal_acceptance

    if not get_sampler(sampler).replacement:
        # More drafts than tokens are all tokens.
        counts = tuple(min(n, p.shape[1]) for n in counts)
    # All 2^V subsets are the quicker route to the same number for a handful of tokens and drafts.
    few = p.shape[1] <= _FEW_TOKENS and max(counts) <= _FEW_DRAFTS
    given: dict[str, Any] = {"method": "subsets" if few else "auto"} | options
    bound = optimal_acceptance(torch.from_numpy(p), torch.from_numpy(q), counts, sampler, **given)
    return np.asarray(bound.high.numpy(), dtype=np.float64)
