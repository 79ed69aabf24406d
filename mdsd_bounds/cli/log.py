"""``mdsd log``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.exits import need, resumable

if TYPE_CHECKING:
    from mdsd_bounds.models.server_capture import ServerSettings


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


class Computation(StrEnum):
    """What models compute in; int8 means their linear layers, on a processor."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int8 = "int8"


Target = Annotated[
    str | None,
    typer.Option("--target", help="Hugging Face name, local folder or GGUF file; of a server the name it serves."),
]
Draft = Annotated[
    str | None,
    typer.Option("--draft", help="The same; or chimera:FOLDER, early-exit:K, skip-layers:4-9, prompt-lookup."),
]
TargetUrl = Annotated[
    str | None,
    typer.Option(
        "--target-url",
        help="Ask a server for prompt log-probabilities instead of running the target (http://localhost:8000).",
    ),
]
Vocabulary = Annotated[
    int | None, typer.Option("--vocabulary", help="Servers: tokens of the models, which they do not say.")
]
ModeOf = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="sampled: the target continues the prompts (models); teacher-forced: they are the text (servers).",
    ),
]
NewTokens = Annotated[int | None, typer.Option("--new-tokens", help="Positions of each prompt; 32, of servers all.")]
Kept = Annotated[
    int | None, typer.Option("--top-k", help="Tokens kept with --store top-k (64), or asked of a server (20).")
]
TokenMap = Annotated[
    str | None,
    typer.Option("--token-map", help="For different vocabularies: 'intersection', or a file with d2t or target_ids."),
]
MostTokens = Annotated[int, typer.Option("--max-prompt-tokens", help="Longer prompts are refused, never cut.")]


def log(
    prompts: Annotated[str, typer.Option("--prompts", help="Text (one a line), .jsonl or 'humaneval'.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the dump; the same command continues it.")],
    target: Target = None,
    draft: Draft = None,
    target_url: TargetUrl = None,
    draft_url: Annotated[str | None, typer.Option("--draft-url", help="The same for the draft.")] = None,
    vocabulary: Vocabulary = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Servers: seconds for one answer.")] = 120.0,
    mode: ModeOf = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the text's sampling; 0 is greedy.")] = 1.0,
    max_positions: Annotated[int | None, typer.Option("--max-positions", help="Stop after so many positions.")] = None,
    new_tokens: NewTokens = None,
    store: Annotated[Stored, typer.Option("--store", help="What is kept of each position.")] = Stored.logits,
    top_k: Kept = None,
    token_map: TokenMap = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampled text.")] = 0,
    dtype: Annotated[
        Computation, typer.Option("--dtype", help="Of the computation; int8: linear layers, on a processor.")
    ] = Computation.float32,
    store_dtype: Annotated[Precision, typer.Option("--store-dtype", help="Of stored logits.")] = Precision.float16,
    device: Annotated[str, typer.Option("--device", help="A torch device, for example cpu or cuda:0.")] = "cpu",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Prompts run together; the unit of resuming.")] = 16,
    max_prompt_tokens: MostTokens = 2048,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Run a model pair over prompts and store the distributions of both at every position; prints the dump's folder.

    mdsd log --target-url http://localhost:8000 --draft-url http://localhost:8001 --prompts texts.txt --out pair
    """

    def report(line: str) -> None:
        if not quiet:
            print(printable(line), file=sys.stderr, flush=True)

    if target_url is not None:
        if mode is Mode.sampled or store is not Stored.logits or token_map is not None:
            raise typer.BadParameter("--target-url goes with neither --mode sampled, nor --store, nor --token-map")
        from mdsd_bounds.models.server_capture import ServerSettings

        asked = ServerSettings(20 if top_k is None else top_k, vocabulary, new_tokens, max_positions)
        with resumable(f"finished prompts are in {out}"):
            print(
                _of_servers(
                    (target_url, target), (draft_url, draft), prompts, out, asked, timeout, dtype, device, report
                )
            )
        return
    if draft_url is not None or target is None or draft is None:
        raise typer.BadParameter("give --target and --draft, or --target-url and --draft-url (or --draft)")
    # Read when tqdm is first imported: loading would draw bars between the lines of this command.
    os.environ.setdefault("TQDM_DISABLE", "1")
    need("transformers", purpose="running models")
    from mdsd_bounds.models.capture import CaptureSettings, log_pair
    from mdsd_bounds.models.loading import silence

    silence()
    settings = CaptureSettings(
        new_tokens=32 if new_tokens is None else new_tokens,
        temperature=temperature,
        mode=(mode or Mode.sampled).value.replace("-", "_"),
        seed=seed,
        batch_size=batch_size,
        store_dtype=store_dtype.value,
        max_prompt_tokens=max_prompt_tokens,
        store=store.value,
        top_k=64 if top_k is None else top_k,
        max_positions=max_positions,
        dtype=dtype.value,
        device=device,
    )
    with resumable(f"finished batches are in {out}"):
        path = log_pair(target, draft, prompts, out, settings, token_map=token_map, report=report)
    print(path)


def _of_servers(
    target: tuple[str, str | None],
    draft: tuple[str | None, str | None],
    prompts: str,
    out: str,
    settings: ServerSettings,
    timeout: float,
    dtype: Computation,
    device: str,
    report: Callable[[str], None],
) -> Path:
    """Log from the target's server and the draft's, or a draft that runs here."""
    from mdsd_bounds.models.server_capture import log_servers
    from mdsd_bounds.models.servers import Server

    first = Server(target[0], target[1] or "", timeout)
    if draft[0] is not None:
        return log_servers(first, Server(draft[0], draft[1] or "", timeout), prompts, out, settings, report)
    if draft[1] is None:
        raise typer.BadParameter("give the draft: --draft-url, or --draft with a model to run here")
    os.environ.setdefault("TQDM_DISABLE", "1")
    need("transformers", purpose="running the draft")
    from mdsd_bounds.models.loading import load_model, silence

    silence()
    return log_servers(first, load_model(draft[1], dtype.value, device), prompts, out, settings, report)
