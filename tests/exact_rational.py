"""Alpha* in exact rational arithmetic for small vocabularies, and rows whose small entries decide the answer.

Every float64 is a fraction.  Nothing here rounds: the distribution of the drafted set, the sum over its subsets and the
minimum over all subsets H are fractions, whatever the range of the entries.
"""

from __future__ import annotations

import functools
import random
from fractions import Fraction

#: Smallest positive float64, and the smallest normal one.
LEAST, NORMAL = 5e-324, 2.2250738585072014e-308


def split_of(sampler: str, n: int, m: int = 1) -> tuple[int, int, bool]:
    """Fixed drafts, random drafts, and whether these are drawn with replacement."""
    fixed = {"greedy": n - 1, "top_k": n, "top_m_plus": min(m, n)}.get(sampler, 0)
    return fixed, n - fixed, sampler == "with_replacement"


def set_masses(q: list[float], sampler: str, n: int, m: int = 1) -> dict[frozenset[int], Fraction]:
    """Probability of every drafted set that can occur."""
    fixed, draws, replacement = split_of(sampler, n, m)
    order = sorted((i for i in range(len(q)) if q[i] > 0), key=lambda i: (-q[i], i))
    head = frozenset(order[:fixed])
    rates = {i: Fraction(q[i]) for i in order[fixed:]}
    reached = {frozenset[int](): Fraction(1)}
    for _ in range(draws):
        following: dict[frozenset[int], Fraction] = {}
        for held, chance in reached.items():
            left = {i: rate for i, rate in rates.items() if replacement or i not in held}
            total = sum(left.values())
            if not left:
                following[held] = following.get(held, Fraction(0)) + chance
            for i, rate in left.items():
                key = held | {i}
                following[key] = following.get(key, Fraction(0)) + chance * rate / total
        reached = following
    return {head | held: chance for held, chance in reached.items()}


def exact_alpha(p: list[float], q: list[float], sampler: str, n: int, m: int = 1) -> float:
    """``1 + min over H (P(H) - Q(H))`` of the rows as they stand, rounded once at the end."""
    size = len(p)
    inside = [Fraction(0)] * (1 << size)
    for held, chance in set_masses(q, sampler, n, m).items():
        inside[sum(1 << i for i in held)] += chance
    target = [Fraction(0)] * (1 << size)
    for i in range(size):
        for subset in range(1 << size):
            if subset >> i & 1:
                inside[subset] += inside[subset ^ (1 << i)]
                target[subset] = target[subset ^ (1 << i)] + Fraction(p[i])
    return float(1 + min(a - b for a, b in zip(target, inside, strict=True)))


def rejection_rate(p: list[float], q: list[float], n: int) -> float:
    """Acceptance of recursive rejection without replacement: every path of rejected tokens, in fractions."""

    def accepted(target: dict[int, Fraction], left: frozenset[int], drafts: int) -> Fraction:
        if drafts == 0 or not left:
            return Fraction(0)
        mass = sum(Fraction(q[i]) for i in left)
        draft = {i: Fraction(q[i]) / mass for i in left}
        kept = sum(min(target.get(i, Fraction(0)), rate) for i, rate in draft.items())
        rest = {i: x - draft.get(i, Fraction(0)) for i, x in target.items() if x > draft.get(i, Fraction(0))}
        missed = sum(rest.values())
        if missed == 0:
            return Fraction(1)
        rest = {i: x / missed for i, x in rest.items()}
        total = Fraction(kept)
        for i, rate in draft.items():
            lost = rate - target.get(i, Fraction(0))
            if lost > 0:
                total += lost * accepted(rest, left - {i}, drafts - 1)
        return total

    everything = sum(Fraction(x) for x in p)
    target = {i: Fraction(x) / everything for i, x in enumerate(p) if x > 0}
    return float(accepted(target, frozenset(i for i in range(len(q)) if q[i] > 0), n))


def _row(rng: random.Random, size: int) -> list[float]:
    """One distribution: subnormals, hundreds of decades, ties, zeros, or nothing unusual."""
    kind = rng.choice(["subnormal", "subnormal", "decades", "edge", "steps", "usual"])
    weights = []
    for _ in range(size):
        if kind == "subnormal":
            x = rng.choice([1.0, rng.randint(1, 9) * LEAST, rng.randint(1, 400) * LEAST, 0.0])
        elif kind == "decades":
            x = 10.0 ** -rng.uniform(0, 323)
        elif kind == "edge":
            x = rng.choice([1.0, NORMAL, NORMAL / 2, NORMAL / 3, 3 * NORMAL, LEAST, 1e-290])
        elif kind == "steps":
            x = 10.0 ** (-rng.choice([0, 60, 160, 250, 308, 320])) * rng.uniform(0.5, 1.0)
        else:
            x = rng.random()
        weights.append(x)
    total = sum(weights)
    if not total > 1e-3:
        weights[rng.randrange(size)] = 1.0
        total = sum(weights)
    # The division rounds subnormals; the rows as they stand are the problem.
    row = [x / total for x in weights]
    row[row.index(max(row))] += 1.0 - sum(row)
    return row


@functools.cache
def floor_rows(count: int, seed: int = 0, largest: int = 6) -> tuple[tuple[list[float], list[float]], ...]:
    """Pairs (p, q) of which most have a draft that float64 can hardly hold."""
    rng = random.Random(seed)
    rows = []
    while len(rows) < count:
        size = rng.randint(2, largest)
        p = _row(rng, size) if rng.random() < 0.3 else [rng.random() for _ in range(size)]
        total = sum(p)
        p = [x / total for x in p]
        rows.append((p, _row(rng, size)))
    return tuple(rows)
