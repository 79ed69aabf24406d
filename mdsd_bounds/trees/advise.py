"""Which draft sampler, verifier and tree give the most tokens per second, from a dump and the costs of the two models.

From the dump comes, for each sampler and verifier, the acceptance ``a(n)`` of a node with n drafts, averaged over
positions.  **Positions are treated as exchangeable**: every node of a tree gets the same a(n), whatever was drafted
above it.  Texts have easy and hard stretches: where acceptances go together, deep trees do better than this says.

    RSD-C, branching b:     tokens = 1 + sum over levels l of a(b_1) ... a(b_l)
    any shape, by rank:     tokens = 1 + sum over nodes of the product of the rank acceptances a(k) - a(k-1) on its path

The second is for recursive rejection where the first drafts do not depend on how many follow (without_replacement,
top_k): the rank acceptances are exact and Sequoia's dynamic programme finds the best shape.  With alpha* in place of a
it bounds every rule that decides node by node: accepting one of the first j drafts is a rule for j drafts, and happens
with probability alpha*(j) at most, and where later children are worth no more than earlier ones the increments of
alpha* are the best that these limits allow.  Rules that look across levels (block, traversal, sweep) are not bound by
it, and have no such formula: :mod:`mdsd_bounds.trees.across` simulates them in the same model.

With a total variation allowed at every position the same holds with ``min(1, alpha* + tv)`` in place of alpha*, which
the verifier ``tv_budget`` reaches at the nodes of any branching vector (docs/lossy.md).

Speed is tokens divided by the cost of one step: draft forward passes, one a level, one target forward pass over all
nodes and the root, and verification as it was measured (:mod:`mdsd_bounds.trees.costs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import SAMPLERS
from mdsd_bounds.trees.builders import branchings
from mdsd_bounds.trees.costs import Costs as Costs
from mdsd_bounds.trees.costs import costs_from as costs_from
from mdsd_bounds.trees.resampling import document_weights, mc_stderr_of, weighted_means, with_sampling_error
from mdsd_bounds.trees.sequoia import Shape, depth_of, planner, size_of

#: The name under which the best possible rule at a node stands.
BEST = "any (alpha*)"
#: What begins the name of the best possible rule whose output may be so far from the target.
WITHIN = "any within TV "
#: Relative differences of a step's cost that two measured times are not told apart by.
_TIMING_NOISE = 0.02
#: Verifiers whose acceptance splits by rank, for samplers whose first drafts do not depend on how many follow.
_BY_RANK = ("rrs_without_replacement", BEST)


@dataclass(frozen=True)
class Profile:
    """Acceptance by number of drafts for one sampler and verifier: ``rates`` ``[positions, K]``, n = 1 .. K.

    ``mc_stderr`` ``[K]``: Monte Carlo standard errors of the means; None where the rates are exact.
    """

    sampler: str
    verifier: str
    rates: np.ndarray
    mc_stderr: np.ndarray | None = None


@dataclass(frozen=True)
class Choice:
    """A sampler, a verifier and a tree; ``shape`` by rank, or ``branching`` alike at all nodes of a level."""

    profile: Profile
    branching: tuple[int, ...] = ()
    shape: Shape = ()

    @property
    def widths(self) -> list[int]:
        """Nodes at levels 1, 2, ..."""
        if self.branching:
            return [int(n) for n in np.cumprod(self.branching)]
        widths, level = [], [self.shape]
        while level := [child for node in level for child in node]:
            widths.append(len(level))
        return widths

    @property
    def name(self) -> str:
        """The tree as people write it."""
        if not self.branching and not self.shape:
            return "none"
        if self.branching:
            return (
                "chain " + str(len(self.branching))
                if set(self.branching) == {1}
                else ",".join(map(str, self.branching))
            )
        return f"Sequoia {size_of(self.shape)} deep {depth_of(self.shape)}"

    def tokens(self, rates: np.ndarray) -> np.ndarray:
        """Tokens per target forward pass ``[...]`` from mean acceptances ``[..., K]``."""
        if self.branching:
            return np.asarray(1.0 + np.cumprod(rates[..., [n - 1 for n in self.branching]], -1).sum(-1))
        ranks = np.diff(rates, prepend=0.0, axis=-1)

        def worth(shape: Shape) -> np.ndarray:
            value: np.ndarray = np.zeros(rates.shape[:-1])
            for k, child in enumerate(shape):
                value = value + ranks[..., k] * (1.0 + worth(child))
            return value

        tokens: np.ndarray = 1.0 + worth(self.shape)
        return tokens

    def seconds(self, rates: np.ndarray, at_node: np.ndarray) -> float:
        """Expected seconds of a verification that goes down from the root and stops at the first rejection.

        Parameters
        ----------
        rates : ndarray
            ``[K]`` mean acceptances.
        at_node : ndarray
            ``[K]`` seconds at a node with 1 .. K drafts.
        """
        if self.branching:
            places = [n - 1 for n in self.branching]
            reached = np.cumprod([1.0, *rates[places[:-1]]])
            return float(reached @ at_node[places])
        ranks = [float(rank) for rank in np.diff(rates, prepend=0.0)]

        def below(shape: Shape) -> float:
            if not shape:
                return 0.0
            return float(at_node[len(shape) - 1]) + sum(ranks[k] * below(child) for k, child in enumerate(shape))

        return below(self.shape)


@dataclass(frozen=True)
class Scored:
    """A choice: its tokens per target forward pass ``[1 + resamples]``, a step's cost, seconds of verification."""

    choice: Choice
    tokens: np.ndarray
    cost: float
    seconds: float = float("nan")

    @property
    def speed(self) -> np.ndarray:
        """Tokens per unit of cost, ``[1 + resamples]``."""
        return self.tokens / self.cost


def profiles(
    table: pd.DataFrame,
) -> tuple[list[Profile], np.ndarray]:
    """Profiles of a per-position comparison (:func:`mdsd_bounds.pipeline.run.run` with verifiers), and its documents.

    Numbers of drafts must be 1 .. K.  The bound of each sampler stands among the verifiers as :data:`BEST`.

    Raises
    ------
    InputError
        If the numbers of drafts have gaps.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.trees import profiles
    >>> table = run(load_example(), Settings(("with_replacement",), (1, 2), verifiers=("rrs",)))
    >>> found, documents = profiles(table)
    >>> [profile.verifier for profile in found], len(documents)
    (['rrs', 'any (alpha*)'], 32)
    """
    counts = sorted(table["drafts"].unique())
    if counts != list(range(1, len(counts) + 1)):
        raise InputError(f"numbers of drafts {', '.join(map(str, counts))}: advice needs 1, 2, ... without gaps")
    rows = table[["row", "doc"]].drop_duplicates("row").sort_values("row")
    found = []
    for sampler, part in table.groupby("sampler", sort=False):
        bound = part.drop_duplicates(["row", "drafts"]).pivot_table(index="row", columns="drafts", values="value")
        for verifier, rates in part.groupby("verifier", sort=False):
            wide = rates.pivot_table(index="row", columns="drafts", values="acceptance").sort_index()
            if wide.shape == bound.shape and not wide.isna().to_numpy().any():
                found.append(Profile(str(sampler), str(verifier), wide.to_numpy(), mc_stderr_of(rates)))
        found.append(Profile(str(sampler), BEST, bound.sort_index().to_numpy()))
    return found, rows["doc"].to_numpy()


def lossy_profiles(found: Sequence[Profile], tvs: Sequence[float]) -> list[Profile]:
    """For the bound of each sampler and each total variation, ``min(1, alpha* + tv)`` at every position."""
    return [
        Profile(profile.sampler, f"{WITHIN}{tv:g}", np.minimum(profile.rates + tv, 1.0))
        for tv in tvs
        for profile in found
        if profile.verifier == BEST
    ]


def choices(profile: Profile, most_nodes: int, most_depth: int) -> list[Choice]:
    """Every non-increasing branching vector within the limits, and the best shapes by rank where the rule allows."""
    found, widest = [], profile.rates.shape[1]
    for nodes in range(1, most_nodes + 1):
        found += [Choice(profile, v) for v in branchings(nodes, most=widest) if len(v) <= most_depth]
    sampler = SAMPLERS.get(profile.sampler)
    ranked = profile.verifier in _BY_RANK or profile.verifier.startswith(WITHIN)
    if ranked and sampler is not None and sampler.nested and not sampler.replacement:
        plan = planner(np.clip(np.diff(profile.rates.mean(0), prepend=0.0), 0.0, 1.0).tolist())
        shapes = {plan(n, d, 0)[1] for n in range(2, most_nodes + 1) for d in range(1, most_depth + 1)}
        found += [Choice(profile, shape=shape) for shape in sorted(shapes, key=lambda s: (size_of(s), depth_of(s), s))]
    return found


def resampled(profile: Profile, documents: np.ndarray, seed: int = 0) -> np.ndarray:
    """Mean acceptances ``[1 + resamples, K]``: of all documents, then of documents drawn alike for every profile."""
    _, index = np.unique(documents, return_inverse=True)
    means = weighted_means(profile.rates, index, document_weights(int(index.max()) + 1, seed))
    if profile.mc_stderr is not None:
        # A seed of its own for each rule: two rules that are the same one must not differ for certain by their samples.
        own = crc32(f"{profile.sampler} {profile.verifier}".encode())
        means = with_sampling_error(means, profile.mc_stderr, (seed, own))
    return means


def scored(choice: Choice, rates: np.ndarray, costs: Costs) -> Scored:
    """A choice whose tokens have a formula in ``rates`` ``[1 + resamples, K]``."""
    at_node = costs.verification.get((choice.profile.sampler, choice.profile.verifier))
    seconds = float("nan") if at_node is None else choice.seconds(rates[0], at_node)
    return Scored(choice, choice.tokens(rates), costs.of(choice.widths, np.nan_to_num(seconds)), seconds)


def advise(
    found: Sequence[Profile],
    documents: np.ndarray,
    costs: Costs,
    most_nodes: int = 32,
    most_depth: int = 8,
    across: Sequence[Scored] = (),
) -> pd.DataFrame:
    """The best tree of every sampler and verifier, fastest first, and what stands above and below the winner.

    Parameters
    ----------
    found : sequence of Profile
        As :func:`profiles` gives them.
    documents : ndarray
        ``[positions]``.
    costs : Costs
        Of the models, and of verification where it was measured.
    most_nodes, most_depth : int
        Limits of the trees.
    across : sequence of Scored
        Trees verified by rules that look across nodes (:func:`mdsd_bounds.trees.across.simulated`); of each sampler
        and rule the fastest is kept.

    Returns
    -------
    DataFrame
        Columns: kind, sampler, verifier, tree, nodes, depth, tokens (a target forward pass), speed (tokens a unit of
        cost), ``behind``: by how many percent of the winner's speed it is slower, each with its interval, and
        ``verify_ms``, milliseconds of one verification (NaN where not measured).  Intervals are 95% over documents and
        hold the Monte Carlo error of sampled rates; that the trees were chosen on the same documents is not in them.

        Kinds: ``choice`` (rules that exist); ``better verifier``: the best any rule at single nodes could add, each
        sampler with its own best tree; ``lossy``: the best of any rule within the total variation that its name says,
        where ``found`` holds :func:`lossy_profiles`; ``better draft``: the winner's tree with every draft accepted,
        which only another draft could approach; ``no drafts``: one token for each target forward pass.
    """
    everything: list[Scored] = []
    for profile in found:
        rates = resampled(profile, documents)
        options = choices(profile, most_nodes, most_depth)
        best = max(options, key=lambda c, rates=rates: float(scored(c, rates[:1], costs).speed[0]))  # type: ignore[misc]
        everything.append(scored(best, rates, costs))
    everything.sort(key=_fastest_first)
    lossy = [s for s in everything if s.choice.profile.verifier.startswith(WITHIN)]
    real = [s for s in everything if not s.choice.profile.verifier.startswith((BEST, WITHIN))]
    if not real:
        raise InputError("no verifier fits the samplers; name one that does with --verifier")
    real = _joined(sorted([*real, *fastest(across)], key=_fastest_first))
    winner = real[0]
    rows = [
        _row(kind, s, winner.speed)
        for kind, listed in (
            ("choice", real),
            ("better verifier", [s for s in everything if s.choice.profile.verifier == BEST]),
            ("lossy", lossy),
        )
        for s in listed
    ]
    full = np.full(len(winner.tokens), 1.0 + len(winner.choice.widths))
    rows.append(_row("better draft", replace(winner, tokens=full), winner.speed))
    nothing = Choice(Profile("-", "-", np.empty((0, 1))))
    rows.append(_row("no drafts", Scored(nothing, np.ones(len(full)), costs.of([])), winner.speed))
    return pd.DataFrame(rows)


def fastest(across: Sequence[Scored]) -> list[Scored]:
    """Of each sampler and rule the tree with the most speed."""
    best: dict[tuple[str, str], Scored] = {}
    for one in across:
        key = one.choice.profile.sampler, one.choice.profile.verifier
        if key not in best or one.speed[0] > best[key].speed[0]:
            best[key] = one
    return list(best.values())


def _fastest_first(one: Scored) -> tuple[float, str, str]:
    """By speed; rules that do the same by name: the last digits of their sums are the machine's."""
    return -float(f"{one.speed[0]:.9g}"), one.choice.profile.sampler, one.choice.profile.verifier


def _joined(real: Sequence[Scored]) -> list[Scored]:
    """Verifiers that do the same on the same tree (all of them on a chain) as one line, unless their times differ."""
    kept: list[Scored] = []
    for one in real:
        twin = next((i for i, other in enumerate(kept) if _same(other, one)), None)
        if twin is None:
            kept.append(one)
            continue
        held = kept[twin].choice.profile
        names = {part: None for name in (held, one.choice.profile) for part in name.verifier.split(", ")}
        drawn = {part: None for name in (held, one.choice.profile) for part in name.sampler.split(", ")}
        profile = Profile(", ".join(drawn), ", ".join(names), held.rates)
        kept[twin] = replace(kept[twin], choice=replace(kept[twin].choice, profile=profile))
    return kept


def _same(one: Scored, other: Scored) -> bool:
    alike = one.choice.widths == other.choice.widths and np.allclose(one.tokens, other.tokens, 1e-9, 0, equal_nan=True)
    return bool(alike and abs(one.cost - other.cost) <= _TIMING_NOISE * one.cost)


def _row(kind: str, one: Scored, winner: np.ndarray) -> dict[str, Any]:
    def interval(values: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(values[1:], [0.025, 0.975])
        return float(low), float(high)

    choice, tokens, speed = one.choice, one.tokens, one.speed
    behind = 100.0 * (1.0 - speed / winner)
    (low, high), (slow, fast), (least, most) = interval(tokens), interval(speed), interval(behind)
    return {
        "kind": kind,
        "sampler": choice.profile.sampler,
        "verifier": choice.profile.verifier,
        "tree": choice.name,
        "nodes": int(sum(choice.widths)),
        "depth": len(choice.widths),
        "tokens": float(tokens[0]),
        "tokens_ci_low": low,
        "tokens_ci_high": high,
        "speed": float(speed[0]),
        "speed_ci_low": slow,
        "speed_ci_high": fast,
        "behind": float(behind[0]),
        "behind_ci_low": least,
        "behind_ci_high": most,
        "verify_ms": 1000.0 * one.seconds,
    }
