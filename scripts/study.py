"""The study of the real pair: every sampler and verifier against its bound, on all 164 HumanEval prompts.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b smollm2-135m
    python scripts/make_data.py
    python scripts/study.py [--dump out/study] [--work out/study-tables] [--results docs/results/study]
    python scripts/study_page.py

Tables of single positions go to ``--work`` and resume where they stopped; the summaries and figures that the page is
made of go to ``--results``.  About an hour on two cores once the dump is there; ``--stage NAME`` runs one stage alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from mdsd_bounds import open_dump
from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import bootstrap_interval, document_means, read_table, summarise, summarise_comparison

TEMPERATURES = (0.2, 0.6, 0.7, 1.0)
DRAFTS = (1, 2, 3, 4, 6, 8)
FAMILY = ("with_replacement", "without_replacement", "greedy", "top_k")
#: Positions after the prompt that the costly verifiers are measured on: two in 28, chosen without looking at values.
PLACES = (10, 24)
PER_DOCUMENT = 28


def against(samplers: Sequence[str], verifiers: Sequence[str], drafts: Sequence[int] = DRAFTS) -> Settings:
    """Verifiers against the bounds of some samplers.  Eight samples a position do where thousands are averaged."""
    return Settings(tuple(samplers), tuple(drafts), TEMPERATURES, tuple(verifiers), samples=8)


#: Stage -> (which rows, what is computed).
STAGES: dict[str, tuple[str, Settings]] = {
    "random_drafts": (
        "all",
        against(("with_replacement", "without_replacement"), ("rrs", "k_seq", "rrs_without_replacement")),
    ),
    # Their own verifiers attain these bounds, so the bounds are the whole answer.
    "fixed_drafts": ("all", Settings(("greedy", "top_k"), DRAFTS, TEMPERATURES)),
    "simple_rules": ("some", against(("with_replacement", "greedy"), ("nss", "naive_tree", "greedy", "spechub"))),
    "gumbel_list": ("some", against(("with_replacement",), ("gumbel_list",))),
    "importance_sampling": ("some", against(("with_replacement",), ("importance_sampling",), (2, 4, 8))),
    "optimal_with": ("some", against(("with_replacement",), ("optimal",), (2, 4, 8))),
    "optimal_without": (
        "some",
        dataclasses.replace(against(("without_replacement",), ("optimal",), (2, 4, 8)), temperatures=(1.0,)),
    ),
    "top_m_plus": ("some", Settings(("without_replacement", "top_m_plus"), (2, 4, 8), TEMPERATURES)),
    "swapped": ("some swapped", Settings(FAMILY, (2, 4, 8), TEMPERATURES)),
    "second_pair": ("second", Settings(FAMILY, (2, 4, 8), TEMPERATURES)),
}
#: Bounds of all samplers on all positions stand in the tables of these stages.
BOUNDS = ("random_drafts", "fixed_drafts")


def selected(dump: Dump, rows: Sequence[int]) -> Dump:
    """Some rows of a dump, in the given order."""

    def read(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        parts = [dump.read_rows(row, row + 1) for row in rows[start:stop]]
        columns = {name: torch.cat([part[2][name] for part in parts]) for name in parts[0][2]}
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), columns

    notes = {**dump.facts.notes, "selection": f"{len(rows)} rows"}
    return Dump(dataclasses.replace(dump.facts, rows=len(rows), notes=notes), read)


def swapped(dump: Dump) -> Dump:
    """The same rows with the roles of target and draft exchanged."""

    def read(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        target, draft, columns = dump.read_rows(start, stop)
        return draft, target, columns

    facts = dump.facts
    notes = {**facts.notes, "roles": "swapped"}
    swapped = dataclasses.replace(facts, notes=notes, target_width=facts.draft_width, draft_width=facts.target_width)
    return Dump(swapped, read)


def view(which: str, dump: Path, second: Path) -> Dump:
    """The rows of a stage."""
    if which == "second":
        return open_dump(second)
    pair = open_dump(dump)
    if which.startswith("some"):
        documents = len(pair) // PER_DOCUMENT
        pair = selected(pair, [d * PER_DOCUMENT + place for d in range(documents) for place in PLACES])
    return swapped(pair) if which.endswith("swapped") else pair


def compute(stage: str, arguments: argparse.Namespace) -> None:
    """One shard of one stage; the last to finish joins them."""
    which, settings = STAGES[stage]
    index, number = (int(part) for part in arguments.shard.split("/"))
    torch.set_num_threads(1)

    def progress(done: float, total: int) -> None:
        print(f"{stage} {arguments.shard}: {done:g} of {total} rows", file=sys.stderr, flush=True)

    run(
        view(which, arguments.dump, arguments.second),
        settings,
        out=str(arguments.work / f"{stage}.parquet"),
        shard=(index, number),
        progress=progress,
    )


def paired_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Bound of each sampler minus that of sampling without replacement at the same position, with intervals."""
    wide = table.pivot_table(index=["temperature", "drafts", "doc", "row"], columns="sampler", values="value")
    rows = []
    for (temperature, drafts), part in wide.groupby(level=["temperature", "drafts"]):
        documents = part.index.get_level_values("doc").to_numpy()
        for sampler in part.columns:
            difference = (part[sampler] - part["without_replacement"]).to_numpy()
            mean, stderr = document_means(difference, documents)
            low, high = bootstrap_interval(difference[:, None], documents)
            rows.append((temperature, drafts, sampler, mean, stderr, float(low[0]), float(high[0])))
    return pd.DataFrame(rows, columns=["temperature", "drafts", "sampler", "difference", "stderr", "ci_low", "ci_high"])


def digest(folder: Path) -> str:
    """SHA-256 of a dump's manifest, which holds the SHA-256 of every shard."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def bounds_only(table: pd.DataFrame) -> pd.DataFrame:
    """Each bound once, however many verifiers stood against it."""
    table = table.drop_duplicates(["temperature", "sampler", "drafts", "row"])
    return table.assign(verifier="")


def write(table: pd.DataFrame, name: str, results: Path) -> None:
    """Summary of a table, and paired differences between its samplers."""
    compared = bool((table["verifier"] != "").any())
    summary = (summarise_comparison if compared else summarise)(table)
    summary.to_csv(results / f"{name}.csv", index=False, float_format="%.7g")
    if not compared and "without_replacement" in set(table["sampler"]):
        paired_differences(table).to_csv(results / f"{name}_differences.csv", index=False, float_format="%.7g")


def finish(arguments: argparse.Namespace) -> None:
    """Summaries of the stages that are there."""
    arguments.results.mkdir(parents=True, exist_ok=True)
    tables = {stage: arguments.work / f"{stage}.parquet" for stage in STAGES}
    for stage, path in tables.items():
        if not path.exists():
            print(f"{stage}: not computed yet", file=sys.stderr)
            continue
        write(read_table(str(path)), stage, arguments.results)
    if all(tables[stage].exists() for stage in BOUNDS):
        parts = [bounds_only(read_table(str(tables[stage]))) for stage in BOUNDS]
        write(pd.concat(parts, ignore_index=True), "bounds", arguments.results)
    dumps = {"pair": arguments.dump, "second": arguments.second}
    facts = {name: digest(path) for name, path in dumps.items() if path.exists()}
    (arguments.results / "dumps.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dump", type=Path, default=Path("out/study"))
    parser.add_argument("--second", type=Path, default=Path("out/study-second"), help="a second pair, any dump")
    parser.add_argument("--work", type=Path, default=Path("out/study-tables"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/study"))
    parser.add_argument("--stage", choices=[*STAGES, "finish"])
    parser.add_argument("--shard", default="", help="i/N of one stage; left out, two processes share the work")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "finish":
        finish(arguments)
        return
    if arguments.shard:
        compute(arguments.stage, arguments)
        return
    for stage in [arguments.stage] if arguments.stage else list(STAGES):
        if STAGES[stage][0] == "second" and not arguments.second.exists():
            print(f"{stage}: no dump at {arguments.second}", file=sys.stderr)
            continue
        if not (arguments.work / f"{stage}.parquet").exists():
            command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--shard"]
            workers = [subprocess.Popen([*command, f"{i}/2"]) for i in range(2)]
            codes = [worker.wait() for worker in workers]
            if any(codes):
                sys.exit(f"{stage}: a worker failed; run again to go on")
    finish(arguments)


if __name__ == "__main__":
    main()
