"""Run a target and a draft over the same text and write the distributions of both: logits, hidden states or top-k.

Prompts are cut into batches of fixed size; a batch is the unit of work and of resuming.  Its text depends only on the
seed, the batch's number and its prompts, so a run that was killed continues with the same command to the same bytes
(on the same machine, library versions and number of threads).  In mode ``sampled`` the target continues its prompts
with a key-value cache, each token drawn from its own softmax; the draft then reads the same text in one pass.  A row is
the distribution of the token recorded beside it, whose place in the document is ``position``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.progress import Report, to_stderr
from mdsd_bounds.models.capture_settings import CaptureSettings as CaptureSettings
from mdsd_bounds.models.drafts import Draft, make_draft
from mdsd_bounds.models.dump_writers import STORES, Store, open_writer
from mdsd_bounds.models.finished import finished_rows
from mdsd_bounds.models.forward import forward, head_inputs, left_pad, read_rows
from mdsd_bounds.models.loading import LoadedModel, load_model, require_transformers
from mdsd_bounds.models.prompts import given_texts, texts_digest
from mdsd_bounds.models.vocabulary import mass_outside
from mdsd_bounds.problem import InputError

#: Within a batch, progress is said this often.
QUIET_SECONDS = 20.0


def log_pair(
    target: str | LoadedModel,
    draft: str,
    prompts: Sequence[str] | str | Path,
    out: str | Path,
    settings: CaptureSettings | None = None,
    *,
    token_map: str | None = None,
    notes: dict[str, Any] | None = None,
    report: Report = to_stderr,
) -> Path:
    """Log a pair over prompts; the same call after an interruption goes on where it stopped.  Returns the folder.

    Parameters
    ----------
    target : str or LoadedModel
        As :func:`mdsd_bounds.models.loading.load_model` takes it, or what it gave.
    draft : str
        As :func:`mdsd_bounds.models.drafts.make_draft`: a model, or ``early-exit:K``, ``skip-layers:4-9``,
        ``prompt-lookup`` or ``chimera:FOLDER`` for a draft made from the target alone.
    prompts : sequence of str, or str or Path
        One document each, numbered by place in the sequence; or a file as
        :func:`mdsd_bounds.models.prompts.read_prompts`.
    out : str or Path
        Folder of the dump: native for full logits, named arrays for the small forms.
    settings : CaptureSettings
        See there.
    token_map : str or None
        For pairs of different vocabularies: ``intersection`` or a file, see ``make_draft``.
    notes : dict
        Kept in the manifest beside models, versions and settings.
    report : callable
        Receives one line per batch (rate, time left); stderr by default.

    Raises
    ------
    InputError
        On settings out of range, prompts that are empty or too long, tokenizers that differ, models that cannot be
        loaded, a draft without hidden states where these are to be stored, a full disk, or a folder that holds another
        run's dump.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds import open_dump
    >>> from mdsd_bounds.models import CaptureSettings, log_pair, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target, draft = tiny_model(folder / "target"), tiny_model(folder / "draft", noise=0.05)
    >>> settings = CaptureSettings(new_tokens=4)
    >>> made = log_pair(target, draft, ["a cab", "b"], folder / "dump", settings, report=lambda line: None)
    >>> batch = next(open_dump(made).batches(8))
    >>> batch.target_logits.shape, batch.doc.tolist(), batch.position.tolist()
    (torch.Size([8, 260]), [0, 0, 0, 0, 1, 1, 1, 1], [3, 4, 5, 6, 1, 2, 3, 4])
    """
    settings = settings or CaptureSettings()
    _check(settings)
    texts = given_texts(prompts)
    require_transformers()
    facts: dict[str, Any] = {
        "settings": _stated(settings),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "prompts_sha256": texts_digest(texts),
        **({} if settings.max_positions is None else {"max_positions": settings.max_positions}),
        **(notes or {}),
    }
    if isinstance(target, str):
        rows = finished_rows(Path(out), settings, facts, target, draft, token_map)
        if rows is not None:
            report(f"{out}: already complete, {rows} positions")
            return Path(out)
        report(f"loading {target} and {draft}")
    first = load_model(target, settings.dtype, settings.device) if isinstance(target, str) else target
    second = make_draft(draft, first, settings.dtype, settings.device, token_map)
    documents = encode(first.tokenizer, texts, settings)
    facts = {"target": first.identity, "draft": second.identity, **facts}
    store = open_writer(settings, out, facts, (first, second), documents[0])
    if store.complete:
        report(f"{out}: already complete, {store.rows} positions")
        return Path(out)
    _write(first, second, documents, settings, store, report)
    store.close()
    return Path(out)


def _stated(settings: CaptureSettings) -> dict[str, Any]:
    """The settings that matter to the rows: of the small forms the manifest says the rest."""
    stated = asdict(settings)
    unused = {"store", "top_k", "max_positions", "dtype", "device"}
    unused |= set() if settings.store == "logits" else {"store_dtype"}
    return {name: value for name, value in stated.items() if name not in unused}


def _write(
    target: LoadedModel,
    draft: Draft,
    documents: list[list[int]],
    settings: CaptureSettings,
    store: Store,
    report: Report,
) -> None:
    begun = time.monotonic()
    total = sum(_rows(document, settings) for document in documents)
    limit = settings.max_positions
    total = total if limit is None else min(total, limit)
    hidden = settings.store == "hidden"
    read = draft.read_hidden if hidden else draft.read
    assert read is not None
    done = already = store.rows
    if done:
        report(f"{store.path}: goes on after {done} of {total} positions")
    for number, cut in _batches(documents, settings, done, limit):
        part = documents[number * settings.batch_size : (number + 1) * settings.batch_size]
        text, starts, rows = _target_pass(target, part, settings, number, report)
        draft_rows = read(text, starts)[cut]
        columns = _columns(text, starts, number * settings.batch_size)
        store.append(rows[cut], draft_rows, {column: values[cut] for column, values in columns.items()})
        done += draft_rows.shape[0]
        rate = (done - already) / (time.monotonic() - begun)
        line = f"{done} of {total} positions, {rate:.1f} a second, {(total - done) / rate:.0f} s left"
        if draft.support == "mapped" and not hidden:
            outside = mass_outside(draft_rows)
            line += f"; draft mass outside the target's vocabulary: mean {outside.mean():.3g}, max {outside.max():.3g}"
        report(line)


def encode(tokenizer: Any, prompts: Sequence[str], settings: CaptureSettings) -> list[list[int]]:
    """Token ids of each prompt; ``teacher_forced`` needs at least one token more than the first.

    Raises
    ------
    InputError
        Naming the prompt that is empty or too long.
    """
    documents = []
    for number, prompt in enumerate(prompts):
        # Warnings of a length the model does not reach are the tokenizer's; the limit below is ours.
        ids = list(tokenizer(prompt, verbose=False)["input_ids"])
        if len(ids) < (2 if settings.mode == "teacher_forced" else 1):
            raise InputError(f"prompt {number}: empty or a single token; remove it or give it text")
        if len(ids) > settings.max_prompt_tokens:
            limit = settings.max_prompt_tokens
            raise InputError(f"prompt {number}: {len(ids)} tokens, more than {limit}; shorten it or raise the limit")
        documents.append(ids)
    if not documents:
        raise InputError("no prompts: give at least one")
    return documents


def _check(settings: CaptureSettings) -> None:
    if settings.mode not in ("sampled", "teacher_forced"):
        raise InputError(f"mode {settings.mode!r}: choose sampled or teacher_forced")
    if settings.store_dtype not in ("float16", "bfloat16", "float32"):
        raise InputError(f"store_dtype {settings.store_dtype!r}: choose float16, bfloat16 or float32")
    if settings.store not in STORES:
        raise InputError(f"store {settings.store!r}: choose {', '.join(STORES)}")
    if not 0 <= settings.temperature < float("inf"):
        raise InputError(f"temperature {settings.temperature!r}: give a finite number of at least 0")
    for name in ("new_tokens", "batch_size", "top_k", "max_prompt_tokens", "max_positions"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"{name} {value!r}: give an integer of at least 1")


def _rows(document: list[int], settings: CaptureSettings) -> int:
    return settings.new_tokens if settings.mode == "sampled" else min(len(document) - 1, settings.new_tokens)


def _batches(
    documents: list[list[int]], settings: CaptureSettings, written: int, limit: int | None
) -> Iterator[tuple[int, slice]]:
    """``(batch, rows of it that are wanted and not yet on disk)``; shards need not end where batches do."""
    first = 0
    for number in range(-(-len(documents) // settings.batch_size)):
        part = documents[number * settings.batch_size : (number + 1) * settings.batch_size]
        size = sum(_rows(document, settings) for document in part)
        low = max(written - first, 0)
        high = size if limit is None else min(size, limit - first)
        if low < high:
            yield number, slice(low, high)
        first += size


def _target_pass(
    loaded: LoadedModel, part: list[list[int]], settings: CaptureSettings, number: int, report: Report
) -> tuple[list[list[int]], list[int], Tensor]:
    """The text of a batch, where its wanted places start, and the target's rows there, document by document.

    Rows are logits, or hidden states where these are stored.
    """
    hidden = settings.store == "hidden"
    if settings.mode == "teacher_forced":
        text, starts = [document[: settings.new_tokens + 1] for document in part], [1] * len(part)
        return text, starts, read_rows(loaded.model, text, starts, hidden=hidden)
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    ids, mask = (x.to(loaded.model.device) for x in left_pad(part))
    text, steps, cache = [list(document) for document in part], [], None
    last_reported = time.monotonic()
    for step in range(settings.new_tokens):
        with head_inputs(loaded.model) as states:
            output, cache = forward(loaded.model, ids, mask, cache)
        logits = output[:, -1].float().cpu()
        steps.append(states[-1][:, -1].cpu() if hidden else logits)
        token = _draw(logits, settings.temperature, generator)
        for document, choice in zip(text, token.tolist(), strict=True):
            document.append(choice)
        ids = token[:, None].to(mask.device)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        if time.monotonic() - last_reported > QUIET_SECONDS:
            last_reported = time.monotonic()
            report(f"batch {number}: {step + 1} of {settings.new_tokens} tokens drawn for {len(part)} prompts")
    return text, [len(document) for document in part], torch.stack(steps, 1).flatten(0, 1)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits.double() / temperature, -1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def _columns(text: list[list[int]], starts: list[int], first: int) -> dict[str, Tensor]:
    places = [(first + i, place) for i, start in enumerate(starts) for place in range(start, len(text[i]))]
    return {
        "doc": torch.tensor([doc for doc, _ in places]),
        "position": torch.tensor([place for _, place in places]),
        "token": torch.tensor([text[doc - first][place] for doc, place in places]),
    }
