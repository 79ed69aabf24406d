"""What every row of every dump must satisfy, whatever program wrote it: the one gate between a reader and a number.

A reader says what its file holds; it decides nothing about whether that can be true.  :class:`mdsd_bounds.dumps.Dump`
passes its facts through :func:`mdsd_bounds.dumps.widths.check_widths` when it is made, and every batch of rows through
:func:`admit`, so that a new reader is checked by being a reader.  What has to be seen before rows become dense (token
ids that repeat or lie outside the vocabulary) is checked by :func:`dense_top_k`, the only way from top-k entries to
rows.  The table of all checks is in docs/dumps.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds._backend.repeated_tokens import repeated_token
from mdsd_bounds.dumps.rounding import coarse_rounding
from mdsd_bounds.dumps.scales import refuse_other_scales, refuse_unwritten
from mdsd_bounds.dumps.widths import align_widths
from mdsd_bounds.problem import InputError, rounding_unit

#: Names of the columns that say what truncated rows leave open, and of the models that they belong to.
CUTS = ("target_cut", "draft_cut")
#: Names of the columns of a judge: tokens that it scored at a position, -1 where fewer, and its scores, NaN there.
JUDGED = ("judge_token", "judge_score")
#: Tokens scored at a position.
SCORED = 8
#: How far stored and missing mass together may be from one: llama.cpp adds up its rows in float32.
_SUM = 1e-3


@dataclass(frozen=True)
class Rest:
    """What a file states of the tokens that it does not store, or None where it does not.

    Attributes
    ----------
    missing : Tensor or None
        ``[B]`` mass of the rest; None takes one minus the stored mass.
    cap : Tensor or None
        ``[B]`` log-probability no other token exceeds; None takes the least stored one (true of a top-k).
    cut : Tensor or None
        ``[B, 4]`` float64, all that is known of the rest, instead of the other two; checked by :func:`admit`.
    slack : Tensor or None
        ``[B]`` error bound of the stored logarithms, where it is known to be larger than their type says.
    """

    missing: Tensor | None = None
    cap: Tensor | None = None
    cut: Tensor | None = None
    slack: Tensor | None = None


#: Nothing is stated: the rest of a top-k row.
TOP_K = Rest()


def admit(
    path: str, first: int, target: Tensor, draft: Tensor, columns: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows ``[B, V_t]`` and ``[B, V_d]`` from ``first`` on, checked, with the narrower side padded by exact zeros.

    Returns
    -------
    target, draft : Tensor
        ``[B, max(V_t, V_d)]`` in their dtypes; columns that a side lacks are ``-inf``.
    columns : dict
        As given.

    Raises
    ------
    InputError
        If a recorded token is not in the vocabulary, full rows are on another scale or were never written, or what a
        truncated row leaves open cannot be true.
    """
    if any(name in columns for name in JUDGED):
        _check_scores(path, first, columns, max(target.shape[1], draft.shape[1]))
    if "token" in columns:
        _check_tokens(path, first, columns["token"], max(target.shape[1], draft.shape[1]))
    for role, rows in (("target", target), ("draft", draft)):
        cut = columns.get(f"{role}_cut")
        if cut is None:
            refuse_other_scales(path, role, first, rows)
        else:
            _check_cut(path, role, first, rows, cut)
    if not any(name in columns for name in CUTS):
        refuse_unwritten(path, first, target, draft)
    target, draft, _ = align_widths(target, draft, path)
    return target, draft, columns


def _check_scores(path: str, first: int, columns: dict[str, Tensor], width: int) -> None:
    if not all(name in columns for name in JUDGED):
        raise InputError(f"{path}: one of {' and '.join(JUDGED)} is missing; score the dump again")
    token, score = columns["judge_token"], columns["judge_score"]
    _refuse(
        ((token >= width) | (token < -1)).any(-1),
        path,
        first,
        lambda row: f"a judge scored token {token[row].tolist()}, but the vocabulary has {width}; score the dump again",
    )
    twice = repeated_token(token)
    _refuse(
        twice >= 0,
        path,
        first,
        lambda row: f"a judge scored token {int(twice[row])} twice; keep one score of each token",
    )
    _refuse(
        ((token >= 0) & ~((score >= 0) & (score <= 1))).any(-1),
        path,
        first,
        lambda row: f"a judge's scores are {score[row].tolist()}; give numbers from 0 to 1",
    )


def _check_tokens(path: str, first: int, token: Tensor, width: int) -> None:
    # -1 stands for a token that was not recorded.
    _refuse(
        (token >= width) | (token < -1),
        path,
        first,
        lambda row: (
            f"token {int(token[row])} is recorded, but the vocabulary has {width} tokens; the text was made "
            "with another tokenizer: log it with the models' own"
        ),
    )


def _check_cut(path: str, role: str, first: int, rows: Tensor, cut: Tensor) -> None:
    """What a truncated row leaves open must be able to be true of some row."""
    where = f"{path} {role}"
    low, high, cap, slack = cut.to(torch.float64).unbind(-1)
    _refuse(
        torch.isnan(cut).any(-1),
        where,
        first,
        lambda row: (
            f"what the row leaves open is {cut[row].tolist()}, with NaN; give least and greatest missing mass, "
            "cap and error bound as numbers"
        ),
    )
    _refuse(
        (low < 0) | (high < low) | (high > 1 + _SUM) | torch.isinf(high),
        where,
        first,
        lambda row: (
            f"a missing mass from {float(low[row]):.6g} to {float(high[row]):.6g}; give 0 <= least <= greatest <= 1"
        ),
    )
    _refuse(
        (slack < 0) | torch.isinf(slack),
        where,
        first,
        lambda row: f"an error bound of {float(slack[row]):.6g}; give a number of at least 0",
    )
    held = rows != -float("inf")
    # Only what is stored: the exponential of minus infinity costs as much as any other.
    values = rows[held].to(torch.float64).exp()
    total = torch.zeros_like(low).index_add_(0, held.nonzero()[:, 0], values)
    most, least = total * slack.exp() + high, total * (-slack).exp() + low
    _refuse(
        ~((most >= 1 - _SUM) & (least <= 1 + _SUM)),
        where,
        first,
        lambda row: (
            f"the stored probabilities sum to {float(total[row]):.6g} and {float(low[row]):.6g} to "
            f"{float(high[row]):.6g} are said to be missing, not one together; give natural-log probabilities at "
            "temperature 1 and the mass of the rest"
        ),
    )
    unknown = (~held).sum(-1)
    room = unknown * cap.clamp(max=0.0).exp()
    _refuse(
        low > room * (1 + 1e-6) + _SUM,
        where,
        first,
        lambda row: (
            f"at least {float(low[row]):.6g} of the mass is missing, but {int(unknown[row])} unknown tokens of "
            f"at most exp({float(cap[row]):.6g}) hold {float(room[row]):.6g}; leave the cap out, or give the largest "
            "log-probability of a token that is not stored"
        ),
    )


def dense_top_k(
    ids: Tensor,
    logprobs: Tensor,
    width: int,
    path: str,
    first_row: int,
    *,
    rest: Rest = TOP_K,
    unit: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Top-k entries as rows over the vocabulary, and what they leave open; the only way from one to the other.

    Parameters
    ----------
    ids : Tensor
        ``[B, k]`` integers, each token at most once a row; -1 stands for an empty slot.
    logprobs : Tensor
        ``[B, k]`` natural-log probabilities at temperature 1.
    width : int
        Tokens of the vocabulary.
    rest : Rest
        What the file states of the tokens that are not stored.
    unit : float
        As of :func:`cut_columns`.

    Returns
    -------
    rows : Tensor
        ``[B, width]`` float64 log-probabilities, ``-inf`` for tokens that are not stored.
    cut : Tensor
        ``[B, 4]`` float64 (:class:`mdsd_bounds.dumps.LogitBatch`).

    Raises
    ------
    InputError
        If a row names a token outside the vocabulary or one twice, a value is NaN or +inf, or the masses cannot be.
    """
    ids, logprobs = ids.to(torch.int64), logprobs.to(torch.float64)
    held = ids >= 0
    _check_entries(ids, logprobs, width, path, first_row)
    cut = cut_columns(logprobs, held, path, first_row, rest=rest, unit=unit) if rest.cut is None else rest.cut
    dense = torch.full((ids.shape[0], width + 1), -float("inf"), dtype=torch.float64)
    dense.scatter_(-1, torch.where(held, ids, torch.full_like(ids, width)), logprobs)
    return dense[:, :width], cut


def _check_entries(ids: Tensor, logprobs: Tensor, width: int, path: str, first_row: int) -> None:
    held = ids >= 0
    _refuse(
        (ids < -1).any(-1),
        path,
        first_row,
        lambda row: f"token {int(ids[row].min())}; ids are 0 to {width - 1}, and -1 where a slot is empty",
    )
    _refuse(
        (ids >= width).any(-1),
        path,
        first_row,
        lambda row: f"token {int(ids[row].max())}, but the vocabulary has {width} tokens",
    )
    twice = repeated_token(ids)
    _refuse(
        twice >= 0,
        path,
        first_row,
        lambda row: (
            f"token {int(twice[row])} is stored twice, and its mass would be counted once "
            "or twice; store every token once"
        ),
    )
    _refuse(
        (held & (torch.isnan(logprobs) | (logprobs == float("inf")))).any(-1),
        path,
        first_row,
        lambda row: f"a stored log-probability is {float(logprobs[row][held[row]].max()):g}; ask for the row again",
    )


def cut_columns(
    logprobs: Tensor,
    held: Tensor,
    path: str,
    first_row: int,
    *,
    rest: Rest = TOP_K,
    unit: float | None = None,
) -> Tensor:
    """What top-k rows leave unsaid, ``[B, 4]`` (see :mod:`mdsd_bounds.dumps.base`).

    Parameters
    ----------
    logprobs : Tensor
        ``[B, k]`` float64 log-probabilities; only those where ``held`` ``[B, k]`` count.
    rest : Rest
        What the file states of the others: ``missing`` and ``cap``.
    unit : float
        Relative rounding of the stored numbers; that of float32 if None.

    Raises
    ------
    InputError
        If stored and missing mass do not make one, or no top-k row can have the cap.
    """
    missing, cap = rest.missing, rest.cap
    unit = rounding_unit(torch.float32) if unit is None else unit
    finite = held & torch.isfinite(logprobs)
    size = torch.where(finite, logprobs.abs(), torch.zeros_like(logprobs)).amax(-1)
    coarse = coarse_rounding(logprobs, held, unit)
    if rest.slack is not None:
        coarse = torch.maximum(coarse, rest.slack)
    slack = unit * (size + 1.0) + coarse
    # Where the rest was cut off, not rounded, all are half a unit too high or too low: nothing among one another.
    far = slack + coarse
    total = torch.where(held, logprobs.exp(), torch.zeros_like(logprobs)).sum(-1)
    low, high = 1.0 - total * far.exp(), 1.0 - total * (-far).exp()
    if missing is None:
        right = high >= -1e-6
    else:
        missing = missing.to(torch.float64)
        right = ((total + missing - 1.0).abs() <= torch.expm1(far) + 1e-4) & (missing >= 0)
        # What the two leave of one belongs to neither: it widens the missing mass.
        low, high = torch.minimum(low, missing), torch.maximum(high, missing)
        exact = (total + missing - 1.0).abs() <= torch.expm1(far)
        low, high = torch.where(exact, missing, low), torch.where(exact, missing, high)

    def said(row: int) -> str:
        tail = "" if missing is None else f" and the tail {float(missing[row]):.6g}"
        return (
            f"the stored probabilities sum to {float(total[row]):.6g}{tail}, not to one together; give natural-log "
            "probabilities at temperature 1"
        )

    _refuse(~(right & torch.isfinite(total)), path, first_row, said)
    least = torch.where(finite, logprobs, torch.full_like(logprobs, float("inf"))).amin(-1)
    if cap is None:
        cap = least
    else:
        cap = cap.to(torch.float64)
        # In masses: where nothing is missing, any cap is true.
        floor = torch.minimum(least.exp(), low)
        _refuse(
            torch.isnan(cap) | (cap.exp() < floor * (1 - 1e-9) * (-2 * far).exp() - 1e-12),
            path,
            first_row,
            lambda row: (
                f"cap {float(cap[row]):.6g} is below the least stored log-probability "
                f"{float(least[row]):.6g}: a top-k row says no more of the others; leave cap out, or give the whole cut"
            ),
        )
    return torch.stack([low.clamp(min=0.0), high.clamp(min=0.0), cap + far, slack], -1)


def _refuse(bad: Tensor, where: str, first: int, what: object) -> None:
    """The first bad row is named; ``what`` says what is wrong with row ``i`` of these, and the remedy."""
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InputError(f"{where} row {first + row}: {what(row)}")  # type: ignore[operator]
