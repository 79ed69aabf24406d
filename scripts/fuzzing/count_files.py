"""Files of counts (metrics pages, server logs, answers, arrays) as engines write them, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos")
_LABELS = 'engine="0",model_name="m"'


def read_counts(path: str) -> Any:
    """The rates of a file, or of snapshots joined by a comma."""
    from mdsd_bounds.counts import acceptance
    from mdsd_bounds.counts import read_counts as read
    from mdsd_bounds.counts.tables import as_json, as_text

    summary = acceptance(read(path.split(",")))
    return as_text(summary), json.dumps(as_json(summary), allow_nan=False)


def page(scale: int) -> str:
    """A page of vLLM."""
    lines = [
        "# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.",
        "process_start_time_seconds 1.5",
    ]
    for name, value in zip(_NAMES, (1000, 4000, 1900, (800, 560, 340, 200)), strict=True):
        many = value if isinstance(value, tuple) else (value,)
        for place, one in enumerate(many):
            labels = f'{_LABELS},position="{place}"' if name.endswith("per_pos") else _LABELS
            lines.append(f"vllm:spec_decode_{name}_total{{{labels}}} {float(one * scale)}")
    return "\n".join([*lines, ""])


def pages(folder: Path) -> None:
    """Two snapshots."""
    (folder / "a.txt").write_text(page(1))
    (folder / "b.txt").write_text(page(3))


def sglang_page(folder: Path) -> None:
    """A page of SGLang."""
    lines = [f"sglang:{name}_total{{{_LABELS}}} {value}" for name, value in (("spec_verify_calls", 40.0),)]
    (folder / "x.txt").write_text("\n".join([*lines, f"sglang:generation_tokens_total{{{_LABELS}}} 100.0", ""]))


def text(name: str, *lines: str) -> Callable[[Path], None]:
    """Makes a file of these lines."""

    def make(folder: Path) -> None:
        (folder / name).write_text("".join(f"{line}\n" for line in lines))

    return make


vllm_log = text(
    "x.log",
    "INFO 01-01 SpecDecoding metrics: Mean acceptance length: 2.90, Accepted throughput: 19.00 tokens/s, "
    "Drafted throughput: 40.00 tokens/s, Accepted: 190 tokens, Drafted: 400 tokens, Per-position acceptance rate: "
    "0.800, 0.560, 0.340, 0.200, Avg Draft acceptance rate: 47.5%",
    "INFO 01-01 SpecDecoding metrics: Draft acceptance rate: 50.0%, Accepted: 5 tokens, Drafted: 10 tokens",
)
old_vllm_log = text(
    "x.log",
    *(
        f"Speculative metrics: Draft acceptance rate: {a / d:.3f}, System efficiency: 0.598, Number of speculative "
        f"tokens: 3, Number of accepted tokens: {a}, Number of draft tokens: {d}, Number of emitted tokens: {e}."
        for a, d, e in ((8547, 13311, 10616), (9000, 14100, 11200))
    ),
)
llama_log = text(
    "x.log",
    "draft acceptance rate = 0.25000 (   50 accepted /   200 generated)",
    "slot print_timing: id 0 | draft acceptance = 0.66237 (  257 accepted /   388 generated), mean acceptance length "
    "=  3.65, acceptance rate per position = (0.804, 0.701, 0.629, 0.515)",
)
llama_totals = text(
    "x.log",
    "statistics draft-mtp: #calls(b,g,a) = 2 134 134, #gen drafts =    134, #acc drafts =   109, #gen tokens =    536, "
    "#acc tokens =   354, #mean acc len = 3.64, #acc rate/pos = (0.813, 0.716, 0.619, 0.493)",
)
sglang_log = text(
    "x.log", "Decode batch. #running-req: 1, #token: 512, accept len: 2.50, accept rate: 0.50, cuda graph: True"
)


def answers(folder: Path) -> None:
    """SGLang's answers, one a line."""
    rows: list[dict[str, Any]] = [
        {"completion_tokens": 100, "spec_verify_ct": 40, "spec_accepted_tokens": 60, "spec_draft_tokens": 120},
        {"spec_verify_ct": 3, "spec_accept_histogram": [1, 1, 1]},
    ]
    (folder / "x.jsonl").write_text("".join(json.dumps({"meta_info": row}) + "\n" for row in rows))


def arrays_of_json(folder: Path) -> None:
    """MLC's counts by position."""
    held = {"draft_count": [1000, 1000, 1000, 1000], "accept_count": [800, 560, 340, 200]}
    (folder / "x.json").write_text(json.dumps(held))


def steps(folder: Path) -> None:
    """Accepted tokens of every step."""
    np.save(folder / "x.npy", np.array([0, 1, 2, 3, 2, 1, 0, 4]))


def positions(folder: Path) -> None:
    """Counts by position."""
    np.savez(folder / "x.npz", accept_count=np.array([800, 560]), draft_count=np.array([1000, 1000]))


def bias(folder: Path) -> None:
    """A logit bias, as the command line reads it."""
    (folder / "x.json").write_text(json.dumps({"50256": -100, "17": 2.5, "3": -0.5}))


def read_bias(path: str) -> Any:
    """The biases of a file."""
    from mdsd_bounds.cli.sampling import read_bias as read

    return read(path)
