"""Audit a rule whose code is at hand: enumerate it at small vocabularies, and run it on real rows.

*Enumeration* sums the rule's output distribution over every draft tuple, on rows that are drawn and rows that are
awkward (zeros, ties, one-hot, disjoint, equal, probabilities of 1e-12).  A largest difference from p of at most 1e-12
on all of them is what "lossless" means here; one row with more is a counterexample, and is shown.  *Steps* run the
rule's fast path, on the same rows and on rows of a dump at full vocabulary, and judge its outputs as if they were a
log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.progress import watching
from mdsd_bounds.audit.bound_gap import BoundGap, bound_gap
from mdsd_bounds.audit.logs import from_arrays
from mdsd_bounds.audit.positions import DRAFT_COUNTS, Positions, bounds_of
from mdsd_bounds.audit.report import LogReport, judge
from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers.base import Verifier, require_pair, sampler_options
from mdsd_bounds.verifiers.enumeration import enumerate_verifier
from mdsd_bounds.verifiers.monte_carlo import many_drafts
from mdsd_bounds.verifiers.total_variation import total_variation

#: Largest difference from p that passes for rounding.
EXACT = 1e-12
#: Entries [steps, V] that one call of a rule's step may hold (128 MB of float64).
_STEP_ENTRIES = 16_000_000


@dataclass(frozen=True)
class Counted:
    """Enumeration of one rule, sampler and number of drafts over all rows.

    ``defect`` is the largest ``|output probs - p|``, ``excess`` the largest ``acceptance - alpha*`` (alpha* by the
    enumeration of all subsets), ``tv`` the largest total variation of the output from p, which is never below
    ``excess``, ``row`` the description of the worst row, ``p``, ``q``, ``probs`` that row, and ``rows``
    how many there were.
    """

    sampler: str
    drafts: int
    defect: float
    excess: float
    row: str
    p: tuple[float, ...]
    q: Any
    probs: tuple[float, ...]
    rows: int
    tv: float

    @property
    def lossless(self) -> bool:
        """Whether the defect is rounding."""
        return self.defect <= EXACT


@dataclass(frozen=True)
class RuleReport:
    """Audit of a rule: the enumerations (empty for a rule that gives steps only), its steps judged as logs, and its
    distance from the bound on real rows (empty where none were given).

    Examples
    --------
    >>> from mdsd_bounds.audit import audit_rule
    >>> from mdsd_bounds.verifiers import from_function
    >>> rule = from_function(lambda p, q, drafts: q, name="emits the draft")
    >>> report = audit_rule(rule, ("with_replacement",), (1,))
    >>> report.lossy, report.name
    (True, 'emits the draft')
    """

    name: str
    enumerated: tuple[Counted, ...]
    steps: tuple[tuple[str, LogReport], ...]
    gaps: tuple[BoundGap, ...] = ()

    @property
    def lossy(self) -> bool:
        """Whether any enumeration or any log rejects the null."""
        return any(not row.lossless for row in self.enumerated) or any(report.lossy for _, report in self.steps)


def audit_rows() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pairs of distributions at V = 2 to 5, drawn and awkward, by name."""
    generator = torch.Generator().manual_seed(20)
    for size in (2, 3, 4, 5):
        for i in range(2):
            p, q = torch.softmax(1.5 * torch.randn(2, size, generator=generator, dtype=torch.float64), -1)
            yield f"drawn {i}, V={size}", p, q
    tiny = 1e-12
    awkward = {
        "equal distributions": ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]),
        "ties in q": ([0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]),
        "ties in p and q": ([0.25, 0.25, 0.25, 0.25], [0.4, 0.4, 0.1, 0.1]),
        "zeros in q": ([0.2, 0.3, 0.5, 0.0], [0.7, 0.3, 0.0, 0.0]),
        "zeros in p": ([0.0, 0.4, 0.6, 0.0], [0.3, 0.3, 0.2, 0.2]),
        "disjoint": ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6]),
        "one-hot p": ([0.0, 1.0, 0.0], [0.5, 0.3, 0.2]),
        "one-hot q": ([0.25, 0.25, 0.5], [0.0, 1.0, 0.0]),
        "nearly one-hot q": ([0.3, 0.3, 0.4], [1.0 - 2 * tiny, tiny, tiny]),
        "peaks apart": ([0.9, 0.05, 0.03, 0.02], [0.02, 0.03, 0.05, 0.9]),
        "tiny p": ([1.0 - 2 * tiny, tiny, tiny], [0.2, 0.3, 0.5]),
    }
    for name, (first, second) in awkward.items():
        yield name, torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)


def shaped(q: Tensor, sampler: str, n: int) -> Tensor:
    """One draft distribution as the sampler wants it: different drafters are its rotations."""
    return torch.stack([q.roll(k) for k in range(n)]) if get_sampler(sampler).takes == "drafters" else q


def pad(probs: Tensor, size: int) -> Tensor:
    """A distribution ``[V]`` with tokens of probability zero up to ``size``."""
    return torch.nn.functional.pad(probs, (0, size - len(probs)))


def enumerate_rule(rule: Verifier, sampler: str, n: int, **options: Option) -> Counted:
    """The rule's exact output distribution on every row of :func:`audit_rows`.

    Raises
    ------
    InputError
        If the pair makes no sense, or the rule returns what is no distribution or raises: rule, row and drafts are
        named.
    """
    require_pair(rule, sampler, (n,))
    worst: tuple[float, str, Tensor, Tensor, Tensor] | None = None
    excess, tv, rows = -1.0, 0.0, 0
    for name, p, probs in audit_rows():
        q = shaped(probs, sampler, n)
        with named(rule, f"row {name!r}, n={n}, sampler {sampler}"):
            found = enumerate_verifier(rule, p, q, n, sampler=sampler, **options)
        best = optimal_acceptance(p, q, n, sampler, method="subsets", **sampler_options(rule, options))
        excess = max(excess, found.acceptance - float(best.high))
        defect = float((found.probs - p).abs().max())
        tv = max(tv, float(total_variation(found.probs, p)))
        rows += 1
        if worst is None or defect > worst[0]:
            worst = (defect, name, p, q, found.probs)
    assert worst is not None
    defect, name, p, q, found_distribution = worst
    shown = tuple(p.tolist()), q.tolist(), tuple(found_distribution.tolist())
    return Counted(sampler, n, defect, excess, name, *shown, rows, tv)


class named:  # noqa: N801 (a context manager, used like a function)
    """Whatever another's rule raises becomes an InputError that names the rule and where it happened."""

    def __init__(self, rule: Verifier, where: str) -> None:
        self.rule, self.where = rule, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception | SystemExit):
            return
        if isinstance(error, InputError):
            raise InputError(f"{error} ({self.where})") from None
        what = f"raised {type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            what = f"called sys.exit({error.code!r})"
        raise InputError(f"verifier {self.rule.name!r} {what} ({self.where}); fix the rule") from error


def run_steps(
    rule: Verifier,
    p: Tensor,
    q: Tensor,
    sampler: str,
    n: int,
    steps: int,
    generator: torch.Generator,
    **options: Option,
) -> Positions:
    """Run the rule ``steps`` times on each of B rows ``[B, V]`` (q ``[B, n, V]`` for ``independent``), as a log.

    Raises
    ------
    InputError
        If the pair makes no sense, or the rule raises or returns what is no token: rule and row are named.
    """
    require_pair(rule, sampler, (n,))
    own = sampler_options(rule, options)
    drafts, tokens = [], []
    chunk = max(1, _STEP_ENTRIES // p.shape[-1])
    for b in range(p.shape[0]):
        drawn = many_drafts(q[b], n, steps, generator, sampler=sampler, **own)
        for part in torch.split(drawn, chunk):
            wide_p, wide_q = p[b].expand(len(part), -1).contiguous(), q[b].expand(len(part), *q[b].shape).contiguous()
            with named(rule, f"step on row {b}, n={n}, sampler {sampler}"):
                tokens.append(rule.step(wide_p, wide_q, part, generator, sampler=sampler, **options)[0])
        drafts.append(drawn)
    row = np.repeat(np.arange(p.shape[0]), steps)
    together, token = torch.cat(drafts).numpy(), torch.cat(tokens).numpy()
    if q.ndim == 2:
        return from_arrays(p.numpy(), q.numpy(), together, token, row=row, sampler=sampler, **own)
    # Different drafters: their mean steers the bets, and alpha* is that of all.
    positions = from_arrays(p.numpy(), q.mean(1).numpy(), together, token, row=row)
    high = bounds_of(p.numpy(), q.numpy(), tuple(range(1, n + 1)), sampler, own)
    bound_by_n = np.full((len(token), len(DRAFT_COUNTS)), np.nan)
    for k, count in enumerate(DRAFT_COUNTS):
        if count <= n:
            bound_by_n[:, k] = high[count - 1, row]
    return replace(positions, bound=high[n - 1, row], bound_by_n=bound_by_n, sampler=(sampler,) * len(token))


def audit_rule(
    rule: Verifier,
    samplers: tuple[str, ...],
    drafts: tuple[int, ...],
    *,
    rows: tuple[Tensor, ...] | None = None,
    steps: int = 200,
    alpha: float = 0.01,
    seed: int = 0,
    progress: Callable[[float, int], None] | None = None,
    **options: Option,
) -> RuleReport:
    """Enumerate a rule and judge its steps.

    Parameters
    ----------
    rule : Verifier
        A rule as :func:`mdsd_bounds.verifiers.get_verifier` or :func:`mdsd_bounds.audit.load_rule` gives it.
    samplers, drafts : tuple
        Every pair of them is audited.
    rows : tuple of Tensor, optional
        p and q ``[B, V]``, and where known the document ``[B]`` of each row: real rows at full vocabulary to run steps
        on, and to measure the distance from the bound.
    steps : int
        Steps on each small row; a quarter as many on each of ``rows``.
    alpha : float
        False-alarm rate of the steps' verdict, shared equally by all logs.
    progress : callable, optional
        Called with the number of pairs done and their total.
    **options :
        Of the samplers; each takes its own (``m``, the fixed tokens of top_m_plus).

    Raises
    ------
    InputError
        As :func:`enumerate_rule` and :func:`mdsd_bounds.audit.report.judge`.

    Examples
    --------
    >>> from mdsd_bounds.audit import audit_rule
    >>> from mdsd_bounds.verifiers import from_function
    >>> rule = from_function(lambda p, q, drafts: p, name="ignores the drafts")
    >>> report = audit_rule(rule, ("with_replacement",), (1,))
    >>> report.lossy
    False
    """
    if steps < 1:
        raise InputError(f"--steps {steps}: give an integer of at least 1")
    pairs = [(sampler, n) for sampler in samplers for n in drafts]
    for sampler, n in pairs:
        require_pair(rule, sampler, (n,))
    generator = torch.Generator().manual_seed(seed)
    counted: list[Counted] = []
    gaps: list[BoundGap] = []
    logs: list[tuple[str, LogReport]] = []
    share = alpha / (len(pairs) * (1 if rows is None else 2))
    if progress is not None:
        progress(0, len(pairs))
    for done, (sampler, n) in enumerate(pairs):
        own = get_sampler(sampler).own_options(options)
        if rule.output_distribution is not None:
            counted.append(enumerate_rule(rule, sampler, n, **own))
        # Rows of one width: the padding has p = q = 0, which changes nothing for a sound rule.
        size = max(len(p) for _, p, _ in audit_rows())
        distributions = [(pad(p, size), shaped(pad(q, size), sampler, n)) for _, p, q in audit_rows()]
        first, second = (torch.stack(side) for side in zip(*distributions, strict=True))
        small = run_steps(rule, first, second, sampler, n, steps, generator, **own)
        logs.append((f"{sampler}, n={n}, small rows", judge(small, share)))
        if rows is not None:
            p, q = rows[:2]
            apart = get_sampler(sampler).takes == "drafters"
            wide = torch.stack([q.roll(k, -1) for k in range(n)], 1) if apart else q
            real = run_steps(rule, p, wide, sampler, n, max(1, steps // 4), generator, **own)
            logs.append((f"{sampler}, n={n}, rows of the dump", judge(real, share)))
            documents = rows[2] if len(rows) > 2 else torch.arange(len(p))
            with watching(_inside(progress, done, len(pairs))):
                found = bound_gap(rule, p, wide, sampler, n, documents=documents, samples=steps, **own)
            gaps.append(found)
        if progress is not None:
            progress(done + 1, len(pairs))
    return RuleReport(rule.name, tuple(counted), tuple(logs), tuple(gaps))


def _inside(progress: Callable[[float, int], None] | None, done: int, total: int) -> Callable[[float], None] | None:
    """Progress within pair ``done``: what takes longest there is its last half."""
    return None if progress is None else lambda share: progress(done + 0.5 + 0.5 * share, total)
