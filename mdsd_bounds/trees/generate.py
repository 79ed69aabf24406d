"""Decode with draft trees as an application does: trees that fit what is left of the text and of the context window.

:func:`generate` works on readers; :func:`generate_with_trees` has the interface of ``custom_generate`` in Hugging Face
transformers, and stands behind the folder ``integrations/draft_trees``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.distributions import Warp
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.decode import Build, Reader, Step, decode_while
from mdsd_bounds.trees.named import named_tree
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.verifiers import Verifier

#: Settings of Hugging Face's generation that change the target's distribution or the search, and the only value taken.
_PLAIN: Mapping[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "penalty_alpha": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "return_dict_in_generate": False,
    "stop_strings": None,
}


@dataclass(frozen=True)
class Plan:
    """How a step drafts and verifies.

    Attributes
    ----------
    builder, shape : str
        As :func:`mdsd_bounds.trees.named.named_tree`.
    rule : str or Verifier
        As :func:`mdsd_bounds.trees.verify.verify`.
    depth : int or None
        Most levels, whatever the shape says; 0 decodes without drafts.
    """

    builder: str = "rsd_c"
    shape: str = "2,2,1"
    rule: str | Verifier = "recursive"
    depth: int | None = None


def generate(
    target: TreeReader,
    draft: Reader,
    plan: Plan,
    new_tokens: int,
    generator: torch.Generator | None = None,
    stop: frozenset[int] = frozenset(),
) -> Iterator[Step]:
    """Steps that emit ``new_tokens`` tokens exactly, fewer where a stop token comes or the context window is full.

    No tree is deeper than what can still be emitted, or than there is room for in the models' context windows.  That
    depends on the text alone, so that lossless rules stay lossless.

    Parameters
    ----------
    target, draft, new_tokens, generator, stop :
        As :func:`mdsd_bounds.trees.decode.decode`.
    plan : Plan
        Tree and rule.

    Raises
    ------
    InputError
        If ``new_tokens`` is below 1, the texts differ in length, or the rule does not fit the tree.
    """

    def build_for(left: int) -> Build | None:
        room = _rooms(target, 0)
        if any(levels < 0 for levels in room):
            return None
        most = [] if plan.depth is None else [plan.depth]
        levels = min(left - 1, *most, *room, *_rooms(draft, 1))
        return named_tree(plan.builder, plan.shape, stop, max(0, levels))

    return decode_while(target, draft, build_for, plan.rule, new_tokens, generator, stop, analysed=False)


def _rooms(reader: Any, more: int) -> list[int]:
    """Levels that a reader has room for; a draft is never asked for what comes after the last level."""
    room = getattr(reader, "room", None)
    return [] if room is None else [room + more]


def generate_with_trees(
    model: Any,
    input_ids: Tensor | None = None,
    *,
    assistant_model: Any = None,
    generation_config: Any = None,
    streamer: Any = None,
    tree: str = "rsd_c 2,2,1",
    **options: Any,
) -> Tensor:
    """Decode one text with draft trees; greedy decoding and sampling have the distribution of plain ``generate``.

    Parameters
    ----------
    model : transformers causal language model
        The target.
    input_ids : Tensor
        ``[1, T]``.
    assistant_model : transformers causal language model, optional
        The draft, of the same vocabulary.  Without it the option ``draft`` names layers of the target.
    generation_config : transformers.GenerationConfig, optional
        Read are ``max_new_tokens`` or ``max_length``, ``do_sample``, ``temperature``, ``top_k``, ``top_p`` and
        ``eos_token_id``.
    streamer : transformers streamer, optional
        Gets the tokens of each step.
    tree : str
        Builder and shape (:func:`mdsd_bounds.trees.named.named_tree`); ``rsd_c:SAMPLER 2,2`` names a draft sampler.
    **options
        ``rule`` (``recursive``): as :func:`mdsd_bounds.trees.verify.verify`.  ``draft``: ``early-exit:K`` or
        ``skip-layers:4-9``.  ``draft_temperature``: 1 in greedy decoding unless it is given, else the target's.
        ``seed``: of all draws, else taken from torch's global generator.  All else updates ``generation_config``.

    Returns
    -------
    Tensor
        ``[1, T + new]``.

    Raises
    ------
    InputError
        For a batch, padding, a setting that would change the distribution (processors of logits, beams, penalties),
        no draft, or a text and new tokens that exceed the context window.
    """
    rule, source = options.pop("rule", "recursive"), options.pop("draft", None)
    draft_temperature, seed = options.pop("draft_temperature", None), options.pop("seed", None)
    ids = _one_text(input_ids, options)
    config = copy.deepcopy(model.generation_config if generation_config is None else generation_config)
    unknown = {name: value for name, value in config.update(**options).items() if _is_set(value)}
    if unknown:
        raise InputError(f"{', '.join(sorted(unknown))}: draft trees do not know this option; leave it out")
    _require_plain(config)
    builder, _, shape = tree.partition(" ")
    new_tokens, stop = _new_tokens(config, len(ids)), _stop_tokens(config)
    warp = _warp(config)
    if draft_temperature is None:
        draft_temperature = warp.temperature or 1.0
    readers = _readers(model, assistant_model, source, ids, warp, replace(warp, temperature=draft_temperature))
    room = readers[0].room
    if room is not None and new_tokens - 1 > room:
        raise InputError(
            f"a text of {len(ids)} tokens and {new_tokens} new ones exceed the context window by "
            f"{new_tokens - 1 - room}; shorten the text or ask for fewer"
        )
    number = int(torch.randint(2**62, (1,))) if seed is None else int(seed)
    generator = torch.Generator().manual_seed(number)
    found = list(ids)
    for step in generate(*readers, Plan(builder, shape, rule), new_tokens, generator, stop):
        found += step.verified.tokens
        if streamer is not None:
            streamer.put(torch.tensor(step.verified.tokens))
    if streamer is not None:
        streamer.end()
    return torch.tensor([found], device=None if input_ids is None else input_ids.device)


def _one_text(input_ids: Tensor | None, options: dict[str, Any]) -> list[int]:
    """The text, from ``input_ids`` or ``inputs``, without padding."""
    inputs, mask = options.pop("inputs", None), options.pop("attention_mask", None)
    given = inputs if input_ids is None else input_ids
    if given is None or given.ndim != 2 or given.shape[0] != 1 or given.shape[1] < 1:
        shape = None if given is None else tuple(given.shape)
        raise InputError(f"input_ids of shape {shape}: draft trees decode one text, [1, T]; give the texts in turn")
    if mask is not None and not bool(mask.all()):
        raise InputError("the attention mask hides tokens; give the text without padding")
    return [int(token) for token in given[0]]


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or (isinstance(value, list) and not value))


def _require_plain(config: Any) -> None:
    """Raise an error for settings that plain sampling does not have."""
    for name, plain in _PLAIN.items():
        value = getattr(config, name, None)
        if value is not None and value != plain:
            raise InputError(f"{name}={value!r}: draft trees sample from the model itself; leave it out")


def _new_tokens(config: Any, text: int) -> int:
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    longest = 20 if config.max_length is None else int(config.max_length)
    if longest <= text:
        raise InputError(f"max_length={longest}, but the text has {text} tokens; give max_new_tokens")
    return longest - text


def _stop_tokens(config: Any) -> frozenset[int]:
    ends = config.eos_token_id
    return frozenset(int(token) for token in (ends if isinstance(ends, list | tuple) else [ends]) if token is not None)


def _warp(config: Any) -> Warp:
    """Temperature and cuts of the target; temperature 0 is greedy decoding."""
    if not config.do_sample:
        return Warp(0.0)
    top_p = None if config.top_p is None or config.top_p >= 1 else float(config.top_p)
    top_k = int(config.top_k) if config.top_k else None
    return Warp(1.0 if config.temperature is None else float(config.temperature), top_k, top_p)


def _readers(
    model: Any, assistant: Any, source: str | None, ids: list[int], warp: Warp, draft_warp: Warp
) -> tuple[TreeReader, TreeReader]:
    """Readers of the target and of the draft: another model, or some of the target's layers."""
    from mdsd_bounds.models.self_draft import layers_left_out

    if (assistant is None) == (source is None):
        raise InputError("give assistant_model=, or draft='early-exit:K' or 'skip-layers:4-9', one of them")
    other = model if assistant is None else assistant
    width = min(m.config.get_text_config().vocab_size for m in (model, other))
    skip = () if source is None else layers_left_out(source, model)
    target = TreeReader(model, ids, width=width, warp=warp)
    return target, TreeReader(other, ids, skip=skip, width=width, warp=draft_warp)
