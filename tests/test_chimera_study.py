"""The page of the draft-head study, made of measurements that are known: its verdict and its paired differences."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STUDIES = Path(__file__).resolve().parents[1] / "scripts" / "studies"
TREES = ("chain 4", "rsd_c 2,2,1", "rsd_s 3x3", "dynamic 10x3x3")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(STUDIES))
    import chimera_page

    return chimera_page


def write(out: Path, name: str, kind: str, one: float, spread: float) -> None:
    """A draft accepted with ``one`` on average: eight documents of four positions, which differ by ``spread``."""
    doc = np.repeat(np.arange(8), 4)
    accepted = one + spread * (doc - 3.5)
    many = np.stack([accepted, accepted + 0.1, accepted + 0.2], 1)
    folder = out / "measured" / kind
    folder.mkdir(parents=True, exist_ok=True)
    after = np.tile([False, True], 16) if kind == "documents" else np.ones(32, bool)
    arrays: dict[str, Any] = {"doc": doc, "after": after, "accepted": np.stack([accepted, accepted - 0.1], 1)}
    np.savez(folder / f"{name}.npz", **arrays, with_replacement=many, without_replacement=many)


def made(study: Any, out: Path, over: float) -> tuple[str, dict[str, Any]]:
    """Tables and results of a long run that is ``over`` above the early exit in every document."""
    for kind in ("documents", "own"):
        write(out, "early-exit:25", kind, 0.46 - over, 0.02)
        write(out, "hour", kind, 0.46, 0.02)
    for name in ("hour", "early-exit:25"):
        # The early exit has one text fewer, and a quarter of a token more.
        texts, more = (3, 0.0) if name == "hour" else (2, 0.25)
        lines = [{"doc": d, "tree": tree, "emitted": 1.5 + d / 10 + more} for d in range(texts) for tree in TREES]
        (out / "measured" / f"{name}-trees.json").write_text(json.dumps(lines))
    seconds = {"head 1": 0.1, "target 1": 1.0, "target 10": 2.0, "early-exit:25 1": 0.8}
    costs = {"seconds": {name: {"median": value} for name, value in seconds.items()}}
    (out / "measured" / "costs.json").write_text(json.dumps(costs))
    (out / "hour").mkdir(exist_ok=True)
    recipe = {"variant": "full", "loss": "ce", "seed": 0}
    fact = {"target": {}, "recipe": recipe, "steps": 7, "sha256": "0" * 64, "text_sha256": "", "windows": {}}
    (out / "hour" / "head.json").write_text(json.dumps(fact | {"versions": {}}))
    study.page(argparse.Namespace(out=out, results=out / "page"))
    return (out / "page" / "tables.md").read_text(), json.loads((out / "page" / "results.json").read_text())


def test_the_page_says_whether_the_goal_is_reached(study: Any, tmp_path: Path) -> None:
    tables, results = made(study, tmp_path, 0.04)
    # The difference is the same in every document, so its interval is a point; the rate's own is wide.
    assert "| held-out HumanEval documents | 32 | 0.460 [0.4" in tables
    assert "| +0.040 [+0.040, +0.040] | yes |" in tables
    assert "held-out HumanEval documents, solutions | 16 |" in tables
    assert results["texts"]["own"]["long_run_minus"]["early-exit:25"][0] == pytest.approx([0.04] * 3)
    assert results["texts"]["documents"]["by_depth"]["hour"][1][0] == pytest.approx(0.36)
    for figure in ("drafts.png", "tables.md"):
        assert (tmp_path / "page" / figure).exists()
    tables, _ = made(study, tmp_path, 0.02)
    assert "| +0.020 [+0.020, +0.020] | no |" in tables


def test_trees_are_paired_below_the_texts_both_have(study: Any, tmp_path: Path) -> None:
    tables, results = made(study, tmp_path, 0.04)
    assert "| Chimera, long run - early exit 25/30 | 2 | -0.25 [-0.25, -0.25] |" in tables
    assert "| Chimera, long run | 3 | 1.60 [" in tables
    # 1.6 tokens of four drafted passes and one of the target over ten tokens.
    assert f"{1.6 / (4 * 0.1 + 2.0):.2f} / " in tables
    assert len(results["measured_sha256"]) == 7
