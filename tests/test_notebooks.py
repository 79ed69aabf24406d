"""The notebooks run from top to bottom on the shipped data, and their stored outputs are those of this code."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra 'notebooks' is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra 'notebooks' is not installed")

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def numbers(notebook) -> list[list[float]]:
    """Numbers that each cell printed or returned as text."""
    found = []
    for cell in notebook.cells:
        text = "".join(
            output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.get("outputs", [])
            if output.get("name") != "stderr"
        )
        # Object addresses are no numbers.
        text = re.sub(r"0x[0-9a-f]+", "", text)
        found.append([float(x) for x in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)])
    return found


def test_all_notebooks_are_known() -> None:
    assert NAMES == [
        "00_quickstart",
        "10_the_dual_by_hand",
        "20_verifiers_against_the_bound",
        "22_the_optimal_rule_as_a_tree",
        "25_own_verifier",
        "30_several_drafts_of_a_diffusion_step",
        "40_my_own_models",
        "50_is_this_log_lossless",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_repeats_its_outputs(name: str) -> None:
    if name == "40_my_own_models":
        pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    fresh = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    with warnings.catch_warnings():
        # Loop and socket warnings of the kernel machinery are not ours.
        warnings.simplefilter("ignore")
        nbclient.NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert not [o for cell in fresh.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    for cell, (old, new) in enumerate(zip(numbers(stored), numbers(fresh), strict=True)):
        assert len(old) == len(new), f"cell {cell} prints other things than its stored output"
        # Rounding errors themselves are printed in places: they need only stay small.
        assert new == pytest.approx(old, rel=1e-4, abs=1e-6), f"cell {cell}"
