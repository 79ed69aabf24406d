"""``mdsd bounds``."""

from __future__ import annotations

from mdsd_bounds.cli.options import (
    Drafts,
    DraftTemperature,
    Dump,
    Fixed,
    Format,
    Head,
    Samplers,
    Style,
    Temperatures,
    Tokenizer,
    Within,
    tvs_in,
)
from mdsd_bounds.cli.running import NO_RUNNING, Running, settings_in, with_running
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling
from mdsd_bounds.cli.table import Summary, run_and_print


@with_running
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
    running: Running = NO_RUNNING,
) -> None:
    """Optimal acceptance rate of each draft sampler and number of drafts, certified, averaged over the dump.

    With --tv, that of the best rule whose output may be so far from the target at every position.
    """
    from mdsd_bounds.dumps.how_to_read import named
    from mdsd_bounds.pipeline.conclusions import bounds_in_words
    from mdsd_bounds.pipeline.tables import summarise

    settings = settings_in(sampler, drafts, temperature, draft_temperature, sampling, options={"m": m}, tvs=tvs_in(tv))
    say_sampling(sampling)
    dump = named(dump, head=head, tokenizer=tokenizer)
    layout = Summary(bounds_in_words, droppable=("stderr",))
    run_and_print(dump, settings, running, summarise, layout, format)
