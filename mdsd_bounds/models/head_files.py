"""A trained head on disk: its arrays, and a description that is written last and knows the arrays' checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.dumps.containers.safetensors import load_safetensors, safetensors_bytes
from mdsd_bounds.problem import InputError


def write_head(weights: Path, description: Path, arrays: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a head; the description comes last, so that a folder which has it is complete."""
    data = safetensors_bytes(arrays)
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights, data)
    held = {**facts, "sha256": hashlib.sha256(data).hexdigest()}
    write_whole(description, (json.dumps(held, indent=1, sort_keys=True) + "\n").encode())


def read_weights(weights: Path, sha256: str, description: str, remedy: str) -> dict[str, Tensor]:
    """The arrays of a head.

    Raises
    ------
    InputError
        If they cannot be read, or are not those that the description has the checksum of.
    """
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise InputError(f"{weights}: cannot be read ({error.strerror}); {remedy}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{weights}: truncated, or not the file that {description} describes; {remedy}")
    return load_safetensors(data, weights, remedy)
