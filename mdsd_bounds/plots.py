"""One function per figure: ``(table, ax=None) -> ax``.  Colours read in colour-blind eyes and in grey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds.problem import InputError
from mdsd_bounds.results import bootstrap_interval

#: Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":"]


def acceptance_by_drafts(table: pd.DataFrame, ax: Any = None) -> Any:
    """Optimal acceptance rate (and verifiers, where compared) against the number of drafts, with 95% intervals.

    Parameters
    ----------
    table : DataFrame
        A per-position table.  With several temperatures the lowest is drawn.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    temperature = table["temperature"].min()
    table = table[table["temperature"] == temperature]
    counts = sorted(table["drafts"].unique())
    lines = _distinct_lines(table)
    for i, (label, part, column, colour, style) in enumerate(lines):
        shift = 2 ** (0.14 * (i - (len(lines) - 1) / 2) / max(len(lines) - 1, 1))
        _line(ax, part, column, label, colour, style, counts, shift)
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.set_xlabel("number of drafts n")
    ax.set_ylabel("acceptance rate")
    ax.set_title(f"Optimal acceptance, temperature {temperature:g}, {table['row'].nunique()} positions")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def gap_by_temperature(table: pd.DataFrame, ax: Any = None) -> Any:
    """Bound minus acceptance of each verifier against temperature, at the largest number of drafts all share."""
    _need_verifiers(table, "gap_by_temperature")
    ax = _axes(ax)
    n = max(table["drafts"])
    part = table[table["drafts"] == n]
    temperatures = sorted(part["temperature"].unique())
    for i, ((sampler, verifier), rows) in enumerate(part.groupby(["sampler", "verifier"], sort=False)):
        means, below, above = [], [], []
        for temperature in temperatures:
            cell = rows[rows["temperature"] == temperature]
            gap = (cell["value"] - cell["acceptance"]).to_numpy()
            low, high = bootstrap_interval(gap[:, None], cell["doc"].to_numpy())
            means.append(float(gap.mean()))
            below.append(max(means[-1] - low[0], 0.0))
            above.append(max(high[0] - means[-1], 0.0))
        ax.errorbar(
            temperatures,
            means,
            yerr=[below, above],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle=DASHES[i % len(DASHES)],
            linewidth=1.2,
            elinewidth=0.7,
            capsize=2,
            label=f"{_title(sampler)}: {_title(verifier)}",
        )
    ax.set_xlabel("temperature")
    ax.set_ylabel("bound minus acceptance")
    ax.set_title(f"What a better verifier could still add, n = {n}")
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.legend(fontsize=7)
    return ax


def acceptance_against_bound(table: pd.DataFrame, ax: Any = None) -> Any:
    """Every position as a point: acceptance of each verifier against its bound; the diagonal is optimal."""
    _need_verifiers(table, "acceptance_against_bound")
    ax = _axes(ax)
    n, temperature = max(table["drafts"]), min(table["temperature"])
    part = table[(table["drafts"] == n) & (table["temperature"] == temperature)]
    for i, ((sampler, verifier), rows) in enumerate(part.groupby(["sampler", "verifier"], sort=False)):
        ax.scatter(
            rows["value"],
            rows["acceptance"],
            s=9,
            alpha=0.6,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linewidths=0,
            label=f"{_title(sampler)}: {_title(verifier)}",
        )
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    ax.set_xlabel("bound (optimal acceptance of the sampler)")
    ax.set_ylabel("acceptance")
    ax.set_title(f"Each position against its bound, n = {n}, temperature {temperature:g}")
    ax.legend(fontsize=7, loc="upper left")
    return ax


def sampler_wins(table: pd.DataFrame, ax: Any = None) -> Any:
    """Share of positions on which each sampler has the highest bound (ties within 1e-9 are shared), against n."""
    ax = _axes(ax)
    temperature = min(table["temperature"])
    part = table[table["temperature"] == temperature].drop_duplicates(["sampler", "drafts", "row"])
    wide = part.pivot_table(index=["drafts", "row"], columns="sampler", values="value")
    best = wide.ge(wide.max(axis=1) - 1e-9, axis=0)
    share = best.div(best.sum(axis=1), axis=0).groupby("drafts").mean()[list(dict.fromkeys(part["sampler"]))]
    bottom = 0.0
    places = range(len(share))
    for i, name in enumerate(share.columns):
        # Hatching tells the bars apart where colour cannot.
        ax.bar(
            places,
            share[name],
            bottom=bottom,
            color=COLOURS[i % len(COLOURS)],
            hatch=["", "//", "..", "xx", "\\\\", "++"][i % 6],
            edgecolor="white",
            linewidth=0.5,
            label=_title(name),
        )
        bottom = bottom + share[name].to_numpy()
    ax.set_xticks(list(places), [str(n) for n in share.index])
    ax.set_xlabel("number of drafts n")
    ax.set_ylabel("share of positions")
    ax.set_title(f"Sampler with the highest bound, temperature {temperature:g}")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def subset_curve(p: Any, q: Any, n_drafts: int = 4, sampler: str = "without_replacement", ax: Any = None) -> Any:
    """One position: the curve ``P(H) - Q(H)`` over prefixes of the q/p order, its minimum marked.

    Parameters
    ----------
    p, q : array
        ``[V]`` laws.
    n_drafts, sampler :
        As :func:`mdsd_bounds.optimal_acceptance`; a sampler of the fixed-plus-random family.
    """
    import numpy as np

    from mdsd_bounds.bounds import make_problem
    from mdsd_bounds.bounds.prefix import prefix_curves
    from mdsd_bounds.samplers import get_sampler

    problem, *_ = make_problem(p, q, n_drafts, sampler)
    rule = get_sampler(sampler)
    if rule.split is None:
        raise InputError(f"subset_curve: the sampler {sampler!r} has no prefix order")
    fixed, random = rule.split(problem.n_drafts[0])
    target, mass, _, order = prefix_curves(problem.p[:1], problem.q[:1], fixed, [random], rule.replacement)
    curve = (target[0] - mass[0, 0]).cpu().numpy()
    held = np.append(0.0, problem.q[0][order[0]].cumsum(0).cpu().numpy())
    ax = _axes(ax)
    best = int(curve.argmin())
    ax.step(held, curve, where="post", color=COLOURS[0], linewidth=1.4)
    ax.plot(held[best], curve[best], marker="o", color=COLOURS[3])
    ax.annotate(
        f"H* holds {best} tokens\nalpha* = {1 + curve[best]:.4f}",
        (held[best], curve[best]),
        xytext=(-12, 24),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.set_xlabel("draft mass q(H) of the prefix H")
    ax.set_ylabel("P(H) - Q(H)")
    ax.set_title(f"{_title(sampler)}, n = {problem.n_drafts[0]}")
    return ax


#: Figures of a per-position table, by name.
FIGURES: dict[str, Callable[..., Any]] = {
    "acceptance_by_drafts": acceptance_by_drafts,
    "gap_by_temperature": gap_by_temperature,
    "acceptance_against_bound": acceptance_against_bound,
    "sampler_wins": sampler_wins,
}
#: Those that need a table of mdsd compare.
NEED_VERIFIERS = ("gap_by_temperature", "acceptance_against_bound")


def _need_verifiers(table: pd.DataFrame, name: str) -> None:
    if not (table["verifier"] != "").any():
        raise InputError(f"figure {name}: the table holds bounds only; make it with mdsd compare --out")


def save_figures(table: pd.DataFrame, out: str, figure: str = "all") -> list[str]:
    """Draw the named figure (or all) and save it; returns the files written.

    Raises
    ------
    InputError
        If the figure is unknown or the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if figure != "all" and figure not in FIGURES:
        raise InputError(f"--figure {figure}: choose all or one of {', '.join(FIGURES)}")
    compared = bool((table["verifier"] != "").any())
    chosen = [name for name in FIGURES if compared or name not in NEED_VERIFIERS] if figure == "all" else [figure]
    path = Path(out)
    written = []
    for name in chosen:
        target = path if len(chosen) == 1 else path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}")
        ax = FIGURES[name](table)
        try:
            ax.figure.savefig(target, dpi=150, bbox_inches="tight")
        except (OSError, ValueError) as error:
            raise InputError(f"{target}: the figure could not be written ({error})") from None
        finally:
            plt.close(ax.figure)
        written.append(str(target))
    return written


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _distinct_lines(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str, int, int]]:
    """(label, rows, column, colour, style) of each curve; curves that coincide everywhere share one line and label."""
    lines: list[tuple[str, pd.DataFrame, str, int, int]] = []
    seen: list[pd.Series] = []
    for colour, (sampler, part) in enumerate(table.groupby("sampler", sort=False)):
        # Each position stands once in the bound, however many verifiers were compared.
        bound = part.drop_duplicates(["drafts", "row"]).sort_values(["drafts", "row"])
        values = bound["value"].reset_index(drop=True)
        twin = next((i for i, other in enumerate(seen) if (other - values).abs().max() < 1e-9), None)
        seen.append(values)
        if twin is not None and not (part["verifier"] != "").any():
            label, rows, column, hue, dash = lines[twin]
            lines[twin] = (f"{label} = {_title(sampler)}", rows, column, hue, dash)
            continue
        several = (table["verifier"] != "").any()
        lines.append((_title(sampler) + (": bound" if several else ""), bound, "value", colour, 0))
        for style, (verifier, rows) in enumerate(part[part["verifier"] != ""].groupby("verifier", sort=False), 1):
            lines.append((f"{_title(sampler)}: {verifier}", rows, "acceptance", colour, style))
    return lines


def _line(
    ax: Any, part: pd.DataFrame, column: str, label: str, colour: int, style: int, counts: list[int], shift: float
) -> None:
    places, centre, below, above = [], [], [], []
    for n in counts:
        rows = part[part["drafts"] == n]
        if rows.empty:
            continue
        low, high = bootstrap_interval(rows[[column]].to_numpy(), rows["doc"].to_numpy())
        mean = float(rows[column].mean())
        places.append(n * shift)
        centre.append(mean)
        below.append(max(mean - low[0], 0.0))
        above.append(max(high[0] - mean, 0.0))
    ax.errorbar(
        places,
        centre,
        yerr=[below, above],
        color=COLOURS[colour % len(COLOURS)],
        marker=MARKERS[(colour + style) % len(MARKERS)],
        linestyle=DASHES[style % len(DASHES)],
        markersize=5,
        linewidth=1.6 if style == 0 else 1.0,
        elinewidth=0.7,
        capsize=2,
        label=label,
    )


def _title(name: Any) -> str:
    return str(name).replace("_", " ")
