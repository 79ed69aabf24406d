"""A task's solution as two models write it: the target's greedy text, and where the draft would have differed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.judge.continuations import Text
from mdsd_bounds.judge.reading import DraftReader
from mdsd_bounds.judge.tasks import STOPS, Task, cut
from mdsd_bounds.models.drafts import Draft
from mdsd_bounds.models.forward import final_norm
from mdsd_bounds.models.loading import LoadedModel


@dataclass(frozen=True)
class Difference:
    """A place where the draft's most probable token is not the target's.

    Attributes
    ----------
    place, token : int
        In the text, and the draft's token there.
    own : int
        The target's.
    log_p, log_q : float
        Log-probabilities of the draft's token.
    entropy : float
        Of p, in nats.
    top : float
        Largest probability of p.
    divergence : float
        ``KL(p || q)`` in nats.
    """

    place: int
    token: int
    own: int
    log_p: float
    log_q: float
    entropy: float
    top: float
    divergence: float


class Solutions:
    """What both models say of the solutions of tasks.

    Parameters
    ----------
    target, draft : LoadedModel, Draft
        The pair.
    new_tokens : int
        Tokens of a solution at most.
    """

    def __init__(self, target: LoadedModel, draft: Draft, new_tokens: int) -> None:
        self.model, self.tokenizer, self.new_tokens = target.model, target.tokenizer, new_tokens
        self.reader = DraftReader(draft, target)
        settings = getattr(self.model, "generation_config", None)
        ends: Any = None if settings is None else settings.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        self.width = int(self.model.config.get_text_config().hidden_size)
        #: Tokens that the target can read.
        self.known = int(self.model.get_input_embeddings().weight.shape[0])
        self.prompts: dict[str, list[int]] = {}

    def begin(self, task: Task) -> Text:
        """The prompt, as a text to be continued under the task's name."""
        prompt = list(self.tokenizer(task.prompt, verbose=False)["input_ids"])
        self.prompts[task.name] = prompt
        return Text(task.name, prompt, len(prompt))

    def forget(self, name: str) -> None:
        """Drop what is kept of a task."""
        self.prompts.pop(name, None)
        self.reader.forget(name)

    def completion(self, text: Text) -> str:
        """What follows the prompt, in characters."""
        tokens = text.tokens[len(self.prompts[text.key]) :]
        return str(self.tokenizer.decode([token for token in tokens if token not in self.ends]))

    def ended(self, text: Text) -> bool:
        """Whether a solution is complete, or too long."""
        written = text.tokens[len(self.prompts[text.key]) :]
        if len(written) >= self.new_tokens or not self.ends.isdisjoint(written[-2:]):
            return True
        completion = self.completion(text)
        return cut(completion) != completion

    def last_place(self, text: Text) -> int:
        """The place of the token with which the solution ends, or goes beyond its end."""
        return self._place_of(text, len(cut(self.completion(text))))

    def certain_place(self, text: Text) -> int:
        """As :meth:`last_place` of a complete solution; of another one, no place after which it may turn out to end."""
        completion = self.completion(text)
        if self.ended(text):
            return self.last_place(text)
        begun = max((k for stop in STOPS for k in range(len(stop)) if completion.endswith(stop[:k])), default=0)
        return self._place_of(text, len(completion) - begun)

    def _place_of(self, text: Text, wanted: int) -> int:
        """The place of the token with which the completion gets longer than ``wanted`` characters."""
        first = len(self.prompts[text.key])
        low, high = first, len(text.tokens) - 1
        while low < high:
            middle = (low + high) // 2
            if len(self.tokenizer.decode(text.tokens[first : middle + 1])) > wanted:
                high = middle
            else:
                low = middle + 1
        return low

    def differences(self, text: Text, first: int) -> list[Difference]:
        """Places from ``first`` to the end of the solution where the draft would have written something else.

        The states of ``text`` must reach back to the one before ``first``.
        """
        last = self.certain_place(text)
        if last < first:
            return []
        log_q = self.reader.logits(text.key, text.tokens[: last + 1], first).log_softmax(-1)
        own = torch.tensor(text.tokens[first : last + 1])
        best = log_q[:, : self.known].argmax(-1)
        rows = (best != own).nonzero()[:, 0].tolist()
        if not rows:
            return []
        # The state after tokens 0 .. place - 1 predicts the token at ``place``.
        log_p = self.log_p([text.states[first + row - text.given] for row in rows])
        width = min(log_p.shape[1], log_q.shape[1])
        found = []
        for i, row in enumerate(rows):
            p, token = log_p[i].exp(), int(best[row])
            far = float((p[:width] * (log_p[i, :width] - log_q[row, :width])).sum())
            entropy = float(torch.special.entr(p).sum())
            log_pair = float(log_p[i, token]), float(log_q[row, token])
            found.append(Difference(first + row, token, int(own[row]), *log_pair, entropy, float(p.max()), far))
        return found

    def log_p(self, states: Sequence[Tensor]) -> Tensor:
        """Log-probabilities ``[N, V]`` of the target after states of its last layer."""
        norm = final_norm(self.model)
        with torch.inference_mode():
            kind = next(norm.parameters()).dtype
            logits: Tensor = self.model.get_output_embeddings()(norm(torch.stack(list(states)).to(kind)))
        return logits.float().log_softmax(-1)


def joined(base: Text, text: Text) -> Text:
    """``text``, which was cut from ``base``, with the states of ``base`` before the cut."""
    text.states = base.states[: text.given - base.given] + text.states
    text.given = base.given
    return text
