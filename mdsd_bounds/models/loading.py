"""Load a causal language model from a Hugging Face name, a local folder or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdsd_bounds.models.eight_bit import to_eight_bit
from mdsd_bounds.problem import InputError


def silence() -> None:
    """No bars and warnings of transformers and its hub on stderr, which a command line keeps for its own lines."""
    try:
        from huggingface_hub.utils import logging as hub
        from transformers.utils import logging
    except ModuleNotFoundError:
        return
    both: tuple[Any, Any] = (logging, hub)
    for quiet in both:
        quiet.set_verbosity_error()
    both[0].disable_progress_bar()


def require_transformers() -> None:
    """Refuse to run models without the package that runs them.

    Raises
    ------
    InputError
        Naming the extra to install.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError("running models needs transformers: pip install 'mdsd-bounds[models]'")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its tokenizer, and what identifies it in a manifest.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> type(target.model).__name__, target.tokenizer.decode([257]), sorted(target.identity)
    ('LlamaForCausalLM', ' c', ['dtype', 'sha256', 'source'])
    """

    model: Any
    tokenizer: Any
    identity: dict[str, str]


def load_model(source: str, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """Load ``source`` in evaluation mode.

    Parameters
    ----------
    source : str
        A folder with a GGUF file or a Hugging Face checkpoint, a ``.gguf`` file, or the name of a model on a hub.
    dtype : str
        ``float32``, ``bfloat16`` or ``float16``; or ``int8`` (:mod:`mdsd_bounds.models.eight_bit`, on a processor).
    device : str
        A torch device.

    Raises
    ------
    InputError
        If the model cannot be found or loaded, in one line.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> ids = target.tokenizer("a cab", return_tensors="pt")["input_ids"]
    >>> with torch.inference_mode():
    ...     target.model(ids).logits.shape
    torch.Size([1, 3, 260])
    """
    require_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in ("float32", "bfloat16", "float16", "int8"):
        raise InputError(f"dtype {dtype!r}: choose float32, bfloat16, float16 or int8")
    if dtype == "int8" and torch.device(device).type != "cpu":
        raise InputError(f"dtype 'int8' is for processors, not for the device {device!r}; use bfloat16 there")
    try:
        place_on = torch.device(device)
        torch.empty(0, device=place_on)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r}: not usable here ({reason}); try cpu") from None
    path = Path(source)
    gguf = _gguf_file(path)
    place: dict[str, Any] = {"gguf_file": gguf.name} if gguf is not None else {}
    name = str(gguf.parent) if gguf is not None else source
    floating = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **place)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=floating, **place)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: the model cannot be loaded ({reason}); give a hub name, folder or GGUF") from None
    if dtype == "int8":
        to_eight_bit(model)
    identity = model_identity(source)
    if "sha256" not in identity:
        identity["revision"] = str(getattr(model.config, "_commit_hash", None))
    return LoadedModel(model.to(place_on).eval(), tokenizer, identity | {"dtype": dtype})


def model_identity(source: str) -> dict[str, str]:
    """Name and digest of the weights; of a model from a hub, its name.  No path of this machine is kept."""
    folder = Path(source)
    gguf = _gguf_file(folder)
    if gguf is not None:
        with gguf.open("rb") as stream:
            return {"source": gguf.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return {"source": folder.resolve().name, "sha256": digest.hexdigest()}
    return {"source": source}


def _gguf_file(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise InputError(f"{path}: holds {len(files)} GGUF files and no config.json; name one file")
        return files[0]
    return None
