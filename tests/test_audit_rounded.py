"""Logs whose probabilities were rounded in ways that their sums and shared digits do not show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds.audit import audit_log, read_positions
from mdsd_bounds.audit.cells import Floats
from mdsd_bounds.audit.logs import rounding
from mdsd_bounds.problem import InputError

Entry = dict[str, Any]
Written = Callable[[Floats], Any]


def rejections(seed: int, size: int, rows: int, *, lossy: bool = False, positions: int = 2000) -> list[Any]:
    """p, q, draft and output of speculative sampling with one draft, each time at one of so many pairs."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, size)) * rng.choice([1.0, 2.0, 3.0], size=(rows, 1))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, logits + rng.normal(size=logits.shape)))
    found = []
    for _ in range(positions):
        row = rng.integers(rows)
        draft = int(rng.choice(size, p=q[row]))
        rest = np.clip(p[row] - q[row], 0, None)
        kept = rng.random() < p[row, draft] / q[row, draft]
        other = p[row] if lossy else rest / rest.sum()
        found.append((p[row], q[row], draft, draft if kept else int(rng.choice(size, p=other))))
    return found


def log(tmp_path: Path, found: list[Any], form: Written) -> str:
    path = tmp_path / "log.jsonl"
    lines = [
        {"doc": 0, "position": i, "p": form(p), "q": form(q), "drafts": [draft], "token": token}
        for i, (p, q, draft, token) in enumerate(found)
    ]
    path.write_text("\n".join(json.dumps(line | {"sampler": "with_replacement"}) for line in lines))
    return str(path)


def renormalised(decimals: int, kind: type = float) -> Written:
    def form(p: Floats) -> list[float]:
        rounded = p.round(decimals).astype(kind)
        return [float(x) for x in rounded / rounded.sum()]

    return form


def few_and_tail(decimals: int, kind: type = float) -> Written:
    """The ten most probable tokens and the mass of all others, cut off and then made to sum to one."""

    def form(p: Floats) -> dict[str, float]:
        kept = np.argsort(-p)[:10]
        masses = np.append(p[kept], 1 - p[kept].sum())
        cut = (np.floor(masses * 10**decimals) / 10**decimals).astype(kind)
        named = [*map(str, kept.tolist()), "tail"]
        return {name: float(x) for name, x in zip(named, cut / cut.sum(), strict=True)}

    return form


def from_logits(decimals: int, kind: type = float) -> Written:
    """Rows made of log-probabilities with so many decimals."""

    def form(p: Floats) -> list[float]:
        weights = np.exp(np.log(p).round(decimals)).astype(kind)
        return [float(x) for x in weights / weights.sum()]

    return form


def off_by(path: str, found: list[Any], form: Written) -> tuple[float, float]:
    """The largest total variation between p and what was written of it, and the least tolerance."""
    held = read_positions(path)
    off = [0.5 * np.abs(np.array(form(p)) - p).sum() for p, *_ in found]
    return float(max(off)), float(held.tolerance.min())


def cut_off(p: Floats) -> dict[str, float]:
    """The four most probable tokens, with two decimals that were not rounded but cut off."""
    return {str(x): float(np.floor(100 * p[x])) / 100 for x in np.argsort(-p)[:4]}


@pytest.mark.parametrize("kind", [float, np.float32])
@pytest.mark.parametrize("decimals", [2, 3])
def test_rows_that_were_made_to_sum_to_one_after_rounding(tmp_path: Path, decimals: int, kind: type) -> None:
    found = rejections(1, 30, 500)
    path = log(tmp_path, found, renormalised(decimals, kind))
    assert audit_log(path, tolerance=1e-6).lossy or decimals > 2
    assert not audit_log(path).lossy
    # What the rows have lost is known here: the tolerance is no less.
    held = read_positions(path).tolerance
    lost = [float(np.clip(p - np.array(renormalised(decimals)(p)), 0, None).sum()) for p, *_ in found]
    assert (held >= np.array(lost)).all()
    assert held.max() < 40 * 10.0**-decimals


def test_a_lossy_rule_is_found_in_rows_that_were_made_to_sum_to_one(tmp_path: Path) -> None:
    assert audit_log(log(tmp_path, rejections(2, 12, 4, lossy=True, positions=4000), renormalised(3))).lossy


def test_numbers_that_were_cut_off_leave_the_tail_too_large(tmp_path: Path) -> None:
    found = rejections(3, 6, 40)
    path = log(tmp_path, found, cut_off)
    assert not audit_log(path).lossy
    held = read_positions(path).tolerance
    lost = [sum(float(p[int(x)]) - number for x, number in cut_off(p).items()) for p, *_ in found]
    assert (held >= np.array(lost)).all()


@pytest.mark.parametrize("decimals", [1, 2])
def test_step_logs_with_few_decimals_of_log_probabilities(tmp_path: Path, decimals: int) -> None:
    rows: list[tuple[Any, dict[int, float]]] = []
    for line in rejections(4, 8, 40, positions=4000):
        p = line[0]
        listed = {int(x): round(float(np.log(p[x])), decimals) for x in np.argsort(-p)[:4]}
        if sum(map(math.exp, listed.values())) < 1:
            rows.append((line, listed))
    path = tmp_path / "steps.jsonl"
    with path.open("w") as file:
        for step, ((_, _, draft, token), listed) in enumerate(rows):
            candidates = [{"token": x, "logprob": logprob} for x, logprob in listed.items()]
            position = {"token": token, "target_candidates": candidates}
            line = {"doc": 0, "step": step, "drafts": [draft], "accepted": int(draft == token), "positions": [position]}
            file.write(json.dumps(line) + "\n")
    held = read_positions(str(path)).tolerance
    half = 0.5 * 10.0**-decimals
    mass = np.array([sum(map(math.exp, listed.values())) for _, listed in rows])
    assert len(rows) > 1000
    assert (held >= mass * np.expm1(half) * 0.99).all()
    assert not audit_log(str(path)).lossy


@pytest.mark.parametrize("kind", [float, np.float32])
def test_truncated_rows_that_were_made_to_sum_to_one_after_rounding(tmp_path: Path, kind: type) -> None:
    """Their tail was rounded and divided as well: it is one of the numbers."""
    rng, form = np.random.default_rng(3), few_and_tail(2, kind)
    rows = rng.dirichlet(np.ones(40), size=4)
    lines = []
    for i in range(20_000):
        written = form(rows[i % 4])
        token = int(rng.choice(40, p=rows[i % 4]))
        lines.append(json.dumps({"doc": 0, "position": i, "p_tail": written.pop("tail"), "p": written, "token": token}))
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))
    assert audit_log(str(path), tolerance=1e-6).lossy
    assert not audit_log(str(path)).lossy


@pytest.mark.parametrize("kind", [float, np.float32])
@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_rows_made_of_rounded_log_probabilities(tmp_path: Path, decimals: int, kind: type) -> None:
    found, form = rejections(decimals, 6, 40, positions=200), from_logits(decimals, kind)
    off, least = off_by(log(tmp_path, found, form), found, form)
    assert off < least < 20 * off


@pytest.mark.parametrize("step", [1 / 16, 1 / 8, 0.5, 1.0])
def test_rows_made_of_logits_of_few_bits_are_exact(tmp_path: Path, step: float) -> None:
    """As half precision gives them, also divided by a temperature: multiples of an eighth have three decimals."""

    def rounded(x: Floats, temperature: float) -> Floats:
        weights = np.exp((np.log(x) / step).round() * step / temperature)
        return np.asarray(weights / weights.sum())

    for temperature in (1.0, 0.5, 0.8, 0.1, 2.0):
        found = [
            (rounded(p, temperature), rounded(q, temperature), *rest) for p, q, *rest in rejections(1, 6, 40)[:200]
        ]
        path = log(tmp_path, found, lambda p: p.tolist())
        assert float(read_positions(path).tolerance.max()) < 1.1e-6, temperature


def test_few_rows_made_of_logits_with_decimals_give_no_verdict_that_rests_on_them(tmp_path: Path) -> None:
    """They may be the logits of a toy, or log-probabilities that were rounded."""
    rng = np.random.default_rng(0)
    logits = [1.2, 0.7, -0.4, 0.3, -1.3, 0.1]
    p = np.exp(np.array(logits) + rng.uniform(-0.05, 0.05, 6))
    p /= p.sum()
    form = from_logits(1)
    found = [(p, p, int(x), int(x)) for x in rng.choice(6, size=30_000, p=p)]
    path = log(tmp_path, found, form)
    assert audit_log(path, tolerance=0.0).lossy
    with pytest.raises(InputError, match=r"logarithms that lie 1 decimal apart.*--tolerance 0 if they are exact"):
        audit_log(path)
    same = [(p, p, x, 0 if x == 5 else y) for p, _, x, y in found[:6000]]
    assert audit_log(log(tmp_path, same, form)).lossy


@pytest.mark.parametrize("seed", range(3))
def test_numbers_in_full_digits_and_powers_are_exact(tmp_path: Path, seed: int) -> None:
    found = rejections(seed, 6, 40, positions=200)
    assert float(read_positions(log(tmp_path, found, lambda p: p.tolist())).tolerance.max()) < 1.1e-6
    powers = 0.7 ** np.arange(24)
    path = log(tmp_path, [(powers / powers.sum(), powers / powers.sum(), 0, 0)] * 50, lambda p: p.tolist())
    assert float(read_positions(path).tolerance.max()) < 1.1e-6


def of_toys(seed: int, *, lossy: float = 0.0, positions: int = 4000) -> list[Any]:
    """One pair of three tokens, so that a log holds few different numbers; a share of outputs is moved to the draft."""
    rng = np.random.default_rng(seed)
    p, q = np.array([0.5612, 0.3392, 0.0996]), np.array([0.3519, 0.4426, 0.2055])
    rest = np.clip(p - q, 0, None) / np.clip(p - q, 0, None).sum()
    found = []
    for _ in range(positions):
        draft = int(rng.choice(3, p=q))
        kept = rng.random() < max(p[draft] / q[draft], lossy)
        found.append((p, q, draft, draft if kept else int(rng.choice(3, p=rest))))
    return found


@pytest.mark.parametrize("form", [lambda p: p.round(1).tolist(), lambda p: [float(f"{x:.1g}") for x in p]])
def test_few_numbers_that_may_have_been_rounded_give_no_verdict(tmp_path: Path, form: Written) -> None:
    """With 0.6, 0.3 and 0.1 a lossless rule looks lossy over 4,000 positions, and the numbers may be exact."""
    path = log(tmp_path, of_toys(5), form)
    assert audit_log(path, tolerance=0.0).lossy
    with pytest.raises(InputError, match=r"3 different numbers of p all have .*--tolerance 0 if they are exact"):
        audit_log(path)
    assert not audit_log(path, tolerance=0.2).lossy
    assert not audit_log(log(tmp_path, of_toys(5), lambda p: p.tolist())).lossy


def test_a_lossy_rule_is_found_with_few_numbers(tmp_path: Path) -> None:
    """Here the output is off by more than any rounding to two decimals."""
    found = of_toys(6, lossy=1.0, positions=4000)
    assert audit_log(log(tmp_path, found, lambda p: p.round(2).tolist())).lossy


def test_rows_of_certainty_are_exact(tmp_path: Path) -> None:
    """As temperature 0 gives them: no digits are missing, and an output beside the certain one is a fault."""
    found = [(np.eye(4)[i % 4], np.eye(4)[i % 3], i % 3, i % 4 if i % 50 else (i + 1) % 4) for i in range(400)]
    assert audit_log(log(tmp_path, found, lambda p: p.tolist())).lossy


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_logits_of_a_dump_with_few_decimals(decimals: int, kind: torch.dtype) -> None:
    logits = 3.0 * torch.randn(2000, generator=torch.Generator().manual_seed(decimals), dtype=torch.float64)
    written = logits.round(decimals=decimals).to(kind)
    lost = 0.5 * float((written.double().softmax(-1) - logits.softmax(-1)).abs().sum())
    assert lost <= rounding(written, written.double().softmax(-1), 1.0) < 20 * lost
    # An engine in bfloat16 has such logits itself, and numbers in full digits lose nothing but their type.
    for exact in (logits.to(torch.bfloat16).to(kind), logits.to(kind)):
        assert rounding(exact, exact.double().softmax(-1), 1.0) < 2e-6
