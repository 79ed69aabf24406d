"""From the positions of servers' answers to truncated rows: what is known of each token, and of those not listed."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.formats.top_logprobs.positions import Position, Text, UnreadableError
from mdsd_bounds.dumps.rounding import rounding_of
from mdsd_bounds.dumps.single_model import ReadSide
from mdsd_bounds.problem import InputError, rounding_unit

#: vLLM writes -9999 for minus infinity, which JSON does not know.
SENTINEL = -9999.0
#: How far two statements of one probability may be apart.
_SAME = 1e-3
#: Decimals from which on a number counts as written in full.
_FULL = 7

#: The id of a token that is named by its text, or None where several ids have that text.
Resolve = Callable[[Text], int | None]


@dataclass
class Rows:
    """Rows as they are gathered: entries one after another, and where each row ends."""

    path: Path
    resolve: Resolve
    ids: array[int] = field(default_factory=lambda: array("q"))
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    ends: array[int] = field(default_factory=lambda: array("q", [0]))
    caps: array[float] = field(default_factory=lambda: array("d"))
    one_hot: int = 0
    dropped: int = 0
    decimals: int = 0

    def __len__(self) -> int:
        return len(self.caps)

    def append(self, held: Position, *, output: bool) -> int:
        """One more row; its own token, or -1 where that is unknown.

        Raises
        ------
        ValueError, UnreadableError
            If the entries contradict each other or cannot be log-probabilities.
        """
        known, dropped = self._known(held)
        own = held.own if not isinstance(held.own, Text) else self.resolve(held.own)
        if held.own_logprob is not None and own is not None:
            _own(held, known, own, _number(held.own_logprob), output=output)
        if not known:
            raise ValueError("no token is listed; ask for more of them")
        finite = {token: value for token, value in known.items() if value > SENTINEL}
        if not finite or (output and own in known and own not in finite):
            raise UnreadableError(
                f"the token {own} was sampled with log-probability {SENTINEL:g} or less, the server's sign for minus "
                "infinity; ask for log-probabilities of the raw logits"
            )
        cap = _cap(held, known, own, dropped)
        if len(finite) < len(known) and not dropped and any(t != own for t in known if t not in finite):
            cap = self._all_listed(finite)
        self.ids.extend(finite)
        self.logprobs.extend(finite.values())
        self.ends.append(len(self.ids))
        self.caps.append(cap)
        self.one_hot += list(finite.values()).count(0.0) == 1
        self.dropped += dropped is not None
        self._see(finite)
        return -1 if own is None else own

    def _known(self, held: Position) -> tuple[dict[int, float], float | None]:
        """Log-probability by id; and the largest that could not be given to an id, None where there is none."""
        known: dict[int, float] = {}
        dropped: float | None = None
        for token, value in zip(held.tokens, held.logprobs, strict=True):
            logprob = _number(value)
            found = token if not isinstance(token, Text) else self.resolve(token)
            if found is None:
                # Of an object, one of several tokens with this text is left, and nothing is known of the others.
                dropped = math.inf if held.keyed else max(logprob, -math.inf if dropped is None else dropped)
                continue
            # The flat form lists the own token twice when it is among the k most probable.
            if known.setdefault(found, logprob) != logprob:
                raise ValueError(f"token {found} has two log-probabilities")
        return known, dropped

    def _all_listed(self, finite: dict[int, float]) -> float:
        """The cap where one of the k best has probability zero: nothing is left for the others."""
        total = math.fsum(math.exp(value) for value in finite.values())
        if abs(total - 1.0) > _SAME:
            raise UnreadableError(
                f"log-probability {SENTINEL:g} beside tokens that hold {total:.6g} of the mass: the server left values "
                "out; ask for log-probabilities of the raw logits"
            )
        return -math.inf

    def _see(self, finite: dict[int, float]) -> None:
        """How many decimals the values are written with, at most :data:`_FULL`."""
        for value in finite.values():
            while self.decimals < _FULL and round(value, self.decimals) != value:
                self.decimals += 1

    def unit(self) -> float:
        """Relative rounding of the values: of float32, or of the decimals that they are written with."""
        return max(rounding_unit(torch.float32), 0.5 * 10.0**-self.decimals if self.decimals < _FULL else 0.0)

    def reader(self) -> ReadSide:
        """Rows over a vocabulary, and what they leave open."""
        ids, logprobs = np.frombuffer(self.ids, np.int64), np.frombuffer(self.logprobs)
        ends, caps, path = np.frombuffer(self.ends, np.int64), np.frombuffer(self.caps), str(self.path)
        # How the values of all rows were rounded; of a row with few of them it cannot be told.
        grid = rounding_of(self.logprobs, rounding_unit(torch.float32))
        unit = self.unit() if grid is None else rounding_unit(torch.float32)

        def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
            first, counts = ends[start], np.diff(ends[start : stop + 1])
            slots = np.arange(counts.max(initial=1))[None] < counts[:, None]
            tokens, values = np.full(slots.shape, -1), np.full(slots.shape, -np.inf)
            tokens[slots], values[slots] = ids[first : ends[stop]], logprobs[first : ends[stop]]
            size = torch.from_numpy(np.abs(values, where=slots, out=np.zeros_like(values)).max(-1, initial=0.0))
            slack = torch.zeros_like(size) if grid is None else grid.error(size)
            rest = Rest(cap=torch.from_numpy(caps[start:stop].copy()), slack=slack)
            return dense_top_k(
                torch.from_numpy(tokens), torch.from_numpy(values), width, path, start, rest=rest, unit=unit
            )

        return read

    def refuse_zeros(self) -> None:
        """Refuse answers that give one token all of the mass at every position.

        Raises
        ------
        InputError
            If there is more than one.
        """
        if self.one_hot == len(self) > 1:
            raise InputError(
                f"{self.path}: log-probability 0.0 at each of {len(self)} positions: no language model is that sure; "
                "a server that speculates may answer so, and one that states values after temperature 0: ask without "
                "speculation, at temperature 1"
            )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no log-probability")
    number = float(value)
    if math.isnan(number):
        raise ValueError("a token has the log-probability NaN")
    return number


def _own(held: Position, known: dict[int, float], own: int, logprob: float, *, output: bool) -> None:
    """Add the own token to the entries, with which it must agree."""
    listed = [value for token, value in known.items() if token != own]
    if own in known:
        if abs(math.exp(min(known[own], 0.0)) - math.exp(min(logprob, 0.0))) > _SAME:
            raise UnreadableError(
                f"the token {own} itself has log-probability {logprob:.6g}, and {known[own]:.6g} in the list: one is "
                "taken after temperature or cuts, two tokens share a text, or the server speculates and states 0.0; "
                "ask for raw log-probabilities by token id"
            )
        return
    if listed and min(listed) > SENTINEL and math.exp(min(logprob, 0.0)) > math.exp(min(listed)) + _SAME:
        raise UnreadableError(
            f"the token {own} itself has log-probability {logprob:.6g}, more than the least of the listed, "
            f"{min(listed):.6g}, and is not among them: they are not the most probable ones, or one is taken after "
            "temperature; ask for raw log-probabilities by token id"
        )
    known[own] = logprob


def _cap(held: Position, known: dict[int, float], own: int | None, dropped: float | None) -> float:
    """The largest log-probability that a token which is not stored may have."""
    if dropped is not None:
        rest = [value for token, value in known.items() if token != own]
        return max(dropped, min(rest, default=math.inf))
    ranked = _by_rank(held)
    if ranked is not None:
        return ranked
    if held.best and held.tokens:
        return min(_number(value) for value in held.logprobs)
    # The own token may be out of order; the others are the k most probable, less at most that one.
    return min((value for token, value in known.items() if token != own), default=math.inf)


def _by_rank(held: Position) -> float | None:
    """The least of the first k by rank, where ranks are given and begin at 1."""
    ranks = [int(rank) if isinstance(rank, int | float) else 0 for rank in held.ranks]
    best = {rank: _number(value) for rank, value in zip(ranks, held.logprobs, strict=False)}
    count = 0
    while count + 1 in best:
        count += 1
    return best[count] if count else None
