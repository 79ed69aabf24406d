"""Figure: subset curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds.plots.style import COLOURS, axes, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def subset_curve(
    p: ArrayLike, q: ArrayLike, n_drafts: int = 4, sampler: str = "without_replacement", ax: Axes | None = None
) -> Axes:
    """One position: the curve ``P(H) - Q(H)`` over prefixes of the tokens sorted by p/q ascending, its minimum marked.

    Parameters
    ----------
    p, q : array
        ``[V]`` distributions.
    n_drafts, sampler :
        As :func:`mdsd_bounds.optimal_acceptance`; a sampler of the fixed-plus-random family.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.

    Examples
    --------
    >>> from mdsd_bounds.plots import subset_curve
    >>> ax = subset_curve([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2)
    >>> ax.get_ylabel() != ""
    True
    """
    import numpy as np

    from mdsd_bounds.bounds import make_problem
    from mdsd_bounds.bounds.search.prefix_scan import prefix_curves
    from mdsd_bounds.samplers import get_sampler

    problem, *_ = make_problem(p, q, n_drafts, sampler)
    rule = get_sampler(sampler)
    (fixed, random), *_ = rule.splits(problem.n_drafts, {}, "subset_curve", "choose one that has")
    target, mass, _, order = prefix_curves(problem.p[:1], problem.q[:1], fixed, [random], rule.replacement)
    curve = (target[0] - mass[0, 0]).cpu().numpy()
    held = np.append(0.0, problem.q[0][order[0]].cumsum(0).cpu().numpy())
    ax = axes(ax)
    best = int(curve.argmin())
    ax.step(held, curve, where="post", color=COLOURS[0], linewidth=1.4)
    ax.plot(held[best], curve[best], marker="o", color=COLOURS[3])
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.set_xlabel("draft mass q(H) of the prefix H")
    ax.set_ylabel("P(H) - Q(H)")
    # In the title, where it covers no part of the curve.
    ax.set_title(
        f"{title(sampler)}, n = {problem.n_drafts[0]}: H* holds {best:,} tokens, alpha* = {1 + curve[best]:.4f}",
        fontsize=10,
    )
    return ax
