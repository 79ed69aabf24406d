"""Single positions of a dump, opened up: the text before, the top tokens, the subset H, drafts, and what rules do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.dumps.base import Dump, LogitBatch
from mdsd_bounds.pipeline.block_rows import distributions
from mdsd_bounds.pipeline.engines.job import read
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.problem import InputError
from mdsd_bounds.report.answer import Answer
from mdsd_bounds.report.html import code, fold, number, probability, text
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers import Verifier, get_verifier

#: Tokens that are shown of p and of q, and recorded tokens before a position.
TOP, BEFORE = 8, 12

#: What a token is called; None where no tokenizer is given.
Name = Callable[[int], str]


@dataclass(frozen=True)
class Output:
    """What a verifier does with the drafts drawn: its mean ``acceptance`` at the position, and its output distribution.

    ``on_drafts`` is the probability that each draft is output, ``elsewhere`` that another token is, of which ``top`` is
    the most probable one (None where there is none).
    """

    verifier: str
    acceptance: float
    on_drafts: tuple[float, ...]
    elsewhere: float
    top: tuple[int, float] | None


@dataclass(frozen=True)
class Explored:
    """One position.  ``tokens`` holds (token, p, q, whether it is in H) of the most probable ones, by p.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.report import answer, explore
    >>> dump, settings = load_example(), Settings(("with_replacement",), (2,))
    >>> bounds = run(dump, settings, limit=8)
    >>> (one,) = explore(dump, bounds, answer(bounds, None, 1.0), settings, 1)
    >>> abs(one.bound - (1 + one.target_mass - one.draft_mass)) < 1e-12  # alpha* = 1 + P(H) - Q(H)
    True
    """

    row: int
    doc: int | None
    position: int | None
    recorded: int | None
    before: tuple[int, ...]
    sampler: str
    drafts: int
    bound: float
    subset: int
    target_mass: float
    draft_mass: float
    tokens: tuple[tuple[int, float, float, bool], ...]
    drawn: tuple[int, ...]
    outputs: tuple[Output, ...]


def read_tokenizer(path: str) -> Name:
    """Names of tokens from a ``tokenizer.json``.

    Raises
    ------
    InputError
        If the package tokenizers is missing, or the file is none.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import tiny_model
    >>> from mdsd_bounds.report import read_tokenizer
    >>> name = read_tokenizer(str(Path(tiny_model(tempfile.mkdtemp())) / "tokenizer.json"))
    >>> name(256), name(257)
    ('ab', ' c')
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("--tokenizer needs the package tokenizers: pip install 'mdsd-bounds[models]'") from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"--tokenizer {path}: cannot be read ({error}); give a tokenizer.json") from None

    def name(token: int) -> str:
        # A token that is only a part of a character decodes to a replacement mark: its own name says more.
        decoded = tokenizer.decode([token], skip_special_tokens=False)
        return decoded if decoded and "\ufffd" not in decoded else tokenizer.id_to_token(token) or f"#{token}"

    return name


def _least_accepted(table: pd.DataFrame, found: Answer, number_of: int) -> list[int]:
    """Rows at which the recommended rule (any rule, where none was compared) accepts least."""
    part = table[
        (table["temperature"] == found.temperature)
        & (table["sampler"] == found.sampler)
        & (table["verifier"] == found.verifier)
        & (table["drafts"] == found.drafts)
    ]
    rate = part["acceptance" if found.verifier else "value"].to_numpy()
    return [int(row) for row in part["row"].to_numpy()[rate.argsort(kind="stable")][:number_of]]


def explore(
    dump: Dump,
    table: pd.DataFrame,
    found: Answer,
    settings: Settings,
    number_of: int = 12,
) -> list[Explored]:
    """The positions at which the recommended rule accepts least, each with one draw of drafts (seeded by its row).

    Parameters
    ----------
    dump : Dump
        Opened (:func:`mdsd_bounds.open_dump`); rows that are truncated are not explored.
    table : DataFrame
        Per-position; of bounds where no verifiers were compared.
    found : Answer
        Its sampler, number of drafts and temperature are explored.
    settings : Settings
        Those of the table: cuts, biases and penalties, and rules that no registry holds.
    number_of : int
        Positions.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.report import answer, explore
    >>> dump, settings = load_example(), Settings(("with_replacement",), (2,))
    >>> bounds = run(dump, settings, limit=8)
    >>> explored = explore(dump, bounds, answer(bounds, None, 1.0), settings, 3)
    >>> worst = bounds.sort_values("value")["row"].head(3)
    >>> [one.row for one in explored] == list(worst)
    True
    """
    explored = []
    for row in _least_accepted(table, found, number_of):
        first = max(0, row - BEFORE)
        batch = read(dump, first, row + 1, text=settings.needs_text)
        if batch.target_cut is not None or batch.draft_cut is not None:
            return []
        explored.append(_one(batch, table[table["row"] == row], found, settings))
    return explored


def _one(batch: LogitBatch, table: pd.DataFrame, found: Answer, settings: Settings) -> Explored:
    row = int(batch.row[-1])
    own = {rule.name: rule for rule in settings.verifiers if isinstance(rule, Verifier)}
    p, q = (rows[-1:] for rows in distributions(batch, settings, found.temperature))
    bound = optimal_acceptance(p, q, (found.drafts,), found.sampler)
    subset = bound.subset[0, 0]
    generator = torch.Generator().manual_seed(row)
    drafts = get_sampler(found.sampler).sample(q, found.drafts, generator)
    drawn = [int(token) for token in drafts[0] if int(token) >= 0]
    shown = {
        *p[0].topk(min(TOP, p.shape[1])).indices.tolist(),
        *q[0].topk(min(TOP, q.shape[1])).indices.tolist(),
        *drawn,
    }
    tokens = sorted(shown, key=lambda token: (-float(p[0, token]), token))
    mass = float((p[0] * subset).sum())
    return Explored(
        row, _last(batch.doc), _last(batch.position), _last(batch.token), _before(batch), found.sampler, found.drafts,
        float(bound.value[0, 0]), int(bound.subset_size[0, 0]), mass, 1.0 + mass - float(bound.value[0, 0]),
        tuple((token, float(p[0, token]), float(q[0, token]), bool(subset[token])) for token in tokens),
        tuple(drawn), tuple(_outputs(p, q, drafts, table, found, own)),
    )  # fmt: skip


def _outputs(
    p: Tensor, q: Tensor, drafts: Tensor, table: pd.DataFrame, found: Answer, own: Mapping[str, Verifier]
) -> list[Output]:
    """What each verifier compared does with the drafts, the recommended one first."""
    part = table[
        (table["temperature"] == found.temperature)
        & (table["sampler"] == found.sampler)
        & (table["drafts"] == found.drafts)
        & (table["verifier"] != "")
    ]
    part = part.iloc[(part["verifier"] != found.verifier).to_numpy().argsort(kind="stable")]
    outputs = []
    for name, acceptance in zip(part["verifier"], part["acceptance"], strict=True):
        probs = (own.get(str(name)) or get_verifier(str(name))).probs(p, q, drafts, sampler=found.sampler)[0].clone()
        places = list(dict.fromkeys(int(token) for token in drafts[0] if int(token) >= 0))
        taken = {token: float(probs[token]) for token in places}
        probs[places] = 0.0
        top = int(probs.argmax())
        rest = float(probs.sum())
        outputs.append(
            Output(
                str(name), float(acceptance), tuple(taken.values()), rest,
                (top, float(probs[top])) if rest > 0 else None,
            )
        )  # fmt: skip
    return outputs


def _last(column: Tensor | None) -> int | None:
    return None if column is None else int(column[-1])


def _before(batch: LogitBatch) -> tuple[int, ...]:
    """Recorded tokens of the rows just before, as far as they are the same document without a gap.

    The token beside row t is the one that row t predicts.
    """
    if batch.token is None or batch.doc is None or batch.position is None:
        return ()
    doc, position, token = batch.doc.tolist(), batch.position.tolist(), batch.token.tolist()
    kept: list[int] = []
    for k in range(len(doc) - 2, -1, -1):
        if doc[k] != doc[-1] or position[k] != position[-1] - (len(doc) - 1 - k):
            break
        kept.append(token[k])
    return tuple(reversed(kept))


def positions_html(explored: Sequence[Explored], name: Name | None) -> str:
    """The positions as parts that open, one after the other; the script adds keys to walk through them."""
    return "\n".join(
        fold(
            f"Row {one.row}"
            + (f", document {one.doc}" if one.doc is not None else "")
            + (f", position {one.position}" if one.position is not None else "")
            + f": bound {number(one.bound, 3)}"
            + "".join(f", {code(out.verifier)} {number(out.acceptance, 3)}" for out in one.outputs[:1]),
            _body(one, name),
            shown=k == 0,
            name=f"row-{one.row}",
        )
        for k, one in enumerate(explored)
    )


def _token(token: int, name: Name | None) -> str:
    """A token's text and number; its number alone without a tokenizer."""
    if name is None:
        return f'<span class="token">#{token}</span>'
    return f'<span class="token"><code>{text(name(token))}</code> #{token}</span>'


def _body(one: Explored, name: Name | None) -> str:
    parts = []
    if one.before:
        if name is not None:
            words = f'<code class="context">{text("".join(name(token) for token in one.before))}</code>'
        else:
            words = " ".join(_token(token, name) for token in one.before)
        parts.append(f"<p>Text before, as recorded: {words}</p>")
    if one.recorded is not None:
        parts.append(f"<p>Recorded next token: {_token(one.recorded, name)}</p>")
    parts.append(
        f"<p>{one.drafts} drafts, {code(one.sampler)}. The minimising subset H holds {one.subset:,} tokens with "
        f"P(H) = {number(one.target_mass)} and Q(H) = Pr[all drafts in H] = {number(one.draft_mass)}: "
        f"bound 1 + P(H) − Q(H) = <b>{number(one.bound)}</b>.</p>"
    )
    most = max(max(p, q) for _, p, q, _ in one.tokens)
    lines = "".join(
        f'<tr><td class="text">{_token(token, name)}</td><td>{_bar(p, most, "p")}</td><td>{_bar(q, most, "q")}</td>'
        f'<td class="text">{"in H" if held else ""}</td>'
        f'<td class="text">{"draft" if token in one.drawn else ""}</td></tr>'
        for token, p, q, held in one.tokens
    )
    parts.append(
        '<table class="tokens"><caption>Most probable tokens of target and draft</caption><thead><tr>'
        '<th class="text" scope="col">token</th><th scope="col">p (target)</th><th scope="col">q (draft)</th>'
        '<th class="text" scope="col">subset</th><th class="text" scope="col">drawn</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )
    drawn = " ".join(_token(token, name) for token in one.drawn)
    parts.append(f"<p>Drafts of one draw, in order: {drawn}</p>")
    if one.outputs:
        parts.append(_outputs_html(one, name))
    return "\n".join(parts)


def _bar(value: float, most: float, kind: str) -> str:
    return f'{probability(value)}<span class="bar {kind}" style="width:{100 * value / max(most, 1e-300):.1f}%"></span>'


def _outputs_html(one: Explored, name: Name | None) -> str:
    places = list(dict.fromkeys(one.drawn))
    heads = "".join(f'<th scope="col">outputs {_token(token, name)}</th>' for token in places)
    lines = []
    for out in one.outputs:
        cells = "".join(
            f'<td data-head="outputs #{token}">{probability(value)}</td>'
            for token, value in zip(places, out.on_drafts, strict=True)
        )
        top = "" if out.top is None else f" (most: {_token(out.top[0], name)} {probability(out.top[1])})"
        lines.append(
            f'<tr><td class="text" data-head="verifier">{code(out.verifier)}</td>{cells}'
            f'<td data-head="another token"><span>{probability(out.elsewhere)}{top}</span></td>'
            f'<td data-head="acceptance over all draws">{number(out.acceptance)}</td></tr>'
        )
    return (
        '<table class="cards"><caption>What each verifier does with these drafts: the probability of each output'
        '</caption><thead><tr><th class="text" scope="col">verifier</th>'
        f'{heads}<th scope="col">another token</th><th scope="col">acceptance over all draws</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
