"""Truncated rows: distributions of which only some tokens are known (top-k, floored), at any temperature.

A truncated row stores log-probabilities of *kept* tokens.  Of the others only this is known: their mass lies in an
interval (at temperature 1), none is more probable than a cap, and there are J of them.  At temperature T, with ``s =
1/T`` and ``x_i`` the unknown probabilities, their weight ``t = sum x_i^s`` is again in an interval:

* s <= 1: ``m_low cap^(s-1) <= t <= J (m_high / J)^s``     (``x^s = x x^(s-1) >= x cap^(s-1)``; x^s is concave)
* s >= 1: ``J (m_low / J)^s <= t <= m_high cap^(s-1)``     (the same two facts, reversed)

so the kept tokens' conditional distribution is known exactly and the missing mass ``t / (S + t)``, S the kept weight,
is in an interval.  All of it is done with logarithms: at low temperatures the weights themselves underflow.

A top-k or nucleus cut that stays inside the kept tokens, each more probable than any other can be, leaves nothing
missing: the row is exact again.  No token is more probable than the cap, nor than all missing mass.  Where the k-th
token is no more probable than that, others may tie with it, and full rows keep ties: at most as many as the missing
mass has room for.

Stored logarithms that were rounded coarsely do not say which of two near ones is the larger.  Kept tokens within twice
the error bound of the k-th may each be in or out of a top-k cut: their mass is missing, from that of the fewest that
must be in to that of all.  Where the edge of a nucleus, or the most probable token of greedy decoding, lies among such
tokens the row is an error.  Values as fine as float32 (:data:`ORDERED`) are taken to be in their true order, and equal
ones to be ties, as the logits of half precision give them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, astuple, dataclass
from typing import Unpack

import torch
from torch import Tensor

from mdsd_bounds.distributions import Warp, Warps, to_probs
from mdsd_bounds.problem import InputError

#: Columns of a dump's ``target_cut`` and ``draft_cut`` ``[B, 4]``.
MISSING_LOW, MISSING_HIGH, CAP, SLACK = range(4)
#: Error bounds of stored logarithms from which on they do not tell the order of tokens within twice the bound.
ORDERED = 1e-5
#: A logit that is lowered so far has the weight zero in float64.
_BANNED = -1e4


@dataclass(frozen=True)
class TruncatedDistribution:
    """B distributions over V tokens, each known on its kept tokens and up to a missing mass elsewhere.

    Attributes
    ----------
    distribution : Tensor
        ``[B, V]`` float64: the distribution conditional on the kept tokens; rows sum to one (to zero if nothing was
        kept).
    kept : Tensor
        ``[B, V]`` bool: tokens whose probability is known, a known zero included.
    low, high : Tensor
        ``[B]``: the mass off the kept tokens lies between them.
    cap : Tensor
        ``[B]``: no other token's weight exceeds this, in the units of ``probs``.
    slack : Tensor
        ``[B]``: the logarithm of every kept weight is known to within this (rounding of the file).
    """

    probs: Tensor
    kept: Tensor
    low: Tensor
    high: Tensor
    cap: Tensor
    slack: Tensor


def whole_distribution(probs: Tensor) -> TruncatedDistribution:
    """A fully known distribution ``[B, V]`` in the same terms."""
    zero = torch.zeros(probs.shape[0], dtype=torch.float64, device=probs.device)
    return TruncatedDistribution(probs, torch.ones_like(probs, dtype=torch.bool), zero, zero, zero, zero)


def known_part(known: Tensor, missing: Tensor, name: str) -> TruncatedDistribution:
    """A distribution of which the small probabilities were left out.

    Parameters
    ----------
    known : Tensor
        ``[B, V]`` float64 probabilities, zero where unknown; rows sum to ``1 - missing``.  The unknown tokens are taken
        to be no more probable than the least known one.
    missing : Tensor
        ``[B]`` float64: mass of the unknown tokens.
    name : str
        What an error calls the rows.

    Raises
    ------
    InputError
        If known and missing mass do not add up to one.
    """
    total = known.sum(-1)
    bad = ((total + missing - 1.0).abs() > 1e-6) | (missing < 0) | (total <= 0)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InputError(
            f"{name} row {row}: known mass {float(total[row]):.6g} and missing mass {float(missing[row]):.6g} "
            "do not add up to 1; give the row's tail mass"
        )
    least = torch.where(known > 0, known, torch.full_like(known, float("inf"))).amin(-1)
    kept = (known > 0) | (missing <= 0)[:, None]
    # |1 - known - missing| is not attributed to either: it widens the missing mass.
    low, high = torch.minimum(missing, 1.0 - total).clamp(min=0.0), torch.maximum(missing, 1.0 - total)
    return TruncatedDistribution(known / total[:, None], kept, low, high, least / total, torch.zeros_like(low))


def truncated_distribution(
    logprobs: Tensor,
    cut: Tensor | None,
    *,
    name: str = "logprobs",
    first_row: int = 0,
    **warps: Unpack[Warps],
) -> TruncatedDistribution:
    """Warp truncated rows as :func:`mdsd_bounds.to_probs` warps full ones.

    Parameters
    ----------
    logprobs : Tensor
        ``[B, V]`` log-probabilities at temperature 1, ``-inf`` where a token was not stored.
    cut : Tensor or None
        ``[B, 4]`` float64: least and greatest missing mass, largest log-probability a missing token may have
        (``inf`` if unknown), and error bound of the stored logarithms.  None: the rows are full.
    name, first_row, **warps :
        ``temperature``, ``top_k``, ``top_p`` and ``min_p``, as :func:`mdsd_bounds.to_probs`.

    Raises
    ------
    InputError
        If the warp depends on tokens that were not stored (greedy decoding or a nucleus that leaves the kept tokens).
    """
    # Checks the range of top_p too; where rows are truncated, the nucleus itself is found below.
    warp = Warp(**warps)
    temperature, top_k, top_p, min_p = astuple(warp)
    if cut is None:
        return whole_distribution(to_probs(logprobs, name=name, first_row=first_row, **asdict(warp)))
    # Checks NaN, +inf and empty rows; top_k must see the kept tokens only.
    probs = to_probs(logprobs, temperature=temperature, top_k=top_k, name=name, first_row=first_row)
    x = logprobs.to(torch.float64)
    kept = x > -float("inf")
    cut = cut.to(torch.float64)
    cap, slack = cut[:, CAP].clamp(-700.0, 0.0), cut[:, SLACK]
    # Where every token is stored nothing can be missing, whatever rounding left over.
    least, most = (cut[:, i].clamp(0.0, 1.0) * (~kept).any(-1) for i in (MISSING_LOW, MISSING_HIGH))
    exact = most <= 0
    cap = torch.minimum(cap, most.log().clamp(min=-700.0))
    unordered = torch.where(slack > ORDERED, slack, torch.zeros_like(slack))
    if temperature == 0:
        _refuse(~exact & (x.amax(-1) - slack < cap + slack), name, first_row, "greedy decoding")
        near = (x >= x.amax(-1, keepdim=True) - 2 * unordered[:, None]).sum(-1) > 1
        _refuse(near & (unordered > 0), name, first_row, "greedy decoding", _NEAR)
        return _known(probs, slack)
    # Of a subnormal temperature the reciprocal is infinite; no product with a logarithm may be.
    s = min(1.0 / temperature, 1e300)
    held = kept.sum(-1)
    others = (kept.shape[-1] - held).clamp(min=1).to(torch.float64)
    log_kept = torch.logsumexp(x * s, -1)
    low, high = _log_tail(least, most, others, cap, s)
    if top_k is not None:
        edge = _Edge(x.amax(-1), cap, slack, exact, unordered)
        probs, kept, low, high, cap = _top_k(probs, x, most, high, edge, (top_k, s, name, first_row))
        exact = torch.isneginf(high)
        log_kept = torch.logsumexp(torch.where(probs > 0, x * s, torch.full_like(x, -float("inf"))), -1)
    if min_p:
        probs, low, high = _at_least(
            probs, low, high, _Edge(x.amax(-1), cap, slack, exact, unordered), (min_p, s, name, first_row)
        )
        log_kept = torch.logsumexp(torch.where(probs > 0, x * s, torch.full_like(x, -float("inf"))), -1)
    missing_low, missing_high = torch.sigmoid(low - log_kept), torch.sigmoid(high - log_kept)
    cap_weight = torch.exp(cap * s - log_kept)
    slack = slack * s
    if top_p is not None and top_p < 1:
        return _nucleus(probs, missing_low, missing_high, cap_weight, slack, (top_p, unordered > 0, name, first_row))
    all_kept = kept | (missing_high <= 0)[:, None]
    return TruncatedDistribution(probs, all_kept, missing_low, missing_high, cap_weight, slack)


@dataclass(frozen=True)
class _Edge:
    """Largest kept logarithm, cap of the others, error bound of the logarithms, and rows with nothing missing.

    ``unordered`` is the error bound where it is so large that near values may stand in another order.
    """

    peak: Tensor
    cap: Tensor
    slack: Tensor
    exact: Tensor
    unordered: Tensor


def _top_k(
    probs: Tensor, x: Tensor, most: Tensor, high: Tensor, edge: _Edge, asked: tuple[int, float, str, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Tokens that are surely in the cut, those that are known, bounds of the logarithm of the rest, and their cap.

    No unknown token may outrank a kept one of the cut.  Then either the cut holds kept tokens and those that tie with
    the last of them, or it holds all of them and some unknown ones.  ``probs`` are those of the cut as it is stored.
    """
    top_k, s, name, first_row = asked
    known, error = x > -float("inf"), edge.unordered[:, None]
    kth = x.topk(min(top_k, x.shape[1]), -1).values[:, -1:]
    last = torch.where(known & (x >= kth), x, torch.full_like(x, float("inf"))).amin(-1)
    _refuse(~edge.exact & (last < edge.cap), name, first_row, f"top_k={top_k}")
    ties = torch.where(last - edge.slack <= edge.cap, torch.floor(most * (edge.slack - last).exp() * (1 + 1e-9)), 0.0)
    all_in = known.sum(-1) < top_k
    high = torch.where(all_in, high, torch.minimum(high, ties.log() + edge.cap * s))
    # Of tokens within the error of the k-th more may be in than k, or others than are stored as the largest.
    possible = known & (x >= kth - 2 * error)
    sure = possible & ((possible.sum(-1, keepdim=True) <= top_k) | (x >= kth + 2 * error))
    sure &= edge.exact[:, None] | (x - error >= edge.cap[:, None])
    near = possible & ~sure
    _refuse(~sure.any(-1), name, first_row, f"top_k={top_k}", _NEAR)
    inside_or_not = torch.where(near, x, torch.full_like(x, -float("inf")))
    slack = edge.slack * s
    least = torch.where(near, x * s, torch.full_like(x, float("inf"))).amin(-1) - slack
    fewest = torch.where(torch.isneginf(high), top_k - sure.sum(-1), 0).clamp(min=0).to(x.dtype)
    some = near.any(-1)
    low = torch.where(some, fewest.log() + least, -float("inf"))
    high = torch.where(some, torch.logaddexp(high, torch.logsumexp(inside_or_not * s, -1) + slack), high)
    cap = torch.where(some, torch.maximum(edge.cap, inside_or_not.amax(-1) + edge.slack), edge.cap)
    inside = torch.where(sure, probs, torch.zeros_like(probs))
    probs = torch.where(some[:, None], inside / inside.sum(-1, keepdim=True), probs)
    return probs, known & ~near, low, high, cap


def _at_least(
    probs: Tensor, low: Tensor, high: Tensor, edge: _Edge, asked: tuple[float, float, str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Kept tokens with at least ``min_p`` of the largest probability, and the logarithms of the rest's bounds.

    Where no missing token reaches the edge nothing is missing any more; where one may, any part of them may be left.
    """
    min_p, s, name, first_row = asked
    _refuse(
        ~edge.exact & (edge.peak - edge.slack < edge.cap), name, first_row, f"the largest probability of min_p={min_p}"
    )
    ratio = probs / probs.amax(-1, keepdim=True)
    unsure = torch.expm1(2 * edge.slack * s)[:, None]
    at_edge = (ratio > 0) & (ratio * (1 + unsure) >= min_p) & (ratio * (1 - unsure) < min_p) & (unsure > 0)
    _refuse(at_edge.any(-1), name, first_row, f"the edge of min_p={min_p}")
    below = (edge.cap - edge.peak + 2 * edge.slack) * s < math.log(min_p) - 1e-12
    nothing = torch.full_like(low, -float("inf"))
    kept = torch.where(ratio >= min_p, probs, torch.zeros_like(probs))
    return kept / kept.sum(-1, keepdim=True), nothing, torch.where(below, nothing, high)


def shifted(logprobs: Tensor, cut: Tensor, shift: Tensor, name: str, first_row: int = 0) -> tuple[Tensor, Tensor]:
    """Truncated rows after something was added to some logits: weights of kept tokens, and what is left open.

    Kept tokens are known, and so are their new weights.  A missing token of which something is subtracted takes at most
    ``cap (1 - exp(shift))`` of the least missing mass with it; one to which something is added could have any weight.

    Parameters
    ----------
    logprobs, cut :
        As :func:`truncated_distribution`.
    shift : Tensor
        ``[B, V]`` added to the logits.

    Raises
    ------
    InputError
        If something is added to a token that the row does not hold.
    """
    # A banned token's weight is known: zero.
    shift = shift.clamp(min=_BANNED)
    known = logprobs > -float("inf")
    missing = (~known).any(-1) & (cut[:, MISSING_HIGH] > 0)
    raised = missing & (~known & (shift > 0)).any(-1)
    _refuse(raised, name, first_row, "a token whose logit is raised")
    most = torch.minimum(cut[:, CAP].exp(), cut[:, MISSING_HIGH])
    taken = torch.where(known, torch.zeros_like(shift), -torch.expm1(shift.clamp(max=0.0))).sum(-1) * most
    left = cut.to(torch.float64).clone()
    left[:, MISSING_LOW] = (left[:, MISSING_LOW] - taken).clamp(min=0.0)
    return logprobs.to(torch.float64) + torch.where(known, shift, torch.zeros_like(shift)), left


def _log_tail(low: Tensor, high: Tensor, others: Tensor, cap: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Logarithms of the bounds of ``t`` above."""
    concentrated_low, concentrated_high = (mass.log() + cap * (s - 1.0) for mass in (low, high))
    spread_low, spread_high = (others.log() + s * (mass.log() - others.log()) for mass in (low, high))
    return (concentrated_low, spread_high) if s <= 1.0 else (spread_low, concentrated_high)


def _nucleus(
    probs: Tensor, low: Tensor, high: Tensor, cap: Tensor, slack: Tensor, asked: tuple[float, Tensor, str, int]
) -> TruncatedDistribution:
    """The nucleus, where it is the same set for every missing mass in the interval and inside the kept tokens."""
    top_p, coarse, name, first_row = asked
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    margin = torch.expm1(2 * slack).clamp(max=1e100)[:, None]
    fewest = ((1 - low)[:, None] * before * (1 + margin) < top_p).sum(-1)
    most = ((1 - high)[:, None] * before * (1 - margin) < top_p).sum(-1)
    covered = (1 - high)[:, None] * (before + ranked) * (1 - margin)
    last = ranked.gather(-1, (most - 1)[:, None])[:, 0]
    # A tie with an unknown token would be broken by their places in the vocabulary.
    sure = (covered.gather(-1, (most - 1)[:, None])[:, 0] >= top_p) & (last * (1 - 1e-12) > cap)
    _refuse(~sure & (high > 0), name, first_row, f"top_p={top_p}")
    _refuse((fewest != most) & (high > 0), name, first_row, f"the edge of top_p={top_p}")
    following = torch.nn.functional.pad(ranked, (0, 1)).gather(-1, most[:, None])[:, 0]
    near = (fewest != most) | ((following > 0) & (following * torch.exp(2 * slack) >= last))
    _refuse(near & coarse, name, first_row, f"the edge of top_p={top_p}", _NEAR)
    size = torch.where(high > 0, most, (before < top_p).sum(-1))
    keep = torch.arange(probs.shape[1], device=probs.device) < size[:, None]
    inside = torch.zeros_like(probs).scatter_(-1, order, torch.where(keep, ranked, torch.zeros_like(ranked)))
    return _known(inside / inside.sum(-1, keepdim=True), slack)


def _known(probs: Tensor, slack: Tensor) -> TruncatedDistribution:
    whole = whole_distribution(probs)
    return TruncatedDistribution(probs, whole.kept, whole.low, whole.high, whole.cap, slack)


#: Why rounded logarithms do not decide, with the remedy.
_NEAR = "depends on the order of tokens that are nearer to each other than the stored numbers are exact; log in float32"


def _refuse(
    bad: Tensor,
    name: str,
    first_row: int,
    what: str,
    why: str = "depends on tokens the truncated row does not hold; log more tokens a row",
) -> None:
    if bool(bad.any()):
        raise InputError(f"{name} row {first_row + int(bad.nonzero()[0])}: {what} {why}")
