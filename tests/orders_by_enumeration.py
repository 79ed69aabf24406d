"""Oracles for the optimal rule without replacement that share nothing with it: drafted sets and all subsets, listed.

A set of tokens is a number with one bit per token; arrays ``[2^V, B]`` hold one number per set and instance.
"""

from __future__ import annotations

import itertools

import numpy as np

KINDS = (
    "even", "related", "peaked q", "peaked p", "equal", "ties", "uniform q", "zeros", "zipf", "disjoint",
    "sixty decades", "nearly one token", "faint", "subnormal", "nearly equal",
)  # fmt: skip


def instance(kind: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random p and q ``[size]`` of one kind; q has at least one positive entry."""
    p, q = rng.dirichlet(np.ones(size), 2)
    if kind == "related":
        p = q * np.exp(0.5 * rng.standard_normal(size))
    elif kind == "peaked q":
        q = rng.dirichlet(np.full(size, 0.1)) + 1e-9 * q
    elif kind == "peaked p":
        p = rng.dirichlet(np.full(size, 0.1))
    elif kind == "equal":
        p = q.copy()
    elif kind == "nearly equal":
        p = q * (1.0 + 1e-9 * rng.standard_normal(size))
    elif kind == "ties":
        p, q = rng.integers(1, 4, (2, size)).astype(float)
    elif kind == "uniform q":
        q = np.ones(size)
    elif kind == "zeros":
        p, q = p * (rng.random(size) < 0.6), q * (rng.random(size) < 0.7)
    elif kind == "zipf":
        q, p = 1.0 / np.arange(1, size + 1) ** 2, 1.0 / rng.permutation(np.arange(1, size + 1)) ** 2
    elif kind == "disjoint":
        split = rng.random(size) < 0.5
        p, q = p * split + 1e-12 * q, q * ~split + 1e-12 * p
    elif kind == "sixty decades":
        q = 10.0 ** -rng.uniform(0, 60, size)
    elif kind == "nearly one token":
        q *= 10.0 ** -rng.uniform(3, 17)
        q[rng.integers(size)] += 1.0
    elif kind == "faint":
        q = 10.0 ** -rng.uniform(0, 300, size)
    elif kind == "subnormal":
        q = rng.integers(1, 40, size) * 5e-324
        q[rng.integers(size)] = 1.0
    p, q = (x + (x.sum() == 0) for x in (p, q))
    return p / p.sum(), q / q.sum()


def set_sums(x: np.ndarray) -> np.ndarray:
    """Sums ``[2^V, B]`` of ``x`` ``[V, B]`` over all sets."""
    sums = np.zeros((1 << len(x), x.shape[1]))
    for i, row in enumerate(x):
        sums[1 << i : 2 << i] = sums[: 1 << i] + row
    return sums


def drafted(q: np.ndarray, n: int, fixed: int = 0) -> np.ndarray:
    """Probability ``[2^V, B]`` of each drafted set: n sequential draws from q ``[V, B]`` off the set ``fixed``.

    A draw takes token i with probability ``q_i`` over the sum of what is left, which is summed and never subtracted.
    """
    size = len(q)
    random = [i for i in range(size) if not fixed >> i & 1]
    left = set_sums(q)[::-1].copy()
    reached = np.zeros_like(left)
    done = np.zeros_like(left)
    reached[fixed] = 1.0
    for chosen in sorted(range(1 << size), key=lambda s: bin(s).count("1")):
        drawn = bin(chosen & ~fixed).count("1")
        if chosen & fixed != fixed:
            continue
        over = (left[chosen] == 0.0) | (drawn == n)
        done[chosen] = np.where(over, reached[chosen], 0.0)
        for i in random:
            if not chosen >> i & 1:
                share = np.divide(q[i], left[chosen], out=np.zeros_like(q[i]), where=~over)
                reached[chosen | 1 << i] += reached[chosen] * share
    return done


def drafted_by_orders(q: np.ndarray, n: int) -> dict[int, float]:
    """:func:`drafted` of one row over all orders of draws: a second way, for small rows."""
    found: dict[int, float] = {}
    for order in itertools.permutations(range(len(q)), n):
        chance, chosen = 1.0, 0
        for token in order:
            chance *= q[token] / sum(q[i] for i in range(len(q)) if not chosen >> i & 1)
            chosen |= 1 << token
        found[chosen] = found.get(chosen, 0.0) + chance
    return found


def best_acceptance(p: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """``1 + min over all subsets H of P(H) - Pr(drafts in H)`` ``[B]``."""
    inside = mass.copy()
    for i in range(len(p)):
        pairs = inside.reshape(-1, 2, 1 << i, inside.shape[1])
        pairs[:, 1] += pairs[:, 0]
    value: np.ndarray = 1.0 + (set_sums(p) - inside).min(0)
    return value


def as_drafts(mass: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The drafted sets of one instance as drafts ``[S, n]`` (-1 where a set is smaller), and their probabilities."""
    sets = np.flatnonzero(mass)
    drafts = np.full((len(sets), n), -1)
    for row, chosen in enumerate(sets):
        tokens = [i for i in range(int(chosen).bit_length()) if chosen >> i & 1]
        drafts[row, : len(tokens)] = tokens
    return drafts, mass[sets]
