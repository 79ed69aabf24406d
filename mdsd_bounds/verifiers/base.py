"""What a verifier is: the exact distribution of the output token given the drafts.

Everything else follows from that distribution: one step (draw from it), losslessness (sum it over all drafts,
:mod:`mdsd_bounds.verifiers.enumeration`) and the acceptance rate (sum it over the drafted tokens).  A verifier may give
faster routes to a step or to the rate; each is tested against the distribution.

*Accepted* means throughout that the output token is one of the drafts, whichever branch of the rule produced it: a
token sampled from a residual that happens to have been drafted saves its target forward pass just the same.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mdsd_bounds._backend.progress import stage
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers.base import draw
from mdsd_bounds.verifiers.monte_carlo import many_drafts

#: How far an output distribution may be from summing to one before it is refused.
PROBS_TOLERANCE = 1e-6
#: Entries of a block of rows ``[B, V]`` that one Monte Carlo chunk may hold (64 MB of float64).
CHUNK_ENTRIES = 8_000_000
#: The numbers of drafts that a rate is asked for.
DraftCounts: TypeAlias = tuple[int, ...]
#: What draws the samples of an estimate; None is torch's own generator.
Generator: TypeAlias = torch.Generator | None


def equal_rows(p: Tensor, q: Tensor) -> Iterator[slice]:
    """Runs of neighbouring positions with equal p ``[B, V]`` and equal q: what is prepared for one serves them all."""
    if p.shape[0] == 0:
        return
    edges = [0, p.shape[0]]
    if p.shape[0] > 1 and (p.stride(0) != 0 or q.stride(0) != 0):
        same = (p[1:] == p[:-1]).all(-1) & (q[1:] == q[:-1]).flatten(1).all(-1)
        edges = [0, *(1 + (~same).nonzero()[:, 0]).tolist(), p.shape[0]]
    for first, end in itertools.pairwise(edges):
        yield slice(first, end)


#: Stands for the paper of a rule that was made from a plain function: nobody has said whether it is lossless.
OWN_RULE = "own rule"


@dataclass(frozen=True)
class Verifier:
    """A verification rule for n drafts at one position.

    Attributes
    ----------
    name, paper : str
        Name in :data:`mdsd_bounds.verifiers.VERIFIERS`, and where the rule was published.
    lossless : bool
        Whether the output distribution is p, whatever p and q are.
    samplers : tuple of str
        Draft samplers the rule is made for; :func:`require_pair` refuses the others by name.
    output_distribution : callable or None
        ``(p [B, V], q, drafts [B, n], *, sampler, **options) -> [B, V]``: distribution of the output token given the
        drafts. q is ``[B, V]`` (``[B, n, V]`` for the sampler ``independent``); empty slots hold -1 and are ignored.
        None for a rule that gives steps only: it has a ``fast_step`` and is judged by what it outputs.
    fast_step : callable or None
        ``(p, q, drafts, generator, *, sampler, **options) -> token [B]``, equal in distribution to a draw from
        ``output_distribution``.
    exact_rate : callable or None
        ``(p, q, n_drafts: tuple, *, sampler, **options) -> [N, B]``: acceptance in closed form or by full enumeration;
        NaN where that is not available.
    estimate_rate : callable or None
        ``(p, q, n_drafts, samples, generator, *, sampler, **options) -> (value [N, B], stderr [N, B])``: an unbiased
        estimate better than the one made from ``output_distribution``.
    distance : callable or None
        For lossy rules, ``(p, q, n_drafts: tuple, *, sampler, **options) -> [N, B]``: exact total variation between the
        output distribution and p; NaN where that is not available.
    options : tuple of str
        Names of the rule's own options; all others belong to the sampler.
    needs : tuple of str
        Columns of a dump that the rule cannot do without; they are given to it as options of the same names.
    drafts_needed : int or None
        The one number of drafts the rule is made for, None for any.
    cost : str
        Of one step at one position, stated or measured; empty where nobody has.
    origin : str or None
        ``module:NAME`` or ``/path/to/file.py:NAME`` of a rule that was loaded from there, so that other processes can
        load it as well.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import get_verifier
    >>> rule = get_verifier("rrs")
    >>> rule.lossless, rule.samplers
    (True, ('with_replacement', 'independent'))
    """

    name: str
    paper: str
    lossless: bool
    samplers: tuple[str, ...]
    output_distribution: Callable[..., Tensor] | None
    fast_step: Callable[..., Tensor] | None = None
    exact_rate: Callable[..., Tensor] | None = None
    estimate_rate: Callable[..., tuple[Tensor, Tensor]] | None = None
    distance: Callable[..., Tensor] | None = None
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    drafts_needed: int | None = None
    cost: str = field(default="", compare=False)
    origin: str | None = field(default=None, compare=False)

    @property
    def audited(self) -> bool:
        """Whether somebody vouches for :attr:`lossless`: not where the rule was made from a plain function."""
        return self.paper != OWN_RULE

    def takes(self, samplers: Sequence[str]) -> bool:
        """Whether the rule is made for drafts of any of these samplers."""
        return bool(set(self.samplers) & set(samplers))

    def probs(self, p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str | None = None, **options: Option) -> Tensor:
        """Checked distribution ``[B, V]`` of the output token given the drafts.

        Raises
        ------
        InputError
            If the rule gives steps only, or returns another shape, a non-finite or negative probability, or a row that
            does not sum to one; the verifier and the row are named.
        """
        sampler = sampler or self.samplers[0]
        if self.output_distribution is None:
            raise InputError(f"verifier {self.name!r} gives steps only; it has no distribution to enumerate")
        with self._blamed(sampler, drafts):
            probs = self.output_distribution(p, q, drafts, sampler=sampler, **options)
        if not isinstance(probs, Tensor) or probs.shape != p.shape:
            found = tuple(probs.shape) if isinstance(probs, Tensor) else type(probs).__name__
            raise InputError(
                f"verifier {self.name!r}: output distribution of shape {found}; it must be {tuple(p.shape)}"
            )
        total = probs.sum(-1)
        bad = ~((total - 1.0).abs() <= PROBS_TOLERANCE) | (probs < -PROBS_TOLERANCE).any(-1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise InputError(
                f"verifier {self.name!r} row {row}: its output distribution sums to {float(total[row]):.6g} with least "
                f"entry {float(probs[row].min()):.3g}; probabilities must be finite, non-negative and sum to one"
            )
        return probs

    def step(
        self,
        p: Tensor,
        q: Tensor,
        drafts: Tensor,
        generator: torch.Generator | None = None,
        *,
        sampler: str | None = None,
        **options: Option,
    ) -> tuple[Tensor, Tensor]:
        """Verify one position of every row.

        Parameters
        ----------
        p, q : Tensor
            ``[B, V]`` distributions (q ``[B, n, V]`` for the sampler ``independent``).
        drafts : Tensor
            ``[B, n]`` int64 in draw order; -1 marks an empty slot.
        sampler : str, optional
            The sampler that drew them; the first of :attr:`samplers` unless given.
        **options
            Options of the rule and of the sampler.

        Returns
        -------
        token : Tensor
            ``[B]`` int64 output tokens.
        accepted : Tensor
            ``[B]`` bool: the output is one of the drafts, whichever branch produced it.

        Raises
        ------
        InputError
            If the rule returns another shape or a token outside the vocabulary; the verifier and the row are named.
        """
        sampler = sampler or self.samplers[0]
        if self.fast_step is not None:
            with self._blamed(sampler, drafts):
                token = self.fast_step(p, q, drafts, generator, sampler=sampler, **options)
        else:
            token = draw(self.probs(p, q, drafts, sampler=sampler, **options), generator)
        if not isinstance(token, Tensor) or token.shape != drafts.shape[:1]:
            found = tuple(token.shape) if isinstance(token, Tensor) else type(token).__name__
            raise InputError(f"verifier {self.name!r}: tokens of shape {found}; it must be {tuple(drafts.shape[:1])}")
        # One operation where all is well: the steps of many rules take little longer than this check.
        least, largest = token.aminmax() if len(token) else (0, 0)
        if token.is_floating_point() or not (least >= 0 and largest < p.shape[-1]):
            outside = (token < 0) | (token >= p.shape[-1]) | (token != token)
            row = int(outside.nonzero()[0]) if bool(outside.any()) else 0
            raise InputError(
                f"verifier {self.name!r} row {row}: token {token[row].item()} is no index of a vocabulary of "
                f"{p.shape[-1]}; a rule must return integers from 0 to {p.shape[-1] - 1}"
            )
        return token, (drafts == token[:, None]).any(-1)

    def exact(self, p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
        """Exact acceptance ``[N, B]``; NaN where there is neither a closed form nor a feasible enumeration."""
        if self.exact_rate is None:
            return p.new_full((len(n_drafts), p.shape[0]), float("nan"))
        return self.exact_rate(p, q, n_drafts, sampler=sampler, **options)

    def estimate(
        self,
        p: Tensor,
        q: Tensor,
        n_drafts: tuple[int, ...],
        samples: int = 1000,
        generator: torch.Generator | None = None,
        *,
        sampler: str,
        **options: Option,
    ) -> tuple[Tensor, Tensor]:
        """Unbiased Monte Carlo acceptance and its standard error, both ``[N, B]``.

        Unless the rule brings its own estimate: draw the drafts, and average the probability that the output is among
        them, given the drafts (Rao-Blackwell over the rule's own randomness).  For a rule that gives steps only, the
        share of steps whose output is among the drafts.
        """
        if self.estimate_rate is not None:
            return self.estimate_rate(p, q, n_drafts, samples, generator, sampler=sampler, **options)
        value = p.new_zeros((len(n_drafts), p.shape[0]))
        stderr = torch.zeros_like(value)
        rows = p.shape[0]
        for i, n in enumerate(n_drafts):
            for b in range(rows):
                with stage(i * rows + b, len(n_drafts) * rows):
                    hits = self._conditional_rates(p[b], q[b], n, samples, generator, sampler, options)
                value[i, b] = hits.mean()
                stderr[i, b] = hits.std() / samples**0.5
                if self.output_distribution is None:
                    # Zeros and ones alone: hits that all agree must not look exact (one more of each is counted).
                    share = (float(hits.sum()) + 1.0) / (samples + 2.0)
                    stderr[i, b] = (share * (1.0 - share) / samples) ** 0.5
        return value, stderr

    def _conditional_rates(
        self,
        p: Tensor,
        q: Tensor,
        n: int,
        samples: int,
        generator: torch.Generator | None,
        sampler: str,
        options: dict[str, Any],
    ) -> Tensor:
        drafts = many_drafts(q, n, samples, generator, sampler=sampler, **sampler_options(self, options))
        hits = []
        rows = max(1, CHUNK_ENTRIES // p.shape[-1])
        for first in range(0, samples, rows):
            part = drafts[first : first + rows]
            wide_p, wide_q = p.expand(len(part), -1), q.expand(len(part), *q.shape)
            with stage(first // rows, -(-samples // rows)):
                if self.output_distribution is None:
                    hits.append(self.step(wide_p, wide_q, part, generator, sampler=sampler, **options)[1].to(p.dtype))
                else:
                    hits.append(drafted_mass(self.probs(wide_p, wide_q, part, sampler=sampler, **options), part))
        return torch.cat(hits)

    @contextlib.contextmanager
    def _blamed(self, sampler: str, drafts: Tensor) -> Iterator[None]:
        """What a rule loaded from elsewhere raises names that rule: it is no defect of this package."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.origin is None or isinstance(error, InputError | MemoryError) or "memory" in str(error):
                raise
            empty = "; empty draft slots hold -1" if bool((drafts < 0).any()) else ""
            raise InputError(
                f"verifier {self.name!r} raised {type(error).__name__}: {error} (sampler {sampler}, "
                f"n={drafts.shape[1]}{empty}); fix the rule"
            ) from error


def sampler_options(verifier: Verifier, options: dict[str, Option]) -> dict[str, Any]:
    """The options that belong to the sampler: those the verifier does not name as its own."""
    return {key: value for key, value in options.items() if key not in verifier.options}


def drafted_mass(probs: Tensor, drafts: Tensor) -> Tensor:
    """Mass ``[B]`` that ``probs`` ``[B, V]`` puts on the drafts ``[B, n]``; a token drafted twice counts once."""
    mass = probs.gather(-1, drafts.clamp(min=0))
    for k in range(drafts.shape[1]):
        again = (drafts[:, :k] == drafts[:, k : k + 1]).any(-1) | (drafts[:, k] < 0)
        mass[:, k] = torch.where(again, torch.zeros_like(mass[:, k]), mass[:, k])
    return mass.sum(-1)


def draft_distribution(q: Tensor, k: int) -> Tensor:
    """Distribution of draft k ``[B, V]`` for independent drafts: q itself, or its k-th drafter for ``[B, n, V]``."""
    return q if q.ndim == 2 else q[:, k]


def require_pair(verifier: Verifier, sampler: str, n_drafts: tuple[int, ...]) -> None:
    """Refuse a sampler or a number of drafts that the rule is not made for.

    Raises
    ------
    InputError
        Naming the pair and the samplers that go with the verifier.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import get_verifier, require_pair
    >>> require_pair(get_verifier("rrs"), "with_replacement", (1, 2))
    >>> require_pair(get_verifier("rrs"), "greedy", (1, 2))
    Traceback (most recent call last):
        ...
    mdsd_bounds.problem.InputError: verifier 'rrs' is not made for the sampler 'greedy'; use one of ...
    """
    if sampler not in verifier.samplers:
        raise InputError(
            f"verifier {verifier.name!r} is not made for the sampler {sampler!r}; "
            f"use one of {', '.join(verifier.samplers)}"
        )
    if verifier.drafts_needed is not None and set(n_drafts) != {verifier.drafts_needed}:
        raise InputError(
            f"verifier {verifier.name!r} is made for exactly {verifier.drafts_needed} drafts, not {list(n_drafts)}"
        )
