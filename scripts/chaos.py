"""Kill runs at random moments with signal 9, run the same command again, and compare the bytes with an unharmed run.

    python scripts/chaos.py [--kills 50] [--seed 0] [--out docs/results/chaos.json] [--page docs/hardening.md]

The runs are ``mdsd bounds``, ``mdsd compare`` and ``mdsd log`` in its three stores, on random rows and on two toy
models made here.  Half of the kills come at a random time; the others at a random operation on files (flush, rename,
link, delete, new folder), just before it or just after, where half-written state would be.  A killed run may be
killed again while it resumes.  Needs the extra ``models``; some minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdsd_bounds.models import tiny_model

ROOT = Path(__file__).parent.parent
ROWS, SIZE = 64 * 12 + 1, 30
BEGIN, END = "<!-- chaos: made by scripts/chaos.py -->", "<!-- end of chaos -->"
#: Functions of ``os`` through which every change of a file's name or existence goes, and the flush before it.
OPERATIONS = ("fsync", "replace", "link", "unlink", "mkdir")


@dataclass(frozen=True)
class Job:
    """One command: ``arguments`` write to ``out``, a file or a folder, below the folder they are run for."""

    name: str
    arguments: tuple[str, ...]
    out: str


def make_inputs(folder: Path) -> list[Job]:
    """A dump, two toy models and prompts; the five commands over them."""
    generator = np.random.default_rng(0)
    target = generator.normal(size=(ROWS, SIZE)).astype(np.float32) * 2
    draft = target + generator.normal(size=(ROWS, SIZE)).astype(np.float32)
    np.savez(folder / "pair.npz", target_logits=target, draft_logits=draft, doc=np.arange(ROWS) // 50)
    for seed, name in enumerate(("target", "draft")):
        tiny_model(folder / name, seed)
    letters = random.Random(0)
    prompts = ["".join(letters.choices("abcd", k=1 + i % 5)) for i in range(14)]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    pair, common = str(folder / "pair.npz"), ("--quiet", "--format", "csv")
    shared = ["--target", str(folder / "target"), "--draft", str(folder / "draft")]
    shared += ["--prompts", str(folder / "prompts.txt"), "--new-tokens", "4", "--batch-size", "2", "--quiet"]
    compared = ("--sampler", "without_replacement", "--verifier", "nss", "--drafts", "2", "--samples", "4")
    return [
        Job("bounds", ("bounds", pair, "--drafts", "1,2", *common), "rows.parquet"),
        Job("compare", ("compare", pair, *compared, *common), "rows.parquet"),
        *(
            Job(f"log --store {store}", ("log", *shared, "--store", store, "--top-k", "3"), "dump")
            for store in ("logits", "top-k", "hidden")
        ),
    ]


def run_command(job: Job, folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Start a command in a process of its own, with everything imported already; its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        sys.stdout, sys.stderr = io.StringIO(), (folder / "stderr.txt").open("a")
        sys.argv = ["mdsd", *job.arguments, "--out", str(folder / job.out)]
        before()
        from mdsd_bounds.cli import main

        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 99
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(job: Job, folder: Path) -> int:
    """Run a command to its end; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(run_command(job, folder), 0)[1])


def counting(stop_at: int, after: bool, count_to: Path | None = None) -> Callable[[], None]:
    """In the child: kill the process at its ``stop_at``-th operation on files; or only count them."""

    def install() -> None:
        seen = 0

        def wrapped(own: Callable[..., Any]) -> Callable[..., Any]:
            def operation(*arguments: Any, **options: Any) -> Any:
                nonlocal seen
                seen += 1
                if count_to is not None:
                    count_to.write_text(str(seen))
                elif seen == stop_at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                found = own(*arguments, **options)
                if count_to is None and seen == stop_at and after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            return operation

        for name in OPERATIONS:
            setattr(os, name, wrapped(getattr(os, name)))

    return install


def contents(folder: Path, job: Job) -> dict[str, bytes]:
    """Every file that a command left, apart from what it said."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "stderr.txt")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@dataclass(frozen=True)
class Reference:
    """An unharmed run: what it left, its seconds and its operations on files."""

    left: dict[str, bytes]
    seconds: float
    operations: int


def reference(job: Job, folder: Path) -> Reference:
    """Run a command unharmed twice: once to count, once to time."""
    for name in ("counted", "timed"):
        (folder / name).mkdir(parents=True)
    counter = folder / "count"
    child = run_command(job, folder / "counted", counting(0, False, counter))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise SystemExit(f"{job.name}: {(folder / 'counted' / 'stderr.txt').read_text()}")
    begun = time.monotonic()
    if finish(job, folder / "timed") != 0:
        raise SystemExit(f"{job.name}: {(folder / 'timed' / 'stderr.txt').read_text()}")
    seconds = time.monotonic() - begun
    left = contents(folder / "timed", job)
    if left != contents(folder / "counted", job):
        raise SystemExit(f"{job.name}: two unharmed runs differ; nothing can be compared")
    return Reference(left, seconds, int(counter.read_text()))


def kill_once(job: Job, known: Reference, folder: Path, chance: random.Random, by_time: bool) -> str:
    """Start a command in ``folder`` and kill it; ``ended`` where it was faster, else how it was killed."""
    if by_time:
        child = run_command(job, folder)
        time.sleep(chance.uniform(0.02, known.seconds))
        os.kill(child, signal.SIGKILL)
        how = "at a random time"
    else:
        after = chance.random() < 0.5
        child = run_command(job, folder, counting(chance.randint(1, known.operations), after))
        how = f"{'after' if after else 'before'} an operation on files"
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return how if code == -signal.SIGKILL else "ended"


def attack(job: Job, known: Reference, folder: Path, chance: random.Random, by_time: bool) -> dict[str, Any]:
    """Kill a fresh run (one in four once more while it resumes), resume it, and compare."""
    how = "ended"
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        how = kill_once(job, known, folder, chance, by_time)
        if how != "ended":
            break
    left = sorted(contents(folder, job))
    again = chance.random() < 0.25 and kill_once(job, known, folder, chance, by_time) != "ended"
    code = finish(job, folder)
    same = contents(folder, job) == known.left
    said = (folder / "stderr.txt").read_text()[-600:]
    return {
        "command": job.name,
        "killed": how,
        "twice": again,
        "files left": len(left),
        "resumed": code == 0 and same,
        **({} if code == 0 and same else {"exit code": code, "left": left, "stderr": said}),
    }


def chaos(kills: int, seed: int, folder: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """``kills`` kills in turn over the five commands."""
    # Imported once: children are forked with everything in place, and kills fall into the work itself.
    import transformers

    from mdsd_bounds.cli.commands import app
    from mdsd_bounds.models import capture
    from mdsd_bounds.models.loading import silence
    from mdsd_bounds.pipeline import run

    del app, capture, run, transformers
    silence()
    torch.set_num_threads(1)
    chance, found = random.Random(seed), []
    jobs = make_inputs(folder)
    references = [reference(job, folder / f"reference-{i}") for i, job in enumerate(jobs)]
    begun = time.monotonic()
    for number in range(kills):
        which = number % len(jobs)
        by_time = (number // len(jobs)) % 2 == 0
        found.append(attack(jobs[which], references[which], folder / "attacked", chance, by_time))
        good = sum(row["resumed"] for row in found)
        left = (time.monotonic() - begun) / (number + 1) * (kills - number - 1)
        report(f"{number + 1} of {kills} kills, {good} resumed to the same bytes, {left:.0f} s left")
    return found


def page(found: list[dict[str, Any]], seed: int) -> str:
    """The section of docs/hardening.md."""
    lines = [
        BEGIN,
        "## Killed runs",
        "",
        f"`make chaos` killed {len(found)} runs with signal 9 (seed {seed}), ran the same command again, and compared "
        f"every byte with a run that nobody disturbed: {sum(row['resumed'] for row in found)} of {len(found)} are the "
        f"same.  {sum(row['twice'] for row in found)} of them were killed once more while they resumed.",
        "",
        "| command | kills | at a random time | before a file operation | after one | same bytes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["command"] for row in found):
        rows = [row for row in found if row["command"] == name]
        how = Counter(row["killed"] for row in rows)
        cells = [how["at a random time"], how["before an operation on files"], how["after an operation on files"]]
        good = sum(row["resumed"] for row in rows)
        lines.append(f"| `mdsd {name}` | {len(rows)} | {' | '.join(map(str, cells))} | {good} |")
    return "\n".join([*lines, END]) + "\n"


def put_section(file: Path, section: str) -> None:
    """Replace this script's section of a page, or add it at its end."""
    text = file.read_text() if file.exists() else "# What was done to break it\n\n"
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if found else ""
    file.write_text(before.rstrip("\n") + "\n\n" + section + (f"\n{after}" if after else ""))


def main() -> None:
    """Run and write the counts; exit code 1 if any run came out differently."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "chaos.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "hardening.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(
            arguments.kills, arguments.seed, Path(folder), lambda line: print(line, file=sys.stderr, flush=True)
        )
    good = sum(row["resumed"] for row in found)
    result = {"kills": len(found), "resumed": good, "seed": arguments.seed, "runs": found}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    put_section(arguments.page, page(found, arguments.seed))
    print(f"{good} of {len(found)} resumed to the same bytes")
    sys.exit(0 if good == len(found) else 1)


if __name__ == "__main__":
    main()
