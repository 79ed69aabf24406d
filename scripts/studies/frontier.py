"""Acceptance against total variation of every per-position lossy rule on a real pair: docs/lossy_frontier.md.

    python scripts/studies/frontier.py [DUMP] [--out docs]

Drafts are drawn with replacement, where every number is a closed form.  Each rule is swept over its own parameter; at
every position its acceptance is held against ``min(1, alpha*_n + TV)``, and the script stops if one lies above.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds import acceptance_rate, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.cli.options import progress_bar
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.plots import lossy_frontier, save_figure
from mdsd_bounds.verifiers import output_distance
from mdsd_bounds.verifiers.schemes.mentored_decoding import mentored_target
from mdsd_bounds.verifiers.schemes.tv_budget import moved_target
from mdsd_bounds.verifiers.speculative_sampling import residual
from mdsd_bounds.verifiers.total_variation import total_variation

matplotlib.use("Agg")

ROOT = Path(__file__).parents[2]
DUMP = ROOT / "data" / "qwen2.5-coder-humaneval"
SAMPLER, COUNTS = "with_replacement", (1, 2, 4)
#: How far above the line rounding may put a position: alpha* is certified to 1e-8.
ROUNDING = 2e-8

#: Acceptance and total variation ``[B]`` of a rule at one parameter.
Point = tuple[Tensor, Tensor]
Rule = Callable[[Tensor, Tensor, int, float], Point]


def registered(name: str, option: Callable[[float], dict[str, Any]]) -> Rule:
    """A verifier of the registry."""

    def point(p: Tensor, q: Tensor, n: int, parameter: float) -> Point:
        own = option(parameter)
        rate = acceptance_rate(p, q, n, SAMPLER, name, **own)
        assert rate.exact
        return rate.value, output_distance(p, q, n, SAMPLER, name, **own)

    return point


def verified(target: Callable[[Tensor, Tensor, float], Tensor], verifier: str = "optimal") -> Rule:
    """Another target, verified losslessly: the output distribution is that target."""

    def point(p: Tensor, q: Tensor, n: int, parameter: float) -> Point:
        moved = target(p, q, parameter)
        if verifier == "optimal":
            rate = optimal_acceptance(moved, q, n, SAMPLER).value
        else:
            rate = acceptance_rate(moved, q, n, SAMPLER, verifier).value
        return rate, total_variation(moved, p)

    return point


def colder(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    """The target at a lower temperature."""
    return torch.softmax(p.log() / temperature, -1)


def judge(p: Tensor, q: Tensor, n: int, threshold: float) -> Point:
    """Recursive rejection that also accepts every draft with ``p_x >= threshold max p``; the residual stays as it is.

    In round k a draft is accepted with 1 where the judge says so, else ``min(1, p_k / q)``; the next target is
    ``norm((p_k - q)_+)``.  A rejected token has ``p_k < q``, so no later target holds it: the last token is no draft.
    """
    approved = (p >= threshold * p.amax(-1, keepdim=True)) & (p > 0)
    output, reach, target = torch.zeros_like(p), torch.ones_like(p[:, :1]), p
    for _ in range(n):
        taken = torch.where(approved, q, torch.minimum(target, q))
        output = output + reach * taken
        reach = reach * (1.0 - taken.sum(-1, keepdim=True)).clamp(min=0.0)
        target = residual(target, q)
    return output.sum(-1), total_variation(output + reach * target, p)


def entropy_gate(p: Tensor, q: Tensor, n: int, threshold: float) -> Point:
    """FLy (arXiv 2511.22972) without its window: a draft passes where the top three tokens of p have this much entropy.

    Elsewhere it must equal a token drawn from p, which is then the output.
    """
    open_gate = torch.special.entr(p.topk(3, -1).values).sum(-1) >= threshold
    rate = torch.where(open_gate, torch.ones_like(p[:, 0]), (p * q).sum(-1))
    return rate, torch.where(open_gate, total_variation(q, p), torch.zeros_like(rate))


#: Name -> (rule, parameters from mild to strong, numbers of drafts, what the parameter is).
RULES: dict[str, tuple[Rule, tuple[float, ...], tuple[int, ...], str]] = {
    "optimal within a budget (tv_budget)": (
        registered("tv_budget", lambda x: {"budget": x}), (0.005, 0.02, 0.05, 0.1, 0.2, 0.4), COUNTS, "budget",
    ),
    "typical acceptance": (
        registered("typical_acceptance", lambda x: {"epsilon": x, "delta": x**0.5}),
        (0.9, 0.6, 0.3, 0.09, 0.01, 0.001), COUNTS, "epsilon, delta = sqrt(epsilon)",
    ),
    "top-K membership": (registered("top_k_membership", lambda x: {"k": int(x)}), (1, 2, 3, 5, 10, 50), COUNTS, "K"),
    "lower temperature, optimal verification": (verified(colder), (0.95, 0.9, 0.8, 0.7, 0.5, 0.3), COUNTS, "T"),
    "judge of one score, recursive rejection": (judge, (0.9, 0.5, 0.2, 0.05, 0.01, 0.001), COUNTS, "p_x / max p"),
    "budget towards the draft, recursive rejection": (
        verified(moved_target, "rrs"), (0.005, 0.02, 0.05, 0.1, 0.2, 0.4), COUNTS, "budget",
    ),
    "mentored decoding": (
        registered("mentored_decoding", lambda x: {"kl": x}), (0.001, 0.01, 0.03, 0.1, 0.3, 1.0), (1,), "KL, nats",
    ),
    "target of mentored decoding, optimal verification": (
        verified(mentored_target), (0.001, 0.01, 0.03, 0.1, 0.3, 1.0), (2, 4), "KL, nats",
    ),
    "Cactus": (registered("cactus", lambda x: {"delta": x}), (0.001, 0.01, 0.03, 0.1, 0.25, 1.0), (1,), "delta"),
    "FLy's entropy gate, no window": (entropy_gate, (1.0, 0.8, 0.6, 0.4, 0.3, 0.1), (1,), "entropy, nats"),
}  # fmt: skip

#: Rules that the registry holds: their colours are those of every other figure.
REGISTERED = {
    "optimal within a budget (tv_budget)": "tv_budget",
    "typical acceptance": "typical_acceptance",
    "top-K membership": "top_k_membership",
    "mentored decoding": "mentored_decoding",
    "Cactus": "cactus",
}

#: What each rule of the page is, and where the definition comes from.
DEFINITIONS = (
    ("optimal within a budget", "the optimal selection rule with a moved target", "[lossy.md](lossy.md), section 2"),
    (
        "typical acceptance",
        "first draft with `p_x > min(epsilon, delta exp(-H(p)))`, else a token from p",
        "Medusa, arXiv 2401.10774",
    ),
    (
        "top-K membership",
        "first draft among the K most probable of p, else a token from p",
        "baseline in Cactus, arXiv 2604.04987, whose code draws the token after a rejection from the K tokens alone",
    ),
    ("lower temperature", "p at a lower temperature, verified by a lossless rule of acceptance alpha\\*", "-"),
    (
        "judge of one score",
        "recursive rejection that also accepts where `p_x >= threshold max p`",
        "an illustration: Judge Decoding (arXiv 2501.19309) has a trained score, which this dump does not hold",
    ),
    (
        "budget towards the draft",
        "p moved towards q, then recursive rejection",
        "optimal for one draft; `tv_budget` before its target moved towards r",
    ),
    (
        "mentored decoding",
        "most acceptance of one draft with `KL(p, output) <= D`",
        "Tran-Thien 2023, huggingface.co/blog/vivien/optimal-lossy-variant-of-speculative-decoding",
    ),
    (
        "Cactus",
        "one draft; `h_x = p_x + sqrt(2 delta p_x (1 - p_x))` in the place of p_x",
        "arXiv 2604.04987 and the authors' code, github.com/MANGA-UOFA/Cactus",
    ),
    (
        "FLy's entropy gate",
        "one draft; it passes where the entropy of the three most probable tokens is high, else it must equal a token "
        "drawn from p",
        "arXiv 2511.22972 and the authors' code, github.com/AMD-AGI/FLy",
    ),
)

INTRODUCTION = """# The frontier of lossy verification

Written by `python scripts/studies/frontier.py` from what it measured: {rows} positions of {name}, V = {width:,},
temperature 1, drafts drawn with replacement. Every acceptance and every total variation (TV) is exact. The theory is
in [lossy.md](lossy.md).

**No rule can lie above the line `alpha*_n + TV`**, and none does: over all rules, parameters, numbers of drafts and
positions the largest `acceptance - min(1, alpha*_n + TV)` is {worst:.1e} ({checked:,} cases, alpha* certified to
1e-8).

![Acceptance against total variation](figures/lossy_frontier.png)

## What is left unused

Percentage points of acceptance below the line, from the best to the worst parameter of the table below:

{findings}

1. **With one draft, many rules lie on the line**: a judge whatever its threshold, Cactus, mentored decoding, a budget
   spent towards the draft ([lossy.md](lossy.md), section 1, says why). In this plane they are one rule; they differ in
   the text alone.
2. **With several drafts nearly all of them fall below it**, because they verify by recursive rejection or move
   towards the draft q instead of the distribution r of the optimal pick. A budget of 0.05 towards the draft with
   recursive rejection accepts {old:.4f} at n = 4, less than the *lossless* optimum, {alpha:.4f}; towards r,
   {new:.4f}.
3. **Rules that ignore q pay most**: typical acceptance, top-K membership and the entropy gate output the draft or a
   token of p. At its defaults and n = 4 typical acceptance accepts {typical:.4f} at a TV of {paid:.4f}; the optimal
   rule accepts as much at {needed:.4f} (`TV needed`).
4. **A lower temperature of the target alone buys nothing here**: its TV moves the output away from the draft, whose
   temperature stays at 1, and acceptance hardly changes or falls.

TV is per position, given the text so far. It is not the quality of the text: two rules at the same point of this
plane can write different texts, and a rule far below the line may still be the one whose errors do no harm. What the
distance to the line says is how much acceptance a rule leaves unused at the distance that it has already paid for.

## Every rule and parameter

`line` is the mean of `min(1, alpha* + TV)` at the rule's own TV of every position: what the optimal rule accepts that
spends the same TV at each of them. `below` is line minus acceptance in percentage points, with 95% intervals over
documents. `TV needed` is the least mean TV at which any rule can accept as much, `acceptance - alpha*`.

{table}

## What the rules are

{definitions}

Cactus, mentored decoding and the gate are defined for one draft, and stand at n = 1 only; the *target* of mentored
decoding is a distribution like any other and is verified with 2 and 4 drafts as well. FLy itself is not here: after
the gate it looks at the next tokens before it keeps a mismatch, so its output at a position depends on later
positions and it is no per-position rule; its acceptance is at most that of the gate alone.
"""


def measure(
    p: Tensor, q: Tensor, documents: np.ndarray, progress: Callable[[int, int], None] | None = None
) -> Iterator[dict[str, Any]]:
    """One line for each rule, parameter and number of drafts."""
    done, total = 0, sum(len(parameters) * len(counts) for _, parameters, counts, _ in RULES.values())
    for n in COUNTS:
        alpha = optimal_acceptance(p, q, n, SAMPLER)
        for name, (rule, parameters, counts, _) in RULES.items():
            for parameter in parameters if n in counts else ():
                rate, tv = rule(p, q, n, parameter)
                line = (alpha.high + tv).clamp(max=1.0)
                worst = float((rate - line).max())
                if worst > ROUNDING:
                    raise AssertionError(f"{name} at {parameter}, n={n}, lies {worst:.3g} above the line")
                below = (line - rate).numpy()
                low, high = bootstrap_interval(below[:, None], documents)
                yield {
                    "drafts": n,
                    "rule": name,
                    "parameter": parameter,
                    "acceptance": float(rate.mean()),
                    "tv": float(tv.mean()),
                    "alpha": float(alpha.value.mean()),
                    "line": float(line.mean()),
                    # Any loss up to 1 - alpha* at each position buys as much acceptance, so this much is enough.
                    "tv_needed": max(0.0, float((rate - alpha.value).mean())),
                    "below": float(below.mean()),
                    "below_low": float(low[0]),
                    "below_high": float(high[0]),
                    "worst": worst,
                }
                done += 1
                if progress is not None:
                    progress(done, total)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Acceptance against TV, a panel for each number of drafts."""
    save_figure(lossy_frontier(table, registered=REGISTERED).figure, path, tight=False)


def findings(table: pd.DataFrame) -> str:
    """A line for each rule: what it leaves unused, by number of drafts."""
    head = ["rule", *(f"n = {n}" for n in COUNTS)]
    lines = [head, ["---"] * len(head)]
    for name in RULES:
        cells = []
        for n in COUNTS:
            below = 100 * table[(table["rule"] == name) & (table["drafts"] == n)]["below"]
            if len(below) == 0:
                cells.append("not defined" if n > 1 else "see mentored decoding")
            else:
                cells.append("on the line" if below.max() < 5e-4 else f"{below.min() + 0.0:.2f} to {below.max():.2f}")
        lines.append([name, *cells])
    return grid(lines)


def grid(lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pick(table: pd.DataFrame, name: str, parameter: float) -> pd.Series:
    """A rule at one parameter and the largest number of drafts."""
    found = table[(table["rule"] == name) & (table["parameter"] == parameter) & (table["drafts"] == COUNTS[-1])]
    return found.iloc[0]


def markdown(table: pd.DataFrame) -> str:
    """The whole table."""
    head = ["n", "rule", "parameter", "TV", "TV needed", "acceptance", "alpha*", "line", "below, percentage points"]
    lines = [head, ["---"] * len(head)]
    for row in table.to_dict("records"):
        what = RULES[row["rule"]][3]
        numbers = [f"{row[key]:.4f}" for key in ("tv", "tv_needed", "acceptance", "alpha", "line")]
        ends = [100 * max(row[key], 0.0) for key in ("below", "below_low", "below_high")]
        gap = f"{ends[0]:.2f} [{ends[1]:.2f}, {ends[2]:.2f}]"
        lines.append([str(row["drafts"]), row["rule"], f"{row['parameter']:g} ({what})", *numbers, gap])
    return grid(lines)


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", nargs="?", default=str(DUMP))
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    asked = parser.parse_args()
    dump = open_dump(asked.dump)
    (batch,) = dump.batches(len(dump))
    p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    documents = np.arange(len(p)) if batch.doc is None else np.asarray(batch.doc)
    with progress_bar("frontier", False) as progress:
        table = pd.DataFrame(measure(p, q, documents, progress))
    for folder in ("figures", "results/lossy"):
        (asked.out / folder).mkdir(parents=True, exist_ok=True)
    table.to_csv(asked.out / "results" / "lossy" / "frontier.csv", index=False, float_format="%.6f")
    draw(table, asked.out / "figures" / "lossy_frontier.png")
    typical, old = (
        pick(table, "typical acceptance", 0.09),
        pick(table, "budget towards the draft, recursive rejection", 0.05),
    )
    page = INTRODUCTION.format(
        old=old["acceptance"],
        alpha=old["alpha"],
        new=pick(table, "optimal within a budget (tv_budget)", 0.05)["acceptance"],
        typical=typical["acceptance"],
        paid=typical["tv"],
        needed=typical["tv_needed"],
        rows=len(p),
        name=f"`{Path(asked.dump).name}`",
        width=p.shape[1],
        worst=table["worst"].max(),
        checked=len(table) * len(p),
        findings=findings(table),
        table=markdown(table),
        definitions=grid([["rule", "definition used", "source"], ["---"] * 3, *map(list, DEFINITIONS)]),
    )
    (asked.out / "lossy_frontier.md").write_text(page)


if __name__ == "__main__":
    main()
