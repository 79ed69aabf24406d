"""Trees on real models: the logits of a tree-masked forward pass are those of each path read alone, cached or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mdsd_bounds.cli import app
from mdsd_bounds.dumps.step_schema import write_step
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import real
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.decode import decode, take_step
from mdsd_bounds.trees.log import read_log, record, summarise_log
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.trees.verify import expected_accepted, reach

pytest.importorskip("transformers", reason="the extra 'models' is not installed")
from tiny_models import ONE, tokenizer
from tiny_models import build as build_model

TEXT = [3, 14, 15, 9, 2, 6]
#: Levels out of order, a repeated token on different branches, and a node whose parent is only implied.
PATHS = [(7,), (5,), (7, 5), (7, 7), (5, 7), (5, 7, 1, 4), ()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, words = tmp_path_factory.mktemp("models"), tokenizer(ONE)
    return {
        "target": build_model(root / "target", 0, words),
        "draft": build_model(root / "draft", 1, words, "qwen2", 2),
    }


def tiny(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    facts: dict[str, Any] = {
        "vocab_size": 29,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 64,
        "initializer_range": 0.7,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**facts, **changes})).double().eval()


def alone(model: Any, ids: list[int], skip: tuple[int, ...] = ()) -> torch.Tensor:
    from contextlib import nullcontext

    from mdsd_bounds.models.self_draft import skipping

    with torch.inference_mode(), skipping(model, skip) if skip else nullcontext():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_of_a_tree_are_those_of_each_path_alone(kind: str, attention: str) -> None:
    model = tiny(kind, attn_implementation=attention)
    reader = TreeReader(model, TEXT)
    for path, logits in zip(PATHS, reader.logits(PATHS), strict=True):
        # The eager attention of transformers takes its softmax in float32, whatever the model's type.
        near = 1e-10 if attention == "sdpa" else 1e-5
        torch.testing.assert_close(logits, alone(model, [*TEXT, *path]), atol=near, rtol=0)
    assert [tokens for tokens, _ in reader.passes] == [len(TEXT) + 7]


def test_levels_and_accepted_paths_read_from_the_cache() -> None:
    model = tiny()
    reader = TreeReader(model, TEXT)
    for level in ([()], [(7,), (5,)], [(7, 5), (7, 7), (5, 7)]):
        reader.read(level)
    assert [tokens for tokens, _ in reader.passes] == [len(TEXT), 2, 3]
    reader.read([(7, 5), (5,)])
    assert len(reader.passes) == 3
    fork = reader.clone()
    reader.advance([7, 5, 11])  # a path of the tree and one token more
    torch.testing.assert_close(reader.logits([(2,)])[0], alone(model, [*TEXT, 7, 5, 11, 2]), atol=1e-10, rtol=0)
    assert reader.passes[-1][0] == 2
    assert reader.length == len(TEXT) + 3
    fork.advance([5, 7])  # the whole is cached: nothing is read again
    assert len(fork.passes) == 0
    torch.testing.assert_close(fork.logits([()])[0], alone(model, [*TEXT, 5, 7]), atol=1e-10, rtol=0)
    assert len(fork.passes) == 0
    torch.testing.assert_close(fork.logits([(1, 1)])[0], alone(model, [*TEXT, 5, 7, 1, 1]), atol=1e-10, rtol=0)
    fork.advance([20])  # rejected at once
    fork.advance([21])
    torch.testing.assert_close(fork.logits([(3,)])[0], alone(model, [*TEXT, 5, 7, 20, 21, 3]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("skip", [(2,), (1,), (0, 2)])
def test_a_draft_made_of_fewer_layers(skip: tuple[int, ...]) -> None:
    model = tiny()
    reader = TreeReader(model, TEXT, skip=skip)
    reader.read([(7,)])
    for path, logits in zip(PATHS, reader.logits(PATHS), strict=True):
        torch.testing.assert_close(logits, alone(model, [*TEXT, *path], skip), atol=1e-10, rtol=0)
    reader.advance([7, 5])
    torch.testing.assert_close(reader.logits([()])[0], alone(model, [*TEXT, 7, 5], skip), atol=1e-10, rtol=0)


def worst(model: Any) -> float:
    found = TreeReader(model, TEXT).logits(PATHS)
    return max(float((x - alone(model, [*TEXT, *path])).abs().max()) for path, x in zip(PATHS, found, strict=True))


def test_wrong_masks_and_positions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, forward = tiny(), real._forward

    def causal(model: Any, ids: Any, sees: Any, places: Any, cache: Any, kept: int) -> Any:
        return forward(model, ids, torch.ones_like(sees).tril(sees.shape[1] - sees.shape[0]), places, cache, kept)

    def in_a_row(model: Any, ids: Any, sees: Any, places: Any, cache: Any, kept: int) -> Any:
        return forward(model, ids, sees, list(range(len(places))), cache, kept)

    assert worst(model) < 1e-10
    for broken in (causal, in_a_row):
        monkeypatch.setattr(real, "_forward", broken)
        assert worst(model) > 1e-3


def test_a_tree_beyond_the_context_window_is_refused() -> None:
    reader = TreeReader(tiny(max_position_embeddings=8), TEXT)
    reader.read([(1, 2)])
    with pytest.raises(InputError, match="need 9 positions; the model has 8"):
        reader.read([(1, 2, 3)])
    # The refusal came before anything was read.
    assert reader.logits([(1, 2)]).shape == (1, 29)
    with pytest.raises(InputError, match="empty"):
        TreeReader(tiny(), [])
    sliding = tiny("gemma3_text", sliding_window=7, layer_types=["sliding_attention"] * 3)
    with pytest.raises(InputError, match="sliding window of 7"):
        TreeReader(sliding, TEXT).read([(1, 2)])
    torch.testing.assert_close(
        TreeReader(sliding, TEXT).logits([(1,)])[0], alone(sliding, [*TEXT, 1]), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize(
    ("builder", "shape", "rule", "draft"),
    [
        ("chain", "3", "block", "draft"),
        ("paths", "2x3", "rrs", "draft"),
        ("rsd_c", "2,2", "recursive", "early-exit:2"),
        ("rsd_s", "2x2", "traversal", "draft"),
        ("sequoia", "5:0.5,0.2", "rrs_without_replacement", "skip-layers:1"),
        ("dynamic", "4x2x3", "recursive", "draft"),
    ],
)
def test_the_command_runs_every_builder(
    pair: dict[str, str], tmp_path: Path, builder: str, shape: str, rule: str, draft: str
) -> None:
    (tmp_path / "prompts.txt").write_text("abc dab\ncab cab\n")
    log, source = tmp_path / "log.jsonl", pair.get(draft, draft)
    command = ["tree", "--target", pair["target"], "--draft", source, "--prompts", str(tmp_path / "prompts.txt")]
    command += ["--builder", builder, "--shape", shape, "--rule", rule, "--new-tokens", "6", "--out", str(log)]
    ran = CliRunner().invoke(app, [*command, "--format", "json", "--quiet"])
    assert ran.exit_code == 0, ran.output
    (row,) = json.loads(ran.stdout)
    lines = read_log(log)
    assert row["target_passes"] == len(lines)
    assert row["documents"] == 2
    assert row["rule"] == rule
    assert row["conclusion"].startswith(f"{rule} emits {row['block_efficiency']:.3f} [")
    assert 1.0 <= row["realised"] <= max(len(line.tree.tokens) for line in lines)
    again = CliRunner().invoke(app, ["tree", str(log), "--format", "json"])
    assert json.loads(again.stdout)[0]["block_efficiency"] == pytest.approx(row["block_efficiency"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--builder": "oak"}, "unknown builder"),
        ({"--shape": "0,0"}, "branching=0,0"),
        ({"--shape": "two"}, "branching vector"),
        ({"--draft": "early-exit:9"}, "layers to keep"),
        ({"--rule": "block"}, "verifies one path"),
        ({"--rule": "k_seq"}, "not made for the sampler"),
        ({"--rule": "oak"}, "unknown rule 'oak'; choose one of recursive, block"),
        ({"--builder": "rsd_s", "--shape": "2x2", "--rule": "sweep", "--target": "nowhere"}, "stochastic beam"),
        ({"--builder": "rsd_c:greedy", "--rule": "k_seq", "--target": "nowhere"}, "not made for the sampler"),
        ({"--out": "/nowhere/log.jsonl"}, "could not be written"),
        ({"--prompts": "long.txt"}, "long.txt: prompt 2: a text of 130 tokens and a tree"),
    ],
)
def test_the_command_refuses_in_one_line(
    pair: dict[str, str], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    (tmp_path / "prompts.txt").write_text("abc dab\n")
    (tmp_path / "long.txt").write_text("abc dab\n" + "d" * 130)
    change = {name: str(tmp_path / value) if value == "long.txt" else value for name, value in change.items()}
    options = {
        "--target": pair["target"],
        "--draft": pair["draft"],
        "--prompts": str(tmp_path / "prompts.txt"),
        "--out": str(tmp_path / "log.jsonl"),
        "--shape": "2,2",
    }
    arguments = [part for option in {**options, **change}.items() for part in option]
    result = CliRunner().invoke(app, ["tree", *arguments, "--quiet"])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_decoding_emits_text_of_the_targets_distribution() -> None:
    # One step from a fixed text, many times: the first two tokens follow the target whatever the draft is.
    target, draft = tiny(seed=0, vocab_size=4), tiny(seed=1, vocab_size=4)
    text = [3, 1, 2]
    held = TreeReader(target, text), TreeReader(draft, text)
    p = held[0].distributions([(), (0,), (1,), (2,), (3,)])
    probs = (p[0][:, None] * p[1:]).flatten()
    generator = torch.Generator().manual_seed(0)
    samples, count = 1500, torch.zeros(16, dtype=torch.float64)
    for _ in range(samples):
        step = take_step(held[0].distributions, held[1].distributions, build, "traversal", generator)
        tokens = list(step.verified.tokens)
        if len(tokens) == 1:
            after = held[0].distributions([(tokens[0],)])
            tokens.append(int(torch.multinomial(after[0], 1, generator=generator)))
        count[4 * tokens[0] + tokens[1]] += 1
    spread = (probs * (1 - probs) / samples).sqrt()
    assert float(((count / samples - probs).abs() / spread).max()) < 5


def build(distributions: Any, source: Any) -> Any:
    return rsd_c(distributions, sampling(source), (2, 2, 1), {0})


def decoded(tmp_path: Path, rule: str = "recursive") -> tuple[list[Any], Path]:
    target, draft = tiny(seed=0), tiny(seed=0)
    file, steps = tmp_path / "log.jsonl", []
    with file.open("w") as stream:
        for doc in range(3):
            readers = TreeReader(target, [doc + 1, *TEXT]), TreeReader(draft, [doc + 1, *TEXT], skip=(2,))
            generator = torch.Generator().manual_seed(doc)
            for k, step in enumerate(decode(readers[0], readers[1], build, rule, 12, generator, frozenset({0}))):
                steps.append((doc, step))
                stream.write(json.dumps(write_step(record(step, k, doc, rule))) + "\n")
            # One forward pass of the target a step, however many nodes its tree has.
            assert len(readers[0].passes) == k + 1
    return steps, file


def test_decoding_reads_each_token_once_and_its_log_counts_what_happened(tmp_path: Path) -> None:
    steps, file = decoded(tmp_path)
    model, texts = tiny(seed=0), {doc: [doc + 1, *TEXT] for doc in range(3)}
    for doc, step in steps:
        # What the cache says after several steps is what the text alone says.
        torch.testing.assert_close(
            step.target[0], torch.softmax(alone(model, texts[doc]).double(), -1), atol=1e-6, rtol=0
        )
        texts[doc] += step.verified.tokens
    lines = read_log(file)
    found = summarise_log(lines)
    assert found["target_passes"] == len(steps)
    assert found["tokens"] == sum(len(text) - len(TEXT) - 1 for text in texts.values())
    assert found["accepted"]["mean"] == pytest.approx(sum(len(s.verified.nodes) for _, s in steps) / len(steps))
    assert found["accepted_expected"]["mean"] == pytest.approx(
        sum(expected_accepted(s.tree, s.outcomes) for _, s in steps) / len(steps)
    )
    # Accepted tokens are the sum over depths of the chance to get so deep; children share out each depth.
    depths = sum(asked * share for asked, share in found["by_depth"].values())
    children = sum(asked * share for asked, share in found["by_child"].values())
    assert depths == pytest.approx(found["accepted_expected"]["mean"] * len(steps), rel=1e-5)
    assert children == pytest.approx(depths, rel=1e-5)
    for line, (_, step) in zip(lines, steps, strict=True):
        assert line.tree.reach == pytest.approx(reach(step.tree, step.outcomes)[1:], abs=1e-6)
        assert sum(line.tree.reach) == pytest.approx(line.tree.expected, abs=1e-5)


def test_a_tree_log_is_a_step_log(tmp_path: Path) -> None:
    from mdsd_bounds import open_dump

    steps, file = decoded(tmp_path)
    dump = open_dump(file)
    assert dump.facts.format == "step_log" or "step" in dump.facts.format
    drafted = sum(min(len(s.verified.nodes), s.tree.length - 1) + 1 for _, s in steps)
    assert len(steps) <= len(dump) <= drafted


def test_an_audit_reads_the_log_of_a_tree_as_a_tree(tmp_path: Path) -> None:
    from mdsd_bounds.audit.log_lines import read_log as read_positions

    steps, file = decoded(tmp_path)
    found = read_positions(str(file))
    wanted = []
    for _, step in steps:
        for k, node in enumerate((0, *step.verified.nodes)[: len(step.verified.tokens)]):
            offered = tuple(step.tree.drafts[node] or ())
            wanted.append((offered, step.verified.tokens[k], k < len(step.verified.nodes)))
    assert [(line.drafts, line.token) for line in found] == [entry[:2] for entry in wanted]
    assert any(len(line.drafts) > 1 for line in found)
    assert [bool(line.flag) for line in found if line.drafts] == [hit for offered, _, hit in wanted if offered]


def test_coupled_rules_are_logged_without_expectations(tmp_path: Path) -> None:
    _, file = decoded(tmp_path, rule="recursive")
    lines = [replace(line, tree=replace(line.tree, reach=None, expected=None, emitted=None)) for line in read_log(file)]
    found = summarise_log(lines)
    assert "accepted_expected" not in found
    depths = sum(asked * share for asked, share in found["by_depth"].values())
    assert depths == pytest.approx(sum(line.accepted for line in lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line.pop("reach"), "lacks reach"),
        (lambda line: line.update(draft_calls=line.pop("draft_passes")), "rename it to draft_passes"),
        (lambda line: line["parents"].append(0), "lengths disagree"),
        (lambda line: line.update(reach=None, emitted=None), "both numbers, or both null"),
        (lambda line: line.update(emitted=10**30), "emitted is 10"),
        (lambda line: line["parents"].__setitem__(0, 9), "parent comes after"),
    ],
)
def test_damaged_logs_are_refused_by_line(tmp_path: Path, damage: Any, message: str) -> None:
    _, file = decoded(tmp_path)
    lines = file.read_text().splitlines()
    second = json.loads(lines[1])
    damage(second)
    lines[1] = json.dumps(second)
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        read_log(file)
    file.write_text("")
    with pytest.raises(InputError, match="empty"):
        read_log(file)
    with pytest.raises(InputError, match="cannot be opened"):
        read_log(tmp_path / "nowhere.jsonl")


def test_decoding_ends_at_a_stop_token_and_refuses_what_has_no_room() -> None:
    target, draft = tiny(seed=0, vocab_size=3), tiny(seed=1, vocab_size=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        readers = TreeReader(target, [1, 2]), TreeReader(draft, [1, 2])
        tokens = [
            t for s in decode(*readers, build, "recursive", 40, generator, frozenset({0})) for t in s.verified.tokens
        ]
        assert 0 not in tokens[:-1]
        assert tokens[-1] == 0 or len(tokens) >= 40
    small = tiny(max_position_embeddings=12)
    steps = decode(TreeReader(small, TEXT), TreeReader(small, TEXT), build, "recursive", 40, generator)
    with pytest.raises(InputError, match="the model has 12"):
        list(steps)
    with pytest.raises(InputError, match="new_tokens=0"):
        next(decode(*readers, build, "recursive", 0))
    with pytest.raises(InputError, match="give one text"):
        next(decode(TreeReader(target, [1]), TreeReader(draft, [1, 2]), build, "recursive", 5))
