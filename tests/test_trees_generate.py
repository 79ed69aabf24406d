"""Decoding as an application does: the same text as plain decoding, and right behaviour where there is no room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mdsd_bounds
from mdsd_bounds.distributions import Warp
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.generate import Plan, generate, generate_with_trees
from mdsd_bounds.trees.named import named_tree
from mdsd_bounds.trees.real import TreeReader

pytest.importorskip("transformers", reason="the extra 'models' is not installed")
from test_trees_real import TEXT, tiny

FOLDER = Path(mdsd_bounds.__file__).parent / "integrations" / "draft_trees"
NEW = 12
#: Draft samplers of builders that do not draw without replacement.
SAMPLER = {"paths": "with_replacement", "dynamic": "top_k", "rsd_c:greedy": "greedy"}


def greedy(model: Any, text: list[int], new: int = NEW, **options: Any) -> list[int]:
    """What plain greedy decoding gives."""
    ids = torch.tensor([text])
    return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0,
                          **options)[0].tolist()  # fmt: skip


def with_trees(model: Any, text: list[int], new: int = NEW, **options: Any) -> list[int]:
    return generate_with_trees(model, torch.tensor([text]), max_new_tokens=new, seed=3, **options)[0].tolist()


@pytest.fixture(scope="module")
def model() -> Any:
    found = tiny(seed=0)
    found.generation_config.eos_token_id = None
    return found


@pytest.mark.parametrize(
    ("tree", "rule"),
    [
        ("chain 4", "block"),
        ("paths 2x3", "greedy_multi_path"),
        ("rsd_c 2,2,1", "traversal"),
        ("rsd_c 3,2", "sweep"),
        ("rsd_c 2,2", "optimal"),
        ("rsd_s 3x3", "recursive"),
        ("sequoia 6:0.5,0.3", "sweep"),
        ("dynamic 5x2x3", "recursive"),
        ("paths 2x2", "k_seq"),
        ("rsd_c:with_replacement 2,2", "k_seq"),
        ("rsd_c:greedy 3,2", "sweep"),
        ("rsd_c:top_m_plus 3,1", "recursive"),
    ],
)
def test_greedy_decoding_gives_the_tokens_of_plain_decoding(model: Any, tree: str, rule: str) -> None:
    assert with_trees(model, TEXT, tree=tree, rule=rule, draft="early-exit:2", do_sample=False) == greedy(model, TEXT)


def test_the_folder_is_loaded_by_generate(model: Any) -> None:
    ids = torch.tensor([TEXT])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), custom_generate=str(FOLDER), trust_remote_code=True,
        assistant_model=tiny(seed=1), tree="rsd_c 2,2", rule="traversal", max_new_tokens=NEW, do_sample=False,
    )  # fmt: skip
    assert found[0].tolist() == greedy(model, TEXT)


def test_a_text_that_ends_inside_a_tree_ends_there(model: Any) -> None:
    plain = greedy(model, TEXT)
    end = plain[len(TEXT) + 4]
    stopped = greedy(model, TEXT, eos_token_id=end)
    for rule in ("recursive", "sweep"):
        options = {"draft": "early-exit:2", "do_sample": False, "eos_token_id": end}
        assert with_trees(model, TEXT, tree="chain 6", rule=rule, **options) == stopped
        assert stopped[-1] == end


def test_trees_fit_the_context_windows(model: Any) -> None:
    # 64 positions: a text of 56 and 9 new tokens fill them; a tree of 5 levels does not fit near the end.
    text = [(7 * i) % 29 for i in range(56)]
    assert with_trees(model, text, 9, tree="chain 5", draft="early-exit:2", do_sample=False) == greedy(model, text, 9)
    with pytest.raises(InputError, match="exceed the context window by 1"):
        with_trees(model, text, 10, tree="chain 5", draft="early-exit:2", do_sample=False)
    # A draft whose window is full before the target's: the rest is decoded without drafts.
    small = tiny(seed=1, max_position_embeddings=58)
    assert with_trees(model, text, 9, tree="chain 5", assistant_model=small, do_sample=False) == greedy(model, text, 9)


def test_no_more_tokens_than_asked_for_and_no_tree_deeper_than_what_is_left(model: Any) -> None:
    readers = TreeReader(model, TEXT), TreeReader(model, TEXT, skip=(2,))
    steps = list(generate(*readers, Plan("rsd_c", "2,2,1", "recursive"), 7, torch.Generator().manual_seed(0)))
    assert sum(len(step.verified.tokens) for step in steps) == 7
    left = 7
    for step in steps:
        assert step.tree.length <= min(3, left - 1)
        left -= len(step.verified.tokens)
    # Without levels one token comes of every pass of the target.
    plain = list(generate(TreeReader(model, TEXT), TreeReader(model, TEXT), Plan("chain", "1", depth=0), 3))
    assert [(len(step.verified.tokens), step.tree.size) for step in plain] == [(1, 0)] * 3
    # The window full: nothing more is emitted.
    full = TreeReader(model, [1] * 65), TreeReader(model, [1] * 65)
    assert list(generate(*full, Plan(), 3)) == []


def test_sampled_text_has_the_targets_distribution() -> None:
    # Three tokens after cutting, fewer than the children asked for at the second level of the draft.
    target, draft = tiny(seed=0, vocab_size=4), tiny(seed=1, vocab_size=4)
    target.generation_config.eos_token_id = None
    reader = TreeReader(target, TEXT[:1], warp=Warp(0.8, top_k=3))
    p = reader.distributions([(), (0,), (1,), (2,), (3,)])
    probs = (p[0][:, None] * p[1:]).flatten()
    samples, count = 400, torch.zeros(16, dtype=torch.float64)
    for seed in range(samples):
        ids = generate_with_trees(
            target, torch.tensor([TEXT[:1]]), assistant_model=draft, tree="rsd_c 4,2", rule="sweep", do_sample=True,
            temperature=0.8, top_k=3, max_new_tokens=2, seed=seed,
        )[0].tolist()  # fmt: skip
        count[4 * ids[1] + ids[2]] += 1
    assert count[probs == 0].sum() == 0
    spread = (probs * (1 - probs) / samples).sqrt()[probs > 0]
    assert float(((count / samples - probs).abs()[probs > 0] / spread).max()) < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree": "paths 2x2", "rule": "traversal"}, "draw without replacement"),
        ({"tree": "rsd_s 2x2", "rule": "sweep"}, "stochastic beam"),
        ({"tree": "oak 3"}, "unknown builder"),
        ({"rule": "oak"}, "unknown rule 'oak'; choose one of recursive, block"),
        ({"tree": "chain:greedy 3"}, "only rsd_c takes another draft sampler"),
        ({"tree": "rsd_c:oak 3"}, "unknown sampler 'oak'"),
        ({"tree": "rsd_c:independent 3"}, "a node has one draft distribution"),
        ({"tree": "rsd_c:top_k 2", "rule": "k_seq"}, "not made for the sampler"),
        ({"tree": "chain"}, "length, for example 5"),
        ({"draft": None}, "give assistant_model"),
        ({"draft": "early-exit:9"}, "layers to keep"),
        ({"draft": "prompt-lookup"}, "early-exit:K or skip-layers"),
        ({"num_beams": 2}, "num_beams=2"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"logits_processor": [len]}, "logits_processor"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, "without padding"),
    ],
)
def test_what_cannot_be_done_is_said(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_trees(model, TEXT, **{"draft": "early-exit:2", "do_sample": False, **options})


def test_one_text_at_a_time(model: Any) -> None:
    with pytest.raises(InputError, match="one text"):
        generate_with_trees(model, torch.tensor([TEXT, TEXT]), draft="early-exit:2", max_new_tokens=3)
    with pytest.raises(InputError, match="at least 1"):
        list(generate(TreeReader(model, TEXT), TreeReader(model, TEXT), Plan(), 0))


@pytest.mark.parametrize(
    ("builder", "shape"),
    [
        ("chain", "4"),
        ("paths", "2x4"),
        ("rsd_c", "2,2,1,1"),
        ("rsd_c:greedy", "2,2,1,1"),
        ("rsd_s", "2x4"),
        ("sequoia", "6:0.6"),
        ("dynamic", "6x2x4"),
    ],
)
def test_shapes_are_built_as_deep_as_there_is_room(model: Any, builder: str, shape: str) -> None:
    for depth in (0, 1, 2, 9):
        reader = TreeReader(model, TEXT)
        tree = named_tree(builder, shape, depth=depth)(reader.distributions, torch.Generator().manual_seed(0))
        assert tree.length <= min(depth, 6)
        assert (tree.length > 0) == (depth > 0)
        assert max(map(len, tree.paths)) == tree.length
        assert tree.sampler == SAMPLER.get(builder, "without_replacement")
