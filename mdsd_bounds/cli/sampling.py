"""Options of servers that several commands share: they reach the library as one record of each model.

A command takes a parameter ``sampling: Sampling`` and is wrapped by :func:`with_sampling`, which puts the options in
its place; what they do to either distribution is said on stderr (:func:`say_sampling`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsd_bounds.cli.shared_options import option_named, with_record

if TYPE_CHECKING:
    from mdsd_bounds.sampling import SamplingOptions


class Side(StrEnum):
    """Whose logits are biased and penalised."""

    both = "both"
    target = "target"
    draft = "draft"


@dataclass(frozen=True)
class Sampling:
    """The options of the target's and of the draft's server."""

    target: SamplingOptions
    draft: SamplingOptions


#: Stands for the options in a command's own signature; they always come.
NO_SAMPLING: Any = None
_K, _P, _MIN = int | None, float | None, float | None
_CUTS: tuple[tuple[str, Any, str], ...] = (
    ("top_k", _K, "Keep the k most probable tokens"),
    ("top_p", _P, "Keep the smallest set of tokens with this mass"),
    ("min_p", _MIN, "Keep the tokens with at least this share of the largest probability"),
)
_WHOSE = (
    ("", "of both models."),
    ("target_", "of the target alone, over that of both."),
    ("draft_", "of the draft alone, over that of both."),
)
_OTHERS: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "logit_bias",
        str | None,
        None,
        "JSON file of token id to what is added to its logit before all else (see --bias-on).",
    ),
    (
        "repetition_penalty",
        float,
        1.0,
        "Divide positive logits of tokens of the text so far by this, multiply negative ones.",
    ),
    ("presence_penalty", float, 0.0, "Subtract this from the logits of tokens of the text so far."),
    ("frequency_penalty", float, 0.0, "Subtract this for each time a token is in the text so far."),
    ("bias_on", Side, Side.both, "Whose logits --logit-bias and the penalties change: both, target or draft."),
)


def _options() -> list[inspect.Parameter]:
    found = []
    for prefix, whose in _WHOSE:
        for name, kind, text in _CUTS:
            full = f"{prefix}{name}"
            option = typer.Option(f"--{full.replace('_', '-')}", help=f"{text} {whose}")
            found.append(option_named(full, Annotated[kind, option], None))
    for name, kind, default, text in _OTHERS:
        option = typer.Option(f"--{name.replace('_', '-')}", help=text)
        found.append(option_named(name, Annotated[kind, option], default))
    return found


def with_sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options of servers in the place of its parameter ``sampling``."""
    return with_record(command, "sampling", _options(), sampling_of)


def sampling_of(given: dict[str, Any]) -> Sampling:
    """The records of both models; an option of one side stands over that of both."""
    from mdsd_bounds.sampling import SamplingOptions

    changed = {name: given[name] for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")}
    changed["logit_bias"] = () if given["logit_bias"] is None else read_bias(given["logit_bias"])
    found = []
    for side in (Side.target, Side.draft):
        cuts = {
            name: given[name] if given[f"{side.value}_{name}"] is None else given[f"{side.value}_{name}"]
            for name, _, _ in _CUTS
        }
        found.append(SamplingOptions(**cuts, **(changed if given["bias_on"] in (Side.both, side) else {})))
    return Sampling(*found)


def read_bias(path: str) -> tuple[tuple[int, float], ...]:
    """Token ids and biases from a JSON object, as OpenAI's ``logit_bias``; -100 and less is a ban there, and kept here.

    Raises
    ------
    InputError
        If the file is no such object.
    """
    from mdsd_bounds.dumps.boundary import reading
    from mdsd_bounds.dumps.containers.text import integer, parse, whole_text
    from mdsd_bounds.problem import InputError

    remedy = 'give a JSON object of token ids and numbers, {"50256": -100}'
    with reading(path, "logit bias", remedy):
        held = parse(whole_text(Path(path)))
        if not isinstance(held, dict):
            raise InputError(f"{path}: {type(held).__name__}, not an object; {remedy}")
        found = []
        for name, bias in held.items():
            token = integer(name)
            if isinstance(bias, bool) or not isinstance(bias, int | float) or token < 0:
                raise InputError(f"{path}: {name!r} has the bias {bias!r}; {remedy}")
            found.append((token, float(bias)))
        if len({token for token, _ in found}) < len(found):
            raise InputError(f"{path}: names a token twice; {remedy}")
        return tuple(sorted(found))


def say_sampling(sampling: Sampling) -> None:
    """What the options do to either distribution, on stderr; nothing where there are none."""
    from mdsd_bounds.sampling import SamplingOptions

    plain = SamplingOptions()
    if (sampling.target, sampling.draft) == (plain, plain):
        return
    print(f"note: target: {sampling.target}; draft: {sampling.draft} (each after its temperature)", file=sys.stderr)
    if sampling.target.needs_text or sampling.draft.needs_text:
        print(
            "note: penalties count the tokens of a document in the rows of the dump before a position", file=sys.stderr
        )
