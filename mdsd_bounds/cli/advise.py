"""``mdsd advise``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

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
    note_unaudited,
    progress_bar,
    sampling_hint,
    tvs_in,
)
from mdsd_bounds.cli.outputs import Force, check_out
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling
from mdsd_bounds.cli.table import Summary, print_summary

if TYPE_CHECKING:
    from mdsd_bounds.pipeline.evaluate_block import Settings
    from mdsd_bounds.trees.advise import Costs, Profile
    from mdsd_bounds.trees.rows import Rows

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
    "verify_ms",
]
#: Rows of the dump that times and simulated trees are made of.
ROWS = 48


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
        float | None, typer.Option("--draft-cost", help="A draft forward pass, in those of the target over one token.")
    ] = None,
    target_cost: Annotated[
        str | None,
        typer.Option("--target-cost", help="Cost by nodes read, 1:1,8:1.1,32:1.6, or a JSON file of measured seconds."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Texts that go through a step together.")] = 1,
    target_ms: Annotated[
        float | None,
        typer.Option("--target-ms", help="Milliseconds of a target forward pass over one token: verification counts."),
    ] = None,
    rules: Annotated[
        str, typer.Option("--rules", help="Rules across nodes: block, traversal, sweep, comma-separated, or none.")
    ] = "block,traversal,sweep",
    trees: Annotated[int, typer.Option("--trees", min=2, help="Simulated trees for each of those rules.")] = 16,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of both models.")] = 1.0,
    sampling: Sampling = NO_SAMPLING,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 64,
    tv: Within = None,
    figure: Annotated[str | None, typer.Option("--figure", help="Draw speed against nodes of a tree here.")] = None,
    format: Style = Format.table,
    limit: Limit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Which sampler, verifier and tree give the most tokens per second, and what a better one could still add.

    With --tv, also what an output so far from the target at every position would buy.  Verification is timed here, on
    one thread, and counted where the target's time is known (--target-ms, or --target-cost with seconds).
    """
    if figure is not None:
        need("matplotlib", purpose="--figure")
        check_out(figure, [dump], force, "--figure")
    from mdsd_bounds.cli.notes import opened
    from mdsd_bounds.pipeline.evaluate_block import Settings, matching_verifiers
    from mdsd_bounds.trees.across import simulated as simulated_rules
    from mdsd_bounds.trees.advice_in_words import in_words
    from mdsd_bounds.trees.advice_limits import limits_reached
    from mdsd_bounds.trees.advise import advise as best_trees
    from mdsd_bounds.trees.advise import lossy_profiles, profiles
    from mdsd_bounds.trees.costs import costs_from
    from mdsd_bounds.trees.rows import sampled_rows
    from mdsd_bounds.trees.speed_frontier import speed_by_nodes

    tvs, across = tvs_in(tv), _rules_in(rules)
    costs = costs_from(draft_cost, target_cost, batch, target_ms)
    samplers, counts = names_in(sampler), tuple(range(1, most_drafts + 1))
    verifiers = matching_verifiers(fitting(verifier, samplers), samplers, counts)
    note_unaudited(verifiers)
    settings = Settings(
        samplers, counts, (temperature,), verifiers, target=sampling.target, draft=sampling.draft, samples=samples
    )
    say_sampling(sampling)
    source, warnings = opened(dump, limit)
    table = _acceptances(source, settings, limit, quiet)
    found, documents = profiles(table)
    numbers = table[["row"]].drop_duplicates().sort_values("row")["row"].to_numpy()
    rows = sampled_rows(source, settings, numbers, documents, ROWS)
    costs = _with_times(costs, rows, found, verifiers, most_drafts)
    with progress_bar("rules across nodes", quiet, "fewer --trees, or --rules none, make it shorter") as progress:
        simulated = simulated_rules(
            found, documents, costs, rows, rules=across, limits=(nodes, depth), trees=trees, progress=progress
        )
    found += lossy_profiles(found, tvs)
    advice = best_trees(found, documents, costs, nodes, depth, simulated)
    _say(costs, bool(simulated), len(set(documents.tolist())))
    _say_intervals(advice)
    for line in limits_reached(advice, costs, nodes, depth):
        print(f"WARNING: {line}", file=sys.stderr)
    if figure is not None:
        _draw(speed_by_nodes(found, documents, costs, nodes, depth), figure)
    layout = Summary(lambda advice: f"{in_words(advice, costs)}.", SHOWN, DROPPABLE)
    print_summary(advice, layout, format, warnings)


def _rules_in(text: str) -> tuple[str, ...]:
    from mdsd_bounds.trees.across import RULES

    names = () if text == "none" else names_in(text)
    if set(names) - set(RULES):
        raise typer.BadParameter(f"--rules {text!r}: give some of {', '.join(RULES)}, or none")
    return names


def _with_times(costs: Costs, rows: Rows, found: list[Profile], verifiers: tuple[Any, ...], most: int) -> Costs:
    """The costs with the time of each rule at a node."""
    from dataclasses import replace

    from mdsd_bounds.trees.timing import seconds_at_nodes

    rules = {getattr(rule, "name", rule): rule for rule in verifiers}
    pairs = {(one.sampler, one.verifier): rules[one.verifier] for one in found if one.verifier in rules}
    return replace(costs, verification=seconds_at_nodes(rows, pairs, most))


def _acceptances(source: Any, settings: Settings, limit: int | None, quiet: bool) -> Any:
    """The table of acceptances at single positions."""
    from mdsd_bounds.cli.notes import say_beyond
    from mdsd_bounds.pipeline.run import run
    from mdsd_bounds.problem import InputError

    name = source.facts.path
    with progress_bar(name, quiet, sampling_hint(settings.samples)) as progress:
        table = run(source, settings, limit=limit, progress=progress)
    if table is None:
        raise InputError(f"{name}: no rows were computed")
    say_beyond(table)
    return table


def _say(costs: Costs, simulated: bool, documents: int) -> None:
    """What the figures mean and leave out."""
    lines = ["a single document says nothing about the next; the intervals are empty"] * (documents < 2)
    lines += [
        "positions are treated as exchangeable; every node of a tree gets the dump's average",
        f"tokens are per target forward pass; speed is tokens per {costs.unit}; behind is in percent of the first "
        "row's speed; verify_ms is milliseconds of one verification by this package, on one thread here",
    ]
    if costs.seconds is None:
        lines.append(
            "the time of verification is not in the speed: give --target-ms, milliseconds of one target forward pass "
            "over one token, or --target-cost with seconds"
        )
    if costs.batch > 1:
        lines.append(f"{costs.batch} texts a batch: speed is of all of them; each is verified after the other")
    if simulated:
        lines.append("block, traversal and sweep are simulated on trees of the dump's positions (--trees)")
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def _say_intervals(advice: Any) -> None:
    """The intervals of the first two rows: the table on the screen has no room for its columns of intervals."""
    real = advice[advice["kind"] == "choice"]
    best = real.iloc[0]
    if not best["speed_ci_low"] < best["speed_ci_high"]:
        return
    text = f"note: 95% intervals: speed of the first row {best['speed_ci_low']:.3g} to {best['speed_ci_high']:.3g}"
    if len(real) > 1:
        second = real.iloc[1]
        text += f", the second is {second['behind_ci_low']:.1f} to {second['behind_ci_high']:.1f}% behind"
    print(f"{text}; a wide terminal and --format csv show those of every row", file=sys.stderr)


def _draw(table: object, out: str) -> None:
    import matplotlib

    from mdsd_bounds.plots import save_figure, speed_by_nodes

    matplotlib.use("Agg")
    save_figure(speed_by_nodes(table).figure, out, tight=False)  # type: ignore[arg-type]
    print(f"note: figure written to {out}", file=sys.stderr)
