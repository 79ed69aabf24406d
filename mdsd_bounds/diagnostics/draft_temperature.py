"""Which temperature should the draft have?  Chosen on some documents, judged on others.

The draft's temperature is ``ratio`` times the target's.  Where both models are calibrated alike, 1 is hard to beat; a
draft that is too sure of itself gains from a higher one.  The best of several ratios on the same rows is flattered by
the choice, so the gain is *cross-fitted*: documents are dealt to folds, the ratio of a fold is chosen on the other
folds, and the fold's own rows say what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import document_means
from mdsd_bounds.problem import InputError, Option

#: Draft temperature over target temperature.
RATIOS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5)
#: How many standard errors a gain must clear before a ratio other than 1 is advised.
CLEAR = 2.0


@dataclass(frozen=True)
class DraftTemperature:
    """Outcome of :func:`choose_draft_temperature`.

    Attributes
    ----------
    ratio : float
        The advice: the best ratio over all documents if the cross-fitted gain clears two standard errors, else 1.
    best : float
        The ratio with the highest mean over all documents, whether or not it clears.
    chosen : tuple of float
        What each fold's other documents would choose.
    gain, stderr : float
        Mean of ``alpha*(chosen ratio) - alpha*(1)`` on documents not used for the choice, and its standard error with
        documents as units.
    table : DataFrame
        ratio, mean, gain over ratio 1 (in sample, paired) and its stderr, over all documents.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.diagnostics import choose_draft_temperature
    >>> found = choose_draft_temperature(load_example(), 1, "with_replacement", ratios=(1.0, 1.5))
    >>> found.best, found.gain >= 0
    (1.0, True)
    """

    ratio: float
    best: float
    chosen: tuple[float, ...]
    gain: float
    stderr: float
    table: pd.DataFrame


def choose_draft_temperature(
    dump: Dump,
    n_drafts: int,
    sampler: str = "without_replacement",
    *,
    temperature: float = 1.0,
    ratios: Sequence[float] = RATIOS,
    folds: int = 5,
    seed: int = 0,
    limit: int | None = None,
    **options: Option,
) -> DraftTemperature:
    """The draft temperature for a pair of models, cross-fitted over documents.

    Parameters
    ----------
    dump :
        An opened dump.
    n_drafts, sampler, **options :
        What is drafted; as :func:`mdsd_bounds.optimal_acceptance`.
    temperature : float
        The target's temperature, above 0.
    ratios : sequence of float
        Draft temperatures tried, as multiples of the target's; 1 is always among them.
    folds : int
        At least 2, at most the number of documents.
    seed : int
        Deals documents to folds.
    limit : int or None
        Use only the first rows.

    Raises
    ------
    InputError
        If a ratio or the temperature is not positive, or there are fewer documents than folds.

    Notes
    -----
    One pass over the dump for each ratio.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.diagnostics import choose_draft_temperature
    >>> found = choose_draft_temperature(load_example(), 2, "with_replacement", ratios=(1.0, 1.2))
    >>> found.best in (1.0, 1.2), len(found.table)
    (True, 2)
    """
    tried = sorted({1.0, *map(float, ratios)})
    if not (tried[0] > 0 and temperature > 0 and np.isfinite(tried[-1])):
        raise InputError(f"ratios {tried} at temperature {temperature:g}: give positive, finite numbers")
    columns, documents = [], np.empty(0)
    for ratio in tried:
        settings = Settings(
            samplers=(sampler,),
            drafts=(n_drafts,),
            temperatures=(temperature,),
            draft_temperature=ratio * temperature,
            options=options,
        )
        table = run(dump, settings, limit=limit)
        assert table is not None
        columns.append(table["value"].to_numpy())
        documents = table["doc"].to_numpy()
    return cross_fit(np.stack(columns, 1), documents, tried, folds=folds, seed=seed)


def cross_fit(
    values: np.ndarray, documents: np.ndarray, ratios: Sequence[float], *, folds: int = 5, seed: int = 0
) -> DraftTemperature:
    """:func:`choose_draft_temperature` from ``values`` ``[N, R]``: alpha* of each position at each ratio.

    A fold's other documents choose 1 unless their own best ratio is better by :data:`CLEAR` standard errors.

    Raises
    ------
    InputError
        If 1 is not among the ratios, or there are fewer documents than folds.
    """
    units, unit = np.unique(documents, return_inverse=True)
    if not 2 <= folds <= len(units):
        raise InputError(f"folds={folds}: {len(units)} documents; give at least 2 folds and at least one document each")
    if 1.0 not in ratios:
        raise InputError(f"ratios {list(ratios)}: 1 must be among them")
    base = list(ratios).index(1.0)
    gains = values - values[:, [base]]
    fold = (np.random.default_rng(seed).permutation(len(units)) % folds)[unit]
    chosen, held_out = [], np.empty(len(values))
    for k in range(folds):
        mine = fold == k
        pick = _clear_choice(gains[~mine], documents[~mine], base)
        chosen.append(float(ratios[pick]))
        held_out[mine] = gains[mine, pick]
    gain, stderr = document_means(held_out, documents)
    best = int(values.mean(0).argmax())
    rows = [
        (float(r), float(values[:, i].mean()), *document_means(gains[:, i], documents)) for i, r in enumerate(ratios)
    ]
    clears = gain > CLEAR * stderr and gain > 0
    return DraftTemperature(
        ratio=float(ratios[best]) if clears else 1.0,
        best=float(ratios[best]),
        chosen=tuple(chosen),
        gain=gain,
        stderr=stderr,
        table=pd.DataFrame(rows, columns=["ratio", "mean", "gain", "stderr"]),
    )


def _clear_choice(gains: np.ndarray, documents: np.ndarray, base: int) -> int:
    best = int(gains.mean(0).argmax())
    gain, stderr = document_means(gains[:, best], documents)
    return best if gain > CLEAR * stderr else base
