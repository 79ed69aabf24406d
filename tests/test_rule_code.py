"""A run's key changes with everything that a rule's results depend on: its own modules, and the values it holds."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mdsd_bounds.verifiers import Verifier, from_function
from mdsd_bounds.verifiers.own_rules import identity

#: Ways in which a file imports from beside itself.
IMPORTS = {
    "plain": ("import helper_of_a_rule", "helper_of_a_rule.SHARE"),
    "from": ("from helper_of_a_rule import SHARE", "SHARE"),
    "inside": ("", "__import__('importlib').import_module('helper_of_a_rule').SHARE"),
    "when used": ("def share():\n    import helper_of_a_rule\n    return helper_of_a_rule.SHARE", "share()"),
    "package": ("from package_of_a_rule import deep", "deep.SHARE"),
    "two steps": ("import step_of_a_rule", "step_of_a_rule.helper_of_a_rule.SHARE"),
}


def written(folder: Path, form: str, share: float) -> str:
    head, value = IMPORTS[form]
    if form == "inside":
        head = "import importlib\nheld = importlib.import_module('helper_of_a_rule')"
        value = "held.SHARE"
    (folder / "rule.py").write_text(f"{head}\n\ndef rule(p, q, drafts):\n    return {value} * p + (1 - {value}) * q\n")
    (folder / "helper_of_a_rule.py").write_text(f"SHARE = {share}\n")
    (folder / "step_of_a_rule.py").write_text("import helper_of_a_rule\n")
    (folder / "package_of_a_rule").mkdir(exist_ok=True)
    (folder / "package_of_a_rule" / "__init__.py").write_text("")
    (folder / "package_of_a_rule" / "deep.py").write_text("from .deeper import SHARE\n")
    (folder / "package_of_a_rule" / "deeper.py").write_text(f"SHARE = {share}\n")
    return f"{folder / 'rule.py'}:rule"


def key_elsewhere(spec: str) -> str:
    code = (
        "import sys\nfrom mdsd_bounds.verifiers import get_verifier\n"
        "from mdsd_bounds.verifiers.own_rules import identity"
        "\nprint(identity(get_verifier(sys.argv[1])))"
    )
    return subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("form", IMPORTS)
def test_what_a_file_imports_from_beside_itself_is_in_the_key(form: str, tmp_path: Path) -> None:
    first = key_elsewhere(written(tmp_path, form, 1.0))
    assert key_elsewhere(written(tmp_path, form, 1.0)) == first
    assert key_elsewhere(written(tmp_path, form, 0.5)) != first


def test_a_finished_table_is_not_answered_from_after_a_helper_changed(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(2, 12, 9)).astype(np.float32)
    np.savez(tmp_path / "pair.npz", target_logits=rows[0], draft_logits=rows[1])
    out = tmp_path / "x.parquet"
    rates: list[float] = []
    for share in (1.0, 0.0):
        spec = written(tmp_path, "from", share)
        options = ["--sampler", "with_replacement", "--drafts", "1", "--quiet", "--out", str(out), "--force"]
        arguments = ["compare", str(tmp_path / "pair.npz"), "--verifier", spec, *options]
        code = f"from mdsd_bounds.cli import app; app({arguments[:-1] if not rates else arguments!r})"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        rates.append(pd.read_parquet(out)["acceptance"].mean())
    assert abs(rates[0] - rates[1]) > 1e-3


def made(share: float) -> Any:
    def rule(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
        return share * p + (1 - share) * q

    return rule


class Rule:
    def __init__(self, share: Any) -> None:
        self.share = share

    def __call__(self, p: Tensor, q: Tensor, drafts: Tensor) -> Any:
        return self.share * p + (1 - self.share) * q

    def probs(self, p: Tensor, q: Tensor, drafts: Tensor) -> Any:
        return self(p, q, drafts)


def plain(p: Tensor, q: Tensor, drafts: Tensor, share: float = 1.0) -> Tensor:
    return share * p + (1 - share) * q


def of(rule: Any) -> str:
    return identity(from_function(rule, "one name"))


@pytest.mark.parametrize(
    "make",
    [
        made,
        Rule,
        lambda share: Rule(share).probs,
        lambda share: functools.partial(plain, share=share),
        lambda share: Rule(torch.tensor([share])),
        lambda share: Rule(np.array([share])),
        lambda share: Rule({"held": [share]}),
        lambda share: Rule(made(share)),
    ],
)
def test_what_a_rule_holds_is_in_the_key(make: Any) -> None:
    assert of(make(0.25)) == of(make(0.25))
    assert of(make(0.25)) != of(make(0.5))


def test_globals_of_a_session_are_in_the_key() -> None:
    keys = []
    for share in (0.25, 0.25, 0.5):
        space: dict[str, Any] = {"share": share, "__name__": "__main__"}
        exec("def rule(p, q, drafts):\n    return share * p + (1 - share) * q\n", space)
        keys.append(of(space["rule"]))
    assert keys[0] == keys[1] != keys[2]


def test_facts_of_a_verifier_are_in_its_key() -> None:
    rules = [Verifier("one", "", lossless, ("with_replacement",), made(1.0)) for lossless in (True, False)]
    assert identity(rules[0]) != identity(rules[1])


def test_what_cannot_be_told_equals_nothing() -> None:
    deep: Any = 1.0
    for _ in range(20):
        deep = [deep]
    assert of(Rule(deep)) != of(Rule(deep))


def test_a_module_that_is_loaded_again_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then what runs is what was loaded, whatever the file holds."""
    file = tmp_path / "reloaded_rule_of_a_test.py"
    file.write_text("def rule(p, q, drafts):\n    return p\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_rule_of_a_test")
    first = of(module.rule)
    file.write_text("def rule(p, q, drafts):\n    return 0.5 * p + 0.5 * q\n")
    assert of(module.rule) == first
    importlib.invalidate_caches()
    assert of(importlib.reload(module).rule) != first
