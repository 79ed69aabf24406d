"""Answers of servers: every form, known by its structure, gives intervals that hold the bounds of the full rows."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from problems import batch_bound
from torch import Tensor

from mdsd_bounds import InputError, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.dumps import open_side, single_model

SCRIPTS = str(Path(__file__).parents[1] / "scripts")
sys.path.insert(0, SCRIPTS)

from fuzzing.server_answers import ANSWERS, chat, completions, llama_server, sglang, vllm_completion  # noqa: E402

sys.path.remove(SCRIPTS)

CASES = Path(__file__).parent / "data" / "cases"
COUNTS = (1, 2, 4)
V, TOKENS = 20, [3, 1, 4, 1, 5, 9]


@pytest.fixture(autouse=True)
def _small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_model, "UNSTATED_WIDTH", 64)


def pair(spread: float = 3.0) -> tuple[Tensor, Tensor]:
    held = torch.Generator().manual_seed(0)
    target = spread * torch.randn(len(TOKENS), V, generator=held)
    return target, target + torch.randn(len(TOKENS), V, generator=held)


def interval(path: str, drafts: int = 1, sampler: str = "with_replacement") -> tuple[Tensor, Tensor]:
    (batch,) = open_dump(path).batches(1000)
    found = batch_bound(batch, (drafts,), sampler)
    return found.low[0], found.high[0]


def write(folder: Path, values: tuple[Any, Any], container: str = "json") -> str:
    paths = []
    for name, value in zip(("t", "d"), values, strict=True):
        path = folder / f"{name}.{container}"
        if container == "parquet":
            pq.write_table(pa.Table.from_pylist([value]), path)
        else:
            text = {"json": json.dumps(value), "lines.json": json.dumps(value, indent=2), "array": json.dumps([value])}
            path.write_text(text[container])
        paths.append(str(path))
    return ",".join(paths)


@pytest.mark.parametrize("container", ["json", "lines.json", "array", "parquet"])
@pytest.mark.parametrize("form", ANSWERS)
def test_intervals_hold_the_bounds_of_the_full_rows(form: str, container: str, tmp_path: Path) -> None:
    if (form, container) == ("SGLang", "parquet"):
        return  # lists of numbers and texts are no column
    for spread in (1.0, 6.0):
        models = pair(spread)
        logprobs = [torch.log_softmax(rows.double(), -1) for rows in models]
        path = write(tmp_path, tuple(ANSWERS[form](rows, TOKENS, 5) for rows in logprobs), container)
        dump = open_dump(path)
        (batch,) = dump.batches(100)
        if "teacher" not in form:
            assert batch.token is not None
            assert batch.token.tolist() == TOKENS
        for model, rows in enumerate(logprobs):
            stored = (batch.target_logits, batch.draft_logits)[model][:, :V]
            known = stored > -math.inf
            assert torch.equal(stored[known], rows[known])
            assert known.sum(-1).min() >= 4
        for sampler in ("with_replacement", "without_replacement", "greedy"):
            found = batch_bound(batch, COUNTS, sampler)
            full = optimal_acceptance(to_probs(models[0]), to_probs(models[1]), COUNTS, sampler)
            assert (found.low <= full.low + 1e-9).all(), sampler
            assert (full.high <= found.high + 1e-9).all(), sampler


@pytest.mark.parametrize(
    "names",
    [
        "03-llama-server-n-probs/{}.json",
        "04-openai-top-logprobs/{}-chat-ids.json",
        "04-openai-top-logprobs/{}-vllm-output.json",
        "05-sglang-meta-info/{}.json",
        "06-tgi-details/{}.json",
        "30-vllm-server-answers/{}-completion.json",
        "30-vllm-server-answers/{}-completion-long-text.json",
        "30-vllm-server-answers/{}-chat.json",
    ],
)
def test_reported_answers(names: str) -> None:
    # Rows of [.70, .75] and [.50, .70]: the stored overlap, and all that the missing mass can add.
    low, high = interval(",".join(str(CASES / names.format(role)) for role in ("target", "draft")))
    assert low.tolist() == pytest.approx([0.70, 0.50], abs=2e-6)
    assert high.tolist() == pytest.approx([0.75, 0.70], abs=2e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("03-llama-server-n-probs/target-old.json", "old form .* without token ids"),
        ("04-openai-top-logprobs/target-chat.json", "names its tokens by text .* ids"),
        ("04-openai-top-logprobs/target-completions.json", "names its tokens by text"),
        ("04-openai-top-logprobs/string-collision.json", "names its tokens by text"),
        ("07-logprob-zero-under-spec/all-zero.json", "0.0 at each of 3 positions"),
    ],
)
def test_reported_answers_without_a_right_value(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        open_side(CASES / name)


def test_a_sampled_token_in_the_place_of_the_least_bounds_nothing(tmp_path: Path) -> None:
    """The chat form of vLLM drops the k-th best for a sampled token far below it: the cap is the (k-1)-th best."""
    row = torch.log_softmax(torch.tensor([[5.0, 4.9, 4.8, 4.7, 4.6, 4.5, -9.0]]).double(), -1)
    value = chat(row, [6], 3)
    assert [entry["token"] for entry in value["choices"][0]["logprobs"]["content"][0]["top_logprobs"]] == [
        "token_id:6",
        "token_id:0",
        "token_id:1",
    ]
    low, high = interval(write(tmp_path, (value, value)), drafts=2)
    full = optimal_acceptance(row.exp(), row.exp(), (2,), "with_replacement")
    assert low <= full.low[0] + 1e-9
    assert full.high[0] <= high + 1e-9
    _, cut = open_side(tmp_path / "t.json").read(0, 1, 7)
    assert cut is not None
    assert float(cut[0, 2]) == pytest.approx(float(row[0, 1]), abs=1e-5)


def test_ranks_that_are_given_make_the_cap_sharp(tmp_path: Path) -> None:
    rows = torch.log_softmax(pair()[0].double(), -1)
    tokens = [int(row.argmin()) for row in rows]
    (tmp_path / "x.json").write_text(json.dumps(vllm_completion(rows, tokens, 4)))
    _, cut = open_side(tmp_path / "x.json").read(0, len(rows), V)
    assert cut is not None
    assert torch.allclose(cut[:, 2], rows.topk(4).values[:, -1], atol=1e-5)


def changed(value: Any, path: list[Any], new: Any) -> Any:
    value = json.loads(json.dumps(value))
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return value


ROWS = torch.log_softmax(pair()[0].double(), -1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        # The sampled token's own value is taken after temperature.
        (
            changed(chat(ROWS, TOKENS, 5), ["choices", 0, "logprobs", "content", 2, "logprob"], -0.001),
            "position 2: the token 4 itself has log-probability -0.001.*temperature",
        ),
        # It is more probable than the least of the best, and is not among them.
        (
            changed(
                llama_server(ROWS, [int(row.argmin()) for row in ROWS], 5),
                ["completion_probabilities", 1, "logprob"],
                -0.01,
            ),
            "position 1: .*more than the least of the listed",
        ),
        # The server's sign for minus infinity, for a token that was sampled.
        (
            changed(
                changed(
                    llama_server(ROWS, [int(row.argmin()) for row in ROWS], 5),
                    ["completion_probabilities", 0, "logprob"],
                    -9999.0,
                ),
                ["index"],
                1,
            ),
            "sampled with log-probability -9999",
        ),
        # And among the best, though the others are not all there is.
        (
            changed(sglang(ROWS, TOKENS, 5), ["meta_info", "input_top_logprobs", 2, 4, 0], -9999.0),
            "position 2: .*the server left values out",
        ),
        (changed(sglang(ROWS, TOKENS, 5), ["meta_info", "input_top_logprobs", 3, 0, 1], 2**70), "more than 64 bits"),
        (changed(completions(ROWS, TOKENS, 5), ["choices", 0, "logprobs", "tokens"], ["token_id:1"]), "1 tokens, 6"),
        ({"completion_probabilities": [{"id": 1, "token": "a", "prob": 0.5, "top_probs": []}]}, "post_sampling_probs"),
        ({"details": {"tokens": [{"id": 1, "text": "a", "logprob": -0.1}]}}, "top_n_tokens"),
        ({"meta_info": {"output_token_logprobs": [[-0.1, 1, None]]}}, "top_logprobs_num"),
        ({"choices": [{"logprobs": None, "message": {}}]}, "top_logprobs 20"),
        ({"ids": [[1, 2]], "other_ids": [[1, 2]], "logprobs": [[-0.1, -3.0]]}, "several lists"),
    ],
)
def test_traps(value: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as caught:
        open_side(tmp_path / "x.json")
    assert str(tmp_path) in str(caught.value)


def test_a_server_that_cuts_leaves_nothing_for_other_tokens(tmp_path: Path) -> None:
    """-9999 among the best says that the distribution ends before: exact rows."""
    rows = torch.full((2, 8), -math.inf, dtype=torch.float64)
    rows[:, 2], rows[:, 5] = math.log(0.75), math.log(0.25)
    value = sglang(rows.clamp(min=-9999.0), [2, 5], 4)
    low, high = interval(write(tmp_path, (value, value)))
    assert low.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (high >= low).all()
    _, cut = open_side(tmp_path / "t.json").read(0, 2, 8)
    assert cut is not None
    assert (cut[:, 1] < 1e-6).all()


def test_written_decimals_are_an_error_bound(tmp_path: Path) -> None:
    models = [torch.log_softmax(rows.double(), -1) for rows in pair()]
    values = tuple(sglang((rows * 100).round() / 100, TOKENS, 5) for rows in models)
    (batch,) = open_dump(write(tmp_path, values)).batches(10)
    assert batch.target_cut is not None
    assert (batch.target_cut[:, 3] >= 0.005).all()
    found = batch_bound(batch, COUNTS, "with_replacement")
    full = optimal_acceptance(models[0].exp(), models[1].exp(), COUNTS, "with_replacement")
    assert (found.low <= full.low + 1e-9).all()
    assert (full.high <= found.high + 1e-9).all()


def test_the_prompt_is_read_where_an_answer_holds_both(tmp_path: Path) -> None:
    value = vllm_completion(ROWS, TOKENS, 4)
    value["choices"][0]["logprobs"] = chat(ROWS[:1], TOKENS[:1], 4)["choices"][0]["logprobs"]
    (tmp_path / "x.json").write_text(json.dumps(value))
    side = open_side(tmp_path / "x.json")
    assert side.rows == len(TOKENS)
    assert "1 positions of the continuations" in side.notes["left out"]


def test_the_form_is_found_after_any_amount_of_text(tmp_path: Path) -> None:
    value = {"text": "word " * 400_000, **vllm_completion(ROWS, TOKENS, 4)}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert open_side(tmp_path / "x.json").rows == len(TOKENS)
    # Nor does a name in a text make an answer of it.
    (tmp_path / "y.json").write_text(json.dumps({"text": '"prompt_logprobs" "logprob" "start_indices"'}))
    with pytest.raises(InputError, match="not recognised"):
        open_side(tmp_path / "y.json")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("where", ["choices", "answers"])
def test_a_prompt_that_every_choice_repeats_is_read_once(where: str, known: bool, tmp_path: Path) -> None:
    value = vllm_completion(ROWS, TOKENS, 4)
    if not known:
        value = {name: part for name, part in value.items() if name != "prompt_token_ids"}
        value["choices"] = [
            {name: part for name, part in choice.items() if name != "prompt_token_ids"} for choice in value["choices"]
        ]
    other = vllm_completion(ROWS, [*TOKENS[:-1], 2], 4)
    if where == "choices":
        value["choices"] = value["choices"] * 3
    (tmp_path / "x.json").write_text("\n".join(map(json.dumps, [value] * (1 + 2 * (where == "answers")) + [other])))
    side = open_side(tmp_path / "x.json")
    assert side.rows == 2 * len(TOKENS)
    assert sorted(set(side.columns["doc"].tolist())) == [0, 1]
    assert "each prompt is read once" in side.notes["prompts again"]
