"""Counts in JSON: one answer of a server a request, benchmark results, and arrays of counts.

===================  ===================================================================================================
SGLang               ``meta_info``: ``spec_verify_ct`` with ``spec_accepted_tokens`` (``spec_accept_token_num``),
                     ``spec_draft_tokens`` (``spec_draft_token_num``) and ``spec_accept_histogram``, or
                     ``completion_tokens``
llama.cpp            ``timings``: ``draft_n``, ``draft_n_accepted``
vLLM benchmark       ``spec_decode_num_drafts``, ``spec_decode_draft_tokens``, ``spec_decode_accepted_tokens``,
                     ``spec_decode_per_position_acceptance_rates`` of ``vllm bench serve --save-result``
OpenAI               ``usage.completion_tokens_details``: ``accepted_prediction_tokens``, ``rejected_prediction_tokens``
MLC                  ``draft_count`` and ``accept_count``, a number for each draft position
lengths of steps     ``accept_lengths``: emitted tokens of every step, the bonus token included (Spec-Bench, EAGLE)
===================  ===================================================================================================

One JSON value or one a line, in lists and under any names; each object that holds one of these forms is a unit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds.counts.levels import Held, Levels
from mdsd_bounds.counts.log_text import LONGEST
from mdsd_bounds.counts.records import MOST_POSITIONS, Counts, Unit, accepted_of, count, counts
from mdsd_bounds.counts.stated import histogram_of, require_figures, steps_at
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.text import lines, parse, whole_text
from mdsd_bounds.problem import InputError

_REMEDY = "save the server's answers, one a line"


@dataclass(frozen=True)
class AnswerForm:
    """A form of object: the names by which it is known, what its units are, and how one is read."""

    engine: str
    unit: str
    needs: tuple[str, ...]
    read: Callable[[dict[str, Any]], Unit | None]
    note: str = ""


def _first(held: dict[str, Any], *names: str) -> float | None:
    """The count under one of several names, which must be the same under all that are there."""
    there = {name: count(held[name], name) for name in names if held.get(name) is not None}
    if len(set(there.values())) > 1:
        raise ValueError(" but ".join(f"{name} is {value:g}" for name, value in there.items()))
    return next(iter(there.values()), None)


def _sglang(held: dict[str, Any]) -> Unit | None:
    drafts = _first(held, "spec_verify_ct")
    if drafts is None:
        return None
    accepted = _first(
        held, "spec_accepted_tokens", "spec_accept_token_num", "spec_num_correct_drafts", "spec_accepted_drafts"
    )
    drafted = _first(
        held, "spec_draft_tokens", "spec_draft_token_num", "spec_num_proposed_drafts", "spec_proposed_drafts"
    )
    emitted = _first(held, "completion_tokens")
    if drafts == 0 and not accepted:
        return Unit()
    if accepted is not None and emitted is not None and drafts:
        # The last step may be cut at a stop, and the first token is that of the prompt.
        most = 1 + (drafted / drafts if drafted else accepted)
        if emitted + most < accepted + drafts:
            raise ValueError(f"{accepted:g} accepted tokens in {drafts:g} steps, but {emitted:g} completion tokens")
    at: tuple[float, ...] = ()
    histogram = next((held[name] for name in _HISTOGRAMS if held.get(name)), None)
    if isinstance(histogram, list) and drafts:
        listed = [count(number, "the histogram") for number in histogram]
        at = _reached(histogram_of(listed, drafts, accepted, emitted))
        accepted = float(sum(at)) if accepted is None else accepted
    if accepted is None and emitted is not None:
        accepted = accepted_of(emitted, drafts, spare=1)
    unit = Unit(drafts, drafted, accepted, at)
    require_figures(held, unit, emitted, ends=int(emitted is None))
    return unit


def _llama(held: dict[str, Any]) -> Unit | None:
    unit = Unit(None, _first(held, "draft_n"), _first(held, "draft_n_accepted"))
    require_figures(held, unit)
    return unit


def _bench(held: dict[str, Any]) -> Unit | None:
    drafts, drafted, accepted = (
        _first(held, *(f"spec_decode_{name}" for name in names))
        for names in (("num_drafts",), ("draft_tokens", "num_draft_tokens"), ("accepted_tokens", "num_accepted_tokens"))
    )
    rates = held.get("spec_decode_per_position_acceptance_rates") or []
    at = steps_at(rates, drafts, accepted) if drafts else ()
    unit = Unit(drafts, drafted, accepted, at)
    require_figures(held, unit)
    return unit


def _openai(held: dict[str, Any]) -> Unit | None:
    accepted, rejected = (_first(held, f"{name}_prediction_tokens") for name in ("accepted", "rejected"))
    if accepted is None or rejected is None:
        return None
    unit = Unit(None, accepted + rejected, accepted)
    require_figures(held, unit)
    return unit


def _mlc(held: dict[str, Any]) -> Unit | None:
    drafted, taken = (
        tuple(count(number, name) for number in _list(held[name], name)) for name in ("draft_count", "accept_count")
    )
    if len(drafted) != len(taken):
        raise ValueError(f"draft_count of {len(drafted)} positions but accept_count of {len(taken)}")
    unit = Unit(drafted[0] if drafted else None, sum(drafted), sum(taken), taken, drafted)
    require_figures(held, unit)
    return unit


def _lengths(held: dict[str, Any]) -> Unit | None:
    if not isinstance(held["accept_lengths"], list):
        return None
    lengths = [count(number, "accept_lengths") for number in _list(held["accept_lengths"], "accept_lengths")]
    if not all(length.is_integer() for length in lengths):
        raise ValueError("accept_lengths holds a fraction: means of requests, and no lengths of steps")
    if not all(length >= 1 for length in lengths):
        raise ValueError("accept_lengths holds a step without a token; lengths count the bonus token")
    unit = unit_of_lengths([int(length) - 1 for length in lengths])
    drafts, accepted = unit.drafts or 0.0, unit.accepted or 0.0
    emitted = held.get("new_tokens", held.get("completion_tokens"))
    turns = len(emitted) if isinstance(emitted, list) else 1
    if emitted is not None and drafts:
        emitted = sum(count(number, "new_tokens") for number in (emitted if isinstance(emitted, list) else [emitted]))
        # A turn may be cut in its last step, and have its first token from the prompt.
        open_ends = turns * (max(lengths) + 1)
        if abs(accepted + drafts - emitted) > open_ends >= abs(accepted + 2 * drafts - emitted):
            raise ValueError(
                f"accept_lengths sum to {accepted + drafts:g} in {drafts:g} steps, but {emitted:g} tokens are new; "
                "give them with the bonus token"
            )
    require_figures(held, unit)
    return unit


#: Names under which versions of SGLang give a histogram of accepted draft tokens.
_HISTOGRAMS = ("spec_accept_histogram", "spec_correct_drafts_histogram", "spec_acceptance_histogram")
#: Names in alternatives are of different versions.
FORMS = (
    AnswerForm("SGLang", "request", ("spec_verify_ct",), _sglang),
    AnswerForm("llama.cpp", "request", ("draft_n", "draft_n_accepted"), _llama),
    AnswerForm(
        "vLLM",
        "benchmark",
        ("spec_decode_num_drafts", "spec_decode_accepted_tokens|spec_decode_num_accepted_tokens"),
        _bench,
    ),
    AnswerForm("OpenAI-style server", "request", ("accepted_prediction_tokens", "rejected_prediction_tokens"), _openai),
    AnswerForm("MLC", "total", ("draft_count", "accept_count"), _mlc),
    AnswerForm(
        "steps",
        "request",
        ("accept_lengths",),
        _lengths,
        note="accept_lengths are read with the bonus token in each; the draft tokens of a step are not in the file "
        "(--draft-tokens gives accepted/drafted)",
    ),
)


def read_answers(path: Path) -> Counts:
    """The counts of a JSON file, each object a unit.

    Raises
    ------
    InputError
        If it is no JSON, holds none of the forms or several, or counts that contradict each other.
    """
    levels = Levels(_in_every_form)
    known: set[str] = set()
    parts: list[tuple[Any, list[Held]]] = []
    with reading(path, "JSON with counts", _REMEDY) as place:
        for where, value in _values(path):
            place.at = where
            for part in value if isinstance(value, list) else [value]:
                if held := levels.of(part):
                    _refuse_pieces(part, known)
                    parts.append((part, held))
        place.at = ""
        found = levels.without_sums(parts)
        if not found:
            raise InputError(
                f"{path}: JSON without counts of speculative decoding; give answers with SGLang's "
                "meta_info.spec_verify_ct, llama.cpp's timings.draft_n, lists accept_count and draft_count, or "
                "accept_lengths"
            )
        if len(ranks := sorted({one.rank for one in found})) > 1:
            names = ", ".join(FORMS[rank].engine for rank in ranks)
            raise InputError(f"{path}: counts in several forms ({names}); give one form a file")
        form = FORMS[found[0].rank]
        notes = [form.note] if form.note else []
        if form.engine == "llama.cpp":
            notes.append("timings hold no number of steps, so the lengths are not given (--draft-tokens gives it)")
        notes += dict.fromkeys(levels.notes)
        result = counts(form.engine, form.unit, [one.unit for one in found], notes)
    if len(result) == 0:
        raise InputError(f"{path}: no answer drafted a token; ask while the engine speculates")
    return result


def _in_every_form(held: dict[str, Any]) -> list[Held]:
    """The counts of an object, in each of the forms that it has."""
    found = []
    for rank, form in enumerate(FORMS):
        if all(any(held.get(name) is not None for name in needed.split("|")) for needed in form.needs):
            unit = form.read(held)
            if unit is not None:
                found.append(Held(rank, unit))
    return found


def holds_answers(path: Path) -> bool:
    """Whether a text names the counts of one of the forms, as JSON does."""
    names = "|".join(name for form in FORMS for name in form.needs)
    named = re.compile(rf'"(?:{names})"\s*:')
    return any(named.search(text) for _, text in lines(path, LONGEST))


def _refuse_pieces(answer: Any, known: set[str]) -> None:
    """Raise a ValueError on a piece of a stream, whose counts are running totals, and on an answer said twice."""
    if not isinstance(answer, dict):
        return
    if answer.get("stop") is False:
        raise ValueError("a piece of a stream (stop is false), whose counts go on; keep the last piece of each answer")
    choices = answer.get("choices")
    if (
        not answer.get("id")
        and isinstance(choices, list)
        and choices
        and isinstance(choices[0], dict)
        and "delta" in choices[0]
    ):
        if "" in known:
            raise ValueError(
                "pieces of a stream (delta) without names, whose counts go on; keep the last piece of each"
            )
        known.add("")
    inside = answer.get("meta_info")
    name = answer.get("id") or (inside.get("id") if isinstance(inside, dict) else None)
    if isinstance(name, str):
        if name in known:
            raise ValueError(
                f"the answer {name[:80]!r} stands twice: pieces of a stream, whose counts go on, or an answer that was "
                "saved twice; keep the last piece of each answer"
            )
        known.add(name)


def unit_of_lengths(accepted: list[int]) -> Unit:
    """Steps listed one by one, each with its accepted draft tokens.

    Raises
    ------
    ValueError
        If one is longer than any draft.
    """
    most = max(accepted, default=0)
    if most > MOST_POSITIONS:
        raise ValueError(f"a step of {most} accepted tokens")
    histogram = [0.0] * (most + 1)
    for length in accepted:
        histogram[length] += 1
    return Unit(float(len(accepted)), None, float(sum(accepted)), _reached(histogram))


def _reached(histogram: list[float]) -> tuple[float, ...]:
    """Steps that accepted at least 1, 2, ... tokens, from the number of steps that accepted 0, 1, ..."""
    if len(histogram) > MOST_POSITIONS:
        raise ValueError(f"a histogram of {len(histogram)} lengths")
    taken = [sum(histogram[length:]) for length in range(1, len(histogram))]
    while taken and taken[-1] == 0:
        taken.pop()
    return tuple(taken)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, not a list")
    return value


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file with their places: one a line, or a single one over several lines."""
    first = True
    for number, line in lines(path, LONGEST):
        try:
            value = parse(line)
        except ValueError:
            if first:
                break
            raise
        first = False
        yield f"line {number}", value
    if first:
        yield "", parse(whole_text(path, LONGEST))
