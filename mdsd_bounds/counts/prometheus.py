"""Counters of a metrics page (Prometheus text): one snapshot, or what was counted between two and more.

==============  ====================================================================================================
vLLM            ``vllm:spec_decode_num_drafts``, ``..._num_draft_tokens``, ``..._num_accepted_tokens``,
                ``..._num_accepted_tokens_per_pos{position="i"}``, ``..._num_draft_tokens_per_pos`` where it is there
vLLM before V1  ``vllm:spec_decode_num_emitted_tokens`` instead of the drafts
SGLang          ``sglang:spec_verify_calls`` and ``sglang:generation_tokens``; its gauges are of the last batch
==============  ====================================================================================================

Names end in ``_total`` or not.  A series is told by all of its labels but ``position``; the series of a page (engines,
ranks) are summed.  Pages of the same series are snapshots in the order given, and what was counted is what was added
between them; a counter that went down was reset, and what it holds then was added since.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdsd_bounds.counts.records import MOST_POSITIONS, Counts, Unit, count, counts
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.text import lines
from mdsd_bounds.problem import InputError

#: Braces may stand in a label's value, and in an exemplar behind the number.
_LABELS = r'\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}'
_SAMPLE = re.compile(rf"^\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:{_LABELS})?\s+([^\s#]+)(?:\s+[-+0-9.eE]+)?\s*(?:#.*)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_VLLM = {
    "vllm:spec_decode_num_drafts": "drafts",
    "vllm:spec_decode_num_draft_tokens": "drafted",
    "vllm:spec_decode_num_accepted_tokens": "accepted",
    "vllm:spec_decode_num_accepted_tokens_per_pos": "accepted_at",
    "vllm:spec_decode_num_draft_tokens_per_pos": "drafted_at",
    "vllm:spec_decode_num_emitted_tokens": "emitted",
}
_SGLANG = {"sglang:spec_verify_calls": "drafts", "sglang:generation_tokens": "emitted"}
NAMES = _VLLM | _SGLANG
#: A line that speaks of one of these, and no name that only begins so.
_COUNTER = re.compile(f"(?:{'|'.join(map(re.escape, NAMES))})(?:_total)?(?![a-zA-Z0-9_:])")
_GAUGES = {
    "sglang:spec_accept_length",
    "sglang:spec_accept_rate",
    "vllm:spec_decode_draft_acceptance_rate",
    "vllm:spec_decode_efficiency",
}
_REMEDY = "save the page that the server's /metrics answers"
#: The engine, under a name that no label has, and labels by which series of one page are told apart, sorted.
Series = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """The counters of one page: series -> (what, draft position or -1) -> value; ``started`` where the page says it."""

    path: str
    series: dict[Series, dict[tuple[str, int], float]]
    engine: str
    started: float | None


def is_page(text: str) -> bool:
    """Whether a line is a sample or a comment of a metrics page."""
    return text.startswith(("# HELP ", "# TYPE ")) or _SAMPLE.match(text.rstrip("\n")) is not None


def read_page(path: Path, model: str | None = None) -> Page:
    """The counters of speculative decoding on a page.

    Raises
    ------
    InputError
        If a sample is damaged, there is no such counter, or series of several models are there and none is chosen.
    """
    series: dict[Series, dict[tuple[str, int], float]] = {}
    started, created, others = None, list[float](), set()
    with reading(path, "metrics page", _REMEDY) as place:
        for number, line in lines(path, 1 << 20):
            place.at = f"line {number}"
            comment = line.lstrip().startswith("#")
            match = None if comment else _SAMPLE.match(line.rstrip("\n"))
            if match is None:
                if not comment and (counter := _COUNTER.search(line)):
                    raise ValueError(f"{counter[0]} is no sample (a name, labels in braces, a number)")
                continue
            name = match[1].removesuffix("_total")
            if name == "process_start_time_seconds":
                started = float(match[3])
            elif name.removesuffix("_created") in NAMES and name.endswith("_created"):
                created.append(float(match[3]))
            elif name not in NAMES:
                others.add(name)
            else:
                if not line.endswith("\n"):
                    raise ValueError(f"{match[1]} ends the page without a line break, and may be cut within its number")
                _add(series, name, match[2] or "", float(match[3]))
    # A page cut to its counters often lacks the start of the process; the first of them was made then or later.
    return Page(str(path), *_of_one_model(path, series, model, others), started or min(created, default=None))


def read_pages(paths: Sequence[Path], model: str | None = None, *, each: bool = False) -> Counts:
    """What was counted: since the start by one page, between consecutive pages of the same series by several.

    Parameters
    ----------
    paths : sequence of Path
        Snapshots in the order in which they were taken.
    model : str or None
        The ``model_name`` wanted, where a page has several.
    each : bool
        The pages are of different servers, and are summed.

    Raises
    ------
    InputError
        As :func:`read_page`, if pages are of different series, or if the first was taken last.
    """
    pages = [read_page(path, model) for path in paths]
    if len(pages) == 1 or each:
        notes = [f"summed over {sum(len(page.series) for page in pages)} series"] if _several(pages) else []
        totals = [_sum(list(page.series.values())) for page in pages]
        whole = _sum(totals)
        return _counts(
            pages[0], "total", [whole], [*notes, "counted since the engine started; two snapshots count between them"]
        )
    units, notes = [], []
    before = pages[0]
    for after in pages[1:]:
        found, more = _between(before, after)
        units.append(found)
        notes += more
        # A series that is missing here may come back: what it held is not added again.
        before = after if _restarted(before, after) else replace(after, series=before.series | after.series)
    return _counts(pages[0], "snapshot period", units, list(dict.fromkeys(notes)))


def _add(series: dict[Series, dict[tuple[str, int], float]], name: str, labels: str, value: float) -> None:
    found = dict(_LABEL.findall(labels))
    position = found.pop("position", None)
    what = NAMES[name]
    if (position is not None) != what.endswith("_at"):
        raise ValueError(f"{name} {'without' if position is None else 'with'} a label position")
    place = -1 if position is None else int(position)
    if not -1 <= place < MOST_POSITIONS:
        raise ValueError(f"{name} at position {place}")
    held = series.setdefault((("", name.partition(":")[0]), *sorted(found.items())), {})
    if (what, place) in held:
        raise ValueError(f"{name} is there twice with the same labels")
    held[what, place] = count(value, name)


def _of_one_model(
    path: Path, series: dict[Series, dict[tuple[str, int], float]], model: str | None, others: set[str]
) -> tuple[dict[Series, dict[tuple[str, int], float]], str]:
    speculating = {key: held for key, held in series.items() if any(what != "emitted" for what, _ in held)}
    if not speculating:
        engines = sorted({name.partition(":")[0] for name in others if ":" in name})
        found = f" (there are metrics of {', '.join(engines)})" if engines else ""
        if others & _GAUGES:
            found = f" (its {', '.join(sorted(others & _GAUGES))} are of the last batch, and count nothing)"
        raise InputError(
            f"{path}: a metrics page without counters of speculative decoding{found}; start the engine with "
            "speculative decoding and save /metrics after some requests, or give its log or its answers"
        )
    if len({dict(key)[""] for key in speculating}) > 1:
        raise InputError(
            f"{path}: counts of vLLM and of SGLang, which mean different things; give a page of each, one at a time"
        )
    names = sorted({dict(key).get("model_name", "") for key in speculating})
    if model is not None:
        if model not in names:
            raise InputError(f"--model {model}: not in {path}, which counts {', '.join(names) or 'no named model'}")
        speculating = {key: held for key, held in speculating.items() if dict(key).get("model_name", "") == model}
    elif len(names) > 1:
        raise InputError(f"{path}: counts of several models ({', '.join(names)}); choose one with --model")
    sglang = any(dict(key)[""] == "sglang" for key in speculating)
    if sglang:
        speculating = _with_tokens(path, speculating, series)
    else:
        _refuse_unlike(path, speculating)
    return speculating, "SGLang" if sglang else "vLLM"


def _refuse_unlike(path: Path, series: dict[Series, dict[tuple[str, int], float]]) -> None:
    """The engines of a page count the same things; a page that was cut, or filtered, lacks some of one of them."""
    every = {one for held in series.values() for one in held}
    for key, held in series.items():
        if lacking := every - set(held):
            what, place = min(lacking)
            name = next(name for name, known in _VLLM.items() if known == what)
            labels = ", ".join(f"{label}={value}" for label, value in key if label) or "no labels"
            raise InputError(
                f"{path}: {name}{f' at position {place}' if place >= 0 else ''} is counted by one series and not by "
                f"that of {labels}: a page that was cut short, or filtered; save it whole"
            )


def _with_tokens(
    path: Path,
    speculating: dict[Series, dict[tuple[str, int], float]],
    series: dict[Series, dict[tuple[str, int], float]],
) -> dict[Series, dict[tuple[str, int], float]]:
    """SGLang's steps with the tokens of the same model, which may carry other labels than they."""
    told = [any(what == "emitted" for what, _ in held) for held in speculating.values()]
    if all(told):
        return speculating
    model = {dict(key).get("model_name", "") for key in speculating}
    engine = {dict(key)[""] for key in speculating}
    tokens = {key: held for key, held in series.items() if key not in speculating and dict(key)[""] in engine}
    names = {dict(key).get("model_name", "") for key in tokens}
    if "" not in names | model:
        tokens = {key: held for key, held in tokens.items() if dict(key)["model_name"] in model}
    elif len(names | model - {""}) > 1:
        tokens = {}
    if any(told) or not tokens:
        raise InputError(
            f"{path}: which of sglang:generation_tokens belong to the steps of sglang:spec_verify_calls cannot be told "
            "(their labels differ); give a page of one model of one server"
        )
    return speculating | tokens


def _several(pages: Sequence[Page]) -> bool:
    return sum(len(page.series) for page in pages) > 1


def _sum(parts: Sequence[dict[tuple[str, int], float]]) -> dict[tuple[str, int], float]:
    total: dict[tuple[str, int], float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _between(before: Page, after: Page) -> tuple[dict[tuple[str, int], float], list[str]]:
    """What was added from one page to the next, over all series, and what is to be said of it."""
    if before.engine != after.engine or not set(before.series) & set(after.series):
        raise InputError(
            f"{after.path}: counts other series than {before.path}; snapshots are of the same server (pages of "
            "different servers are summed with --sum)"
        )
    restarted = _restarted(before, after)
    if not restarted and _fell(before, after) and not _fell(after, before):
        same = before.started is not None and before.started == after.started
        if same:
            raise InputError(f"{after.path}: counts less than {before.path}; give the earlier snapshot first")
    total: list[dict[tuple[str, int], float]] = []
    notes = []
    for key, now in after.series.items():
        then = before.series.get(key, {})
        if not restarted and (lost := [one for one in then if one not in now]):
            what, place = min(lost)
            names = _SGLANG if after.engine == "SGLang" else _VLLM
            missing = next(name for name, held in names.items() if held == what)
            raise InputError(
                f"{after.path}: lacks {missing}{f' at position {place}' if place >= 0 else ''}, which {before.path} "
                "has: a page that was cut short, or of another version; save it again"
            )
        reset = restarted or any(now[name] < value for name, value in then.items())
        if reset:
            notes.append(
                f"counters were reset between {before.path} and {after.path}: counted is what was added since (if "
                "these are in the wrong order, give the earlier snapshot first)"
            )
        total.append(now if reset else {name: value - then.get(name, 0.0) for name, value in now.items()})
    gone = set(before.series) - set(after.series)
    if gone:
        notes.append(f"{len(gone)} series of {before.path} are gone in {after.path} and are not counted")
    return _sum(total), notes


def _restarted(before: Page, after: Page) -> bool:
    return before.started is not None and after.started is not None and after.started > before.started


def _fell(before: Page, after: Page) -> bool:
    return any(
        after.series.get(key, {}).get(name, value) < value
        for key, held in before.series.items()
        for name, value in held.items()
    )


def _counts(page: Page, unit: str, totals: Sequence[dict[tuple[str, int], float]], notes: list[str]) -> Counts:
    with reading(page.path, "metrics page", _REMEDY):
        units = [_unit(total, page.engine) for total in totals]
        if page.engine == "SGLang":
            notes = [
                *notes,
                "accepted is generated tokens less verification steps: the first token of each request, from "
                "the prefill, counts as accepted",
            ]
        elif any(("emitted", -1) in total for total in totals):
            notes = [
                *notes,
                "vLLM before V1 counts as accepted also tokens after the first rejection; lengths are not "
                "given, accepted/drafted is an upper end",
            ]
        found = counts(page.engine, unit, units, notes)
    if len(found) == 0:
        raise InputError(
            f"{page.path}: nothing was drafted "
            + ("since the engine started" if unit == "total" else "between the snapshots")
            + "; take it after some requests"
        )
    return replace(found, notes=tuple(notes))


def _unit(total: dict[tuple[str, int], float], engine: str) -> Unit:
    drafts = total.get(("drafts", -1))
    if engine == "SGLang":
        emitted = total.get(("emitted", -1))
        if drafts is None or emitted is None:
            raise ValueError("sglang:spec_verify_calls without sglang:generation_tokens")
        if emitted < drafts:
            raise ValueError(
                f"{emitted:g} sglang:generation_tokens in {drafts:g} sglang:spec_verify_calls, of which each gives "
                "one; take pages while no request runs"
            )
        return Unit(drafts=drafts, accepted=emitted - drafts)
    at = {what: _column(total, what) for what in ("accepted_at", "drafted_at")}
    return Unit(drafts, total.get(("drafted", -1)), total.get(("accepted", -1)), **at)


def _column(total: dict[tuple[str, int], float], what: str) -> tuple[float, ...]:
    held = {place: value for (name, place), value in total.items() if name == what}
    if set(held) != set(range(len(held))):
        raise ValueError(f"positions {', '.join(map(str, sorted(held)[:8]))}: some are missing between 0 and the last")
    return tuple(held[place] for place in range(len(held)))
