"""Mining, reading and decoding on a tiny random model, against slow code that knows nothing of caches or batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.judge import (
    JudgeHead,
    MineSettings,
    SubstituteSettings,
    Task,
    Verdict,
    cut,
    decode,
    log_scored,
    mine,
    plane,
    read_labels,
    run_tests,
    sandbox,
    substitute,
)
from mdsd_bounds.judge.continuations import Continuations, Text, norm_inputs, use_grouped_attention
from mdsd_bounds.judge.decoding import passes
from mdsd_bounds.judge.labels import file_of, read_task
from mdsd_bounds.models.drafts import make_draft
from mdsd_bounds.models.eight_bit import EightBitLinear, to_eight_bit
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.verifiers import output_distance
from tests.tiny_judge import tiny_target, tiny_tasks

DRAFT = "early-exit:2"
NEW = 16


@pytest.fixture(autouse=True)
def fake_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program passes by a checksum of its text: which ones do is arbitrary, and the same every time."""
    monkeypatch.setattr("mdsd_bounds.judge.mining.require_sandbox", lambda: None)
    monkeypatch.setattr("mdsd_bounds.judge.decoding.require_sandbox", lambda: None)
    monkeypatch.setattr(Task, "run_program", lambda self, program, limits=None: verdict_of(program))


def verdict_of(program: str) -> Verdict:
    return Verdict("passed" if zlib.crc32(program.encode()) % 4 else "wrong", "by checksum")


def logits_of(target: LoadedModel, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = target.model(input_ids=torch.tensor([tokens])).logits[0]
    return found


def greedy(target: LoadedModel, tokens: list[int], prompt: int) -> list[int]:
    """Continue to the end of a solution, reading everything afresh at every token."""
    tokens = list(tokens)
    while True:
        tokens.append(int(logits_of(target, tokens)[-1].argmax()))
        text = "".join(map(chr, (t for t in tokens[prompt:] if t != 0)))
        if len(tokens) - prompt >= NEW or 0 in tokens[-2:] or cut(text) != text:
            return tokens


def slow_labels(target: LoadedModel, task: Task) -> list[tuple[int, int, int]]:
    """(place, token, label) of one task, by the definition."""
    draft = make_draft(DRAFT, target, "float32", "cpu")
    prompt = [ord(c) for c in task.prompt]

    def passed(tokens: list[int]) -> bool:
        text = "".join(map(chr, (t for t in tokens[len(prompt) :] if t != 0)))
        return task.run(text).passed

    base = greedy(target, prompt, len(prompt))
    found: list[tuple[int, int, int]] = []
    if not passed(base):
        return found
    place = len(prompt)
    while True:
        text = "".join(map(chr, (t for t in base[len(prompt) :] if t != 0)))
        last = min(len(prompt) + len(cut(text)), len(base) - 1)
        if place > last:
            return found
        token = int(draft.read([base[: place + 1]], [place])[0].argmax())
        if token != base[place]:
            other = greedy(target, [*base[:place], token], len(prompt))
            found.append((place - len(prompt), token, int(passed(other))))
            if found[-1][2]:
                base = other
        place += 1


def test_mined_labels_are_those_of_the_definition(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(4)
    wanted = {task.name: slow_labels(target, task) for task in tasks}
    said: list[str] = []
    mine(target, DRAFT, tasks, tmp_path / "a", MineSettings(NEW, lanes=3, most_labels=99), report=said.append)
    for task in tasks:
        arrays, notes = read_task(file_of(tmp_path / "a", task.name))
        found = [
            tuple(int(arrays[name][i]) for name in ("place", "token", "label")) for i in range(len(arrays["label"]))
        ]
        assert found == wanted[task.name]
        assert notes["own"].startswith("passed") or not found
    labels, facts = read_labels([tmp_path / "a"])
    assert len(labels) == sum(map(len, wanted.values())) > 10
    assert 0 < int(labels.columns["label"].sum()) < len(labels)
    assert facts["kind"] == "outcome"
    assert "labels" in said[-1]
    # Where a task's own solution fails, that is written, and nothing is learned from it.
    assert any(not rows for rows in wanted.values()) or all(rows for rows in wanted.values())


def test_an_interrupted_run_goes_on_to_the_same_labels(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(3)
    mine(target, DRAFT, tasks, tmp_path / "whole", MineSettings(NEW, lanes=1))

    class StopError(Exception):
        pass

    def stop(line: str) -> None:
        raise StopError

    with pytest.raises(StopError):
        mine(target, DRAFT, tasks, tmp_path / "parts", MineSettings(NEW, lanes=1), report=stop)
    assert len(list((tmp_path / "parts" / "tasks").glob("*.safetensors"))) == 1
    mine(target, DRAFT, tasks, tmp_path / "parts", MineSettings(NEW, lanes=3))
    whole, parts = read_labels([tmp_path / "whole"])[0], read_labels([tmp_path / "parts"])[0]
    for name in ("place", "token", "label"):
        assert torch.equal(whole.columns[name], parts.columns[name])
    torch.testing.assert_close(whole.states, parts.states, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="labels of another run"):
        mine(target, DRAFT, tasks[:2], tmp_path / "parts", MineSettings(NEW))


def test_out_of_time_keeps_what_is_known(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(3)
    mine(target, DRAFT, tasks, tmp_path / "a", MineSettings(NEW, minutes=0.0))
    assert not list((tmp_path / "a").glob("tasks/*"))


def states_of(target: LoadedModel, tokens: list[int]) -> torch.Tensor:
    with norm_inputs(target.model) as seen:
        logits_of(target, tokens)
    return seen[-1][0]


def test_states_are_those_of_a_plain_pass(tmp_path: Path) -> None:
    target, task = tiny_target(), tiny_tasks(1)[0]
    prompt = [ord(c) for c in task.prompt]
    use_grouped_attention(target.model)
    texts = Continuations(target, 2, lambda text: len(text.tokens) - text.given >= 5)
    texts.submit(Text("a", prompt, len(prompt)))
    texts.submit(Text("b", prompt[:7], 7))
    done: dict[str, Text] = {}
    while texts.busy:
        done |= {text.key: text for text in texts.step()}
    for text in done.values():
        plain = states_of(target, text.tokens)
        torch.testing.assert_close(torch.stack(text.states), plain[text.given - 1 : -1], rtol=1e-3, atol=1e-3)
    from mdsd_bounds.judge.reading import read_with_cache, states_after

    _, cache = read_with_cache(target.model, prompt, 5)
    places, tokens = [6, 9, 9, 12], [70, 71, 72, 73]
    found = states_after(target.model, cache, places, tokens)
    for place, token, state in zip(places, tokens, found, strict=True):
        torch.testing.assert_close(state, states_of(target, [*prompt[:place], token])[-1], rtol=1e-3, atol=1e-3)


def test_substitutions_keep_everything_else(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(6)
    substitute(target, DRAFT, tasks, tmp_path / "a", SubstituteSettings(labels=5))
    labels, facts = read_labels([tmp_path / "a"])
    assert facts["kind"] == "substitution"
    assert len(labels) >= 10
    for task in tasks:
        arrays, notes = read_task(file_of(tmp_path / "a", task.name))
        if verdict_of(task.prompt + task.solution).passed:
            assert len(arrays["label"]) == 5
        else:
            assert notes["own"].startswith("wrong")
        for place, token, label in zip(*(arrays[name].tolist() for name in ("place", "token", "label")), strict=True):
            program = list(task.prompt + task.solution)
            assert ord(program[len(task.prompt) + place]) != token
            program[len(task.prompt) + place] = chr(token)
            assert verdict_of("".join(program)).passed == bool(label)


def slow_solution(target: LoadedModel, task: Task, keep: Callable[[float], bool]) -> dict[str, Any]:
    """A rule's solution by the definition: the first difference that it keeps, then all afresh."""
    draft = make_draft(DRAFT, target, "float32", "cpu")
    prompt = [ord(c) for c in task.prompt]
    base, place, kept, refused = greedy(target, prompt, len(prompt)), len(prompt), 0, set()
    while True:
        text = "".join(map(chr, (t for t in base[len(prompt) :] if t != 0)))
        last = min(len(prompt) + len(cut(text)), len(base) - 1)
        if place > last:
            break
        token = int(draft.read([base[: place + 1]], [place])[0].argmax())
        if token != base[place]:
            if keep(float(logits_of(target, base[:place])[-1].log_softmax(-1)[token])):
                base, kept = greedy(target, [*base[:place], token], len(prompt)), kept + 1
            else:
                refused.add(place)
        place += 1
    tokens = last + 1 - len(prompt)
    accepted = tokens - len([at for at in refused if at <= last])
    return {"passed": task.run(text).passed, "tokens": tokens, "accepted": accepted, "kept": kept}


@pytest.mark.parametrize("chunk", [1, 3, 12])
def test_decoded_solutions_are_those_of_the_definition(tmp_path: Path, monkeypatch: Any, chunk: int) -> None:
    monkeypatch.setattr("mdsd_bounds.judge.decoding.CHUNK", chunk)
    target, tasks = tiny_target(), tiny_tasks(5)
    limits = (-0.5, -2.0, -4.0)
    rules = {str(limit): lambda task, one, state, limit=limit: one.log_p > limit for limit in limits}
    rows = decode(target, DRAFT, tasks, rules, tmp_path, MineSettings(NEW, lanes=3))
    found = {(row["task"], row["rule"]): row for row in rows}
    for task in tasks:
        for limit in limits:
            wanted = slow_solution(target, task, lambda log_p, limit=limit: log_p > limit)  # type: ignore[misc]
            assert {name: found[task.name, str(limit)][name] for name in wanted} == wanted
    assert sum(row["kept"] for row in rows) > 10


def test_rules_that_keep_none_or_all_give_the_two_ends(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(4)
    rules: dict[str, Any] = {
        "none": lambda task, difference, state: False,
        "all": lambda task, difference, state: True,
        "likely": lambda task, difference, state: difference.log_p > -2.0,
    }
    rows = decode(target, DRAFT, tasks, rules, tmp_path, MineSettings(NEW, lanes=2))
    by = {(row["task"], row["rule"]): row for row in rows}
    assert len(by) == 12
    for task in tasks:
        prompt = [ord(c) for c in task.prompt]
        own = "".join(map(chr, (t for t in greedy(target, prompt, len(prompt))[len(prompt) :] if t != 0)))
        assert by[task.name, "none"]["passed"] == task.run(own).passed
        assert by[task.name, "none"]["kept"] == 0
        assert by[task.name, "all"]["accepted"] == by[task.name, "all"]["tokens"]
        assert by[task.name, "none"]["passes"] >= by[task.name, "all"]["passes"]
    assert any(row["kept"] for row in rows)
    assert decode(target, DRAFT, tasks, rules, tmp_path, MineSettings(NEW, lanes=2)) == rows
    assert passes([True] * 4 + [False]) == 1


def test_a_scored_dump_gives_the_plane(tmp_path: Path) -> None:
    target, tasks = tiny_target(), tiny_tasks(2)
    judge = JudgeHead(torch.randn(32, generator=torch.Generator().manual_seed(1)) / 5, 0.0, {})
    log_scored(target, DRAFT, tasks, judge, tmp_path / "dump", rows=9)
    batch = next(open_dump(tmp_path / "dump").batches(64))
    assert batch.judge_token is not None
    assert batch.judge_score is not None
    prompt = [ord(c) for c in tasks[0].prompt + tasks[0].solution]
    state = states_of(target, [*prompt[: len(tasks[0].prompt) + 3], int(batch.judge_token[3, 2])])[-1]
    assert float(judge.scores(state)) == pytest.approx(float(batch.judge_score[3, 2]), abs=1e-3)
    p, q = batch.target_logits.double().softmax(-1), batch.draft_logits.double().softmax(-1)
    far = output_distance(
        p, q, 1, "with_replacement", "judge", judge_token=batch.judge_token, judge_score=batch.judge_score
    )
    kept = torch.zeros_like(p).scatter(1, batch.judge_token, (batch.judge_score > 0.5).double())
    torch.testing.assert_close(far, (kept * (q - p).clamp(min=0)).sum(-1), rtol=0, atol=1e-12)
    table = plane(open_dump(tmp_path / "dump"), (0.3, 0.5))
    of = {(row.rule, row.parameter): row for row in table.itertuples()}
    plain = table[table["rule"] == "speculative sampling"].iloc[0]
    assert of["judge", 0.5].tv == pytest.approx(float(far.mean()), abs=1e-9)
    assert of["judge", 0.5].acceptance - plain.acceptance == pytest.approx(of["judge", 0.5].tv, abs=1e-9)
    assert bool((table["acceptance"] <= table["bound"] + 1e-8).all())
    every = table[table["rule"] == "accept always"].iloc[0]
    assert every.acceptance == pytest.approx(1.0)
    assert every.tv == pytest.approx(1.0 - plain.acceptance, abs=1e-9)
    assert len(plane(open_dump(tmp_path / "dump"), (0.5,), n=2)) == len(table) - 3
    with pytest.raises(InputError, match="holds something already"):
        log_scored(target, DRAFT, tasks, judge, tmp_path / "dump")


def test_eight_bits_are_near_and_do_not_depend_on_the_batch() -> None:
    layer = torch.nn.Linear(64, 48)
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    x[3] *= 40
    eight = EightBitLinear(layer)
    wanted, found = layer(x).detach(), eight(x)
    assert float(((wanted - found).norm(dim=-1) / wanted.norm(dim=-1)).max()) < 0.03
    assert torch.equal(torch.cat([eight(row[None]) for row in x]), found)
    torch.testing.assert_close(
        eight.weight, layer.weight.detach(), rtol=0, atol=float(layer.weight.detach().abs().max()) / 126
    )
    # The largest numbers on both sides: a product that is cut off at 16 bits shows here.
    for sign in (1.0, -1.0):
        layer.weight.data.fill_(sign)
        wanted = EightBitLinear(layer)(torch.ones(40, 64)) - layer.bias
        torch.testing.assert_close(wanted, torch.full_like(wanted, 64 * sign), rtol=1e-5, atol=0)
    target = tiny_target()
    to_eight_bit(target.model)
    assert isinstance(target.model.lm_head, EightBitLinear)
    assert torch.isfinite(logits_of(target, [1, 2, 3])).all()


@pytest.mark.skipif(sandbox.missing() is not None, reason=f"no sandbox here: {sandbox.missing()}")
def test_the_tiny_tasks_pass_with_their_solutions() -> None:
    for task in tiny_tasks(2):
        assert run_tests(task.prompt + task.solution, "", task.tests, task.entry).passed
