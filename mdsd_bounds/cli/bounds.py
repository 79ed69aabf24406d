"""``mdsd bounds``."""

from __future__ import annotations

from mdsd_bounds.cli.options import (
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
    Within,
    names_in,
    numbers_in,
    tvs_in,
)
from mdsd_bounds.cli.outputs import Force
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling
from mdsd_bounds.cli.table import Running, Summary, run_and_print


@with_sampling
def bounds(
    dump: Dump,
    sampler: Samplers = "with_replacement,without_replacement,greedy",
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    sampling: Sampling = NO_SAMPLING,
    m: Fixed = 1,
    tv: Within = None,
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
    """Optimal acceptance rate of each draft sampler and number of drafts, certified, averaged over the dump.

    With --tv, that of the best rule whose output may be so far from the target at every position.
    """
    from mdsd_bounds.dumps.how_to_read import named
    from mdsd_bounds.pipeline.conclusions import bounds_in_words
    from mdsd_bounds.pipeline.evaluate_block import Settings
    from mdsd_bounds.pipeline.tables import summarise

    settings = Settings(
        samplers=names_in(sampler),
        drafts=numbers_in(drafts, "--drafts", int),
        temperatures=numbers_in(temperature, "--temperature", float),
        draft_temperature=draft_temperature,
        target=sampling.target,
        draft=sampling.draft,
        options={"m": m},
        tvs=tvs_in(tv),
    )
    say_sampling(sampling)
    dump = named(dump, head=head, tokenizer=tokenizer)
    running = Running(out, limit, shard, engine, batch, force, quiet)
    layout = Summary(bounds_in_words, droppable=("stderr",))
    run_and_print(dump, settings, running, summarise, layout, format)
