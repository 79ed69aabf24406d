"""A tiny random model with a tokenizer, made in a moment: for examples, tests, and a first try of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mdsd_bounds.models.loading import require_transformers
from mdsd_bounds.problem import InputError

#: Pairs that the tokenizer joins into one token each; ``Ġ`` is how byte-level tokenizers write a space.
_MERGES = [("a", "b"), ("Ġ", "c")]
#: Standard deviation of the weights: large enough for distributions that differ clearly from token to token.
_SPREAD = 0.6


def tiny_model(folder: str | Path, seed: int = 0, *, noise: float = 0.0, layers: int = 2) -> str:
    """Write a random Llama of width 16 and its tokenizer to a folder that every command takes as a model.

    It has learnt nothing: what it says of a text is noise, but exact, and the same on every call.  The tokenizer knows
    every byte, so that any text can be read; all tiny models have the same one.

    Parameters
    ----------
    folder : str or Path
        Is made where it is missing.
    seed : int
        Of the weights.
    noise : float
        Standard deviation of what is added to every weight: with the seed of another tiny model and some noise, the
        model is a draft that resembles it.
    layers : int
        Decoder layers, at least 1.

    Returns
    -------
    str
        The folder.

    Raises
    ------
    InputError
        If transformers is not installed, ``seed``, ``layers`` or ``noise`` is out of range, or the folder cannot be
        written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> draft = load_model(tiny_model(folder / "draft", noise=0.2))
    >>> target.tokenizer("a cab")["input_ids"]
    [64, 257, 256]
    """
    require_transformers()
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1 or not 0 <= noise < float("inf"):
        raise InputError(f"layers {layers}, noise {noise}: give at least 1 layer, and a finite noise of at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise InputError(f"seed {seed!r}: give an integer of 64 bits")
    if not str(folder) or Path(folder).is_file():  # transformers would say so and return
        raise InputError(f"{folder or repr(folder)}: is no folder; give the name of one")
    from transformers import LlamaConfig, LlamaForCausalLM

    words = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in model.parameters() if weight.ndim == 2]
    with torch.no_grad():
        for weight in weights:
            weight.normal_(0, _SPREAD, generator=generator)
        for weight in weights:
            weight += noise * torch.randn(weight.shape, generator=generator)
    try:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); give another folder") from None
    return str(folder)


def _tokenizer() -> Any:
    """Byte-level pairs over all 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in _MERGES), "<s>", "</s>"]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, _MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
