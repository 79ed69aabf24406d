"""``mdsd log``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.exits import need, resumable


class Mode(StrEnum):
    """Where the text comes from."""

    sampled = "sampled"
    teacher_forced = "teacher-forced"


class Stored(StrEnum):
    """Forms of the rows."""

    logits = "logits"
    hidden = "hidden"
    top_k = "top-k"


class Precision(StrEnum):
    """Floating dtypes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def log(
    target: Annotated[str, typer.Option("--target", help="Hugging Face name, local folder or GGUF file.")],
    draft: Annotated[
        str,
        typer.Option("--draft", help="The same; or chimera:FOLDER, early-exit:K, skip-layers:4-9, prompt-lookup."),
    ],
    prompts: Annotated[str, typer.Option("--prompts", help="Text (one a line), .jsonl or 'humaneval'.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the dump; the same command continues it.")],
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="sampled: the target continues the prompts; teacher-forced: they are the text."),
    ] = Mode.sampled,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the text's sampling; 0 is greedy.")] = 1.0,
    max_positions: Annotated[int | None, typer.Option("--max-positions", help="Stop after so many positions.")] = None,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Positions of each prompt.")] = 32,
    store: Annotated[Stored, typer.Option("--store", help="What is kept of each position.")] = Stored.logits,
    top_k: Annotated[int, typer.Option("--top-k", help="Tokens kept with --store top-k.")] = 64,
    token_map: Annotated[
        str | None,
        typer.Option(
            "--token-map", help="For different vocabularies: 'intersection', or a file with d2t or target_ids."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampled text.")] = 0,
    dtype: Annotated[Precision, typer.Option("--dtype", help="Of the computation.")] = Precision.float32,
    store_dtype: Annotated[Precision, typer.Option("--store-dtype", help="Of stored logits.")] = Precision.float16,
    device: Annotated[str, typer.Option("--device", help="A torch device, for example cpu or cuda:0.")] = "cpu",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Prompts run together; the unit of resuming.")] = 16,
    max_prompt_tokens: Annotated[
        int, typer.Option("--max-prompt-tokens", help="Longer prompts are refused, never cut.")
    ] = 2048,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Run a model pair over prompts and store the distributions of both at every position; prints the dump's folder."""
    import os
    import sys

    # Read when tqdm is first imported: loading would draw bars between the lines of this command.
    os.environ.setdefault("TQDM_DISABLE", "1")
    need("transformers", purpose="running models")
    from mdsd_bounds.models.capture import CaptureSettings, log_pair
    from mdsd_bounds.models.loading import hush

    hush()
    settings = CaptureSettings(
        new_tokens=new_tokens,
        temperature=temperature,
        mode=mode.value.replace("-", "_"),
        seed=seed,
        batch_size=batch_size,
        store_dtype=store_dtype.value,
        max_prompt_tokens=max_prompt_tokens,
        store=store.value,
        top_k=top_k,
    )

    def report(line: str) -> None:
        if not quiet:
            print(printable(line), file=sys.stderr, flush=True)

    with resumable(f"finished batches are in {out}"):
        path = log_pair(
            target,
            draft,
            prompts,
            out,
            settings,
            dtype=dtype.value,
            device=device,
            max_positions=max_positions,
            token_map=token_map,
            report=report,
        )
    print(path)
