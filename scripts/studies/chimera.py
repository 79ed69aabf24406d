"""Draft heads trained for SmolLM2-135M beside every other draft: train, measure, write docs/chimera.md's tables.

    python scripts/fetch_models.py smollm2-135m
    python scripts/studies/chimera.py train [RUN ...] [--models models] [--out out/chimera]
    python scripts/studies/chimera.py measure [DRAFT ...] [--models models] [--out out/chimera]
    python scripts/studies/chimera.py page [--out out/chimera] [--results docs/results/chimera]

``train`` makes the heads of :data:`RUNS`, resumable run by run; the target's states are read once and shared.
``measure`` reads two texts with every draft: the held-out HumanEval documents (every fifth; prompt and solution), and
what the target itself writes after their prompts.  It gives acceptance of one draft by depth, ``alpha*_n`` by the
exact search, trees, and the seconds of a pass; resumable draft by draft.  ``page`` makes tables, figures and
docs/chimera.md's numbers of what was measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from mdsd_bounds.bounds import acceptance_loss
from mdsd_bounds.models.chimera import LOSSES, Loss, Places, Recipe, train_draft
from mdsd_bounds.models.loading import LoadedModel, load_model, silence

TARGET = "smollm2-135m"
TEXT = "humaneval,stdlib"
#: Steps of the ablations, of what goes on from one of them, of the run with three depths, and of the long run, which
#: are those that ``mdsd train-draft --minutes 40 --depths 2`` plans where a step takes 0.28 seconds.
STEPS, MORE, LONG, HOUR = 160, 40, 240, 2288
COLUMNS = 4096
#: Peak of the learning rate, and tokens that a step reads.
RATE, STRETCH = 5e-4, 128
VARIANTS = ("full", "context", "trigram", "medusa")
#: Losses that go on from the full head of the same seed.
GOING_ON = ("ce", "tv", "alpha 2 with", "alpha 4 with", "alpha 4 without")
SEEDS = (0, 1)


@dataclass(frozen=True)
class Run:
    """One head: its recipe, and the run whose head it begins with."""

    recipe: Recipe
    start: str | None = None


def runs() -> dict[str, Run]:
    """Every head of the study by name."""
    base = Recipe(depths=1, steps=STEPS, columns=COLUMNS, learning_rate=RATE, stretch=STRETCH)
    found = {"hour": Run(Recipe(steps=HOUR)), "long": Run(replace(base, depths=3, steps=LONG))}
    for seed in SEEDS:
        for variant in VARIANTS:
            found[f"{variant}-{seed}"] = Run(replace(base, variant=variant, seed=seed))
        # The trigram encoder has the widest matrices: is the rate too high for it?
        for variant in ("full", "context"):
            name = "slower" if variant == "full" else "slowercontext"
            found[f"{name}-{seed}"] = Run(replace(base, variant=variant, seed=seed, learning_rate=RATE / 3))
        # The losses are compared where they are to serve: on the target's own text.
        more = replace(base, steps=MORE, seed=seed, learning_rate=RATE / 2, own_share=1.0)
        for loss in GOING_ON:
            found[f"{loss.replace(' ', '')}-{seed}"] = Run(replace(more, loss=loss), f"full-{seed}")
    return found


def loss_of(name: str) -> Loss:
    """The loss that a recipe names."""
    kind, *rest = name.split()
    return LOSSES[kind] if kind in LOSSES else acceptance_loss(int(rest[0]), f"{rest[1]}_replacement")


def train(arguments: argparse.Namespace, target: LoadedModel) -> None:
    """Train the runs named, in order; all of them where none is named."""
    every = runs()
    for name in arguments.names or list(every):
        run = every[name]
        start = None if run.start is None else arguments.out / run.start
        while arguments.wait and start is not None and not (start / "head.json").exists():
            time.sleep(5.0)
        places = Places(arguments.out / name, arguments.cache or arguments.out / "states", start)

        def report(line: str, name: str = name) -> None:
            print(f"{name}: {line}", file=sys.stderr, flush=True)

        facts = train_draft(target, TEXT, places, run.recipe, loss_of(run.recipe.loss), report)
        print(name, facts["held_out"]["acceptance"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("train", "measure", "page"))
    parser.add_argument("names", nargs="*", help="runs to train, or drafts to measure (default: all)")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("out/chimera"))
    parser.add_argument("--cache", type=Path, help="the target's states (default: OUT/states)")
    parser.add_argument("--results", type=Path, default=Path("docs/results/chimera"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wait", action="store_true", help="wait for heads that another process trains")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long trees are grown at most")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    silence()
    if arguments.stage == "train":
        train(arguments, load_model(str(arguments.models / TARGET)))
    elif arguments.stage == "measure":
        from chimera_measure import measure

        measure(
            arguments, load_model(str(arguments.models / TARGET)), {name: run.start for name, run in runs().items()}
        )
    else:
        from chimera_page import page

        page(arguments)


if __name__ == "__main__":
    main()
