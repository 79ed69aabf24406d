"""Logits or probabilities in, float64 distributions out: temperature, min-p, top-k, top-p; what is doubtful raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.buffers import buffer
from mdsd_bounds._backend.checked_rows import ROUNDED_SUM, WIDE, RowSums
from mdsd_bounds._backend.plain_tensors import as_tensor as as_tensor
from mdsd_bounds._backend.plain_tensors import refuse_no_number
from mdsd_bounds._backend.threads import in_threads
from mdsd_bounds.problem import ArrayLike, InputError

#: How far a row of given probabilities may be from summing to one, by the dtype it was given in.  Rows inside the
#: tolerance are normalised in float64 and every interval is widened by the defect; rows outside are refused.
SUM_TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
    torch.float16: 5e-2,
    torch.bfloat16: 1e-1,
}

#: Entries of the working copies of :func:`to_probs`.
_SLICE = 500_000
#: Tokens among which a nucleus is looked for before all of them are sorted.
_FEW = 512


def as_rows(x: ArrayLike, name: str) -> tuple[Tensor, bool]:
    """``[V]`` or ``[B, V]`` as ``[B, V]``; the flag says whether it was a single row.

    Raises
    ------
    InputError
        If the shape is anything else, or an axis is empty.
    """
    x = as_tensor(x, name)
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise InputError(f"{name}: shape {tuple(x.shape)}; give [V] or [B, V] with at least one row and one token")
    return (x[None], True) if x.ndim == 1 else (x, False)


def validate_probs(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Check rows of probabilities and return them in float64, summing to one.

    Parameters
    ----------
    x : Tensor
        ``[..., V]`` non-negative, each row summing to one within :data:`SUM_TOLERANCE` of its dtype.

    Returns
    -------
    distribution : Tensor
        ``[..., V]`` float64; each row divided by its sum, or ``x`` itself where it is float64 and every sum is one
        within :data:`ROUNDED_SUM`.
    defect : Tensor
        ``[...]`` float64, ``|1 - sum|`` as given.  It bounds the total variation that the division moves, and
        every interval computed from the row must be widened by it.

    Raises
    ------
    InputError
        On NaN, infinite or negative entries, or a sum outside the tolerance; the row is named.
    """
    tolerance = SUM_TOLERANCE.get(x.dtype, 1e-6)
    probs = x.to(torch.float64)
    total, sound = _compiled_sums(probs)
    if not sound:
        _refuse(~torch.isfinite(probs), name, "NaN or infinite probability", "clean the row at its source")
        _refuse(probs < 0, name, "negative probability", "give probabilities, or pass logits through to_probs")
        if bool(torch.signbit(probs).any()):
            # Minus zero, of which a ratio would be minus infinity.
            probs = probs + 0.0
    defect = (1.0 - total).abs()
    bad = defect > tolerance
    if bool(bad.any()):
        row = int(bad.reshape(-1).nonzero()[0])
        raise InputError(
            f"{name} row {row}: probabilities sum to {float(total.reshape(-1)[row]):.6g}, not 1 within {tolerance:g}; "
            "normalise them yourself, or give logits to mdsd_bounds.to_probs"
        )
    # Row by row, so that a result never depends on what else is in the batch.
    total = torch.where(defect <= ROUNDED_SUM, torch.ones_like(total), total)
    if bool((total == 1.0).all()):
        return probs, defect
    # A distribution of another dtype was copied above, so the division may go in place.
    return probs / total[..., None] if probs is x else probs.div_(total[..., None]), defect


def _compiled_sums(probs: Tensor) -> tuple[Tensor, bool]:
    """Sums of the rows, and whether they are known to be sound: finite, and without a set sign bit in any entry.

    Wide rows on the CPU take one compiled pass.  False means no more than that the entries must be looked at (minus
    zero sets the sign bit too), so that what is wrong can be named.
    """
    if probs.device.type == "cpu" and probs.shape[-1] >= WIDE and probs.is_contiguous():
        try:
            sums = RowSums(probs.detach().reshape(-1, probs.shape[-1]))
        except ImportError:
            return probs.sum(-1), False
        in_threads(sums.add, len(sums.total))
        return torch.from_numpy(sums.total).reshape(probs.shape[:-1]), sums.sound()
    return probs.sum(-1), False


def to_probs(
    logits: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    name: str = "logits",
    first_row: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """Softmax in float64 after the warps a serving stack applies, in vLLM's order: temperature, min-p, top-k, top-p.

    ``probs_i = exp(l_i / T) / sum_j exp(l_j / T)``, cut to the tokens with at least ``min_p`` times the probability of
    the most probable one and to the ``top_k`` largest logits (ties with the k-th are kept, as in Hugging Face
    transformers and vLLM), then to the smallest set of most probable tokens whose mass reaches ``top_p`` (the token
    that crosses ``top_p`` is kept).

    Parameters
    ----------
    logits : array
        ``[V]`` or ``[B, V]``, any float dtype.  ``-inf`` marks a masked token and is legal.  Log-probabilities are
        logits too.
    temperature : float
        At least 0; 0 is greedy decoding, a one-hot distribution on the largest logit (the lowest index among ties).
    top_k, top_p, min_p : optional
        ``top_k >= 1``; ``0 < top_p <= 1``; ``0 <= min_p <= 1``.
    name, first_row :
        Used in error messages only: what the rows are, and the number of the first one.
    out : Tensor, optional
        ``[B, V]`` float64 on the same device, written over and returned: fresh memory for many wide rows costs as much
        as their softmax.

    Returns
    -------
    Tensor
        Same shape, float64, on the device of the input.

    Notes
    -----
    Wide rows on the CPU take two compiled passes (:mod:`mdsd_bounds._backend.softmax_rows`), shared among threads,
    unless ``top_k`` cuts them or a gradient is wanted; all others go through torch.  The two agree to a relative 1e-13,
    which is how far torch's sums may round.

    Raises
    ------
    InputError
        On NaN, ``+inf`` or rows that are all ``-inf``; on parameters out of range.

    Examples
    --------
    >>> from mdsd_bounds import to_probs
    >>> to_probs([2.0, 1.0, 0.0, -1.0], top_k=2).numpy().round(4)
    array([0.7311, 0.2689, 0.    , 0.    ])
    """
    x, single = as_rows(logits, name)
    probs, _ = _warped_distribution(x, Warp(temperature, top_k, top_p, min_p), name, first_row, out)
    return probs[0] if single else probs


class Warps(TypedDict, total=False):
    """The fields of :class:`Warp` as keywords."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None


def probs_and_defect(
    logits: Tensor, *, name: str = "logits", first_row: int = 0, **warps: Unpack[Warps]
) -> tuple[Tensor, Tensor]:
    """:func:`to_probs` of rows ``[B, V]``, and :func:`validate_probs` of the result, in most cases in the same passes.

    Returns
    -------
    distribution : Tensor
        ``[B, V]`` float64.
    defect : Tensor
        ``[B]`` float64, ``|1 - sum|``.
    """
    x, _ = as_rows(logits, name)
    probs, mass = _warped_distribution(x, Warp(**warps), name, first_row, None)
    return validate_probs(probs, name) if mass is None else (probs, (1.0 - mass).abs())


@dataclass(frozen=True)
class Warp:
    """How logits of one model become a distribution.

    Raises
    ------
    InputError
        On values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k", "top_p", "min_p"):
            refuse_no_number(name, getattr(self, name), optional=name != "temperature")
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise InputError(f"temperature={self.temperature!r}: give a finite number of at least 0")
        if self.top_k is not None and not (1 <= self.top_k < float("inf") and int(self.top_k) == self.top_k):
            raise InputError(f"top_k={self.top_k!r}: give an integer of at least 1, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p!r}: give a number in (0, 1], or leave it out")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise InputError(f"min_p={self.min_p!r}: give a number in [0, 1], or leave it out")

        if isinstance(self.top_k, float):
            object.__setattr__(self, "top_k", int(self.top_k))

    def after_softmax(self, probs: Tensor) -> Tensor:
        """The cuts that need probabilities, renormalised; ``probs`` itself where there is none."""
        if self.min_p:
            probs = _at_least(probs, self.min_p)
        return _nucleus(probs, self.top_p) if self.top_p is not None and self.top_p < 1 else probs


def _warped_distribution(
    x: Tensor, warp: Warp, name: str, first_row: int, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The distribution, and the sums of its rows where they are known and the distribution needs no further check."""
    if out is not None and not isinstance(out, Tensor):
        raise InputError(f"out: a {type(out).__name__}; give a float64 tensor of the shape of the logits")
    if out is not None and (out.shape != x.shape or out.dtype != torch.float64 or out.device != x.device):
        raise InputError(
            f"out: {tuple(out.shape)} {out.dtype} on {out.device}; give {tuple(x.shape)} float64 on {x.device}"
        )
    plain = warp.temperature > 0 and (warp.top_k is None or warp.top_k >= x.shape[-1])
    compiled = _compiled_distribution(x, warp.temperature, out) if plain else None
    if compiled is None:
        return _distribution_by_torch(x, warp, name, first_row, out), None
    probs, mass = compiled
    cut = warp.after_softmax(probs)
    if cut is probs:
        return probs, mass
    return (cut if out is None else out.copy_(cut)), None


def _compiled_distribution(x: Tensor, temperature: float, out: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Softmax of wide rows by compiled passes, and its sums; None where they do not apply or a row is unsound."""
    if x.device.type != "cpu" or x.shape[-1] < WIDE or x.dtype not in SUM_TOLERANCE:
        return None
    if (torch.is_grad_enabled() and x.requires_grad) or (out is not None and not out.is_contiguous()):
        return None
    try:
        from mdsd_bounds._backend import softmax_rows
    except ImportError:
        return None
    rows = x.detach().contiguous()
    probs = buffer(x.shape, torch.float64) if out is None else out
    kind = {torch.float16: softmax_rows.HALF, torch.bfloat16: softmax_rows.BFLOAT}.get(x.dtype, softmax_rows.NUMBERS)
    nothing = torch.empty(0, 0)
    whole = kind == softmax_rows.NUMBERS
    numbers, bits = (rows, nothing.short()) if whole else (nothing, rows.view(torch.int16))
    given = numbers.numpy(), bits.numpy()
    values, mass, sound = probs.numpy(), np.empty(len(rows)), np.empty(len(rows), np.bool_)

    def work(first: int, last: int) -> None:
        some = slice(first, last)
        # Of the two the empty one stays empty.
        parts = (given[0][some], given[1][some])
        softmax_rows.softmax_rows(*parts, kind, float(temperature), values[some], mass[some], sound[some])

    in_threads(work, len(rows))
    return (probs, torch.from_numpy(mass)) if sound.all() else None


def _distribution_by_torch(x: Tensor, warp: Warp, name: str, first_row: int, out: Tensor | None) -> Tensor:
    # A few rows at a time: their working copies then stay in the processor's cache and in memory already mapped.
    rows = max(1, _SLICE // x.shape[-1]) if x.device.type == "cpu" else x.shape[0]
    if x.shape[0] <= rows and out is None:
        return _to_probs(x, warp, name, first_row)
    probs = torch.empty(x.shape, dtype=torch.float64, device=x.device) if out is None else out
    for first in range(0, x.shape[0], rows):
        part = slice(first, first + rows)
        probs[part] = _to_probs(x[part], warp, name, first_row + first)
    return probs


def _to_probs(given: Tensor, warp: Warp, name: str, first_row: int) -> Tensor:
    temperature, top_k = warp.temperature, warp.top_k
    x = given.to(torch.float64)
    peak = peak_of(x, name, first_row)
    if temperature == 0:
        return torch.zeros_like(x).scatter_(-1, _first_argmax(x), 1.0)
    # Divide the difference, not the logits: at T = 1e-6 the quotient of the logits themselves would lose digits.
    # At T = 1 the softmax takes the difference itself, with the same bits.  A copy made above is written over.
    if temperature != 1.0:
        x = (x - peak) / temperature if x is given else x.sub_(peak).div_(temperature)
    if top_k is not None and top_k < x.shape[-1]:
        kth = x.topk(top_k, -1).values[:, -1:]
        x = x.masked_fill(x < kth, -float("inf"))
    return warp.after_softmax(torch.softmax(x, -1))


def peak_of(x: Tensor, name: str, first_row: int = 0) -> Tensor:
    """The largest logit of each row ``[B, 1]`` of ``x`` ``[B, V]``.

    Raises
    ------
    InputError
        On NaN, ``+inf`` or rows that are all ``-inf``.
    """
    peak = x.amax(-1, keepdim=True)  # NaN propagates through amax, so tests on [B] see all
    _refuse(torch.isnan(peak), name, "NaN logit", "log the row again", first_row)
    _refuse(
        peak == float("inf"),
        name,
        "+inf logit",
        "log in a wider dtype (float16 overflows at 65504)",
        first_row,
    )
    _refuse(peak == -float("inf"), name, "every logit is -inf", "at least one token must be allowed", first_row)
    return peak


def _at_least(probs: Tensor, min_p: float) -> Tensor:
    kept = torch.where(probs >= min_p * probs.amax(-1, keepdim=True), probs, torch.zeros_like(probs))
    return kept / kept.sum(-1, keepdim=True)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    # A sort of all tokens is needed only where the nucleus has more than a few of them.
    few = min(_FEW, probs.shape[-1])
    ranked = probs.topk(few, -1).values
    count = _before_crossing(ranked, top_p)
    if few < probs.shape[-1] and bool((count == few).any()):
        ranked = probs.sort(dim=-1, descending=True).values
        count = _before_crossing(ranked, top_p)
    least = ranked.gather(-1, count - 1)
    above, tied = probs > least, probs == least
    wanted = count - above.sum(-1, keepdim=True)
    if bool((tied.sum(-1, keepdim=True) > wanted).any()):
        # The lowest indices among equals.
        tied &= tied.cumsum(-1) <= wanted
    kept = torch.where(above | tied, probs, torch.zeros_like(probs))
    return kept / kept.sum(-1, keepdim=True)


def _before_crossing(ranked: Tensor, top_p: float) -> Tensor:
    """How many of the falling ``ranked`` ``[B, K]`` have less than ``top_p`` before them, ``[B, 1]``."""
    return (ranked.cumsum(-1) - ranked < top_p).sum(-1, keepdim=True)


def _first_argmax(x: Tensor) -> Tensor:
    is_peak = x == x.amax(-1, keepdim=True)
    return is_peak.to(torch.int8).argmax(-1, keepdim=True)


def _refuse(bad: Tensor, name: str, what: str, remedy: str, first_row: int = 0) -> None:
    if not bool(bad.any()):
        return
    where = bad.nonzero()[0].tolist()
    row = first_row + where[0] if bad.ndim > 1 else first_row
    token = f", token {where[-1]}" if bad.ndim > 1 and bad.shape[-1] > 1 else ""
    raise InputError(f"{name} row {row}{token}: {what}; {remedy}")
