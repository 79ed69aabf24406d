"""Tiny random models and tokenizers over a handful of letters, for tests and for ``scripts/chaos.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

ONE = [("a", "b"), ("Ġ", "c")]
OTHER = [("c", "a"), ("Ġ", "d"), ("a", "b")]


def tokenizer(merges: list[tuple[str, str]], alphabet: str = "abcdĠĊ") -> Any:
    """A byte-level BPE over a handful of letters."""
    pieces = list(alphabet) + ["".join(pair) for pair in merges] + ["<s>"]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = token_decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def build(folder: Path, seed: int, words: Any, kind: str = "llama", layers: int = 3, width: int | None = None) -> str:
    """A model with random weights, and its tokenizer, in a folder; its path."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": width or len(words),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    config: Any = LlamaConfig(**shape) if kind == "llama" else Qwen2Config(**shape)
    model: Any = LlamaForCausalLM(config) if kind == "llama" else Qwen2ForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.6)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
