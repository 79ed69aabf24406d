"""Options on how a dump is run through the loop, and on what is computed there: ``bounds``, ``compare``, ``report``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from mdsd_bounds.cli.options import Batch, Engine, Limit, Out, Quiet, Shard, names_in, numbers_in
from mdsd_bounds.cli.outputs import Force
from mdsd_bounds.cli.shared_options import option_named, with_record

if TYPE_CHECKING:
    from mdsd_bounds.cli.sampling import Sampling
    from mdsd_bounds.pipeline.evaluate_block import Settings


@dataclass(frozen=True)
class Running:
    """How a dump is run through the loop: the options of these names, and what progress says of a slow run."""

    out: Out = None
    limit: Limit = None
    shard: Shard = "0/1"
    engine: Engine = "local"
    batch: Batch = 64
    force: Force = False
    quiet: Quiet = False
    hint: str = ""


#: Stands for the options in a command's own signature; they always come.
NO_RUNNING: Any = None


def with_running(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options of :class:`Running` in the place of its parameter ``running``."""
    kinds = get_type_hints(Running, include_extras=True)
    fields = [one for one in dataclasses.fields(Running) if one.name != "hint"]
    options = [option_named(one.name, kinds[one.name], one.default) for one in fields]
    return with_record(command, "running", options, lambda held: Running(**held))


def settings_in(
    sampler: str, drafts: str, temperature: str, draft_temperature: float | None, sampling: Sampling, **others: Any
) -> Settings:
    """The settings that the options say, lists still as they were typed; ``others`` are further fields."""
    from mdsd_bounds.pipeline.evaluate_block import Settings

    return Settings(
        samplers=names_in(sampler),
        drafts=numbers_in(drafts, "--drafts", int),
        temperatures=numbers_in(temperature, "--temperature", float),
        draft_temperature=draft_temperature,
        target=sampling.target,
        draft=sampling.draft,
        **others,
    )
