"""What a run that logs a pair is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CaptureSettings:
    """How text is made and what is stored.

    Attributes
    ----------
    new_tokens : int
        Positions logged per prompt (at most, in mode ``teacher_forced``).
    temperature : float
        Of the sampling that makes the text (mode ``sampled``); 0 is greedy.
    mode : str
        ``sampled``: the target continues each prompt, beyond an end-of-text token too.  ``teacher_forced``: the
        prompt itself is the text.
    seed : int
        With the number of the batch, determines every draw.
    batch_size : int
        Prompts of a batch.
    store_dtype : str
        Dtype of the stored logits (``store="logits"`` only).
    store : str
        ``logits``, ``hidden`` or ``top-k`` (:mod:`mdsd_bounds.models.dump_writers`).
    top_k : int
        Tokens kept of each row with ``store="top-k"``.
    max_prompt_tokens : int
        Longer prompts are refused, never cut.
    max_positions : int or None
        Stop after this many rows.
    dtype, device : str
        Of the computation.

    Examples
    --------
    >>> from mdsd_bounds.models import CaptureSettings
    >>> CaptureSettings(new_tokens=64, store="top-k", top_k=128).top_k
    128
    """

    new_tokens: int = 32
    temperature: float = 1.0
    mode: str = "sampled"
    seed: int = 0
    batch_size: int = 16
    store_dtype: str = "float16"
    max_prompt_tokens: int = 2048
    store: str = "logits"
    top_k: int = 64
    max_positions: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
