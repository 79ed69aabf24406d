"""How a draft head is trained: the settings, the windows that a number of steps uses, and the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mdsd_bounds.problem import InputError

#: How often a window of text, and one of the target's own text, is seen before new ones are read.
SEEN_TEXT, SEEN_OWN = 2, 4
#: Weight of a depth's loss beside the depth before it.
DECAY = 0.8
#: Share of the steps in which the learning rate rises.
WARM_UP = 0.05


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; together with target and text they fix the bytes of the head.

    Attributes
    ----------
    depths, variant :
        As in :class:`mdsd_bounds.models.chimera.network.Shape`.
    loss : str
        Name of the loss, for the record.
    steps : int or None
        Optimiser steps; None where ``minutes`` says how long it may take.
    minutes : float or None
        The speed is measured once and fixes the number of steps.
    window : int
        Tokens of a window of text.
    batch : int
        Windows of a step.
    stretch : int or None
        Consecutive tokens of each window that a step reads, drawn at random; the target's states carry what came
        before.  None: all of them.
    columns : int
        Tokens of the vocabulary that the loss looks at (the most probable ones on the text); all of them where the
        vocabulary is no larger.  Evaluation and drafting use every token.
    learning_rate : float
        Peak; it rises over the first twentieth of the steps and falls to a tenth along a cosine.
    own_share : float
        Last share of the steps, which see the target's own continuations.
    seed : int
        Of starting weights and of the order of windows.

    Examples
    --------
    >>> from mdsd_bounds.models.chimera import Recipe
    >>> Recipe(steps=100, variant="context").learning_rate
    0.0003
    """

    depths: int = 2
    variant: str = "full"
    loss: str = "ce"
    steps: int | None = None
    minutes: float | None = None
    window: int = 256
    batch: int = 1
    columns: int = 8192
    learning_rate: float = 3e-4
    own_share: float = 1 / 3
    seed: int = 0
    stretch: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either a number of steps or minutes")
        whole = {"steps": self.steps, "window": self.window, "batch": self.batch, "columns": self.columns}
        for name, value in {**whole, "stretch": self.stretch}.items():
            least = 16 if name in ("window", "stretch") else 2 if name == "columns" else 1
            if value is not None and value < least:
                raise InputError(f"{name} {value}: give an integer of at least {least}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"minutes {self.minutes}: give a number above 0")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning rate {self.learning_rate}: give a number above 0")
        if not 0 <= self.own_share <= 1:
            raise InputError(f"share of own text {self.own_share}: give a number from 0 to 1")


def text_steps(recipe: Recipe, steps: int) -> int:
    """Steps on text before those on the target's own continuations."""
    return steps - round(recipe.own_share * steps)


def windows_needed(recipe: Recipe, steps: int) -> tuple[int, int]:
    """Windows of text and of the target's own text that ``steps`` use."""
    given = text_steps(recipe, steps)
    text = -(-given * recipe.batch // SEEN_TEXT)
    own = -(-(steps - given) * recipe.batch // SEEN_OWN)
    return text, own


def rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of a step."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
