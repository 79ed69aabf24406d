"""Logs of tree decoding: one JSON object a line, one line a target forward pass, read by ``open_dump`` as a step log.

The format is that of :mod:`mdsd_bounds.dumps.step_schema`, with the whole tree (``TreeRecord``).  ``reach`` and
``expected`` are Rao-Blackwellised: means over the verification's own coins, exact given the tree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path as File
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from mdsd_bounds._backend.printable import counted, printable
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.records import records
from mdsd_bounds.dumps.step_schema import BoundRecord, Chance, PositionRecord, StepReader, StepRecord, TreeRecord
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import top_tokens
from mdsd_bounds.trees.base import Tree
from mdsd_bounds.trees.bound_log import check_bounds, summarise_bounds
from mdsd_bounds.trees.decode import Step
from mdsd_bounds.trees.verify import expected_accepted, expected_emitted, reach


def record(step: Step, number: int, doc: int, rule: str, top: int = 8, bound: BoundRecord | None = None) -> StepRecord:
    """One step as it is logged; ``top`` tokens of each distribution are kept at the positions passed.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree, record, take_step
    >>> model = MarginalDraft(torch.tensor([[0.6, 0.3, 0.1]] * 4, dtype=torch.float64))
    >>> step = take_step(model, model, named_tree("chain", "2"), "block", torch.Generator().manual_seed(0))
    >>> record(step, number=0, doc=3, rule="block").doc
    3
    """
    tree, outcomes = step.tree, step.outcomes
    nodes = range(1, len(tree.tokens))
    target = [float(step.target[tree.parents[v], tree.tokens[v]]) for v in nodes]
    draft = [float(tree.distributions[tree.probs_row[tree.parents[v]], tree.tokens[v]]) for v in nodes]
    places = (0, *step.verified.nodes)
    held = TreeRecord(
        slots={v: tuple(drafts) for v, drafts in enumerate(tree.drafts) if drafts},
        path=tuple(step.verified.nodes),
        parents=tuple(tree.parents[1:]),
        tokens=tuple(step.verified.tokens),
        q=_short(draft),
        p=_short(target),
        reach=None if outcomes is None else _short(reach(tree, outcomes)[1:]),
        expected=None if outcomes is None else expected_accepted(tree, outcomes),
        emitted=None if outcomes is None else expected_emitted(tree, outcomes),
        sampler=tree.sampler,
        rule=rule,
        draft_passes=tree.draft_passes,
        seconds=_short(step.seconds),
        bound=bound,
    )
    return StepRecord(
        step=number,
        doc=doc,
        drafts=tuple(tree.tokens[1:]),
        accepted=len(step.verified.nodes),
        positions=tuple(
            _position(tree, step.target, node, token, top)
            for node, token in zip(places, step.verified.tokens, strict=False)
        ),
        tree=held,
        is_tree=True,
    )


def read_log(path: str | File) -> list[StepRecord]:
    """The lines of a log.

    Raises
    ------
    InputError
        Naming the line that is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.trees import read_log
    >>> file = Path(tempfile.mkdtemp()) / "steps.jsonl"
    >>> _ = file.write_text("")
    >>> read_log(str(file))
    Traceback (most recent call last):
        ...
    mdsd_bounds.problem.InputError: ...steps.jsonl: the log is empty; decode some text first
    """
    lines, reader = [], StepReader()
    with reading(path, "step of a tree log", "log it again") as place:
        for entry in records(File(path)):
            place.at = entry.at
            lines.append(reader.read(entry.value, whole_tree=True))
            check_bounds(lines[-1])
    if not lines:
        raise InputError(f"{path}: the log is empty; decode some text first")
    return lines


def summarise_log(lines: Sequence[StepRecord]) -> dict[str, Any]:
    """Block efficiency and accepted tokens per target forward pass, realised and expected, with 95% document intervals.

    ``rule`` names the rules of the lines.

    Where the log has bounds, also ``bound``, ``full_information`` and ``share``, the accepted tokens over the bound.
    ``by_depth`` is ``[steps that could, share accepted]`` of each depth: of the steps whose accepted path came to a
    node with drafts at depth l - 1, how many accepted one at depth l.  ``by_child`` is the same for the k-th draft of
    a node.  Both add the probabilities ``reach`` where known, else what happened.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree, record, summarise_log, take_step
    >>> model = MarginalDraft(torch.tensor([[0.6, 0.3, 0.1]] * 4, dtype=torch.float64))
    >>> step = take_step(model, model, named_tree("chain", "2"), "block", torch.Generator().manual_seed(0))
    >>> summary = summarise_log([record(step, number=0, doc=3, rule="block")])
    >>> summary["tokens"], summary["accepted"]["mean"]
    (3, 2.0)
    """
    documents = np.array([line.doc for line in lines])
    realised = np.array([[len(line.tree.tokens), line.accepted] for line in lines], dtype=float)
    columns = {"block_efficiency": realised[:, 0], "accepted": realised[:, 1]}
    if all(line.tree.expected is not None for line in lines):
        columns["block_efficiency_expected"] = np.array([line.tree.emitted for line in lines])
        columns["accepted_expected"] = np.array([line.tree.expected for line in lines])
    values = np.stack(list(columns.values()), 1)
    low, high = bootstrap_interval(values, documents)
    bounds = summarise_bounds(lines, columns.get("accepted_expected", columns["accepted"]))
    return {
        "rule": ", ".join(dict.fromkeys(line.tree.rule for line in lines)),
        "target_passes": len(lines),
        "documents": len(set(documents.tolist())),
        "tokens": int(realised[:, 0].sum()),
        "nodes": float(np.mean([len(line.drafts) for line in lines])),
        "draft_passes": float(np.mean([line.tree.draft_passes for line in lines])),
        **{
            name: {"mean": float(column.mean()), "ci_low": float(below), "ci_high": float(above)}
            for (name, column), below, above in zip(columns.items(), low, high, strict=True)
        },
        **bounds,
        "by_depth": _shares(lines, by_child=False),
        "by_child": _shares(lines, by_child=True),
        "seconds": [float(part) for part in np.mean([line.tree.seconds for line in lines], axis=0)],
    }


def summary_table(summaries: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row for each named summary: rule, block efficiency and accepted tokens with their intervals; tokens per
    second, and the share of the time that verification takes.

    Where known also the certified bound, full information, and the share of the bound that the rule accepts, each with
    its interval.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree, record, summarise_log, summary_table, take_step
    >>> model = MarginalDraft(torch.tensor([[0.6, 0.3, 0.1]] * 4, dtype=torch.float64))
    >>> step = take_step(model, model, named_tree("chain", "2"), "block", torch.Generator().manual_seed(0))
    >>> table = summary_table({"block": summarise_log([record(step, number=0, doc=3, rule="block")])})
    >>> len(table)
    1
    """
    rows = []
    for name, found in summaries.items():
        best = found.get("block_efficiency_expected", found["block_efficiency"])
        accepted, seconds = found.get("accepted_expected", found["accepted"]), sum(found["seconds"])
        rows.append(
            {
                "tree": printable(name),
                "rule": found["rule"],
                "target_passes": found["target_passes"],
                "documents": found["documents"],
                "nodes": found["nodes"],
                "draft_passes": found["draft_passes"],
                "realised": found["block_efficiency"]["mean"],
                "block_efficiency": best["mean"],
                "ci_low": best["ci_low"],
                "ci_high": best["ci_high"],
                "accepted": accepted["mean"],
                "accepted_low": accepted["ci_low"],
                "accepted_high": accepted["ci_high"],
                "tokens_per_second": found["tokens"] / max(seconds * found["target_passes"], 1e-12),
                "verifying": found["seconds"][2] / max(seconds, 1e-12),
            }
        )
        for name_of in ("bound", "full_information", "share"):
            if name_of in found:
                columns = {"mean": name_of, "ci_low": f"{name_of}_low", "ci_high": f"{name_of}_high"}
                rows[-1].update({column: found[name_of][key] for key, column in columns.items()})
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame) -> str:
    """What the first row of a summary says, in one sentence without its full stop."""
    row = table.iloc[0]
    text = (
        f"{row['rule'] or 'the rule'} emits {row['block_efficiency']:.3f}{_within(row['ci_low'], row['ci_high'])} "
        f"tokens per target forward pass over {counted(int(row['documents']), 'document')}"
    )
    if row["ci_low"] != row["ci_low"]:
        text += " (so no interval)"
    if "share" in row and row["share"] == row["share"]:
        text += (
            f", and accepts {100 * row['share']:.1f}%{_within(row['share_low'], row['share_high'], 100, 1)} of "
            f"what any lossless rule can (bound {row['bound']:.3f}{_within(row['bound_low'], row['bound_high'])} "
            "accepted tokens)"
        )
    return text


def _within(low: float, high: float, scale: float = 1.0, digits: int = 3) -> str:
    """An interval behind its middle; nothing where a single document gives none."""
    return "" if low != low else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _shares(lines: Iterable[StepRecord], *, by_child: bool) -> dict[int, list[float]]:
    """Key (depth, or place among the children) -> [weight that came to the parent, share accepted]."""
    asked: dict[int, float] = defaultdict(float)
    taken: dict[int, float] = defaultdict(float)
    for line in lines:
        weight = {0: 1.0, **{v: float(v in line.tree.path) for v in range(1, len(line.drafts) + 1)}}
        if line.tree.reach is not None:
            weight = {0: 1.0, **dict(enumerate(line.tree.reach, 1))}
        depth = {0: 0}
        below: dict[int, list[int]] = defaultdict(list)
        for v, parent in enumerate(line.tree.parents, 1):
            depth[v] = depth[parent] + 1
            below[parent].append(v)
        for parent, children in below.items():
            for k, v in enumerate(children, 1):
                key = k if by_child else depth[v]
                taken[key] += weight[v]
                asked[key] += weight[parent] if by_child or k == 1 else 0.0
    return {key: [asked[key], taken[key] / asked[key] if asked[key] > 0 else 0.0] for key in sorted(asked)}


def _position(tree: Tree, target: Tensor, node: int, token: int, top: int) -> PositionRecord:
    # Rounding may leave a distribution a few units above one; a probability is not.
    p = min(1.0, float(target[node, token]))
    draft = None if tree.probs_row[node] < 0 else _candidates(tree.distributions[tree.probs_row[node]], top)
    return PositionRecord(token, _chance(p), draft, _candidates(target[node], top))


def _candidates(probs: Tensor, top: int) -> dict[int, Chance]:
    tokens = [token for token in top_tokens(probs[None], top)[0].tolist() if token >= 0]
    return {token: _chance(min(1.0, float(f"{float(probs[token]):.9g}"))) for token in tokens}


def _chance(p: float) -> Chance:
    return Chance(p, math.log(p) if p > 0 else -math.inf)


def _short(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in values)
