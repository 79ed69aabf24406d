"""Acceptance and total variation of a judge at every threshold, exact, beside the rules that it has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds.bounds import make_problem, solve
from mdsd_bounds.distributions import to_probs
from mdsd_bounds.dumps import Dump
from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers import acceptance_rate, output_distance

SAMPLER = "with_replacement"
#: Lossy rules beside the judge: name in the table, verifier, its option and values.
OTHERS: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    ("typical acceptance", "typical_acceptance", "epsilon", (0.6, 0.3, 0.09, 0.01)),
    ("tv_budget (optimum)", "tv_budget", "budget", (0.02, 0.05, 0.1, 0.2)),
)
#: Training-free thresholds: ``p_x / max p``, and all tokens where KL(p || q) is small and no token of p above 0.9.
RATIOS = (0.5, 0.1, 0.01)
_DIVERGENCES = (0.1, 0.3, 1.0)
CONFIDENT = 0.9
#: Parameter of rules that have none.
_NONE = float("nan")


def plane(dump: Dump, thresholds: Sequence[float], n: int = 1, block: int = 64) -> pd.DataFrame:
    """Mean acceptance and total variation of the judge and of other rules over a dump's rows.

    Parameters
    ----------
    dump : Dump
        With the columns ``judge_token`` and ``judge_score``.
    thresholds : sequence of float
        Of the judge.
    n : int
        Drafts, with replacement.
    block : int
        Rows at a time.

    Returns
    -------
    pandas.DataFrame
        ``rule``, ``parameter``, ``acceptance``, ``tv``, and ``bound``: the mean of ``min(1, alpha* + TV)`` of each row.
        ``accept always`` accepts every draft; ``random judge`` approves each token with the probability that gives the
        judge's acceptance at the same threshold.

    Raises
    ------
    InputError
        If the dump holds no scores, its rows are truncated, or a threshold is outside [0, 1].

    Notes
    -----
    A judge that approves at random with probability c outputs ``p + c (q - p)`` for one draft: acceptance and distance
    are linear in c.  For more drafts it is left out.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds import open_dump
    >>> from mdsd_bounds.judge import JudgeHead, Task, log_scored, plane
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> made = log_scored(target, "early-exit:1", [task], JudgeHead(torch.zeros(16), 0.0), folder / "dump")
    >>> table = plane(open_dump(made), [0.5]).set_index("rule")
    >>> round(float(table.loc["speculative sampling", "tv"]), 9)  # lossless
    0.0
    >>> round(float(table.loc["accept always", "acceptance"]), 9)
    1.0
    """
    thresholds = checked_thresholds(thresholds)
    sums: dict[tuple[str, float], Tensor] = {}
    rows = 0
    for batch in dump.batches(block):
        if batch.judge_token is None or batch.judge_score is None:
            raise InputError(f"{dump.facts.path}: holds no judge's scores; make a dump with them by mdsd judge log")
        if batch.target_cut is not None or batch.draft_cut is not None:
            raise InputError(
                f"{dump.facts.path}: its rows are truncated, and a total variation needs the whole distribution; give "
                "full rows (mdsd judge log), or the log of a decoder's steps with judge_score, which is counted instead"
            )
        p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
        problem, *_ = make_problem(p, q, n, SAMPLER)
        best = solve(problem).high[0]
        given = {"judge_token": batch.judge_token, "judge_score": batch.judge_score}
        for key, options in _rules(p, q, thresholds, given):
            name = options.pop("verifier")
            rate = acceptance_rate(p, q, n, SAMPLER, name, **options).value  # type: ignore[arg-type]
            far = output_distance(p, q, n, SAMPLER, name, **options)  # type: ignore[arg-type]
            found = torch.stack([rate, far, (best + far).clamp(max=1.0)]).double().sum(-1)
            sums[key] = sums.get(key, torch.zeros(3, dtype=torch.float64)) + found
        rows += len(p)
    means = {key: (total / rows).tolist() for key, total in sums.items()}
    table = [
        {"rule": rule, "parameter": parameter, "acceptance": a, "tv": tv, "bound": bound}
        for (rule, parameter), (a, tv, bound) in means.items()
    ]
    if n == 1:
        plain, every = means["speculative sampling", _NONE][0], means["accept always", _NONE][1]
        for parameter in thresholds:
            gained = means["judge", parameter][0] - plain
            chance = gained / every if every > 0 else 0.0
            table.append(
                {
                    "rule": "random judge",
                    "parameter": chance,
                    "acceptance": plain + chance * every,
                    "tv": chance * every,
                    "bound": plain + chance * every,
                }
            )
    return pd.DataFrame(table)


def checked_thresholds(thresholds: Sequence[float]) -> list[float]:
    """Thresholds of a judge, each once.

    Raises
    ------
    InputError
        If one is outside [0, 1].
    """
    for threshold in thresholds:
        if isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise InputError(f"judge: threshold={threshold!r}; give a number in [0, 1]")
    return list(dict.fromkeys(float(threshold) for threshold in thresholds))


def _rules(
    p: Tensor, q: Tensor, thresholds: Sequence[float], given: dict[str, Tensor]
) -> Iterator[tuple[tuple[str, float], dict[str, object]]]:
    """Every rule and parameter with its verifier and options."""
    yield ("speculative sampling", _NONE), {"verifier": "rrs"}
    for threshold in thresholds:
        yield ("judge", threshold), {"verifier": "judge", "threshold": threshold, **given}
    for ratio in RATIOS:
        yield ("p over max p", ratio), {"verifier": "judge", "threshold": ratio}
    near = (p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log())).sum(-1, keepdim=True)
    unsure = p.amax(-1, keepdim=True) <= CONFIDENT
    for limit in _DIVERGENCES:
        scores = ((near < limit) & unsure).to(p.dtype).expand(p.shape)
        yield ("KL threshold", limit), {"verifier": "judge", "threshold": 0.5, "judge_score": scores}
    for name, verifier, option, values in OTHERS:
        for value in values:
            more = {"delta": value**0.5} if option == "epsilon" else {}
            yield (name, value), {"verifier": verifier, option: value, **more}
    yield ("accept always", _NONE), {"verifier": "judge", "threshold": 0.0, "judge_score": torch.ones_like(p)}
