"""What ``scripts/studies/chimera.py`` measured, read back: per-position numbers by draft, and the drafts' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mdsd_bounds.pipeline.tables import bootstrap_interval

ABLATIONS = ("full", "context", "trigram", "medusa")
LOSSES = {
    "ce": "cross-entropy",
    "tv": "total variation",
    "alpha2with": "alpha*_2 with",
    "alpha4with": "alpha*_4 with",
    "alpha4without": "alpha*_4 without",
}
OTHERS = {"early-exit:25": "early exit 25/30", "early-exit:20": "early exit 20/30", "prompt-lookup": "prompt lookup",
          "n-gram": "n-gram of the training text"}  # fmt: skip
TITLES = {
    "hour": "Chimera, long run",
    "long": "Chimera, three depths",
    "full": "Chimera",
    "context": "without the trigram encoder",
    "trigram": "trigram encoder alone",
    "medusa": "target's state alone (Medusa)",
    "slower": "Chimera, a third of the rate",
    "slowercontext": "without the trigram encoder, a third of the rate",
    "least-squares": "before the first step (least squares)",
    **OTHERS,
    **{loss: f"trained on {said}" for loss, said in LOSSES.items()},
}
#: Columns of a per-position table, in this order.
COLUMNS = (("with", 1), ("with", 2), ("with", 4), ("without", 2), ("without", 4))
#: The texts that are read, and what they are.
TEXTS = {
    "documents": "held-out HumanEval documents",
    "own": "the target's own text",
}
#: Heads below which trees are grown.
MAIN = ("hour", "long")
#: Levels of each tree that is drafted.
LEVELS = {"chain 4": 4, "rsd_c 2,2,1": 3, "rsd_s 3x3": 3, "dynamic 10x3x3": 3}


class Measured:
    """What ``measure`` left of one text: per-position numbers by draft, seeds averaged position by position."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._held: dict[str, dict[str, np.ndarray]] = {}
        for file in sorted((folder / kind).glob("*.npz")):
            with np.load(file) as arrays:
                self._held[file.stem] = {name: arrays[name] for name in arrays.files}
        if not self._held:
            raise SystemExit(f"{folder / kind}: nothing was measured; run the stage measure first")
        first = next(iter(self._held.values()))
        self.doc, self.after = first["doc"], first["after"]

    def seeds(self, name: str) -> list[str]:
        """Runs of one draft."""
        return [run for run in (name, f"{name}-0", f"{name}-1") if run in self._held]

    def values(self, name: str) -> np.ndarray:
        """``[positions, columns]``: alpha* of :data:`COLUMNS`, means over seeds."""
        runs = self.seeds(name)
        if not runs:
            raise SystemExit(f"{name}: nothing was measured; run the stage measure first")
        return np.asarray(np.mean([self._columns(self._held[run]) for run in runs], 0))

    def depths(self, name: str) -> np.ndarray:
        """``[positions, depths]``: acceptance of one draft."""
        return np.asarray(np.mean([self._held[run]["accepted"] for run in self.seeds(name)], 0))

    def trees(self, name: str) -> dict[str, dict[int, float]]:
        """Tokens of one target forward pass at one place of every text, by tree and text."""
        file = self.folder / f"{name}-trees.json"
        lines = json.loads(file.read_text()) if file.exists() else []
        trees = {tree: {line["doc"]: line["emitted"] for line in lines if line["tree"] == tree} for tree in LEVELS}
        return trees if lines else {}

    def interval(self, values: np.ndarray, of: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and its 95% interval over documents, column by column; ``of``: of these positions alone."""
        chosen = np.ones(len(values), bool) if of is None else of
        return (values[chosen].mean(0), *bootstrap_interval(values[chosen], self.doc[chosen]))

    @staticmethod
    def _columns(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        place = {1: 0, 2: 1, 4: 2}
        return np.stack([arrays[f"{kind}_replacement"][:, place[n]] for kind, n in COLUMNS], 1)


def names(held: Measured) -> list[str]:
    """Drafts that were measured, in the order of the tables."""
    return [
        name
        for name in ("hour", "long", *ABLATIONS, "slower", "slowercontext", "least-squares", *OTHERS, *LOSSES)
        if held.seeds(name)
    ]


def title(name: str) -> str:
    """A draft's name as people read it."""
    return TITLES[name]
