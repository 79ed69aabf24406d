"""Facts of a dump for people and for JSON: what it holds, what to look out for, and what each form of it takes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.underflow import LOG_NORMAL, log_range
from mdsd_bounds.distributions import peak_of, to_probs
from mdsd_bounds.dumps.base import Dump, Facts
from mdsd_bounds.dumps.evidence import evidence

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

    The rows are read for the documents, the mass beyond a narrower head, and the recorded tokens.
    """
    facts = dump.facts
    first = next(dump.batches(min(_BLOCK, facts.rows)))
    for name in ("target", "draft"):
        # Here the file's name is known, for the message.
        peak_of(getattr(first, f"{name}_logits")[:1], f"{facts.path} {name}_logits")
    columns = [name for name in ("doc", "position", "token") if getattr(first, name) is not None]
    documents, beyond = _all_rows(dump, "doc" in columns)
    lines: dict[str, Any] = {
        "path": facts.path,
        "format": facts.format,
        "positions": facts.rows,
        "documents": documents if "doc" in columns else "not recorded",
        "vocabulary": _vocabulary(facts),
        "target width": facts.target_width,
        "draft width": facts.draft_width,
    }
    if facts.target_width != facts.draft_width:
        lines["widths"] = width_line(facts)
        lines["mass beyond the other's width"] = beyond
    lines |= {
        "kind": facts.kind,
        "support": facts.support,
        "row t is the distribution of": _SHIFT.get(facts.shift, facts.shift),
        "stage": facts.stage,
        "dtype": facts.dtype,
        "columns": ", ".join(columns) or "none",
    }
    for name in ("target", "draft"):
        if (cut := getattr(first, f"{name}_cut")) is not None:
            stored = int((getattr(first, f"{name}_logits")[0] > -float("inf")).sum())
            lines[f"{name}, first row"] = (
                f"{stored} tokens known, {float(cut[0, 0]):.3g} to {float(cut[0, 1]):.3g} of the mass is not: "
                "bounds are intervals"
            )
    lines["probabilities below 2.2e-308"] = _underflow(first.target_logits, first.draft_logits)
    found = evidence(dump)
    lines |= found.lines
    for number, warning in enumerate(found.warnings, 1):
        lines[f"WARNING {number}"] = warning
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
        while _bare(plain) in taken or _bare(plain).startswith("warning") or plain in found:
            plain = f"note: {plain}"
        found[plain] = value
    return found


def _bare(name: str) -> str:
    """A name as the eye takes it: without case, spaces and what is not seen."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())


def width_line(facts: Facts) -> str:
    """What is done about heads of two widths, in one line."""
    extra = abs(facts.target_width - facts.draft_width)
    narrow = "draft" if facts.draft_width < facts.target_width else "target"
    return (
        f"the target has {facts.target_width} columns and the draft {facts.draft_width}; the {narrow} has probability "
        f"zero in the last {extra}"
    )


def _vocabulary(facts: Facts) -> int | str:
    width = max(facts.target_width, facts.draft_width)
    if facts.largest < 0:
        return width
    return f"not stated (largest token recorded {facts.largest}); taken as {width}, bounds hold for any smaller one"


def sizes(facts: Facts) -> dict[str, str]:
    """Bytes a position and in all: as stored, and in the other forms that :mod:`mdsd_bounds.models.dump_writers`
    lists."""
    full, top = 2 * (facts.target_width + facts.draft_width), 2 * (12 * TOP_K + 32)
    lines = {
        "size": _size(facts.rows, (facts.bytes - facts.fixed_bytes) / facts.rows, facts.fixed_bytes),
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


def _underflow(target: Tensor, draft: Tensor) -> str:
    """In how many of the rows read, and from which temperature down in any of them."""
    spread = torch.minimum(log_range(target), log_range(draft))
    count = int((spread < LOG_NORMAL).sum())
    edge = float((spread / LOG_NORMAL).max())
    return f"in {count} of the first {len(spread)} rows at temperature 1; in some below temperature {edge:.2g}"


def _all_rows(dump: Dump, documents: bool) -> tuple[int, str]:
    """Number of documents, and the mass that either side holds on columns which the other lacks, of all rows."""
    facts = dump.facts
    width = min(facts.target_width, facts.draft_width)
    wider = "target" if facts.target_width > width else "draft"
    seen: set[int] = set()
    largest, total = 0.0, 0.0
    if not documents and facts.target_width == facts.draft_width:
        return 0, ""
    for batch in dump.batches(_BLOCK):
        if batch.doc is not None:
            seen.update(batch.doc.tolist())
        if facts.target_width != facts.draft_width:
            rows, cut = getattr(batch, f"{wider}_logits"), getattr(batch, f"{wider}_cut")
            probs = to_probs(rows) if cut is None else rows.exp()
            mass = probs[:, width:].sum(-1)
            largest, total = max(largest, float(mass.max())), total + float(mass.sum())
    return len(seen), f"{wider}: at most {largest:.3g}, mean {total / facts.rows:.3g} over all rows"
