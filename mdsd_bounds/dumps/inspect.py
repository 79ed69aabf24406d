"""Facts of a dump for people and for JSON: what it holds, what to beware of, and what each form of it takes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.underflow import LOG_NORMAL, log_range
from mdsd_bounds.distributions import pad_mass, peak_of
from mdsd_bounds.dumps.base import CUTS, Dump, Facts

#: Tokens kept in the top-k form whose size is stated.
TOP_K = 64
#: Fact that ``mdsd inspect --verify`` adds.
VERIFIED = "verified"
_BLOCK = 32
_SHIFT = {"next": "the next token, the one recorded beside it", "same": "token t"}


def inspect(dump: Dump) -> dict[str, Any]:
    """Facts and notes as a flat mapping (:func:`facts_and_notes`)."""
    facts, notes = facts_and_notes(dump)
    return facts | notes


def facts_and_notes(dump: Dump) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this program found out about a dump, and what the dump and its reader say of it.

    The first rows are read for their pad or missing mass and for the recorded tokens.
    """
    facts = dump.facts
    width = min(facts.target_width, facts.draft_width)
    target, draft, columns = dump.read_rows(0, min(_BLOCK, facts.rows))
    roles = (("target", target), ("draft", draft))
    for name, rows in roles:
        # Here the file's name is known, for the message.
        peak_of(rows[:1], f"{facts.path} {name}_logits")
    pads = [float(pad_mass(rows[:1], width)[0]) for _, rows in roles]
    lines: dict[str, Any] = {
        "path": facts.path,
        "format": facts.format,
        "positions": facts.rows,
        "documents": _documents(dump) if "doc" in columns else "not recorded",
        "vocabulary": width,
        "target width": facts.target_width,
        "draft width": facts.draft_width,
        "pad mass, first row": f"target {pads[0]:.3g}, draft {pads[1]:.3g}",
        "kind": facts.kind,
        "support": facts.support,
        "row t is the law of": _SHIFT.get(facts.shift, facts.shift),
        "stage": facts.stage,
        "dtype": facts.dtype,
        "columns": ", ".join(name for name in columns if name not in CUTS) or "none",
    }
    for name, rows in roles:
        if (cut := columns.get(f"{name}_cut")) is not None:
            stored = int((rows[0] > -float("inf")).sum())
            lines[f"{name}, first row"] = (
                f"{stored} tokens known, {float(cut[0, 0]):.3g} to {float(cut[0, 1]):.3g} of the mass is not: "
                "bounds are intervals"
            )
    lines["probabilities below 2.2e-308"] = _underflow(target, draft)
    if "token" in columns:
        lines["log p of the recorded tokens"] = _likelihood(target, draft, columns, width)
    lines |= sizes(facts)
    return lines, notes_beside(lines, facts.notes)


def notes_beside(lines: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes under names that no fact has, nor one that reads like it.

    A dump says what it likes in its notes, and must not speak for this program.
    """
    taken = {_bare(name) for name in [*lines, VERIFIED]}
    found: dict[str, Any] = {}
    for name, value in notes.items():
        plain = str(name)
        while _bare(plain) in taken or plain in found:
            plain = f"note: {plain}"
        found[plain] = value
    return found


def _bare(name: str) -> str:
    """A name as the eye takes it: without case, spaces and what is not seen."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())


def sizes(facts: Facts) -> dict[str, str]:
    """Bytes a position and in all: as stored, and in the other forms that :mod:`mdsd_bounds.models.dump_writers`
    lists."""
    full, top = 2 * (facts.target_width + facts.draft_width), 2 * (12 * TOP_K + 32)
    lines = {
        "size": _size(facts.rows, (facts.bytes - facts.once) / facts.rows, facts.once),
        "as full float16 logits": _size(facts.rows, full),
        f"as top-{TOP_K} with tail mass": _size(facts.rows, top),
    }
    if facts.kind == "hidden":
        return lines
    if facts.hidden_sizes is None:
        lines["as hidden states"] = "4 bytes a position for each of the models' hidden units (not recorded), heads once"
    else:
        target, draft = facts.hidden_sizes
        once = 4 * (facts.target_width * target + facts.draft_width * draft)
        lines["as float32 hidden states"] = _size(facts.rows, 4 * (target + draft), once)
    return lines


def _size(rows: int, each: float, once: float = 0) -> str:
    apart = f", of which the heads, once, {once / 1e6:.1f} MB" if once else ""
    return f"{(each * rows + once) / 1e6:.1f} MB, {each / 1e3:.1f} kB a position{apart}"


def _likelihood(target: Tensor, draft: Tensor, columns: dict[str, Tensor], width: int) -> str:
    """Mean log-probability of the recorded tokens: low where rows and tokens do not belong together."""
    token = columns["token"]
    known = (token >= 0) & (token < width)
    means, counts = [], []
    for rows in (target, draft):
        law = torch.log_softmax(rows[:, :width].to(torch.float64), -1)
        found = law.gather(-1, token.clamp(0, width - 1)[:, None])[:, 0]
        found = found[known & torch.isfinite(found)]
        means.append(float(found.mean()) if len(found) else float("nan"))
        counts.append(len(found))
    line = f"target {means[0]:.2f}, draft {means[1]:.2f} nats in the first {len(token)} rows"
    if min(counts) < len(token):
        line += f" (known in {counts[0]} and {counts[1]} of them)"
    if means[0] < -math.log(width):
        line += "; BEWARE, less than a uniform law: rows shifted by one, or tokens of another tokenizer"
    return line


def _underflow(target: Tensor, draft: Tensor) -> str:
    """In how many of the rows read, and from which temperature down in any of them."""
    spread = torch.minimum(log_range(target), log_range(draft))
    count = int((spread < LOG_NORMAL).sum())
    edge = float((spread / LOG_NORMAL).max())
    return f"in {count} of the first {len(spread)} rows at temperature 1; in some below temperature {edge:.2g}"


def _documents(dump: Dump) -> int:
    seen: set[int] = set()
    for start in range(0, len(dump), 256):
        _, _, columns = dump.read_rows(start, min(start + 256, len(dump)))
        seen.update(columns["doc"].tolist())
    return len(seen)
