"""A dump of intervals from servers: the text is read by the target's server, and by the draft's or a model here.

A prompt is the unit of work and of resuming.  What is stored of each position is what the servers answered, the k most
probable tokens and what they leave open, in the form of ``mdsd log --store top-k``; answers pass the readers and the
gate that files of such answers pass, so that nothing is believed that a file would not be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.progress import Report, to_stderr
from mdsd_bounds.dumps import open_side
from mdsd_bounds.dumps.single_model import UNSTATED_WIDTH, Side, pair_sides
from mdsd_bounds.dumps.top_k_rows import joined, top_k_arrays
from mdsd_bounds.models.array_writer import ArrayWriter
from mdsd_bounds.models.forward import read_rows
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.models.prompts import given_texts, texts_digest
from mdsd_bounds.models.servers import Server, prompt_logprobs, served_model
from mdsd_bounds.problem import InputError

#: Between two lines of progress.
QUIET_SECONDS = 5.0
#: Rows made dense at once.
_ROWS = 64


@dataclass(frozen=True)
class ServerSettings:
    """What is asked for.

    Attributes
    ----------
    top_k : int
        Tokens of each position.
    vocabulary : int or None
        Tokens of the models; servers do not say.
    new_tokens : int or None
        Positions of each prompt at most.
    max_positions : int or None
        Positions in all.
    """

    top_k: int = 20
    vocabulary: int | None = None
    new_tokens: int | None = None
    max_positions: int | None = None

    def __post_init__(self) -> None:
        for name in ("top_k", "vocabulary", "new_tokens", "max_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value!r}: give an integer of at least 1")


def log_servers(
    target: Server,
    draft: Server | LoadedModel,
    prompts: Sequence[str] | str | Path,
    out: str | Path,
    settings: ServerSettings | None = None,
    report: Report = to_stderr,
) -> Path:
    """Log what servers say of prompts; the same call after an interruption resumes it.  Returns the folder.

    Parameters
    ----------
    target : Server
        The target's server.
    draft : Server or LoadedModel
        The draft's server, or a model of :func:`mdsd_bounds.models.loading.load_model` with the same tokenizer; a model
        needs a server that answers the token ids of the prompt.
    prompts : sequence of str, or str or Path
        Texts, one document each, or a file as :func:`mdsd_bounds.models.prompts.read_prompts`.
    out : str or Path
        Folder of the dump.
    settings : ServerSettings
        See there.
    report : callable
        Receives lines of progress; stderr by default.

    Raises
    ------
    InputError
        If a server cannot be reached or answers no prompt log-probabilities, the tokens of the two differ, a prompt is
        a single token, the disk is full, or the folder holds another run's dump.

    Examples
    --------
    With servers that are up, the call is the same and gives the folder of the dump:

    >>> from mdsd_bounds import InputError
    >>> from mdsd_bounds.models import Server, log_servers
    >>> target, draft = Server("http://127.0.0.1:9/v1", "large", tries=1), Server("http://127.0.0.1:9/v1", "small")
    >>> try:
    ...     log_servers(target, draft, ["What is a speculative decoder?"], "my_dump")
    ... except InputError as error:
    ...     print(error)
    http://127.0.0.1:9/v1...
    """
    settings = settings or ServerSettings()
    texts = given_texts(prompts)
    if not texts:
        raise InputError("no prompts: give at least one")
    names = [served_model(one) if isinstance(one, Server) else "" for one in (target, draft)]
    width = settings.vocabulary or UNSTATED_WIDTH
    writer = ArrayWriter(out, _facts(target, draft, names, texts, settings))
    writer.put("vocabulary", {"vocabulary": torch.tensor(width)})
    if writer.complete:
        report(f"{out}: already complete, {writer.rows} positions")
        return Path(out)
    first, already = writer.parts, writer.rows
    if first:
        report(f"{out}: goes on after {first} of {len(texts)} prompts, {already} positions")
    begun = last_reported = time.monotonic()
    for number in range(first, len(texts)):
        left = None if settings.max_positions is None else settings.max_positions - writer.rows
        if left is not None and left <= 0:
            break
        rows = _document(target, draft, names, texts[number], settings.top_k, f"prompt {number}")
        arrays = _arrays(*rows, width, settings, number, left)
        writer.append(arrays)
        now = time.monotonic()
        if now - last_reported >= QUIET_SECONDS or number + 1 == len(texts):
            last_reported, done = now, number + 1 - first
            rate, ahead = (writer.rows - already) / (now - begun), (now - begun) / done * (len(texts) - number - 1)
            report(
                f"{number + 1} of {len(texts)} prompts, {writer.rows} positions, {rate:.1f} a second, {ahead:.0f} s "
                "left"
            )
    writer.close()
    return Path(out)


def _facts(
    target: Server, draft: Server | LoadedModel, names: list[str], texts: list[str], settings: ServerSettings
) -> dict[str, Any]:
    # Where a server listens does not matter, what it serves does.
    other = {"served": names[1]} if isinstance(draft, Server) else draft.identity
    stated = {"new_tokens": settings.new_tokens, "max_positions": settings.max_positions}
    return {
        "target": {"served": names[0]},
        "draft": other,
        "settings": {"mode": "teacher_forced", **stated, "vocabulary": settings.vocabulary},
        "prompts_sha256": texts_digest(texts),
        "store": "top-k",
        "support": "top-k",
        "top_k": settings.top_k,
        "hidden_sizes": None,
    }


def _document(
    target: Server, draft: Server | LoadedModel, names: list[str], text: str, k: int, where: str
) -> tuple[Side, Side, str]:
    """One text as both models read it."""
    answer = prompt_logprobs(target, names[0], text, k)
    ids = _ids_of(answer)
    first = _side(answer, f"{target.base}, {where}")
    if isinstance(draft, Server):
        other = prompt_logprobs(draft, names[1], text if ids is None else ids, k)
        return first, _side(other, f"{draft.base}, {where}"), where
    if ids is None:
        raise InputError(
            f"{target.base}, {where}: the answer holds no prompt_token_ids, without which a draft model cannot read "
            "the text; give --draft-url, or a server that answers them (vLLM)"
        )
    own = list(draft.tokenizer(text, verbose=False)["input_ids"])
    if own != ids:
        raise InputError(
            f"{where}: the draft's tokenizer makes {len(own)} tokens of it, other ones than the server's {len(ids)}; "
            "the models need one tokenizer"
        )
    logits = read_rows(draft.model, [ids], [1])

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return logits[start:stop], None

    columns = {"token": torch.tensor(ids[1:])}
    side = Side(where, "model", len(ids) - 1, int(logits.shape[1]), "float32", read, columns, shift="same")
    return first, side, where


def _ids_of(answer: dict[str, Any]) -> list[int] | None:
    held = answer.get("prompt_token_ids")
    for choice in answer.get("choices", []):
        held = held or (choice.get("prompt_token_ids") if isinstance(choice, dict) else None)
    return held if isinstance(held, list) and all(isinstance(token, int) for token in held) else None


def _side(answer: dict[str, Any], where: str) -> Side:
    """An answer through the reader of files of answers; its rows are read before the file is gone."""
    with TemporaryDirectory(prefix="mdsd-answer-") as folder:
        file = Path(folder) / "answer.json"
        file.write_text(json.dumps(answer))
        try:
            return open_side(file)
        except InputError as error:
            raise InputError(f"{where}: {str(error).replace(str(file), 'the answer')}") from error


def _arrays(
    target: Side, draft: Side, where: str, width: int, settings: ServerSettings, number: int, left: int | None
) -> dict[str, Tensor]:
    """The rows of a document in the arrays of a top-k dump."""
    if (largest := max(target.largest, draft.largest)) >= width:
        raise InputError(f"{where}: names token {largest}, but --vocabulary is {width}; give the models' own number")
    # Rows become dense for the gate that every reader passes: no wider than the models are.
    first, second = (replace(side, width=side.width or width) for side in (target, draft))
    dump = pair_sides(first, second, where)
    limits = [limit for limit in (len(dump), settings.new_tokens, left) if limit is not None]
    parts = []
    for batch in dump.batches(_ROWS, 0, min(limits)):
        assert batch.token is not None
        sides = (batch.target_logits, batch.target_cut), (batch.draft_logits, batch.draft_cut)
        # One more than asked for: the prompt's own token may stand beside the k most probable ones.
        parts.append(top_k_arrays(*sides, settings.top_k + 1) | {"token": batch.token})
    found = joined(parts)
    rows = len(found["token"])
    return found | {"doc": torch.full((rows,), number), "position": torch.arange(1, rows + 1)}
