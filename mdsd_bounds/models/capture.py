"""Run a target and a draft over the same text and write the logits of both as a native dump.

Prompts are cut into batches of fixed size; a batch is the unit of work and of resuming.  Its text depends only on the
seed and the batch, so a run that was killed continues with the same command to the same bytes.  Within a batch the
target continues its prompts (key-value cache), each token drawn from its own softmax at the given temperature; the
draft then reads the same text in one pass.  Row t of a document is the law of the token that follows position t.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.distributions import align_widths
from mdsd_bounds.dumps.native import DumpWriter
from mdsd_bounds.models.loading import LoadedModel, load_model
from mdsd_bounds.problem import InputError

Report = Callable[[str], None]


@dataclass(frozen=True)
class CaptureSettings:
    """How text is made and what is stored.

    Attributes
    ----------
    new_tokens : int
        Positions logged per prompt.
    temperature : float
        Of the sampling that makes the text (mode ``sampled``).
    mode : str
        ``sampled``: the target continues each prompt.  ``teacher_forced``: the prompt itself is the text.
    seed : int
        With the number of the batch, determines every draw.
    batch_size : int
        Prompts of a batch.
    store_dtype : str
        Dtype of the stored logits.
    max_prompt_tokens : int
        Longer prompts are refused, never cut.
    """

    new_tokens: int = 32
    temperature: float = 1.0
    mode: str = "sampled"
    seed: int = 0
    batch_size: int = 16
    store_dtype: str = "float16"
    max_prompt_tokens: int = 2048


def log_pair(
    target: str,
    draft: str,
    prompts: Sequence[str],
    out: str | Path,
    settings: CaptureSettings | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    max_positions: int | None = None,
    notes: dict[str, Any] | None = None,
    report: Report | None = None,
) -> Path:
    """Log a pair over prompts; the same call after an interruption goes on where it stopped.

    Parameters
    ----------
    target, draft : str
        As :func:`mdsd_bounds.models.loading.load_model`.
    prompts : sequence of str
        One document each; document numbers are their places in the sequence.
    out : str or Path
        Folder of the native dump.
    settings : CaptureSettings
        See there.
    dtype, device : str
        Of the computation.
    max_positions : int or None
        Stop after the batch that reaches this number; the rest is cut.
    notes : dict
        Kept in the manifest beside models, versions and settings.
    report : callable
        Receives one line per batch (rate, time left); stderr by default.

    Returns
    -------
    Path
        The dump's folder.

    Raises
    ------
    InputError
        On prompts that are empty or too long, tokenizers that differ, or models that cannot be loaded.
    """
    settings = settings or CaptureSettings()
    report = report or (lambda line: print(line, file=sys.stderr, flush=True))
    if settings.mode not in ("sampled", "teacher_forced"):
        raise InputError(f"mode {settings.mode!r}: choose sampled or teacher_forced")
    first = load_model(target, dtype, device)
    second = load_model(draft, dtype, device)
    refuse_other_tokenizer(first, second)
    documents = encode(first.tokenizer, prompts, settings)
    facts = {
        "target": first.identity,
        "draft": second.identity,
        "settings": settings.__dict__,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **(notes or {}),
    }
    store = getattr(torch, settings.store_dtype)
    with DumpWriter(out, shard_rows=settings.new_tokens * settings.batch_size, notes=facts) as writer:
        if writer.complete:
            report(f"{out}: already complete, {writer.rows} positions")
            return Path(out)
        begun, skipped = time.monotonic(), writer.rows
        total = _total(documents, settings, max_positions)
        for number, rows in _batches(documents, settings, writer.rows, max_positions):
            part = documents[number * settings.batch_size : (number + 1) * settings.batch_size]
            text, laws = _target_pass(first, part, settings, number)
            draft_laws = _read(second.model, text, [len(document) for document in part], settings)
            a, b, _ = align_widths(laws, draft_laws, str(out))
            columns = _columns(text, part, number, settings)
            writer.append(a.to(store)[:rows], b.to(store)[:rows], **{k: v[:rows] for k, v in columns.items()})
            done, spent = writer.rows, time.monotonic() - begun
            rate = (done - skipped) / spent if done > skipped else float("nan")
            left = (total - done) / rate if rate > 0 else float("nan")
            report(f"{done} of {total} positions, {rate:.1f} a second, {left:.0f} s left")
    return Path(out)


def encode(tokenizer: Any, prompts: Sequence[str], settings: CaptureSettings) -> list[list[int]]:
    """Token ids of each prompt; ``teacher_forced`` needs at least one token more than the first.

    Raises
    ------
    InputError
        Naming the prompt that is empty or too long.
    """
    documents = []
    for number, prompt in enumerate(prompts):
        ids = list(tokenizer(prompt)["input_ids"])
        if len(ids) < (2 if settings.mode == "teacher_forced" else 1):
            raise InputError(f"prompt {number}: empty; remove it or give it text")
        if len(ids) > settings.max_prompt_tokens:
            limit = settings.max_prompt_tokens
            raise InputError(f"prompt {number}: {len(ids)} tokens, more than {limit}; shorten it or raise the limit")
        documents.append(ids)
    if not documents:
        raise InputError("no prompts: the prompt file is empty")
    return documents


def refuse_other_tokenizer(first: LoadedModel, second: LoadedModel) -> None:
    """Refuse pairs whose tokenizers give different ids for the same text.

    Raises
    ------
    InputError
        Naming the first token that differs.
    """
    a, b = first.tokenizer.get_vocab(), second.tokenizer.get_vocab()
    different = next((token for token, index in a.items() if b.get(token, index) != index), None)
    if different is not None or abs(len(a) - len(b)) > 128:
        raise InputError(
            f"{second.identity['source']}: its tokenizer differs from the target's "
            f"({f'token {different!r}' if different else f'{len(b)} against {len(a)} tokens'}); "
            "use a draft of the same family, or map the vocabularies"
        )


def _total(documents: list[list[int]], settings: CaptureSettings, limit: int | None) -> int:
    rows = sum(_rows(document, settings) for document in documents)
    return rows if limit is None else min(rows, limit)


def _rows(document: list[int], settings: CaptureSettings) -> int:
    return settings.new_tokens if settings.mode == "sampled" else min(len(document) - 1, settings.new_tokens)


def _batches(
    documents: list[list[int]], settings: CaptureSettings, written: int, limit: int | None
) -> Iterator[tuple[int, int]]:
    """``(batch, rows to keep)`` for every batch that is not on disk yet."""
    start = 0
    for number in range(-(-len(documents) // settings.batch_size)):
        part = documents[number * settings.batch_size : (number + 1) * settings.batch_size]
        size = sum(_rows(document, settings) for document in part)
        keep = size if limit is None else min(size, limit - start)
        if keep > 0 and start + keep > written:
            yield number, keep
        start += size


def _target_pass(
    loaded: LoadedModel, part: list[list[int]], settings: CaptureSettings, number: int
) -> tuple[list[list[int]], Tensor]:
    """The text of a batch and the target's logits over it ``[rows, V]``, document by document."""
    if settings.mode == "teacher_forced":
        text = [document[: settings.new_tokens + 1] for document in part]
        return text, _read(loaded.model, text, [1] * len(text), settings)
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    ids, mask = _left_pad(part)
    ids, mask = ids.to(loaded.model.device), mask.to(loaded.model.device)
    text, steps, cache = [list(document) for document in part], [], None
    for step in range(settings.new_tokens):
        output = _forward(loaded.model, ids if step == 0 else ids[:, -1:], mask, cache, 1)
        cache = output.past_key_values
        logits = output.logits[:, -1].float().cpu()
        steps.append(logits.to(getattr(torch, settings.store_dtype)))
        token = _draw(logits, settings.temperature, generator)
        for document, choice in zip(text, token.tolist(), strict=True):
            document.append(choice)
        ids = torch.cat([ids, token[:, None].to(ids.device)], -1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return text, torch.stack(steps, 1).flatten(0, 1)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    law = torch.softmax(logits.double() / temperature, -1)
    return torch.multinomial(law, 1, generator=generator)[:, 0]


def _read(model: Any, text: list[list[int]], starts: list[int], settings: CaptureSettings) -> Tensor:
    """Logits ``[rows, V]`` of the laws of tokens ``starts[d]``.. of each document, in one pass."""
    # The last token's own law is not wanted: nothing follows it.
    ids, mask = _left_pad([document[:-1] for document in text])
    kept = max(len(document) - start for document, start in zip(text, starts, strict=True))
    logits = _forward(model, ids.to(model.device), mask.to(model.device), None, kept).logits
    rows = [logits[i, -(len(document) - starts[i]) :] for i, document in enumerate(text)]
    return torch.cat(rows).float().cpu().to(getattr(torch, settings.store_dtype))


def _left_pad(documents: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(len(document) for document in documents)
    ids = torch.tensor([[0] * (width - len(document)) + document for document in documents])
    mask = torch.tensor([[0] * (width - len(document)) + [1] * len(document) for document in documents])
    return ids, mask


def _forward(model: Any, ids: Tensor, mask: Tensor, cache: Any, kept: int) -> Any:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    with torch.inference_mode(), warnings.catch_warnings():
        # The name of the cache argument changed between releases of transformers; both are accepted for now.
        warnings.simplefilter("ignore", FutureWarning)
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=kept,
        )


def _columns(text: list[list[int]], part: list[list[int]], number: int, settings: CaptureSettings) -> dict[str, Tensor]:
    documents, positions, tokens = [], [], []
    for i, (whole, prompt) in enumerate(zip(text, part, strict=True)):
        start = 1 if settings.mode == "teacher_forced" else len(prompt)
        for place in range(start, len(whole)):
            documents.append(number * settings.batch_size + i)
            positions.append(place)
            tokens.append(whole[place])
    return {"doc": torch.tensor(documents), "position": torch.tensor(positions), "token": torch.tensor(tokens)}
