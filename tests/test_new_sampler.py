"""A sampler outside the fixed-plus-random family: one file and one registry line, and everything takes it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS, acceptance_rate, draft_mass, optimal_acceptance, subset_bound
from mdsd_bounds.audit import audit_log, audit_rule, load_rule
from mdsd_bounds.audit.self_check import drawn_rows
from mdsd_bounds.bounds.oracles.draft_sets import DraftSets
from mdsd_bounds.cli import main
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import Sampler


def sticky(q: Tensor, drawn: Tensor, k: int, n: int, *, repeat: float = 0.5) -> Tensor:
    """Every draft after the first repeats one of those before it with probability ``repeat``, else it is drawn anew."""
    if k == 0:
        return q
    held = drawn.to(q.dtype)
    return (1.0 - repeat) * q + repeat * held / held.sum(-1, keepdim=True)


#: All that the file of a new sampler holds besides its function.
SAMPLER = Sampler("sticky", sticky, replacement=True, options=("repeat",), nested=True, first_from_q=True)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "sticky", SAMPLER)
    # The scheme that takes every sampler reads the registry when it is imported.
    monkeypatch.setitem(VERIFIERS, "nss", dataclasses.replace(VERIFIERS["nss"], samplers=tuple(SAMPLERS)))


def rows(count: int = 6, size: int = 5) -> tuple[Tensor, Tensor]:
    return drawn_rows(count, 3, size)


def by_hand(p: Tensor, q: Tensor, repeat: float) -> float:
    """alpha* of two drafts over all subsets, with ``Q(H) = q(H) (repeat + (1 - repeat) q(H))`` in closed form."""
    best = 0.0
    for bits in range(1 << len(p)):
        held = torch.tensor([bits >> i & 1 for i in range(len(p))], dtype=torch.bool)
        x = float(q[held].sum())
        best = min(best, float(p[held].sum()) - x * (repeat + (1.0 - repeat) * x))
    return 1.0 + best


@pytest.mark.parametrize("repeat", [0.5, 0.0, 0.9])
def test_bounds(repeat: float) -> None:
    p, q = rows()
    found = optimal_acceptance(p, q, (1, 2), "sticky", repeat=repeat)
    for b in range(len(p)):
        assert float(found.value[1, b]) == pytest.approx(by_hand(p[b], q[b], repeat), abs=1e-9)
    subsets = optimal_acceptance(p, q, (1, 2), "sticky", method="subsets", repeat=repeat)
    assert torch.allclose(subset_bound(subsets), subsets.value, atol=1e-12)
    assert bool((found.low <= subsets.high).all() and (subsets.low <= found.high).all())
    subset = torch.tensor([[True, False, True, True, False]]).expand(len(p), -1)
    x = (q * subset).sum(-1)
    assert torch.allclose(draft_mass(q, subset, 2, "sticky", {"repeat": repeat}), x * (repeat + (1 - repeat) * x))


def test_what_it_does_not_take_is_said() -> None:
    p, q = rows()
    with pytest.raises(InputError, match="does not take the options"):
        optimal_acceptance(p, q, 2, "sticky", m=1)
    with pytest.raises(InputError, match="no prefix order"):
        optimal_acceptance(p, q, 2, "sticky", method="prefix")


def test_a_wrong_mass_of_subsets_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = rows()
    monkeypatch.setattr(DraftSets, "inside", lambda self, subset: 0.5)
    bound = optimal_acceptance(p, q, 2, "sticky", method="subsets")
    assert not torch.allclose(subset_bound(bound), bound.value, atol=1e-3)


def test_rates_stay_below_the_bound() -> None:
    p, q = rows()
    rate = acceptance_rate(p, q, 2, sampler="sticky", verifier="nss", samples=4000)
    bound = optimal_acceptance(p, q, 2, "sticky")
    assert bool((rate.value <= bound.high + 5 * rate.stderr).all())
    # In closed form: i is drafted with probability q_i (2 - r - (1 - r) q_i) at r = 1/2.
    exact = (p * q * (1.5 - 0.5 * q)).sum(-1)
    assert bool(((rate.value - exact).abs() <= 5 * rate.stderr + 1e-9).all())


def test_audit() -> None:
    report = audit_rule(VERIFIERS["nss"], ("sticky",), (1, 2), steps=50)
    assert not report.lossy
    assert all(found.defect < 1e-12 for found in report.enumerated)


def test_a_plain_function_is_offered_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sticky_rule.py").write_text("def step(p, q, drafts, generator):\n    return drafts[:, 0]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rule = load_rule("sticky_rule:step")
    assert "sticky" in rule.samplers
    assert audit_rule(rule, ("sticky",), (2,), steps=400).lossy


def logged(path: Path, count: int) -> str:
    p, q = drawn_rows(count, 5, 5)
    generator = torch.Generator().manual_seed(6)
    drafts = SAMPLER.sample(q, 2, generator)
    token, accepted = VERIFIERS["nss"].step(p, q, drafts, generator, sampler="sticky")
    keys = ("p", "q", "drafts", "token", "accepted")
    lines = zip(p.tolist(), q.tolist(), drafts.tolist(), token.tolist(), accepted.tolist(), strict=True)
    entries = [{"doc": 0, "position": i, "sampler": "sticky", **dict(zip(keys, line, strict=True))}
               for i, line in enumerate(lines)]  # fmt: skip
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def test_audit_of_a_log(tmp_path: Path) -> None:
    report = audit_log(logged(tmp_path / "log.jsonl", 300))
    assert not report.lossy


def call(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["mdsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    written: Any = capsys.readouterr()
    return int(stop.value.code or 0), written.out + written.err


def test_the_command_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = rows(4)
    dump = str(tmp_path / "pair.npz")
    np.savez(dump, target_logits=p.log().numpy(), draft_logits=q.log().numpy())
    shared = ("--sampler", "sticky", "--drafts", "1,2", "--quiet")
    for command in ("bounds", "compare"):
        out = str(tmp_path / f"{command}.parquet")
        code, text = call(command, dump, *shared, "--out", out, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, text
        table = pd.read_parquet(out)
        assert set(table["sampler"]) == {"sticky"}
        part = table[table["drafts"] == 2]
        assert part["value"].to_numpy() == pytest.approx([by_hand(p[b], q[b], 0.5) for b in range(4)], abs=1e-6)
    of_rule = ("--verifier", "nss", "--sampler", "sticky", "--drafts", "2", "--steps", "20", "--dump", dump)
    for arguments in ((logged(tmp_path / "log.jsonl", 50),), of_rule):
        code, text = call("audit", *arguments, "--quiet", capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, text
