"""A server of the completions interface for tests: a character is a token, and the next depends on the one before."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

V = 40


def tokens_of(text: str) -> list[int]:
    """Token ids of a text."""
    return [ord(letter) % V for letter in text]


def logprobs_of(seed: int) -> np.ndarray:
    """``[V, V]``: row t is the distribution after token t.  Drafts share most of the target's."""
    target = 2.5 * np.random.default_rng(0).normal(size=(V, V))
    logits = target + (0 if seed == 0 else np.random.default_rng(seed).normal(size=(V, V)))
    found: np.ndarray = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return found


@dataclass
class Toy:
    """What a server does: ``form`` is vllm, echo, text (an echo without ids) or none; ``faults`` are answered first."""

    seed: int = 0
    form: str = "vllm"
    ids: bool = True
    delay: float = 0.0
    faults: list[tuple[int, str]] = field(default_factory=list)
    models: tuple[str, ...] = ("toy",)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextlib.contextmanager
def serving(toy: Toy) -> Iterator[str]:
    """The address of a server that answers as ``toy`` says."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._say(200, json.dumps({"data": [{"id": name} for name in toy.models]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            toy.asked.append(body)
            toy.keys.append(self.headers.get("Authorization"))
            time.sleep(toy.delay)
            if toy.faults:
                self._say(*toy.faults.pop(0))
                return
            self._say(*_answer(toy, body))

        def _say(self, status: int, text: str) -> None:
            data = text.encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _answer(toy: Toy, body: dict[str, Any]) -> tuple[int, str]:
    prompt = body["prompt"]
    ids = tokens_of(prompt) if isinstance(prompt, str) else prompt
    rows = logprobs_of(toy.seed)[ids[:-1]]
    usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
    if "prompt_logprobs" in body:
        if toy.form != "vllm":
            return 400, json.dumps({"error": {"message": "unknown field prompt_logprobs"}})
        k, listed = body["prompt_logprobs"], [None]
        for row, token in zip(rows, ids[1:], strict=True):
            order = np.argsort(-row)
            names = list(dict.fromkeys([token, *order[:k].tolist()]))
            ranks = {int(t): place + 1 for place, t in enumerate(order)}
            listed.append({str(t): {"logprob": float(row[t]), "rank": ranks[t], "decoded_token": "?"} for t in names})
        choice = {"text": "", "prompt_logprobs": listed} | ({"prompt_token_ids": ids} if toy.ids else {})
        return 200, json.dumps({"choices": [choice], "usage": usage})
    if toy.form not in ("echo", "text"):
        return 200, json.dumps({"choices": [{"text": "x", "logprobs": None}], "usage": usage})

    def name(token: int) -> str:
        return f"token_id:{token}" if toy.form == "echo" else chr(97 + token)

    tokens, values, tops = [name(ids[0])], [None], [None]
    # One token more is generated, and is no part of the prompt.
    last = logprobs_of(toy.seed)[ids[-1]]
    for row, token in zip([*rows, last], [*ids[1:], int(last.argmax())], strict=True):
        order = [*np.argsort(-row)[: body["logprobs"]].tolist()]
        tokens.append(name(token))
        values.append(float(row[token]))
        tops.append({name(t): float(row[t]) for t in dict.fromkeys([*order, token])})
    held = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
    return 200, json.dumps({"choices": [{"text": "", "logprobs": held}], "usage": usage})
