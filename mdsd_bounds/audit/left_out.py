"""Tokens that never come up in a log although p says that they should, as where lines of the end token are left out.

A log without the lines in which a token was output makes every rule look lossy; a rule that cannot output the token is
lossy.  The log alone does not tell the two apart.  Given that the output is none of the tokens A that were left out, a
lossless rule outputs x with probability ``p_x / (1 - p(A))``, and the tests hold for that distribution in both cases.
If p may be off by a total variation of t, the conditional distribution may be off by ``t / (1 - p(A))``.

For every set B an output outside of A that is a draft lies in B, or one of the drafts lies outside of B.  So a lossless
rule accepts and outputs none of A with probability ``p(B - A) + 1 - Q(B)`` at most, hence with alpha* of the
conditional distribution at most, and ``alpha* / (1 - p(A))`` bounds its acceptance given that the output is none of A.
No event among the drafts is more probable, given that, than by a factor ``1 / (1 - p(A))``, so that their distribution
is off by a total variation of p(A) at most.

Only what an end token may do is excused: to be missing once a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mdsd_bounds.audit.assemble import Unit
from mdsd_bounds.audit.cells import Floats, Ints
from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.problem import InputError

#: How often a token was to come up, at least, for its absence to be looked into: the chance of that is e^-3.
_EXPECTED = 3.0
#: Tokens that are looked into at most: models have one to three end tokens.
_MOST = 4
#: Outputs of a text on the average, at least, where the log names no texts.
_TEXT = 16


class Expected:
    """How often each token was to come up: the sum of p over the lines of a log."""

    def __init__(self) -> None:
        self._of_all: Floats = np.zeros(0)
        self._listed: dict[int, float] = {}

    def counted(self, units: Iterator[Unit]) -> Iterator[Unit]:
        """The units, each added when it is taken.  O(V) a full row."""
        for unit in units:
            row, times = unit.p, len(unit.lines)
            if row.tokens is None:
                if len(row.probs) > len(self._of_all):
                    self._of_all = np.append(self._of_all, np.zeros(len(row.probs) - len(self._of_all)))
                self._of_all[: len(row.probs)] += times * row.probs
            else:
                for token, prob in zip(row.tokens.tolist(), row.probs.tolist(), strict=True):
                    self._listed[token] = self._listed.get(token, 0.0) + times * prob
            yield unit

    def never_output(self, outputs: Ints, docs: Ints) -> dict[int, float]:
        """The tokens that were to come up most often, and never did, with that number; at most four.

        ``outputs`` and ``docs`` are ``[N]``, of all lines.
        """
        texts = len(np.unique(docs)) if docs.any() else len(docs) / _TEXT
        plausible = texts + 3.0 * math.sqrt(texts) + 3.0
        due = {token: float(self._of_all[token]) for token in np.flatnonzero(self._of_all).tolist()}
        for token, number in self._listed.items():
            due[token] = due.get(token, 0.0) + number
        for token in set(outputs.tolist()):
            due.pop(token, None)
        most = sorted(due, key=lambda token: -due[token])[:_MOST]
        return {token: due[token] for token in most if _EXPECTED <= due[token] <= plausible}


def require_left_out(lines: Sequence[Line], tokens: Sequence[int], path: str) -> None:
    """Refuse a token that is said to be left out and is output all the same, and what is no token.

    Raises
    ------
    InputError
        Naming the line.
    """
    for token in tokens:
        if token < 0:
            raise InputError(f"--left-out {token}: give the ids of tokens, from 0 on, or none")
    for line in lines:
        if line.token in tokens:
            raise InputError(
                f"{path} line {line.place}: the output is token {line.token}, whose lines --left-out says are not "
                "there; leave it out of --left-out"
            )


def given_others(units: Iterator[Unit], tokens: Sequence[int], tolerance: float, gone: Floats) -> Iterator[Unit]:
    """The units with p given that the output is none of ``tokens``; ``tolerance`` is that of all lines.

    At each line that a unit is about, ``gone`` ``[N]`` is set to the most that p gives to these tokens.
    """
    left = np.array(sorted(set(tokens)), dtype=np.int64)
    for unit in units:
        row, mass = _conditional(unit.p, left, tolerance)
        gone[list(unit.lines)] = mass
        yield replace(unit, p=row)


def without_them(positions: Positions, gone: Floats) -> Positions:
    """Positions whose p is given that some tokens are not output, with the bound and the drafts given that too."""
    kept = np.maximum(1.0 - gone, np.finfo(np.float64).tiny)
    return replace(
        positions,
        bound=np.minimum(positions.bound / kept, 1.0),
        bound_by_n=np.minimum(positions.bound_by_n / kept[:, None], 1.0),
        draft_slack=gone,
    )


def _conditional(row: Distribution, left: Ints, tolerance: float) -> tuple[Distribution, float]:
    places = left[left < len(row.probs)] if row.tokens is None else np.flatnonzero(np.isin(row.tokens, left))
    gone, probs = float(row.probs[places].sum()), row.probs.copy()
    probs[places] = 0.0
    # Of a token among the others it is known only that it is no more probable than any that is listed.
    unseen = 0.0
    if row.tokens is not None and len(places) < len(left):
        unseen = min(row.tail, (len(left) - len(places)) * float(row.probs.min()))
    kept = 1.0 - gone
    if kept <= unseen + tolerance:
        return replace(row, defect=1.0), 1.0
    defect = (row.defect + tolerance + unseen) / kept - tolerance
    most = min(gone + unseen + row.defect + tolerance, 1.0)
    return replace(row, probs=probs / kept, tail=row.tail / kept, defect=min(defect, 1.0)), most


def say_left_out(path: str, never: dict[int, float]) -> str:
    """What is wrong with a log against which nothing speaks but that some tokens never come up."""
    named = " and ".join(f"token {token} ({number:.3g} times expected)" for token, number in never.items())
    tokens = ",".join(str(token) for token in never)
    return (
        f"{path}: no line outputs {named}, and nothing else speaks against the rule; either these lines were left "
        f"out, as those of an end token often are: then give --left-out {tokens}; or none were, and the rule cannot "
        "output it and is lossy: then give --left-out none"
    )
