"""``mdsd tree``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import Format, Quiet, Style
from mdsd_bounds.cli.outputs import Force, check_out
from mdsd_bounds.cli.table import Summary, print_summary

if TYPE_CHECKING:
    from mdsd_bounds.distributions import Warp
    from mdsd_bounds.dumps.step_schema import StepRecord

#: What text goes without where it would be wider than 100 columns.
DROPPABLE = (
    "documents", "draft_passes", "accepted_low", "accepted_high", "realised", "full_information_low",
    "full_information_high", "target_passes", "bound_low", "bound_high", "nodes", "full_information", "verifying",
    "tokens_per_second",
)  # fmt: skip


def tree(
    log: Annotated[str | None, typer.Argument(metavar="[LOG]", help="Summarise this log; nothing is run.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Target: a hub name, a folder or a GGUF file.")] = None,
    draft: Annotated[
        str | None, typer.Option("--draft", help="Draft: a model, chimera:FOLDER, early-exit:K or skip-layers:4-9.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="Text (one a line), .jsonl, or humaneval; a prompt is a document.")
    ] = None,
    builder: Annotated[
        str,
        typer.Option(
            "--builder", help="chain, paths, rsd_c (rsd_c:SAMPLER for other drafts), rsd_s, sequoia, dynamic."
        ),
    ] = "rsd_c",
    shape: Annotated[
        str, typer.Option("--shape", help="5 | 3x5 | 2,2,1 | 3x5 | 14:0.7,0.15,0.05 | 14x3x5, in that order.")
    ] = "2,2,1",
    rule: Annotated[
        str,
        typer.Option(
            "--rule", help="recursive, traversal, sweep, block (chains), greedy_multi_path (paths), or any verifier."
        ),
    ] = "recursive",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens to emit after each prompt.")] = 32,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of both models.")] = 1.0,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Cut of both models.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first prompts.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option("--device", help="A torch device.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    out: Annotated[str | None, typer.Option("--out", help="Write the log here, JSONL, a line a step.")] = None,
    bound: Annotated[
        bool,
        typer.Option(
            "--bound",
            help="Certified bound at every step (chain, rsd_c); from three levels on it costs further passes.",
        ),
    ] = False,
    format: Style = Format.table,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Decode with draft trees on a real pair: tokens per target forward pass; or summarise a log of such a run."""
    import os

    # Read when tqdm is first imported, by torch: loading would draw bars between the lines of this command.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from mdsd_bounds.distributions import Warp
    from mdsd_bounds.trees.log import in_words, read_log, summarise_log, summary_table

    if log is not None:
        lines, name = read_log(log), log
    else:
        if target is None or draft is None or prompts is None or out is None:
            raise typer.BadParameter("give a LOG to summarise, or --target, --draft, --prompts and --out to run")
        need("transformers", purpose="running models")
        check_out(out, [target, draft, prompts], force)
        warp = Warp(temperature, top_p=top_p)
        name = f"{builder} {shape}, {rule}"
        lines = _run(
            target,
            draft,
            prompts,
            builder,
            shape,
            rule,
            new_tokens,
            warp,
            limit,
            dtype,
            device,
            seed,
            out,
            bound,
            quiet,
        )
    found = summarise_log(lines)
    for title, key in (("depth", "by_depth"), ("child", "by_child")):
        shares = "  ".join(f"{place}: {share:.3f} of {asked:.1f}" for place, (asked, share) in found[key].items())
        print(f"note: accepted by {title}  {shares}", file=sys.stderr)
    layout = Summary(lambda table: f"{in_words(table)}.", None, DROPPABLE)
    print_summary(summary_table({name: found}), layout, format)


def _run(
    target: str,
    draft: str,
    prompts: str,
    builder: str,
    shape: str,
    rule: str,
    new_tokens: int,
    warp: Warp,
    limit: int | None,
    dtype: str,
    device: str,
    seed: int,
    out: str,
    bound: bool,
    quiet: bool,
) -> list[StepRecord]:
    import json

    import torch

    from mdsd_bounds._backend.whole_files import whole_file
    from mdsd_bounds.dumps.step_schema import write_step
    from mdsd_bounds.models.loading import load_model, silence
    from mdsd_bounds.models.prompts import read_prompts
    from mdsd_bounds.problem import InputError
    from mdsd_bounds.trees.bound_log import step_bounds
    from mdsd_bounds.trees.decode import decode
    from mdsd_bounds.trees.drafting import drafting_from, stop_tokens
    from mdsd_bounds.trees.log import record
    from mdsd_bounds.trees.named import fixed_branching, named_tree, require_admitted

    silence()
    require_admitted(builder, shape, rule)
    branching = fixed_branching(builder, shape) if bound else None
    texts = read_prompts(prompts)[:limit]
    first = load_model(target, dtype, device)
    drafting = drafting_from(draft, first, dtype, device)
    stop = stop_tokens(first)
    build = named_tree(builder, shape, stop)
    model = drafting.model
    width = min(first.model.config.get_text_config().vocab_size, model.config.get_text_config().vocab_size)
    lines: list[StepRecord] = []
    with whole_file(out) as temporary, temporary.open("w") as stream:
        for doc, text in enumerate(texts):
            ids = list(first.tokenizer(text)["input_ids"])
            readers = drafting.readers(first.model, ids, width=width, warp=warp)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + doc)
            twins = torch.Generator().manual_seed(seed * 1_000_003 + doc + 1_000_000_007)
            try:
                for number, step in enumerate(decode(*readers, build, rule, new_tokens, generator, stop)):
                    limit_of = None if branching is None else step_bounds(step, *readers, branching, twins, stop)
                    lines.append(record(step, number, doc, rule, bound=limit_of))
                    stream.write(json.dumps(write_step(lines[-1])) + "\n")
            except InputError as error:
                raise InputError(f"{prompts}: prompt {doc + 1}: {error}") from None
            if not quiet:
                done = sum(len(line.tree.tokens) for line in lines)
                rate = f"{done / len(lines):.2f} tokens per target forward pass"
                print(f"{doc + 1} of {len(texts)} prompts, {rate}", file=sys.stderr)
    return lines
