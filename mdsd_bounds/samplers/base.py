"""What a draft sampler is, and the family that covers most of those in use.

A sampler is a distribution of the *next* draft given the set of tokens drafted so far.  Everything else follows:
sampling, log-probabilities, the distribution of the drafted set, and ``Q(H) = Pr(every draft lies in H)``.

Five of the samplers in use are one family: the ``fixed`` most probable tokens of q, always drafted, then ``random``
draws from ``r``, which is q off the fixed tokens, renormalised; with or without replacement.  For the family the
minimising subset of ``1 + min_H (P(H) - Q(H))`` is the fixed set plus a prefix of the other tokens in the order of
p/r, so one prefix scan serves all (:mod:`mdsd_bounds.bounds.search.prefix_scan`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option

#: A draft slot that holds no token: the support of q ran out before n distinct drafts were found.
NO_DRAFT = -1
#: Rates times this power of two have finite reciprocals, down to the smallest subnormal number; the product is exact.
RAISE = 2.0**64


@dataclass(frozen=True)
class Sampler:
    """A draft sampler: how it draws, and what the rest of the package needs to know about it.

    Only ``name`` and ``conditional`` are required.  A sampler that says no more is treated by enumeration and linear
    programmes; each further field opens a faster route to it.

    Attributes
    ----------
    name : str
        Its name in :data:`mdsd_bounds.samplers.SAMPLERS`.
    conditional : callable
        ``(q [B, V], drawn [B, V] bool, k, n, **options) -> [B, V]``: distribution of draft ``k`` (from 0) of ``n``
        given the set drawn so far.  A row of zeros means that nothing is left to draw.
    split : callable or None
        ``(n, **options) -> (fixed, random)`` for members of the fixed-plus-random family, else None.  Only members have
        a prefix order.
    replacement : bool
        Whether two drafts may be the same token; in the family, whether the random draws are with replacement.
    sample_rows : callable or None
        A direct way to draw, ``(q, n, generator, **options) -> [B, n]``; None draws from ``conditional`` in turn.
    options : tuple of str
        Names of the options it takes.
    check : callable or None
        ``(q, n_drafts, tokens, **options)``: raises :class:`InputError` where the options do not fit q, the numbers of
        drafts or the size of the vocabulary.
    takes : "one", "drafters" or "table"
        Shape of q: one distribution ``[B, V]``; also one for each draft, ``[B, n, V]``; one probability for each row
        of a table of draft tuples, ``[B, T]``.
    independent : bool
        Whether each draft is drawn without regard to the others.
    nested : bool
        Whether the first k of n drafts are distributed as k drafts of the sampler.
    first_from_q : bool
        Whether the first draft is distributed as q.  Members of the family need not say it.
    one_drafter : Sampler or None
        The sampler that this one is when q is one distribution for all drafts, if it is another.
    subset_mass : callable or None
        ``(q, subset [B, V], n, **options) -> [B]``: probability ``Q(H)`` that all drafts lie in a subset.  Members of
        the family need none; for others the drafted sets are enumerated where it is absent.
    tuples : callable or None
        ``(q, **options) -> (tuples [T, n], probability [B, T])`` where the draft tuples are listed outright.
    sample_position : callable or None
        ``(q, n, samples, generator, **options) -> [samples, n]``: many drafts at one position, without its batch axis.
    method : str or None
        Name in :data:`mdsd_bounds.bounds.METHODS` of the route to its bounds; None chooses by the fields above.
    cost : str
        Of the bounds at one position, stated or measured (docs/costs.md); empty where nobody has.

    Examples
    --------
    >>> from mdsd_bounds.samplers import Sampler, get_sampler
    >>> get_sampler("without_replacement").replacement
    False
    >>> Sampler("always_from_q", lambda q, drawn, k, n: q, replacement=True).name
    'always_from_q'
    """

    name: str
    conditional: Callable[..., Tensor]
    split: Callable[..., tuple[int, int]] | None = None
    replacement: bool = False
    sample_rows: Callable[..., Tensor] | None = None
    options: tuple[str, ...] = ()
    check: Callable[..., None] | None = None
    takes: Literal["one", "drafters", "table"] = "one"
    independent: bool = False
    nested: bool = False
    first_from_q: bool = False
    one_drafter: Sampler | None = None
    subset_mass: Callable[..., Tensor] | None = None
    tuples: Callable[..., tuple[Tensor, Tensor]] | None = None
    sample_position: Callable[..., Tensor] | None = None
    method: str | None = None
    cost: str = field(default="", compare=False)

    def splits(
        self, n_drafts: Iterable[int], options: Mapping[str, Option], what: str, remedy: str = "use method='auto'"
    ) -> list[tuple[int, int]]:
        """``(fixed, random)`` for each number of drafts.

        Raises
        ------
        InputError
            If the sampler has no prefix order; ``what`` needs one, and ``remedy`` says what to do.
        """
        if self.split is None:
            raise InputError(f"{what}: the sampler {self.name!r} has no prefix order; {remedy}")
        return [self.split(n, **options) for n in n_drafts]

    def own_options(self, options: Mapping[str, Option]) -> dict[str, Any]:
        """Those of the ``options`` that this sampler takes."""
        return {name: value for name, value in options.items() if name in self.options}

    def is_random(self, n: int, **options: Option) -> bool:
        """Whether it is a member of the family without a fixed token among n drafts."""
        return self.split is not None and self.split(n, **options)[0] == 0

    def starts_from_q(self, n: int, **options: Option) -> bool:
        """Whether the first of n drafts is distributed as q."""
        return n > 0 and (self.first_from_q or self.is_random(n, **options))

    def sample(self, q: Tensor, n: int, generator: torch.Generator | None = None, **options: Option) -> Tensor:
        """Draw drafts ``[B, n]`` int64 in draw order; empty slots hold :data:`NO_DRAFT`.  Cost O(B n V)."""
        if self.sample_rows is not None:
            return self.sample_rows(q, n, generator, **options)
        drafts = torch.full((q.shape[0], n), NO_DRAFT, dtype=torch.int64, device=q.device)
        drawn = torch.zeros((q.shape[0], q.shape[-1]), dtype=torch.bool, device=q.device)
        for k in range(n):
            probs = self.conditional(q, drawn, k, n, **options)
            drafts[:, k] = draw(probs, generator)
            drawn = mark(drawn, drafts[:, k])
        return drafts

    def log_prob(self, q: Tensor, drafts: Tensor, **options: Option) -> Tensor:
        """Log-probability ``[B]`` of ordered drafts ``[B, n]``: ``sum_k log probs_k(x_k | x_1..x_{k-1})``.

        ``-inf`` where the drafts cannot occur; an empty slot has probability 1 exactly when nothing was left to draw.
        """
        n = drafts.shape[1]
        total = torch.zeros(drafts.shape[0], dtype=torch.float64, device=q.device)
        drawn = torch.zeros((drafts.shape[0], q.shape[-1]), dtype=torch.bool, device=q.device)
        for k in range(n):
            probs = self.conditional(q, drawn, k, n, **options)
            token = drafts[:, k]
            chosen = probs.gather(-1, token.clamp(min=0)[:, None])[:, 0]
            exhausted = (probs.sum(-1) == 0).to(probs.dtype)
            total = total + torch.where(token == NO_DRAFT, exhausted, chosen).log()
            drawn = mark(drawn, token)
        return total


def draw(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token ``[B]`` from each unnormalised row of ``probs`` ``[B, V]``; :data:`NO_DRAFT` for rows of zeros."""
    total = probs.cumsum(-1)
    if bool((total[:, -1] < 1e-200).any()):
        # A share of a subnormal mass would be rounded to a multiple of the smallest number.  The factor is exact.
        total = total * RAISE**4
    u = torch.rand((probs.shape[0], 1), dtype=probs.dtype, device=probs.device, generator=generator)
    token = place_of(total, u)[:, 0]
    return torch.where(total[:, -1] > 0, token, torch.full_like(token, NO_DRAFT))


def place_of(total: Tensor, u: Tensor) -> Tensor:
    """Places ``[.., S]`` that uniform numbers ``u`` ``[.., S]`` in [0, 1) hit in cumulative sums ``total`` ``[.., V]``.

    1 - u lies in (0, 1], so that a place of probability zero is never hit.
    """
    return torch.searchsorted(total, total[..., -1:] * (1.0 - u)).clamp_(max=total.shape[-1] - 1)


def mark(drawn: Tensor, token: Tensor) -> Tensor:
    """``drawn`` ``[B, V]`` with ``token`` ``[B]`` added; empty slots add nothing."""
    hit = torch.zeros_like(drawn).scatter_(-1, token.clamp(min=0)[:, None], (token >= 0)[:, None])
    return drawn | hit


def top_tokens(q: Tensor, m: int) -> Tensor:
    """The ``m`` most probable tokens of each row ``[B, m]``, lowest index first among ties; never one with q = 0.

    Slots past the support hold :data:`NO_DRAFT`.
    """
    m_held = min(m, q.shape[-1])
    values, index = q.topk(m_held, -1)
    if m_held:
        # topk breaks ties in no stated order: rows with ties are sorted again, their candidates only.
        tied = ((q >= values[:, -1:]).sum(-1) > m_held) | (values[:, 1:] == values[:, :-1]).any(-1)
        for b in tied.nonzero()[:, 0].tolist():
            candidates = ((q[b] >= values[b, -1]) & (q[b] > 0)).nonzero()[:, 0]
            order = q[b][candidates].argsort(descending=True, stable=True)[:m_held]
            values[b], index[b] = 0.0, NO_DRAFT
            values[b, : len(order)], index[b, : len(order)] = q[b][candidates[order]], candidates[order]
    index = torch.where(values > 0, index, torch.full_like(index, NO_DRAFT))
    if m_held < m:
        index = torch.nn.functional.pad(index, (0, m - m_held), value=NO_DRAFT)
    return index


def remainder(q: Tensor, removed: Tensor) -> Tensor:
    """``q`` with the ``removed`` tokens set to zero, renormalised; a row of zeros where nothing is left.

    The sum is taken over what remains, never as one minus what was removed: on peaked rows that would cancel.  Entries
    below the smallest normal number round once more, to 5e-324 absolutely: whoever needs the *ratios* of what is left
    (draws without replacement, whose later drafts depend on them) takes :func:`leftover`.
    """
    left = leftover(q, removed)
    mass = left.sum(-1, keepdim=True)
    # A subnormal mass is a mass: it must not be raised to the smallest normal number.
    return left / torch.where(mass > 0, mass, torch.ones_like(mass))


def leftover(q: Tensor, removed: Tensor) -> Tensor:
    """``q`` with the ``removed`` tokens set to zero, as it stands: no entry is rounded, the sum is whatever is left."""
    return q.masked_fill(removed, 0.0)


def fixed_mask(q: Tensor, m: int) -> Tensor:
    """Boolean mask ``[B, V]`` of the ``m`` most probable tokens of q (fewer where the support is smaller)."""
    mask = torch.zeros(q.shape, dtype=torch.bool, device=q.device)
    top = top_tokens(q, m)
    row, slot = (top >= 0).nonzero(as_tuple=True)
    mask[row, top[row, slot]] = True
    return mask


def fixed_plus_random(
    name: str,
    split: Callable[..., tuple[int, int]],
    *,
    replacement: bool = False,
    nested: bool = False,
    cost: str = "",
) -> Sampler:
    """A member of the family: ``split(n, **options)`` fixed and random drafts, in that order.

    Its options are the parameters of ``split`` after the first.
    """

    def conditional(q: Tensor, drawn: Tensor, k: int, n: int, **options: Option) -> Tensor:
        fixed, _ = split(n, **options)
        if k < fixed:
            token = top_tokens(q, k + 1)[:, k]
            return mark(torch.zeros_like(drawn), token).to(q.dtype)
        removed = fixed_mask(q, fixed) if replacement else drawn | fixed_mask(q, fixed)
        return remainder(q, removed)

    def sample_rows(q: Tensor, n: int, generator: torch.Generator | None = None, **options: Option) -> Tensor:
        fixed, random = split(n, **options)
        head = top_tokens(q, fixed)
        rest = leftover(q, fixed_mask(q, fixed))
        tail = _with(rest, random, generator) if replacement else _without(rest, random, generator)
        return torch.cat([head, tail], -1)

    options = tuple(inspect.signature(split).parameters)[1:]
    return Sampler(name, conditional, split, replacement, sample_rows, options, nested=nested, cost=cost)


def _with(probs: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    columns = [draw(probs, generator) for _ in range(n)]
    return torch.stack(columns, -1) if columns else probs.new_zeros((probs.shape[0], 0), dtype=torch.int64)


def _without(probs: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    # The exponential race: the first n arrivals at rates q_i are sequential draws without replacement.  Raised
    # rates arrive in finite time, so that no slot stays empty while any support is left.
    uniform = torch.rand(probs.shape, dtype=torch.float64, device=probs.device, generator=generator)
    times = -torch.log1p(-uniform) / (probs * RAISE)
    times = times.masked_fill(probs <= 0, float("inf"))
    n_held = min(n, probs.shape[-1])
    arrival, index = times.topk(n_held, -1, largest=False)
    index = torch.where(torch.isfinite(arrival), index, torch.full_like(index, NO_DRAFT))
    return torch.nn.functional.pad(index, (0, n - n_held), value=NO_DRAFT)


def integer_option(value: Any, name: str, least: int) -> int:
    """An integer option of a sampler, checked."""
    if isinstance(value, bool) or int(value) != value or int(value) < least:
        raise InputError(f"{name}={value!r}: give an integer of at least {least}")
    return int(value)
