"""A tiny random target over characters, and tasks for it: what tests of mining need."""

from __future__ import annotations

from typing import Any

import torch

from mdsd_bounds.judge import Task
from mdsd_bounds.models.loading import LoadedModel


class Characters:
    """A tokenizer of one token a character."""

    eos_token_id = 0

    def __call__(self, text: str, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, tokens: Any) -> str:
        return "".join(chr(int(token)) for token in tokens)


def tiny_target(seed: int = 0) -> LoadedModel:
    """Three layers, so that an early exit is another model."""
    transformers = __import__("transformers")
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return LoadedModel(
        transformers.Qwen2ForCausalLM(config).eval(), Characters(), {"source": "tiny", "sha256": "0" * 64}
    )


def tiny_tasks(count: int = 3) -> list[Task]:
    """Functions that add a number."""
    return [
        Task(
            f"tiny/{i}",
            f'def f(x):\n    """Add {i}{"." * i}"""\n',
            f"    return x + {i}\n",
            f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
            "f",
        )
        for i in range(count)
    ]
