"""Trees on real models: the logits of a tree-masked call are those of each path read alone, cached or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import real
from mdsd_bounds.trees.real import TreeReader

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

TEXT = [3, 14, 15, 9, 2, 6]
#: Levels out of order, a repeated token on different branches, and a node whose parent is only implied.
PATHS = [(7,), (5,), (7, 5), (7, 7), (5, 7), (5, 7, 1, 4), ()]


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
        torch.testing.assert_close(logits, alone(model, [*TEXT, *path]), atol=1e-10, rtol=0)
    assert [tokens for tokens, _ in reader.calls] == [len(TEXT) + 7]


def test_levels_and_accepted_paths_read_from_the_cache() -> None:
    model = tiny()
    reader = TreeReader(model, TEXT)
    for level in ([()], [(7,), (5,)], [(7, 5), (7, 7), (5, 7)]):
        reader.read(level)
    assert [tokens for tokens, _ in reader.calls] == [len(TEXT), 2, 3]
    reader.read([(7, 5), (5,)])
    assert len(reader.calls) == 3
    fork = reader.clone()
    reader.advance([7, 5, 11])  # a path of the tree and one token more
    torch.testing.assert_close(reader.logits([(2,)])[0], alone(model, [*TEXT, 7, 5, 11, 2]), atol=1e-10, rtol=0)
    assert reader.calls[-1][0] == 2
    assert reader.length == len(TEXT) + 3
    fork.advance([5, 7])  # the whole is cached: nothing is read again
    assert len(fork.calls) == 0
    torch.testing.assert_close(fork.logits([()])[0], alone(model, [*TEXT, 5, 7]), atol=1e-10, rtol=0)
    assert len(fork.calls) == 0
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


@pytest.mark.models
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_smollm2_trees_and_early_exit() -> None:
    from mdsd_bounds.models.loading import load_model

    folder = Path(os.environ.get("MDSD_MODELS", Path(__file__).parent.parent / "models")) / "smollm2-135m"
    if not folder.exists():
        pytest.skip("smollm2-135m is absent; python scripts/fetch_models.py smollm2-135m")
    loaded = load_model(str(folder))
    text = list(loaded.tokenizer("def add(a, b):\n    return")["input_ids"])
    for skip in ((), tuple(range(24, 30))):
        reader = TreeReader(loaded.model, text, skip=skip)
        reader.read([()])
        for path, logits in zip(PATHS, reader.logits(PATHS), strict=True):
            # Float32 through 30 layers: the order of sums differs between the two calls.
            torch.testing.assert_close(logits, alone(loaded.model, [*text, *path], skip), atol=2e-3, rtol=0)
