"""Tokens alike in p and q are told apart by their place in the cumulative distribution, with a wager that is fair."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds.audit import audit_log, read_positions
from mdsd_bounds.audit.cells import CELLS, PLACES, cell_masses, places_of
from mdsd_bounds.audit.martingale import wager
from mdsd_bounds.audit.positions import bounds_of


def step_log(path: Path, outputs: list[int], p: tuple[float, ...], reverse: bool = False) -> str:
    listed = [[token, chance] for token, chance in enumerate(p)]
    listed = listed[::-1] if reverse else listed
    steps = [
        {
            "step": step,
            "drafts": [0],
            "accepted": int(token == 0),
            "positions": [{"token": token, "candidates": listed, "target_candidates": listed}],
        }
        for step, token in enumerate(outputs)
    ]
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    return str(path)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("repeated", [(0,), (1,), (3,), (0, 3), (1, 2)])
def test_one_output_again_and_again(repeated: tuple[int, ...], reverse: bool, tmp_path: Path) -> None:
    """p = q = (1/4, ..., 1/4): q/p and p say nothing at all."""
    report = audit_log(step_log(tmp_path / "x.jsonl", list(repeated) * 200, (0.25,) * 4, reverse))
    assert report.lossy
    assert report.output.crossed(0.01 / 3) is not None


def test_two_equal_tokens(tmp_path: Path) -> None:
    assert audit_log(step_log(tmp_path / "x.jsonl", [1] * 400, (0.5, 0.5))).lossy
    fair = np.random.default_rng(0).integers(0, 2, 400).tolist()
    assert not audit_log(step_log(tmp_path / "y.jsonl", fair, (0.5, 0.5))).lossy


def test_the_order_of_candidates_says_nothing(tmp_path: Path) -> None:
    p = (0.5, 0.2, 0.2, 0.1)
    first, second = (read_positions(step_log(tmp_path / "x.jsonl", [0, 3, 2], p, way)) for way in (False, True))
    assert np.array_equal(first.output_place, second.output_place)
    assert np.array_equal(first.place_mass, second.place_mass)


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_the_wealth_stays_a_supermartingale(tolerance: float) -> None:
    """Summed over all sequences of outputs, p itself gives one; what is within reach of p gives at most one."""
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    places = places_of(p)
    mass = cell_masses(places, p, PLACES)
    cells = np.zeros((5, CELLS))
    cells[:, 30] = 1.0
    moved = p.copy()
    moved[:, 0] -= np.minimum(tolerance, p[:, 0])
    moved[:, 2] += p[:, 0] - moved[:, 0]
    expected = {"p": 0.0, "moved": 0.0}
    for tokens in itertools.product(range(3), repeat=5):
        at = np.arange(5), np.array(tokens)
        held = wager(cells, np.full(5, 30), np.full(5, tolerance), None, (mass, places[at]))
        for name, row in (("p", p), ("moved", moved)):
            expected[name] += float(row[at].prod() * np.exp(held.running[-1]))
    assert expected["moved"] <= 1 + 1e-12
    assert expected["p"] == pytest.approx(1.0, abs=1e-12) if tolerance == 0 else expected["p"] < 1


def test_false_alarms() -> None:
    """At level 0.05 over 200 logs of lossless outputs: a wager alarms no more often than its level."""
    generator, alarms = np.random.default_rng(1), 0
    for _ in range(200):
        p = generator.dirichlet(np.full(6, 0.5), size=100)
        token = (generator.random((100, 1)) > p.cumsum(1)).sum(1).clip(max=5)
        places = places_of(p)
        seen = places[np.arange(100), token]
        cells = np.zeros((100, CELLS))
        cells[:, 30] = 1.0
        pair = cell_masses(places, p, PLACES), seen
        alarms += wager(cells, np.full(100, 30), np.zeros(100), None, pair).crossed(0.05) is not None
    assert alarms <= 22


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy"])
def test_a_line_with_very_many_drafts(sampler: str) -> None:
    """Three tokens: the bound of so many drafts is that of all tokens, found without a step for each draft."""
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.2, 0.6]])
    found = bounds_of(p, q, (1, 3, 200_000), sampler, {})
    assert found[2, 0] == pytest.approx(1.0, abs=1e-9)
    assert found[0, 0] == pytest.approx(0.6, abs=1e-9)
    with pytest.raises(InputError, match="at most 10000"):
        optimal_acceptance(p, q, 200_000, sampler, method="subsets")
