"""Rows of a dump as whole distributions, and a language model whose positions are exchangeable made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.pipeline.block_rows import distributions
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.trees.base import Distributions, Path


@dataclass(frozen=True)
class Rows:
    """Distributions of both models at R positions.

    Attributes
    ----------
    target, draft : Tensor
        ``[R, V]`` float64.
    documents : ndarray
        ``[R]``.
    """

    target: Tensor
    draft: Tensor
    documents: np.ndarray


def sampled_rows(dump: Dump, settings: Settings, rows: np.ndarray, documents: np.ndarray, most: int) -> Rows:
    """At most ``most`` evenly spaced rows of those given, under the settings' first temperature and options.

    Parameters
    ----------
    dump : Dump
        Of whole rows.
    settings : Settings
        As the table of acceptances was made.
    rows, documents : ndarray
        ``[N]`` numbers of rows in the dump, and their documents.
    most : int
        Memory is 16 bytes for each of ``most * V`` entries.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    target, draft = [], []
    for place in places:
        row = int(rows[place])
        # Penalties need the text before a row, which a batch has from its first row on.
        start = int(rows[np.flatnonzero(documents == documents[place])[0]]) if settings.needs_text else row
        (batch,) = dump.batches(row + 1 - start, start=start, stop=row + 1)
        p, q = distributions(batch, settings, settings.temperatures[0], dump.facts.path)
        target.append(p[-1])
        draft.append(q[-1])
    return Rows(torch.stack(target), torch.stack(draft), np.asarray(documents)[places])


@dataclass
class Exchangeable:
    """A language model with one row after each path: the root's is given, all others are drawn, equal chances each."""

    rows: Rows
    root: int
    generator: np.random.Generator
    _row: dict[Path, int] = field(default_factory=dict)

    def target(self, paths: Sequence[Path]) -> Tensor:
        """``[B, V]``."""
        return self.rows.target[self._places(paths)]

    @property
    def draft(self) -> Distributions:
        """``paths -> [B, V]``."""
        return lambda paths: self.rows.draft[self._places(paths)]

    def _places(self, paths: Sequence[Path]) -> list[int]:
        for path in paths:
            if path not in self._row:
                self._row[path] = int(self.generator.integers(len(self.rows.documents))) if path else self.root
        return [self._row[path] for path in paths]
