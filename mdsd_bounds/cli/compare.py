"""``mdsd compare``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mdsd_bounds.cli.options import (
    VERIFIERS_HELP,
    Batch,
    Drafts,
    DraftTemperature,
    Dump,
    Engine,
    Fixed,
    Format,
    Head,
    Limit,
    Out,
    Quiet,
    Samplers,
    Shard,
    Style,
    Temperatures,
    Tokenizer,
    TopK,
    TopP,
    names_in,
    numbers_in,
    sampling_hint,
    verifiers_in,
)
from mdsd_bounds.cli.outputs import Force
from mdsd_bounds.cli.table import run_and_print


def compare(
    dump: Dump,
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[str, typer.Option("--verifier", help=VERIFIERS_HELP)] = "all",
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    m: Fixed = 1,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the Monte Carlo samples.")] = 0,
    lossy: Annotated[bool, typer.Option("--lossy", help="With 'all': the lossy verifiers instead, flagged.")] = False,
    head: Head = None,
    tokenizer: Tokenizer = None,
    format: Style = Format.table,
    out: Out = None,
    limit: Limit = None,
    shard: Shard = "0/1",
    engine: Engine = "local",
    batch: Batch = 64,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """The gap table: every verifier and sampler against its bound, with 95% document-level intervals."""
    from mdsd_bounds.dumps.how_to_read import named
    from mdsd_bounds.pipeline.evaluate_block import Settings, matching_verifiers
    from mdsd_bounds.pipeline.tables import COMPARED, COMPARED_LOSSY, render, summarise_comparison
    from mdsd_bounds.verifiers import get_verifier

    samplers = names_in(sampler)
    counts = numbers_in(drafts, "--drafts", int)
    verifiers = matching_verifiers(verifiers_in(verifier), samplers, counts, lossy=lossy)
    settings = Settings(
        samplers=samplers,
        drafts=counts,
        temperatures=numbers_in(temperature, "--temperature", float),
        verifiers=verifiers,
        draft_temperature=draft_temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
        seed=seed,
        options={"m": m},
    )
    shown = [*COMPARED]
    if not all(get_verifier(name).lossless for name in verifiers):
        shown = [*COMPARED_LOSSY]
        print(
            "note: LOSSY verifiers: tv is the total variation of their output distribution from the target's; bound is "
            "the lossless optimum, bound_at_tv the optimum at the verifier's own tv",
            file=sys.stderr,
        )
    dump = named(dump, head=head, tokenizer=tokenizer)
    run_and_print(
        dump,
        settings,
        summarise_comparison,
        render,
        shown,
        format,
        out,
        limit,
        shard,
        engine,
        batch,
        force,
        quiet,
        hint=sampling_hint(samples),
    )
