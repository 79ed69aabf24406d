r"""The lines of a server's log, also where they are kept inside JSON, and which server each one is from.

Exported logs keep lines in JSON strings: a record a line (docker, journald), an array of records, or whole logs with
escaped line breaks.  Every string is read, line by line; the same line under two names of one record (as ``message``
and ``event.original``) is read once.  Colours and carriage returns are taken out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.containers.text import DECODER, PARSED, lines, parse, whole_text

#: Bytes of one JSON value.
LONGEST = 1 << 28
#: Objects inside one another, and JSON inside strings, that are looked through.
DEEPEST = 40
#: What every report of acceptance holds.
_MARKERS = (
    "SpecDecoding metrics:",
    "Speculative metrics:",
    "accept len:",
    "draft acceptance",
    "#gen drafts",
    "Number of spec",
)
_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))
_COLOUR = re.compile(r"(?:\x1b|#033|\^\[|\\u001b|\\x1b|\\033|\\e)\[[0-9;?]*[A-Za-z]")
_BLANK = re.compile(r"\s*")
#: ``tail`` and ``head`` of several files set the name of each above its lines.
_HEADER = re.compile(r"^==> (.+) <==$")
#: How JSON begins, and neither a time nor a name in brackets.
_JSON = re.compile(r'\s*(?:\{\s*(?:"|$)|\[\s*(?:[\[{"]|$))')
#: journald gives a message with colours as its bytes.
_BYTES = re.compile(r'"MESSAGE"\s*:\s*\[')
#: Names of a record whose values say which server wrote it.
_NAMES_A_SOURCE = re.compile(
    r"(?:^|[._])(?:pod|container|host|hostname|instance|engine|worker|pid|process|replica|node|unit|service|rank|file)"
    r"(?:[._]?(?:name|id|uid|ip))?$",
    re.IGNORECASE,
)
_SOURCES = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        # (EngineCore_0 pid=12), (RayWorkerWrapper pid=12, ip=10.0.0.1), pid: 12
        (r"\(([^()]*\bpid=\d+[^()]*)\)", 0),
        (r"\b(pid[=:]? ?\d+)\b", re.IGNORECASE),
        # [engine=1], Engine 001, DP1, worker-3
        (r"\b((?:engine|worker|rank|replica|gpu|dp|instance|shard|actor)[ _=:#-]{0,2}\d+)\b", re.IGNORECASE),
        # vllm-1  | (docker compose), [pod/vllm-0/vllm] (kubectl), server.log:12: (grep)
        (r"^\s*([A-Za-z][\w.-]*)\s+\|", 0),
        (r"^\s*\[(pod/[\w./-]*)\]", 0),
        (r"^([\w./-]+\.(?:log|txt|out|err)[\w.-]*)[:-]", 0),
        # host vllm[12]: (syslog, journald), [8081] (the port of a child of llama.cpp's router), [1,0]<stdout> (mpirun)
        (r"(?:\b([A-Za-z][\w.-]*) )?([\w.@/-]+\[\d+\]):", 0),
        (r"^\s*\[(\d{2,6})\]\s", 0),
        (r"^\s*\[(\d+,\d+)\]<", 0),
    )
)
#: What may name a server or something else: vllm-7f9c-abc (stern), [vllm-0], 0: (srun).
_HINTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^\s*([a-z][a-z0-9]*(?:-[a-z0-9]+)+)(?=[\s:])",
        r"^\s*\[([A-Za-z][\w.-]*)\]",
        r"^\s*(\d{1,4}): ",
    )
)


@dataclass(frozen=True)
class Line:
    """One line of a log that may report acceptance: where it stands, its text, and what else says who wrote it."""

    place: str
    text: str
    context: str = ""

    def source(self, end: int) -> str:
        """Who wrote the line, by what stands before character ``end`` of it; the same text for the same server."""
        found = [self.context] if self.context else []
        for pattern in _SOURCES:
            found += [" ".join(filter(None, match.groups())) for match in pattern.finditer(self.text[:end])]
        return " ".join(dict.fromkeys(found))

    def hint(self, end: int) -> str:
        """What stands there that may name who wrote the line, or something else."""
        return " ".join(match[1] for pattern in _HINTS if (match := pattern.search(self.text[:end])))


def may_report(text: str) -> bool:
    """Whether a text holds what every report of acceptance holds."""
    return _MARKER.search(text) is not None


def looks_like_json(text: str) -> bool:
    """Whether a first line begins as JSON does, and not with a time or a name in brackets."""
    return _JSON.match(text) is not None


def log_lines(path: Path) -> Iterator[Line]:
    """Every line that may report acceptance, those inside JSON strings among them.

    Raises
    ------
    ValueError
        If a record holds some reports twice.
    """
    header, first = "", True
    for number, text in lines(path, LONGEST):
        place = f"line {number}"
        if first and looks_like_json(text) and not _parses(text):
            found = _whole(path)
            if found is not None:
                yield from found
                return
        first = False
        if (match := _HEADER.match(text.strip())) is not None:
            header = match[1]
        elif may_report(text) or _BYTES.search(text):
            yield from _of_line(place, text, header, 0)


def _parses(text: str) -> bool:
    try:
        parse(text)
    except (ValueError, RecursionError):
        return False
    return True


def _whole(path: Path) -> list[Line] | None:
    """The lines in JSON values that take several lines of a file each; None if the file holds anything else."""
    found: list[Line] = []
    try:
        text = whole_text(path, LONGEST)
        require_memory(PARSED * len(text), f"{path}: JSON of {len(text) / 1e6:.0f} MB", "write one record a line")
        at = _BLANK.match(text, 0).end()  # type: ignore[union-attr]
        while at < len(text):
            value, end = DECODER.raw_decode(text, at)
            found += _of_value(f"line {text.count(chr(10), 0, at) + 1}", value, "", 0)
            at = _BLANK.match(text, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None
    return found


def _of_line(place: str, text: str, context: str, depth: int) -> Iterator[Line]:
    """A line as it is, or the lines in the JSON that stands in it, behind a prefix or not."""
    start = next((at for at, letter in enumerate(text) if letter in "{["), -1)
    if text.lstrip().startswith('"') and text.rstrip().endswith('"') and _parses(text):
        yield from _of_value(place, parse(text), context, depth + 1)
        return
    while 0 <= start < len(text) and depth < DEEPEST:
        try:
            value, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict | list) and (may_report(text[start:end]) or _BYTES.search(text[start:end])):
            # What stands before and behind the JSON may be more of the same.
            yield from _plain(place, text[:start], context)
            written = Line("", text[:start])
            before = " ".join(filter(None, (context, written.source(start), written.hint(start))))
            yield from _of_value(place, value, before, depth + 1)
            yield from _of_line(place, text[end:], context, depth + 1)
            return
        start = text.find("{", end)
    yield from _plain(place, text, context)


def _plain(place: str, text: str, context: str) -> Iterator[Line]:
    for part in re.split(r"[\r\n]+", _COLOUR.sub("", text)):
        if may_report(part):
            yield Line(place, part.rstrip(), context)


def _of_value(place: str, value: Any, context: str, depth: int) -> Iterator[Line]:
    if depth > DEEPEST:
        return
    if isinstance(value, str):
        if may_report(value) or _BYTES.search(value):
            for part in re.split(r"[\r\n]+", value):
                yield from _of_line(place, part, context, depth + 1)
    elif isinstance(value, list):
        if len(value) > 8 and all(isinstance(one, int) and 0 <= one < 256 for one in value):
            yield from _of_value(place, bytes(value).decode("utf-8", "replace"), context, depth + 1)
            return
        for part in value:
            yield from _of_value(place, part, context, depth + 1)
    elif isinstance(value, dict):
        yield from _of_record(place, value, context, depth)


def _of_record(place: str, record: dict[str, Any], context: str, depth: int) -> Iterator[Line]:
    inside = " ".join(filter(None, (context, *_names(record, 0))))
    found: dict[str, list[Line]] = {}
    for name, part in record.items():
        held = list(_of_value(place, part, inside, depth + 1))
        if not held:
            continue
        for other, before in found.items():
            if len(before) == len(held) and all(map(_same, before, held)):
                break
            if _shared(before, held):
                raise ValueError(
                    f"{place}: the same report stands under {other!r} and under {name!r}; keep one of them"
                )
        else:
            found[name] = held
            yield from held


def _shared(before: list[Line], held: list[Line]) -> bool:
    """Whether some line stands in both."""
    by_report: dict[str, list[Line]] = {}
    for one in before:
        by_report.setdefault(_report(one), []).append(one)
    return any(_same(one, two) for two in held for one in by_report.get(_report(two), []))


def _report(line: Line) -> str:
    found = _MARKER.search(line.text)
    return line.text[found.start() if found else 0 :].strip()


def _same(one: Line, two: Line) -> bool:
    """Whether two lines are one, with its beginning cut off or not."""
    return one.text.strip().endswith(two.text.strip()) or two.text.strip().endswith(one.text.strip())


def _names(record: dict[str, Any], depth: int) -> Iterator[str]:
    for name, part in record.items():
        if isinstance(part, dict) and depth < 3:
            yield from _names(part, depth + 1)
        elif _NAMES_A_SOURCE.search(name) and isinstance(part, str | int) and len(str(part)) < 200:
            yield f"{name}={part}"
