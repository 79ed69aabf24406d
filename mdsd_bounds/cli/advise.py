"""``mdsd advise``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import (
    QUICK_VERIFIERS,
    VERIFIERS_HELP,
    Dump,
    Format,
    Limit,
    Quiet,
    Samplers,
    Style,
    Within,
    fitting,
    names_in,
    progress_bar,
    sampling_hint,
    tvs_in,
)
from mdsd_bounds.cli.outputs import Force, check_out
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling
from mdsd_bounds.cli.table import Summary, print_summary

#: What text goes without where it would be wider than 100 columns.
DROPPABLE = ("speed_ci_low", "speed_ci_high", "behind_ci_low", "behind_ci_high", "nodes")
#: What people are shown of the advice.
SHOWN = [
    "kind",
    "sampler",
    "verifier",
    "tree",
    "nodes",
    "tokens",
    "speed",
    "speed_ci_low",
    "speed_ci_high",
    "behind",
    "behind_ci_low",
    "behind_ci_high",
]


@with_sampling
def advise(
    dump: Dump,
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[
        str,
        typer.Option("--verifier", help=f"{VERIFIERS_HELP} The bound of each sampler stands beside them."),
    ] = QUICK_VERIFIERS,
    most_drafts: Annotated[int, typer.Option("--most-drafts", min=1, help="Most drafts below one node.")] = 4,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=128, help="Most nodes of a tree.")] = 32,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Most levels of a tree.")] = 8,
    draft_cost: Annotated[
        float | None, typer.Option("--draft-cost", help="One draft call, in target calls over one token.")
    ] = None,
    target_cost: Annotated[
        str | None,
        typer.Option("--target-cost", help="Cost by nodes read, 1:1,8:1.1,32:1.6, or a JSON file of measured seconds."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of both models.")] = 1.0,
    sampling: Sampling = NO_SAMPLING,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 64,
    tv: Within = None,
    figure: Annotated[str | None, typer.Option("--figure", help="Draw speed against nodes per call here.")] = None,
    format: Style = Format.table,
    limit: Limit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Which sampler, verifier and tree give the most tokens per second, and what a better one could still add.

    With --tv, also what an output so far from the target at every position would buy.
    """
    if figure is not None:
        need("matplotlib", purpose="--figure")
        check_out(figure, [dump], force, "--figure")
    from mdsd_bounds.cli.notes import opened, say_beyond
    from mdsd_bounds.pipeline.evaluate_block import Settings, matching_verifiers
    from mdsd_bounds.pipeline.run import run
    from mdsd_bounds.problem import InputError
    from mdsd_bounds.trees.advice_limits import limits_reached
    from mdsd_bounds.trees.advise import advise as best_trees
    from mdsd_bounds.trees.advise import costs_from, in_words, lossy_profiles, profiles
    from mdsd_bounds.trees.speed_frontier import speed_by_nodes

    tvs = tvs_in(tv)
    costs = costs_from(draft_cost, target_cost)
    samplers, counts = names_in(sampler), tuple(range(1, most_drafts + 1))
    verifiers = matching_verifiers(fitting(verifier, samplers), samplers, counts)
    settings = Settings(
        samplers, counts, (temperature,), verifiers, target=sampling.target, draft=sampling.draft, samples=samples
    )
    say_sampling(sampling)
    source, warnings = opened(dump, limit)
    with progress_bar(dump, quiet, sampling_hint(samples)) as progress:
        table = run(source, settings, limit=limit, progress=progress)
    if table is None:
        raise InputError(f"{dump}: no rows were computed")
    say_beyond(table)
    found, documents = profiles(table)
    found += lossy_profiles(found, tvs)
    if len(set(documents.tolist())) < 2:
        print("note: a single document says nothing about the next; the intervals are empty", file=sys.stderr)
    advice = best_trees(found, documents, costs, nodes, depth)
    print("note: positions are treated as exchangeable; every node of a tree gets the dump's average", file=sys.stderr)
    print(
        f"note: tokens are per target forward pass; speed is tokens per {costs.unit}; behind is in percent of the "
        "first row's speed",
        file=sys.stderr,
    )
    for line in limits_reached(advice, costs, nodes, depth):
        print(f"WARNING: {line}", file=sys.stderr)
    if figure is not None:
        _draw(speed_by_nodes(found, documents, costs, nodes, depth), figure)
    layout = Summary(lambda advice: f"{in_words(advice)}.", SHOWN, DROPPABLE)
    print_summary(advice, layout, format, warnings)


def _draw(table: object, out: str) -> None:
    import matplotlib

    from mdsd_bounds.plots import save_figure, speed_by_nodes

    matplotlib.use("Agg")
    save_figure(speed_by_nodes(table).figure, out, tight=False)  # type: ignore[arg-type]
    print(f"note: figure written to {out}", file=sys.stderr)
