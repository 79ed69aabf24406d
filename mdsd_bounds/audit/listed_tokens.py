"""Whether the tokens that truncated rows of a log list were chosen by what was drafted or output.

Servers list the output beside the k most probable tokens, and engines log the probabilities of the tokens that they
looked up.  The mass of all other tokens then depends on the output, and the tests of a log, which take a row to be
fixed before its output, call any rule lossy.  Rows of the most probable tokens alone are told apart in two ways: some
output falls outside of them after a while, and what a longer row lists beyond the shortest has nothing to do with the
output.  Where what came up takes the place of the least probable token of a row, nothing falls outside, and it stands
in that place more often than its probability there allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import SAMPLERS

#: Unlisted mass, summed over the lines, of which none may have come up: in rows chosen beforehand e^-6 is the chance.
_UNSEEN = 6.0
#: The same, and so many longer rows, where what they list beyond the shortest row is what came up.
_UNSEEN_BEYOND, _LONGER = 3.0, 8
#: How seldom what came up stands so often in the last place of rows that were chosen beforehand.
_LAST_PLACE = 1e-4

Came = Callable[[Line], set[int]]


def refuse_chosen_rows(lines: list[Line], path: str, sampler: str = "", **options: Option) -> None:
    """Refuse a log whose truncated rows list what was drafted or output.  O(tokens listed).

    Parameters
    ----------
    lines : list of Line
        All positions.
    path : str
        For the message.
    sampler : str
        Of lines that name none.
    **options
        Of the sampler.

    Raises
    ------
    InputError
        Naming the side, what chose its rows, and the remedy.

    Notes
    -----
    Drafts that the sampler takes for certain (``top_k``) are known before the output, so that rows may list them.
    """
    ps = [(line, line.p) for line in lines if line.p is not None]
    qs = [(line, line.q) for line in lines if line.q is not None]
    free = [pair for pair in ps if not _drafts_are_certain(pair[0], sampler, options)]
    drawn = [pair for pair in qs if not _drafts_are_certain(pair[0], sampler, options)]
    for side, rows, came, what in (
        ("p", ps, lambda line: {line.token}, "the output"),
        ("p", free, lambda line: {line.token, *line.drafts} - {-1}, "the output and the drafts"),
        ("p", free, lambda line: set(line.drafts) - {-1}, "the drafts"),
        ("q", drawn, lambda line: set(line.drafts) - {-1}, "the drafts"),
    ):
        if _chosen_by(rows, came):
            certain = ", or name the --sampler if it takes the drafts for certain" if "drafts" in what else ""
            absent = ", or leave q out" if side == "q" else ""
            raise InputError(
                f"{path}: the truncated {side} lists {what} at every position, however improbable, so that its rows "
                "depend on what came up and any rule would look lossy; list the most probable tokens alone, the same "
                f"number of them whatever is drafted or output{absent}{certain} (see docs/audit.md)"
            )


def _drafts_are_certain(line: Line, sampler: str, options: dict[str, Option]) -> bool:
    held = SAMPLERS.get(line.sampler or sampler)
    if held is None or held.split is None:
        return False
    count = len([x for x in line.drafts if x >= 0])
    return count > 0 and held.split(count, **held.own_options(options))[1] == 0


def _chosen_by(rows: Iterable[tuple[Line, Distribution]], came: Came) -> bool:
    """Whether what came up stands in all truncated rows, and nothing else beyond the shortest, or in the last place."""
    unseen, lengths, first_other, last, due = 0.0, [], [], 0, 0.0
    for line, row in rows:
        names = came(line)
        if row.tokens is None or row.tail <= 0 or not names:
            continue
        if not names <= set(row.tokens.tolist()):
            return False
        unseen += row.tail
        order = row.tokens[np.argsort(-row.probs, kind="stable")].tolist()
        lengths.append(len(order))
        if len(names) == 1:
            # Of a rule that outputs listed tokens alone, which is lossy, each comes up more often by the same factor.
            last += order[-1] in names
            due += float(row.probs.min() / row.probs.sum())
        # Everything from here on came up.
        first_other.append(max((i + 1 for i, token in enumerate(order) if token not in names), default=0))
    if not lengths:
        return False
    nothing_else = not any(first_other)
    beyond = max(first_other) <= min(lengths) and sum(length > min(lengths) for length in lengths) >= _LONGER
    if (nothing_else and unseen >= _UNSEEN) or (beyond and unseen >= _UNSEEN_BEYOND):
        return True
    return unseen >= _UNSEEN and _at_least(last, due) <= _LAST_PLACE


def _at_least(seen: int, due: float) -> float:
    """Upper bound of the chance of at least ``seen`` events where ``due`` are expected (Chernoff)."""
    if seen <= due:
        return 1.0
    return math.exp(seen - due - seen * math.log(seen / due)) if due > 0 else 0.0
