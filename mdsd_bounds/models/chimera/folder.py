"""A trained head on disk: ``head.safetensors`` and ``head.json`` with what it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.containers.safetensors import load_safetensors
from mdsd_bounds.models.chimera.network import Chimera, Shape
from mdsd_bounds.models.head_files import read_weights, write_head
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

WEIGHTS, FACTS = "head.safetensors", "head.json"


def save_head(out: Path, network: Chimera, facts: Mapping[str, Any]) -> None:
    """Write a head; ``head.json`` comes last, so that a folder which has it is complete.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds.models.chimera import Chimera, Shape, save_head
    >>> folder = Path(tempfile.mkdtemp())
    >>> head = Chimera(Shape(hidden=16, attention_heads=2), torch.ones(16))
    >>> save_head(folder, head, {"target": {"source": "my model"}})
    >>> sorted(file.name for file in folder.iterdir())
    ['head.json', 'head.safetensors']
    """
    write_head(out / WEIGHTS, out / FACTS, network.state_dict(), {**facts, "shape": asdict(network.shape)})


def read_facts(folder: str | Path) -> dict[str, Any]:
    """``head.json`` of a folder.

    Raises
    ------
    InputError
        If the folder holds no finished head.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds.models.chimera import Chimera, Shape, read_facts, save_head
    >>> folder = Path(tempfile.mkdtemp())
    >>> head = Chimera(Shape(hidden=16, attention_heads=2), torch.ones(16))
    >>> save_head(folder, head, {"target": {"source": "my model"}})
    >>> read_facts(folder)["shape"]["variant"]
    'full'
    """
    path = Path(folder) / FACTS
    try:
        facts = json.loads(path.read_text())
        Shape(**facts["shape"])
        return {**facts, "target": dict(facts["target"]), "sha256": str(facts["sha256"])}
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no finished draft head ({FACTS}); train one with mdsd train-draft") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: is no description of a draft head ({error}); train the head again") from None


def load_head(folder: str | Path, target: LoadedModel) -> Chimera:
    """The head of a folder, in evaluation mode.

    Raises
    ------
    InputError
        If it was trained for another target, width or vocabulary, or its file is truncated or another one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import Chimera, Shape, load_head, save_head
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> head = Chimera(Shape(hidden=16, attention_heads=2), target.model.model.norm.weight)  # not trained
    >>> save_head(folder / "head", head, {"target": target.identity, "vocabulary": 260})
    >>> load_head(folder / "head", target).shape == head.shape
    True
    """
    facts = read_facts(folder)
    check_target(folder, facts, target)
    network = Chimera(Shape(**facts["shape"]), torch.ones(facts["shape"]["hidden"]))
    file = Path(folder) / WEIGHTS
    fill(network, read_weights(file, facts["sha256"], FACTS, "train the head again"), file)
    return network.eval()


def fill(network: Chimera, arrays: Mapping[str, Tensor], file: Path) -> None:
    """Put arrays into a network.

    Raises
    ------
    InputError
        If names or shapes are not the network's.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in arrays.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise InputError(f"{file}: holds another head ({wrong[0]}: {found.get(wrong[0])}, not {wanted.get(wrong[0])})")
    network.load_state_dict(dict(arrays))


def check_target(folder: str | Path, facts: Mapping[str, Any], target: LoadedModel) -> None:
    """Raise an error unless a head belongs to this target."""
    rows, size = target.model.get_output_embeddings().weight.shape
    if facts["shape"]["hidden"] != size:
        raise InputError(
            f"{folder}: a head for states of width {facts['shape']['hidden']}, but the target's have {size}; "
            "train one for this target"
        )
    if facts.get("vocabulary") != rows:
        raise InputError(
            f"{folder}: a head for {facts.get('vocabulary')} tokens, but the target has {rows}; train one for it"
        )
    held = {name: value for name, value in facts["target"].items() if name != "dtype"}
    own = {name: value for name, value in target.identity.items() if name != "dtype"}
    # The name of a file may change; what is in it may not.
    if held.get("sha256", held) != own.get("sha256", own):
        raise InputError(
            f"{folder}: trained on another target ({held.get('source')}, not {own.get('source')} with these weights); "
            "train one for this target"
        )


def read_arrays(file: Path) -> dict[str, Tensor]:
    """Arrays of a checkpoint.

    Raises
    ------
    InputError
        If it is truncated.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); delete it to begin anew") from None
    return load_safetensors(data, file, "delete it to begin anew")
