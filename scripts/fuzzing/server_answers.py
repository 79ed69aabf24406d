"""Answers of servers and rows of data sets as they write them, from log-probabilities: for tests and damaged inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: Log-probabilities ``[N, V]``, the tokens ``[N]`` that stand there, and k: what the server answers.
Answer = Callable[[Tensor, list[int], int], Any]


def best(row: Tensor, k: int) -> list[tuple[int, float]]:
    """The k most probable tokens of a row, the most probable first."""
    values, ids = row.topk(k)
    return list(zip(ids.tolist(), values.tolist(), strict=True))


def _with_own(row: Tensor, token: int, k: int) -> list[tuple[int, float]]:
    return [(token, float(row[token])), *(entry for entry in best(row, k) if entry[0] != token)]


def _by_id(row: Tensor, token: int, k: int) -> dict[str, Any]:
    order = row.argsort(descending=True).tolist()
    return {
        str(i): {"logprob": value, "rank": order.index(i) + 1, "decoded_token": "a"}
        for i, value in _with_own(row, token, k)
    }


def _entry(name: str, value: float, **more: Any) -> dict[str, Any]:
    return {"token": name, "bytes": [97], "logprob": value, **more}


def vllm_completion(rows: Tensor, tokens: list[int], k: int) -> Any:
    """``prompt_logprobs`` of a completion's choice."""
    listed = [None, *(_by_id(row, token, k) for row, token in zip(rows, tokens, strict=True))]
    choice = {"index": 0, "text": "a", "prompt_logprobs": listed, "prompt_token_ids": [0, *tokens]}
    return {"id": "x", "object": "text_completion", "choices": [choice]}


def vllm_chat(rows: Tensor, tokens: list[int], k: int) -> Any:
    """``prompt_logprobs`` of a chat's answer, which stand beside its choices."""
    choice = vllm_completion(rows, tokens, k)["choices"][0]
    told = {name: choice[name] for name in ("prompt_logprobs", "prompt_token_ids")}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"message": {"content": "a"}, "logprobs": None}],
        **told,
    }


def vllm_output(rows: Tensor, tokens: list[int], k: int) -> Any:
    """An offline output of vLLM."""
    listed = [_by_id(row, token, k) for row, token in zip(rows, tokens, strict=True)]
    return {"text": "a", "token_ids": tokens, "logprobs": listed}


def chat(rows: Tensor, tokens: list[int], k: int) -> Any:
    """Chat with ``token_id:N``; the sampled token stands first and takes the place of the least."""
    content = []
    for row, token in zip(rows, tokens, strict=True):
        listed = [_entry(f"token_id:{i}", value) for i, value in _with_own(row, token, k)[:k]]
        content.append(_entry(f"token_id:{token}", float(row[token]), top_logprobs=listed))
    return {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "logprobs": {"content": content}}]}


def completions(rows: Tensor, tokens: list[int], k: int) -> Any:
    """Completions with ``token_id:N``: k entries, and the sampled token beside them."""
    pairs = list(zip(rows, tokens, strict=True))
    held = {
        "text_offset": list(range(len(tokens))),
        "tokens": [f"token_id:{token}" for token in tokens],
        "token_logprobs": [float(row[token]) for row, token in pairs],
        "top_logprobs": [{f"token_id:{i}": value for i, value in _with_own(row, token, k)} for row, token in pairs],
    }
    return {"id": "x", "object": "text_completion", "choices": [{"index": 0, "text": "a", "logprobs": held}]}


def llama_server(rows: Tensor, tokens: list[int], k: int) -> Any:
    """``completion_probabilities`` with ids."""
    listed = [
        {
            "id": token,
            **_entry("a", float(row[token])),
            "top_logprobs": [{"id": i, **_entry("a", value)} for i, value in best(row, k)],
        }
        for row, token in zip(rows, tokens, strict=True)
    ]
    return {"index": 0, "content": "a", "tokens": tokens, "stop": True, "completion_probabilities": listed}


def sglang(rows: Tensor, tokens: list[int], k: int) -> Any:
    """Triples of the prompt, whose first token has none."""
    own = [[float(row[token]), token, None] for row, token in zip(rows, tokens, strict=True)]
    tops = [[[value, i, None] for i, value in best(row, k)] for row in rows]
    held = {"input_token_logprobs": [[None, 0, None], *own], "input_top_logprobs": [None, *tops]}
    return {"text": "a", "meta_info": {"prompt_tokens": len(tokens) + 1, **held}}


def tgi(rows: Tensor, tokens: list[int], k: int) -> Any:
    """``details.top_tokens``."""

    def entry(token: int, value: float) -> dict[str, Any]:
        return {"id": token, "text": "a", "logprob": value, "special": False}

    own = [entry(token, float(row[token])) for row, token in zip(rows, tokens, strict=True)]
    tops = [[entry(i, value) for i, value in best(row, k)] for row in rows]
    return {"generated_text": "a", "details": {"prefill": [], "tokens": own, "top_tokens": tops}}


def teacher_entries(rows: Tensor, tokens: list[int], k: int) -> Any:
    """A record of a data set: positions as lists of ``token_id:N`` and log-probability."""
    listed = [[{"token": f"token_id:{i}", "logprob": value} for i, value in best(row, k)] for row in rows]
    return {"prompt": "a", "teacher_logprobs": listed}


def teacher_lists(rows: Tensor, tokens: list[int], k: int) -> Any:
    """A record of a data set: ids and log-probabilities as two lists of lists."""
    values, ids = rows.topk(k)
    return {"input_ids": tokens, "target_token_ids": ids.tolist(), "target_logprobs": values.tolist()}


#: Name -> the answer.
ANSWERS: dict[str, Answer] = {
    "vLLM prompt, completion": vllm_completion,
    "vLLM prompt, chat": vllm_chat,
    "vLLM offline output": vllm_output,
    "chat, ids": chat,
    "completions, ids": completions,
    "llama-server": llama_server,
    "SGLang": sglang,
    "TGI": tgi,
    "teacher, entries": teacher_entries,
    "teacher, lists": teacher_lists,
}
