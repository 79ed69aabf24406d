"""Whether a judge has learned anything: scores of tasks it has not seen, and ROC-AUC against simpler scores."""

from __future__ import annotations

import hashlib
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from mdsd_bounds.judge.head import PENALTIES, JudgeHead, check_labels, fit_head
from mdsd_bounds.judge.labels import Labels
from mdsd_bounds.problem import InputError

_FOLDS = 5


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with a 95% interval over tasks.

    Examples
    --------
    >>> from mdsd_bounds.judge import Auc
    >>> Auc(value=0.81, low=0.75, high=0.87).low > 0.5
    True
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Fitted:
    """A judge, and what it scores on tasks it was not fitted on.

    Attributes
    ----------
    head : JudgeHead
        Fitted on every label.
    held_out : Tensor
        ``[N]`` score of each label by the head of the other folds.
    fold : Tensor
        ``[N]`` which fold.
    auc : dict
        By score: ``judge``, ``log p``, ``log q``, ``token type``, and ``all of these``: a regression on what p, q and
        the token's type say, its place, and the divergence of the two, fitted in the same way as the judge.
    gain : dict
        By simpler score: AUC of the judge minus its, over the same resampled tasks.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import Auc, Fitted, JudgeHead
    >>> auc = {"judge": Auc(0.81, 0.75, 0.87)}
    >>> gain = {"log p": Auc(0.10, 0.05, 0.15), "token type": Auc(0.02, -0.01, 0.05)}
    >>> Fitted(JudgeHead(torch.zeros(2), 0.0), torch.zeros(0), torch.zeros(0), auc, gain).learned
    False
    """

    head: JudgeHead
    held_out: Tensor
    fold: Tensor
    auc: dict[str, Auc]
    gain: dict[str, Auc]

    @property
    def learned(self) -> bool:
        """Whether the judge knows something that p and the token's type do not say: the gate of docs/judge.md."""
        return self.auc["judge"].low >= 0.55 and all(self.gain[name].low > 0 for name in ("log p", "token type"))


def folds_of(group: Tensor, folds: int = _FOLDS, seed: int = 0) -> Tensor:
    """Fold ``[N]`` of each label: all of a task in one fold, tasks dealt at random.

    Raises
    ------
    InputError
        If there are fewer tasks than folds.
    """
    names = torch.unique(group)
    if len(names) < folds:
        raise InputError(f"labels of {len(names)} tasks only; {folds} folds need at least as many: mine more tasks")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    place = torch.empty(len(names), dtype=torch.long)
    place[order] = torch.arange(len(names)) % folds
    return place[torch.searchsorted(names, group)]


def fit(labels: Labels, facts: Mapping[str, Any], seed: int = 0, resamples: int = 2000) -> Fitted:
    """Fit a judge with five-fold cross-fitting by task, and measure it.

    The penalty is chosen inside each fold's training part by cross-fitting once more, so that no held-out score has
    seen its own task in any way.

    Raises
    ------
    InputError
        If the labels are of one class in some training part, a state is not finite, or tasks are too few.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import Labels, fit
    >>> states = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> says_nothing = {name: torch.zeros(200) for name in ("log_p", "log_q", "entropy", "top", "divergence", "place")}
    >>> columns = {"label": (states[:, 0] > 0).long(), **says_nothing}
    >>> labels = Labels(states, columns, torch.arange(200) // 10, ["x"] * 200)
    >>> found = fit(labels, {"target": {"source": "made up"}}, resamples=100)
    >>> found.auc["judge"].value > 0.95, found.auc["log p"].value, found.learned
    (True, 0.5, True)
    """
    label = labels.columns["label"]
    check_labels(labels.states, label)
    fold = folds_of(labels.group, _FOLDS, seed)
    held_out = torch.zeros(len(labels))
    types = _token_types(labels.words)
    type_score = torch.zeros(len(labels))
    simple, simple_score = _simple_features(labels, types), torch.zeros(len(labels))
    for number in range(_FOLDS):
        train = fold != number
        head = _fit_part(labels.states[train], label[train], labels.group[train], seed + 1)
        held_out[~train] = head.scores(labels.states[~train])
        type_score[~train] = _shares(types[train], label[train], types[~train])
        plain = _fit_part(simple[train], label[train], labels.group[train], seed + 1)
        simple_score[~train] = plain.scores(simple[~train])
    head = _fit_part(labels.states, label, labels.group, seed + 1)
    scores = {
        "judge": held_out,
        "log p": labels.columns["log_p"],
        "log q": labels.columns["log_q"],
        "token type": type_score,
        "all of these": simple_score,
    }
    auc, gain = auc_with_intervals(scores, label, labels.group, "judge", resamples, seed)
    digest = hashlib.sha256(labels.states.numpy().tobytes() + label.numpy().tobytes()).hexdigest()
    notes = {
        "target": facts["target"],
        "labels": len(labels),
        "harmless": int(label.sum()),
        "tasks": len(torch.unique(labels.group)),
        "labels_sha256": digest,
        "penalty": head.facts["penalty"],
        "auc": {name: [a.value, a.low, a.high] for name, a in auc.items()},
    }
    return Fitted(JudgeHead(head.weight, head.bias, notes), held_out, fold, auc, gain)


def _fit_part(states: Tensor, label: Tensor, group: Tensor, seed: int) -> JudgeHead:
    """A head whose penalty is the one of the best cross-fitted ROC-AUC within these labels."""
    fold = folds_of(group, _FOLDS, seed)
    found = []
    for penalty in PENALTIES:
        held = torch.zeros(len(label))
        for number in range(_FOLDS):
            train = fold != number
            if bool((~train).any()):
                held[~train] = fit_head(states[train], label[train], penalty).scores(states[~train])
        found.append(_auc(held.numpy(), label.numpy()))
    best = PENALTIES[int(np.argmax(found))]
    head = fit_head(states, label, best)
    return JudgeHead(head.weight, head.bias, {"penalty": best})


def auc_with_intervals(
    scores: Mapping[str, Tensor], label: Tensor, group: Tensor, first: str, resamples: int, seed: int
) -> tuple[dict[str, Auc], dict[str, Auc]]:
    """ROC-AUC of each score, and of ``first`` minus each other, with intervals over tasks drawn with replacement."""
    rng = np.random.default_rng(seed)
    y, groups = label.numpy(), group.numpy()
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    values = {name: score.double().numpy() for name, score in scores.items()}
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        if 0 < y[rows].sum() < len(rows):
            for name, value in values.items():
                drawn[name].append(_auc(value[rows], y[rows]))
    samples = {name: np.array(found) for name, found in drawn.items()}
    auc = {name: _interval(_auc(value, y), samples[name]) for name, value in values.items()}
    gain = {
        name: _interval(auc[first].value - auc[name].value, samples[first] - samples[name])
        for name in values
        if name != first
    }
    return auc, gain


def _interval(value: float, samples: np.ndarray) -> Auc:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Auc(float(value), float(low), float(high))


def _auc(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a harmless label scores above a harmful one; ties count half."""
    ranks = rankdata(score)
    good = int(label.sum())
    return float((ranks[label == 1].sum() - good * (good + 1) / 2) / (good * (len(label) - good)))


def token_type(word: str) -> str:
    """What kind of token a piece of Python is, from its characters alone."""
    text = word.strip()
    if not text:
        return "newline" if "\n" in word else "space"
    if keyword.iskeyword(text):
        return "keyword"
    if text.isidentifier():
        return "name" if word[:1].isspace() else "part of a name"
    if text.isdecimal():
        return "number"
    if text.startswith("#") or '"' in text or "'" in text:
        return "comment or quote"
    return "brackets" if all(c in "()[]{}:,." for c in text) else "operator"


def _token_types(words: list[str]) -> np.ndarray:
    """:func:`token_type` of each."""
    return np.array([token_type(word) for word in words])


def _simple_features(labels: Labels, types: np.ndarray) -> Tensor:
    """What is known of a draft token without the target's state ``[N, F]``."""
    columns = labels.columns
    numbers = [columns[name].float() for name in ("log_p", "log_q", "entropy", "top", "divergence", "place")]
    kinds = [torch.tensor(types == kind).float() for kind in sorted(set(types.tolist()))]
    return torch.stack([*numbers, *kinds], -1)


def _shares(types: np.ndarray, label: Tensor, wanted: np.ndarray) -> Tensor:
    """Share of harmless labels of each type, one label of the overall share added to each."""
    y = label.double().numpy()
    overall = y.mean()
    share = {kind: (y[types == kind].sum() + overall) / ((types == kind).sum() + 1) for kind in np.unique(types)}
    return torch.tensor([share.get(kind, overall) for kind in wanted], dtype=torch.float32)


def harm_by_share(
    scores: Mapping[str, Tensor],
    label: Tensor,
    group: Tensor,
    shares: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Of the draft's tokens that a score would approve first, how many are harmful: the price of acceptance.

    Parameters
    ----------
    scores : mapping
        Name -> score ``[N]``; the first is what the others are compared with.
    label, group : Tensor
        ``[N]``: 1 harmless, 0 harmful; which task.
    shares : sequence of float
        Shares of the tokens approved, in (0, 1].  A score's threshold is the one that approves this share (ties in the
        order of the labels are broken by a fixed random number).
    resamples, seed : int
        Of the intervals over tasks.

    Returns
    -------
    pandas.DataFrame
        ``score``, ``approved`` share, ``threshold``, ``harmful`` share of these, its ``low`` and ``high``, and
        ``difference`` to the first score at the same share with ``difference_low`` and ``difference_high``.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import harm_by_share
    >>> label, task = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 2, 3])
    >>> scores = {"judge": torch.tensor([0.9, 0.8, 0.3, 0.1]), "coin": torch.tensor([0.2, 0.7, 0.6, 0.1])}
    >>> harm_by_share(scores, label, task, [0.5], resamples=100)[["score", "approved", "harmful"]]
       score  approved  harmful
    0  judge       0.5      0.0
    1   coin       0.5      0.5
    """
    rng = np.random.default_rng(seed)
    y, groups = label.numpy(), group.numpy()
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    jitter = rng.random(len(y))
    values = {name: score.double().numpy() for name, score in scores.items()}

    def harmful(rows: np.ndarray) -> np.ndarray:
        found = []
        for value in values.values():
            order = rows[np.lexsort((jitter[rows], value[rows]))[::-1]]
            bad = np.cumsum(1 - y[order])
            counts = [max(1, round(share * len(rows))) for share in shares]
            found.append([bad[count - 1] / count for count in counts])
        return np.array(found)

    point = harmful(np.arange(len(y)))
    drawn = np.array(
        [
            harmful(np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))]))
            for _ in range(resamples)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    below, above = np.quantile(drawn - drawn[:, :1], [0.025, 0.975], axis=0)
    rows = []
    for i, (name, value) in enumerate(values.items()):
        ordered = np.sort(value)[::-1]
        for j, share in enumerate(shares):
            rows.append(
                {
                    "score": name,
                    "approved": share,
                    "threshold": float(ordered[max(1, round(share * len(y))) - 1]),
                    "harmful": point[i, j],
                    "low": low[i, j],
                    "high": high[i, j],
                    "difference": point[i, j] - point[0, j],
                    "difference_low": below[i, j],
                    "difference_high": above[i, j],
                }
            )
    return pd.DataFrame(rows)
