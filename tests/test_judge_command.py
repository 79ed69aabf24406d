"""``mdsd judge`` and the judge in ``mdsd compare --lossy``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdsd_bounds import open_dump
from mdsd_bounds.dumps.formats.native import DumpWriter
from mdsd_bounds.judge import curve_of_steps, plane
from mdsd_bounds.judge.labels import TaskLabels, write_facts, write_labels
from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers import acceptance_rate, output_distance
from tests.command import call

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mdsd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line."""
    return functools.partial(call, capsys=capsys, monkeypatch=monkeypatch)


def scored(folder: Path, bad: float | None = None) -> Path:
    """A small dump with a judge's scores."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 30, generator=generator)
    token = logits[1].topk(8).indices
    score = torch.rand(12, 8, generator=generator, dtype=torch.float64)
    if bad is not None:
        score[4, 2] = bad
    with DumpWriter(folder) as writer:
        doc = torch.arange(12) // 4
        writer.append(logits[0], logits[1], doc=doc, judge_token=token, judge_score=score)
    return folder


def test_a_judge_stands_among_the_lossy_rules_where_the_dump_has_its_scores(mdsd: Command, tmp_path: Path) -> None:
    dump = scored(tmp_path / "dump")
    code, out, errors = mdsd("compare", str(dump), "--lossy", "--drafts", "1,2", "--sampler", "with_replacement")
    assert code == 0, errors
    assert "judge" in out
    assert "left out" not in errors
    code, out, _ = mdsd("judge", "curve", str(dump), "--thresholds", "0,0.5,1")
    assert code == 0
    assert "the judge accepts up to" in out
    assert "random judge" in out
    assert "speculative sampling" in out


def test_without_scores_it_is_left_out_or_one_line_says_what_is_missing(mdsd: Command, tmp_path: Path) -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    with DumpWriter(tmp_path / "plain") as writer:
        writer.append(logits, logits.flip(0))
    rest = ["--drafts", "1", "--sampler", "with_replacement"]
    code, out, errors = mdsd("compare", str(tmp_path / "plain"), "--lossy", *rest)
    assert code == 0
    assert "judge is left out" in errors
    assert "judge" not in out
    code, _, errors = mdsd("compare", str(tmp_path / "plain"), "--verifier", "judge", *rest)
    assert code == 2
    assert "verifier 'judge' needs the column 'judge_score'" in errors
    code, _, errors = mdsd("judge", "curve", str(tmp_path / "plain"))
    assert code == 2
    assert "holds no judge's scores" in errors


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_scores_outside_their_range_are_refused(mdsd: Command, tmp_path: Path, bad: float) -> None:
    dump = scored(tmp_path / "dump", bad)
    code, _, errors = mdsd("judge", "curve", str(dump))
    assert code == 2
    assert "row 4: a judge's scores are" in errors


def test_a_scored_dump_keeps_its_scores_when_converted(mdsd: Command, tmp_path: Path) -> None:
    dump = scored(tmp_path / "dump")
    code, _, errors = mdsd("convert", str(dump), str(tmp_path / "copy"))
    assert code == 0, errors
    one, other = (next(open_dump(tmp_path / name).batches(64)) for name in ("dump", "copy"))
    assert one.judge_score is not None
    assert other.judge_score is not None
    assert torch.equal(one.judge_score, other.judge_score)
    code, _, errors = mdsd("convert", str(dump), str(tmp_path / "copy.npz"))
    assert code == 0, errors


def test_fit_prints_its_verdict_first(mdsd: Command, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    write_facts(tmp_path / "labels", {"target": {"source": "t", "sha256": "a"}, "width": 6, "kind": "outcome"})
    for task in range(12):
        rows = []
        for _ in range(8):
            state = torch.randn(6, generator=generator)
            label = int(float(state[0]) > 0)
            rows.append(
                {
                    "state": state, "label": label, "place": 0, "token": 5, "target_token": 6, "log_p": -1.0,
                    "log_q": -1.0, "entropy": 0.5, "top": 0.9, "divergence": 0.1, "word": " x", "verdict": "passed",
                    "detail": "", "text": "x",
                }
            )  # fmt: skip
        write_labels(tmp_path / "labels", TaskLabels(f"t/{task}", "passed", rows), 6)
    code, out, errors = mdsd("judge", "fit", str(tmp_path / "labels"), "--out", str(tmp_path / "judge"))
    assert code == 0, errors
    assert out.startswith("The judge knows more than p and the kind of token: held-out ROC-AUC")
    assert (tmp_path / "judge" / "judge.json").exists()
    code, _, errors = mdsd("judge", "fit", str(tmp_path), "--out", str(tmp_path / "judge"))
    assert code == 2
    assert "no folder of labels" in errors


def test_mining_needs_a_sandbox(mdsd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    code, _, errors = mdsd("judge", "mine", "--target", "t", "--draft", "d", "--out", str(tmp_path / "labels"))
    assert code == 2
    assert "sandbox" in errors
    assert not (tmp_path / "labels").exists()


def steps_of(file: Path, documents: int = 40, steps: int = 25, width: int = 6) -> tuple[torch.Tensor, ...]:
    """A step log of chains of two drafts under the judge at threshold 0.5, and its rows (p, q, scores).

    Every position has the same rows, so that which positions were tried does not matter.
    """
    generator = torch.Generator().manual_seed(3)
    p, q = torch.rand(2, width, generator=generator, dtype=torch.float64).softmax(-1).unbind()
    p = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], dtype=torch.float64) * 0.9 + 0.1 * p
    score = torch.rand(width, generator=generator, dtype=torch.float64)
    residual = (p - q).clamp(min=0)
    lines = []
    for doc in range(documents):
        for step in range(steps):
            drafts = torch.multinomial(q, 2, replacement=True, generator=generator).tolist()
            positions, accepted = [], 0
            for token in drafts:
                held = {
                    "candidates": [[x, float(q[x])] for x in range(width)],
                    "target_candidates": [[x, float(p[x])] for x in range(width)],
                    "judge_score": [[token, float(score[token])]],
                }
                chance = float(torch.rand((), generator=generator))
                if float(score[token]) > 0.5 or chance < float(p[token] / q[token]):
                    accepted += 1
                    positions.append({"token": token, **held})
                    continue
                output = int(torch.multinomial(residual, 1, generator=generator))
                positions.append({"token": output, **held})
                break
            lines.append({"step": step, "doc": doc, "drafts": drafts, "accepted": accepted, "positions": positions})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return p, q, score


def test_the_curve_of_a_step_log_holds_the_exact_rates_of_its_rows(mdsd: Command, tmp_path: Path) -> None:
    p, q, score = steps_of(tmp_path / "steps.jsonl")
    table = curve_of_steps(tmp_path / "steps.jsonl", [0.0, 0.3, 0.5, 0.8, 1.0])
    for row in table[table["rule"] == "judge"].to_dict("records"):
        given = {"judge_score": score, "threshold": row["parameter"]}
        exact = float(acceptance_rate(p, q, 1, "with_replacement", "judge", **given).value)
        far = float(output_distance(p, q, 1, "with_replacement", "judge", **given))
        # The identity at work: of 1,400 tokens the gain has the same mean as the distance.
        assert row["acceptance_low"] - 0.01 <= exact <= row["acceptance_high"] + 0.01
        assert row["tv_low"] - 0.01 <= far <= row["tv_high"] + 0.01
        assert row["acceptance"] == pytest.approx(exact, abs=0.03)
    assert table.iloc[1]["acceptance"] == 1.0
    assert table.iloc[5]["acceptance"] == pytest.approx(table.iloc[0]["acceptance"])
    code, out, errors = mdsd("judge", "curve", str(tmp_path / "steps.jsonl"), "--thresholds", "0.5,1")
    assert code == 0, errors
    assert "the judge accepts up to" in out
    # The same file opened as a dump has the scores in its columns; its rows are truncated for other uses.
    batch = next(iter(open_dump(tmp_path / "steps.jsonl").batches(4)))
    assert batch.judge_token is not None
    assert batch.judge_score is not None
    assert float(batch.judge_score[0, 0]) == pytest.approx(float(score[batch.judge_token[0, 0]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge_score": [[0, 1.5]]}, "judge_score is 1.5"),
        ({"judge_score": [[0, 0.5], [0, 0.5]]}, "lists token 0 twice"),
        ({"candidates": [[1, 0.5]]}, "draft token 0 is not among the candidates"),
        ({"target_candidates": [[1, 0.5]]}, "probability of draft token 0 is not logged"),
        ({"judge_score": []}, "holds no judge's scores"),
    ],
)
def test_a_step_log_that_cannot_give_the_curve_is_refused(
    mdsd: Command, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    held = {"candidates": [[0, 0.5]], "target_candidates": [[0, 0.3], [1, 0.6]], "judge_score": [[0, 0.7]]}
    position = {"token": 1, **held, **change}
    line = {"doc": 0, "drafts": [0], "accepted": 0, "positions": [position]}
    (tmp_path / "steps.jsonl").write_text(json.dumps(line))
    code, _, errors = mdsd("judge", "curve", str(tmp_path / "steps.jsonl"))
    assert code == 2
    assert said in errors


def test_truncated_rows_give_no_total_variation(tmp_path: Path) -> None:
    steps_of(tmp_path / "steps.jsonl", documents=2, steps=2)
    with pytest.raises(InputError, match="its rows are truncated"):
        plane(open_dump(tmp_path / "steps.jsonl"), [0.5])


@pytest.mark.parametrize("threshold", ["nan", "2", "-0.1", "inf"])
def test_a_threshold_of_a_step_log_is_a_score(threshold: str, mdsd: Command, tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    held = {"candidates": [[5, 0.8]], "target_candidates": [[5, 0.4]], "judge_score": [[5, 0.7]]}
    log.write_text(json.dumps({"drafts": [5], "accepted": 0, "positions": [{"token": 7, **held}]}))
    code, out, err = mdsd("judge", "curve", str(log), f"--thresholds={threshold}")
    assert (code, out) == (2, "")
    assert "threshold" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accepted": 1}, "token 7 is committed"),
        (
            {"positions": [{"token": 5, "p": 0.9, "candidates": [[5, 0.8]], "target_candidates": [[5, 0.4]]}]},
            "two prob",
        ),
        ({"positions": [{"token": 7, "candidates": [[5, 0.8], [6, 0.8]]}]}, "of the mass together"),
        ({"positions": [{"token": 7, "target_candidates": [[5, 0.8], [6, 0.8]]}]}, "of the mass together"),
    ],
)
def test_steps_that_contradict_themselves_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    log = tmp_path / "steps.jsonl"
    held = {"candidates": [[5, 0.8]], "target_candidates": [[5, 0.4]], "judge_score": [[5, 0.7]]}
    step = {"drafts": [5], "accepted": 0, "positions": [{"token": 7, **held}]}
    log.write_text("\n".join(json.dumps(line) for line in (step, {**step, **change})))
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        curve_of_steps(log, [0.5])


def test_a_token_that_a_judge_scored_twice_and_a_threshold_given_twice(tmp_path: Path) -> None:
    rows = torch.arange(24.0).reshape(2, 12)
    token, score = torch.arange(8).expand(2, 8), torch.full((2, 8), 0.75, dtype=torch.float64)
    with DumpWriter(tmp_path / "scored") as writer:
        writer.append(rows, rows.flip(-1), judge_token=token, judge_score=score)
    table = plane(open_dump(tmp_path / "scored"), [0.5, 0.5])
    once = plane(open_dump(tmp_path / "scored"), [0.5])
    assert table.equals(once)
    with DumpWriter(tmp_path / "twice") as writer:
        writer.append(rows, rows.flip(-1), judge_token=token.clamp(max=6), judge_score=score)
    with pytest.raises(InputError, match=r"row 0.*token 6 twice"):
        plane(open_dump(tmp_path / "twice"), [0.5])
    p = torch.full((2, 12), 1 / 12).double()
    with pytest.raises(InputError, match="twice"):
        acceptance_rate(p, p, 1, "with_replacement", "judge", judge_token=token.clamp(max=6), judge_score=score)
