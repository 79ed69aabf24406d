"""Truncated rows of a log that list what was drafted or output: no verdict can rest on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.audit import audit_log
from mdsd_bounds.audit.cells import Floats

Entry = dict[str, Any]
#: Tokens listed of a row, from the row and from what came up: the output first.
Listing = Callable[[Floats, list[int]], list[int]]
SIZE = 6


def top(row: Floats, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-row, kind="stable")[:k]]


def cut(row: Floats, tokens: list[int]) -> dict[str, float]:
    return {str(token): float(row[token]) for token in tokens}


def nucleus(row: Floats, mass: float) -> list[int]:
    order = np.argsort(-row, kind="stable")
    return [int(i) for i in order[: int(np.searchsorted(np.cumsum(row[order]), mass)) + 1]]


def log(tmp_path: Path, p_of: Listing, q_of: Listing, *, sampler: str = "with_replacement", kept: int = SIZE) -> str:
    """600 positions of speculative sampling with one draft; with ``kept`` the target's outputs are cut behind p."""
    rng = np.random.default_rng(8)
    lines = []
    for i in range(600):
        p, q = rng.dirichlet(np.ones(SIZE), 2)
        real = np.where(np.isin(np.arange(SIZE), top(p, kept)), p, 0.0)
        real /= real.sum()
        draft = int(rng.choice(SIZE, p=q)) if sampler != "top_k" else top(q, 1)[0]
        chance = real[draft] / q[draft] if sampler != "top_k" else real[draft]
        rest = np.clip(real - q, 0, None) if sampler != "top_k" else np.where(np.arange(SIZE) == draft, 0, real)
        token = draft if rng.random() < chance else int(rng.choice(SIZE, p=rest / rest.sum()))
        lines.append(
            {
                "doc": 0,
                "position": i,
                "p": cut(p, p_of(p, [token, draft])),
                "q": cut(q, q_of(q, [draft])),
                "drafts": [draft],
                "token": token,
                "sampler": sampler,
            }
        )
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def and_output(row: Floats, came: list[int]) -> list[int]:
    """The two most probable tokens, and the output beside them, as servers list them."""
    return list(dict.fromkeys([*top(row, 2), came[0]]))


def output_last(row: Floats, came: list[int]) -> list[int]:
    """The three most probable tokens; the output takes the place of the last where it is none of them."""
    return top(row, 3) if came[0] in top(row, 3) else [*top(row, 2), came[0]]


def top_3(row: Floats, came: list[int]) -> list[int]:
    return top(row, 3)


@pytest.mark.parametrize(
    ("p_of", "q_of", "said"),
    [
        (and_output, top_3, "the truncated p lists the output at every position"),
        (output_last, top_3, "the truncated p lists the output at every position"),
        (lambda row, came: sorted(set(came)), top_3, "the truncated p lists the output and the drafts"),
        (top_3, output_last, "the truncated q lists the drafts"),
        (lambda row, came: list(dict.fromkeys([*top(row, 2), *came])), top_3, "the truncated p lists the output"),
        (top_3, lambda row, came: sorted(set(came)), "the truncated q lists the drafts at every position.*leave q out"),
        (top_3, lambda row, came: list(dict.fromkeys([*top(row, 2), *came])), "the truncated q lists the drafts"),
    ],
)
def test_rows_that_list_what_came_up_have_no_verdict(tmp_path: Path, p_of: Listing, q_of: Listing, said: str) -> None:
    with pytest.raises(InputError, match=said):
        audit_log(log(tmp_path, p_of, q_of))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_most_probable_tokens_are_still_judged(tmp_path: Path, k: int) -> None:
    def probable(row: Floats, came: list[int]) -> list[int]:
        return top(row, k)

    assert not audit_log(log(tmp_path, probable, probable)).lossy
    assert not audit_log(log(tmp_path, lambda row, came: nucleus(row, 0.5 + k / 12), probable)).lossy
    if k > 1:
        # Outputs of a target that was cut behind the row that is logged never fall outside, and are lossy.
        assert audit_log(log(tmp_path, probable, probable, kept=k)).lossy


def test_drafts_that_are_certain_may_be_listed(tmp_path: Path) -> None:
    assert not audit_log(log(tmp_path, top_3, lambda row, came: sorted(set(came)), sampler="top_k")).lossy
