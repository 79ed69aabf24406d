"""Acceptance within a time budget per token: every verifier that fits, on the same real rows, in one run.

    python scripts/optimal_table.py out/unseen --rows 100 [--samplers with_replacement,greedy] [--about TEXT]

Writes docs/optimal_comparison.json, docs/optimal_comparison.md and docs/figures/optimal_comparison.png from what it
measures: the budget tables on real rows, full and truncated, and the optimal verifier beside the plan of the linear
programme at small vocabularies.  Samplers that are not run keep what the JSON held before.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.timing import machine
from optimal_certificates import SETTINGS, chosen_rows
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS, acceptance_rate, open_dump, optimal_acceptance, to_probs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "optimal_comparison.json"
BUDGETS = (0.1, 1.0, 10.0)
#: Verifiers beside the optimal one; the first of each sampler is what a rule that is out of time falls back on.
RIVALS = {
    "with_replacement": ("rrs", "k_seq", "naive_tree", "nss", "importance_sampling"),
    "without_replacement": ("rrs_without_replacement", "nss"),
    "greedy": ("rrs_without_replacement", "greedy"),
}
SMALL = (8, 16, 32, 64, 128)
#: Settings whose tables show every verifier; the other settings are in the summary and in the JSON.
SHOWN = ("full, T 1", "top-k 50, T 1")

ABOUT = "Qwen2.5-Coder-1.5B drafted by its 0.5B sibling on HumanEval, from a dump made as `data/README.md` says"

INTRODUCTION = """# The optimal verifier beside the others

Written by `python scripts/optimal_table.py` from what it measured.

## Acceptance within a time budget per token

{about}.

Same rows for every verifier of a sampler, in one run. `ms` is the processor time of one thread for one
whole verification, from p, q and the drafts to the token, nothing prepared in advance (median over rows). Full rows
have V = {vocabulary:,}; truncated ones are given as a server's own truncation leaves them, as their support. Within a
budget a position counts with its rule's acceptance where the rule took no longer than the budget, else with that of
recursive rejection, and with no acceptance where that is too slow as well; `in time` is the share of positions in
budget. Acceptances are exact but for those with a `±` (Monte Carlo; one standard error of the mean over these rows,
from sampling alone).
"""

SUMMARY = """
![Acceptance within 1 ms and time of the optimal rule, four drafts without replacement](figures/optimal_comparison.png)

### Every setting: the optimal rule and the best other one

`best other` is the verifier with the highest acceptance among the others, however long it takes: times are those of
this package, and an engine with kernels of its own takes less for the simple rules.
"""

PUBLISHED = """
Published, on other models and another machine (Global Resolution, arXiv 2511.15898; drafts with replacement):
acceptance 85.65% within 10 ms and 90.04% within 100 ms per token; the solver succeeds on 15 to 38% of positions
at top-k of 100 or more; 23.92 ms at top-k 100, n = 2. Its acceptances belong to its own pairs and cannot be set
against those above; times and shares of positions solved can, roughly: the rule with replacement here works on
the whole vocabulary, never fails, and is lossless to rounding.
"""

SMALL_TEXT = """
## Beside the plan of the linear programme, small vocabularies

Random pairs of distributions near each other (q = softmax(1.5 g), p = softmax(log q + g'), g and g' normal), {pairs}
pairs a line, mean acceptances. `LP` is the optimum of the transport programme over drafted sets (HiGHS), whose plan is
itself a verifier; `difference` is the largest difference of the optimal rule's acceptance from it. Milliseconds a pair.
"""


def budget_lines(
    dump: Any, rows: list[int], samplers: list[str], counts: list[int], samples: int
) -> list[dict[str, Any]]:
    """One line per setting, sampler, number of drafts and verifier."""
    kept: dict[tuple[str, str, int, str], list[tuple[float, float, float]]] = {}
    bounds: dict[tuple[str, str, int], list[float]] = {}
    wanted, done, begun = set(rows), 0, time.monotonic()
    for batch in dump.batches(16):
        for i, row in enumerate(np.asarray(batch.row).tolist()):
            if row not in wanted:
                continue
            for setting, options in SETTINGS.items():
                p, q = (to_probs(x[i : i + 1], **options) for x in (batch.target_logits, batch.draft_logits))
                if not setting.startswith("full"):
                    some = ((p > 0) | (q > 0))[0]
                    p, q = p[:, some], q[:, some]
                for sampler in samplers:
                    best = optimal_acceptance(p, q, counts, sampler)
                    for k, n in enumerate(counts):
                        bounds.setdefault((setting, sampler, n), []).append(float(best.value[k, 0]))
                        for name in (*RIVALS[sampler], "optimal"):
                            found = one(p, q, n, sampler, name, samples, row)
                            kept.setdefault((setting, sampler, n, name), []).append(found)
            done += 1
            left = (time.monotonic() - begun) * (len(wanted) - done) / done
            print(f"{done} of {len(wanted)} rows, {left / 60:.1f} min left", file=sys.stderr)
    return [_line(key, np.array(found), kept, bounds) for key, found in kept.items()]


def _line(key: tuple[str, str, int, str], found: np.ndarray, kept: Any, bounds: Any) -> dict[str, Any]:
    """One verifier on the rows of one setting; ``found`` ``[R, 3]``: acceptance, its standard error, milliseconds."""
    setting, sampler, n, name = key
    value, error, spent = found.T
    safe = np.array(kept[setting, sampler, n, RIVALS[sampler][0]])
    line: dict[str, Any] = {
        "setting": setting,
        "sampler": sampler,
        "drafts": n,
        "verifier": name,
        "alpha*": float(np.mean(bounds[setting, sampler, n])),
        "unlimited": float(value.mean()),
        "error": float(np.sqrt((error**2).sum()) / len(error)),
    }
    for budget in BUDGETS:
        otherwise = np.where(safe[:, 2] <= budget, safe[:, 0], 0.0)
        line[f"within {budget:g} ms"] = float(np.where(spent <= budget, value, otherwise).mean())
        line[f"in time, {budget:g} ms"] = float((spent <= budget).mean())
    return line | {"ms": float(np.median(spent)), "longest ms": float(spent.max())}


def summary_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimal rule and the best other one, a line for each setting, sampler and number of drafts."""
    found = []
    for mine in lines:
        if mine["verifier"] != "optimal":
            continue
        same = [x for x in lines if all(x[k] == mine[k] for k in ("setting", "sampler", "drafts")) and x is not mine]
        other = max(same, key=lambda x: float(x["unlimited"]))
        facts = {name: mine[name] for name in ("setting", "sampler", "drafts", "alpha*", "unlimited")}
        within = {f"within {budget:g} ms": mine[f"within {budget:g} ms"] for budget in BUDGETS}
        rest = {"ms": mine["ms"], "longest ms": mine["longest ms"]}
        beside = {"best other": other["verifier"], "its acceptance": other["unlimited"], "its ms": other["ms"]}
        found.append(facts | within | rest | beside)
    return found


def one(p: Tensor, q: Tensor, n: int, sampler: str, name: str, samples: int, seed: int) -> tuple[float, float, float]:
    """Acceptance, its standard error, and milliseconds of one verification (the median of five)."""
    step, spent = VERIFIERS[name].fast_step, []
    assert step is not None
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        drafts = SAMPLERS[sampler].sample(q, n, generator)
        start = time.thread_time()
        step(p, q, drafts, generator, sampler=sampler)
        spent.append(1e3 * (time.thread_time() - start))
    rate = acceptance_rate(p, q, n, sampler, name, samples=samples, seed=seed)
    return float(rate.value[0]), float(rate.stderr[0]), float(np.median(spent))


def small_lines(pairs: int, samplers: list[str]) -> list[dict[str, Any]]:
    """The optimal rule and others beside the linear programme."""
    lines = []
    for sampler in samplers:
        if sampler == "greedy":
            continue
        for n, size in [*((2, size) for size in SMALL), (3, 8), (3, 16)]:
            print(f"LP {sampler} n={n} V={size}", file=sys.stderr)
            generator = torch.Generator().manual_seed(size)
            noise = torch.randn((2, pairs, size), generator=generator, dtype=torch.float64)
            q = torch.softmax(1.5 * noise[0], -1)
            p = torch.softmax(q.log() + noise[1], -1)
            timed, best = spent_on(lambda p=p, q=q, n=n, s=sampler: optimal_acceptance(p, q, n, s, method="lp").value)
            mine, rate = spent_on(lambda p=p, q=q, n=n, s=sampler: acceptance_rate(p, q, n, s, "optimal").value)
            line = {"sampler": sampler, "drafts": n, "V": size, "LP": float(best.mean()), "optimal": float(rate.mean())}
            line["difference"] = float((rate - best).abs().max())
            for name in ("rrs", "k_seq", "importance_sampling", "rrs_without_replacement"):
                if sampler in VERIFIERS[name].samplers:
                    line[name] = float(acceptance_rate(p, q, n, sampler, name, samples=2000).value.mean())
            lines.append(line | {"LP ms": timed / pairs, "optimal ms": mine / pairs})
    return lines


def spent_on(call: Any) -> tuple[float, Any]:
    """Milliseconds of processor time, after a first call, and what the call returns."""
    call()
    start = time.thread_time()
    found = call()
    return 1e3 * (time.thread_time() - start), found


def page(result: dict[str, Any]) -> str:
    """All tables in Markdown."""
    text = [INTRODUCTION.format(about=result["about"], vocabulary=result["vocabulary"])]
    text += [conclusion(result["budget"]), SUMMARY, table(summary_lines(result["budget"]))]
    for setting in SHOWN:
        full = [line for line in result["budget"] if line["setting"] == setting]
        shown = [{k: v for k, v in line.items() if k not in ("error", "setting")} for line in full]
        for line, whole in zip(shown, full, strict=True):
            if whole["error"] > 0:
                line["unlimited"] = f"{whole['unlimited']:.4f} ± {whole['error']:.4f}"
        text.append(f"\n### Every verifier: {setting}\n\n{table(shown)}")
    text.extend([PUBLISHED, SMALL_TEXT.format(pairs=result["pairs"])])
    for sampler in dict.fromkeys(line["sampler"] for line in result["small"]):
        text.append(table([line for line in result["small"] if line["sampler"] == sampler]) + "\n")
    about = "; ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join(text) + f"\nMachine: {about}.\n"


def conclusion(lines: list[dict[str, Any]]) -> str:
    """Where the optimal rule is in time within 1 ms, and by how much it is ahead of the others there."""
    every = summary_lines(lines)
    within = [line["unlimited"] - line["within 1 ms"] <= 1e-3 for line in every]
    text = f"**Within 1 ms the optimal rule keeps its acceptance (to 0.001) in {sum(within)} of {len(every)} lines. "
    parts = []
    for sampler in dict.fromkeys(line["sampler"] for line in every):
        cut = [x for x in every if x["sampler"] == sampler and not x["setting"].startswith("full")]
        ahead = [100 * (x["within 1 ms"] - x["its acceptance"]) for x in cut]
        parts.append(
            f"{sampler.replace('_', ' ')} {np.median(ahead):+.1f} percentage points in the median "
            f"({min(ahead):+.1f} to {max(ahead):+.1f})"
        )
    return text + f"Beside the best other rule on truncated distributions, whatever that takes: {'; '.join(parts)}.**"


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Without replacement, four drafts: acceptance within 1 ms by setting, and the time of the optimal rule."""
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots.style import style_of, tidy

    mine = [x for x in summary_lines(lines) if x["sampler"] == "without_replacement" and x["drafts"] == 4]
    if not mine:
        return
    at, colour = np.arange(len(mine))[::-1], style_of("optimal").colour
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    for ax in (tidy(left), tidy(right)):
        ax.grid(axis="y", visible=False)
    left.plot([x["alpha*"] for x in mine], at, "|", markersize=18, markeredgewidth=2, color="C3", label="bound")
    left.plot([x["within 1 ms"] for x in mine], at, "o", color=colour, label="optimal")
    left.plot(
        [x["its acceptance"] for x in mine], at, "s", color="0.5", markersize=5, label="best other rule, any time"
    )
    left.set_yticks(at, [x["setting"] for x in mine])
    left.set_xlabel("acceptance rate within 1 ms")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    right.plot([x["ms"] for x in mine], at, "o", color=colour, label="median")
    right.plot([x["longest ms"] for x in mine], at, "|", markersize=12, color=colour, label="longest")
    right.set_xscale("log")
    right.axvline(1.0, color="0.5", linewidth=1)
    right.set_xlabel("one whole verification by the optimal rule, ms")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def table(lines: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    body = ["| " + " | ".join(cell(name, line.get(name)) for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |\n|" + "---|" * len(names), *body])


def cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value).replace("_", " ")
    if name.startswith("in time,"):
        return f"{100 * value:.0f}%"
    if name.endswith("ms") and not name.startswith("within"):
        return f"{value:.3g}"
    return f"{value:.1e}" if name == "difference" else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--samplers", default=",".join(RIVALS))
    parser.add_argument("--drafts", default="2,4,8")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--about", default=ABOUT, help="what the dump holds, for the page")
    parser.add_argument("--pairs", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dump = open_dump(arguments.dump)
    rows = chosen_rows(dump, arguments.rows)
    counts = [int(n) for n in arguments.drafts.split(",")]
    result: dict[str, Any] = json.loads(PAGE.read_text()) if PAGE.exists() else {"small": [], "budget": []}
    result |= {
        "about": f"{len(rows)} positions at equal steps of {arguments.about}",
        "machine": machine(),
        "vocabulary": int(next(iter(dump.batches(1))).target_logits.shape[1]),
        "pairs": arguments.pairs,
    }
    samplers = arguments.samplers.split(",")
    fresh = {
        "small": small_lines(arguments.pairs, samplers),
        "budget": budget_lines(dump, rows, samplers, counts, arguments.samples),
    }
    for part, lines in fresh.items():
        others = [line for line in result[part] if line["sampler"] not in samplers]
        result[part] = sorted([*lines, *others], key=lambda line: list(RIVALS).index(line["sampler"]))
    PAGE.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.with_suffix(".md").write_text(page(result))
    draw(result["budget"], PAGE.parent / "figures" / "optimal_comparison.png")


if __name__ == "__main__":
    main()
