"""Hugging Face ``custom_generate``: decode with draft trees.  Everything is in mdsd_bounds; this file names it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mdsd_bounds.trees.generate import generate_with_trees


def generate(model: Any, **arguments: Any) -> Tensor:
    """As :func:`mdsd_bounds.trees.generate.generate_with_trees`."""
    return generate_with_trees(model, **arguments)
