"""One compiled step for a batch of prepared rules of all kinds, whose data lie behind one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.verifiers.optimal.deterministic import FixedRule
from mdsd_bounds.verifiers.optimal.exchanges_kernel import Tables, pick_interval
from mdsd_bounds.verifiers.optimal.order_tree import Tree
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityMixture, PriorityRule, pick_one
from mdsd_bounds.verifiers.optimal.with_replacement import ExchangeRule
from mdsd_bounds.verifiers.optimal.without_replacement import FirstDraft

if TYPE_CHECKING:
    from mdsd_bounds.verifiers.optimal.prepared import Prepared

#: Kinds of rules.
_TREE, _EXCHANGES, _FIXED, _FIRST = range(4)


class Tokens(NamedTuple):
    """What is known of tokens; row b has the entries from ``at[b]`` to ``at[b + 1]``.

    ``token`` are the tokens that can be drafted, ascending, none where all ``[V]`` are listed (``listed[b]`` false);
    ``p`` and ``r`` are theirs, ``ratio`` is p/q, ``given`` is q.
    ``left`` is the cumulative sum of ``(p - r)_+`` at the tokens ``left_token``.
    """

    at: np.ndarray
    listed: np.ndarray
    token: np.ndarray
    p: np.ndarray
    r: np.ndarray
    ratio: np.ndarray
    given: np.ndarray
    left_at: np.ndarray
    left_token: np.ndarray
    left: np.ndarray


class Parts(NamedTuple):
    """The trees of all rows: row b has those from ``at[b]`` to ``at[b + 1]``, other kinds of rules have one without.

    ``chance`` is the probability of the trees of a row up to this one; ``item`` holds the items of its tokens in the
    tree from ``item_at[part]`` on, and for exchanges the intervals.
    """

    at: np.ndarray
    chance: np.ndarray
    item_at: np.ndarray
    item: np.ndarray


class Flat(NamedTuple):
    """All rows: kinds and tokens; trees, exchanged intervals, and for fixed tokens (random drafts, P(A), 1 - q(A)).

    ``slot`` ``[B]`` is that of rules which always pick one; ``numbers`` ``[B, 3]`` belong to fixed tokens.
    """

    kind: np.ndarray
    tokens: Tokens
    parts: Parts
    tree: Tree
    tree_at: np.ndarray
    tables: Tables
    tables_at: np.ndarray
    numbers: np.ndarray
    slot: np.ndarray


def flatten(rows: tuple[Prepared, ...]) -> Flat | None:
    """All rules in one record, None if some are of a kind that is not known here."""
    kinds = {
        PriorityRule: _TREE,
        PriorityMixture: _TREE,
        ExchangeRule: _EXCHANGES,
        FixedRule: _FIXED,
        FirstDraft: _FIRST,
    }
    kind = np.array([kinds.get(type(row.rule), -1) for row in rows], np.int64)
    if not rows or kind.min() < 0:
        return None
    rules: list[Any] = [row.rule for row in rows]
    whole, real = np.zeros(0, np.int32), np.zeros(0)
    nothing = Tree(whole, whole, whole, whole, whole, real, whole)
    parts = [_row_parts(rule) for rule in rules]
    trees = [part.tree if isinstance(part, PriorityRule) else nothing for _, row in parts for part in row]
    tree = Tree(*(np.concatenate([getattr(one, name) for one in trees]) for name in Tree._fields))
    tree_at = np.stack([offsets([getattr(one, name) for one in trees]) for name in ("place", "coin", "rank")])
    unused = Tables(real, real, real, whole, whole, whole, whole, real, real)
    every = [rule.tables if k == _EXCHANGES else unused for rule, k in zip(rules, kind, strict=True)]
    tables = Tables(*(np.concatenate([getattr(one, name) for one in every]) for name in Tables._fields))
    tables_at = np.stack([offsets([getattr(one, name) for one in every]) for name in ("draft", "low")])
    numbers = np.array(
        [(x.random, x.mass, x.rest) if k == _FIXED else (0, 0, 0) for x, k in zip(rules, kind, strict=True)]
    )
    slot = np.array([rule.slot if k == _FIRST else 0 for rule, k in zip(rules, kind, strict=True)], np.int64)
    tokens, items = _all_tokens(rows, kind), [_items(part) for _, row in parts for part in row]
    chance = np.concatenate([ends for ends, _ in parts])
    listed = Parts(offsets([ends for ends, _ in parts]), chance, offsets(items), np.concatenate(items))
    return Flat(kind, tokens, listed, tree, tree_at, tables, tables_at, numbers.astype(np.float64), slot)


def _row_parts(rule: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The rules that one is made of, and their probabilities, summed up."""
    if isinstance(rule, PriorityMixture):
        return np.append(np.cumsum(rule.chance[:-1]), 1.0), rule.rules
    return np.ones(1), (rule,)


def _items(rule: Any) -> np.ndarray:
    """Item or interval of each token that the rule lists."""
    if isinstance(rule, PriorityRule):
        item: np.ndarray = rule.item if len(rule.item) else np.arange(len(rule.token), dtype=np.int32)
        return item
    if isinstance(rule, ExchangeRule):
        return rule.interval[np.flatnonzero(rule.q.numpy() > 0)]
    return np.zeros(0, np.int32)


def _all_tokens(rows: tuple[Prepared, ...], kind: np.ndarray) -> Tokens:
    """What the rows know of their tokens."""
    parts = [_row_tokens(row, int(k)) for row, k in zip(rows, kind, strict=True)]
    token, p, r, q = ([part[i] for part in parts] for i in range(4))
    left_token, left = zip(*(leftovers(row) for row in rows), strict=True)
    size = [len(x) for x in p]
    listed = np.array([len(x) == n for x, n in zip(token, size, strict=True)])
    # Rows that list no tokens hold room for them, so that one set of offsets serves all.
    token = [x if full else np.zeros(n, np.int32) for x, full, n in zip(token, listed, size, strict=True)]
    given, target = np.concatenate(q), np.concatenate(p)
    ratio = np.divide(target, given, out=np.zeros(len(given)), where=given > 0)
    found = np.concatenate(token), target, np.concatenate(r), ratio, given
    return Tokens(offsets(p), listed, *found, offsets(list(left)), np.concatenate(left_token), np.concatenate(left))


def _row_tokens(row: Prepared, kind: int) -> tuple[np.ndarray, ...]:
    """Tokens (none where all are listed), p, r and q of one row."""
    rule: Any = row.rule
    p, r = row.p.numpy(), row.r.numpy()
    if kind == _TREE:
        token = rule.rules[0].token if isinstance(rule, PriorityMixture) else rule.token
        some = token if len(token) else slice(None)
        return token, p[some], r[some], np.zeros(len(p[some]))
    q = rule.q.numpy() if kind != _FIRST else r
    token = np.flatnonzero(q > 0).astype(np.int32)
    return token, p[token], r[token], q[token]


def leftovers(row: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with ``p > r``, and the cumulative sum of ``p - r`` over them."""
    excess = (row.p - row.r).clamp(min=0.0)
    if not bool((excess > 0).any()):
        # A rejection is then an event of rounding alone.
        excess = row.p
    some = excess.nonzero()[:, 0]
    return some.numpy(), excess[some].cumsum(0).numpy()


def offsets(parts: list[np.ndarray]) -> np.ndarray:
    """Where each array begins, and the end of the last: ``[B + 1]``."""
    return np.cumsum([0, *(len(part) for part in parts)])


@njit(cache=True, nogil=True)
def step_rows(drafts, uniform, flat):  # type: ignore[no-untyped-def]
    """Output tokens ``[B]``: pick, then accept or draw from what is left of p; ``uniform`` is ``[B, 2 + 2 n]``."""
    n, known = drafts.shape[1], flat.tokens
    out, at, room = np.empty(len(drafts), np.int64), np.empty(n, np.int64), np.empty((2, n))
    found = np.empty(n, np.int64)
    for b in range(len(drafts)):
        places(drafts[b], b, known, at)
        if flat.kind[b] == _TREE:
            slot = _pick_in_tree(b, at, uniform[b, 2], flat, found)
        elif flat.kind[b] == _EXCHANGES:
            slot = _pick_in_intervals(b, at, uniform[b, 2:], flat, found, room[0])
        elif flat.kind[b] == _FIXED:
            slot = _pick_fixed(at, uniform[b, 2], flat.numbers[b], known, room)
        else:
            slot = flat.slot[b]
        picked, place = drafts[b, slot], at[slot]
        if not (place >= 0 and uniform[b, 0] * known.r[place] < known.p[place]):
            first, last = known.left_at[b], known.left_at[b + 1] - 1
            # 1 - U lies in (0, 1], so that a token of probability zero is never hit.
            goal = known.left[last] * (1.0 - uniform[b, 1])
            picked = known.left_token[min(first + np.searchsorted(known.left[first : last + 1], goal), last)]
        out[b] = picked
    return out


@njit(**STEP)
def places(drafts, b, known, at):  # type: ignore[no-untyped-def]
    """Where the drafts of row b are among its tokens; -1 for empty slots and tokens that cannot be drafted."""
    begin, end = known.at[b], known.at[b + 1]
    for k in range(len(drafts)):
        at[k] = -1
        if drafts[k] >= 0 and known.listed[b]:
            i = begin + np.searchsorted(known.token[begin:end], drafts[k])
            at[k] = i if i < end and known.token[i] == drafts[k] else -1
        elif drafts[k] >= 0:
            at[k] = begin + drafts[k]


@njit(**STEP)
def _pick_in_tree(b, at, u, flat, found):  # type: ignore[no-untyped-def]
    """Slot of the pick of a tree of priority orders, one of those of the row."""
    parts, whole, part, before = flat.parts, flat.tree, flat.parts.at[b], 0.0
    if parts.at[b + 1] - part > 1:
        while u >= parts.chance[part]:
            before = parts.chance[part]
            part += 1
        u = (u - before) / (parts.chance[part] - before)
    x, items = flat.tree_at[:, part : part + 2], parts.item_at[part] - flat.tokens.at[b]
    nodes = slice(x[1, 0], x[1, 1])
    tree = Tree(whole.place[x[0, 0] : x[0, 1]], whole.start[nodes], whole.cut[nodes], whole.lower[nodes],
                whole.offset[nodes], whole.coin[nodes], whole.rank[x[2, 0] : x[2, 1]])  # fmt: skip
    top = -1
    for k in range(len(at)):
        item = parts.item[items + at[k]] if at[k] >= 0 else -1
        found[k] = tree.place[item] if item >= 0 else -1
        top = max(top, found[k])
    return pick_one(found, top, u, tree) if top >= 0 else 0


@njit(**STEP)
def _pick_in_intervals(b, at, uniform, flat, found, ratio):  # type: ignore[no-untyped-def]
    """Slot of the pick of exchanged intervals."""
    x, t, items = flat.tables_at, flat.tables, flat.parts.item_at[flat.parts.at[b]] - flat.tokens.at[b]
    own, pairs = slice(x[0, b], x[0, b + 1]), slice(x[1, b], x[1, b + 1])
    tables = Tables(t.draft[own], t.worth[own], t.rate[own], t.first[own], t.end[own],
                    t.low[pairs], t.high[pairs], t.low_sum[pairs], t.high_sum[pairs])  # fmt: skip
    for k in range(len(at)):
        found[k] = flat.parts.item[items + at[k]] if at[k] >= 0 else -1
        ratio[k] = flat.tokens.ratio[at[k]] if at[k] >= 0 else 0.0
    return pick_interval(found, ratio, uniform, tables)


@njit(**STEP)
def _pick_fixed(at, u, numbers, known, room):  # type: ignore[no-untyped-def]
    """Slot of the pick of fixed tokens and at most one random draft, which is the last one."""
    random, mass, rest = numbers
    n, share, total = len(at), room[0], 0.0
    last = n - 1 if random > 0.0 else n
    for k in range(last):
        share[k] = 0.0 if at[k] < 0 else known.p[at[k]] if mass > 0.0 else 1.0
        total += share[k]
    if random > 0.0 and at[n - 1] >= 0:
        # Without fixed tokens, or where nothing speaks for them, the random draft is all there is.
        keep = known.ratio[at[n - 1]] * rest if mass > 0.0 and total > 0.0 else 1.0
        if u < keep:
            return n - 1
        u = (u - keep) / (1.0 - keep)
    goal, chosen = total * u, 0
    for k in range(last):
        if share[k] > 0.0:
            chosen = k
            if goal < share[k]:
                break
            goal -= share[k]
    return chosen
