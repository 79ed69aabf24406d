"""``mdsd train-draft``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.exits import need, resumable
from mdsd_bounds.cli.log import Precision
from mdsd_bounds.cli.options import Quiet

if TYPE_CHECKING:
    from mdsd_bounds.models.chimera import Loss


class Variant(StrEnum):
    """Parts of the head."""

    full = "full"
    trigram = "trigram"
    context = "context"
    medusa = "medusa"


class LossName(StrEnum):
    """What is minimised."""

    ce = "ce"
    tv = "tv"
    alpha = "alpha"


class TrainSampler(StrEnum):
    """Draft samplers whose alpha* can be trained on."""

    with_replacement = "with_replacement"
    without_replacement = "without_replacement"


def train_draft(
    target: Annotated[str, typer.Option("--target", help="Hugging Face name, local folder or GGUF file.")],
    text: Annotated[
        str, typer.Option("--text", help="stdlib, humaneval, files or folders of text, .jsonl; comma-separated.")
    ],
    out: Annotated[str, typer.Option("--out", help="Folder of the head; the same command continues it.")],
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="The speed is measured once and fixes the number of steps.")
    ] = None,
    depths: Annotated[int, typer.Option("--depths", min=1, max=4, help="Drafted tokens learnt.")] = 2,
    variant: Annotated[Variant, typer.Option("--variant", help="full, or a part of it.")] = Variant.full,
    loss: Annotated[LossName, typer.Option("--loss", help="Cross-entropy, total variation, or 1 - alpha*_n.")] = (
        LossName.ce
    ),
    drafts: Annotated[int, typer.Option("--drafts", min=1, max=8, help="n of --loss alpha.")] = 4,
    sampler: Annotated[
        TrainSampler, typer.Option("--sampler", help="Draft sampler of --loss alpha.")
    ] = TrainSampler.without_replacement,
    start: Annotated[str | None, typer.Option("--start", help="A head whose weights are the starting weights.")] = None,
    window: Annotated[int, typer.Option("--window", min=16, help="Tokens of a window of text.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows of a step.")] = 1,
    stretch: Annotated[
        int | None, typer.Option("--stretch", min=16, help="Tokens of a window that a step reads (default: all).")
    ] = None,
    columns: Annotated[int, typer.Option("--columns", min=2, help="Tokens that the loss looks at.")] = 8192,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak.")] = 3e-4,
    own_share: Annotated[
        float, typer.Option("--own-share", help="Last share of the steps, on the target's own text.")
    ] = (1 / 3),
    cache: Annotated[str | None, typer.Option("--cache", help="Folder of the target's states; OUT/states.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of starting weights and order.")] = 0,
    dtype: Annotated[Precision, typer.Option("--dtype", help="Of the target's computation.")] = Precision.float32,
    quiet: Quiet = False,
) -> None:
    """Train a Chimera draft head; then ``chimera:OUT`` is a draft of this target.  Prints its held-out acceptance."""
    import os
    import sys
    from pathlib import Path

    # Read when tqdm is first imported: loading would draw bars between the lines of this command.
    os.environ.setdefault("TQDM_DISABLE", "1")
    need("transformers", purpose="running models")
    from mdsd_bounds.models.chimera import Places, Recipe, read_documents
    from mdsd_bounds.models.chimera import train_draft as train
    from mdsd_bounds.models.loading import load_model, silence

    silence()
    name, function = _loss(loss, drafts, sampler)
    recipe = Recipe(
        depths, variant.value, name, steps, minutes, window, batch, columns, learning_rate, own_share, seed, stretch
    )
    places = Places(Path(out), Path(cache or Path(out) / "states"), None if start is None else Path(start))

    def report(line: str) -> None:
        if not quiet:
            print(printable(line), file=sys.stderr, flush=True)

    # A text that cannot be read is said before a model is loaded, which takes minutes.
    documents = read_documents(text)
    with resumable(f"the last checkpoint is in {out}"):
        report(f"loading {target}")
        facts = train(load_model(target, dtype.value), documents, places, recipe, function, report)
    print(f"{out}: " + _in_words(facts))


def _loss(loss: LossName, drafts: int, sampler: TrainSampler) -> tuple[str, Loss]:
    from mdsd_bounds.models.chimera import LOSSES

    if loss is not LossName.alpha:
        return loss.value, LOSSES[loss.value]
    from mdsd_bounds.bounds import acceptance_loss

    return f"alpha {drafts} {sampler.value}", acceptance_loss(drafts, sampler.value)


def _in_words(facts: dict[str, Any]) -> str:
    held = facts["held_out"]
    if not held["places"]:
        return f"{facts['steps']} steps; no text was held out, so that nothing is known of its acceptance"
    shares = ", ".join(f"{share:.4f} at depth {i}" for i, share in enumerate(held["acceptance"], 1))
    return f"{facts['steps']} steps; one draft is accepted with probability {shares} ({held['places']} held-out tokens)"
