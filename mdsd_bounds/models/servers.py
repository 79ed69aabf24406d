"""Ask an OpenAI-compatible server for the log-probabilities of a text's tokens; every failure is one line.

Two requests are known, and the first that a server answers is kept: ``prompt_logprobs`` (vLLM), and ``echo`` with
``logprobs`` (the older completions interface: llama-cpp-python, SGLang, vLLM).  Both ask for token ids, without which
answers cannot be read (:mod:`mdsd_bounds.dumps.formats.top_logprobs`).
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.problem import InputError

#: Answers after which the same request may succeed.
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
#: Seconds before the first repetition, doubled each time, and at most.
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Bytes of an answer.
_LARGEST = 1 << 30
#: Characters of a server's own words that are repeated.
_WORDS = 160


@dataclass(frozen=True)
class Server:
    """Where to ask.

    Attributes
    ----------
    url : str
        Up to the version, ``http://localhost:8000/v1`` or without ``/v1``.
    model : str
        The name it serves; empty for the first of ``/v1/models``.
    timeout : float
        Seconds for one answer.
    tries : int
        Requests at most, the first included.
    wait : callable
        Sleeps; for tests.

    Examples
    --------
    >>> from mdsd_bounds.models import Server
    >>> Server("http://localhost:8000/v1", "my-model").url
    'http://localhost:8000/v1'
    """

    url: str
    model: str = ""
    timeout: float = 120.0
    tries: int = 6
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{self.url}: no address of a server; give http://HOST:PORT")
        if parts.username or parts.password or parts.query:
            raise InputError("the server's address: holds a name, a password or a query; give OPENAI_API_KEY instead")

    @property
    def base(self) -> str:
        """The address with its version."""
        url = self.url.rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"


class AnsweredError(InputError):
    """The server understood, and said no: ``status`` is its code."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def served_model(server: Server) -> str:
    """The name of the model that a server serves.

    Raises
    ------
    InputError
        If it cannot be reached, or serves several and none was named.
    """
    if server.model:
        return server.model
    listed = ask(server, "/models")
    try:
        names = [str(one["id"]) for one in listed["data"]]
    except (TypeError, KeyError, LookupError):
        raise InputError(f"{server.base}/models: lists no models; name the one it serves (--target NAME)") from None
    if len(names) != 1:
        raise InputError(
            f"{server.base}: serves {', '.join(names) or 'nothing'}; name one (--target NAME, --draft NAME)"
        )
    return names[0]


def prompt_logprobs(server: Server, model: str, prompt: str | list[int], k: int) -> dict[str, Any]:
    """The server's answer with the k most probable tokens at every position of the prompt, and their ids.

    Parameters
    ----------
    server, model :
        Where to ask, and for whom (:func:`served_model`).
    prompt : str or list of int
        A text, or token ids.
    k : int
        Tokens at each position.

    Raises
    ------
    InputError
        If it cannot be reached, or answers no prompt log-probabilities in either form.
    """
    common = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    message = ""
    for form in (
        {"prompt_logprobs": k, "return_token_ids": True},
        {"echo": True, "logprobs": k, "return_tokens_as_token_ids": True},
    ):
        try:
            answer = ask(server, "/completions", common | form)
        except AnsweredError as error:
            # Another form may be known; a wrong key or model is wrong for both.
            if error.status not in (400, 404, 422):
                raise
            message = _short(error)
            continue
        found = _with_prompt(answer, "echo" in form)
        if found is not None:
            return found
    raise InputError(
        f"{server.base}/completions: answers no prompt log-probabilities{f' ({message})' if message else ''}; start a "
        "server that does (vLLM: as it is; llama-cpp-python: --logits_all true)"
    )


def ask(server: Server, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request, repeated with growing pauses while the server is not ready or cannot be reached.

    Raises
    ------
    AnsweredError
        If the server refuses the request.
    InputError
        If no answer comes, or it is no JSON.
    """
    url = f"{server.base}{path}"
    message, pause = "", _PAUSE
    for attempt in range(server.tries):
        if attempt:
            server.wait(min(pause, _LONGEST_PAUSE))
            pause *= 2
        try:
            return _once(server, url, body)
        except urllib.error.HTTPError as error:
            text = f"{url}: HTTP {error.code}{_words(error)}"
            if error.code not in _AGAIN:
                raise AnsweredError(f"{text}; {_remedy(error.code)}", error.code) from error
            message = text
            pause = _asked_pause(error, pause)
        except TimeoutError:
            message = f"{url}: no answer in {server.timeout:g} s"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            timed_out = isinstance(reason, TimeoutError)
            message = f"{url}: " + (f"no answer in {server.timeout:g} s" if timed_out else _short(reason))
    raise InputError(
        f"{message} ({server.tries} tries); start the server, or give its address, or more time with --timeout; the "
        "same command goes on"
    )


def _once(server: Server, url: str, body: dict[str, Any] | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=server.timeout) as answer:
        text = answer.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise InputError(f"{url}: an answer of more than {_LARGEST} bytes; ask for fewer tokens (--top-k)")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{url}: the answer is no JSON; is this an OpenAI-compatible server?") from None


def _with_prompt(answer: Any, echo: bool) -> dict[str, Any] | None:
    """The answer if it holds what was asked for; of an echo, without the token that was generated after it."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if first is None:
        return None
    if not echo:
        return answer if first.get("prompt_logprobs") or answer.get("prompt_logprobs") else None
    held = first.get("logprobs")
    if not isinstance(held, dict) or not isinstance(held.get("tokens"), list) or not held.get("top_logprobs"):
        return None
    usage = answer.get("usage")
    number = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not isinstance(number, int) or not 0 < number <= len(held["tokens"]):
        number = len(held["tokens"]) - 1
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    cut = {name: held[name][:number] if isinstance(held.get(name), list) else held.get(name) for name in names}
    return {"choices": [{"logprobs": cut}]}


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "set OPENAI_API_KEY"
    if status == 404:
        return "check the address and the model's name"
    return "the server does not take this request"


def _words(error: urllib.error.HTTPError) -> str:
    """What the server said, shortened."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    try:
        held = json.loads(text)
        detail = held.get("error", held.get("message", held.get("detail"))) if isinstance(held, dict) else None
        text = str(detail.get("message") if isinstance(detail, dict) else detail or text)
    except (ValueError, RecursionError):
        # Plain text, or a page.
        pass
    return f" ({_short(text)})" if text.strip() else ""


def _short(words: object) -> str:
    text = printable(" ".join(str(words).split()))
    return text if len(text) <= _WORDS else text[: _WORDS - 3] + "..."


def _asked_pause(error: urllib.error.HTTPError, pause: float) -> float:
    """What the server asks to wait, where it does."""
    try:
        return max(float(error.headers.get("Retry-After", "")), 0.0)
    except (TypeError, ValueError):
        return pause
