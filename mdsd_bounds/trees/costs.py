"""What a step of decoding costs: forward passes of draft and target, and verification, for one text or a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.text import parse, whole_text
from mdsd_bounds.problem import InputError

#: Costs in any unit that people use; speeds and their ratios are finite between them.
_LEAST, _MOST = 1e-30, 1e30


@dataclass(frozen=True)
class Costs:
    """Cost of a forward pass by the number of tokens read, interpolated between what was given, constant outside it.

    Attributes
    ----------
    target, draft : tuple of (int, float)
        Tokens read by one forward pass, and its cost.
    unit : str
        What a cost of one is: a second where costs were measured, else the time of a target forward pass over one
        token.
    batch : int
        Texts that go through a step together: a forward pass reads the nodes of all of them.
    seconds : float or None
        Seconds of one unit, where known; without it verification costs nothing.
    verification : mapping
        ``(sampler, verifier) -> [K]``: measured seconds of one verification at a node with 1 .. K drafts
        (:func:`mdsd_bounds.trees.timing.seconds_at_nodes`).

    Examples
    --------
    >>> from mdsd_bounds.trees import Costs
    >>> costs = Costs(target=((1, 10.0), (8, 14.0)), draft=((1, 2.0),), unit="ms")
    >>> costs.target[-1], costs.unit
    ((8, 14.0), 'ms')
    """

    target: tuple[tuple[int, float], ...]
    draft: tuple[tuple[int, float], ...]
    unit: str
    batch: int = 1
    seconds: float | None = None
    verification: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def of(self, widths: Sequence[int], verification: float = 0.0) -> float:
        """Cost of one step for each text of the batch.

        Every level is drafted, then one target forward pass reads all nodes and the roots of the whole batch.
        Verification is ``verification`` seconds a text, one text after the other.

        Parameters
        ----------
        widths : sequence of int
            Nodes of one tree at levels 1, 2, ...
        verification : float
            Seconds; counted only where :attr:`seconds` is known.
        """
        read = [1, *widths[:-1]] if widths else []
        passes = sum(_at(self.draft, self.batch * n) for n in read) + _at(self.target, self.batch * (1 + sum(widths)))
        return passes / self.batch + (verification / self.seconds if self.seconds else 0.0)

    @property
    def widest(self) -> int:
        """The most tokens in one target forward pass of which the cost was given."""
        return self.target[-1][0]


def costs_from(draft: float | None, target: str | None, batch: int = 1, target_ms: float | None = None) -> Costs:
    """Costs from options: a ratio and ``nodes:cost`` pairs, or a JSON file of measured seconds.

    Parameters
    ----------
    draft : float or None
        Cost of one draft forward pass, in target forward passes over one token, whatever ``target`` is measured in.
    target : str or None
        ``"1:1,8:1.1,32:1.6"``; or a JSON file ``{"target": {"1": s, ...}, "draft": {"1": s, ...}}``; None: every call
        costs one, as where memory traffic is all that counts.
    batch : int
        Texts that go through a step together, at least 1.
    target_ms : float or None
        Milliseconds of one target forward pass over one token, where ``target`` is no file of seconds: with it the time
        of verification can be counted.

    Raises
    ------
    InputError
        If a cost or the batch is not positive, a number of nodes is below 1, the file cannot be read, or no draft cost
        is known.

    Examples
    --------
    >>> from mdsd_bounds.trees import costs_from
    >>> costs_from(0.1, "1:1,8:1.3").target
    ((1, 1.0), (8, 1.3))
    """
    by_width: Mapping[str, Any] | None = None
    unit, source = "time of one target forward pass", ""
    if target is None:
        pairs: Mapping[str, Any] = {"1": 1.0}
    elif Path(target).suffix == ".json":
        with reading(target, "file of costs", 'give {"target": {"1": seconds}}'):
            held = parse(whole_text(Path(target)))
            pairs, by_width, unit, source = held["target"], held.get("draft"), "second", f"{target}: "
    else:
        pairs = _pairs(target)
    curve = _curve(pairs, "target", source)
    if draft is not None:
        by_width = {"1": draft * _at(curve, 1)}
    if by_width is None:
        raise InputError(
            f"{source}the draft's cost is unknown; give --draft-cost, in target forward passes (0.3, say)"
            + (', or "draft": {"1": seconds} in the file' if unit == "second" else "")
        )
    if batch < 1:
        raise InputError(f"batch={batch}: give the number of texts in a batch, at least 1")
    costs = Costs(curve, _curve(by_width, "draft", source), unit, batch)
    return replace(costs, seconds=_seconds(costs, target_ms))


def _pairs(text: str) -> dict[str, str]:
    """``nodes:cost`` pairs; a number of nodes given twice is an error."""
    parts = [part.split(":") for part in text.split(",")]
    if any(len(part) != 2 for part in parts):
        raise InputError(f"--target-cost {text!r}: give nodes:cost pairs like 1:1,8:1.1,32:1.6")
    found = dict(parts)
    if len(found) < len(parts):
        raise InputError(f"--target-cost {text!r}: a number of nodes stands there twice; give each one cost")
    return found


def _seconds(costs: Costs, target_ms: float | None) -> float | None:
    """Seconds of one unit."""
    if costs.unit == "second":
        if target_ms is not None:
            raise InputError("costs in seconds say how long a forward pass takes; leave out --target-ms")
        return 1.0
    if target_ms is None:
        return None
    if not _LEAST <= target_ms <= _MOST:
        raise InputError(
            f"--target-ms {target_ms}: give the milliseconds of one target forward pass, more than 0 "
            f"({_LEAST:g} to {_MOST:g})"
        )
    return target_ms / 1000.0 / _at(costs.target, 1)


def _curve(pairs: Mapping[str, Any], name: str, source: str) -> tuple[tuple[int, float], ...]:
    try:
        if any(isinstance(cost, bool) for cost in pairs.values()):
            raise TypeError
        points = sorted((int(nodes), float(cost)) for nodes, cost in pairs.items())
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{source}cost of the {name}: give numbers of nodes and costs, not {pairs!r}") from None
    if not points or any(nodes < 1 or not _LEAST <= cost <= _MOST for nodes, cost in points):
        raise InputError(
            f"{source}cost of the {name}: numbers of nodes from 1 and positive costs are wanted, not {points} "
            f"({_LEAST:g} to {_MOST:g})"
        )
    if len({nodes for nodes, _ in points}) < len(points):
        raise InputError(f"{source}cost of the {name}: a number of nodes stands there twice; give each one cost")
    return tuple(points)


def _at(curve: Sequence[tuple[int, float]], nodes: int) -> float:
    return float(np.interp(nodes, [n for n, _ in curve], [cost for _, cost in curve]))
