"""``mdsd inspect`` says of any file what it is and what to run next, or what it looks like and what to ask for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError
from mdsd_bounds.cli.inspect import _facts

CASES = Path(__file__).parent / "data" / "cases"


def test_what_people_have(tmp_path: Path) -> None:
    np.savez(tmp_path / "pair.npz", target_logits=3 * np.eye(8), draft_logits=2 * np.eye(8))
    save_file({"d2t": torch.tensor([0, 1, 1])}, tmp_path / "map.safetensors")
    (tmp_path / "prompts.txt").write_text("Once upon a time\nthere was a king\n")
    (tmp_path / "metrics.txt").write_text(
        "# TYPE vllm:spec_decode_num_drafts_total counter\n"
        'vllm:spec_decode_num_drafts_total{model_name="m"} 10\n'
        'vllm:spec_decode_num_draft_tokens_total{model_name="m"} 40\n'
        'vllm:spec_decode_num_accepted_tokens_total{model_name="m"} 20\n'
    )
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    table = {"row": [0], "sampler": ["greedy"], "drafts": [1], "temperature": [1.0]}
    pd.DataFrame(table).to_parquet(tmp_path / "results.parquet")
    for name, kind, command in [
        (tmp_path / "pair.npz", "", "mdsd bounds"),
        (tmp_path / "map.safetensors", "a token map", "--token-map"),
        (tmp_path / "prompts.txt", "prompts", "mdsd log"),
        (tmp_path / "metrics.txt", "what an engine counted", "mdsd acceptance"),
        (tmp_path / "model.gguf", "a model in GGUF", "mdsd log --target"),
        (tmp_path / "results.parquet", "per-position results", "mdsd plot"),
        (CASES / "31-containers" / "log.jsonl.gz", "verification steps", "mdsd audit"),
        (CASES / "31-containers" / "log-array.json", "verification steps", "mdsd audit"),
        (CASES / "05-sglang-meta-info" / "draft.json", "one model (SGLang output_top_logprobs)", "mdsd bounds"),
        (CASES / "18-eagle3-d2t" / "draft.safetensors", "one model (arrays)", "mdsd bounds"),
    ]:
        facts, _ = _facts(str(name))
        assert kind in facts.get("recognised as", ""), name
        assert command in facts["next"]
        assert facts["missing"]


def test_a_pair_of_answers_says_which_commands_it_is_not_enough_for() -> None:
    folder = CASES / "05-sglang-meta-info"
    facts, _ = _facts(f"{folder / 'target.json'},{folder / 'draft.json'}")
    assert "compare, advise and report need full rows" in facts["missing"]
    assert facts["next"].startswith("mdsd bounds")


def test_a_file_cannot_speak_for_the_program(tmp_path: Path) -> None:
    value = {"next": [[{"token": "token_id:3", "logprob": -0.1}]]}
    (tmp_path / "x.json").write_text(json.dumps(value))
    facts, _ = _facts(str(tmp_path / "x.json"))
    assert facts["next"].startswith("mdsd bounds")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", '{"answer": "a", "usage": {}}', "JSON with the fields answer, usage.*ask the server.*ids"),
        ("x.json", "[[1, 2], [3]]", "JSON array of lists"),
        ("x.json", '{"answer": "a"', "damaged or ends early"),
        ("x.log", "1: 2; 3 -> 4 %% 5 == 6 [7] {8} (9) // 10\n", "mdsd acceptance"),
    ],
)
def test_unknown_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        _facts(str(tmp_path / name))
