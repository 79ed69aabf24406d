"""Padding and texts beside rows of every form: the same rows are read whether they are logits, states or top tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import open_dump

VOCABULARY, TEXTS, STEPS = 12, 2, 5
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
GENERATOR = np.random.default_rng(4)
STATES = GENERATOR.normal(size=(TEXTS * STEPS, 6)).astype(np.float32)
HEAD = GENERATOR.normal(size=(VOCABULARY, 6)).astype(np.float32)
IDS = GENERATOR.integers(0, VOCABULARY, size=(TEXTS, STEPS))


def _arrays(form: str) -> dict[str, np.ndarray]:
    logits = STATES @ HEAD.T
    if form == "hidden":
        return {"target_hidden_states": STATES, "draft_hidden_states": STATES, "lm_head": HEAD}
    if form == "top-k":
        logs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
        ids = np.tile(np.arange(VOCABULARY), (len(logs), 1))
        return {"target_ids": ids, "target_logprobs": logs, "draft_ids": ids, "draft_logprobs": logs}
    return {"target_logits": logits, "draft_logits": logits}


@pytest.mark.parametrize("form", ["logits", "hidden", "top-k"])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("beside", [["attention_mask"], ["input_ids"], ["attention_mask", "input_ids"]])
def test_padding_and_texts_of_every_form(tmp_path: Path, form: str, flat: bool, beside: list[str]) -> None:
    held = {"attention_mask": MASK, "input_ids": IDS}
    given = {name: held[name].reshape(-1) if flat else held[name] for name in beside}
    np.savez(tmp_path / "pair.npz", **_arrays(form), **given)  # type: ignore[arg-type]
    (batch,) = open_dump(tmp_path / "pair.npz").batches(64)
    mask = (MASK if "attention_mask" in beside else np.ones_like(MASK)) != 0
    if "input_ids" in beside:
        # A row predicts the token after it; a flat text has no border in its middle.
        whole, ids = (mask.reshape(1, -1), IDS.reshape(1, -1)) if flat else (mask, IDS)
        follows = np.zeros_like(whole)
        follows[:, :-1] = whole[:, :-1] & whole[:, 1:]
        mask, tokens = follows.reshape(-1), np.roll(ids, -1, 1).reshape(-1)[follows.reshape(-1)]
        assert batch.token is not None
        assert batch.token.tolist() == tokens.tolist()
    expected = (STATES @ HEAD.T)[mask.reshape(-1)]
    found = batch.target_logits[:, :VOCABULARY].double().softmax(-1).numpy()
    np.testing.assert_allclose(found, np.exp(expected) / np.exp(expected).sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("docs", [(0, 1), (1, 0), (7, 9)])
@pytest.mark.parametrize("flat", [False, True])
def test_heads_are_read_beside_their_rows_whatever_the_documents_are_called(
    tmp_path: Path, docs: tuple[int, int], flat: bool
) -> None:
    target = GENERATOR.normal(size=(TEXTS, STEPS, VOCABULARY)).astype(np.float32)
    draft = GENERATOR.normal(size=(TEXTS, STEPS, 2, VOCABULARY)).astype(np.float32)
    right = draft[:, : STEPS - 2, 1].reshape(-1, VOCABULARY)
    if flat:
        target, draft = target.reshape(-1, VOCABULARY), draft.reshape(-1, 2, VOCABULARY)
    doc = np.repeat(docs, STEPS - 1)
    np.savez(tmp_path / "heads.npz", target_logits=target, draft_logits=draft, input_ids=IDS, doc=doc)
    (batch,) = open_dump(f"{tmp_path / 'heads.npz'}#head=1").batches(64)
    np.testing.assert_array_equal(batch.draft_logits.numpy(), right)
