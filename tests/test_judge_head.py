"""The head: it finds what is planted, says so when there is nothing, and its file is checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mdsd_bounds import InputError
from mdsd_bounds.judge import JudgeHead, Labels, fit, fit_head, load_judge, read_labels, save_judge
from mdsd_bounds.judge.evidence import _auc, folds_of, harm_by_share, token_type
from mdsd_bounds.judge.labels import TaskLabels, write_facts, write_labels
from mdsd_bounds.models.loading import LoadedModel

WIDTH = 24


def flat(count: int) -> dict[str, torch.Tensor]:
    """Columns that say nothing."""
    return {name: torch.zeros(count) for name in ("entropy", "top", "divergence", "place")}


def labels(signal: float, count: int = 400, seed: int = 0) -> Labels:
    """Labels of 40 tasks: the state holds ``signal`` times a planted direction, log p a weaker sign of the label."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, WIDTH, generator=generator)
    hidden = states[:, 0] * 2
    label = (torch.rand(count, generator=generator) < torch.sigmoid(hidden * 3 - 1)).to(torch.int8)
    states[:, 0] = states[:, 0] * signal + torch.randn(count, generator=generator) * (1 - signal)
    log_p = label.float() * 0.5 + torch.randn(count, generator=generator)
    columns = {"label": label, "log_p": log_p, "log_q": torch.randn(count, generator=generator), **flat(count)}
    words = [("\n", " x", "if", "+")[i % 4] for i in range(count)]
    return Labels(states, columns, torch.arange(count) % 40, words)


def test_a_planted_direction_is_found_and_nothing_is_not() -> None:
    facts = {"target": {"source": "t", "sha256": "a"}}
    found = fit(labels(1.0), facts, resamples=300)
    assert found.auc["judge"].value > 0.85
    assert found.learned
    assert found.head.facts["labels"] == 400
    weight = found.head.weight
    assert float(weight[0].abs()) > 3 * float(weight[1:].abs().max())
    nothing = fit(labels(0.0), facts, resamples=300)
    assert not nothing.learned
    assert nothing.auc["judge"].low < 0.55


def test_held_out_scores_have_not_seen_their_task() -> None:
    """Every task has a state of its own that tells its label: of no use to other tasks, so nothing may be learned."""
    generator = torch.Generator().manual_seed(3)
    label = (torch.rand(30, generator=generator) < 0.5).to(torch.int8).repeat_interleave(10)
    states = torch.eye(30).repeat_interleave(10, 0)
    columns = {"label": label, "log_p": torch.zeros(300), "log_q": torch.zeros(300), **flat(300)}
    given = Labels(states, columns, torch.arange(30).repeat_interleave(10), ["x"] * 300)
    found = fit(given, {"target": {}}, resamples=200)
    assert found.auc["judge"].value < 0.7
    fold = folds_of(given.group)
    for group in range(30):
        assert len(fold[given.group == group].unique()) == 1


def test_the_fit_is_a_stationary_point_of_the_weighted_loss() -> None:
    given = labels(1.0, 200)
    label = given.columns["label"]
    head = fit_head(given.states, label, 0.03)
    std, mean = given.states.double().std(0, correction=0), given.states.double().mean(0)
    w = (head.weight.double() * std).requires_grad_()
    b = torch.tensor(head.bias + float(head.weight.double() @ mean), requires_grad=True)
    z = (given.states.double() - mean) / std @ w + b
    y = label.double()
    weight = torch.where(y > 0, 1.0, y.sum() / (1 - y).sum())
    loss = (weight * torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")).sum() / weight.sum()
    (loss + 0.015 * (w**2).sum()).backward()
    assert w.grad is not None
    assert float(w.grad.abs().max()) < 1e-4


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 5, 60).astype(float), rng.integers(0, 2, 60)
    pairs = [(a > b) + (a == b) / 2 for a in score[label == 1] for b in score[label == 0]]
    assert _auc(score, label) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_harm_at_a_share_is_what_a_threshold_gives() -> None:
    score = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1, 0.05])
    label = torch.tensor([1, 1, 0, 1, 0, 0], dtype=torch.int8)
    table = harm_by_share({"judge": score}, label, torch.arange(6), (0.5,), resamples=50, seed=0)
    assert table.loc[0, "harmful"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s, y: (s, torch.ones_like(y)), "all 40 labels are harmless"),
        (lambda s, y: (s, torch.zeros_like(y)), "all 40 labels are harmful"),
        (lambda s, y: (s.index_fill(0, torch.tensor([7]), float("nan")), y), "label 7: its state is not finite"),
    ],
)
def test_what_cannot_be_fitted_is_named(change: object, word: str) -> None:
    states = torch.randn(40, 4)
    label = torch.arange(40) % 2
    with pytest.raises(InputError, match=word):
        fit_head(*change(states, label), 0.1)  # type: ignore[operator]


class _Config:
    hidden_size = WIDTH

    def get_text_config(self) -> _Config:
        return self


class _Model:
    config = _Config()


def test_a_judge_is_read_back_and_another_targets_is_not(tmp_path: Path) -> None:
    own = LoadedModel(_Model(), None, {"source": "t", "sha256": "a"})
    head = JudgeHead(torch.randn(WIDTH), 0.25, {"target": {"source": "t", "sha256": "a"}})
    save_judge(tmp_path / "j", head)
    back = load_judge(tmp_path / "j", own)
    assert torch.equal(back.weight, head.weight)
    assert back.bias == head.bias
    other = LoadedModel(_Model(), None, {"source": "t", "sha256": "b"})
    with pytest.raises(InputError, match="fitted on another target"):
        load_judge(tmp_path / "j", other)
    save_judge(tmp_path / "narrow", JudgeHead(torch.randn(8), 0.0, head.facts))
    with pytest.raises(InputError, match="width 8, but the target's have 24"):
        load_judge(tmp_path / "narrow", own)
    data = (tmp_path / "j" / "judge.safetensors").read_bytes()
    (tmp_path / "j" / "judge.safetensors").write_bytes(data[:-9])
    with pytest.raises(InputError, match="truncated"):
        load_judge(tmp_path / "j", own)
    with pytest.raises(InputError, match="no finished judge"):
        load_judge(tmp_path / "nowhere", own)
    (tmp_path / "j" / "judge.json").write_text(json.dumps({"width": 3}))
    with pytest.raises(InputError, match="no finished judge"):
        load_judge(tmp_path / "j")


def test_label_files_are_checked(tmp_path: Path) -> None:
    write_facts(tmp_path, {"target": {"sha256": "a"}, "width": 4, "kind": "outcome"})
    with pytest.raises(InputError, match="no label yet"):
        read_labels([tmp_path])
    row = {
        "state": torch.ones(4), "label": 1, "place": 0, "token": 5, "target_token": 6, "log_p": -1.0, "log_q": -1.0,
        "entropy": 0.5, "top": 0.9, "divergence": 0.1, "word": "x", "verdict": "passed", "detail": "", "text": "x",
    }  # fmt: skip
    write_labels(tmp_path, TaskLabels("a/1", "passed", [row, row | {"label": 0}]), 4)
    write_labels(tmp_path, TaskLabels("a/2", "wrong", []), 4)
    assert len(read_labels([tmp_path])[0]) == 2
    write_labels(tmp_path, TaskLabels("a/3", "passed", [row | {"state": torch.full((4,), float("inf"))}]), 4)
    with pytest.raises(InputError, match="row 0: a state is not finite"):
        read_labels([tmp_path])
    file = tmp_path / "tasks" / "a_3.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match="truncated"):
        read_labels([tmp_path])
    with pytest.raises(InputError, match="no folder of labels"):
        read_labels([tmp_path / "tasks"])


def test_token_types() -> None:
    words = {
        "\n": "newline",
        "    ": "space",
        " if": "keyword",
        " total": "name",
        "tal": "part of a name",
        "12": "number",
    }
    assert {word: token_type(word) for word in words} == words
    assert token_type("):") == "brackets"
    assert token_type(" +=") == "operator"
