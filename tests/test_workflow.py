"""The workflow that users copy is a workflow, and its audit judges a rule as it stands there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdsd_bounds
from tests.command import call

yaml = pytest.importorskip("yaml", reason="the extra 'models' is not installed")

FILE = Path(mdsd_bounds.__file__).parent / "integrations" / "audit_workflow.yml"
ROOT = Path(__file__).parents[1]
RULES = """
import torch

def MY_RULE(p, q, drafts):
    x = drafts[:, :1]
    accept = (p.gather(1, x) / q.gather(1, x)).clamp(max=1.0) * SHARE
    left = (p - q).clamp(min=0)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, p)
    output = (1 - accept) * left / left.sum(1, keepdim=True)
    return output.scatter_add(1, x, accept)
"""


def steps() -> list[dict[str, Any]]:
    """The steps of the only job."""
    found = yaml.safe_load(FILE.read_text())
    # In YAML the word "on" is a truth value.
    assert set(found) == {"name", True, "jobs"}
    (job,) = found["jobs"].values()
    assert set(job) == {"runs-on", "steps"}
    return list(job["steps"])


def test_every_step_is_one() -> None:
    for step in steps():
        assert {"uses"} <= set(step) <= {"uses", "with"} or set(step) == {"run"}, step
    assert [step["run"].split()[0] for step in steps() if "run" in step] == ["pip", "pip", "pip", "mdsd"]


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from, without traces afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_package", "my_package.rules"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("share", "code", "said"), [("1.0", 0, ": lossless"), ("0.5", 1, ": LOSSY")])
def test_the_audit_of_the_workflow_judges_the_rule(
    share: str,
    code: int,
    said: str,
    importable: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = importable / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rules.py").write_text(RULES.replace("SHARE", share))
    name, *arguments = shlex.split(steps()[-1]["run"])
    assert name == "mdsd"
    found, out, err = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert found == code, err
    assert said in out.splitlines()[0]


def test_pages_lead_to_the_workflow() -> None:
    assert "integrations/audit_workflow.yml" in (ROOT / "docs" / "howto" / "my_verifier.md").read_text()
    assert "docs/howto/my_verifier.md#in-your-own-ci" in (ROOT / "README.md").read_text()
