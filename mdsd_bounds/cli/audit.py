"""``mdsd audit``: exit code 0 not refuted, 1 lossy; others as of every command (:mod:`mdsd_bounds.cli.exits`)."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsd_bounds.cli.exits import GOOD, LOSSY, UNEXPECTED, need
from mdsd_bounds.cli.options import Fixed, Quiet, names_in, numbers_in, progress_bar
from mdsd_bounds.cli.outputs import Force, check_out

if TYPE_CHECKING:
    from torch import Tensor

    from mdsd_bounds.distributions import Warp
    from mdsd_bounds.dumps.base import LogitBatch
    from mdsd_bounds.verifiers.base import Verifier


class AuditFormat(StrEnum):
    """Output formats of a report."""

    table = "table"
    json = "json"


def audit(
    log: Annotated[
        str | None, typer.Argument(metavar="[LOG]", help="Log of a running system, JSONL or parquet.")
    ] = None,
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="Audit a rule: a name, module:NAME or path/to/file.py:NAME.")
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="Self-check: known faults must be flagged.")] = False,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Rule: samplers, comma-separated.  Log: for lines that name none.")
    ] = None,
    drafts: Annotated[str | None, typer.Option("--drafts", help="Rule: numbers of drafts (1,2,3).")] = None,
    dump: Annotated[
        str | None,
        typer.Option("--dump", help="Log: where row is found.  Rule: real rows for steps (the example dump)."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the rows of the dump.")] = 1.0,
    draft_temperature: Annotated[float | None, typer.Option("--draft-temperature", help="Of the draft's rows.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Cut of the rows of the dump.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Cut of the rows of the dump.")] = None,
    m: Fixed = 1,
    alpha: Annotated[float, typer.Option("--alpha", help="False-alarm rate of the verdict.")] = 0.01,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Log: total variation by which p may be off.")
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Rule: steps on each small row; a quarter on each row of the dump.")
    ] = 200,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rule: rows of the dump to use.")] = 32,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the steps and of the self-check.")] = 0,
    blockwise: Annotated[
        bool, typer.Option("--blockwise", help="Log: of block or traversal verification (see docs/audit.md).")
    ] = False,
    left_out: Annotated[
        str | None,
        typer.Option("--left-out", help="Log: tokens whose lines are not in it, as of an end token, or none."),
    ] = None,
    format: Annotated[AuditFormat, typer.Option("--format", help="How to print the report.")] = AuditFormat.table,
    figure: Annotated[str | None, typer.Option("--figure", help="Log or self-check: draw the evidence here.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="All details of the report.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> int:
    """Is this verifier lossless?  From its code, or from the log of a running system.

    Exit code 0: not refuted; 1: lossy; 2: bad input; 3: a defect of this program.
    """
    given = [log is not None, verifier is not None, controls]
    if sum(given) != 1:
        raise typer.BadParameter("give a LOG, or --verifier NAME, or --controls")
    warp: dict[str, Any] = {
        "temperature": temperature,
        "draft_temperature": draft_temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    if figure is not None and verifier is not None:
        raise typer.BadParameter("--figure goes with a LOG or with --controls")
    if figure is not None:
        need("matplotlib", purpose="--figure")
        check_out(figure, [log, dump], force, "--figure")
    if controls:
        return _controls(alpha, seed, format, figure)
    if log is not None:
        how: dict[str, Any] = {
            "dump": dump,
            "sampler": sampler or "",
            "alpha": alpha,
            "tolerance": tolerance,
            "blockwise": blockwise,
        }
        return _log(
            log, {**how, "warps": _warps(warp), "left_out": _left_out(left_out), "m": m}, format, figure, verbose
        )
    assert verifier is not None
    return _rule(verifier, sampler, drafts, dump, warp, m, alpha, steps, limit, seed, format, quiet, verbose)


def _show(text: str, data: dict[str, Any], format: AuditFormat) -> None:
    import json

    print(json.dumps(data, indent=1, allow_nan=False) if format is AuditFormat.json else text)


def _controls(alpha: float, seed: int, format: AuditFormat, figure: str | None) -> int:
    from mdsd_bounds.audit.render import check_data, check_text
    from mdsd_bounds.audit.self_check import self_check

    checked = self_check(alpha=alpha, seed=seed)
    _show(check_text(checked), check_data(checked), format)
    if figure is not None:
        _draw(figure, {row.rule.name: (row.report, not row.rule.lossless) for row in checked})
    # Not a verdict on a rule: the audit itself is broken.
    return GOOD if all(row.as_known for row in checked) else UNEXPECTED


def _warps(given: dict[str, Any]) -> tuple[Warp, Warp]:
    """Temperature and cuts of the rows of a dump: of the target and of the draft."""
    from dataclasses import replace

    from mdsd_bounds.distributions import Warp

    target = Warp(given["temperature"], given["top_k"], given["top_p"])
    second = given["draft_temperature"]
    return target, target if second is None else replace(target, temperature=second)


def _left_out(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    return () if text == "none" else numbers_in(text, "--left-out", int)


def _log(log: str, how: dict[str, Any], format: AuditFormat, figure: str | None, verbose: bool) -> int:
    from pathlib import Path

    from mdsd_bounds.audit import audit_log
    from mdsd_bounds.audit.render import log_data, log_text

    report = audit_log(log, **how)
    _show(log_text(report, verbose), log_data(report), format)
    if figure is not None:
        _draw(figure, {Path(log).name: (report, report.lossy)})
    return LOSSY if report.lossy else GOOD


def _rule(
    spec: str,
    sampler: str | None,
    drafts: str | None,
    dump: str | None,
    warp: dict[str, Any],
    m: int,
    alpha: float,
    steps: int,
    limit: int,
    seed: int,
    format: AuditFormat,
    quiet: bool,
    verbose: bool,
) -> int:
    from mdsd_bounds.audit import audit_rule, load_rule
    from mdsd_bounds.audit.render import rule_data, rule_text
    from mdsd_bounds.samplers import get_sampler

    rule = load_rule(spec)
    samplers = (
        tuple(x for x in rule.samplers if get_sampler(x).takes != "table") if sampler is None else names_in(sampler)
    )
    counts = _counts(rule, drafts)
    rows = _example_rows(limit, warp) if dump is None else _rows(dump, limit, warp)
    with progress_bar(rule.name, quiet) as progress:
        report = audit_rule(
            rule, samplers, counts, rows=rows, steps=steps, alpha=alpha, seed=seed, progress=progress, m=m
        )
    _show(rule_text(report, verbose), rule_data(report), format)
    return LOSSY if report.lossy else GOOD


def _counts(rule: Verifier, drafts: str | None) -> tuple[int, ...]:
    if drafts is not None:
        return numbers_in(drafts, "--drafts", int)
    return (1, 2, 3) if rule.drafts_needed is None else (rule.drafts_needed,)


def _rows(dump: str, limit: int, warp: dict[str, Any]) -> tuple[Tensor, ...]:
    """The first rows of a dump as distributions, and their documents where it names them."""
    from mdsd_bounds.cli.notes import opened
    from mdsd_bounds.problem import InputError

    held, _ = opened(dump, limit)
    batch = next(iter(held.batches(min(limit, len(held)))))
    if batch.target_cut is not None or batch.draft_cut is not None:
        raise InputError(f"{dump}: its rows are cut; steps need full rows: give a dump of whole logits")
    p, q = _distributions(batch, dump, warp)
    return (p, q) if batch.doc is None else (p, q, batch.doc)


def _example_rows(limit: int, warp: dict[str, Any]) -> tuple[Tensor, ...]:
    """The first rows of the example dump over the tokens that it holds: all others have probability 0 in every row."""
    from mdsd_bounds.dumps.example import load_example

    held = load_example()
    print("note: real rows are those of the example dump; --dump takes your own", file=sys.stderr)
    batch = next(iter(held.batches(min(limit, len(held)))))
    p, q = _distributions(batch, "example", warp)
    kept = ((p > 0) | (q > 0)).any(0)
    assert batch.doc is not None
    return p[:, kept].contiguous(), q[:, kept].contiguous(), batch.doc


def _distributions(batch: LogitBatch, dump: str, warp: dict[str, Any]) -> tuple[Tensor, Tensor]:
    from mdsd_bounds.distributions import to_probs

    second = warp["temperature"] if warp["draft_temperature"] is None else warp["draft_temperature"]
    cuts = {"top_k": warp["top_k"], "top_p": warp["top_p"]}
    p = to_probs(batch.target_logits, temperature=warp["temperature"], **cuts, name=f"{dump} target_logits")
    q = to_probs(batch.draft_logits, temperature=second, **cuts, name=f"{dump} draft_logits")
    return p, q


def _draw(path: str, reports: dict[str, Any]) -> None:
    from mdsd_bounds.plots.audit_evidence import save_evidence

    save_evidence(reports, path)
    print(f"figure: {path}", file=sys.stderr)
